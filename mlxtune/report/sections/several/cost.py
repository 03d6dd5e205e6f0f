"""Metrics of several runs against what each costs: time, memory, size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mlxtune.report.blocks import Block, Choice, Folded, Paragraph, Section
from mlxtune.report.charts import Axis, Point, ScatterChart
from mlxtune.report.fact_values import fact_value
from mlxtune.report.sections.pieces import listed
from mlxtune.report.sections.results import line_title
from mlxtune.report.sections.several.runs import LineOfRuns, SeveralRuns
from mlxtune.report.values import estimate_text
from mlxtune.report.words import Words

COSTS = ("training seconds", "evaluation seconds a row", "training peak memory, GB", "adapter bytes")
SCALE = {"adapter bytes": 1e-6}  # to the unit of its axis
SAME = 0.02  # costs that differ by a smaller share are the same


def cost_section(runs: SeveralRuns, say: Words) -> Section | None:
    """A chart for each metric that matters and each cost that differs, the first cost's open; None where there is none."""
    charts: dict[str, list[Block]] = {}
    for one in runs.headlines:
        if found := list(_charts(one, runs, say)):
            others = [Folded(say("several.cost.others"), found[1:])] if found[1:] else []
            charts[line_title(one.line, say)] = [found[0], *others]
    if not charts:
        return None
    blocks: list[Block] = [Paragraph(say("several.cost.text"))]
    if len(charts) > 1:
        blocks.append(Choice(say("several.cost.metric"), charts))
    else:
        blocks += next(iter(charts.values()))
    return Section("cost", say("several.cost"), blocks)


def _charts(one: LineOfRuns, runs: SeveralRuns, say: Words) -> Iterator[ScatterChart]:
    """A metric against each cost."""
    for name in COSTS:
        values = next((fact.values for fact in runs.cost if fact.name == name), ())
        costs = {
            place: float(values[run])
            for place, run in enumerate(runs.evaluated)
            if values and _is_known(values[run]) and one.values[place] is not None
        }
        if len(costs) > 1 and max(costs.values()) - min(costs.values()) > SAME * max(costs.values()):
            yield _chart(name, one, costs, runs, say)


def _chart(name: str, one: LineOfRuns, costs: Mapping[int, float], runs: SeveralRuns, say: Words) -> ScatterChart:
    """A metric of the runs whose cost is known; `costs` by place among those that were evaluated."""
    what, cost = line_title(one.line, say), say(f"cost.{name}")
    unit = say(f"cost.{name}.unit")
    points, said = [], []
    for place, of_run in costs.items():
        value, run = one.values[place], runs.evaluated_names[place]
        assert value is not None
        points.append(Point(run, of_run * SCALE.get(name, 1.0), value.value, value.low, value.high))
        at = fact_value(name, of_run)
        said.append(
            say("several.cost.point", run=run, value=estimate_text(value), cost=at if name in SCALE else f"{at} {unit}")
        )
    return ScatterChart(
        f"cost-{name.split(',')[0].replace(' ', '-')}-{one.line.field}-{one.line.metric}".replace(" ", "-"),
        say("several.cost.chart", what=what, cost=cost),
        listed(said, say),
        Axis(cost, unit),
        Axis(what, share=True),
        points,
    )


def _is_known(cost: float | None) -> bool:
    return cost is not None and math.isfinite(cost)
