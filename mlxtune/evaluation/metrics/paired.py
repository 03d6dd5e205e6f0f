"""Paired comparison of two systems over the same rows: McNemar's exact test and the paired bootstrap. Values only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlxtune.evaluation.metrics.estimates import INTERVAL, Z_95, Floats, MetricTable, resamples
from mlxtune.evaluation.metrics.registry import metric
from mlxtune.json_values import optional, required, typed

LEVEL = 0.05  # a difference is called better or worse where its p-value is below this and its interval leaves out 0


Verdict = Literal["better", "worse", "higher", "lower", "no real difference", "too few rows", "too few cases"]
# What a reader of a comparison is told; a metric without a direction gets none.
MARKS: tuple[Verdict, ...] = ("better", "worse", "no real difference", "too few rows")


@dataclass(frozen=True)
class Comparison:
    """One metric of ours less the same metric of theirs.

    Attributes:
        difference: Ours less theirs.
        low: Lower end of its 95% interval; None where there are fewer than two rows.
        high: Upper end.
        p_value: Two-sided, of no difference: McNemar's exact test where a row is right or wrong, else the bootstrap's.
            None where there are fewer than two rows.
        verdict: What that means; 'higher' and 'lower' of a metric of which neither is better.
        other: What theirs is called.
        mark: The verdict as a comparison of runs marks it; None of a metric of which neither is better.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    verdict: Verdict
    other: str
    mark: Verdict | None = None

    @property
    def sentence(self) -> str:
        """The verdict in words: 'better than before by 0.12 [0.03, 0.21]'."""
        if self.low is None or self.high is None:
            return f"{self.verdict} to tell from {self.other}"
        if self.verdict in ("better", "worse", "higher", "lower"):
            ends = sorted((abs(self.low), abs(self.high)))
            return f"{self.verdict} than {self.other} by {abs(self.difference):.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"
        start = "no real difference from" if self.verdict == "no real difference" else f"{self.verdict} to tell from"
        return f"{start} {self.other}: {_signed(self.difference)} [{self.low:.2f}, {self.high:.2f}]"

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        return {
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "sentence": self.sentence,
        }

    @classmethod
    def from_json(cls, content: Any, name: str, other: str) -> Comparison:
        """What `to_json` says; the verdict follows from its numbers.

        Args:
            content: The comparison.
            name: Of the metric.
            other: What theirs is called.
        """
        number = typed(float)
        difference = required(content, "difference", number)
        low, high, p_value = (optional(content, key, number) for key in ("low", "high", "p_value"))
        if low is None or high is None or p_value is None:
            return _too_few(name, difference, other)
        return with_verdict(name, difference, low, high, p_value, other)

    def to_marked_json(self) -> dict[str, Any]:
        """As `compare --json` has it."""
        return {**self.to_json(), "mark": self.mark}


Comparisons = dict[str, dict[str, Comparison]]  # field -> metric -> comparison


@dataclass(frozen=True)
class Resampled:
    """A table with its metrics over all rows and over draws of them, which are the same for the tables it is compared with.

    Attributes:
        table: At least one row.
        values: Metric -> over all rows.
        drawn: Metric -> of each draw, (draws,); empty where there are fewer than two rows.
    """

    table: MetricTable
    values: Mapping[str, float]
    drawn: Mapping[str, Floats]


def resample(tables: Sequence[MetricTable], seed: int = 0) -> list[Resampled]:
    """The metrics of each table over all rows and over the same draws, computed once for any number of comparisons.

    Args:
        tables: Of the same rows in the same order.
        seed: Of the resampling.
    """
    if not tables:
        return []
    n_rows = tables[0].n_rows
    if n_rows == 0:
        raise ValueError("no rows to compare")
    whole = [table.of(np.ones((1, n_rows), dtype=np.float32)) for table in tables]
    parts = [[table.of(draws) for table in tables] for draws in resamples(n_rows, seed)] if n_rows > 1 else []
    return [
        Resampled(
            table,
            {name: float(value[0]) for name, value in of_all.items()},
            {name: np.concatenate([part[i][name] for part in parts]) for name in of_all} if parts else {},
        )
        for i, (table, of_all) in enumerate(zip(tables, whole, strict=True))
    ]


def compare_tables(ours: MetricTable, theirs: MetricTable, other: str, seed: int = 0) -> dict[str, Comparison]:
    """Compare every metric that both sides have and that can be compared.

    Args:
        ours: Of the rows that both answered.
        theirs: Of the same rows in the same order.
        other: What theirs is called.
        seed: Of the resampling.
    """
    mine, others = resample([ours, theirs], seed)
    return compare_resampled(mine, others, other)


def compare_resampled(ours: Resampled, theirs: Resampled, other: str) -> dict[str, Comparison]:
    """`compare_tables` of two that were resampled together."""
    n_rows = ours.table.n_rows
    found = {}
    for name, value in ours.values.items():
        if name not in theirs.values or metric(name).test is None:
            continue
        difference = value - theirs.values[name]
        if n_rows < 2:
            found[name] = _too_few(name, difference, other)
            continue
        drawn = ours.drawn[name] - theirs.drawn[name]
        low, high = _interval(difference, drawn, n_rows)
        if metric(name).test == "mcnemar":
            mine, other_side = ours.table.rows[name] > 0, theirs.table.rows[name] > 0
            p_value = mcnemar(int((mine & ~other_side).sum()), int((other_side & ~mine).sum()))
        else:
            p_value = bootstrap_p(drawn, n_rows)
        found[name] = with_verdict(name, difference, low, high, p_value, other)
    return found


def with_verdict(name: str, difference: float, low: float, high: float, p_value: float, other: str) -> Comparison:
    """A difference in a metric of that name with its verdict; arguments as `Comparison`'s."""
    direction = metric(name).direction
    verdict: Verdict
    if low <= 0 <= high:
        verdict = "no real difference"
    elif p_value >= LEVEL:
        verdict = "too few rows"
    elif direction == "neither":
        verdict = "higher" if difference > 0 else "lower"
    else:
        verdict = "better" if (difference > 0) == (direction == "higher") else "worse"
    return Comparison(difference, low, high, p_value, verdict, other, _mark(verdict, name))


def _too_few(name: str, difference: float, other: str) -> Comparison:
    return Comparison(difference, None, None, None, "too few rows", other, _mark("too few rows", name))


def _mark(verdict: Verdict, name: str) -> Verdict | None:
    return verdict if verdict in MARKS and metric(name).direction != "neither" else None


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


def _signed(value: float) -> str:
    return f"{value:+.2f}" if round(value, 2) else "0.00"
