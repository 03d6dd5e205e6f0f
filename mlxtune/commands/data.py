"""`mlxtune data`: what a recipe's data is, before anything is trained."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import (
    force_option,
    json_option,
    on_terminal,
    print_json,
    recipe_argument,
    say,
    set_option,
)

if TYPE_CHECKING:
    from mlxtune.data.preview import Preview
    from mlxtune.data.report import DataReport
    from mlxtune.models.tokenizer import Tokenizer

MIN_WIDTH = 60


@click.command()
@recipe_argument
@set_option
@click.option("--preview", type=click.IntRange(min=1), metavar="N", help="Show N training examples token by token.")
@click.option(
    "--write", type=click.Path(path_type=Path), metavar="DIR", help="Write the rows of each split into DIR, as .jsonl."
)
@force_option
@json_option
def data(
    recipe: Path, overrides: tuple[str, ...], preview: int | None, write: Path | None, force: bool, as_json: bool
) -> None:
    """Check, clean and balance the data of RECIPE, and show which tokens are trained.

    Example: mlxtune data recipes/demo-intent.yaml --preview 2
    """
    from mlxtune.data.examples import within_positions
    from mlxtune.data.report import read_splits, report_data
    from mlxtune.data.saving import refuse_existing, write_splits
    from mlxtune.errors import DataError
    from mlxtune.models.base_model import config_and_tokenizer
    from mlxtune.models.tokenizer import load_tokenizer
    from mlxtune.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    read = read_splits(loaded)
    if write is not None:
        refuse_existing(write, loaded, force)
    config, tokenizer_folder = config_and_tokenizer(loaded.model, progress=on_terminal())
    loaded, tokenizer = within_positions(loaded, config), load_tokenizer(tokenizer_folder)
    if on_terminal():
        say(f"looking at {sum(map(len, read.values())):,} rows ...")
    report = report_data(loaded, read, tokenizer)
    examples = [] if preview is None else _examples(report, tokenizer, preview)
    written = {} if write is None or report.refusals else write_splits(report, write)
    if as_json:
        extra: dict[str, Any] = {"preview": [example.as_json() for example in examples]} if preview else {}
        if written:
            extra["written"] = {name: str(file) for name, file in written.items()}
        print_json({**report.as_json(), **extra})
    else:
        click.echo(_text(report, examples))
    for file in written.values():
        say(f"written: {file}")
    if report.refusals:
        not_written = "\n  nothing was written" if write is not None else ""
        raise DataError(f"{recipe}: this data cannot be used as it is\n  " + "\n  ".join(report.refusals) + not_written)


def _examples(report: DataReport, tokenizer: Tokenizer, n: int) -> list[Preview]:
    """Of the training examples `n`, or all, evenly spread: data is often sorted by label."""
    from mlxtune.data.preview import preview
    from mlxtune.data.template import ReplyTemplate

    segments = ReplyTemplate(report.recipe.output).segments
    n = min(n, len(report.train_examples))
    chosen = [report.train_examples[place * len(report.train_examples) // n] for place in range(n)]
    return [preview(example, report.train_rows[example.row], segments, tokenizer) for example in chosen]


def _text(report: DataReport, examples: list[Preview]) -> str:
    from mlxtune.report.terminal.data_tables import data_tables, place
    from mlxtune.report.terminal.tables import WIDTH, to_text

    terminal = sys.stdout.isatty()
    width = max(MIN_WIDTH, shutil.get_terminal_size().columns) if terminal else WIDTH
    shown = [to_text(data_tables(report), width, color=terminal)]
    shown += [example.as_text(terminal, place(example.file, example.line)) for example in examples]
    return "\n\n".join(shown)
