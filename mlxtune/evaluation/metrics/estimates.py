"""A metric over rows and its 95% interval: the percentile bootstrap, and Wilson's bound where every resample agrees. NumPy only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlxtune.json_values import read_dataclass

N_RESAMPLES = 1000
Z_95 = 1.959964  # of the normal distribution
INTERVAL = (2.5, 97.5)  # percentiles of the resampled metrics
_CHUNK_CELLS = 2_000_000  # resamples x rows held at once
Floats = NDArray[np.float64]
Draws = NDArray[np.float32]  # how often each resample drew each row, (resamples, rows); exact up to 2**24


@dataclass(frozen=True)
class Estimate:
    """A metric over rows and its 95% interval, which is None where there are fewer than two rows."""

    value: float
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """As scores.json has it."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, content: Any) -> Estimate:
        """What `to_json` says; raises JsonError as every `from_json` does."""
        return read_dataclass(cls, content)


class MetricTable(Protocol):
    """Rows of predictions whose metrics can be computed for any draw of the rows."""

    @property
    def rows(self) -> Mapping[str, NDArray[np.floating]]:
        """Metric -> its value at each row, (rows,), for those that are means over rows."""

    @property
    def n_rows(self) -> int:
        """How many there are."""

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every metric of each draw, (draws,)."""


@dataclass(frozen=True)
class Means:
    """Metrics that are means over rows, and nothing else."""

    rows: Mapping[str, NDArray[np.floating]]

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.rows.values())))

    def of(self, draws: Draws) -> dict[str, Floats]:
        """Every metric of each draw, (draws,)."""
        return means(draws, self.rows)


def mean_estimate(values: Sequence[float] | NDArray[np.generic], seed: int = 0) -> Estimate:
    """The mean of one value a row, with its interval."""
    return estimates(Means({"mean": np.asarray(values, dtype=np.float64)}), seed)["mean"]


def estimates(table: MetricTable, seed: int, unbounded: Collection[str] = ()) -> dict[str, Estimate]:
    """Each metric over all rows, and its interval over resamples of them.

    Args:
        table: At least one row.
        seed: Of the resampling.
        unbounded: Metrics that may exceed 1.
    """
    n_rows = table.n_rows
    if n_rows == 0:
        raise ValueError("no rows to score")
    values = table.of(np.ones((1, n_rows), dtype=np.float32))
    if n_rows < 2:
        return {name: Estimate(float(value[0]), None, None) for name, value in values.items()}
    parts = [table.of(draws) for draws in resamples(n_rows, seed)]
    found = {}
    for name, value in values.items():
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), INTERVAL)
        estimate = Estimate(float(value[0]), float(low), float(high))
        found[name] = estimate if name in unbounded else widened(estimate, n_rows)
    return found


def widened(estimate: Estimate, n_rows: int) -> Estimate:
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


def draw_sums(draws: Draws, per_row: NDArray[np.float32]) -> Floats:
    """Sums over the drawn rows, (resamples, ...): whole numbers, so float32 is exact until they are divided."""
    return (draws @ per_row).astype(np.float64)


def means(draws: Draws, columns: Mapping[str, NDArray[np.floating]]) -> dict[str, Floats]:
    """The mean of each column over the drawn rows, (resamples,)."""
    sums = draws.astype(np.float64) @ np.stack([np.asarray(column) for column in columns.values()], axis=1)
    return dict(zip(columns, (sums / draws.shape[1]).T, strict=True))


def ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> Floats:
    """Numerator / denominator, and 0 where the denominator is 0."""
    quotient: Floats = np.zeros(np.shape(denominator), dtype=np.float64)
    numerator, denominator = (numerator.astype(np.float64), denominator.astype(np.float64))
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
