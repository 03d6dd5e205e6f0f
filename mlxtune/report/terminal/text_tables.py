"""Scores and cases of a text field as tables for the terminal. Reads errors.json's shape, computes no metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlxtune.report.terminal.cells import cell_text, new_table, shown_metrics, titled
from mlxtune.report.values import clipped, estimate_text, value_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mlxtune.evaluation.metrics.texts import Bucket, TextPart, TextScores

MAX_CASE_CHARS = 300  # of a text: three lines of a terminal


def text_tables(name: str, scores: TextScores) -> list[RenderableType]:
    """Rows by ROUGE-L, and the metrics where the labels are right beside those where they are not."""
    tables = [bucket_table(name, scores.buckets)] if scores.buckets else []
    if scores.when_right is not None and scores.when_wrong is not None:
        tables.append(condition_table(name, scores.when_right, scores.when_wrong))
    return tables


def bucket_table(name: str, buckets: Mapping[str, Bucket]) -> RenderableType:
    """How many rows are in each bucket of ROUGE-L."""
    table = new_table("ROUGE-L")
    for column in ("rows", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for bucket, inside in buckets.items():
        table.add_row(cell_text(bucket), str(inside.rows), estimate_text(inside.share))
    return titled(f"{name}: rows by ROUGE-L", table)


def condition_table(name: str, when_right: TextPart, when_wrong: TextPart) -> RenderableType:
    """The metrics of a text where the row's labels are right, and where they are not."""
    parts = {"labels right": when_right, "labels wrong": when_wrong}
    table = new_table("metric")
    for title, part in parts.items():
        table.add_column(f"{title}: {part.rows} rows", justify="right", no_wrap=True)
    for metric, title in shown_metrics():
        estimates = [part.metrics.get(metric) for part in parts.values()]
        if any(estimates):
            table.add_row(title, *map(estimate_text, estimates))
    return titled(f"{name}: with every label of a closed list right, and without", table)


def case_tables(errors: Mapping[str, Any], n_cases: int) -> list[RenderableType]:
    """The best, middle and worst texts of each field, up to `n_cases` of each."""
    tables: list[RenderableType] = []
    if not n_cases:
        return tables
    for name, kinds in errors.get("cases", {}).items():
        for kind, cases in kinds.items():
            shown = cases[:n_cases]
            if shown:
                count = "the" if len(shown) == 1 else f"the {len(shown)}"
                noun = "text" if len(shown) == 1 else "texts"
                tables.append(titled(f"{name}: {count} {kind} {noun} by ROUGE-L", _cases(shown)))
    return tables


def _cases(cases: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for case in cases:
        table.add_row(f"row {case['row']}", cell_text(f"ROUGE-L {case['rougeL']:.2f}{_labels(case)}"), style="bold")
        said = f"(unreadable) {case['reply']}" if case["prediction"] is None else case["prediction"]
        for title, text in (("input", case["input"]), ("reference", case["reference"]), ("prediction", said)):
            table.add_row(title, cell_text(clipped(" ".join(text.split()), MAX_CASE_CHARS)))
        if case is not cases[-1]:
            table.add_row("")
    return table


def _labels(case: Mapping[str, Any]) -> str:
    """Which fields were right, and what was said in the others."""
    right = [field for field, is_right in case["right"].items() if is_right]
    found = [f"; {', '.join(right)} right"] if right else []
    for field in (field for field in case["right"] if field not in right):
        said = case["predicted"][field]
        found.append(
            f"; {field}: {'nothing' if said is None else value_text(said)}, not {value_text(case['expected'][field])}"
        )
    return "".join(found)
