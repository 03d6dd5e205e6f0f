"""Balancing: as many rows of one label, or of one set of labels, as of another. Positions and counts, no reading.

balanced = balance(["high", "low", "high"], "oversample", seed=0)   # balanced.positions: [0, 1, 1, 2]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Balanced:
    """What balancing chose, and its account.

    Attributes:
        positions: Rows in order; a repeated row stands there repeatedly.
        before: Class -> rows, commonest first.
        after: The same once balanced.
        most_repeats: How often the row stands there that does so most.
    """

    positions: tuple[int, ...]
    before: Mapping[str, int]
    after: Mapping[str, int]
    most_repeats: int


def balance(classes: Sequence[str], method: Literal["oversample", "undersample"], seed: int) -> Balanced:
    """Rows such that all classes have equally many: a pure function of its arguments.

    Args:
        classes: Of each row: its label, or its set of labels as one text.
        method: "oversample" repeats rows up to the commonest class's count, each row of a class equally often but for
            a remainder drawn at random; "undersample" draws rows down to the rarest class's count.
        seed: Of the draw.
    """
    of_class: dict[str, list[int]] = {}
    for position, name in enumerate(classes):
        of_class.setdefault(name, []).append(position)
    commonest_first = sorted(of_class, key=lambda name: -len(of_class[name]))
    sizes = [len(rows) for rows in of_class.values()] or [0]
    target = max(sizes) if method == "oversample" else min(sizes)
    random = np.random.default_rng(seed)
    chosen: list[int] = []
    most = 0
    for name in sorted(of_class):
        rows = of_class[name]
        whole, rest = divmod(target, len(rows))
        chosen += rows * whole
        chosen += [rows[index] for index in random.choice(len(rows), rest, replace=False)]
        most = max(most, whole + (rest > 0))
    return Balanced(
        positions=tuple(sorted(chosen)),
        before={name: len(of_class[name]) for name in commonest_first},
        after=dict.fromkeys(commonest_first, target),
        most_repeats=most,
    )
