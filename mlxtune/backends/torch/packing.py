"""Packing: several rows end to end in one sequence, so that short rows beside a long one cost no padding. NumPy only.

Attention tells rows of a sequence apart by a mask. A delta net has none: its state goes from each token to the next. Rows of a
model with such layers therefore lie in a sequence each, padded on the right, where what stands there changes no token before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Batch
from mlxtune.backends.shapes import SEQUENCE_TOKENS
from mlxtune.backends.supervision import Supervised, supervised


@dataclass(frozen=True)
class PackedBatch:
    """A batch's rows, without the last token of each, which predicts nothing, in sequences of one length.

    Attributes:
        prefix: Token ids that open every row and are to be computed before, (P,), int64; empty where the sequence holds them.
        tokens: (R, L), int64; 0 where a sequence holds nothing.
        offsets: Place of each token after `prefix` in its row, (R, L), int64.
        visible: Which of its sequence's tokens each may attend to, (R, L, L): those of its own row up to itself, and a
            prefix that the sequence holds. None where each holds one row, so that all before it are its own.
        supervised: The supervised tokens in row order; positions are in the sequences, flattened.
    """

    prefix: NDArray[np.int64]
    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]
    visible: NDArray[np.bool_] | None
    supervised: Supervised


def pack(batch: Batch, length: int = SEQUENCE_TOKENS, with_prefix: bool = False, apart: bool = False) -> PackedBatch:
    """Pack a batch: count the sequences that rows fill first-fit, then give each row, the longest first, to the one with the fewest tokens.

    Args:
        batch: The rows.
        length: Of a sequence where they are counted, unless a row is longer; evened out, one may be a little longer.
        with_prefix: Let the sequence hold the prefix as well, if one is enough: one pass instead of two.
        apart: No sequence takes more than one row.
    """
    lengths = [int(count) - 1 for count in batch.lengths]
    filled = [0] * (len(lengths) if apart else _n_sequences(lengths, max(length, *lengths)))
    sequence_of, start = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        sequence = filled.index(min(filled))
        sequence_of[row], start[row] = sequence, filled[sequence]
        filled[sequence] += lengths[row]
    n_inside = len(batch.prefix) if with_prefix and len(filled) == 1 else 0
    shape = (len(filled), n_inside + max(filled))
    tokens, offsets, owner = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
    tokens[:, :n_inside], offsets[:, :n_inside] = batch.prefix[:n_inside], np.arange(n_inside)
    for row, count in enumerate(lengths):
        start[row] += n_inside
        place = (sequence_of[row], slice(start[row], start[row] + count))
        tokens[place], offsets[place], owner[place] = batch.tokens[row, :count], n_inside + np.arange(count), row
    visible = None
    if len(filled) < len(lengths):
        visible = (owner[:, :, None] == owner[:, None, :]) & np.tri(shape[1], dtype=np.bool_)
        visible[:, n_inside:, :n_inside] = True
    found = supervised(batch)
    rows, columns = np.nonzero(batch.supervised)
    positions = (sequence_of[rows] * shape[1] + start[rows] + columns - 1).astype(np.int32)
    before = batch.prefix[n_inside:].astype(np.int64)
    return PackedBatch(before, tokens, offsets, visible, Supervised(positions, found.targets, found.weights))


def _n_sequences(lengths: Sequence[int], length: int) -> int:
    """How many sequences of `length` rows fill, each the first that it fits, the longest first."""
    filled: list[int] = []
    for row in sorted(lengths, reverse=True):
        fits = next((at for at, used in enumerate(filled) if used + row <= length), None)
        if fits is None:
            filled.append(row)
        else:
            filled[fits] += row
    return len(filled)
