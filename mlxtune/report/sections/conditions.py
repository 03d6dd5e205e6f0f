"""What came of the recipe's conditions (evaluate.expect): the table of them, and the sentence that a headline says."""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.evaluation.expectations import Expectation
from mlxtune.report.blocks import Cell, Column, Paragraph, Section, Table, Tone
from mlxtune.report.sections.pieces import estimate_cell, listed, numeric
from mlxtune.report.values import amount_text, signed_text
from mlxtune.report.words import Words


def condition_section(expectations: Sequence[Expectation], say: Words) -> Section | None:
    """Every condition, what was measured, and by how much it is met or not; None where the recipe has none."""
    if not expectations:
        return None
    tone: Tone = "good" if all(one.met for one in expectations) else "bad"
    table = Table(
        say("conditions.table"),
        (
            Column(say("conditions.name")),
            Column(say("conditions.condition")),
            *numeric(say("conditions.value")),
            Column(say("conditions.result")),
            Column(say("conditions.by")),
        ),
        [_cells(one, say) for one in expectations],
        say("conditions.note"),
    )
    return Section(
        "conditions", say("conditions.title"), [Paragraph(conditions_sentence(expectations, say), tone), table]
    )


def conditions_sentence(expectations: Sequence[Expectation], say: Words) -> str:
    """How many conditions are met, and by how much the others are missed; "" where the recipe has none."""
    unmet = [one for one in expectations if not one.met]
    if not unmet:
        return say("conditions.all", n=len(expectations)) if expectations else ""
    said = [say("conditions.one", name=one.name, condition=one.condition, by=_by(one, say)) for one in unmet]
    n = len(expectations)
    return say("conditions.some", n=n, met=n - len(unmet), unmet=listed(said, say))


def _cells(one: Expectation, say: Words) -> list[Cell]:
    verdict = Cell(say("conditions.met"), "good") if one.met else Cell(say("conditions.unmet"), "bad")
    return [Cell(one.name), Cell(one.condition), estimate_cell(one.value), verdict, Cell(_by(one, say))]


def _by(one: Expectation, say: Words) -> str:
    """By how much it is met or not; why it could not be checked."""
    if one.missing is not None:
        return say(f"conditions.missing.{one.missing}")
    if one.difference is not None:
        return say("conditions.difference", difference=signed_text(one.difference))
    size = amount_text(abs(one.margin or 0.0))
    return say("conditions.spare", size=size) if one.too is None else say(f"conditions.too.{one.too}", size=size)
