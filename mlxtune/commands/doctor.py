"""`mlxtune doctor`: what this machine can run, and what slows it."""

from __future__ import annotations

import sys

import click

from mlxtune.commands.options import compute_options, json_option, print_json


@click.command()
@compute_options
@json_option
def doctor(backend: str, device: str, as_json: bool) -> None:
    """Report what this machine can run and what slows it down; exit 1 if something that training needs is missing.

    Example: mlxtune doctor
    """
    from mlxtune.backends import choose, cuda_gpus
    from mlxtune.doctor import examine

    diagnosis = examine(lambda: choose(backend, device), cuda_gpus, on_cpu=device == "cpu")
    if as_json:
        print_json(diagnosis.as_json())
    else:
        click.echo(diagnosis.as_text())
    if not diagnosis.can_train:
        sys.exit(1)
