"""The conditions of `evaluate.expect` checked against an evaluation. Asks no model, computes no metric.

check_expectations(result, recipe)[0]
# Expectation('intents.exact_match', '>= 0.9', met=False, value=Estimate(0.809, 0.706, 0.897), margin=-0.091)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from mlxtune.evaluation.expectations import Expectation, Missing
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.labels import LabelScore, LabelScores
from mlxtune.evaluation.metrics.metric import CALIBRATION_ERROR, REPLY, SPEED
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.results import Against, DecodingResult, EvaluatedModel, EvaluationResult, Speed
from mlxtune.recipe.conditions import BEFORE, BetterThan, Bound, Target, find_target, parse_condition
from mlxtune.recipe.sections import Recipe

Measured = Estimate | Missing  # a metric, or why there is none


def check_expectations(result: EvaluationResult, recipe: Recipe) -> tuple[Expectation, ...]:
    """What came of each of the recipe's conditions, in their order.

    The model before tuning is held to none of them: it is what tuning is to improve.

    Args:
        result: Of the recipe's evaluation. The decoding that counts is checked.
        recipe: Its conditions were found to be right when it was loaded.
    """
    model = result.evaluated
    if isinstance(model, EvaluatedModel) and model.adapter is None:
        return ()
    return tuple(
        _check(name, text, result, recipe) for name, texts in recipe.evaluate.conditions.items() for text in texts
    )


def _check(name: str, text: str, result: EvaluationResult, recipe: Recipe) -> Expectation:
    target, condition = find_target(name, recipe.output.fields), parse_condition(text)
    assert target is not None and condition is not None, "the recipe was checked"
    unmet = partial(Expectation, name, text, False)
    value = _measured(target, result.top)
    if not isinstance(value, Estimate):
        return unmet(missing=value)
    if isinstance(condition, BetterThan):
        compared = _compared(target, condition.other, result)
        if not isinstance(compared, Comparison):
            return unmet(value, missing=compared)
        difference = Estimate(compared.difference, compared.low, compared.high)
        return Expectation(name, text, compared.verdict == "better", value, difference=difference)
    held = _held(value, condition)
    if held is None:
        return unmet(value, missing="interval")
    return Expectation(name, text, condition.holds(held), value, condition.margin(held))


def _held(value: Estimate, bound: Bound) -> float | None:
    """What is held to a bound: the metric, or the end of its interval that is nearer to the wrong side."""
    if not bound.interval:
        return value.value
    return value.low if bound.is_least else value.high


def _measured(target: Target, result: DecodingResult) -> Measured:
    """The metric that a condition is on."""
    name = target.metric.name
    if target.place == SPEED:
        return _of_speed(name, result.speed)
    if target.place == REPLY and name in result.replies:
        return result.replies[name]
    scores = result.fields.get(target.place)
    if target.label is not None:
        return _of_label(name, target.label, scores.labels if isinstance(scores, LabelScores) else {})
    if name == CALIBRATION_ERROR.name:
        found = result.calibration.get(target.place)
        error = None if found is None else found.calibration.expected_calibration_error
        return "probabilities" if error is None else Estimate(error, None, None)
    if isinstance(scores, TextScores):
        return _of_text(name, scores)
    return "metric" if scores is None else scores.metrics.get(name, "metric")


def _of_speed(name: str, speed: Speed | None) -> Measured:
    if speed is None:
        return "speed"
    value = speed.to_json().get(name)
    return "memory" if value is None else Estimate(value, None, None)


def _of_label(name: str, label: str, labels: Mapping[str, LabelScore]) -> Measured:
    """Recall, precision or F1 of a label; without a row that expects it, these say nothing."""
    one = labels.get(label)
    if one is None or not one.support:
        return "label"
    low, high = (one.recall_interval or (None, None)) if name == "recall" else (None, None)
    return Estimate(getattr(one, name), low, high)


def _of_text(name: str, scores: TextScores) -> Measured:
    if name == "bertscore":
        return scores.bertscore or "bertscore"
    if name.startswith("buckets."):
        return scores.buckets[name.removeprefix("buckets.").removesuffix(".share")].share
    return scores.metrics.get(name, "placeholders")


def _compared(target: Target, other: str, result: EvaluationResult) -> Comparison | Missing:
    """The metric beside another system's."""
    against: Against | None = result.before
    if other != BEFORE:
        baseline = (result.baselines or {}).get(other)
        against = None if baseline is None else baseline.against
    if against is None:
        return "before" if other == BEFORE else "baseline"
    comparisons = against.replies if target.place == REPLY else against.fields.get(target.place, {})
    return comparisons.get(target.metric.name, "comparison")
