"""Which tokens each row of a generating batch attends to, and where it is: the host's side of its cache. NumPy only.

Keys and values of all rows lie in the same columns. A pass adds as many columns as its widest row has tokens; a row with
fewer has holes there, which nobody attends to, and its positions go on without them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Tokens of each row in one pass over prompts: attention's scores are (B, heads, these, all before), where no kernel fuses them.
TOKENS_AT_ONCE = 512
GROWTH = 256  # columns by which a cache grows


class Columns:
    """The columns of a batch.

    Args:
        n_rows: B.
        n_shared: Columns that all rows have tokens in, P: what opens every prompt.
    """

    def __init__(self, n_rows: int, n_shared: int) -> None:
        self._filled = np.ones((n_rows, n_shared), np.bool_)

    @property
    def n_columns(self) -> int:
        """How many there are."""
        return self._filled.shape[1]

    @property
    def offsets(self) -> NDArray[np.int32]:
        """Position of each row's next token, (B,)."""
        found: NDArray[np.int32] = self._filled.sum(axis=1, dtype=np.int32)
        return found

    def visible(self, counts: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
        """What each token of a pass attends to, itself included, (B, W, columns + W).

        Args:
            counts: Tokens of each row that count, (B,); 0 of a row that only waits.
            width: W.
        """
        new = np.arange(width)[None] < counts[:, None]  # (B, W)
        own = new[:, None] & np.tri(width, dtype=np.bool_)
        before = np.broadcast_to(self._filled[:, None], (len(counts), width, self.n_columns))
        visible = np.concatenate([before, own], axis=2)
        visible[:, :, self.n_columns :] |= ~new[:, :, None] & np.eye(
            width, dtype=np.bool_
        )  # padding sees itself: no NaN
        return visible

    def add(self, counts: NDArray[np.int32], width: int) -> None:
        """The columns of a pass."""
        self._filled = np.concatenate([self._filled, np.arange(width)[None] < counts[:, None]], axis=1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        self._filled = self._filled[list(rows)]
