"""Rows that MLX writes replies to: their keys and values, or states, and the pass that adds tokens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.columns import GROWTH, TOKENS_AT_ONCE, Columns, Span, go_apart
from mlxtune.backends.mlx.prefix_cache import PrefixCache, tokens_held
from mlxtune.backends.mlx.sharding import WHOLE, Parts, Whole
from mlxtune.backends.mlx.state_cache import Carried, PrefixStateCache
from mlxtune.backends.replies import Allowed


class _Place:
    """Where the tokens of a pass go, as MLX arrays.

    Attributes:
        slots: Which slots its rows have.
        rows: Likewise, (B, 1), as an array in any case.
        columns: Of each token, (B, W).
        n_columns: Columns that the pass has to do with.
        offsets: Position of each row's first token, (B,).
        masks: What each token attends to in layers with a window, (B, 1, W, n_columns), by window.
        first: Slot of its first row.
        begins: Whether its rows are new.
        counts: Tokens of each row that count, (B,), those behind are padding; None is all.
    """

    def __init__(self, span: Span, windows: Iterable[int | None]) -> None:
        self.n_columns = span.n_columns
        self.rows, self.columns = mx.array(span.slots)[:, None], mx.array(span.columns)
        self.slots = self.rows[:, 0] if span.run is None else span.run
        self.offsets = mx.array(span.offsets)
        self.masks = {window: mx.array(span.visible(window))[:, None] for window in windows}
        self.first, self.begins = int(span.slots[0]), span.begins
        self.counts = None if np.all(span.counts == span.columns.shape[1]) else mx.array(span.counts)


class _Pass:
    """The pass that is computed, which a session tells its caches. Caches that knew the session would keep it, and each other, alive."""

    place: _Place


class RowsCache:
    """Keys and values of one layer for all rows; answers the calls that mlx-lm's attention layers make of a cache.

    Args:
        present: Knows where the present tokens go.
        n_slots: Rows that there may be.
        keys: Of what opens every row, (1, heads, P, head_dim); None where there is nothing.
        values: Likewise.
        window: As a `PrefixCache`'s.
    """

    def __init__(
        self,
        present: _Pass,
        n_slots: int,
        keys: mx.array | None = None,
        values: mx.array | None = None,
        window: int | None = None,
    ) -> None:
        self._present, self._n_slots, self._window = present, n_slots, window
        self._keys, self._values = keys, values

    @property
    def offset(self) -> mx.array:
        """Position of each row's next token, (B,), for RoPE."""
        return self._present.place.offsets

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to, (B, heads, columns, head_dim), given those of the present tokens."""
        place = self._present.place
        self._keys, self._values = self._with_room(self._keys, keys), self._with_room(self._values, values)
        self._keys[place.rows, :, place.columns] = keys.transpose(0, 2, 1, 3)
        self._values[place.rows, :, place.columns] = values.transpose(0, 2, 1, 3)
        return self._keys[:, :, : place.n_columns][place.slots], self._values[:, :, : place.n_columns][place.slots]

    def _with_room(self, held: mx.array | None, new: mx.array) -> mx.array:
        """What is held, with a row for each slot and room for the columns of the present pass."""
        n_columns = self._present.place.n_columns
        if held is not None and held.shape[0] == self._n_slots and held.shape[2] >= n_columns:
            return held
        _, heads, _, head_dim = new.shape
        n_held = 0 if held is None else held.shape[2]
        shape = (self._n_slots, heads, -(-n_columns // GROWTH) * GROWTH - n_held, head_dim)
        room = mx.zeros(shape, new.dtype)
        if held is None:
            return room
        return mx.concatenate([mx.broadcast_to(held, (self._n_slots, *held.shape[1:])), room], axis=2)

    def move(self, sources: Sequence[int], targets: Sequence[int], n_columns: int) -> None:
        """Copy the first columns of some slots to others."""
        for held in self.state:
            held[mx.array(targets), :, :n_columns] = held[mx.array(sources), :, :n_columns]

    def make_mask(self, *args: Any, window_size: int | None = None, **kwargs: Any) -> mx.array:
        """What each present token attends to, (B, 1, W, columns), of what mlx-lm's own caches are asked for."""
        masks = self._present.place.masks
        return masks.get(window_size or self._window, masks[None])  # a window that holds all positions is none

    @property
    def state(self) -> list[mx.array]:
        """All that is held, to be computed before the next pass."""
        return [held for held in (self._keys, self._values) if held is not None]


class RowsStateCache:
    """What one layer with a state carries on, for all rows.

    Args:
        present: Knows which rows the present tokens belong to.
        start: What every row begins with; None is nothing.
    """

    def __init__(self, present: _Pass, start: Carried | None = None) -> None:
        self._present, self._start = present, start
        self._held: Carried | None = None  # of the rows that there are, in their order

    @property
    def counts(self) -> mx.array | None:
        """`StateCache.counts`."""
        return self._present.place.counts

    def before(self, rows: int) -> Carried | None:
        """`StateCache.before`."""
        first = self._present.place.first
        if not self._present.place.begins and self._held is not None:
            return self._held.map(lambda part: part[first : first + rows])
        return None if self._start is None else self._start.for_rows(rows)

    def carry(self, carried: Carried) -> None:
        """`StateCache.carry`."""
        first = self._present.place.first
        self._held = carried if first == 0 or self._held is None else self._held.followed_by(carried, first)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        if self._held is not None:
            chosen = mx.array(rows, mx.int32)
            self._held = self._held.map(lambda part: part[chosen]) if rows else None

    def make_mask(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, of what mlx-lm's own caches are asked for."""

    @property
    def state(self) -> list[mx.array]:
        """All that is held, to be computed before the next pass."""
        return [] if self._held is None else [self._held.inputs, self._held.state]


class MlxSession:
    """A `Session` of `backends/replies.py`.

    Args:
        network: mlx-lm's model.
        head: Hidden states, (B, hidden), float32 -> logits, (B, vocabulary), or those of some tokens, (B, n).
        shared: What opens every row, layer by layer; it may be empty.
        n_slots: Rows that there may be.
        windows: Of the network's layers.
        parts: Of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        head: Callable[[mx.array, mx.array | None], mx.array],
        shared: Sequence[PrefixCache | PrefixStateCache],
        n_slots: int,
        windows: Sequence[int | None],
        parts: Whole | Parts = WHOLE,
    ) -> None:
        self._network, self._head, self._parts = network, head, parts
        self._windows = dict.fromkeys([None, *windows])
        self._present = _Pass()
        self._columns = Columns(tokens_held(shared))
        self._caches = [self._cache_of(layer, n_slots) for layer in shared]
        self._has_states = any(isinstance(cache, RowsStateCache) for cache in self._caches)
        self._hidden: list[mx.array] = []  # of each row's last token, (B, hidden), in one or two parts

    def _cache_of(self, layer: PrefixCache | PrefixStateCache, n_slots: int) -> RowsCache | RowsStateCache:
        if isinstance(layer, PrefixStateCache):
            return RowsStateCache(self._present, layer.carried)
        keys, values = layer.held() or (None, None)
        return RowsCache(self._present, n_slots, keys, values, layer.window)

    def join(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Begin rows behind those that are there, with these tokens."""
        with self._parts.exchanging():
            self._hidden.append(self._begun(self._run(tokens, counts, self._columns.join(len(counts)))))

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Append tokens to each row and begin to compute what follows."""
        with self._parts.exchanging():
            self._hidden = [self._begun(self._fed(tokens, counts))]

    def _fed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> mx.array:
        """Hidden state of the last token of each row, (B, hidden), once these are appended."""
        if (
            go_apart(counts) and not self._has_states
        ):  # tokens of one row that stand in different ones have no state between them
            place = _Place(self._columns.add_apart(counts), self._windows)
            hidden = self._pass(tokens[np.arange(tokens.shape[1]) < counts[:, None], None], place)
            return hidden[mx.array(np.cumsum(counts) - 1), 0]
        return self._run(tokens, counts, 0)

    def _begun(self, last: mx.array) -> mx.array:
        """What the device now begins to compute, with all that is held."""
        mx.async_eval(last, [cache.state for cache in self._caches])
        return last

    def _run(self, tokens: NDArray[np.int32], counts: NDArray[np.int32], first: int) -> mx.array:
        """Hidden state of the last token of each row, (B, hidden)."""
        last: mx.array | None = None
        for start in range(0, tokens.shape[1], TOKENS_AT_ONCE):
            part = tokens[:, start : start + TOKENS_AT_ONCE]
            own = np.clip(counts - start, 0, part.shape[1])
            hidden = self._pass(part, _Place(self._columns.add(own, part.shape[1], first), self._windows))
            ends = np.clip(counts - 1 - start, 0, part.shape[1] - 1)
            found = mx.take_along_axis(hidden, mx.array(ends)[:, None, None], axis=1)[:, 0]  # (B, hidden)
            here = mx.array((counts > start) & (counts <= start + part.shape[1]))[:, None]
            last = found if last is None else mx.where(here, found, last)
            if start + TOKENS_AT_ONCE < tokens.shape[1]:  # no activations of this part outlive it
                mx.eval(last, [cache.state for cache in self._caches])
        assert last is not None
        return last

    def _pass(self, tokens: NDArray[np.int32], place: _Place) -> mx.array:
        """Hidden states of tokens, (B, W, hidden)."""
        self._present.place = place
        return self._network.model(mx.array(tokens), self._caches)

    def pick(self, allowed: Allowed | None, temperature: float, draws: NDArray[np.float32] | None) -> list[int]:
        """The next token of each row: the likeliest, or at a temperature the one that a uniform draw falls on."""
        with self._parts.exchanging():
            found = self._picked(allowed, temperature, draws)
            mx.eval(found)
        return self._parts.of_first(found).tolist()  # type: ignore[no-any-return]

    def _picked(self, allowed: Allowed | None, temperature: float, draws: NDArray[np.float32] | None) -> mx.array:
        """What `pick` returns, (B,)."""
        tokens = None if allowed is None or allowed.tokens is None else mx.array(allowed.tokens)
        logits = self._head(mx.concatenate(self._hidden).astype(mx.float32), tokens)
        if allowed is not None:
            logits = mx.where(mx.array(allowed.mask), logits, -mx.inf)
        if draws is None:
            return mx.argmax(logits, axis=-1)
        summed = mx.cumsum(mx.softmax(logits / temperature, axis=-1), axis=-1)
        reached = summed <= mx.array(draws)[:, None] * summed[:, -1:]
        return mx.minimum(mx.sum(reached, axis=-1), logits.shape[-1] - 1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; each is then fed before the next token is picked."""
        self._hidden = []
        sources, targets = self._columns.keep(rows)
        for cache in self._caches:
            if isinstance(cache, RowsStateCache):
                cache.keep(rows)
            elif sources:
                cache.move(sources, targets, self._columns.n_columns)
