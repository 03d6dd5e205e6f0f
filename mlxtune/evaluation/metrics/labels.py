"""Metrics of labels: expected and predicted ones to scores, each with its interval. NumPy and strings, no model, no files.

A prediction of None is a reply that could not be parsed. It is wrong everywhere: it matches nothing, and for precision,
recall and F1 it predicts no label. Two calls over equally many rows with one seed draw the same rows, so that their
resamples are paired.

    label_set_scores([("a", "b")], [("b",)], repeated=[False], labels=["a", "b"])["micro_f1"].value

`LABEL_METRICS` is the list of them: a new one is a line there and its formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.evaluation.metrics.estimates import (
    INTERVAL,
    Draws,
    Estimate,
    Floats,
    draw_sums,
    estimates,
    mean_estimate,
    means,
    ratio,
    resamples,
    widened,
)
from mlxtune.evaluation.metrics.metric import Metric
from mlxtune.json_values import read_dataclass


@dataclass(frozen=True)
class LabelCounts:
    """Who expects and who predicts which label.

    Attributes:
        gold: 1 where a row expects a label, (rows, labels).
        predicted: 1 where it was predicted.
        invalid: 1 where a reply could not be parsed, (rows,).
    """

    gold: NDArray[np.float32]
    predicted: NDArray[np.float32]
    invalid: NDArray[np.float32]

    @cached_property
    def hits(self) -> NDArray[np.float32]:
        """1 where a label that a row expects was predicted, (rows, labels)."""
        return self.gold * self.predicted


@dataclass(frozen=True)
class LabelSums:
    """Counts summed over the rows of each draw, (draws, labels) each.

    Attributes:
        hits: Rows that expect the label and were answered with it.
        both: Rows that expect it and rows that were answered with it, added up.
        occurs: Whether the label is expected or predicted anywhere in the data, (labels,).
    """

    hits: Floats
    both: Floats
    occurs: NDArray[np.bool_]


@dataclass(frozen=True)
class LabelMetric(Metric):
    """A metric of labels with its formula.

    Attributes:
        by_row: Its value at each row, (rows,), for those that are means over rows.
        pooled: Its value in each draw, (draws,), for those made of sums over rows.
    """

    by_row: Callable[[LabelCounts], NDArray[np.floating]] | None = None
    pooled: Callable[[LabelSums], Floats] | None = None


def _exact_match(counts: LabelCounts) -> NDArray[np.float32]:
    exact = np.all(counts.gold == counts.predicted, axis=1) & (counts.invalid == 0)
    return np.asarray(exact, dtype=np.float32)


def _accuracy(counts: LabelCounts) -> NDArray[np.float32]:
    return np.asarray(counts.hits.sum(1), dtype=np.float32)


def _partial_match(counts: LabelCounts) -> NDArray[np.float32]:
    return np.asarray(counts.hits.sum(1) > 0, dtype=np.float32)


def _sample_f1(counts: LabelCounts) -> NDArray[np.floating]:
    return ratio(2 * counts.hits.sum(1), counts.gold.sum(1) + counts.predicted.sum(1))


def _micro_f1(sums: LabelSums) -> Floats:
    return ratio(2 * sums.hits.sum(1), sums.both.sum(1))


def _macro_f1(sums: LabelSums) -> Floats:
    """Mean F1 over labels.

    A label that occurs in the data but not in a resample says nothing there and is left out of its mean; counted as 0
    it would pull the interval below the value. A label that occurs nowhere in the data counts 0, as in the value.
    """
    counted = (sums.both > 0) | ~sums.occurs
    return ratio(ratio(2 * sums.hits, sums.both).sum(1), counted.sum(1))


LABEL_METRICS: tuple[LabelMetric, ...] = (
    # Rows whose predicted set is the expected one / rows.
    LabelMetric(
        "exact_match", "exact match", "higher", "mcnemar", headline=True, beside="macro_f1", kinds=("labels",),
        selects=("labels",), by_row=_exact_match,
    ),
    # Rows whose predicted label is the expected one / rows.
    LabelMetric(
        "accuracy", "accuracy", "higher", "mcnemar", headline=True, beside="macro_f1", kinds=("label",), selects=("label",),
        by_row=_accuracy,
    ),
    # Rows with at least one expected label among the predicted ones / rows. Where one label stands for "none of them",
    # that is a label like any other: it must be predicted.
    LabelMetric(
        "partial_match", "partial match", "higher", "mcnemar", kinds=("labels",), selects=("labels",), by_row=_partial_match
    ),
    # 2 hits / (expected + predicted), each summed over rows and labels.
    LabelMetric("micro_f1", "micro F1", kinds=("labels",), selects=("labels",), pooled=_micro_f1),
    # Mean of the labels' F1 over the whole label list, as scikit-learn with `labels=` that list and `zero_division=0`:
    # a label that is neither expected nor predicted anywhere counts 0.
    LabelMetric("macro_f1", "macro F1", kinds=("label", "labels"), selects=("label", "labels"), pooled=_macro_f1),
    # Mean over rows of 2 hits / (expected + predicted) of that row.
    LabelMetric("sample_f1", "sample F1", kinds=("labels",), selects=("labels",), by_row=_sample_f1),
)  # fmt: skip


@dataclass(frozen=True)
class LabelScore:
    """One label against all others.

    Attributes:
        precision: Rows that expect it and were answered with it / rows answered with it; 0 / 0 counts as 0, as below.
        recall: The same rows / rows that expect it.
        f1: Of the two.
        support: Rows that expect it.
        recall_interval: [low, high], the 95% interval of the recall; None where fewer than two rows expect the label, and
            for the labels of an open list, of which there may be thousands.
    """

    precision: float
    recall: float
    f1: float
    support: int
    recall_interval: list[float] | None = None


@dataclass(frozen=True)
class GroupScore:
    """Rows that expect equally many labels."""

    rows: int
    exact_match: Estimate


@dataclass(frozen=True)
class Confusion:
    """`counts[e][p]` rows expect `labels[e]` and were answered `labels[p]`; `invalid[e]` of them got no label.

    `percent` and `invalid_percent` are the same in percent of the rows that expect `labels[e]`, 0 where none does.
    """

    labels: list[str]
    counts: list[list[int]]
    invalid: list[int]
    percent: list[list[float]]
    invalid_percent: list[float]


@dataclass(frozen=True)
class LabelScores:
    """How well the labels of one field were predicted.

    Attributes:
        metrics: Metric -> its value; those of `LABEL_METRICS` that the kind of field has, and the shares of replies without a
            value (invalid_rate) and of replies that say a label again, or loop (repeated_rate).
        labels: Label -> its scores.
        by_count: Number of expected labels, as text -> the rows with that many; None for one label a row.
        confusion: Of one label a row; None for sets.
    """

    metrics: Mapping[str, Estimate]
    labels: Mapping[str, LabelScore]
    by_count: Mapping[str, GroupScore] | None = None
    confusion: Confusion | None = None

    def __getitem__(self, metric: str) -> Estimate:
        """One of the metrics."""
        return self.metrics[metric]

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        content: dict[str, Any] = {name: one.to_json() for name, one in self.metrics.items()}
        content["labels"] = {label: asdict(one) for label, one in self.labels.items()}
        if self.by_count is not None:
            content["by_count"] = {count: asdict(group) for count, group in self.by_count.items()}
        if self.confusion is not None:
            content["confusion"] = asdict(self.confusion)
        return content

    @classmethod
    def from_json(cls, content: Any) -> LabelScores:
        """What `to_json` says."""
        return read_dataclass(cls, content, rest="metrics")


@dataclass(frozen=True)
class LabelTable:
    """The metrics of one field's predictions for any draw of its rows.

    Attributes:
        labels: The label list.
        counts: Who expects and predicts which.
        rows: Metric -> its value at each row, (rows,), for those that are means over rows.
        pooled: Those made of sums over rows instead.
    """

    labels: Sequence[str]
    counts: LabelCounts
    rows: Mapping[str, NDArray[np.floating]]
    pooled: Mapping[str, Callable[[LabelSums], Floats]]

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.counts.gold)

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every metric of each draw, (draws,)."""
        counts = self.counts
        sums = LabelSums(
            draw_sums(draws, counts.hits),
            draw_sums(draws, counts.gold) + draw_sums(draws, counts.predicted),
            np.any((counts.gold + counts.predicted) > 0, axis=0),
        )
        return {**{name: formula(sums) for name, formula in self.pooled.items()}, **means(draws, self.rows)}


def label_set_scores(
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    repeated: Sequence[bool],
    labels: Sequence[str] | None,
    seed: int = 0,
) -> LabelScores:
    """Score label sets; order and repetition within a set do not count.

    Args:
        expected: The expected labels of each row.
        predicted: The predicted labels of each row; None where the reply could not be parsed.
        repeated: Whether each reply repeats itself.
        labels: The label list; None for an open set, whose list is every label expected or predicted anywhere.
        seed: Of the resampling.

    Returns:
        The scores, over at least one row.

    >>> scores = label_set_scores([("a",), ("a", "b")], [("a",), None], [False, False], ["a", "b"])
    >>> scores["exact_match"].value, scores["micro_f1"].value, scores.labels["b"].support
    (0.5, 0.5, 1)
    """
    table = label_set_table(expected, predicted, repeated, labels)
    exact = table.rows["exact_match"]
    sizes = table.counts.gold.sum(1).astype(int)
    return LabelScores(
        _metrics(table, "labels", seed),
        _label_scores(table, None if labels is None else recall_intervals(table, seed)),
        by_count={
            str(size): GroupScore(int((sizes == size).sum()), mean_estimate(exact[sizes == size], seed))
            for size in sorted(set(sizes.tolist()))
        },
    )


def label_scores(
    expected: Sequence[str],
    predicted: Sequence[str | None],
    repeated: Sequence[bool],
    labels: Sequence[str],
    seed: int = 0,
) -> LabelScores:
    """Score one label a row; arguments as for `label_set_scores`.

    >>> scores = label_scores(["a", "b", "b"], ["a", None, "a"], [False] * 3, ["a", "b"])
    >>> round(scores["accuracy"].value, 3), scores.confusion.counts, scores.confusion.invalid
    (0.333, [[1, 0], [1, 0]], [0, 1])
    """
    table = label_table(expected, predicted, repeated, labels)
    counts = (table.counts.gold.T @ table.counts.predicted).astype(int)
    invalid = (table.counts.gold.T @ table.counts.invalid).astype(int)
    support = table.counts.gold.sum(0)
    return LabelScores(
        _metrics(table, "label", seed),
        _label_scores(table, recall_intervals(table, seed)),
        confusion=Confusion(
            list(labels),
            counts.tolist(),
            invalid.tolist(),
            (100 * ratio(counts, np.broadcast_to(support[:, None], counts.shape))).tolist(),
            (100 * ratio(invalid, support)).tolist(),
        ),
    )


def label_set_table(
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    repeated: Sequence[bool],
    labels: Sequence[str] | None,
) -> LabelTable:
    """The metrics of `label_set_scores` for any draw of the rows; arguments as there."""
    if labels is None:
        labels = sorted({label for labels_of_row in (*expected, *predicted) for label in labels_of_row or ()})
    return _table("labels", expected, predicted, repeated, labels)


def label_table(
    expected: Sequence[str], predicted: Sequence[str | None], repeated: Sequence[bool], labels: Sequence[str]
) -> LabelTable:
    """The metrics of `label_scores` for any draw of the rows; arguments as there."""
    one_each = [None if label is None else (label,) for label in predicted]
    return _table("label", [(label,) for label in expected], one_each, repeated, labels)


def recall_intervals(table: LabelTable, seed: int) -> list[list[float] | None]:
    """The 95% interval of each label's recall over resamples of the rows, [low, high]; None below two rows that expect it.

    Resamples without a row that expects the label say nothing of it and are left out.
    """
    n_expecting = table.counts.gold.sum(0)
    if table.n_rows < 2:
        return [None] * len(n_expecting)
    parts = []
    for draws in resamples(table.n_rows, seed):
        hits, expecting = draw_sums(draws, table.counts.hits), draw_sums(draws, table.counts.gold)
        parts.append(np.where(expecting > 0, ratio(hits, expecting), np.nan))
    drawn = np.concatenate(parts)
    found: list[list[float] | None] = []
    for label, n_rows in enumerate(n_expecting.astype(int).tolist()):
        if n_rows < 2:
            found.append(None)
            continue
        low, high = np.nanpercentile(drawn[:, label], INTERVAL)
        value = float(table.counts.hits[:, label].sum() / n_rows)
        estimate = widened(Estimate(value, float(low), float(high)), n_rows)
        assert estimate.low is not None and estimate.high is not None
        found.append([estimate.low, estimate.high])
    return found


def _indicator(rows: Sequence[Sequence[str] | None], labels: Sequence[str]) -> NDArray[np.float32]:
    """1 where a row has a label, (rows, labels); a row of None has none."""
    index = {label: position for position, label in enumerate(labels)}
    matrix = np.zeros((len(rows), len(labels)), dtype=np.float32)
    for position, row in enumerate(rows):
        for label in row or ():
            matrix[position, index[label]] = 1
    return matrix


def _column(flags: Sequence[bool] | Iterator[bool]) -> NDArray[np.float32]:
    return np.fromiter(flags, dtype=np.float32)


def _table(
    kind: str,
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    repeated: Sequence[bool],
    labels: Sequence[str],
) -> LabelTable:
    counts = LabelCounts(
        _indicator(expected, labels), _indicator(predicted, labels), _column(row is None for row in predicted)
    )
    of_kind = [one for one in LABEL_METRICS if kind in one.kinds]
    rows = {one.name: one.by_row(counts) for one in of_kind if one.by_row is not None}
    rows |= {"invalid_rate": counts.invalid, "repeated_rate": _column(repeated)}
    return LabelTable(list(labels), counts, rows, {one.name: one.pooled for one in of_kind if one.pooled is not None})


def _metrics(table: LabelTable, kind: str, seed: int) -> dict[str, Estimate]:
    """Each metric with its interval, in the order of `LABEL_METRICS`."""
    found = estimates(table, seed)
    order = [one.name for one in LABEL_METRICS if kind in one.kinds]
    return {name: found[name] for name in (*order, "invalid_rate", "repeated_rate")}


def _label_scores(table: LabelTable, intervals: Sequence[list[float] | None] | None) -> dict[str, LabelScore]:
    """Each label's scores; `intervals` are its recall's."""
    matrices = (table.counts.hits, table.counts.gold, table.counts.predicted)
    tp, expected, predicted = (matrix.sum(0, dtype=np.float64) for matrix in matrices)
    precision, recall, f1 = (ratio(tp, predicted), ratio(tp, expected), ratio(2 * tp, expected + predicted))
    return {
        label: LabelScore(
            float(precision[i]), float(recall[i]), float(f1[i]), int(expected[i]), intervals[i] if intervals else None
        )
        for i, label in enumerate(table.labels)
    }
