"""One field's scores with those of every system beside it, and what labels and texts have in common: the metrics and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison, Verdict
from mlxtune.evaluation.metrics.registry import METRICS, headline
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.results import EvaluatedModel, EvaluationResult
from mlxtune.recipe.conditions import BEFORE
from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Table, Tone
from mlxtune.report.sections.pieces import (
    estimate_cell,
    in_order,
    listed,
    metric_title,
    numeric,
    together,
    verdict_cells,
)
from mlxtune.report.values import difference_text, estimate_text
from mlxtune.report.words import PHRASES, Words
from mlxtune.runs.layout import TUNED

# In which order the systems that a field was compared with are named, by what the comparison says.
_SAID: tuple[Verdict, ...] = ("better", "no real difference", "too few rows", "worse")


@dataclass(frozen=True)
class OtherSystem:
    """Another system on the same rows.

    Attributes:
        name: BEFORE of the model before tuning, else the baseline's.
        scores: Of the field; None where only the comparison is known.
        against: Metric -> the run's model compared with it; empty where it was not.
        decoding: Of its replies, where that is another than the model's; else None.
    """

    name: str
    scores: Scores | None
    against: Mapping[str, Comparison] = field(default_factory=dict)
    decoding: str | None = None


@dataclass(frozen=True)
class FieldResults:
    """One field of a run's evaluation.

    Attributes:
        name: The field.
        rows: Test rows.
        scores: Of what was evaluated.
        system: What that is called: TUNED, or BEFORE of the base model.
        before: The model before tuning; None where it was not evaluated.
        baselines: In the recipe's order.
    """

    name: str
    rows: int
    scores: Scores
    system: str = TUNED
    before: OtherSystem | None = None
    baselines: Sequence[OtherSystem] = ()

    @property
    def systems(self) -> list[OtherSystem]:
        """All that the model stands beside."""
        return [*([self.before] if self.before else []), *self.baselines]

    @property
    def headline(self) -> str | None:
        """The metric by which the field is called better or worse."""
        return headline(estimates_of(self.scores))


def field_results(tuned: EvaluationResult, base: EvaluationResult | None = None) -> dict[str, FieldResults]:
    """The fields of an evaluation, each with what was evaluated beside it.

    Args:
        tuned: Of the run's model.
        base: Of the model before tuning; its results in the decoding that counts in `tuned` are taken, if it has them.
    """
    found = {}
    for name, scores in tuned.top.fields.items():
        baselines = [
            OtherSystem(other, one.fields[name], one.against.fields.get(name, {}))
            for other, one in (tuned.baselines or {}).items()
            if name in one.fields
        ]
        before = _before(name, tuned, base)
        found[name] = FieldResults(name, tuned.top.rows, scores, own_system(tuned), before, baselines)
    return found


def summary(results: FieldResults, say: Words) -> list[Block]:
    """The headline metric in words: its value, what tuning changed, and which baselines it beats."""
    name = results.headline
    if name is None:
        return []
    value = estimate_text(estimates_of(results.scores)[name])
    rows = say("count.rows", n=results.rows)
    blocks: list[Block] = []
    sentences = [say("field.summary", metric=metric_title(name, say), value=value, rows=rows)]
    tone: Tone = "neutral"
    compared = None if results.before is None else results.before.against.get(name)
    if compared is not None:
        tone = {"better": "good", "worse": "bad"}.get(compared.verdict, "warning")  # type: ignore[assignment]
        sentences.append(
            say(
                f"field.before.{compared.verdict}", change=difference_text(compared), before=_before_text(results, name)
            )
        )
    elif results.before is not None and (before := _before_text(results, name)):
        sentences.append(say("field.before.alone", before=before))
    blocks.append(Paragraph(together(sentences, say), tone))
    if (beside := _baselines_text(results, name, say)) is not None:
        blocks.append(beside)
    return blocks


def metric_table(results: FieldResults, say: Words) -> Table:
    """Every metric of the field with its interval; before tuning and what changed beside it, where that is known."""
    ours = estimates_of(results.scores)
    before = results.before
    theirs = {} if before is None or before.scores is None else estimates_of(before.scores)
    against = {} if before is None else before.against
    heads = [say("field.value")] if before is None else [say("field.after")]
    if theirs:
        heads = [say("field.before"), *heads]
    columns = [Column(say("field.metric")), *numeric(*heads)]
    if against:
        columns += [*numeric(say("field.change")), Column(say("field.verdict"))]
    rows = []
    for name in in_order([*ours, *theirs]):
        values = [theirs.get(name), ours.get(name)] if theirs else [ours.get(name)]
        cells = [Cell(metric_title(name, say)), *map(estimate_cell, values)]
        rows.append([*cells, *verdict_cells(against.get(name), say)] if against else cells)
    note = say("field.intervals")
    if before is not None and before.decoding is not None:
        note = together([note, say("field.other_decoding", decoding=before.decoding)], say)
    return Table(say("field.metrics"), columns, rows, note)


def baseline_table(results: FieldResults, say: Words) -> list[Block]:
    """The systems beside the model, by the headline metric and the one that is shown with it; nothing where there are none."""
    name = results.headline
    if name is None or not results.baselines:
        return []
    shown = [one for one in (name, METRICS[name].beside) if one]
    columns = (
        Column(say("field.system")),
        *numeric(*(metric_title(one, say) for one in shown)),
        *numeric(say("field.difference")),
        Column(say("field.verdict")),
    )
    rows = [[Cell(system_title(results.system, say)), *_metric_cells(results.scores, shown), Cell(""), Cell("")]]
    rows += [
        [
            Cell(system_title(one.name, say)),
            *_metric_cells(one.scores, shown),
            *verdict_cells(one.against.get(name), say),
        ]
        for one in results.systems
    ]
    note = say("field.difference.note", metric=metric_title(name, say))
    return [Table(say("field.baselines"), columns, rows, note)]


def own_system(result: EvaluationResult) -> str:
    """What was evaluated: TUNED, or BEFORE of the base model."""
    model = result.evaluated
    return BEFORE if isinstance(model, EvaluatedModel) and model.adapter is None else TUNED


def system_title(name: str, say: Words) -> str:
    """What a report calls the model after tuning, before it, or a baseline."""
    key = f"system.{name}"
    return say(key) if key in PHRASES else name


def estimates_of(scores: Scores) -> dict[str, Estimate]:
    """Metric -> its value, BERTScore with the others."""
    found = dict(scores.metrics)
    if isinstance(scores, TextScores) and scores.bertscore is not None:
        found["bertscore"] = scores.bertscore
    return found


# Details ---------------------------------------------------------------------------------------------------------


def _before(name: str, tuned: EvaluationResult, base: EvaluationResult | None) -> OtherSystem | None:
    against = {} if tuned.before is None else tuned.before.fields.get(name, {})
    if base is None:
        return OtherSystem(BEFORE, None, against) if against else None
    same = base.by_decoding.get(tuned.top.decoding)
    theirs = same or base.top
    if name not in theirs.fields:
        return None
    return OtherSystem(BEFORE, theirs.fields[name], against, None if same else theirs.decoding)


def _before_text(results: FieldResults, name: str) -> str:
    """The value before tuning with its interval; without one where only the difference is known; "" where neither is."""
    before = results.before
    assert before is not None
    if before.scores is not None:
        return estimate_text(estimates_of(before.scores).get(name))
    if name not in before.against:
        return ""
    return estimate_text(
        Estimate(estimates_of(results.scores)[name].value - before.against[name].difference, None, None)
    )


def _baselines_text(results: FieldResults, name: str, say: Words) -> Paragraph | None:
    """Which baselines the model beats, which it does not; a warning where there is one that it does not beat."""
    found: dict[Verdict, list[str]] = {}
    for one in results.baselines:
        if (compared := one.against.get(name)) is not None:
            found.setdefault(compared.verdict, []).append(system_title(one.name, say))
    if not found:
        return None
    sentences = [
        say(f"field.against.{verdict}", systems=listed(found[verdict], say)) for verdict in _SAID if verdict in found
    ]
    return Paragraph(together(sentences, say), "good" if set(found) == {"better"} else "warning")


def _metric_cells(scores: Scores | None, names: Sequence[str]) -> list[Cell]:
    found = {} if scores is None else estimates_of(scores)
    return [estimate_cell(found.get(name), bar=True) for name in names]
