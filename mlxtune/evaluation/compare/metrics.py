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
from mlxtune.evaluation.metrics.estimates import Means, mean_estimate
from mlxtune.evaluation.metrics.labels import label_table
from mlxtune.evaluation.metrics.paired import Comparison, compare_tables
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.score import column, faults
from mlxtune.recipe.sections import Recipe

REPLY = "reply"  # what metrics of whole replies stand under, where fields' stand under the field
OF_REPLIES = "repeated_rate"  # counted in every field, although it is of the whole reply
MAX_LABELS = 20  # whose recall is compared; of more, a table of them says nothing any more
# Parts of scores.json that hold metrics of something else, or the same ones again.
NOT_METRICS = (
    "baselines",
    "baseline_speed",
    "comparisons",
    "decodings",
    "limits",
    "speed",
    "data",
    "fields",
    "replies",
)
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
        values: {"value", "low", "high"} by run; None where a run has none.
        comparisons: The difference to the first run by run; None for the first, and where the difference is not tested.
        untested: Why no run's difference is tested; None where one is, or fewer than two runs have the metric.
    """

    field: str
    name: str
    values: tuple[Mapping[str, Any] | None, ...]
    comparisons: tuple[Comparison | None, ...]
    untested: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As `compare --json` has it."""
        return {
            "field": self.field,
            "name": self.name,
            "values": list(self.values),
            "comparisons": [one and one.to_marked_json() for one in self.comparisons],
            "untested": self.untested,
        }


def compared_metrics(
    names: Sequence[str],
    parts: Sequence[Mapping[str, Any]],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> tuple[ComparedMetric, ...]:
    """Every metric with an interval of every part of scores.json, and its difference to the first run's.

    Args:
        names: Of the runs.
        parts: Of each run's scores.json the part in the decoding that is compared.
        answered: The predictions of each run, of the same rows.
        recipe: Says what the fields are.
    """
    return tuple(map(_with_reason, _metrics(names, parts, answered, recipe)))


def _metrics(
    names: Sequence[str],
    parts: Sequence[Mapping[str, Any]],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> Iterator[ComparedMetric]:
    against = [None, *(_compared(one, answered[0], recipe, names[0]) for one in answered[1:])]
    by_field = scorers(recipe)
    fields = [field for field in recipe.output.fields if any(field in part["fields"] for part in parts)]
    for field in (REPLY, *fields):
        found = [
            dict(_estimates(part["replies"] if field == REPLY else part["fields"].get(field, {}))) for part in parts
        ]
        for name in dict.fromkeys(name for one in found for name in one):
            if field != REPLY and name == OF_REPLIES:  # the same in every field, and there already
                continue
            tested = [None if one is None else one.get(field, {}).get(name) for one in against]
            yield ComparedMetric(field, name, tuple(one.get(name) for one in found), tuple(tested))
        if field != REPLY:
            labels = [part["fields"].get(field, {}).get("labels") or {} for part in parts]
            yield from _recalls(field, by_field[field], names, labels, answered, recipe.train.seed)
    other = [
        dict(_estimates({name: value for name, value in part.items() if name not in NOT_METRICS})) for part in parts
    ]
    for path in dict.fromkeys(path for one in other for path in one):
        field, name = _of_field(path, fields)
        yield ComparedMetric(field, name, tuple(one.get(path) for one in other), (None,) * len(parts))


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
    scores: Sequence[Mapping[str, Any]],
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
        for got, hits in zip((one.get(label) or {} for one in scores), said, strict=True):
            if interval := got.get("recall_interval"):
                values.append({"value": got["recall"], "low": interval[0], "high": interval[1]})
            else:
                values.append(mean_estimate(np.array(hits, dtype=float), seed).to_json())
        compared = [
            compare_tables(one, tables[0], names[0], seed)["accuracy"] for one in tables[1:]
        ]  # the share that is right, of rows that all expect the label: its recall
        yield ComparedMetric(field, f"recall.{label}", tuple(values), (None, *compared))


def _estimates(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every {"value", "low", "high"} in a part of scores.json by its dotted name; labels are left to `_recalls`."""
    for name, value in content.items():
        if not isinstance(value, Mapping) or (name == "labels" and not prefix):
            continue
        if value.keys() >= ESTIMATE:
            yield prefix + name, {key: value[key] for key in ("value", "low", "high")}
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
