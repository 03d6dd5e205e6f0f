"""Rows laid end to end in lines, so that short rows beside a long one cost no padding. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Batch
from mlxtune.backends.supervision import Supervised, supervised

# Tokens of a line of several rows. Attention within a line costs its square, whoever attends to whom; up to here it is
# small beside the linear layers. A longer row has a line of its own.
LINE = 512


@dataclass(frozen=True)
class Lines:
    """A batch's rows, without the last token of each, which predicts nothing, in lines of one length.

    Attributes:
        prefix: Token ids that open every row and are to be computed before, (P,), int64; empty where the line holds them.
        tokens: (R, L), int64; 0 where a line holds nothing.
        offsets: Place of each token after `prefix` in its row, (R, L), int64.
        sees: Which of its line's tokens each may attend to, (R, L, L): those of its own row up to itself, and a prefix that
            the line holds. None where every line holds one row, so that all before it are its own.
        supervised: The supervised tokens in row order; positions are in the lines, flattened.
    """

    prefix: NDArray[np.int64]
    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sees: NDArray[np.bool_] | None
    supervised: Supervised


def lines(batch: Batch, length: int = LINE, with_prefix: bool = False) -> Lines:
    """Lay out a batch; a line takes rows, the longest first, while they fit `length`.

    Args:
        batch: The rows.
        length: Of a line, unless a row is longer.
        with_prefix: Let the line hold the prefix as well, if one line is enough: one pass instead of two.
    """
    lengths = [int(count) - 1 for count in batch.lengths]
    length = max(length, *lengths)
    line_of, start = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    filled: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        line = next((at for at, used in enumerate(filled) if used + lengths[row] <= length), len(filled))
        if line == len(filled):
            filled.append(0)
        line_of[row], start[row] = line, filled[line]
        filled[line] += lengths[row]
    n_inside = len(batch.prefix) if with_prefix and len(filled) == 1 else 0
    shape = (len(filled), n_inside + max(filled))
    tokens, offsets, owner = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
    tokens[:, :n_inside], offsets[:, :n_inside] = batch.prefix[:n_inside], np.arange(n_inside)
    for row, count in enumerate(lengths):
        start[row] += n_inside
        place = (line_of[row], slice(start[row], start[row] + count))
        tokens[place], offsets[place], owner[place] = batch.tokens[row, :count], n_inside + np.arange(count), row
    sees = None
    if len(filled) < len(lengths):
        sees = (owner[:, :, None] == owner[:, None, :]) & np.tri(shape[1], dtype=np.bool_)
        sees[:, n_inside:, :n_inside] = True
    found = supervised(batch)
    rows, columns = np.nonzero(batch.supervised)
    positions = (line_of[rows] * shape[1] + start[rows] + columns - 1).astype(np.int32)
    before = batch.prefix[n_inside:].astype(np.int64)
    return Lines(before, tokens, offsets, sees, Supervised(positions, found.targets, found.weights))
