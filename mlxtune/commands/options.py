"""Options that several commands share, and how they write to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mlxtune.backends import NAMES

Command = TypeVar("Command", bound=Callable[..., Any])

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
set_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of the recipe, as train.epochs=1."
)
backend_option = click.option(
    "--backend", type=click.Choice(NAMES), default="auto", show_default=True, help="What computes."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
force_option = click.option("--force", is_flag=True, help="Replace what lies there.")


def say(text: str) -> None:
    """A sentence about what is going on, on stderr."""
    click.echo(text, err=True)


def print_json(content: Any, indent: int | None = 2) -> None:
    """A result on stdout."""
    click.echo(json.dumps(content, indent=indent, ensure_ascii=False))


def on_terminal() -> bool:
    """Whether stderr is a terminal, where a progress bar makes sense."""
    return sys.stderr.isatty()
