"""Where the tokens of each row of a generating batch lie in its cache: the host's side of it. NumPy only.

A row has a slot of the cache for itself, and its tokens lie in the slot's first columns, one after the other: a token's column is
its position. What a slot holds behind them (padding of a pass, a row that left) is attended to by nobody and written over by
the row's next tokens. So a cache has as many slots as rows that are written at a time, as many columns as its longest row has
tokens, and never more, however many rows come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Tokens of each row in one pass over prompts: attention's scores are (B, heads, these, all before), where no kernel fuses them.
TOKENS_AT_ONCE = 512
GROWTH = 256  # columns by which a cache grows
COPIES = 4  # of one layer's cache, of which a model has some dozens


@dataclass(frozen=True)
class Span:
    """Where the tokens of one pass go: behind those that their rows have.

    Attributes:
        slots: Slot of each of its rows, (B,); several may have one.
        columns: Of each token, which are its position, too, (B, W).
        counts: Tokens of each row that count, the first ones, (B,); the others are padding.
        begins: Whether its rows are new: before them is what opens every row, and nothing else.
    """

    slots: NDArray[np.int32]
    columns: NDArray[np.int32]
    counts: NDArray[np.int32]
    begins: bool

    @property
    def n_columns(self) -> int:
        """Columns that the pass has to do with: of all slots the first so many."""
        return int(self.columns.max()) + 1

    @property
    def offsets(self) -> NDArray[np.int32]:
        """Position of each row's first token, (B,)."""
        return self.columns[:, 0]

    @property
    def run(self) -> slice | None:
        """Its slots where they are one after the other, so that nothing is copied to read them; else None."""
        first, n_rows = int(self.slots[0]), len(self.slots)
        return slice(first, first + n_rows) if np.array_equal(self.slots, np.arange(first, first + n_rows)) else None

    def visible(self, window: int | None = None) -> NDArray[np.bool_]:
        """What each token attends to, (B, W, n_columns): its row up to itself; padding too, so that nothing is NaN.

        Args:
            window: Of how many tokens, itself included, each attends to the last at most; None is all.
        """
        columns, tokens = np.arange(self.n_columns), self.columns[:, :, None]
        return columns <= tokens if window is None else (columns <= tokens) & (columns > tokens - window)


def go_apart(counts: NDArray[np.int32]) -> bool:
    """Whether a pass of so many tokens a row should have a row for each token: where most of it would be padding otherwise.

    Each token then reads its slot's keys and values for itself, from a copy, which is to stay small beside the cache.
    """
    n_rows, n_tokens = len(counts), int(counts.sum())
    return 2 * n_tokens <= n_rows * int(counts.max()) and n_tokens <= COPIES * n_rows


class Columns:
    """How many tokens each row has.

    Args:
        n_shared: Tokens that open every row and lie in every slot from the beginning, P.
    """

    def __init__(self, n_shared: int) -> None:
        self._n_shared = n_shared
        self._lengths = np.zeros(0, np.int32)

    def __len__(self) -> int:
        """Rows that there are."""
        return len(self._lengths)

    @property
    def n_columns(self) -> int:
        """Tokens of the longest row."""
        return int(self._lengths.max(initial=0))

    def join(self, n_rows: int) -> int:
        """Begin rows in the slots behind those that are taken; the first of these slots."""
        first = len(self)
        self._lengths = np.concatenate([self._lengths, np.full(n_rows, self._n_shared, np.int32)])
        return first

    def add(self, counts: NDArray[np.int32], width: int, first: int = 0) -> Span:
        """Add the tokens of a pass.

        Args:
            counts: Tokens of each row that count, (B,); 0 of a row that only waits.
            width: W.
            first: Slot of the first row.
        """
        slots = np.arange(first, first + len(counts), dtype=np.int32)
        columns = (self._lengths[slots, None] + np.arange(width)).astype(np.int32)
        begins = bool((self._lengths[slots] == self._n_shared).all())  # rows join with a token of their own each
        self._lengths[slots] += counts
        return Span(slots, columns, counts.astype(np.int32), begins)

    def add_apart(self, counts: NDArray[np.int32]) -> Span:
        """Add the tokens of a pass that has a row for each token, (N, 1), in the order of their rows, and so no padding.

        Args:
            counts: Tokens of each row, (B,).
        """
        slots = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        within = np.concatenate([np.arange(count) for count in counts])
        columns = (self._lengths[slots] + within)[:, None].astype(np.int32)
        self._lengths += counts
        return Span(slots, columns, np.ones(len(slots), np.int32), begins=False)

    def keep(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Go on with these rows alone, in this order; the slots whose content moves, and where to."""
        self._lengths = self._lengths[list(rows)]
        moves = [(row, slot) for slot, row in enumerate(rows) if row != slot]
        return [row for row, _ in moves], [slot for _, slot in moves]
