"""`mlxtune doctor`: what this machine can run, and what slows it."""

from __future__ import annotations

import sys

import click

from mlxtune.commands.options import backend_option, json_option, print_json


@click.command()
@backend_option
@json_option
def doctor(backend: str, as_json: bool) -> None:
    """Say what this machine can run, and what slows it; exit 1 if something is missing that training needs.

    Example: mlxtune doctor
    """
    from mlxtune.backends import choose
    from mlxtune.doctor import examine
    from mlxtune.errors import BackendError

    try:
        diagnosis = examine(choose(backend).backend)
    except BackendError as error:
        diagnosis = examine(None, str(error))
    if as_json:
        print_json(diagnosis.as_json())
    else:
        click.echo(diagnosis.as_text())
    if not diagnosis.can_train:
        sys.exit(1)
