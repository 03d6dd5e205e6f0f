"""Labels said from a threshold of their probability on, each chosen on validation rows, and what that gains on the test rows.

    found = field_thresholds("intents", predictions, validation, recipe)
    found.gain["macro_f1"].sentence  # 'better than without thresholds by 0.04 [0.01, 0.08]'

Asks no model: the predictions carry their labels' probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.fields.kinds import scorer_of
from mlxtune.evaluation.metrics.thresholds import best_threshold
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import PLAIN, FieldThresholds
from mlxtune.evaluation.score import column
from mlxtune.recipe.sections import Recipe


def field_thresholds(
    name: str, predictions: Sequence[Prediction], validation: Sequence[Prediction], recipe: Recipe
) -> FieldThresholds:
    """A threshold for each label of a field, and the test rows' scores with them.

    Args:
        name: A field with a label list, of which the predictions carry probabilities.
        predictions: Of the test rows.
        validation: Of the validation rows, which choose the thresholds.
        recipe: Says what the field is; its training seed seeds the resampling.
    """
    scorer = scorer_of(recipe.output.fields[name])
    labels = list(scorer.closed_labels or ())
    probabilities = _probabilities(validation, name, labels)
    expected = np.array([[scorer.says(one.expected[name], label) for label in labels] for one in validation], np.bool_)
    chosen = {label: best_threshold(probabilities[:, i], expected[:, i]) for i, label in enumerate(labels)}
    thresholds = np.array([chosen[label].threshold for label in labels])
    said = [
        replace(one, predicted={**one.predicted, name: scorer.from_probabilities(labels, row, thresholds)})
        for one, row in zip(predictions, _probabilities(predictions, name, labels), strict=True)
    ]
    gain = compare(said, predictions, recipe, PLAIN, fields=[name]).fields[name]
    return FieldThresholds(chosen, scorer.scores(column(said, name), recipe.train.seed), gain, len(validation))


def _probabilities(predictions: Sequence[Prediction], name: str, labels: Sequence[str]) -> NDArray[np.float64]:
    """Of each label at each row, (rows, labels)."""
    found = [(one.probabilities or {})[name] for one in predictions]
    return np.array([[row[label] for label in labels] for row in found], np.float64)
