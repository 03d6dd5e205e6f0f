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
        tokens: (R, L), int64; 0 where a line holds nothing.
        offsets: Place of each token in its row, (R, L), int64.
        sees: Which of its line's tokens each may attend to, (R, L, L): those of its own row up to itself. None where
            every line holds one row, so that all before it are its own.
        supervised: The supervised tokens in row order; positions are in the lines, flattened.
    """

    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sees: NDArray[np.bool_] | None
    supervised: Supervised


def lines(batch: Batch, length: int = LINE) -> Lines:
    """Lay out a batch; a line takes rows, the longest first, while they fit `length`."""
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
    shape = (len(filled), max(filled))
    tokens, offsets, owner = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
    for row, count in enumerate(lengths):
        place = (line_of[row], slice(start[row], start[row] + count))
        tokens[place], offsets[place], owner[place] = batch.tokens[row, :count], np.arange(count), row
    sees = None
    if len(filled) < len(lengths):
        sees = (owner[:, :, None] == owner[:, None, :]) & np.tri(shape[1], dtype=np.bool_)
    found = supervised(batch)
    rows, columns = np.nonzero(batch.supervised)
    positions = (line_of[rows] * shape[1] + start[rows] + columns - 1).astype(np.int32)
    return Lines(tokens, offsets, sees, Supervised(positions, found.targets, found.weights))
