"""The conditions of `evaluate.expect` as a table for the terminal, and each that is not met as a sentence. Checks none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlxtune.report.terminal.cells import cell_text, new_table, titled
from mlxtune.report.values import amount_text, estimate_text, signed_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlxtune.evaluation.expectations import Expectation, Missing

MISSING: dict[Missing, str] = {
    "label": "no test row expects this label",
    "interval": "too few rows for an interval",
    "probabilities": "there are no probabilities; evaluate with --probabilities",
    "bertscore": "it was not computed; evaluate with --bertscore MODEL",
    "placeholders": "no reference has a placeholder",
    "speed": "the replies come from a file, so speed was not measured",
    "memory": "the backend does not tell",
    "before": "no evaluation of the model before tuning to compare with; make it with --base, then evaluate again with --force",
    "baseline": "no model was asked for this baseline",
    "comparison": "this baseline has no answers to compare with",
    "metric": "this evaluation does not have it",
}


def condition_table(expectations: Sequence[Expectation]) -> RenderableType:
    """Each condition, what was measured, and by how much it is met or not."""
    table = new_table("metric")
    table.padding = (0, 1, 0, 0)  # closer than elsewhere: names and intervals are long
    table.add_column("expected", no_wrap=True)
    table.add_column("got", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("by", overflow="fold")
    for one in expectations:
        verdict = "met" if one.met else "NOT MET"
        table.add_row(cell_text(one.name), one.condition, estimate_text(one.value), verdict, _by(one))
    n_met = sum(one.met for one in expectations)
    return titled(f"Conditions of evaluate.expect: {n_met} of {len(expectations)} met", table)


def condition_sentence(one: Expectation) -> str:
    """A condition that is not met: 'expected >= 0.9, got 0.809 [0.706, 0.897], 0.091 too low'."""
    got = "no value" if one.value is None else estimate_text(one.value)
    between = ": " if one.missing else ", a difference of " if one.difference else ", "
    return f"expected {one.condition}, got {got}{between}{_by(one)}"


def _by(one: Expectation) -> str:
    """By how much it is met or not; why it could not be checked."""
    if one.missing is not None:
        return MISSING[one.missing]
    if one.difference is not None:
        return signed_text(one.difference)
    size = amount_text(abs(one.margin or 0.0))
    return size if one.too is None else f"{size} too {one.too}"
