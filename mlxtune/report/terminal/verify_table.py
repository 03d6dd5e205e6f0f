"""What `mlxtune verify` found, as tables for the terminal. Computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtune.export.verification import Verification, Verified
from mlxtune.report.terminal.cells import cell_text, new_table, titled
from mlxtune.report.values import difference_text, estimate_text, size_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def verify_tables(verification: Verification) -> list[RenderableType]:
    """A table of the artifacts, base plus adapter first, and one for each headline metric; then a paragraph on what failed, and
    one on what a reader should know. All fit into 80 columns, however many fields a recipe has."""
    adapters = list(verification.adapter.values())
    rows = {_name(one, adapters): one for one in [*adapters, *verification.artifacts]}
    titles = list(dict.fromkeys(metric.title for one in rows.values() for metric in one.metrics))
    tables: list[RenderableType] = [_artifacts(rows, adapters)]
    tables += [titled(title, _metric(title, rows)) for title in titles]
    lines = ["\n".join(some) for some in (verification.failures, verification.notes) if some]
    return [*tables, *map(_paragraph, lines)]


def _name(one: Verified, adapters: list[Verified]) -> str:
    """What a row is called; base plus adapter with its decoding, where it was asked in two."""
    return f"{one.name}, {one.decoding}" if len(adapters) > 1 and one in adapters else one.name


def _artifacts(rows: dict[str, Verified], adapters: list[Verified]) -> Table:
    """How each was loaded, how far it is from base plus adapter, its size and speed."""
    table = new_table("artifact", "loaded by")
    for title in ("same replies", "logits differ by", "size", "s/row"):
        table.add_column(title, justify="right")
    for name, one in rows.items():
        is_adapter = one in adapters
        distance = None if is_adapter else one.logit_difference
        table.add_row(
            cell_text(name),
            one.loaded_by,
            "" if is_adapter else f"{one.agreement.value:.1%}",
            "" if distance is None else f"{distance:.2g}",
            size_text(one.n_bytes),
            "" if one.seconds_per_row is None else f"{one.seconds_per_row:.3f}",
        )
    return table


def _metric(title: str, rows: dict[str, Verified]) -> Table:
    """A metric of each with its interval, and the paired difference to base plus adapter."""
    table = new_table("artifact")
    for column in ("value", "difference to adapter"):
        table.add_column(column, justify="right")
    for name, one in rows.items():
        metric = next((metric for metric in one.metrics if metric.title == title), None)
        if metric is not None:
            table.add_row(cell_text(name), estimate_text(metric.estimate), difference_text(metric.difference))
    return table


def _paragraph(text: str) -> RenderableType:
    from rich.console import Group

    return Group(*map(cell_text, text.split("\n")))
