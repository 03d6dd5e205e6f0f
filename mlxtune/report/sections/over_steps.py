"""Values over the steps of a training, few enough to be drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mlxtune.report.contents.events import StepEvent

FEW_POINTS = 30  # of a line, whose places are marked


def mean_of_each(
    steps: Sequence[StepEvent], value: Callable[[StepEvent], float | None], most: int
) -> tuple[list[int], list[float | None]]:
    """Steps and a value of each; of more than `most` steps the mean over as many in a row as leave that many, at the last of them."""
    size = math.ceil(len(steps) / most) if steps else 1
    groups = [steps[start : start + size] for start in range(0, len(steps), size)]
    return [one[-1].step for one in groups], [finite_mean(list(map(value, one))) for one in groups]


def finite_mean(values: Sequence[float | None]) -> float | None:
    """Of those that are finite numbers; None of none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
