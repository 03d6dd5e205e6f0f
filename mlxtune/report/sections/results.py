"""What an evaluation came to, of all fields together: metrics beside every other system, and what the comparisons say."""

from __future__ import annotations

from collections.abc import Iterator

from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.results import Against, EvaluationResult
from mlxtune.evaluation.stored import common_decoding
from mlxtune.recipe.conditions import BEFORE
from mlxtune.report.blocks import Cell, Column, Paragraph, Table, Tone
from mlxtune.report.sections.field_results import own_system, system_title
from mlxtune.report.sections.metric_lines import WHOLE_REPLY, MetricLine, SystemScores, metric_lines
from mlxtune.report.sections.pieces import estimate_cell, metric_title, numeric, tone_of
from mlxtune.report.values import difference_text
from mlxtune.report.words import Words


def results_table(result: EvaluationResult, base: EvaluationResult | None, say: Words) -> Table:
    """A metric a row, a system a column: the run's model in each decoding, the model before tuning, the baselines."""
    systems = _systems(result, base, say)
    columns = (Column(say("results.field")), Column(say("results.metric")), *numeric(*(one.title for one in systems)))
    rows = [
        [
            Cell(field_title(line, say)),
            Cell(metric_title(line.metric, say)),
            *(estimate_cell(line.of(one)) for one in systems),
        ]
        for line in metric_lines(result)
    ]
    rows_text = say("count.rows", n=result.top.rows)
    return Table(
        say("results.title"), columns, rows, say("results.note", rows=rows_text, decoding=_decoding(result, say))
    )


def comparison_sentences(result: EvaluationResult, say: Words) -> Iterator[Paragraph]:
    """A sentence for each headline metric and each other system, the model before tuning first."""
    for line in metric_lines(result):
        if not line.is_headline:
            continue
        for name, other in _others(result).items():
            if (compared := line.against(other)) is not None:
                yield Paragraph(_sentence(line, name, compared, say), _tone(compared))


def line_title(line: MetricLine, say: Words) -> str:
    """Field and metric; a metric of whole replies alone, which names what it is of."""
    if line.field == WHOLE_REPLY:
        return metric_title(line.metric, say)
    return say("results.line", field=field_title(line, say), metric=metric_title(line.metric, say))


def field_title(line: MetricLine, say: Words) -> str:
    """The field, as the recipe names it, or the whole reply."""
    return say("results.whole_reply") if line.field == WHOLE_REPLY else line.field


def _systems(result: EvaluationResult, base: EvaluationResult | None, say: Words) -> list[SystemScores]:
    """All that have scores; of the model before tuning in a decoding that both have."""
    own, before = system_title(own_system(result), say), system_title(BEFORE, say)
    several = len(result.by_decoding) > 1
    found = [
        SystemScores(say("results.in_decoding", system=own, decoding=name) if several else own, one.fields, one.replies)
        for name, one in result.by_decoding.items()
    ]
    if base is not None:
        ours, theirs = common_decoding(result, base)
        other = say("results.in_decoding", system=before, decoding=theirs.decoding)
        found.append(SystemScores(before if ours.decoding == theirs.decoding else other, theirs.fields, theirs.replies))
    return found + [SystemScores(system_title(name, say), one.fields) for name, one in (result.baselines or {}).items()]


def _others(result: EvaluationResult) -> dict[str, Against]:
    """Every system that the model was compared with."""
    before = {} if result.before is None else {BEFORE: result.before}
    return before | {name: one.against for name, one in (result.baselines or {}).items()}


def _sentence(line: MetricLine, other: str, compared: Comparison, say: Words) -> str:
    return say(
        f"results.against.{compared.verdict}",
        what=line_title(line, say),
        other=system_title(other, say),
        change=difference_text(compared),
    )


def _tone(compared: Comparison) -> Tone:
    """As of any comparison, but that a model is no better than another system is something to know."""
    return "warning" if compared.verdict == "no real difference" else tone_of(compared)


def _decoding(result: EvaluationResult, say: Words) -> str:
    several = len(result.by_decoding) > 1
    return say("results.decoding.both" if several else f"results.decoding.{result.top.decoding}")
