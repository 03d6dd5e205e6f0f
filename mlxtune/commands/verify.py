"""`mlxtune verify`: the recipe's scores on every artifact of a run."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from mlxtune.commands.options import (
    RowsProgress,
    compute_options,
    connected,
    is_speaker,
    json_option,
    print_json,
    say,
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--artifacts",
    default="fused,q8,q4,gguf",
    show_default=True,
    metavar="NAMES",
    help="Artifacts, with commas: fused, q8, q4, hf, peft, gguf, gguf-TYPE as gguf-q8_0, gguf-lora.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="How far a headline metric may fall below the adapter's.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many test rows.")
@compute_options
@json_option
def verify(
    run: Path, artifacts: str, tolerance: float, limit: int | None, backend: str, device: str, as_json: bool
) -> None:
    """Evaluate RUN's fused, quantized and converted models, and compare each with its adapter.

    Artifacts in RUN/fused and RUN/exports are taken; others are made for this and removed. Exit code 1 if a headline metric
    of one falls by more than the tolerance.

    Example: mlxtune verify runs/demo-intent/demo --artifacts fused,q4,gguf-q8_0
    """
    from mlxtune.backends import choose
    from mlxtune.backends.group import ALONE
    from mlxtune.evaluation.subject import require_same_base
    from mlxtune.export.artifacts import parse_kinds
    from mlxtune.export.verify import verification_file, verify_run
    from mlxtune.report.terminal.tables import WIDTH, to_text
    from mlxtune.report.terminal.verify_table import verify_tables
    from mlxtune.runs.copies import run_copies
    from mlxtune.runs.folder import open_run

    kinds = parse_kinds(artifacts)
    joined = connected(backend, device)
    group = ALONE if joined is None else joined.backend.group()
    with run_copies(group) as copies:
        opened = copies.existing(lambda: open_run(run))
        choice = joined or choose(backend, device)
        say(f"backend: {choice.reason}")
        require_same_base(opened.recipe(), choice.backend)
        with RowsProgress() as progress:
            verification = verify_run(
                opened, kinds, choice.backend, tolerance=tolerance, limit=limit, progress=progress
            )
    if not is_speaker():
        sys.exit(1 if verification.failures else 0)
    file = verification_file(opened, limit)
    if as_json:
        print_json({**verification.to_json(), "file": str(file)})
    else:
        terminal = sys.stdout.isatty()
        width = min(WIDTH, shutil.get_terminal_size().columns) if terminal else WIDTH
        click.echo(to_text(verify_tables(verification), width, color=terminal))
        click.echo(f"\n{file}")
    if verification.failures:
        sys.exit(1)
