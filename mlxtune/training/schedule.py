"""The learning rate of each optimizer step. Plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm-up from zero to the peak, then linear or cosine decay towards zero, or constant.

    Attributes:
        kind: 'linear', 'cosine' or 'constant'.
        peak: Highest learning rate.
        total_steps: Steps of the whole training.
        warmup_steps: Steps of the rise; 0 starts at the peak.
    """

    kind: str
    peak: float
    total_steps: int
    warmup_steps: int

    def rate(self, step: int) -> float:
        """Learning rate of a step counted from 1; positive at every step, the peak at step `warmup_steps` + 1.

        >>> schedule = Schedule("linear", 1.0, total_steps=6, warmup_steps=2)
        >>> [round(schedule.rate(step), 2) for step in range(1, 7)]
        [0.33, 0.67, 1.0, 0.75, 0.5, 0.25]
        """
        if step <= self.warmup_steps:
            return self.peak * step / (self.warmup_steps + 1)
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps - 1) / max(1, self.total_steps - self.warmup_steps)
        if self.kind == "cosine":
            return self.peak * 0.5 * (1 + math.cos(math.pi * done))
        return self.peak * (1 - done)
