"""Which checkpoint is best, and when to stop: one metric, its direction known from its name. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlxtune.evaluation.metrics.registry import metric
from mlxtune.recipe.sections import VALID_LOSS, Recipe


@dataclass(frozen=True)
class Selection:
    """What is watched.

    Attributes:
        metric: "valid.loss", or a metric of a field.
        min_delta: Least change that counts as an improvement.
        patience: Validations in a row without one after which training stops; None never stops.
    """

    metric: str
    min_delta: float = 0.0
    patience: int | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Selection:
        """What a recipe asks for."""
        stopping = recipe.train.early_stopping
        if stopping is None:
            return cls(recipe.selection_metric)
        return cls(recipe.selection_metric, stopping.min_delta, stopping.patience)

    @property
    def needs_replies(self) -> bool:
        """Whether the model must write replies to be measured."""
        return self.metric != VALID_LOSS

    @property
    def lower_is_better(self) -> bool:
        """Direction of the metric."""
        return self.metric == VALID_LOSS or metric(self.metric.split(".")[1]).direction == "lower"

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far by more than `min_delta`; any number is better than none."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        gain = best - value if self.lower_is_better else value - best
        return gain > self.min_delta
