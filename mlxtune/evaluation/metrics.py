"""Metrics over expected and predicted labels: NumPy and strings, no model, no tokenizer, no backend.

A prediction of None is a reply that could not be parsed. It is wrong everywhere: it matches nothing, and for
precision, recall and F1 it predicts no label. Every headline figure is an `Estimate` with a 95% percentile bootstrap
interval over rows. Two calls over equally many rows with one seed draw the same rows, so their resamples are paired.

    label_set_scores([("a", "b")], [("b",)], repeated=[False], labels=["a", "b"]).micro_f1.value
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 1000
Z_95 = 1.959964  # of the normal distribution
INTERVAL = (2.5, 97.5)  # percentiles of the resampled figures
_CHUNK_CELLS = 2_000_000  # resamples x rows held at once

Floats = NDArray[np.float64]
Draws = NDArray[np.float32]  # how often each resample drew each row, (resamples, rows); exact up to 2**24


@dataclass(frozen=True)
class Estimate:
    """A figure over rows and its 95% interval, which is None where there are fewer than two rows."""

    value: float
    low: float | None
    high: float | None


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


class Rated(Protocol):
    """Rows of predictions whose figures can be had for any draw of them."""

    @property
    def rows(self) -> Mapping[str, NDArray[np.floating]]:
        """Figure -> its value at each row, (rows,), for those that are means over rows."""

    @property
    def n_rows(self) -> int:
        """How many there are."""

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every figure of each draw, (draws,)."""


@dataclass(frozen=True)
class Means:
    """Figures that are means over rows, and nothing else."""

    rows: Mapping[str, NDArray[np.floating]]

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.rows.values())))

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every figure of each draw, (draws,)."""
        return means(draws, self.rows)


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
        tp, both = _sums(draws, self.hits), _sums(draws, self.right) + _sums(draws, self.said)
        occurs = np.any((self.right + self.said) > 0, axis=0)
        found = {
            "micro_f1": _ratio(2 * tp.sum(1), both.sum(1)),
            "macro_f1": _macro(_ratio(2 * tp, both), both > 0, occurs),
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
            (100 * _ratio(counts, np.broadcast_to(support[:, None], counts.shape))).tolist(),
            (100 * _ratio(invalid, support)).tolist(),
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
        "sample_f1": _ratio(2 * n_hits, n_both),
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


def mean_estimate(values: Sequence[float] | NDArray[np.generic], seed: int = 0) -> Estimate:
    """The mean of one value a row, with its interval."""
    return estimates(Means({"mean": np.asarray(values, dtype=np.float64)}), seed)["mean"]


def estimates(rated: Rated, seed: int, unbounded: Collection[str] = ()) -> dict[str, Estimate]:
    """Each figure over all rows, and its interval over resamples of them.

    Args:
        rated: At least one row.
        seed: Of the resampling.
        unbounded: Figures that may exceed 1.
    """
    n_rows = rated.n_rows
    if n_rows == 0:
        raise ValueError("no rows to score")
    values = rated.of(np.ones((1, n_rows), dtype=np.float32))
    if n_rows < 2:
        return {name: Estimate(float(value[0]), None, None) for name, value in values.items()}
    parts = [rated.of(draws) for draws in resamples(n_rows, seed)]
    found = {}
    for name, value in values.items():
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), INTERVAL)
        estimate = Estimate(float(value[0]), float(low), float(high))
        found[name] = estimate if name in unbounded else _widened(estimate, n_rows)
    return found


def recall_intervals(figures: Figures, seed: int) -> list[list[float] | None]:
    """The 95% interval of each label's recall over resamples of the rows, [low, high]; None below two rows that expect it.

    Resamples without a row that expects the label say nothing of it and are left out.
    """
    n_expecting = figures.right.sum(0)
    if figures.n_rows < 2:
        return [None] * len(n_expecting)
    parts = []
    for draws in resamples(figures.n_rows, seed):
        hits, expecting = _sums(draws, figures.hits), _sums(draws, figures.right)
        parts.append(np.where(expecting > 0, _ratio(hits, expecting), np.nan))
    drawn = np.concatenate(parts)
    found: list[list[float] | None] = []
    for label, n_rows in enumerate(n_expecting.astype(int).tolist()):
        if n_rows < 2:
            found.append(None)
            continue
        low, high = np.nanpercentile(drawn[:, label], INTERVAL)
        value = float(figures.hits[:, label].sum() / n_rows)
        estimate = _widened(Estimate(value, float(low), float(high)), n_rows)
        assert estimate.low is not None and estimate.high is not None
        found.append([estimate.low, estimate.high])
    return found


def _widened(estimate: Estimate, n_rows: int) -> Estimate:
    """At 0 or 1 every resample says the same, which is not certainty: there the bound is Wilson's (1927).

    68 rows without a mistake leave room for an accuracy of 0.947.
    """
    room = Z_95**2 / (n_rows + Z_95**2)
    if estimate.value == estimate.low == estimate.high == 0:
        return Estimate(0.0, 0.0, room)
    if estimate.value == estimate.low == estimate.high == 1:
        return Estimate(1.0, 1.0 - room, 1.0)
    return estimate


def resamples(n_rows: int, seed: int) -> Iterator[Draws]:
    """`N_RESAMPLES` draws of `n_rows` rows with replacement, as counts, some at a time."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _CHUNK_CELLS // n_rows)
    for start in range(0, N_RESAMPLES, at_once):
        size = min(at_once, N_RESAMPLES - start)
        drawn = rng.integers(n_rows, size=(size, n_rows)) + n_rows * np.arange(size)[:, None]
        yield (np.bincount(drawn.ravel(), minlength=size * n_rows).reshape(size, n_rows).astype(np.float32))


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


def _sums(draws: Draws, per_row: NDArray[np.float32]) -> Floats:
    """Sums over the drawn rows, (resamples, ...): whole numbers, so float32 is exact until they are divided."""
    return (draws @ per_row).astype(np.float64)


def means(draws: Draws, columns: Mapping[str, NDArray[np.floating]]) -> dict[str, Floats]:
    """The mean of each column over the drawn rows, (resamples,)."""
    sums = draws.astype(np.float64) @ np.stack([np.asarray(column) for column in columns.values()], axis=1)
    return dict(zip(columns, (sums / draws.shape[1]).T, strict=True))


def _ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> Floats:
    """Numerator / denominator, and 0 where the denominator is 0."""
    quotient: Floats = np.zeros(np.shape(denominator), dtype=np.float64)
    numerator, denominator = (numerator.astype(np.float64), denominator.astype(np.float64))
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _macro(f1: Floats, drawn: NDArray[np.bool_], occurs: NDArray[np.bool_]) -> Floats:
    """Mean F1 over labels, (resamples,).

    A label that occurs in the data but not in a resample says nothing there and is left out of its mean; counted as 0
    it would pull the interval below the value. A label that occurs nowhere in the data counts 0, as in the value.
    """
    counted = drawn | ~occurs
    return _ratio(f1.sum(1), counted.sum(1))


def _label_scores(figures: Figures, intervals: Sequence[list[float] | None] | None) -> dict[str, LabelScore]:
    """Each label's scores; `intervals` are its recall's."""
    matrices = (figures.hits, figures.right, figures.said)
    tp, expected, predicted = (matrix.sum(0, dtype=np.float64) for matrix in matrices)
    precision, recall, f1 = (_ratio(tp, predicted), _ratio(tp, expected), _ratio(2 * tp, expected + predicted))
    return {
        label: LabelScore(
            float(precision[i]), float(recall[i]), float(f1[i]), int(expected[i]), intervals[i] if intervals else None
        )
        for i, label in enumerate(figures.labels)
    }
