"""Rows that torch writes replies to: their keys and values, and the pass that adds tokens to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlxtune.backends.columns import GROWTH, TOKENS_AT_ONCE, Columns

# Hidden states, (B, W, hidden), of tokens, (B, W), at positions, (B, W), under a mask, (B, 1, W, columns), with a cache.
Network = Callable[[Tensor, Tensor, Tensor, "RowsCache"], Tensor]


class RowsCache:
    """Keys and values of every layer for all rows; answers the calls that transformers' attention layers make of a cache.

    Args:
        shared: Of what opens every row, layer by layer, (1, heads, P, head_dim) each; none where there is nothing.
    """

    def __init__(self, shared: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        self._held: dict[int, tuple[Tensor, Tensor]] = dict(enumerate(shared))
        self._n_columns = int(shared[0][0].shape[2]) if shared else 0
        self._width = 0  # of the pass that is computed

    def begin(self, width: int) -> None:
        """A pass of so many columns comes; the one before it is whole."""
        self._n_columns += self._width
        self._width = width

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values to attend to, (B, heads, columns, head_dim), given those of the present tokens."""
        start, end = self._n_columns, self._n_columns + self._width
        pair = self._held.get(layer_idx, (None, None))
        keys, values = (
            self._with_room(held, new, end) for held, new in zip(pair, (key_states, value_states), strict=True)
        )
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self._held[layer_idx] = keys, values
        return keys[:, :, :end], values[:, :, :end]

    def _with_room(self, held: Tensor | None, new: Tensor, end: int) -> Tensor:
        """What is held, with columns up to `end` at least."""
        rows, heads, _, head_dim = new.shape
        if held is not None and held.shape[2] >= end and held.shape[0] == rows:
            return held
        grown = new.new_empty(rows, heads, -(-end // GROWTH) * GROWTH, head_dim)
        if held is not None:
            grown[:, :, : self._n_columns] = held[:, :, : self._n_columns]
        return grown

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self._held = {layer: (keys[rows], values[rows]) for layer, (keys, values) in self._held.items()}

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns before those of the present pass; the same for every layer."""
        return self._n_columns

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Likewise; a mask and positions are given, so that nothing is made of it."""
        return self._n_columns

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that `query_length` new tokens have to do with, and where these keys begin."""
        return self._n_columns + query_length, 0


class TorchSession:
    """A `Session` of `backends/replies.py`.

    Args:
        network: Gives hidden states.
        head: Hidden states, (B, hidden) -> float32 logits, (B, vocabulary).
        shared: Keys and values of what opens every row, layer by layer; none where there is nothing.
        n_rows: B.
        device: Where.
    """

    def __init__(
        self,
        network: Network,
        head: Callable[[Tensor], Tensor],
        shared: Sequence[tuple[Tensor, Tensor]],
        n_rows: int,
        device: torch.device,
    ) -> None:
        self._network, self._head, self._device = network, head, device
        self._columns = Columns(n_rows, int(shared[0][0].shape[2]) if shared else 0)
        self._cache = RowsCache(shared)
        self._logits = torch.zeros(0)

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Append tokens to each row and begin to compute what follows."""
        found: list[Tensor] = []
        rows: list[NDArray[np.int64]] = []
        for start in range(0, tokens.shape[1], TOKENS_AT_ONCE):
            part = tokens[:, start : start + TOKENS_AT_ONCE]
            hidden = self._pass(part, np.clip(counts - start, 0, part.shape[1]))
            here = np.flatnonzero((counts > start) & (counts <= start + part.shape[1]))  # rows that end in this part
            found.append(hidden[self._ids(here), self._ids(counts[here] - 1 - start)])
            rows.append(here)
        order = np.argsort(np.concatenate(rows))
        self._logits = self._head(torch.cat(found)[self._ids(order)])

    def _pass(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> Tensor:
        """Hidden states of tokens, (B, W, hidden)."""
        width = tokens.shape[1]
        mask = torch.from_numpy(self._columns.visible(counts, width)).to(self._device)[:, None]
        positions = self._columns.offsets[:, None] + np.arange(width)
        self._columns.add(counts, width)
        self._cache.begin(width)
        return self._network(self._ids(tokens), self._ids(positions), mask, self._cache)

    def pick(
        self, allowed: NDArray[np.bool_] | None, temperature: float, draws: NDArray[np.float32] | None
    ) -> list[int]:
        """The next token of each row: the likeliest, or at a temperature the one that a uniform draw falls on."""
        logits = self._logits
        if allowed is not None:
            logits = logits.masked_fill(torch.from_numpy(~allowed).to(self._device), -math.inf)
        if draws is None:
            return logits.argmax(-1).tolist()
        summed = (logits / temperature).softmax(-1).cumsum(-1)
        reached = summed <= torch.from_numpy(draws).to(self._device)[:, None] * summed[:, -1:]
        return reached.sum(-1).clamp(max=logits.shape[-1] - 1).tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._columns.keep(rows)
        self._cache.keep(self._ids(rows))

    def _ids(self, values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.int64)).to(self._device)
