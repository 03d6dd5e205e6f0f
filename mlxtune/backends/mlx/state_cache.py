"""What gated delta nets carry from token to token, for rows that share a prefix; gradients flow through it.

What `prefix_cache.py` is for attention: there keys and values of every token, here two arrays that do not grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx


@dataclass(frozen=True)
class Carried:
    """What one layer carries on from the tokens so far.

    Attributes:
        inputs: Of the convolution, those of the last tokens, (B, kernel - 1, channels); zeros before the first.
        state: Of the delta rule, (B, Hv, Dv, Dk), float32.
    """

    inputs: mx.array
    state: mx.array


class StateCache(Protocol):
    """What a gated delta net asks of a cache."""

    @property
    def counts(self) -> mx.array | None:
        """Tokens of each present row that count, (B,), those behind are padding; None is all."""
        ...

    def before(self, rows: int) -> Carried | None:
        """What present rows, so many, carry over from earlier tokens; None is nothing."""
        ...

    def carry(self, carried: Carried) -> None:
        """Take what they carry on."""
        ...


class PrefixStateCache:
    """What one layer carries on from the first call, for all rows of the second, as a `PrefixCache` does for attention.

    Args:
        inputs: As of `Carried`, where the prefix was computed already.
        state: Likewise.
    """

    def __init__(self, inputs: mx.array | None = None, state: mx.array | None = None) -> None:
        self._held: Carried | None = None
        self._grows = False
        self.counts: mx.array | None = None
        if inputs is not None and state is not None:
            self.hold(inputs, state)

    def hold(self, inputs: mx.array, state: mx.array) -> None:
        """Take these as those of the prefix; the next call leaves them as they are."""
        self._held, self._grows = Carried(inputs, state), False

    def growing(self, counts: mx.array | None = None) -> PrefixStateCache:
        """A cache whose next call goes on from this one's prefix, which stays as it is.

        Args:
            counts: Tokens of each row of that call, (B,), the rest is padding; None is all.
        """
        grown = PrefixStateCache(*(self.held() or ()))
        grown._grows, grown.counts = True, counts
        return grown

    def held(self) -> tuple[mx.array, mx.array] | None:
        """Inputs and state of the prefix, of one row, or of each; None where there is none."""
        return None if self._held is None else (self._held.inputs, self._held.state)

    def before(self, rows: int) -> Carried | None:
        """`StateCache.before`."""
        if self._held is None:
            return None
        return Carried(*(mx.broadcast_to(part, (rows, *part.shape[1:])) for part in self.held() or ()))

    def carry(self, carried: Carried) -> None:
        """`StateCache.carry`."""
        if self._held is None or self._grows:
            self.hold(carried.inputs, carried.state)
            self.counts = None

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, of what mlx-lm's own caches are asked for."""
