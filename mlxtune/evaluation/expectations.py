"""What came of each condition of `evaluate.expect`, as values, as scores.json has them. Checks none: `check.py` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.json_values import read_dataclass
from mlxtune.recipe.conditions import Bound, Condition, parse_condition

# What is missing where a condition cannot be checked, which makes it unmet.
Missing = Literal[
    "label", "interval", "probabilities", "bertscore", "placeholders", "speed", "memory", "before", "baseline", "comparison", "metric"
]  # fmt: skip


@dataclass(frozen=True)
class Expectation:
    """One condition and what was measured.

    Attributes:
        name: Of the metric: 'intents.exact_match'.
        condition: As the recipe has it: '>= 0.8'.
        met: Whether it holds. One that cannot be checked does not.
        value: The metric, with its interval where it has one; None where it was not measured.
        margin: How far the metric, or the end of its interval that counts, is on the right side of the bound, in its own unit;
            below 0 on the wrong side. None of a comparison, and where it was not measured.
        difference: Ours less the other system's, of a condition that names one.
        missing: Why it cannot be checked.
    """

    name: str
    condition: str
    met: bool
    value: Estimate | None = None
    margin: float | None = None
    difference: Estimate | None = None
    missing: Missing | None = None

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, content: Any) -> Expectation:
        """What `to_json` says."""
        return read_dataclass(cls, content)

    @property
    def parsed(self) -> Condition | None:
        """The condition, read; None of a form that a later version wrote."""
        return parse_condition(self.condition)

    @property
    def too(self) -> Literal["low", "high"] | None:
        """What a metric on the wrong side of its bound is; None where it is on the right side, or there is no bound."""
        condition = self.parsed
        if self.met or self.margin is None or not isinstance(condition, Bound):
            return None
        return "low" if condition.is_least else "high"
