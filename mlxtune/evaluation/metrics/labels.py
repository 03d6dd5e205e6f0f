"""Metrics over expected and predicted labels: NumPy and strings, no model, no tokenizer, no backend.

A prediction of None is a reply that could not be parsed. It is wrong everywhere: it matches nothing, and for
precision, recall and F1 it predicts no label. Every headline figure is an `Estimate` with a 95% percentile bootstrap
interval over rows. Two calls over equally many rows with one seed draw the same rows, so their resamples are paired.

    label_set_scores([("a", "b")], [("b",)], repeated=[False], labels=["a", "b"]).micro_f1.value
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

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
class LabelSetScores:
    """How well sets of labels were predicted.

    Attributes:
        exact_match: Rows whose predicted set is the expected one / rows.
        partial_match: Rows with at least one expected label among the predicted ones / rows. Where one label stands
            for "none of them", that is a label like any other: it must be predicted.
        micro_f1: 2 hits / (expected + predicted), each summed over rows and labels.
        macro_f1: Mean of the labels' F1 over the whole label list, as scikit-learn with `labels=` that list and
            `zero_division=0`: a label that is neither expected nor predicted anywhere counts 0.
        sample_f1: Mean over rows of 2 hits / (expected + predicted) of that row.
        invalid_rate: Rows without a value / rows.
        repeated_rate: Rows whose reply says a label again, or loops / rows.
        labels: Label -> its scores.
        by_count: Number of expected labels, as text -> the rows with that many.
    """

    exact_match: Estimate
    partial_match: Estimate
    micro_f1: Estimate
    macro_f1: Estimate
    sample_f1: Estimate
    invalid_rate: Estimate
    repeated_rate: Estimate
    labels: dict[str, LabelScore]
    by_count: dict[str, GroupScore]


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
    """How well one label a row was predicted; see `LabelSetScores` for what the names mean."""

    accuracy: Estimate
    macro_f1: Estimate
    invalid_rate: Estimate
    repeated_rate: Estimate
    labels: dict[str, LabelScore]
    confusion: Confusion


@dataclass(frozen=True)
class Figures:
    """The headline figures of one field's predictions, for any draw of its rows.

    Attributes:
        labels: The label list.
        right: 1 where a row expects a label, (rows, labels).
        said: 1 where it was predicted.
        rows: Figure -> its value at each row, (rows,), for those that are means over rows.
        pooled: Those made of counts over rows instead: micro_f1, macro_f1.
    """

    labels: list[str]
    right: NDArray[np.float32]
    said: NDArray[np.float32]
    rows: Mapping[str, NDArray[np.floating]]
    pooled: tuple[str, ...]

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self.right)

    @cached_property
    def hits(self) -> NDArray[np.float32]:
        """1 where a label that a row expects was predicted, (rows, labels)."""
        return self.right * self.said

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every figure of each draw, (draws,)."""
        tp, both = draw_sums(draws, self.hits), draw_sums(draws, self.right) + draw_sums(draws, self.said)
        occurs = np.any((self.right + self.said) > 0, axis=0)
        found = {
            "micro_f1": ratio(2 * tp.sum(1), both.sum(1)),
            "macro_f1": _macro(ratio(2 * tp, both), both > 0, occurs),
        }
        return {**{name: found[name] for name in self.pooled}, **means(draws, self.rows)}


def label_set_scores(
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    repeated: Sequence[bool],
    labels: Sequence[str] | None,
    seed: int = 0,
) -> LabelSetScores:
    """Score label sets; order and repetition within a set do not count.

    Args:
        expected: The right labels of each row.
        predicted: The predicted labels of each row; None where the reply could not be parsed.
        repeated: Whether each reply repeats itself.
        labels: The label list; None for an open set, whose list is every label expected or predicted anywhere.
        seed: Of the resampling.

    Returns:
        The scores, over at least one row.

    >>> scores = label_set_scores([("a",), ("a", "b")], [("a",), None], [False, False], ["a", "b"])
    >>> scores.exact_match.value, scores.micro_f1.value, scores.labels["b"].support
    (0.5, 0.5, 1)
    """
    is_open = labels is None
    figures = label_set_figures(expected, predicted, repeated, labels)
    exact = figures.rows["exact_match"]
    sizes = figures.right.sum(1).astype(int)
    return LabelSetScores(
        **estimates(figures, seed),
        labels=_label_scores(figures, None if is_open else recall_intervals(figures, seed)),
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
    >>> round(scores.accuracy.value, 3), scores.confusion.counts, scores.confusion.invalid
    (0.333, [[1, 0], [1, 0]], [0, 1])
    """
    figures = label_figures(expected, predicted, repeated, labels)
    counts = (figures.right.T @ figures.said).astype(int)
    invalid = (figures.right.T @ figures.rows["invalid_rate"]).astype(int)
    support = figures.right.sum(0)
    return LabelScores(
        **estimates(figures, seed),
        labels=_label_scores(figures, recall_intervals(figures, seed)),
        confusion=Confusion(
            list(labels),
            counts.tolist(),
            invalid.tolist(),
            (100 * ratio(counts, np.broadcast_to(support[:, None], counts.shape))).tolist(),
            (100 * ratio(invalid, support)).tolist(),
        ),
    )


def label_set_figures(
    expected: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str] | None],
    repeated: Sequence[bool],
    labels: Sequence[str] | None,
) -> Figures:
    """The headline figures of `label_set_scores` over any draw of the rows; arguments as there."""
    if labels is None:
        labels = sorted({label for labels_of_row in (*expected, *predicted) for label in labels_of_row or ()})
    right = _indicator(expected, labels)  # (rows, labels)
    said = _indicator(predicted, labels)
    invalid = _column(row is None for row in predicted)
    hits = right * said
    n_hits, n_both = hits.sum(1), right.sum(1) + said.sum(1)
    exact = np.all(right == said, axis=1) & (invalid == 0)
    rows: dict[str, NDArray[np.floating]] = {
        "exact_match": exact.astype(np.float32),
        "partial_match": (n_hits > 0).astype(np.float32),
        "sample_f1": ratio(2 * n_hits, n_both),
        "invalid_rate": invalid,
        "repeated_rate": _column(repeated),
    }
    return Figures(list(labels), right, said, rows, ("micro_f1", "macro_f1"))


def label_figures(
    expected: Sequence[str], predicted: Sequence[str | None], repeated: Sequence[bool], labels: Sequence[str]
) -> Figures:
    """The headline figures of `label_scores` over any draw of the rows; arguments as there."""
    right = _indicator([(label,) for label in expected], labels)
    said = _indicator([None if label is None else (label,) for label in predicted], labels)
    rows: dict[str, NDArray[np.floating]] = {
        "accuracy": (right * said).sum(1),
        "invalid_rate": _column(label is None for label in predicted),
        "repeated_rate": _column(repeated),
    }
    return Figures(list(labels), right, said, rows, ("macro_f1",))


def recall_intervals(figures: Figures, seed: int) -> list[list[float] | None]:
    """The 95% interval of each label's recall over resamples of the rows, [low, high]; None below two rows that expect it.

    Resamples without a row that expects the label say nothing of it and are left out.
    """
    n_expecting = figures.right.sum(0)
    if figures.n_rows < 2:
        return [None] * len(n_expecting)
    parts = []
    for draws in resamples(figures.n_rows, seed):
        hits, expecting = draw_sums(draws, figures.hits), draw_sums(draws, figures.right)
        parts.append(np.where(expecting > 0, ratio(hits, expecting), np.nan))
    drawn = np.concatenate(parts)
    found: list[list[float] | None] = []
    for label, n_rows in enumerate(n_expecting.astype(int).tolist()):
        if n_rows < 2:
            found.append(None)
            continue
        low, high = np.nanpercentile(drawn[:, label], INTERVAL)
        value = float(figures.hits[:, label].sum() / n_rows)
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


def _macro(f1: Floats, drawn: NDArray[np.bool_], occurs: NDArray[np.bool_]) -> Floats:
    """Mean F1 over labels, (resamples,).

    A label that occurs in the data but not in a resample says nothing there and is left out of its mean; counted as 0
    it would pull the interval below the value. A label that occurs nowhere in the data counts 0, as in the value.
    """
    counted = drawn | ~occurs
    return ratio(f1.sum(1), counted.sum(1))


def _label_scores(figures: Figures, intervals: Sequence[list[float] | None] | None) -> dict[str, LabelScore]:
    """Each label's scores; `intervals` are its recall's."""
    matrices = (figures.hits, figures.right, figures.said)
    tp, expected, predicted = (matrix.sum(0, dtype=np.float64) for matrix in matrices)
    precision, recall, f1 = (ratio(tp, predicted), ratio(tp, expected), ratio(2 * tp, expected + predicted))
    return {
        label: LabelScore(
            float(precision[i]), float(recall[i]), float(f1[i]), int(expected[i]), intervals[i] if intervals else None
        )
        for i, label in enumerate(figures.labels)
    }
