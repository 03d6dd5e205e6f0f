"""Rows that torch writes replies to: what layers keep of them, and the pass that adds tokens to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlxtune.backends.architecture import Architecture
from mlxtune.backends.columns import GROWTH, TOKENS_AT_ONCE, Columns, Span, go_apart
from mlxtune.backends.replies import Allowed
from mlxtune.backends.torch.masks import Masks
from mlxtune.backends.torch.prefix_cache import NOTHING, Prefix

# Hidden states, (B, W, hidden), of tokens, (B, W), at positions, (B, W), under masks, (B, 1, W, columns), with a cache.
Network = Callable[[Tensor, Tensor, Masks, "RowsCache"], Tensor]


class RowsCache:
    """What every layer keeps of all rows: keys and values, or the state of a delta net.

    It answers the calls that transformers' attention layers and our delta nets make of a cache.

    Args:
        n_slots: Rows that there may be.
        shared: What opens every row.
    """

    visible = None  # rows do not branch

    def __init__(self, n_slots: int, shared: Prefix = NOTHING) -> None:
        self._n_slots = n_slots
        self._shared = dict(enumerate(shared.layers))
        self._held: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values
        self._states: dict[int, tuple[Tensor, Tensor]] = {}
        self._n_columns = shared.length
        self.counted: Tensor | None = None

    def begin(self, span: Span, rows: Tensor, columns: Tensor) -> None:
        """A pass comes, whose tokens go to these slots, (B, 1), and columns, (B, W)."""
        self._n_columns, self._rows, self._columns = span.n_columns, rows, columns
        self._slots = rows[:, 0] if span.run is None else span.run
        self._begins, self.counted = span.begins, None
        width = columns.shape[1]
        if (span.counts < width).any():
            self.counted = torch.from_numpy(np.arange(width) < span.counts[:, None]).to(rows.device)

    def has_previous_state(self, *args: Any, **kwargs: Any) -> bool:
        """As `delta_net.States` has it."""
        return True

    def state(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """State of a delta net before the pass: of each row, or that of what opens every row where the rows are new."""
        if self._begins:
            return self._shared.get(layer)
        inputs, memory = self._states[layer]
        return inputs[self._slots], memory[self._slots]

    def set_state(self, layer: int, state: tuple[Tensor, Tensor]) -> None:
        """State of a delta net after the pass, of each row."""
        if layer not in self._states:
            first, second = (new.new_zeros(self._n_slots, *new.shape[1:]) for new in state)
            self._states[layer] = first, second
        for held, new in zip(self._states[layer], state, strict=True):
            held[self._slots] = new

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values to attend to, (B, heads, columns, head_dim), given those of the present tokens."""
        pair = self._held.get(layer_idx) or self._shared.get(layer_idx) or (None, None)
        keys, values = (self._with_room(held, new) for held, new in zip(pair, (key_states, value_states), strict=True))
        keys[self._rows, :, self._columns] = key_states.transpose(1, 2).to(keys.dtype)
        values[self._rows, :, self._columns] = value_states.transpose(1, 2).to(values.dtype)
        self._held[layer_idx] = keys, values
        return keys[:, :, : self._n_columns][self._slots], values[:, :, : self._n_columns][self._slots]

    def _with_room(self, held: Tensor | None, new: Tensor) -> Tensor:
        """What is held, with a row for each slot and room for the columns of the present pass."""
        _, heads, _, head_dim = new.shape
        if held is not None and held.shape[2] >= self._n_columns and held.shape[0] == self._n_slots:
            return held
        grown = new.new_zeros(self._n_slots, heads, -(-self._n_columns // GROWTH) * GROWTH, head_dim)
        if held is not None:
            grown[:, :, : held.shape[2]] = held
        return grown

    def move(self, sources: Tensor, targets: Tensor, n_columns: int) -> None:
        """Copy the first columns of some slots to others, and their states."""
        for pair in self._held.values():
            for held in pair:
                held[targets, :, :n_columns] = held[sources, :, :n_columns]
        for state in self._states.values():
            for held in state:
                held[targets] = held[sources]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns that there are; a mask and positions are given, so that nothing is made of it."""
        return self._n_columns

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Likewise."""
        return self._n_columns

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that `query_length` new tokens have to do with, and where these keys begin."""
        return self._n_columns, 0


class TorchSession:
    """A `Session` of `backends/replies.py`.

    Args:
        network: Gives hidden states.
        head: Hidden states, (B, hidden) -> float32 logits, (B, vocabulary), or those of some tokens, (B, n).
        shared: What opens every row.
        n_slots: Rows that there may be.
        device: Where.
        architecture: Of the model.
    """

    def __init__(
        self,
        network: Network,
        head: Callable[[Tensor, Tensor | None], Tensor],
        shared: Prefix,
        n_slots: int,
        device: torch.device,
        architecture: Architecture,
    ) -> None:
        self._windows = tuple(dict.fromkeys(architecture.windows))
        self._is_recurrent = architecture.is_recurrent
        self._network, self._head, self._device = network, head, device
        self._columns = Columns(shared.length)
        self._cache = RowsCache(n_slots, shared)
        self._hidden: list[Tensor] = []  # of each row's last token, (B, hidden), in one or two parts

    def join(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Begin rows behind those that are there, with these tokens."""
        self._hidden.append(self._run(tokens, counts, self._columns.join(len(counts))))

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Append tokens to each row and begin to compute what follows."""
        if go_apart(counts) and not self._is_recurrent:  # a state goes from token to token of a row
            apart = tokens[np.arange(tokens.shape[1]) < counts[:, None], None]
            hidden = self._pass(apart, self._columns.add_apart(counts))
            self._hidden = [hidden[self._ids(np.cumsum(counts) - 1), 0]]
        else:
            self._hidden = [self._run(tokens, counts, 0)]

    def _run(self, tokens: NDArray[np.int32], counts: NDArray[np.int32], first: int) -> Tensor:
        """Hidden state of the last token of each row, (B, hidden)."""
        found: list[Tensor] = []
        rows: list[NDArray[np.int64]] = []
        for start in range(0, tokens.shape[1], TOKENS_AT_ONCE):
            part = tokens[:, start : start + TOKENS_AT_ONCE]
            width = part.shape[1]
            hidden = self._pass(part, self._columns.add(np.clip(counts - start, 0, width), width, first))
            here = np.flatnonzero((counts > start) & (counts <= start + width))  # rows that end in this part
            found.append(hidden[self._ids(here), self._ids(counts[here] - 1 - start)])
            rows.append(here)
        order = np.argsort(np.concatenate(rows))
        return torch.cat(found)[self._ids(order)]

    def _pass(self, tokens: NDArray[np.int32], span: Span) -> Tensor:
        """Hidden states of tokens, (B, W, hidden)."""
        masks = {window: torch.from_numpy(span.visible(window)).to(self._device)[:, None] for window in self._windows}
        positions = self._ids(span.columns)
        self._cache.begin(span, self._ids(span.slots)[:, None], positions)
        return self._network(self._ids(tokens), positions, masks, self._cache)

    def pick(self, allowed: Allowed | None, temperature: float, draws: NDArray[np.float32] | None) -> list[int]:
        """The next token of each row: the likeliest, or at a temperature the one that a uniform draw falls on."""
        tokens = None if allowed is None or allowed.tokens is None else self._ids(allowed.tokens)
        logits = self._head(torch.cat(self._hidden), tokens)
        if allowed is not None:
            logits = logits.masked_fill(torch.from_numpy(~allowed.mask).to(self._device), -math.inf)
        if draws is None:
            return logits.argmax(-1).tolist()
        summed = (logits / temperature).softmax(-1).cumsum(-1)
        reached = summed <= torch.from_numpy(draws).to(self._device)[:, None] * summed[:, -1:]
        return reached.sum(-1).clamp(max=logits.shape[-1] - 1).tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; each is then fed before the next token is picked."""
        self._hidden = []
        sources, targets = self._columns.keep(rows)
        if sources:
            self._cache.move(self._ids(sources), self._ids(targets), self._columns.n_columns)

    def _ids(self, values: Any) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.int64)).to(self._device)
