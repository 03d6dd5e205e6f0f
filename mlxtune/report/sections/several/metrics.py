"""Metrics of several runs, compared row by row with any one of them: the baseline is the reader's choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlxtune.evaluation.compare.metrics import ComparedMetric
from mlxtune.evaluation.compare.runs import ComparableRuns, measures_of
from mlxtune.evaluation.metrics.metric import REPLY
from mlxtune.evaluation.metrics.paired import LEVEL, Comparison
from mlxtune.report.blocks import Block, Cell, Choice, Column, Folded, Paragraph, Section, Table
from mlxtune.report.sections.metric_lines import WHOLE_REPLY
from mlxtune.report.sections.pieces import (
    estimate_cell,
    listed,
    metric_title,
    numeric,
    tone_of,
    verdict_cells,
    verdict_text,
)
from mlxtune.report.sections.several.runs import MAX_DRAWN, LineOfRuns, SeveralRuns
from mlxtune.report.values import difference_text, estimate_text
from mlxtune.report.words import PHRASES, Words

MAX_BASELINES = 8  # each with tables of its own in the page
NOTHING = "–"
# Why a metric's differences are not tested, by the first part of its name; others need more than the predictions.
UNTESTED = {
    "when_right": "other_rows",
    "when_wrong": "other_rows",
    "length_ratio": "no_direction",
    "judge": "judge",
}


def metrics_section(runs: SeveralRuns, say: Words) -> Section | None:
    """Metrics with their differences to a baseline; None where fewer than two runs were evaluated."""
    compared = runs.compared
    if compared is None or compared.same is None or len(runs.evaluated) < 2:
        return None
    n_runs = len(runs.evaluated)
    blocks: list[Block] = [Paragraph(sentence) for sentence in _rows(compared, say)]
    blocks += [Paragraph(sentence, "warning") for sentence in _warnings(compared, say)]
    baselines = range(n_runs if n_runs <= MAX_BASELINES else 1)
    by_baseline = [runs.metrics(place) for place in baselines]
    names = runs.evaluated_names
    options: dict[str, list[Block]] = {
        names[place]: [*_tables(place, runs, say), _differences(metrics, place, names, say)]
        for place, metrics in zip(baselines, by_baseline, strict=True)
    }
    if len(options) > 1:
        blocks.append(Choice(say("several.baseline"), options))
    else:
        blocks += [Paragraph(say("several.baseline.only", n=n_runs)), *next(iter(options.values()))]
    blocks.append(Folded(say("several.all"), [_all_values(by_baseline[0], names, say)]))
    blocks += [Paragraph(sentence) for sentence in _on_tests(by_baseline[0], say)]
    return Section("compared", say("several.compared"), blocks)


def title_of(name: str, say: Words) -> str:
    """What a reader calls a metric by its dotted name: "recall of low", "exact match, rows with 2 labels"."""
    first, _, rest = name.partition(".")
    if not rest:
        return metric_title(name, say)
    if first == "recall":
        return say("several.recall", label=rest)
    if first == "by_count":
        count, _, of = rest.partition(".")
        return say("several.by_count", n=int(count), metric=title_of(of, say))
    if first == "buckets":  # whose names have dots of their own
        bucket = rest.removesuffix(".share")
        key = f"texts.bucket.{bucket}"
        return say("several.bucket", bucket=say(key) if key in PHRASES else bucket)
    if first in ("when_right", "when_wrong"):
        return say(f"several.{first}", metric=title_of(rest, say))
    return listed([metric_title(part, say) for part in name.split(".")], say)


# What stands beside the tables -------------------------------------------------------------------------------------


def _rows(compared: ComparableRuns, say: Words) -> Iterator[str]:
    """Which rows are compared."""
    same = compared.same
    assert same is not None
    rows = say("count.rows", n=len(same.predictions[0]))
    yield say("several.compared.over", rows=rows)
    if not same.whole:
        counts = [
            say("several.counted", run=name, rows=say("count.rows", n=0 if one.result is None else one.result.top.rows))
            for name, one in zip(compared.names, compared.evaluations, strict=True)
        ]
        yield say("several.compared.some", rows=rows, counts=listed(counts, say))


def _warnings(compared: ComparableRuns, say: Words) -> Iterator[str]:
    """What makes runs hard to compare: other decodings, other judges, other encoders."""
    names = compared.names
    decodings = [one.decoding for one in compared.results]
    if len(set(decodings)) > 1:
        yield say("several.decoding.differs", decodings=_named(names, decodings, say))
    elif any(one.result is not None and one.result.top.decoding != decodings[0] for one in compared.evaluations):
        yield say("several.decoding.common", decoding=decodings[0])
    measures = measures_of(names, compared.results, compared.judges)
    for key, measured in (("judges", measures.judges), ("encoders", measures.encoders)):
        if len(measured) > 1:
            by = [(name, measure) for measure, of in measured.items() for name in of]
            yield say(f"several.{key}", runs=_named([name for name, _ in by], [what for _, what in by], say))


def _named(names: Sequence[str], what: Sequence[str], say: Words) -> str:
    return listed([say("several.named", run=name, what=one) for name, one in zip(names, what, strict=True)], say)


def _on_tests(metrics: Sequence[ComparedMetric], say: Words) -> Iterator[str]:
    """How many tests there were, and which metrics were not tested, for what reason."""
    tested = sum(one is not None and one.p_value is not None for line in metrics for one in line.comparisons)
    if tested * LEVEL >= 1:
        yield say("several.chance", n=tested, level=LEVEL, expected=tested * LEVEL)
    reasons: dict[str, dict[str, None]] = {}
    for line in metrics:
        if line.untested is not None:
            reason = UNTESTED.get(line.name.partition(".")[0], "rows")
            title = say("several.untested.parts") if reason == "other_rows" else title_of(line.name, say)
            reasons.setdefault(reason, {})[title] = None
    for reason, titles in reasons.items():
        yield say("several.untested", metrics=listed(list(titles), say), why=say(f"several.untested.{reason}"))


# Tables ------------------------------------------------------------------------------------------------------------


def _tables(baseline: int, runs: SeveralRuns, say: Words) -> Iterator[Table]:
    """Of each field the metrics that matter, of many runs the headline alone: a metric and a run a row, with the difference to the
    baseline."""
    by_field: dict[str, list[LineOfRuns]] = {}
    for one in runs.lines if len(runs.evaluated) <= MAX_DRAWN else runs.headlines:
        if not one.line.is_headline and one.is_level:  # no run has an invalid reply
            continue
        by_field.setdefault(one.line.field, []).append(one)
    names = runs.evaluated_names
    columns = (
        Column(say("field.metric")),
        Column(say("several.run")),
        *numeric(say("field.value"), say("several.difference")),
        Column(say("field.verdict")),
    )
    for lines in by_field.values():
        rows = []
        for one in lines:
            compared = runs.comparisons(one.line, baseline)
            title = metric_title(one.line.metric, say)
            for place, name in enumerate(names):
                cells = (
                    (Cell(say("several.is_baseline")), Cell(""))
                    if place == baseline
                    else _compared(compared[place], say)
                )
                rows.append([Cell(title), Cell(name), estimate_cell(one.values[place]), *cells])
        shown = say("several.metrics", field=_field(lines[0].line.field, say), run=names[baseline])
        yield Table(shown, columns, rows)


def _compared(comparison: Comparison | None, say: Words) -> tuple[Cell, Cell]:
    return (Cell(NOTHING), Cell("")) if comparison is None else verdict_cells(comparison, say)


def _differences(metrics: Sequence[ComparedMetric], baseline: int, names: Sequence[str], say: Words) -> Folded:
    """Every tested difference to the baseline: a metric a row, a run a column."""
    others = [place for place in range(len(names)) if place != baseline]
    columns = (Column(say("results.field")), Column(say("field.metric")), *numeric(*(names[place] for place in others)))
    rows = [
        [
            Cell(_field(one.field, say)),
            Cell(title_of(one.name, say)),
            *(_difference(one.comparisons[place], say) for place in others),
        ]
        for one in metrics
        if any(one.comparisons)
    ]
    title = say("several.all.differences", run=names[baseline])
    return Folded(title, [Table(title, columns, rows)])


def _difference(comparison: Comparison | None, say: Words) -> Cell:
    if comparison is None:
        return Cell(NOTHING)
    said = verdict_text(comparison, say)
    text = difference_text(comparison)
    return Cell(say("several.cell", difference=text, verdict=said) if said else text, tone_of(comparison))


def _all_values(metrics: Sequence[ComparedMetric], names: Sequence[str], say: Words) -> Table:
    """Every metric: a metric a row, a run a column."""
    columns = (Column(say("results.field")), Column(say("field.metric")), *numeric(*names))
    rows = [
        [
            Cell(_field(one.field, say)),
            Cell(title_of(one.name, say)),
            *(Cell(estimate_text(value) or NOTHING) for value in one.values),
        ]
        for one in metrics
    ]
    return Table(say("several.all"), columns, rows, say("field.intervals"))


def _field(name: str, say: Words) -> str:
    return say("results.whole_reply") if name in (REPLY, WHOLE_REPLY) else name
