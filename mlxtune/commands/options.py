"""Options that several commands share, and how they write to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlxtune.backends import DEVICES, NAMES, check_device, choose
from mlxtune.backends.launch import launched
from mlxtune.errors import Misuse

if TYPE_CHECKING:
    from mlxtune.backends.base import ChosenBackend

Command = TypeVar("Command", bound=Callable[..., Any])

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
recipe_or_run_argument = click.argument("subject", metavar="RECIPE|RUN", type=click.Path(path_type=Path))
set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the recipe, for example train.epochs=1.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
force_option = click.option("--force", is_flag=True, help="Replace existing output.")


def compute_options(command: Command) -> Command:
    """What computes, and where: --backend and --device."""
    device = click.option(
        "--device",
        callback=_device,
        envvar="MLXTUNE_DEVICE",
        show_envvar=True,
        metavar="DEVICE",
        default="auto",
        show_default=True,
        help=f"Device to compute on: {DEVICES}; gpu is the GPU that the backend uses.",
    )
    backend = click.option(
        "--backend",
        type=click.Choice(NAMES),
        envvar="MLXTUNE_BACKEND",
        show_envvar=True,
        default="auto",
        show_default=True,
        help="Backend to compute with; auto is MLX if it has a GPU, else torch if installed, else MLX.",
    )
    return backend(device(command))


def typed(context: click.Context, name: str) -> bool:
    """Whether an option stands on the command line, not in the environment."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _device(context: click.Context, parameter: click.Parameter, word: str) -> str:
    try:
        return check_device(word)
    except Misuse as error:
        raise click.BadParameter(str(error)) from error


def connected(backend: str, device: str) -> ChosenBackend | None:
    """The backend that connects this process to the others of its launcher; None where it was started alone."""
    return None if launched() is None else choose(backend, device)


def n_processes() -> int:
    """How many processes the launcher started; 1 without one."""
    launch = launched()
    return 1 if launch is None else launch.size


def say(text: str) -> None:
    """A sentence about what is going on, on stderr; of several processes rank 0 speaks."""
    if is_speaker():
        click.echo(text, err=True)


def is_speaker() -> bool:
    """Whether this process writes to the terminal: it is alone, or rank 0."""
    launch = launched()
    return launch is None or launch.rank == 0


def print_json(content: Any, indent: int | None = 2) -> None:
    """A result on stdout."""
    click.echo(json.dumps(content, indent=indent, ensure_ascii=False))


def on_terminal() -> bool:
    """Whether stderr is a terminal, where a progress bar makes sense."""
    return sys.stderr.isatty()


class RowsProgress:
    """Shows how far a part is: a bar on a terminal, else a line where it begins; a `Progress`.

    Args:
        unit: Of the bar.
        line: What is written where there is no terminal, of the number of items and the part's name.
    """

    def __init__(
        self, unit: str = "row", line: Callable[[int, str], str] = lambda n, what: f"asking {n} rows, {what}"
    ) -> None:
        self._unit, self._line = unit, line
        self._bars: list[Any] = []

    def begin(self, what: str, n_items: int) -> None:
        """A part begins."""
        if on_terminal():
            from tqdm import tqdm

            self._bars.append(tqdm(total=n_items, unit=self._unit, desc=what, file=sys.stderr, dynamic_ncols=True))
        else:
            name = f"{what} decoding" if what in ("free", "constrained", "best") else what
            say(self._line(n_items, name))

    def advance(self, n_items: int) -> None:
        """So many items of it were just done."""
        if self._bars:
            self._bars[-1].update(n_items)

    def __enter__(self) -> RowsProgress:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars:
            bar.close()
