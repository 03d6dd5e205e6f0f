"""What gated delta nets carry from token to token, for rows that share a prefix; gradients flow through it.

What `prefix_cache.py` and `tree_cache.py` are for attention: there keys and values of every token, here two arrays that do not grow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Carried:
    """What one layer carries on from the tokens so far.

    Attributes:
        inputs: Of the convolution, those of the last tokens, (B, kernel - 1, channels); zeros before the first.
        state: Of the delta rule, (B, Hv, Dv, Dk), float32.
    """

    inputs: mx.array
    state: mx.array

    def map(self, change: Callable[[mx.array], mx.array]) -> Carried:
        """The same of changed rows."""
        return Carried(change(self.inputs), change(self.state))

    def for_rows(self, rows: int) -> Carried:
        """That of one row for so many; of as many, as it is."""
        return self.map(lambda part: mx.broadcast_to(part, (rows, *part.shape[1:])))

    def followed_by(self, others: Carried, first: int) -> Carried:
        """That of the rows before `first`, of others, and of the rows in whose place these do not stand."""
        after = first + len(others.state)
        pairs = ((self.inputs, others.inputs), (self.state, others.state))
        return Carried(*(mx.concatenate([own[:first], other, own[after:]]) for own, other in pairs))


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
        self.carried: Carried | None = None
        self._grows = False
        self.counts: mx.array | None = None
        if inputs is not None and state is not None:
            self.hold(inputs, state)

    def hold(self, inputs: mx.array, state: mx.array) -> None:
        """Take these as those of the prefix; the next call leaves them as they are."""
        self.carried, self._grows = Carried(inputs, state), False

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
        return None if self.carried is None else (self.carried.inputs, self.carried.state)

    def before(self, rows: int) -> Carried | None:
        """`StateCache.before`."""
        return None if self.carried is None else self.carried.for_rows(rows)

    def carry(self, carried: Carried) -> None:
        """`StateCache.carry`."""
        if self.carried is None or self._grows:
            self.hold(carried.inputs, carried.state)
            self.counts = None

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, of what mlx-lm's own caches are asked for."""


class TreePaths:
    """Which nodes of an option tree come before which, as a layer with a state takes it.

    Args:
        ancestors: Which nodes lie between the root and each node, both included, (N, N); none comes before its own.
    """

    def __init__(self, ancestors: NDArray[np.bool_]) -> None:
        self.ancestors = mx.array(ancestors)
        self._paths = [np.flatnonzero(own) for own in ancestors]
        self._taps: dict[int, list[mx.array]] = {}

    def taps(self, kernel: int) -> list[mx.array]:
        """Of the inputs before the tree, kernel - 1, and its nodes behind them: the last ones that each node sees, (N,) each."""
        if kernel not in self._taps:
            before = np.arange(kernel - 1)
            seen = np.stack([np.concatenate([before, path + kernel - 1])[-kernel:] for path in self._paths])
            self._taps[kernel] = [mx.array(places) for places in seen.T]
        return self._taps[kernel]


class TreeStateCache:
    """One layer's cache for a pass over the nodes of an option tree, each of which goes on from its parent.

    Args:
        carried: What each row carries on from its prompt; None is nothing.
        paths: The tree's.
    """

    def __init__(self, carried: Carried | None, paths: TreePaths) -> None:
        self._carried, self.paths = carried, paths

    def before(self, rows: int) -> Carried | None:
        """`StateCache.before`."""
        return None if self._carried is None else self._carried.for_rows(rows)

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, of what mlx-lm's own caches are asked for."""
