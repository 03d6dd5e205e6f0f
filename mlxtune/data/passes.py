"""Which rows are computed in one forward pass: of the rows of an optimizer step, or of a set to score. Lengths only, no rows.

Rows are sorted by length and cut into runs. A pass is a rectangle, as wide as its longest row: fewer passes pad more. Where a
backend lays short rows end to end in one sequence, these are not padded. The cut that costs least is taken, in positions
computed, where a pass costs some dozens of positions of its own.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

# What a forward and backward pass costs beside its positions, in positions: every weight is read, whose time would do to
# multiply it by some dozens of positions on any device, and a compiled step knows one more shape.
PASS_COST = 64
# Rows of a pass that is not a whole step, more than one: of few sizes, so that a compiled step meets few shapes.
POWERS_OF_TWO = [1 << power for power in range(1, 20)]


def plan_passes(
    lengths: Sequence[int],
    tokens_per_pass: int,
    pass_cost: int = PASS_COST,
    split_cost: int = 0,
    sequence_tokens: int = 0,
) -> list[list[int]]:
    """Rows of each pass, shortest first; no other grouping of sorted rows costs less.

    A pass is a whole step, or a power of two of rows; where rows share sequences, any number.

    Args:
        lengths: Tokens of each row that are its own.
        tokens_per_pass: Most positions of a pass, padding included; a row that is longer is a pass of its own.
        pass_cost: Of each pass, in positions.
        split_cost: Of having more than one pass, in positions: what passes share must then be kept apart from them.
        sequence_tokens: Of a sequence that several rows share, those that are no longer than half of it; 0 where each row has one
            of its own, as wide as the longest row of the pass.

    Returns:
        Indices of rows; each stands in exactly one pass.

    >>> plan_passes([30, 8, 8, 31], tokens_per_pass=1000, pass_cost=16)
    [[1, 2], [0, 3]]
    >>> plan_passes([30, 8, 8, 31], tokens_per_pass=1000, pass_cost=64)
    [[1, 2, 0, 3]]
    >>> plan_passes([30, 8, 8, 31], tokens_per_pass=1000, pass_cost=16, sequence_tokens=512)
    [[1, 2, 0, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    widths = [lengths[index] for index in order]
    positions = _Runs(widths, sequence_tokens).positions
    cost = [0.0]  # of the first rows in their best passes
    first: list[int] = []  # of the last of these passes
    for stop in range(1, len(order) + 1):
        choices = [(cost[stop - 1] + widths[stop - 1] + pass_cost, stop - 1)]
        for n_rows in range(2, stop + 1) if sequence_tokens else POWERS_OF_TWO:
            start = stop - n_rows
            if start < 0 or positions(start, stop) > tokens_per_pass:
                break
            choices.append((cost[start] + positions(start, stop) + pass_cost, start))
        least, start = min(choices)  # of equals the longest pass
        cost.append(least)
        first.append(start)
    if order and positions(0, len(order)) <= tokens_per_pass:
        whole = positions(0, len(order)) + pass_cost
        if whole <= cost[-1] + split_cost:
            return [order]
    passes: list[list[int]] = []
    end = len(order)
    while end:
        passes.insert(0, order[first[end - 1] : end])
        end = first[end - 1]
    return passes


def pass_positions(lengths: Sequence[int], sequence_tokens: int = 0) -> int:
    """Positions of a pass of such rows, padding included; arguments as for `plan_passes`.

    >>> pass_positions([30, 8, 8, 31]), pass_positions([30, 8, 8, 31], 512), pass_positions([8, 8, 3000], 512)
    (124, 77, 6000)
    """
    return _Runs(sorted(lengths), sequence_tokens).positions(0, len(lengths))


class _Runs:
    """Positions of runs of rows that are sorted by length.

    Args:
        widths: Lengths of all rows, the shortest first.
        sequence_tokens: As `plan_passes` takes it.
    """

    def __init__(self, widths: Sequence[int], sequence_tokens: int) -> None:
        self._widths, self._sequence_tokens = widths, sequence_tokens
        self._summed = [0, *itertools.accumulate(widths)]

    def positions(self, start: int, stop: int) -> int:
        """Of the rows from `start` up to `stop`, at least one."""
        width, total = self._widths[stop - 1], self._summed[stop] - self._summed[start]
        if 0 < self._sequence_tokens < width:  # all sequences are as long as the longest row
            n_apart = stop - max(start, bisect.bisect_right(self._widths, width // 2))
            return width * max(-(-total // width), n_apart)
        shared = max(start, min(stop, bisect.bisect_right(self._widths, self._sequence_tokens // 2)))
        return self._summed[shared] - self._summed[start] + (stop - shared) * width
