"""Conditions on metrics, as `evaluate.expect` has them: read, and what a recipe's fields can be held to. Measures nothing.

parse_condition("interval >= 0.7")  # Bound(sign='>=', value=0.7, interval=True)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mlxtune.errors import did_you_mean
from mlxtune.evaluation.metrics.metric import (
    ALL_FIELDS_CORRECT,
    CALIBRATION_ERROR,
    FAULTS,
    OF_LABELS,
    OF_SPEED,
    REPLY,
    SPEED,
    Metric,
)

BEFORE = "before"  # what the model before tuning is called, where it is compared with
LABEL_BASELINES = ("majority", "keywords", "tfidf")  # they answer fields with labels, and ask no model
FORMS = "'>= 0.8', '<= 0.05', 'interval >= 0.8' or 'better than tfidf'"
Sign = Literal[">=", ">", "<=", "<"]
_HOLDS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
_BOUND = re.compile(r"(?P<interval>interval\s+)?(?P<sign>[<>]=?)\s*(?P<value>-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_BETTER = re.compile(r"better\s+than\s+(?P<other>\S+)")


@dataclass(frozen=True)
class Bound:
    """A value that a metric must reach.

    Attributes:
        sign: How the metric compares with it.
        value: In the metric's own unit.
        interval: Whether the whole 95% interval must, and not the metric alone.
    """

    sign: Sign
    value: float
    interval: bool = False

    @property
    def is_least(self) -> bool:
        """Whether it is the least that a metric may be, and not the most."""
        return self.sign[0] == ">"

    def holds(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return bool(_HOLDS[self.sign](value, self.value))

    def margin(self, value: float) -> float:
        """How far a value is on the right side; below 0 on the other."""
        return value - self.value if self.is_least else self.value - value


@dataclass(frozen=True)
class BetterThan:
    """A metric must be better than another system's, and the difference real.

    Attributes:
        other: A baseline, or `BEFORE`.
    """

    other: str


Condition = Bound | BetterThan


def parse_condition(text: str) -> Condition | None:
    """What a condition says; None where it cannot be read.

    >>> parse_condition("better than tfidf"), parse_condition("about 0.8")
    (BetterThan(other='tfidf'), None)
    """
    if found := _BETTER.fullmatch(text.strip()):
        return BetterThan(found["other"])
    if found := _BOUND.fullmatch(text.strip()):
        sign: Sign = found["sign"]  # type: ignore[assignment]
        return Bound(sign, float(found["value"]), found["interval"] is not None)
    return None


# What can be held to a condition -----------------------------------------------------------------------------------


class OutputKind(Protocol):
    """What is asked of an output field here."""

    @property
    def kind(self) -> str:
        """'label', 'labels' or 'text'."""

    @property
    def has_labels(self) -> bool:
        """Whether its values are labels."""

    @property
    def closed_labels(self) -> list[str] | None:
        """The allowed labels; None of an open list, or where there are no labels."""


@dataclass(frozen=True)
class Target:
    """What a condition is on.

    Attributes:
        place: The field; `REPLY` for whole replies, `SPEED` for time and memory.
        metric: The metric.
        label: Whose recall, precision or F1 it is; None of other metrics.
        has_interval: Whether it is measured with an interval.
        compared: Whether it is tested against other systems on the same rows.
    """

    place: str
    metric: Metric
    label: str | None = None
    has_interval: bool = True
    compared: bool = False


def find_target(name: str, fields: Mapping[str, OutputKind]) -> Target | None:
    """What a name such as 'priority.recall.low' stands for in a recipe with these fields; None for nothing."""
    found = _targets(fields).get(name)
    for field, one in fields.items():
        of_label = re.fullmatch(rf"{re.escape(field)}\.({'|'.join(OF_LABELS)})\.(.+)", name)
        if found is None and of_label and one.has_labels and one.closed_labels is None:
            found = Target(field, OF_LABELS[of_label[1]], of_label[2], has_interval=False)
    return found


def _targets(fields: Mapping[str, OutputKind]) -> dict[str, Target]:
    """Everything that has a name of its own: all but the labels of open lists."""
    from mlxtune.evaluation.metrics.registry import METRICS  # NumPy, which recipes without conditions do not need

    found = {f"{SPEED}.{one.name}": Target(SPEED, one, has_interval=False) for one in OF_SPEED}
    found |= {f"{REPLY}.{one.name}": Target(REPLY, one) for one in FAULTS}
    if any(one.has_labels for one in fields.values()):
        found[f"{REPLY}.{ALL_FIELDS_CORRECT.name}"] = Target(REPLY, ALL_FIELDS_CORRECT, compared=True)
    for name, field in fields.items():
        of_kind = [one for one in METRICS.values() if field.kind in one.kinds]
        found |= {f"{name}.{one.name}": Target(name, one, compared=field.kind in one.selects) for one in of_kind}
        if field.has_labels:
            found[f"{name}.{CALIBRATION_ERROR.name}"] = Target(name, CALIBRATION_ERROR, has_interval=False)
        for label in field.closed_labels or ():
            for metric, one in OF_LABELS.items():
                found[f"{name}.{metric}.{label}"] = Target(name, one, label, has_interval=metric == "recall")
    return found


# Checks ------------------------------------------------------------------------------------------------------------


def condition_problems(
    expect: Mapping[str, Sequence[str]], fields: Mapping[str, OutputKind], baselines: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """What is wrong with conditions: the name, and a sentence.

    Args:
        expect: Name -> its conditions.
        fields: Of the recipe's output.
        baselines: That the recipe names.
    """
    for name, texts in expect.items():
        target = find_target(name, fields)
        if target is None:
            yield name, _unknown(name, fields)
        for text in texts:
            condition = parse_condition(text)
            if condition is None:
                yield name, f"expected {FORMS}, got {text!r}"
            elif target is not None and isinstance(condition, BetterThan):
                if problem := _no_comparison(target, condition, fields, baselines):
                    yield name, problem
            elif target is not None and isinstance(condition, Bound) and (problem := _no_bound(target, condition)):
                yield name, problem


def _unknown(name: str, fields: Mapping[str, OutputKind]) -> str:
    """Why a name stands for nothing, and what may be meant."""
    places = [*fields, REPLY, SPEED]
    place = next((one for one in sorted(places, key=len, reverse=True) if name.startswith(f"{one}.")), None)
    if place is None:
        first, dot, _ = name.partition(".")
        hint = did_you_mean(first, places) or f"; known: {', '.join(places)}"
        return f"{first!r} is no field of this recipe{hint}" if dot else f"expected FIELD.METRIC, got {name!r}"
    rest = name.removeprefix(f"{place}.")
    metric, _, label = rest.partition(".")
    labels = fields[place].closed_labels if place in fields else None
    if labels and metric in OF_LABELS and label:
        hint = did_you_mean(label, labels) or f"; known: {', '.join(labels)}"
        return f"{label!r} is no label of {place}{hint}"
    label, _, metric = rest.rpartition(".")  # as 0.1.0 had it in train.best_metric
    if labels and metric in OF_LABELS and label in labels:
        return f"the label comes last: write {place}.{metric}.{label}"
    known = [
        one.removeprefix(f"{place}.")
        for one, target in _targets(fields).items()
        if target.place == place and target.label is None
    ]
    if place in fields and fields[place].has_labels:
        known += [f"{one}.LABEL" for one in OF_LABELS]
    hint = did_you_mean(rest, known) or f"; known: {', '.join(known)}"
    return f"{rest!r} is no metric of {_kind_of(place, fields)}{hint}"


def _kind_of(place: str, fields: Mapping[str, OutputKind]) -> str:
    if place in fields:
        return f"a field of kind {fields[place].kind!r}"
    return "whole replies" if place == REPLY else "speed"


def _no_bound(target: Target, bound: Bound) -> str | None:
    """Why a metric cannot be held to a bound; None where it can."""
    metric, value = target.metric, bound.value
    if not metric.may_exceed_one and not 0 <= value <= 1:
        hint = f"; for {value:g}% write {value / 100:g}" if 1 < value <= 100 else ""
        return f"expected a number from 0 to 1, got {value:g}{hint}"
    if value < 0:
        return f"expected a number of 0 or more, got {value:g}"
    if (bound.sign, value) == ("<", 0.0) or (not metric.may_exceed_one and (bound.sign, value) == (">", 1.0)):
        return f"{bound.sign} {value:g} never holds; write {bound.sign}= {value:g}"
    if metric.direction == ("lower" if bound.is_least else "higher"):
        turned = bound.sign.translate(str.maketrans("<>", "><"))
        return f"{metric.direction} is better, so '{bound.sign} {value:g}' would hold a good model back; write '{turned} {value:g}'"
    if bound.interval and not target.has_interval:
        return f"it is measured without an interval; leave out the word: '{bound.sign} {value:g}'"
    return None


def _no_comparison(
    target: Target, condition: BetterThan, fields: Mapping[str, OutputKind], baselines: Sequence[str]
) -> str | None:
    """Why a metric cannot be held against another system; None where it can."""
    other = condition.other
    if not target.compared:
        return "its difference to other systems is not tested; write a number, as in '>= 0.8'"
    if other not in (BEFORE, *baselines):
        hint = did_you_mean(other, [BEFORE, *baselines]) or f"; known: {', '.join([BEFORE, *baselines])}"
        return f"{other!r} is not among evaluate.baselines{hint}"
    if other in LABEL_BASELINES and (target.place not in fields or not fields[target.place].has_labels):
        return f"{other!r} answers fields with labels only; compare with {BEFORE}, or with zero_shot or few_shot"
    return None
