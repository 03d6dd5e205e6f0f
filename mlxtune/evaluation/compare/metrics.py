"""Every metric of several evaluations side by side, with the difference to the first one's and its verdict.

Differences are tested row by row; what needs more than the predictions is shown without a test, and says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.evaluation.fields.scorer import Scorer
from mlxtune.evaluation.judge.ratings import Ratings
from mlxtune.evaluation.metrics.estimates import Estimate, Means, mean_estimate
from mlxtune.evaluation.metrics.labels import LabelScore, LabelScores, label_table
from mlxtune.evaluation.metrics.metric import REPLY
from mlxtune.evaluation.metrics.paired import Comparison, compare_tables
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import DecodingResult
from mlxtune.evaluation.score import column, faults
from mlxtune.recipe.sections import Recipe

OF_REPLIES = "repeated_rate"  # counted in every field, although it is of the whole reply
MAX_LABELS = 20  # whose recall is compared; of more, a table of them says nothing any more
ESTIMATE = {"value", "low", "high"}
# What is not tested against the first run, by the first part of a metric's name: what a reader calls it, and why.
_OTHER_ROWS = ("figures of the rows with all labels right, or not", "these are other rows in each run")
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
        comparisons: The difference to the first run by run; None for the first, and where the difference is not tested.
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


def compared_metrics(
    names: Sequence[str],
    results: Sequence[DecodingResult],
    judges: Sequence[Ratings | None],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> tuple[ComparedMetric, ...]:
    """Every metric with an interval, and its difference to the first run's.

    Args:
        names: Of the runs.
        results: Of each run, in the decoding that is compared.
        judges: Their ratings of these replies, by run.
        answered: The predictions of each run, of the same rows.
        recipe: Says what the fields are.
    """
    return tuple(map(_with_reason, _metrics(names, results, judges, answered, recipe)))


def _metrics(
    names: Sequence[str],
    results: Sequence[DecodingResult],
    judges: Sequence[Ratings | None],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> Iterator[ComparedMetric]:
    against = [None, *(_compared(one, answered[0], recipe, names[0]) for one in answered[1:])]
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
            tested = [None if one is None else one.get(field, {}).get(name) for one in against]
            yield ComparedMetric(field, name, tuple(one.get(name) for one in found), tuple(tested))
        if field != REPLY:
            scores = [one.fields.get(field) for one in results]
            labels = [one.labels if isinstance(one, LabelScores) else {} for one in scores]
            yield from _recalls(field, by_field[field], names, labels, answered, recipe.train.seed)
    further = [{"consistency": one.consistency, "judge": judge} for one, judge in zip(results, judges, strict=True)]
    other = [dict(_estimates({name: one.to_json() for name, one in of.items() if one is not None})) for of in further]
    for path in dict.fromkeys(path for one in other for path in one):
        field, name = _of_field(path, fields)
        yield ComparedMetric(field, name, tuple(one.get(path) for one in other), (None,) * len(results))


def _of_field(path: str, fields: Sequence[str]) -> tuple[str, str]:
    """The field that a metric of judge.fields.response.accuracy is of, and its name without that: judge.accuracy."""
    field = next((field for field in fields if f".{field}." in path), None)
    if field is None:
        return REPLY, path
    before, after = path.split(f".{field}.", 1)
    return field, f"{before.removesuffix('.fields')}.{after}"


def _compared(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], recipe: Recipe, name: str
) -> dict[str, dict[str, Comparison]]:
    """Field -> metric -> comparison, REPLY -> metric -> comparison."""
    seed = recipe.train.seed
    found = compare(ours, theirs, recipe, name)
    fields = {
        field: {**found.fields[field], **scorer.parts(column(ours, field), column(theirs, field), name, seed)}
        for field, scorer in scorers(recipe).items()
    }
    replies = compare_tables(Means(faults(ours)), Means(faults(theirs)), name, seed)
    return {**fields, REPLY: {**replies, **found.replies}}


def _recalls(
    field: str,
    scorer: Scorer,
    names: Sequence[str],
    scores: Sequence[Mapping[str, LabelScore]],
    answered: Sequence[Sequence[Prediction]],
    seed: int,
) -> Iterator[ComparedMetric]:
    """Of each label of a closed list, the share of the rows expecting it that were answered with it.

    Args:
        field: With labels.
        scorer: Its.
        names: Of the runs.
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
        compared = [
            compare_tables(one, tables[0], names[0], seed)["accuracy"] for one in tables[1:]
        ]  # the share that is right, of rows that all expect the label: its recall
        yield ComparedMetric(field, f"recall.{label}", tuple(values), (None, *compared))


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


def untested_note(metrics: Sequence[ComparedMetric], first: str) -> list[str]:
    """Which metrics are shown without a test, and why."""
    kinds = dict.fromkeys(_untested(one) for one in metrics if one.untested)
    if not kinds:
        return []
    said = "; ".join(f"{what} ({why.replace('; ', ', ')})" for what, why in kinds)
    return [f"shown without a test of the difference to {first}: {said}"]
