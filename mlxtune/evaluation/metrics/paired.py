"""Paired comparison of two systems over the same rows: McNemar's exact test and the paired bootstrap. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlxtune.evaluation.metrics.estimates import INTERVAL, Z_95, Draws, Floats, Rated, resamples
from mlxtune.evaluation.metrics.texts import BUCKET_SHARES

LEVEL = 0.05  # a difference is called better or worse where its p-value is below this and its interval leaves out 0


_GOOD, _MIDDLING, _POOR = BUCKET_SHARES


LOWER_IS_BETTER = ("invalid_rate", "repeated_rate", "loop_rate", "cut_rate", "placeholders_invented", _POOR)


# Figures that are right or wrong at each row, which McNemar's test is for.
RIGHT_OR_WRONG = ("exact_match", "accuracy", "partial_match", "all_fields_correct", _GOOD, _MIDDLING, *LOWER_IS_BETTER)


NEITHER = ("length_ratio",)  # more is not better, nor is less: not compared


NO_DIRECTION = (_MIDDLING,)  # the same, but compared with its neighbours: a difference that is neither better nor worse


# What "better" means where one word must do, by kind of field.
HEADLINES = ("exact_match", "accuracy", "rougeL", "all_fields_correct")


@dataclass(frozen=True)
class Comparison:
    """One figure of ours less the same figure of theirs.

    Attributes:
        difference: Ours less theirs.
        low: Lower end of its 95% interval; None where there are fewer than two rows.
        high: Upper end.
        p_value: Two-sided, of no difference: McNemar's exact test where a row is right or wrong, else the bootstrap's.
            None where there are fewer than two rows.
        sentence: What that means, in words.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    sentence: str


Comparisons = dict[str, dict[str, Comparison]]  # field -> figure -> comparison


def compare_figures(ours: Rated, theirs: Rated, name: str, seed: int = 0) -> dict[str, Comparison]:
    """Compare every figure that both sides have, over rows that both answered in the same order."""
    n_rows = ours.n_rows
    if n_rows == 0:
        raise ValueError("no rows to compare")
    differences = _difference(ours, theirs, np.ones((1, n_rows), dtype=np.float32))
    if n_rows < 2:
        sentence = f"too few rows to tell from {name}"
        return {
            figure: Comparison(float(value[0]), None, None, None, sentence) for figure, value in differences.items()
        }
    parts = [_difference(ours, theirs, draws) for draws in resamples(n_rows, seed)]
    found = {}
    for figure, value in differences.items():
        drawn = np.concatenate([part[figure] for part in parts])
        low, high = _interval(float(value[0]), drawn, n_rows)
        if figure in RIGHT_OR_WRONG:
            mine, other = ours.rows[figure] > 0, theirs.rows[figure] > 0
            p_value = mcnemar(int((mine & ~other).sum()), int((other & ~mine).sum()))
        else:
            p_value = bootstrap_p(drawn, n_rows)
        sentence = sentence_on(figure, float(value[0]), low, high, p_value, name)
        found[figure] = Comparison(float(value[0]), low, high, p_value, sentence)
    return found


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Two-sided p-value of McNemar's exact test: the sign test on the rows at which just one side is right.

    Args:
        only_ours: Rows that ours has right and theirs has wrong.
        only_theirs: Rows the other way round.

    Source:
        McNemar (1947), with the exact binomial instead of chi-squared.

    >>> mcnemar(6, 0), mcnemar(3, 3)
    (0.03125, 1.0)
    """
    n = only_ours + only_theirs
    term = total = 1  # n choose k, and its sum up to the smaller count; whole numbers stay exact
    for k in range(min(only_ours, only_theirs)):
        term = term * (n - k) // (k + 1)
        total += term
    return float(min(1.0, 2 * total / 2**n))


def plain(comparisons: Comparisons) -> dict[str, Any]:
    """Comparisons as scores.json holds them."""
    return {field: {figure: asdict(one) for figure, one in figures.items()} for field, figures in comparisons.items()}


def headline(figures: Mapping[str, Any]) -> str:
    """The figure of a field by which one side is called better: exact_match, accuracy or rougeL."""
    return next(figure for figure in HEADLINES if figure in figures)


def _difference(ours: Rated, theirs: Rated, draws: Draws) -> dict[str, Floats]:
    """Ours less theirs in each of the same draws, (draws,)."""
    mine, other = ours.of(draws), theirs.of(draws)
    return {figure: mine[figure] - other[figure] for figure in mine if figure in other and figure not in NEITHER}


def _interval(difference: float, drawn: Floats, n_rows: int) -> tuple[float, float]:
    """Percentiles of the drawn differences; where every draw says the same, Wilson's (1927) room for the unseen.

    20 rows without a disagreement leave room for one side to be right at 0.161 more of all rows. Where one side alone
    was right at every row, an unseen row may count against it, which moves the difference twice as far.
    """
    low, high = (float(end) for end in np.percentile(drawn, INTERVAL))
    if low < high:
        return low, high
    room = Z_95**2 / (n_rows + Z_95**2) * (1 if difference == 0 else 2)
    return max(-1.0, difference - room), min(1.0, difference + room)


def bootstrap_p(drawn: Floats, n_rows: int) -> float:
    """Twice the share of draws on the rarer side of no difference, each side counting one draw more than it has.

    Few rows that all agree cannot say more than as many tosses of a coin, whatever the draws say.
    """
    n_worse, n_better = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    return max(min(1.0, 2 * (1 + min(n_worse, n_better)) / (1 + len(drawn))), 2.0 ** (1 - n_rows))


def sentence_on(figure: str, difference: float, low: float, high: float, p_value: float, name: str) -> str:
    """What a difference means, in words; arguments as `Comparison`'s, of the figure of that name."""
    shown = f"{name}: {_signed(difference)} [{low:.2f}, {high:.2f}]"
    if low <= 0 <= high:
        return f"no real difference from {shown}"
    if p_value >= LEVEL:
        return f"too few rows to tell from {shown}"
    if figure in NO_DIRECTION:
        word = "higher" if difference > 0 else "lower"
    else:
        word = "better" if (difference > 0) != (figure in LOWER_IS_BETTER) else "worse"
    size, ends = abs(difference), sorted((abs(low), abs(high)))
    return f"{word} than {name} by {size:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _signed(value: float) -> str:
    return f"{value:+.2f}" if round(value, 2) else "0.00"
