"""Splitting rows for training and validation: label sets in proportion, near-duplicates never parted. Reads nothing.

split = split_positions(texts, label_sets, fraction=0.05, seed=0)   # split.training, split.validation: positions
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mlxtune.data.near import near_duplicate_groups


@dataclass(frozen=True)
class SplitPositions:
    """Positions of the rows to train on and of those to validate with, each in order; together they are all rows."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


def split_positions(texts: Sequence[str], strata: Sequence[Hashable], fraction: float, seed: int) -> SplitPositions:
    """Draw a share of the rows, a pure function of its arguments.

    Rows whose texts are near-duplicates form a group, and a group is drawn whole. Of each stratum about `fraction` of
    its rows are drawn; a stratum of one group stays in training, since a label set that is only validated is not
    learned. Where groups are too large to fill a stratum's share, others make up for it as far as they fit.

    Args:
        texts: Of each row.
        strata: What shall keep its proportion, of each row: its label sets. A group counts as its first row's.
        fraction: Share of the rows to validate with, in (0, 1).
        seed: Of the draw.

    Returns:
        At least one row each, unless all rows are near-duplicates of one another: then all are trained on.
    """
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(near_duplicate_groups(texts)):
        groups.setdefault(group, []).append(row)
    by_stratum: dict[Hashable, list[list[int]]] = {}
    for rows in groups.values():
        by_stratum.setdefault(strata[rows[0]], []).append(rows)

    random = np.random.default_rng(seed)
    wanted = max(1, round(fraction * len(texts)))
    quotas = _quotas([sum(map(len, stratum)) for stratum in by_stratum.values()], wanted)
    drawn: list[int] = []
    left: list[list[int]] = []
    for stratum, quota in zip(by_stratum.values(), quotas, strict=True):
        shuffled = [stratum[index] for index in random.permutation(len(stratum))]
        # The last one stays.
        taken, others = _take(shuffled[:-1], quota)
        drawn += taken
        left += others
    spare, _ = _take([left[index] for index in random.permutation(len(left))], wanted - len(drawn))
    drawn += spare
    if not drawn and len(groups) > 1:  # every stratum is one group, or every group is too large
        drawn = min(groups.values(), key=len)
    chosen = set(drawn)
    return SplitPositions(tuple(row for row in range(len(texts)) if row not in chosen), tuple(sorted(chosen)))


def _take(groups: Sequence[list[int]], quota: int) -> tuple[list[int], list[list[int]]]:
    """Rows of the groups that fit into a quota, taken in order, and the groups that were not taken."""
    rows: list[int] = []
    left: list[list[int]] = []
    for group in groups:
        if len(rows) + len(group) <= quota:
            rows += group
        else:
            left.append(group)
    return rows, left


def _quotas(sizes: Sequence[int], wanted: int) -> list[int]:
    """`wanted` shared out in proportion to sizes, by largest remainders; of equal ones the first."""
    total = sum(sizes)
    quotas = [wanted * size // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: -(wanted * sizes[index] % total))
    for index in by_remainder[: wanted - sum(quotas)]:
        quotas[index] += 1
    return quotas
