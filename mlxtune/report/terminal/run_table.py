"""The runs under a folder as a table for the terminal. Reads what the inventory found, looks at no file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from mlxtune.report.terminal.cells import cell_text, new_table
from mlxtune.report.values import size_text
from mlxtune.runs.listing import Listed

if TYPE_CHECKING:
    from rich.console import RenderableType


def run_tables(runs: Sequence[Listed], now: datetime) -> list[RenderableType]:
    """A line a run, then what is wrong with those that are damaged or failed."""
    from rich.text import Text

    table = new_table("run", "recipe", "backend", "status")
    for name in ("step", "best validation", "age", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        best = "" if run.best is None else f"{run.best['metric']} {run.best['value']:.4f}"
        table.add_row(
            *(cell_text(text or "") for text in (str(run.path), run.recipe, run.backend, run.status)),
            _progress(run),
            cell_text(best),
            age_text((now - run.created).total_seconds()),
            size_text(run.n_bytes),
        )
    wrong = [cell_text(run.problem if str(run.path) in run.problem else f"{run.path}: {run.problem}")
             for run in runs if run.problem]  # fmt: skip
    total = sum(run.n_bytes for run in runs)
    cleanable = sum(run.checkpoint_bytes for run in runs if run.status == "finished")
    counted = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return [table, *wrong, Text(f"{counted}, {size_text(total)}; checkpoints of finished ones: {size_text(cleanable)}")]


def age_text(seconds: float) -> str:
    """A time span in its largest unit, rounded down.

    >>> age_text(59), age_text(3600 * 5), age_text(86400 * 3.9)
    ('59 s', '5 h', '3 d')
    """
    for unit, factor in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= factor:
            return f"{seconds // factor:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _progress(run: Listed) -> str:
    if run.step is None and run.steps is None:
        return ""
    return f"{run.step or 0} of {'?' if run.steps is None else run.steps}"
