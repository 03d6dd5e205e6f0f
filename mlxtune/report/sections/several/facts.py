"""What is known of several runs besides their metrics: settings that differ, how they trained, what each cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxtune.evaluation.compare.facts import Fact
from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Section, Table
from mlxtune.report.fact_values import fact_value, worth_showing
from mlxtune.report.sections.pieces import numeric
from mlxtune.report.sections.several.runs import SeveralRuns
from mlxtune.report.words import PHRASES, Words

MAX_COLUMNS = 6  # runs beside one another; of more, each run is a row
NOTHING = "–"


def facts_section(runs: SeveralRuns, say: Words) -> Section:
    """Settings that differ, training and cost."""
    blocks: list[Block] = []
    if runs.settings:
        blocks.append(_table("settings", runs.settings, runs.names, say))
    else:
        blocks.append(Paragraph(say("several.facts.same")))
    for name, facts in (("training", worth_showing(runs.training)), ("cost", runs.cost)):
        if facts:
            blocks.append(_table(name, facts, runs.names, say))
    return Section("facts", say("several.facts"), blocks)


def fact_title(name: str, say: Words) -> str:
    """What a report calls a fact; a setting is called as in the recipe."""
    key = f"fact.{name}"
    return say(key) if key in PHRASES else name


def fact_text(name: str, value: Any, say: Words) -> str:
    """A fact's value as a reader reads it."""
    if value is None:
        return NOTHING
    key = f"diagnosis.{value}"
    return say(key) if name == "diagnosis" and key in PHRASES else fact_value(name, value)


def _table(name: str, facts: Sequence[Fact], names: Sequence[str], say: Words) -> Table:
    """A fact a row and a run a column, or the other way round where there are many runs."""
    titles = [fact_title(fact.name, say) for fact in facts]
    values = [[fact_text(fact.name, value, say) for value in fact.values] for fact in facts]
    title = say(f"several.facts.{name}")
    if len(names) <= MAX_COLUMNS:
        heading = say("several.facts.setting" if name == "settings" else "several.facts.fact")
        rows = [[Cell(one), *map(Cell, of_runs)] for one, of_runs in zip(titles, values, strict=True)]
        return Table(title, (Column(heading), *numeric(*names)), rows)
    rows = [[Cell(run), *(Cell(of_runs[place]) for of_runs in values)] for place, run in enumerate(names)]
    return Table(title, (Column(say("several.run")), *numeric(*titles)), rows)
