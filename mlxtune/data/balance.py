"""Balancing: as many rows of one label, or of one set of labels, as of another. Positions and counts, no reading.

balanced = balance(["high", "low", "high"], "oversample", seed=0)   # balanced.positions: [0, 1, 1, 2]
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["oversample", "undersample"]

MAX_REPEATS = 10
UNIT = 2**40  # 1, in the whole numbers that worth is counted in
NEVER = 2**60  # more than any row is worth


@dataclass(frozen=True)
class Balanced:
    """What balancing chose, and its figures.

    Attributes:
        positions: Rows in order; a repeated row stands there repeatedly.
        n_before: Rows there were.
        before: Class -> rows, most frequent first; classes are sets of labels, or single labels.
        after: The same once balanced.
        most_repeats: How often the row stands there that does so most.
        uneven: Class -> rows, of `after`, those that are still further from the others than was asked: rarer than
            `ratio` times the most frequent where rows were repeated, more frequent than 1 / `ratio` times the rarest where left out.
    """

    positions: tuple[int, ...]
    n_before: int
    before: Mapping[str, int]
    after: Mapping[str, int]
    most_repeats: int
    uneven: Mapping[str, int]

    @property
    def ratio_before(self) -> float:
        """Rows of the rarest class, over rows of the most frequent."""
        return _ratio(self.before)

    @property
    def ratio_reached(self) -> float:
        """The same once balanced."""
        return _ratio(self.after)

    @property
    def n_left_out(self) -> int:
        """Rows that stand in `positions` no more."""
        return self.n_before - len(set(self.positions))

    def as_json(self) -> dict[str, Any]:
        """For run.json and --json."""
        return {
            "before": dict(self.before),
            "after": dict(self.after),
            "ratio_before": round(self.ratio_before, 4),
            "ratio_reached": round(self.ratio_reached, 4),
            "rows_before": self.n_before,
            "rows_after": len(self.positions),
            "left_out": self.n_left_out,
            "most_repeats": self.most_repeats,
            "uneven": dict(self.uneven),
        }


def balance(
    classes: Sequence[str], method: Method, seed: int, ratio: float = 1.0, max_repeats: int = MAX_REPEATS
) -> Balanced:
    """Rows such that no class is much rarer than another: a pure function of its arguments.

    Args:
        classes: Of each row: its label, or its set of labels as one text.
        method: "oversample" repeats rows of a class rarer than `ratio` times the most frequent one up to that count, each
            equally often but for a remainder drawn at random; "undersample" draws the rows of a class commoner than
            1 / `ratio` times the rarest one down to that count.
        seed: Of the draw.
        ratio: In (0, 1]; 1 makes all classes equally common.
        max_repeats: Copies of one row at most.
    """
    of_class: dict[str, list[int]] = {}
    for position, name in enumerate(classes):
        of_class.setdefault(name, []).append(position)
    least, most = _bounds([len(rows) for rows in of_class.values()], method, ratio)
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    for name in sorted(of_class):
        rows = of_class[name]
        size = len(rows)
        wanted = min(max(size, least), size * max_repeats) if method == "oversample" else min(size, most)
        whole, rest = divmod(wanted, size)
        chosen += rows * whole
        chosen += [rows[index] for index in random.choice(size, rest, replace=False)]
    return _balanced(chosen, [(name,) for name in classes], method, ratio)


def balance_labels(
    label_sets: Sequence[Iterable[str]],
    method: Method,
    seed: int,
    ratio: float = 1.0,
    max_repeats: int = MAX_REPEATS,
) -> Balanced:
    """Rows such that no single label is much rarer than another, as far as rows with several labels allow.

    One row after the other is repeated, or left out, always one of the set of labels that it is most worth for, until
    it is worth its cost for none. To repeat a row is worth 1 / count for each of its labels that is rarer than `ratio` times
    the most frequent, once repeated; where it makes the most frequent more frequent still, it costs 1 / count of that for each label
    that is too rare, and once more. To leave a row out is worth, for each of its labels that is commoner than
    1 / `ratio` times the rarest, as many rows as that are too many; no row of the rarest label goes. A pure function
    of its arguments.

    Args:
        label_sets: Of each row; order and repetition do not matter.
        method: "oversample" repeats rows, "undersample" leaves rows out.
        seed: Decides which rows of one set of labels are repeated once more, or left out.
        ratio: In (0, 1].
        max_repeats: Copies of one row at most.
    """
    distinct = [tuple(sorted(set(labels))) for labels in label_sets]
    random = np.random.default_rng(seed)
    rows_of: dict[tuple[str, ...], list[int]] = {}
    for position, labels in enumerate(distinct):
        rows_of.setdefault(labels, []).append(position)
    sets = sorted(rows_of)
    n_copies = _copies_of_sets(sets, [len(rows_of[labels]) for labels in sets], method, ratio, max_repeats)
    chosen: list[int] = []
    for labels, copies in zip(sets, n_copies, strict=True):
        rows = rows_of[labels]
        whole, rest = divmod(copies, len(rows))
        chosen += rows * whole
        chosen += [rows[index] for index in random.choice(len(rows), rest, replace=False)]
    return _balanced(chosen, distinct, method, ratio)


def _copies_of_sets(
    sets: Sequence[Sequence[str]], sizes: Sequence[int], method: Method, ratio: float, max_repeats: int
) -> list[int]:
    """How many rows, copies counted, each set of labels shall have."""
    names = sorted({label for labels in sets for label in labels})
    place = {label: index for index, label in enumerate(names)}
    labels_of = [np.array([place[label] for label in labels], np.int64) for labels in sets]
    sets_with: list[list[int]] = [[] for _ in names]
    for index, labels in enumerate(labels_of):
        for label in labels:
            sets_with[label].append(index)
    holders = [np.array(indices, np.int64) for indices in sets_with]
    size = np.array(sizes, np.int64)
    counts = np.array([size[indices].sum() for indices in holders], np.int64)
    n_labels = np.array([len(labels) for labels in labels_of], np.int64)
    oversample = method == "oversample"
    copies = size.copy()
    end = size * max_repeats if oversample else np.zeros_like(size)
    worth, at_edge = np.zeros_like(counts), np.zeros_like(counts)  # of each label
    gain, edges = np.zeros_like(size), np.zeros_like(size)  # of each set: the sums over its labels
    while len(sets):
        least, most = _bounds(counts, method, ratio)
        worth, old_worth = _worth(counts, least, most, oversample), worth
        at_edge, old_edge = (counts == (most if oversample else least)).astype(np.int64), at_edge
        for label in np.flatnonzero(worth != old_worth):
            gain[holders[label]] += worth[label] - old_worth[label]
        for label in np.flatnonzero(at_edge != old_edge):
            edges[holders[label]] += at_edge[label] - old_edge[label]
        # Less one unit: what is worth its cost exactly is done.
        cost = (int((counts < least).sum()) + 1) * (UNIT // (most + 1)) - 1 if oversample else NEVER
        score = gain - cost * (edges > 0)
        if score.max() <= 0:
            break
        # Among equals, the one that moves the fewest other labels, then the one whose rows are repeated least, or many.
        equals = np.flatnonzero(score == score.max())
        evenly = copies[equals] / size[equals] if oversample else -copies[equals]
        best = int(equals[np.lexsort((evenly, n_labels[equals]))[0]])
        copies[best] += 1 if oversample else -1
        counts[labels_of[best]] += 1 if oversample else -1
        if copies[best] == end[best]:
            gain[best] -= NEVER
    return [int(count) for count in copies]


def _worth(counts: NDArray[np.int64], least: int, most: int, oversample: bool) -> NDArray[np.int64]:
    """What one row more of each label, or one less, is worth; in whole numbers, so that all machines agree."""
    if oversample:
        return np.where(counts < least, UNIT // (counts + 1), 0)
    return np.maximum(0, counts - most)


def _bounds(counts: Sequence[int] | NDArray[np.int64], method: Method, ratio: float) -> tuple[int, int]:
    """Between which counts all classes shall lie."""
    if not len(counts):
        return 0, 0
    exact = Fraction(str(ratio))  # as it is written: 0.07 of 100 is 7, not 8
    rarest, most_frequent = int(np.min(counts)), int(np.max(counts))
    return (
        (math.ceil(most_frequent * exact), most_frequent)
        if method == "oversample"
        else (rarest, math.floor(rarest / exact))
    )


def _balanced(chosen: Sequence[int], classes: Sequence[Iterable[str]], method: Method, ratio: float) -> Balanced:
    before = Counter(name for names in classes for name in names)
    after = Counter(name for position in chosen for name in classes[position])
    order = [name for name, _ in before.most_common()]
    least, most = _bounds([after[name] for name in order], method, ratio)
    return Balanced(
        positions=tuple(sorted(chosen)),
        n_before=len(classes),
        before={name: before[name] for name in order},
        after={name: after[name] for name in order},
        most_repeats=max(Counter(chosen).values(), default=0),
        uneven={name: after[name] for name in order if not least <= after[name] <= most},
    )


def _ratio(counts: Mapping[str, int]) -> float:
    return min(counts.values()) / max(counts.values()) if counts else 1.0
