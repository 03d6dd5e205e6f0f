"""Exact probabilities of the values a field may take: every option's tokens are scored after the prompt.

Which field: the template's first, where its list is closed: a label, or a label set of at most `MAX_SETS` allowed sets.
Later fields depend on what was written before them: best decoding (`best.py`) scores them, given that; nothing else does.
A reply that begins with thinking has none.

An option is the reply up to and including the text that ends the field: the end-of-turn token where the field is the
only one, else the tokens of the template's text behind it that stay the same whatever comes next. Each is spelled as
training spells it, label sets in canonical order, so no option can be the beginning of another. Probabilities are
normalised over the options: given that the reply is one of them, which? Greedy decoding goes token by token, so what it
writes is not always the most probable option.

    options = options_of(recipe, tokenizer)
    for distribution in distributions(model, prompts, options):
        distribution.of(("payment",)), distribution.by_label()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from mlxtune.backends.base import Model
from mlxtune.data.field_forms import Value
from mlxtune.data.template import ReplyTemplate
from mlxtune.evaluation.fields.kinds import scorer_of
from mlxtune.evaluation.metrics.calibration import Calibration, Coverage, calibration, coverage_at, threshold_for
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.json_values import optional, read_dataclass, required, typed
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class Options:
    """What a field may say: its values, and the tokens by which the reply goes on to say each."""

    field: str
    values: tuple[Value, ...]
    tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Distribution:
    """Probability of each value of a field, summing to 1."""

    field: str
    probabilities: Mapping[Value, float]

    @property
    def likeliest(self) -> Value:
        """The most probable value, of equal ones the first."""
        return max(self.probabilities, key=lambda value: self.probabilities[value])

    def of(self, value: Value | None) -> float | None:
        """Probability of a value; None where there is no value."""
        return None if value is None else self.probabilities.get(value)

    def by_label(self) -> dict[str, float]:
        """Probability that each label is said: of a label field its distribution, of a set the labels' marginals."""
        found: dict[str, float] = {}
        for value, probability in self.probabilities.items():
            for label in (value,) if isinstance(value, str) else value:
                found[label] = found.get(label, 0.0) + probability
        return found


def options_of(recipe: Recipe, tokenizer: Tokenizer) -> Options | None:
    """The options of a recipe's first field; None where it has none that can be told apart exactly."""
    template = ReplyTemplate(recipe.output)
    return None if recipe.prompt.thinking else field_options(template, next(iter(template.fields)), {}, (), tokenizer)


def field_options(
    template: ReplyTemplate, name: str, given: Mapping[str, Value], said: tuple[int, ...], tokenizer: Tokenizer
) -> Options | None:
    """The options of a field; None where it has none that can be told apart exactly.

    Args:
        template: Of the reply.
        name: The field.
        given: Values of the fields before it.
        said: Tokens of the reply up to where that was settled; the options' tokens follow them.
        tokenizer: Spells them.
    """
    values = scorer_of(template.fields[name]).options()
    if not values:
        return None
    *_, last = template.fields
    if name == last:
        whole = tokenizer.encode([template.format({**given, name: value})[0] for value in values])
        tokens: list[tuple[int, ...] | None] = [(*text.ids, tokenizer.end_of_turn) for text in whole]
    else:
        tokens = [_opening(template, name, {**given, name: value}, tokenizer) for value in values]
    known = [one[len(said) :] for one in tokens if one is not None and one[: len(said)] == said]
    if len(known) < len(values) or not all(known) or not _exclusive(known):
        return None
    return Options(name, tuple(values), tuple(known))


def fillers(template: ReplyTemplate) -> dict[str, Value]:
    """Some value of each field."""
    return {name: scorer_of(field).beginnings()[0] for name, field in template.fields.items()}


def distributions(model: Model, prompts: Sequence[Sequence[int]], options: Options) -> list[Distribution]:
    """What each prompt's reply may say, asked as one batch."""
    return distributions_of(model.choose(prompts, options.tokens).tolist(), options)


def distributions_of(scores: Sequence[Sequence[float]], options: Options) -> list[Distribution]:
    """The distributions of some rows, given the log-probability of each option's tokens at each of them, (B, n_options)."""
    log_probabilities = np.array(scores, np.float64)
    weights = np.exp(log_probabilities - log_probabilities.max(axis=1, keepdims=True))
    shares = weights / weights.sum(axis=1, keepdims=True)
    return [Distribution(options.field, dict(zip(options.values, row, strict=True))) for row in shares.tolist()]


def with_probabilities(prediction: Prediction, found: Sequence[Distribution]) -> Prediction:
    """A prediction that carries the probability of what it says, and of each label, in some fields."""
    return replace(
        prediction,
        probability={one.field: one.of(prediction.predicted[one.field]) for one in found},
        probabilities={one.field: one.by_label() for one in found},
    )


@dataclass(frozen=True)
class FieldCalibration:
    """Whether a field's probabilities hold.

    Attributes:
        calibration: Of the test rows.
        coverage: Of them, at the threshold that validation rows chose; None without validation rows.
        validation_rows: How many those were.
    """

    calibration: Calibration
    coverage: Coverage | None
    validation_rows: int

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it under a field's "calibration"; coverage is over all rows."""
        covered = self.coverage
        return {
            **asdict(self.calibration),
            "coverage_at_95_precision": None if covered is None else covered.coverage,
            "threshold": None if covered is None else covered.threshold,
            "precision": None if covered is None else covered.precision,
            "validation_rows": self.validation_rows,
        }

    @classmethod
    def from_json(cls, content: Any) -> FieldCalibration:
        """What `to_json` says."""
        number = typed(float)
        covered = optional(content, "coverage_at_95_precision", number)
        threshold, precision = (optional(content, key, number) for key in ("threshold", "precision"))
        return cls(
            read_dataclass(Calibration, content),
            None if covered is None else Coverage(threshold, covered, precision),
            required(content, "validation_rows", typed(int)),
        )


def field_calibration(
    name: str, predictions: Sequence[Prediction], validation: Sequence[Prediction] | None
) -> FieldCalibration:
    """Whether a field's probabilities hold.

    Args:
        name: The field.
        predictions: Of the test rows, with probabilities.
        validation: Of the validation rows, which choose the threshold; None where there are none.
    """
    confidences, right = _confidences(name, predictions)
    found = calibration(confidences, right)
    if validation is None:
        return FieldCalibration(found, None, 0)
    threshold = threshold_for(*_confidences(name, validation))
    return FieldCalibration(found, coverage_at(confidences, right, threshold), len(validation))


def _confidences(name: str, predictions: Sequence[Prediction]) -> tuple[list[float | None], list[bool]]:
    confidences = [(prediction.probability or {}).get(name) for prediction in predictions]
    return confidences, [prediction.predicted[name] == prediction.expected[name] for prediction in predictions]


def _opening(
    template: ReplyTemplate, name: str, given: Mapping[str, Value], tokenizer: Tokenizer
) -> tuple[int, ...] | None:
    """The tokens that open every reply of these values up to a field; None if they do not reach past it."""
    names = list(template.fields)
    second = names[names.index(name) + 1]
    texts, end = [], 0
    for beginning in scorer_of(template.fields[second]).beginnings():
        text, spans = template.format({**fillers(template), **given, second: beginning})
        end = max(span.end for span in spans if span.segment == name)
        texts.append(text)
    spelled = tokenizer.encode(texts)
    n_same = 0
    for ids in zip(*(text.ids for text in spelled), strict=False):
        if len(set(ids)) > 1:
            break
        n_same += 1
    start_of_second = next(span.start for span in spans if span.segment == second)
    while n_same and spelled[0].offsets[n_same - 1][1] > start_of_second:
        n_same -= 1
    if not n_same or spelled[0].offsets[n_same - 1][1] <= end:
        return None
    return spelled[0].ids[:n_same]


def _exclusive(options: Sequence[tuple[int, ...]]) -> bool:
    """Whether no option is another's beginning."""
    ordered = sorted(options)
    return all(later[: len(one)] != one for one, later in pairwise(ordered))
