"""The probability from which on a label is said, chosen on rows whose labels are known. NumPy; no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT = 0.5  # where nothing speaks for another


@dataclass(frozen=True)
class LabelThreshold:
    """The threshold of one label.

    Attributes:
        threshold: A label of this probability or more is said.
        f1: Of the label on the rows that chose the threshold.
        default_f1: Of the label on the same rows at `DEFAULT`.
        support: Of these rows, how many expect the label.
    """

    threshold: float
    f1: float
    default_f1: float
    support: int


def best_threshold(probabilities: NDArray[np.float64], expected: NDArray[np.bool_]) -> LabelThreshold:
    """The threshold of largest F1.

    Any threshold between two neighbouring probabilities says the same rows: halfway is taken, or `DEFAULT` where it lies
    between them. Of thresholds of equal F1 the one nearest to `DEFAULT` is taken, of two as near the higher; so a label
    that no row expects, or that `DEFAULT` serves as well, keeps it.

    Args:
        probabilities: Of the label, (rows,).
        expected: Whether each row expects it, (rows,).

    >>> best_threshold(np.array([0.9, 0.4, 0.35, 0.1]), np.array([True, True, False, False])).threshold
    0.375
    >>> best_threshold(np.array([0.9, 0.2]), np.array([True, False]))
    LabelThreshold(threshold=0.5, f1=1.0, default_f1=1.0, support=1)
    """
    known = np.unique(np.concatenate([[0.0], probabilities]))
    candidates = np.append((known[1:] + known[:-1]) / 2, DEFAULT)
    said = probabilities >= candidates[:, None]  # (candidates, rows)
    hits, both = (said & expected).sum(1), said.sum(1) + expected.sum()
    f1 = np.where(both > 0, 2 * hits / np.maximum(both, 1), 0.0)
    order = np.lexsort((-candidates, np.round(np.abs(candidates - DEFAULT), 12), -f1))
    chosen = int(order[0])
    return LabelThreshold(float(candidates[chosen]), float(f1[chosen]), float(f1[-1]), int(expected.sum()))
