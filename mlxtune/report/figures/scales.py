"""Limits and ticks of an axis, from its values. Draws nothing; matplotlib must be imported by `settings.drawing`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlxtune.report.charts import Axis
from mlxtune.report.figures.text import tick_texts

_HUGE = 1e100  # nothing that is measured is larger, and the arithmetic of ticks overflows later


@dataclass(frozen=True)
class Scale:
    """One axis as it is drawn.

    Attributes:
        low: Where it begins.
        high: Where it ends, above `low`.
        logarithmic: Whether its steps are factors; both limits are above 0 then.
        ticks: Places between the limits.
        texts: One a tick.
    """

    low: float
    high: float
    logarithmic: bool
    ticks: Sequence[float]
    texts: Sequence[str]

    def share(self, value: float) -> float:
        """How far a value lies between the limits: 0 at `low`, 1 at `high`."""
        low, high, value = map(self._flat, (self.low, self.high, value))
        return (value - low) / (high - low)

    def _flat(self, value: float) -> float:
        return math.log10(max(value, self.low * 1e-3)) if self.logarithmic else value


def drawable(value: float | None, axis: Axis) -> float:
    """A value as matplotlib takes it: NaN where there is nothing that could be drawn on this axis."""
    if value is None or not math.isfinite(value) or abs(value) > _HUGE or (axis.logarithmic and value <= 0):
        return math.nan
    return float(value)


def scale(axis: Axis, values: Iterable[float], *, margin: float, n_ticks: int = 6) -> Scale:
    """The limits and ticks of an axis.

    Args:
        axis: Its own limits hold; the values decide the others.
        values: All that should be seen; NaN is left out.
        margin: Room beside the outermost values, as a share of their range, where the axis has no limit of its own.
        n_ticks: About how many ticks.
    """
    found = [value for value in values if not math.isnan(value)]
    if axis.logarithmic:
        low, high = _factor_limits(axis, found, margin)
        return Scale(low, high, True, ticks := _factor_ticks(low, high), tick_texts(ticks, axis))
    low, high = _limits(axis, found, margin)
    whole = bool(found) and not axis.share and all(value == int(value) for value in found)
    ticks = _ticks(low, high, n_ticks, whole)
    return Scale(low, high, False, ticks, tick_texts(ticks, axis))


def _limits(axis: Axis, found: Sequence[float], margin: float) -> tuple[float, float]:
    low = min(found, default=0.0) if axis.low is None else axis.low
    high = max(found, default=low + 1) if axis.high is None else axis.high
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value, or a limit beyond all values
        room = abs(low) / 10 or 1.0
        low, high = (low if axis.low is not None else low - room), low + room
    room = margin * (high - low)
    return (low - room if axis.low is None else low), (high + room if axis.high is None else high)


def _factor_limits(axis: Axis, found: Sequence[float], margin: float) -> tuple[float, float]:
    low = axis.low if axis.low is not None and axis.low > 0 else min(found, default=0.1)
    high = axis.high if axis.high is not None and axis.high > low else max(found, default=10 * low)
    factor = max(high / low, 10.0) ** margin
    if high <= low:
        low, high = low / 2, low * 2
    return (low / factor if axis.low is None else low), (high * factor if axis.high is None else high)


def _ticks(low: float, high: float, n_ticks: int, whole: bool) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(
        nbins=n_ticks, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1 if whole else 2
    ).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(place) for place in found if low - slack <= place <= high + slack]


def _factor_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; also 2 and 5 times these where there are few, and fewer powers where there are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    stride = max(1, (last - first) // 8)
    places = [step * 10.0**power for power in range(first, last + 1, stride) for step in steps]
    return [place for place in places if low <= place * (1 + 1e-9) and place <= high * (1 + 1e-9)]
