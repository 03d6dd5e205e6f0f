"""Every metric of several evaluations side by side, with the difference to that of one of them, the baseline, and its verdict.

Differences are tested row by row; what needs more than the predictions is shown without a test, and says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.evaluation.fields.scorer import Scorer
from mlxtune.evaluation.judge.ratings import Ratings
from mlxtune.evaluation.metrics.estimates import Estimate, Means, MetricTable, mean_estimate
from mlxtune.evaluation.metrics.labels import LabelScore, LabelScores, label_table
from mlxtune.evaluation.metrics.metric import REPLY
from mlxtune.evaluation.metrics.paired import Comparison, Resampled, compare_resampled, resample
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import DecodingResult
from mlxtune.evaluation.score import all_right, column, faults
from mlxtune.recipe.sections import Recipe

OF_REPLIES = "repeated_rate"  # counted in every field, although it is of the whole reply
MAX_LABELS = 20  # whose recall is compared; of more, a table of them says nothing any more
UNTESTED_KEY = ""  # under which no comparison stands
ESTIMATE = {"value", "low", "high"}
# What is not tested against the baseline, by the first part of a metric's name: what a reader calls it, and why.
_OTHER_ROWS = ("metrics of the rows with all labels right, or not", "these are other rows in each run")
UNTESTED = {
    "when_right": _OTHER_ROWS,
    "when_wrong": _OTHER_ROWS,
    "length_ratio": ("length ratio", "neither more nor less of it is better"),
    "bertscore": ("BERTScore", "predictions do not hold it row by row"),
    "judge": (
        "a judge's marks",
        "it may have marked other rows in each run; `mlxtune compare --judge` has it choose between replies",
    ),
    "consistency": ("agreement of samples", "predictions do not hold the samples"),
}
UNTESTED_OTHERWISE = ("other figures", "they need more than the predictions")


@dataclass(frozen=True)
class ComparedMetric:
    """One metric by run.

    Attributes:
        field: The field that it is of; REPLY for whole replies.
        name: As scores.json names it; nested ones joined with a dot, as when_right.rougeL.
        values: By run; None where a run has none.
        comparisons: The difference to the baseline by run; None for itself, and where the difference is not tested.
        untested: Why no run's difference is tested; None where one is, or fewer than two runs have the metric.
    """

    field: str
    name: str
    values: tuple[Estimate | None, ...]
    comparisons: tuple[Comparison | None, ...]
    untested: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `compare --json` has it."""
        return {
            "field": self.field,
            "name": self.name,
            "values": [one and one.to_json() for one in self.values],
            "comparisons": [one and one.to_marked_json() for one in self.comparisons],
            "untested": self.untested,
        }


@dataclass(frozen=True)
class _Line:
    """One metric by run; `key` is what its comparisons stand under."""

    field: str
    name: str
    values: tuple[Estimate | None, ...]
    key: str


@dataclass(frozen=True)
class _Tables:
    """Tables of the same rows by run, and what the dotted names of their metrics begin with."""

    field: str
    prefix: str
    runs: Sequence[Resampled]


@dataclass(frozen=True)
class ComparableMetrics:
    """Every metric with an interval of several runs on the same rows. What a comparison needs of each run is computed once, so
    that comparing with another baseline costs little.

    Attributes:
        names: Of the runs.
        lines: The metrics.
        tables: What differences are tested on.
    """

    names: Sequence[str]
    lines: Sequence[_Line]
    tables: Sequence[_Tables]

    def with_baseline(self, baseline: int) -> tuple[ComparedMetric, ...]:
        """The metrics with their differences to a run's, which is named by its place."""
        against = [None if run == baseline else self._compared(run, baseline) for run in range(len(self.names))]
        return tuple(
            _with_reason(
                ComparedMetric(
                    line.field,
                    line.name,
                    line.values,
                    tuple(None if found is None else found.get((line.field, line.key)) for found in against),
                )
            )
            for line in self.lines
        )

    def _compared(self, run: int, baseline: int) -> dict[tuple[str, str], Comparison]:
        """Field and dotted name -> comparison."""
        return {
            (one.field, one.prefix + name): compared
            for one in self.tables
            for name, compared in compare_resampled(one.runs[run], one.runs[baseline], self.names[baseline]).items()
        }


def comparable_metrics(
    names: Sequence[str],
    results: Sequence[DecodingResult],
    judges: Sequence[Ratings | None],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> ComparableMetrics:
    """Every metric with an interval, ready to be compared.

    Args:
        names: Of the runs.
        results: Of each run, in the decoding that is compared.
        judges: Their ratings of these replies, by run.
        answered: The predictions of each run, of the same rows.
        recipe: Says what the fields are; its training seed seeds the resampling.
    """
    tables = [] if len(names) < 2 else list(_tables(answered, recipe))
    lines: list[_Line] = []
    by_field = scorers(recipe)
    contents = [one.to_json() for one in results]
    fields = [field for field in recipe.output.fields if any(field in one.fields for one in results)]
    for field in (REPLY, *fields):
        found = [
            dict(_estimates(one["replies"] if field == REPLY else one["fields"].get(field, {}))) for one in contents
        ]
        for name in dict.fromkeys(name for one in found for name in one):
            if field != REPLY and name == OF_REPLIES:  # the same in every field, and there already
                continue
            lines.append(_Line(field, name, tuple(one.get(name) for one in found), name))
        if field != REPLY:
            scores = [one.fields.get(field) for one in results]
            labels = [one.labels if isinstance(one, LabelScores) else {} for one in scores]
            for line, of_label in _recalls(field, by_field[field], labels, answered, recipe.train.seed):
                lines.append(line)
                tables.append(of_label)
    further = [{"consistency": one.consistency, "judge": judge} for one, judge in zip(results, judges, strict=True)]
    other = [dict(_estimates({name: one.to_json() for name, one in of.items() if one is not None})) for of in further]
    for path in dict.fromkeys(path for one in other for path in one):
        field, name = _of_field(path, fields)
        lines.append(_Line(field, name, tuple(one.get(path) for one in other), UNTESTED_KEY))
    return ComparableMetrics(names, lines, tables)


def _of_field(path: str, fields: Sequence[str]) -> tuple[str, str]:
    """The field that a metric of judge.fields.response.accuracy is of, and its name without that: judge.accuracy."""
    field = next((field for field in fields if f".{field}." in path), None)
    if field is None:
        return REPLY, path
    before, after = path.split(f".{field}.", 1)
    return field, f"{before.removesuffix('.fields')}.{after}"


def _tables(answered: Sequence[Sequence[Prediction]], recipe: Recipe) -> Iterator[_Tables]:
    """What metrics of fields, of parts of their rows and of whole replies are tested on."""

    def together(field: str, prefix: str, tables: Sequence[MetricTable]) -> _Tables:
        return _Tables(field, prefix, resample(tables, recipe.train.seed))

    for field, scorer in scorers(recipe).items():
        columns = [column(one, field) for one in answered]
        yield together(field, "", [scorer.table(one) for one in columns])
        parts = [scorer.part_tables(one) for one in columns]
        for prefix in parts[0]:
            yield together(field, prefix, [one[prefix] for one in parts])
    yield together(REPLY, "", [Means(faults(one)) for one in answered])
    right = [table for table in (all_right(one, recipe) for one in answered) if table is not None]
    if right:
        yield together(REPLY, "", right)


def _recalls(
    field: str,
    scorer: Scorer,
    scores: Sequence[Mapping[str, LabelScore]],
    answered: Sequence[Sequence[Prediction]],
    seed: int,
) -> Iterator[tuple[_Line, _Tables]]:
    """Of each label of a closed list, the share of the rows expecting it that were answered with it.

    Args:
        field: With labels.
        scorer: Its.
        scores: Label -> its scores, by run; evaluations of earlier versions have no interval in them.
        answered: The predictions of each run.
        seed: Of the resampling.
    """
    if not scorer.closed_labels or len(scorer.closed_labels) > MAX_LABELS:
        return
    for label in scorer.closed_labels:
        expecting = [i for i, one in enumerate(answered[0]) if scorer.says(one.expected[field], label)]
        if not expecting:
            continue
        said = [[scorer.says(predictions[i].predicted[field], label) for i in expecting] for predictions in answered]
        tables = [
            label_table([label] * len(hits), [label if hit else None for hit in hits], [False] * len(hits), [label])
            for hits in said
        ]
        values = []
        for got, hits in zip((one.get(label) for one in scores), said, strict=True):
            if got is not None and got.recall_interval:
                values.append(Estimate(got.recall, *got.recall_interval))
            else:
                values.append(mean_estimate(np.array(hits, dtype=float), seed))
        name = f"recall.{label}"
        # The share that is right, of rows that all expect the label: its recall.
        line = _Line(field, name, tuple(values), f"{name}.accuracy")
        yield line, _Tables(field, f"{name}.", resample(tables, seed))


def _estimates(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Estimate]]:
    """Every metric with an interval in a part of scores.json by its dotted name; labels are left to `_recalls`."""
    for name, value in content.items():
        if not isinstance(value, Mapping) or (name == "labels" and not prefix):
            continue
        if value.keys() >= ESTIMATE:
            yield prefix + name, Estimate.from_json(value)
        else:
            yield from _estimates(value, f"{prefix}{name}.")


def _with_reason(one: ComparedMetric) -> ComparedMetric:
    """A metric of several runs that is shown without a test says why."""
    if any(one.comparisons) or sum(value is not None for value in one.values) < 2:
        return one
    return replace(one, untested=_untested(one)[1])


def _untested(one: ComparedMetric) -> tuple[str, str]:
    return UNTESTED.get(one.name.partition(".")[0], UNTESTED_OTHERWISE)


def untested_note(metrics: Sequence[ComparedMetric], baseline: str) -> list[str]:
    """Which metrics are shown without a test, and why."""
    kinds = dict.fromkeys(_untested(one) for one in metrics if one.untested)
    if not kinds:
        return []
    said = "; ".join(f"{what} ({why.replace('; ', ', ')})" for what, why in kinds)
    return [f"shown without a test of the difference to {baseline}: {said}"]
