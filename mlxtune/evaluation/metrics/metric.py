"""What is known of a metric besides its formula: its name, its title, which way is better, how a difference is tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "neither"]
Test = Literal["mcnemar", "bootstrap"]


@dataclass(frozen=True)
class Metric:
    """One metric, as scores.json names it.

    Attributes:
        name: Key in scores.json; of nested ones the dotted path.
        title: What tables call it.
        direction: Which way is better.
        test: How a difference is tested: McNemar's where a row is right or wrong, else the bootstrap; None is not compared.
        headline: A field is called better or worse by this metric.
        beside: The second metric that is shown of a baseline, where this one is the headline.
        kinds: Kinds of output field that have it.
        selects: Kinds of output field in which a checkpoint may be selected by it.
        may_exceed_one: Whether it has no upper bound.
    """

    name: str
    title: str
    direction: Direction = "higher"
    test: Test | None = "bootstrap"
    headline: bool = False
    beside: str = ""
    kinds: tuple[str, ...] = ()
    selects: tuple[str, ...] = ()
    may_exceed_one: bool = False


# Of fields of any kind, and of whole replies.
FAULTS = (
    Metric(
        "invalid_rate", "invalid", "lower", "mcnemar", kinds=("label", "labels", "text"), selects=("label", "labels")
    ),
    Metric("repeated_rate", "repeated", "lower", "mcnemar", kinds=("label", "labels")),
    Metric("loop_rate", "loop rate", "lower", "mcnemar"),
    Metric("cut_rate", "cut rate", "lower", "mcnemar"),
)
ALL_FIELDS_CORRECT = Metric("all_fields_correct", "all fields right", "higher", "mcnemar", headline=True)

# Where a metric is named with what it is of, fields' stand under the field and these under a name of their own.
REPLY = "reply"
SPEED = "speed"

# Not means over rows that tables list: of one label against all others, of a field's probabilities, of the computation.
OF_LABELS = {
    name: Metric(name, title, test=None)
    for name, title in (("recall", "recall"), ("precision", "precision"), ("f1", "F1"))
}
CALIBRATION_ERROR = Metric("expected_calibration_error", "expected calibration error", "lower", None)
OF_SPEED = (
    Metric("seconds_per_row", "seconds a row", "lower", None, may_exceed_one=True),
    Metric("rows_per_second", "rows a second", "higher", None, may_exceed_one=True),
    Metric("tokens_per_second", "tokens a second", "higher", None, may_exceed_one=True),
    Metric("peak_memory_gb", "peak memory, GB", "lower", None, may_exceed_one=True),
)
