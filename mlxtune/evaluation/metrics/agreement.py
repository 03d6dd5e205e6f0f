"""Statistics of ratings: agreement between raters, correlation with a metric, means. NumPy only, no files, no printing.

Ratings are an array (raters, units) with NaN where somebody did not rate. Every statistic has a 95% percentile bootstrap
interval over cases: units of one case (two replies to one question) are always drawn together, since they are not
independent of each other.

    alpha(np.array([[1, 2, 3, 3], [1, 2, 3, 4]]), "ordinal").value
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlxtune.evaluation.metrics.estimates import INTERVAL, Z_95, Draws, Estimate, Floats, resamples

Level = Literal["nominal", "ordinal", "interval"]
MIN_CORRELATED = 3  # two points always lie on a line
_NO_SPREAD = 1e-15  # a variance below this is rounding of none

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Correlation:
    """How far two columns go together, -1 to 1; None where one of them does not vary or there are too few cases."""

    spearman: Estimate | None
    pearson: Estimate | None


def alpha(ratings: Floats, level: Level, cases: Indices | None = None, seed: int = 0) -> Estimate | None:
    """Krippendorff's alpha: 1 is perfect agreement, 0 what chance would give, below 0 systematic disagreement.

    Args:
        ratings: (raters, units); NaN where a rater gave none. A unit with fewer than two ratings says nothing.
        level: How far apart two values are: 'nominal', 'ordinal' or 'interval'.
        cases: Case of each unit, (units,); None is a case a unit.
        seed: Of the resampling.

    Returns:
        1 - D_o / D_e; None where no unit has two ratings, or where all such ratings are the same value: then chance
        leaves nothing to disagree about. The interval leaves out resamples of that kind; it is None where all others
        say the same, as they do where the raters never disagree.

    Source:
        Krippendorff (2011), Computing Krippendorff's Alpha-Reliability. With n_uc ratings of value c in unit u, m_u in
        all: o_ck = sum_u n_uc (n_uk - [c = k]) / (m_u - 1), n_c = sum_k o_ck, n = sum_c n_c and
        alpha = 1 - (n - 1) sum_ck o_ck d_ck^2 / sum_ck n_c n_k d_ck^2, where d_ck^2 is [c != k] (nominal), (c - k)^2
        (interval) or (n_c / 2 + sum of the n_g between c and k + n_k / 2)^2 (ordinal).

    >>> round(alpha(np.array([[1.0, 2, 3, 3], [1, 2, 3, 4]]), "interval").value, 3)
    0.889
    """
    values, per_unit = _coincidences(ratings)
    if not per_unit.any():
        return None
    flat = per_unit.reshape(len(per_unit), -1)

    def statistic(draws: Draws) -> Floats:
        together = (draws.astype(np.float64) @ flat).reshape(-1, len(values), len(values))  # (draws, values, values)
        return _alpha_of(together, values, level)

    return _estimate(statistic, len(per_unit), cases, seed)


def exact_agreement(ratings: Floats, cases: Indices | None = None, seed: int = 0) -> Estimate | None:
    """Pairs of ratings of one unit that are equal / all such pairs; arguments as for `alpha`, None where there is no pair.

    >>> exact_agreement(np.array([[1.0, 2, 3, 3], [1, 2, 3, 4]])).value
    0.75
    """
    _, counts = _counts(ratings)
    given = counts.sum(1)
    equal, pairs = (counts * (counts - 1)).sum(1), given * (given - 1)
    if not pairs.any():
        return None

    def statistic(draws: Draws) -> Floats:
        return _quotient(draws.astype(np.float64) @ equal, draws.astype(np.float64) @ pairs)

    return _estimate(statistic, len(pairs), cases, seed, bounds=(0.0, 1.0))


def correlate(ours: Floats, theirs: Floats, cases: Indices | None = None, seed: int = 0) -> Correlation:
    """Spearman's rank correlation (ties share their mean rank, anew in each resample) and Pearson's of two columns.

    Args:
        ours: (units,), finite.
        theirs: (units,), finite.
        cases: Case of each unit; None is a case a unit.
        seed: Of the resampling.

    >>> correlate(np.array([1.0, 2, 3, 5]), np.array([0.1, 0.2, 0.4, 0.3])).spearman.value
    0.8
    """
    n_cases = len(ours) if cases is None else len(np.unique(cases))
    if n_cases < MIN_CORRELATED:
        return Correlation(None, None)

    def pearson(draws: Draws) -> Floats:
        return _weighted_correlation(draws.astype(np.float64), ours[None, :], theirs[None, :])

    def spearman(draws: Draws) -> Floats:
        weights = draws.astype(np.float64)
        return _weighted_correlation(weights, _ranks(weights, ours), _ranks(weights, theirs))

    return Correlation(*(_estimate(statistic, len(ours), cases, seed) for statistic in (spearman, pearson)))


def mean_rating(values: Floats, bounds: tuple[float, float], seed: int = 0) -> Estimate | None:
    """Mean of one value a case, (cases,); None of none.

    Args:
        values: Each case's.
        bounds: What a value may be. Where all cases say the same, the interval is the room that Wilson (1927) leaves for
            cases not seen, each of which could lie at either bound.
        seed: Of the resampling.

    >>> mean_rating(np.array([5.0, 5, 5, 5]), (1, 5))
    Estimate(value=5.0, low=3.0404366384123147, high=5.0)
    """
    if not len(values):
        return None

    def statistic(draws: Draws) -> Floats:
        return _quotient(draws.astype(np.float64) @ values, draws.sum(1, dtype=np.float64))

    return _estimate(statistic, len(values), None, seed, bounds)


def draws_of(statistic: Callable[[Draws], Floats], n_cases: int, seed: int) -> Floats:
    """A statistic in every resample of the cases, (resamples,)."""
    return np.concatenate([statistic(draws) for draws in resamples(n_cases, seed)])


# Arithmetic ------------------------------------------------------------------------------------------------------


def _estimate(
    statistic: Callable[[Draws], Floats],
    n_units: int,
    cases: Indices | None,
    seed: int,
    bounds: tuple[float, float] | None = None,
) -> Estimate | None:
    """A statistic of all units and its interval over resamples of the cases; None where it is not defined."""
    value = float(statistic(np.ones((1, n_units), dtype=np.float32))[0])
    if not np.isfinite(value):
        return None
    names, index = np.unique(np.arange(n_units) if cases is None else cases, return_inverse=True)
    n_cases = len(names)
    if n_cases < 2:
        return Estimate(value, None, None)
    drawn = draws_of(lambda draws: statistic(draws[:, index]), n_cases, seed)
    drawn = drawn[np.isfinite(drawn)]
    low, high = (float(end) for end in np.percentile(drawn, INTERVAL)) if len(drawn) else (value, value)
    if high - low > 1e-9:
        return Estimate(value, low, high)
    if bounds is None:
        return Estimate(value, None, None)
    room = Z_95**2 / (n_cases + Z_95**2)
    return Estimate(value, value - room * (value - bounds[0]), value + room * (bounds[1] - value))


def _counts(ratings: Floats) -> tuple[Floats, Floats]:
    """The values that occur, ascending, and how often each unit got each, (units, values)."""
    values = np.unique(ratings[~np.isnan(ratings)])
    counts: Floats = (ratings[:, :, None] == values).sum(0).astype(np.float64)
    return values, counts


def _coincidences(ratings: Floats) -> tuple[Floats, Floats]:
    """The values and each unit's part of the coincidence matrix, (units, values, values)."""
    values, counts = _counts(ratings)
    pairs = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(len(values))
    pairs[:, diagonal, diagonal] -= counts
    others = counts.sum(1) - 1
    return values, np.divide(pairs, others[:, None, None], out=np.zeros_like(pairs), where=others[:, None, None] > 0)


def _alpha_of(together: Floats, values: Floats, level: Level) -> Floats:
    """Alpha of each coincidence matrix, (draws,); NaN where it is not defined.

    An ordinal distance is that of the mid-ranks: the sum between c and k is one cumulative sum less another.
    """
    n_c = together.sum(2)  # (draws, values)
    n = n_c.sum(1)
    place = n_c.cumsum(1) - n_c / 2 if level == "ordinal" else np.broadcast_to(values, n_c.shape)
    apart = (place[:, :, None] - place[:, None, :]) ** 2
    if level == "nominal":
        apart = (apart > 0).astype(np.float64)
    observed = (together * apart).sum((1, 2))
    expected = (n_c[:, :, None] * n_c[:, None, :] * apart).sum((1, 2))
    found: Floats = 1 - (n - 1) * _quotient(observed, expected)
    return found


def _ranks(weights: Floats, values: Floats) -> Floats:
    """The rank of each value among those drawn, as a share of them, (draws, units); equal ones share their mean rank."""
    distinct, index = np.unique(values, return_inverse=True)
    counts = weights @ (index[:, None] == np.arange(len(distinct))).astype(np.float64)  # (draws, distinct values)
    middle = counts.cumsum(1) - counts / 2
    ranks: Floats = (middle / counts.sum(1, keepdims=True))[:, index]
    return ranks


def _weighted_correlation(weights: Floats, ours: Floats, theirs: Floats) -> Floats:
    """Pearson's correlation of units that count as often as they were drawn, (draws,); NaN where one does not vary."""
    total = weights.sum(1)
    mine, other = (column - ((weights * column).sum(1) / total)[:, None] for column in (ours, theirs))
    covariance = (weights * mine * other).sum(1) / total
    spread = ((weights * mine**2).sum(1) / total) * ((weights * other**2).sum(1) / total)
    found = _quotient(covariance, np.sqrt(np.where(spread > _NO_SPREAD, spread, 0.0)))
    return np.clip(found, -1.0, 1.0)


def _quotient(numerator: Floats, denominator: Floats) -> Floats:
    """Numerator / denominator, NaN where the denominator is 0."""
    out: Floats = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
