"""A label's threshold is the one of largest F1, counted over every threshold that there is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mlxtune.evaluation.metrics.thresholds import DEFAULT, best_threshold


def test_no_other_threshold_has_a_larger_f1() -> None:
    random = np.random.default_rng(0)
    moved = 0
    for _ in range(200):
        n_rows = int(random.integers(1, 25))
        p = random.integers(1, 11, n_rows) / 10  # many ties
        expected = random.random(n_rows) < 0.2 + 0.6 * p**2
        found = best_threshold(p, expected)

        def f1(threshold: float, p: np.ndarray = p, expected: np.ndarray = expected) -> float:
            return float(f1_score(expected, p >= threshold, zero_division=0))

        grid = np.linspace(0.005, 1.05, 210)
        assert found.f1 == pytest.approx(f1(found.threshold)) == pytest.approx(max(map(f1, grid)))
        assert found.default_f1 == pytest.approx(f1(DEFAULT)) and found.support == expected.sum()
        halfway = [DEFAULT, *((low + high) / 2 for low, high in pairwise(sorted({0.0, *p.tolist()})))]
        nearer = [t for t in halfway if abs(t - DEFAULT) < abs(found.threshold - DEFAULT) - 1e-9]
        assert all(f1(t) < found.f1 - 1e-12 for t in nearer)
        moved += found.threshold != DEFAULT
    assert moved > 50


@pytest.mark.parametrize(
    ("p", "expected", "threshold"),
    [
        ([0.9, 0.1], [True, False], DEFAULT),  # the default does as well
        ([0.3, 0.2], [False, False], DEFAULT),  # nothing to find
        ([0.8, 0.7, 0.6], [True, False, False], 0.75),
        ([0.4, 0.3], [True, False], 0.35),
        ([0.4, 0.4], [True, True], 0.2),  # all rows: halfway to nothing
    ],
)
def test_ties_keep_the_default_or_what_is_nearest_to_it(p: list[float], expected: list[bool], threshold: float) -> None:
    assert best_threshold(np.array(p), np.array(expected)).threshold == pytest.approx(threshold)
