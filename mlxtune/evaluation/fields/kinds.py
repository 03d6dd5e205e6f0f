"""The scorer of each kind of output field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlxtune.data.field_forms import Field
from mlxtune.evaluation.fields.label import LabelScorer
from mlxtune.evaluation.fields.label_set import LabelSetScorer
from mlxtune.evaluation.fields.scorer import Scorer
from mlxtune.evaluation.fields.text import TextScorer
from mlxtune.recipe.sections import Recipe

KINDS: Mapping[str, Callable[[Any], Scorer]] = {"label": LabelScorer, "labels": LabelSetScorer, "text": TextScorer}


def scorer_of(field: Field) -> Scorer:
    """The scorer of one field."""
    return KINDS[field.kind](field)


def scorers(recipe: Recipe) -> dict[str, Scorer]:
    """The scorers of a recipe's fields, in its order."""
    return {name: scorer_of(field) for name, field in recipe.output.fields.items()}


def right_fields(expected: Mapping[str, Any], predicted: Mapping[str, Any], recipe: Recipe) -> dict[str, bool]:
    """Of each field with labels, whether a reply has it right; label sets as sets."""
    return {
        name: scorer.is_right(expected[name], predicted[name])
        for name, scorer in scorers(recipe).items()
        if scorer.has_labels
    }
