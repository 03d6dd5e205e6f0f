"""The alpha that gives a LoRA scale at a rank, to the last bit where there is one. Plain arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Alpha:
    """What other tools, and our recipes, write instead of a scale.

    Attributes:
        value: alpha.
        rslora: The scale is alpha / sqrt(rank) rather than alpha / rank.
    """

    value: float
    rslora: bool = False

    def scale(self, rank: int) -> float:
        """Factor on the update B A.

        >>> Alpha(160).scale(8), Alpha(16, rslora=True).scale(4)
        (20.0, 8.0)
        """
        return float(self.value / (math.sqrt(rank) if self.rslora else rank))


def alpha_of(scale: float, rank: int, first: Alpha | None = None) -> Alpha:
    """The alpha that gives a scale: exactly, where a float does; else the nearest, off in the last bit.

    Args:
        scale: Factor on B A.
        rank: r.
        first: Taken if it gives the scale exactly, as a run's recipe does.

    >>> alpha_of(20.0, 8)
    Alpha(value=160.0, rslora=False)
    """
    found = list(_candidates(scale, rank, first))
    return next((one for one in found if one.scale(rank) == scale), Alpha(scale * rank))


def _candidates(scale: float, rank: int, first: Alpha | None) -> Iterator[Alpha]:
    """Products of scale and divisor, and their neighbours: rounding a product and its quotient may each cost a bit."""
    if first is not None:
        yield first
    for rslora, divisor in ((False, float(rank)), (True, math.sqrt(rank))):
        product = scale * divisor
        if (whole := round(product)) and math.isclose(whole, product, rel_tol=1e-15):
            yield Alpha(float(whole), rslora)
        for value in (product, math.nextafter(product, math.inf), math.nextafter(product, 0.0)):
            yield Alpha(value, rslora)
