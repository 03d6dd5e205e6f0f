"""Rows that MLX writes replies to: their keys and values, and the pass that adds tokens to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.columns import GROWTH, TOKENS_AT_ONCE, Columns


class RowsCache:
    """Keys and values of one layer for all rows; answers the calls that mlx-lm's attention layers make of a cache.

    Args:
        session: Knows where each row is.
        keys: Of what opens every row, (1, heads, P, head_dim); None where there is nothing.
        values: Likewise.
    """

    def __init__(self, session: MlxSession, keys: mx.array | None = None, values: mx.array | None = None) -> None:
        self._session = session
        self._keys, self._values = keys, values
        self._n_columns = 0 if keys is None else keys.shape[2]

    @property
    def offset(self) -> mx.array:
        """Position of each row's next token, (B,), for RoPE."""
        return self._session.offsets

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to, (B, heads, columns, head_dim), given those of the present tokens."""
        start, end = self._n_columns, self._n_columns + keys.shape[2]
        self._keys, self._values = self._with_room(self._keys, keys, end), self._with_room(self._values, values, end)
        self._keys[..., start:end, :] = keys
        self._values[..., start:end, :] = values
        self._n_columns = end
        return self._keys[..., :end, :], self._values[..., :end, :]

    def _with_room(self, held: mx.array | None, new: mx.array, end: int) -> mx.array:
        """What is held, with columns up to `end` at least."""
        rows, heads, _, head_dim = new.shape
        if held is None:
            return mx.zeros((rows, heads, -(-end // GROWTH) * GROWTH, head_dim), new.dtype)
        if held.shape[2] >= end and held.shape[0] == rows:
            return held
        room = mx.zeros((rows, heads, -(-end // GROWTH) * GROWTH - self._n_columns, head_dim), held.dtype)
        whole = mx.broadcast_to(held[..., : self._n_columns, :], (rows, heads, self._n_columns, head_dim))
        return mx.concatenate([whole, room], axis=2)

    def keep(self, rows: mx.array) -> None:
        """Go on with these rows alone."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[rows], self._values[rows]

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array:
        """What each present token attends to, (B, 1, W, columns), of what mlx-lm's own caches are asked for."""
        return self._session.mask

    @property
    def state(self) -> list[mx.array]:
        """All that is held, to be computed before the next pass."""
        return [held for held in (self._keys, self._values) if held is not None]


class MlxSession:
    """A `Session` of `backends/replies.py`.

    Args:
        network: mlx-lm's model.
        head: Hidden states, (B, hidden), float32 -> logits, (B, vocabulary).
        shared: Keys and values of what opens every row, layer by layer; none where there is nothing.
        n_rows: B.
    """

    def __init__(
        self,
        network: nn.Module,
        head: Callable[[mx.array], mx.array],
        shared: Sequence[tuple[mx.array, mx.array]],
        n_rows: int,
    ) -> None:
        self._network, self._head = network, head
        self._columns = Columns(n_rows, shared[0][0].shape[2] if shared else 0)
        self._caches = [RowsCache(self, *pair) for pair in shared] or [RowsCache(self) for _ in network.layers]
        self._logits = mx.zeros((0, 0))
        self.offsets, self.mask = mx.zeros(0), mx.zeros(0)  # of the pass that is computed

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Append tokens to each row and begin to compute what follows."""
        last: mx.array | None = None
        for start in range(0, tokens.shape[1], TOKENS_AT_ONCE):
            part = tokens[:, start : start + TOKENS_AT_ONCE]
            own = np.clip(counts - start, 0, part.shape[1])
            hidden = self._pass(part, own)
            ends = np.clip(counts - 1 - start, 0, part.shape[1] - 1)
            found = mx.take_along_axis(hidden, mx.array(ends)[:, None, None], axis=1)[:, 0]  # (B, hidden)
            here = mx.array((counts > start) & (counts <= start + part.shape[1]))[:, None]
            last = found if last is None else mx.where(here, found, last)
            if start + TOKENS_AT_ONCE < tokens.shape[1]:  # no activations of this part outlive it
                mx.eval(last, [cache.state for cache in self._caches])
        assert last is not None
        self._logits = self._head(last.astype(mx.float32))
        mx.async_eval(self._logits, [cache.state for cache in self._caches])

    def _pass(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> mx.array:
        """Hidden states of tokens, (B, W, hidden)."""
        self.offsets = mx.array(self._columns.offsets)
        self.mask = mx.array(self._columns.visible(counts, tokens.shape[1]))[:, None]
        self._columns.add(counts, tokens.shape[1])
        return self._network.model(mx.array(tokens), self._caches)

    def pick(
        self, allowed: NDArray[np.bool_] | None, temperature: float, draws: NDArray[np.float32] | None
    ) -> list[int]:
        """The next token of each row: the likeliest, or at a temperature the one that a uniform draw falls on."""
        logits = self._logits if allowed is None else mx.where(mx.array(allowed), self._logits, -mx.inf)
        if draws is None:
            return mx.argmax(logits, axis=-1).tolist()  # type: ignore[no-any-return]
        summed = mx.cumsum(mx.softmax(logits / temperature, axis=-1), axis=-1)
        reached = summed <= mx.array(draws)[:, None] * summed[:, -1:]
        return mx.minimum(mx.sum(reached, axis=-1), logits.shape[-1] - 1).tolist()  # type: ignore[no-any-return]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._columns.keep(rows)
        for cache in self._caches:
            cache.keep(mx.array(list(rows)))
