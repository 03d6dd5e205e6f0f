"""What probabilities are worth: do they hold, and how many rows could be answered by them? NumPy; no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_BINS = 10
PRECISION = 0.95

Confidences = Sequence[float | None]  # probability of what was predicted; None where nothing was


@dataclass(frozen=True)
class Bin:
    """Rows whose confidence lies in [low, high); the last bin holds 1 too. Means are None where it is empty."""

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How well confidence foretells being right.

    Attributes:
        rows: Rows with a confidence; those without one are left out here.
        expected_calibration_error: sum over bins of rows in it / rows x |accuracy - mean confidence|, over `N_BINS`
            equal-width bins (Guo et al. 2017, equation 3); None without rows.
        reliability: The bins.
    """

    rows: int
    expected_calibration_error: float | None
    reliability: list[Bin]


@dataclass(frozen=True)
class Coverage:
    """Rows that could be answered at a threshold if the rest went to a person.

    Attributes:
        threshold: Least confidence that is answered; None where no threshold reached the precision: nothing is answered.
        coverage: Rows answered / all rows.
        precision: Right ones among them / rows answered; None without any.
    """

    threshold: float | None
    coverage: float
    precision: float | None


def calibration(confidences: Confidences, right: Sequence[bool]) -> Calibration:
    """Compare confidences with what came true.

    Args:
        confidences: In [0, 1], one a row.
        right: Whether each row's prediction was right.

    >>> found = calibration([0.95, 0.85, 0.85, None], [True, True, False, False])
    >>> round(found.expected_calibration_error, 4), found.reliability[8].accuracy
    (0.25, 0.5)
    """
    p, hit = _known(confidences, right)
    places = np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    bins, gaps = [], 0.0
    for place in range(N_BINS):
        inside = places == place
        n = int(inside.sum())
        confidence, accuracy = (float(p[inside].mean()), float(hit[inside].mean())) if n else (None, None)
        if confidence is not None and accuracy is not None:
            gaps += n * abs(accuracy - confidence)
        bins.append(Bin(place / N_BINS, (place + 1) / N_BINS, n, confidence, accuracy))
    return Calibration(len(p), gaps / len(p) if len(p) else None, bins)


def threshold_for(confidences: Confidences, right: Sequence[bool], precision: float = PRECISION) -> float | None:
    """The lowest threshold at which the rows answered are right often enough; None if there is none.

    >>> threshold_for([0.9, 0.8, 0.7, 0.6], [True, True, False, True], precision=0.75)
    0.6
    """
    p, hit = _known(confidences, right)
    order = np.argsort(-p, kind="stable")
    p, hit = p[order], hit[order]
    share = np.cumsum(hit) / np.arange(1, len(p) + 1)
    last_of_ties = np.append(p[1:] != p[:-1], True)[: len(p)]  # rows of equal confidence are answered together
    enough = np.flatnonzero(last_of_ties & (share >= precision - 1e-12))
    return float(p[enough[-1]]) if len(enough) else None


def coverage_at(confidences: Confidences, right: Sequence[bool], threshold: float | None) -> Coverage:
    """How many of all rows are answered at a threshold, and how many of these are right."""
    if threshold is None:
        return Coverage(None, 0.0, None)
    p, hit = _known(confidences, right)
    answered = p >= threshold
    n = int(answered.sum())
    share = n / len(confidences) if confidences else 0.0
    return Coverage(threshold, share, float(hit[answered].mean()) if n else None)


def _known(confidences: Confidences, right: Sequence[bool]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows with a confidence."""
    pairs = [(p, bool(hit)) for p, hit in zip(confidences, right, strict=True) if p is not None]
    return np.array([p for p, _ in pairs], np.float64), np.array([hit for _, hit in pairs], np.float64)
