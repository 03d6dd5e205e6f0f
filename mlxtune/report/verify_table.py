"""What `mlxtune verify` found, as a table for the terminal. Computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtune.export.verification import HeadlineMetric, Verification, Verified
from mlxtune.report.cells import cell_text, estimate_text, new_table
from mlxtune.report.run_table import size_text

if TYPE_CHECKING:
    from rich.console import RenderableType


def verify_tables(verification: Verification) -> list[RenderableType]:
    """A line an artifact, base plus adapter first, then what failed and what a reader should know."""
    adapters = list(verification.adapter.values())
    all_rows = [*adapters, *verification.artifacts]
    titles = list(dict.fromkeys(one.title for row in all_rows for one in row.metrics))
    table = new_table("artifact", "loaded by")
    for name in ("same replies", *titles, "logits differ by", "size", "s/row"):
        table.add_column(name, justify="right")
    for one in all_rows:
        metrics = {metric.title: metric for metric in one.metrics}
        is_adapter = one in adapters
        name = one.name if len(adapters) < 2 or not is_adapter else f"{one.name}, {one.decoding}"
        table.add_row(
            cell_text(name),
            one.loaded_by,
            "" if is_adapter else f"{one.agreement.value:.1%}",
            *(_metric_text(metrics.get(title)) for title in titles),
            _logits_text(one, is_adapter),
            size_text(one.n_bytes),
            "" if one.seconds_per_row is None else f"{one.seconds_per_row:.3f}",
        )
    lines = [*verification.failures, *verification.notes]
    return [table, *(cell_text(line) for line in lines)]


def _metric_text(metric: HeadlineMetric | None) -> str:
    """The metric with its interval, and the paired difference under it."""
    if metric is None:
        return ""
    text = estimate_text(metric.estimate)
    if metric.difference is None:
        return text
    difference = metric.difference
    ends = "" if difference.low is None else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    return f"{text}\n{difference.difference:+.3f}{ends}"


def _logits_text(one: Verified, is_adapter: bool) -> str:
    return "" if is_adapter or one.logit_difference is None else f"{one.logit_difference:.2g}"
