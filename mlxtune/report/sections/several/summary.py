"""The first section of several runs: which is best by each metric that matters, whether that is significant, and all side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Section, Table, Tone
from mlxtune.report.charts import Axis, BarChart, Bars
from mlxtune.report.sections.pieces import estimate_cell, listed, numeric, some_listed, together
from mlxtune.report.sections.results import line_title
from mlxtune.report.sections.several.facts import fact_text
from mlxtune.report.sections.several.runs import MAX_DRAWN, LineOfRuns, SeveralRuns
from mlxtune.report.sections.times import duration
from mlxtune.report.values import difference_text, estimate_text
from mlxtune.report.words import Words
from mlxtune.runs.layout import FINISHED

MAX_SETTINGS = 4  # beside the metrics
MAX_SETTING_CHARS = 24  # of such a setting: a prompt is longer, and stands below
MAX_METRICS = 4
MAX_WORSE = 2  # runs that are named, though they are worse
VERDICT = "better"


def summary_section(runs: SeveralRuns, say: Words) -> Section:
    """Which run is best, and all of them side by side."""
    blocks: list[Block] = [*_unfinished(runs, say), *_not_evaluated(runs, say)]
    blocks += [_best(one, runs, say) for one in runs.headlines]
    if runs.headlines and 1 < len(runs.evaluated) <= MAX_DRAWN:
        blocks.append(_chart(runs, say))
    blocks.append(_table(runs, say))
    return Section("summary", say("several.summary"), blocks)


def _unfinished(runs: SeveralRuns, say: Words) -> Iterator[Paragraph]:
    found = [
        say("several.unfinished.one", run=name, status=one.facts.status)
        for name, one in zip(runs.names, runs.contents, strict=True)
        if one.facts.status not in (None, FINISHED)
    ]
    if found:
        yield Paragraph(say("several.unfinished", runs=some_listed(found, say)), "warning")


def _not_evaluated(runs: SeveralRuns, say: Words) -> Iterator[Paragraph]:
    missing = [name for place, name in enumerate(runs.names) if place not in runs.evaluated]
    if missing:
        yield Paragraph(say("several.not_evaluated", runs=some_listed(missing, say)), "warning")


# The best ----------------------------------------------------------------------------------------------------------


def _best(one: LineOfRuns, runs: SeveralRuns, say: Words) -> Paragraph:
    """Which run is best by a metric, whether it is better than the next one, and which others are no worse."""
    what, names = line_title(one.line, say), runs.evaluated_names
    best, *others = one.ranking
    text = estimate_text(one.values[best])
    if not others:
        return Paragraph(say("several.best.alone", what=what, run=names[best], value=text))
    equal = [best, *(place for place in others if _same(one, place, best))]
    if len(equal) > 1:
        opening = [say("several.best.equal", what=what, runs=some_listed([names[i] for i in equal], say), value=text)]
        return Paragraph(together([*opening, *_others(one, best, others[len(equal) - 1 :], runs, say)], say))
    following = others[0]
    compared = runs.comparisons(one.line, following)[best]
    opening = [say("several.best", what=what, run=names[best], value=text)]
    if compared is not None:
        told = {"next": names[following], "value": estimate_text(one.values[following])}
        key = f"several.next.{compared.verdict.replace('cases', 'rows')}"
        opening.append(say(key, change=difference_text(compared), **told))
    rest = _others(one, best, others[1:], runs, say)
    tone: Tone = "good" if compared is not None and compared.verdict == VERDICT else "neutral"
    return Paragraph(together([*opening, *rest], say), tone)


def _others(one: LineOfRuns, best: int, others: Sequence[int], runs: SeveralRuns, say: Words) -> Iterator[str]:
    """Which other runs are significantly worse than the best, and which are not."""
    compared = runs.comparisons(one.line, best)
    worse = [place for place in others if (found := compared[place]) is not None and found.verdict == "worse"]
    names = runs.evaluated_names
    for key, places in (("alike", [place for place in others if place not in worse]), ("worse", worse)):
        if key == "worse" and len(places) > MAX_WORSE:
            yield say("several.worse.others", n=len(places))
        elif places:
            yield say(f"several.{key}", run=names[best], runs=some_listed([names[i] for i in places], say))


def _same(one: LineOfRuns, place: int, best: int) -> bool:
    mine, other = one.values[place], one.values[best]
    return mine is not None and other is not None and mine.value == other.value


# Side by side ------------------------------------------------------------------------------------------------------


def _chart(runs: SeveralRuns, say: Words) -> BarChart:
    """The metrics that matter, a bar a run."""
    names = runs.evaluated_names
    titles = [line_title(one.line, say) for one in runs.headlines]
    bars = []
    for place, name in enumerate(names):
        values = [one.values[place] for one in runs.headlines]
        intervals = [
            None if value is None or value.low is None or value.high is None else (value.low, value.high)
            for value in values
        ]
        bars.append(Bars(name, [0.0 if value is None else value.value for value in values], intervals))
    said = []
    for title, one in zip(titles, runs.headlines, strict=True):
        of_runs = [
            say("several.chart.one", run=name, value=estimate_text(value))
            for name, value in zip(names, one.values, strict=True)
            if value is not None
        ]
        said.append(say("several.chart.said", what=title, values=listed(of_runs, say)))
    axis = Axis("", low=0.0, high=1.0, share=True)
    return BarChart("runs-metrics", say("several.chart"), together(said, say), titles, bars, axis)


def _table(runs: SeveralRuns, say: Words) -> Table:
    """A run a row: settings that differ, the metrics that matter, validation loss, training time."""
    settings = [
        fact
        for fact in runs.settings
        if max(len(fact_text(fact.name, one, say)) for one in fact.values) <= MAX_SETTING_CHARS
    ]
    settings = settings[:MAX_SETTINGS]
    headlines = runs.headlines[:MAX_METRICS]
    losses = next((fact.values for fact in runs.training if fact.name == "valid loss"), None)
    times = next((fact.values for fact in runs.cost if fact.name == "training seconds"), None)
    columns = [Column(say("several.run")), *numeric(*(fact.name for fact in settings))]
    columns += numeric(*(line_title(one.line, say) for one in headlines))
    columns += numeric(*([say("several.valid_loss")] if losses else []), *([say("several.time")] if times else []))
    rows = []
    for place in _sorted(runs):
        cells = [Cell(runs.names[place]), *(Cell(fact_text(fact.name, fact.values[place], say)) for fact in settings)]
        cells += [_metric_cell(one, place, runs, say) for one in headlines]
        cells += [Cell(fact_text("valid loss", losses[place], say))] if losses else []
        cells += [Cell("–" if times[place] is None else duration(times[place], say))] if times else []
        rows.append(cells)
    more = len(runs.settings) - len(settings)
    notes = [
        say("several.table.sorted", what=line_title(headlines[0].line, say)) if headlines else "",
        say("several.table.settings", n=more) if more else "",
    ]
    return Table(say("several.table"), columns, rows, together(notes, say))


def _sorted(runs: SeveralRuns) -> list[int]:
    """Places of the runs, the best by the first metric that matters first, those that were not evaluated last."""
    ranked = [runs.evaluated[place] for place in runs.headlines[0].ranking] if runs.headlines else []
    return [*ranked, *(place for place in range(len(runs.names)) if place not in ranked)]


def _metric_cell(one: LineOfRuns, run: int, runs: SeveralRuns, say: Words) -> Cell:
    """A metric of a run; of the best one, with a word that it is."""
    place = runs.evaluated.index(run) if run in runs.evaluated else None
    value = None if place is None else one.values[place]
    if place is None or value is None:
        return Cell("–")
    if len(one.ranking) < 2 or not _same(one, place, one.ranking[0]):
        return estimate_cell(value)
    return Cell(say("several.is_best", value=estimate_text(value)), "good")
