"""Curves of several runs, one over the other: validation loss, training loss, and the learning rate where it differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from mlxtune.report.blocks import Block, Paragraph, Section
from mlxtune.report.charts import Axis, LineChart, Series
from mlxtune.report.contents.events import StepEvent
from mlxtune.report.contents.run import RunContents
from mlxtune.report.sections.over_steps import FEW_POINTS, finite_mean, mean_of_each
from mlxtune.report.sections.pieces import listed, some_listed
from mlxtune.report.sections.several.runs import MAX_DRAWN, SeveralRuns
from mlxtune.report.words import Words

MAX_POINTS = 60  # of a line of training losses: single steps are too noisy to tell runs apart
ALIKE = 0.01  # rows a step that differ by a smaller share are the same

By = Literal["step", "epoch", "tokens"]


def curves_section(runs: SeveralRuns, say: Words) -> Section | None:
    """Losses of the runs over a common axis; None where no run has recorded any."""
    trained = [place for place, one in enumerate(runs.contents) if _is_recorded(one)]
    if not trained:
        return None
    blocks: list[Block] = []
    missing = [
        name
        for place, (name, one) in enumerate(zip(runs.names, runs.contents, strict=True))
        if place not in trained and not one.stored.before_tuning
    ]
    if missing:
        blocks.append(Paragraph(say("several.curves.none", runs=some_listed(missing, say))))
    shown = _shown(runs, trained)
    if len(shown) < len(trained):
        key = "some" if all(runs.contents[place].validations for place in shown) else "first"
        blocks.append(Paragraph(say(f"several.curves.{key}", shown=len(shown), n=len(trained))))
    drawn = {runs.names[place]: runs.contents[place] for place in shown}
    by = _axis(list(drawn.values()))
    if by != "step":
        blocks.append(Paragraph(say(f"several.curves.by.{by}")))
    charts = (_valid(drawn, by, say), _train(drawn, by, say), _rate(drawn, by, say))
    blocks += [chart for chart in charts if chart is not None]
    return Section("curves", say("several.curves"), blocks)


def _is_recorded(one: RunContents) -> bool:
    """Whether there are curves of it; an evaluation of the base model has none, whatever its run has."""
    return bool(one.steps or one.validations) and not one.stored.before_tuning


def _shown(runs: SeveralRuns, trained: Sequence[int]) -> list[int]:
    """Places of the runs that are drawn, in their order: where they are too many, those with the lowest validation loss."""
    if len(trained) <= MAX_DRAWN:
        return list(trained)

    def lowest(place: int) -> float:
        return min((one.loss for one in runs.contents[place].validations), default=float("inf"))

    return sorted(sorted(trained, key=lowest)[:MAX_DRAWN])


# The x axis --------------------------------------------------------------------------------------------------------


def _axis(runs: Sequence[RunContents]) -> By:
    """What the curves are over: steps where they are as many rows in each run; epochs of the same data; else tokens."""
    last = [one.steps[-1] if one.steps else None for one in runs]
    per_step = [None if one is None or not one.epoch else one.epoch / one.step for one in last]
    known = [one for one in per_step if one is not None]
    if len(known) < len(runs):
        return "step"
    data = {one.facts.data["train"].sha256 if "train" in one.facts.data else None for one in runs}
    if len(data) == 1 and max(known) - min(known) <= ALIKE * max(known):
        return "step"
    if len(data) == 1:
        return "epoch"
    return "tokens" if all(step.tokens is not None for one in runs for step in one.steps) else "step"


def _places(one: RunContents, by: By) -> Callable[[int], float]:
    """Step -> its place on the x axis."""
    if by == "step":
        return float
    reached, found = 0.0, {0: 0.0}
    for step in one.steps:
        reached = (step.epoch or reached) if by == "epoch" else reached + (step.tokens or 0)
        found[step.step] = reached
    steps = sorted(found)
    return lambda wanted: found[max((step for step in steps if step <= wanted), default=0)]


# Charts ------------------------------------------------------------------------------------------------------------


def _valid(drawn: dict[str, RunContents], by: By, say: Words) -> LineChart | None:
    series = []
    for name, one in drawn.items():
        place = _places(one, by)
        x = [place(event.step) for event in one.validations]
        y = [finite_mean([event.loss]) for event in one.validations]
        series.append(Series(name, x, y, points=len(x) <= FEW_POINTS))
    return _chart("runs-valid-loss", say("several.curves.valid"), series, by, say)


def _train(drawn: dict[str, RunContents], by: By, say: Words) -> LineChart | None:
    series = [_over_steps(name, one, by, lambda step: step.loss) for name, one in drawn.items()]
    is_mean = any(len(one.steps) > MAX_POINTS for one in drawn.values())
    return _chart("runs-train-loss", say(f"several.curves.train{'.mean' if is_mean else ''}"), series, by, say)


def _rate(drawn: dict[str, RunContents], by: By, say: Words) -> LineChart | None:
    """Learning rates; None where all runs have the same as long as they train."""
    rates = [{step.step: step.learning_rate for step in one.steps} for one in drawn.values()]
    if all(one.get(step, rate) == rate for one in rates for other in rates for step, rate in other.items()):
        return None
    series = [_over_steps(name, one, by, lambda step: step.learning_rate) for name, one in drawn.items()]
    return _chart("runs-learning-rate", say("several.curves.rate"), series, by, say, is_loss=False)


def _over_steps(name: str, one: RunContents, by: By, value: Callable[[StepEvent], float | None]) -> Series:
    place = _places(one, by)
    steps, values = mean_of_each(one.steps, value, MAX_POINTS)
    return Series(name, [place(step) for step in steps], values)


def _chart(
    name: str, title: str, series: Sequence[Series], by: By, say: Words, is_loss: bool = True
) -> LineChart | None:
    """A line a run; those without a value are left out. None where none has one."""
    known = [one for one in series if any(value is not None for value in one.y)]
    if not known:
        return None
    said = []
    for one in known:
        values = [value for value in one.y if value is not None]
        key = "said" if len(values) > 1 else "at"
        said.append(say(f"several.curves.{key}", run=one.name, first=values[0], last=values[-1]))
    y = Axis(say("several.curves.loss"), say("several.curves.nats"), low=0.0) if is_loss else Axis(title, low=0.0)
    return LineChart(name, title, listed(said, say), Axis(say(f"several.curves.{by}"), low=0.0), y, known)
