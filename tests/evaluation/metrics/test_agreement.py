"""Statistics of ratings against published worked examples, SciPy, and the definitions written out as loops."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from mlxtune.evaluation.metrics import estimates
from mlxtune.evaluation.metrics.agreement import alpha, correlate, exact_agreement, mean_rating
from mlxtune.evaluation.metrics.estimates import N_RESAMPLES

N = np.nan
# Krippendorff (2011), part C: four observers, twelve units, values missing.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
        [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
    ]
)


def random_ratings(seed: int, raters: int = 3, units: int = 20, missing: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    true = rng.integers(1, 6, size=units)
    ratings = np.clip(true + rng.integers(-1, 2, size=(raters, units)), 1, 5).astype(float)
    ratings[rng.random(ratings.shape) < missing] = N
    return ratings


def alpha_by_loops(ratings: np.ndarray, level: str) -> float:
    """1 - observed / expected disagreement, over ordered pairs of pairable values, without a coincidence matrix."""
    units = [[value for value in column if not np.isnan(value)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]

    @cache
    def apart(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= value <= high for value in values)
        return (between - (values.count(low) + values.count(high)) / 2) ** 2 if a != b else 0.0

    observed = sum(apart(a, b) / (len(unit) - 1) for unit in units for a, b in permutations(unit, 2)) / len(values)
    expected = sum(apart(a, b) for a, b in permutations(values, 2)) / (len(values) * (len(values) - 1))
    return 1 - observed / expected


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_the_published_one(level: Any, published: float) -> None:
    got = alpha(PUBLISHED, level)
    assert got is not None and got.value == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_its_definition_over_pairs(level: Any) -> None:
    for seed in range(10):
        ratings = random_ratings(seed, raters=2 + seed % 4, missing=0.1 * (seed % 5))
        got = alpha(ratings, level)
        assert got is not None and got.value == pytest.approx(alpha_by_loops(ratings, level), abs=1e-12), seed


@pytest.mark.parametrize("level", ["ordinal", "interval"])
def test_the_interval_of_alpha_is_that_of_resampled_units(level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ratings, seed, n_resamples = random_ratings(3, units=10), 5, 100  # loops take milliseconds for each
    monkeypatch.setattr(estimates, "N_RESAMPLES", n_resamples)
    rows = np.random.default_rng(seed).integers(10, size=(n_resamples, 10))
    drawn = [alpha_by_loops(ratings[:, units], level) for units in rows]
    got = alpha(ratings, level, seed=seed)
    assert got is not None and got.low is not None and got.high is not None
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-9)
    assert got.low < got.value < got.high


def test_lines_of_one_case_are_drawn_together() -> None:
    """The same lines twice over are no more evidence: as units of their own they would narrow the interval."""
    ratings = random_ratings(1, missing=0)
    once, twice = alpha(ratings, "interval"), np.concatenate([ratings, ratings], axis=1)
    together = alpha(twice, "interval", cases=np.tile(np.arange(20), 2))
    apart = alpha(twice, "interval")
    assert once and together and apart and once.high and together.high and apart.high
    width = [float(one.high or 0) - float(one.low or 0) for one in (once, together, apart)]
    assert width[1] == pytest.approx(width[0], rel=0.05) and width[2] < 0.85 * width[0]


def test_perfect_agreement_is_one_and_claims_no_interval() -> None:
    ratings = np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]])
    got = alpha(ratings, "ordinal")
    assert got is not None and (got.value, got.low, got.high) == (1.0, None, None)


def test_chance_is_about_zero_and_opposition_below() -> None:
    rng = np.random.default_rng(0)
    chance = alpha(rng.integers(1, 6, size=(2, 4000)).astype(float), "ordinal")
    opposed = alpha(np.array([[1.0, 5, 1, 5], [5, 1, 5, 1]]), "interval")
    assert chance is not None and abs(chance.value) < 0.05
    assert opposed is not None and opposed.value < -0.5


@pytest.mark.parametrize("ratings", [[[3.0, 3], [3, 3]], [[1.0, N], [N, 2]], [[1.0, 2]], [[N, N], [N, N]]])
def test_alpha_of_what_cannot_disagree_is_not_defined(ratings: list[list[float]]) -> None:
    assert alpha(np.array(ratings), "ordinal") is None


def test_exact_agreement_counts_pairs() -> None:
    ratings = random_ratings(7)
    pairs = [(a, b) for column in ratings.T for a, b in permutations(column[~np.isnan(column)], 2)]
    got = exact_agreement(ratings)
    assert got is not None and got.value == pytest.approx(np.mean([a == b for a, b in pairs]))
    assert exact_agreement(np.array([[1.0, N], [N, 2]])) is None
    always = exact_agreement(np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]]))
    assert always is not None and always.value == 1 and always.low == pytest.approx(0.51, abs=0.01)


def test_correlations_and_their_intervals_are_scipys() -> None:
    rng = np.random.default_rng(2)
    rouge = np.round(rng.random(30), 2)
    scores = np.clip(np.round(1 + 4 * rouge + rng.normal(0, 1, 30)), 1, 5)  # with ties
    got = correlate(scores, rouge, seed=9)
    rng = np.random.default_rng(9)
    rows = rng.integers(30, size=(N_RESAMPLES, 30))
    for found, oracle in ((got.spearman, spearmanr), (got.pearson, pearsonr)):
        assert found is not None and found.value == pytest.approx(oracle(scores, rouge).statistic, abs=1e-12)
        drawn = [oracle(scores[one], rouge[one]).statistic for one in rows]
        assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-9)


def test_a_correlation_with_what_does_not_vary_is_not_defined() -> None:
    same = correlate(np.full(10, 4.1), np.arange(10.0))
    few = correlate(np.array([1.0, 2]), np.array([1.0, 2]))
    assert (same.spearman, same.pearson, few.spearman, few.pearson) == (None,) * 4
    rare = correlate(np.array([1.0, 1, 1, 1, 2]), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))  # most resamples do not vary
    assert rare.pearson is not None and rare.pearson.low is not None and np.isfinite(rare.pearson.low)


def test_a_mean_has_the_interval_of_a_row_by_row_bootstrap() -> None:
    values, rng = np.array([1.0, 2, 2, 3, 5, 4.5]), np.random.default_rng(4)
    drawn = [values[rows].mean() for rows in rng.integers(6, size=(N_RESAMPLES, 6))]
    got = mean_rating(values, (1, 5), seed=4)
    assert got is not None and got.value == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-9)


def test_cases_that_all_say_the_same_leave_room_for_those_not_seen() -> None:
    room = 1.959964**2 / (10 + 1.959964**2)
    for value in (1.0, 3.0, 5.0):
        got = mean_rating(np.full(10, value), (1, 5))
        assert got is not None
        assert (got.low, got.high) == pytest.approx((value - room * (value - 1), value + room * (5 - value)))
    one = mean_rating(np.array([4.0]), (1, 5))
    assert one is not None and (one.value, one.low) == (4.0, None)
    assert mean_rating(np.array([]), (1, 5)) is None
