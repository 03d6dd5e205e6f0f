"""Predictions to results: the metrics of every field over one decoding's predictions. Asks no model, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError
from mlxtune.evaluation.fields.kinds import right_fields, scorers
from mlxtune.evaluation.fields.scorer import Column
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import Means, mean_estimate
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import DecodingResult
from mlxtune.recipe.sections import Recipe


def score(predictions: Sequence[Prediction], recipe: Recipe, bertscore: BertScore | None = None) -> DecodingResult:
    """Metrics of every field over one decoding's predictions.

    Args:
        predictions: In row order.
        recipe: Says what the fields are; its training seed seeds the resampling.
        bertscore: Scores text fields as well; None leaves that out.

    Raises:
        DataError: There are no predictions.
    """
    if not predictions:
        raise DataError("no rows to score")
    seed = recipe.train.seed
    by_field = scorers(recipe)
    labels_right = _closed_labels_right(predictions, recipe)
    fields = {
        name: by_field[name].scores(column(predictions, name), seed, labels_right, bertscore)
        for name in ReplyTemplate(recipe.output).fields
    }
    flags: Mapping[str, Sequence[float] | NDArray[np.generic]] = {
        **faults(predictions),
        **({} if (whole := all_right(predictions, recipe)) is None else whole.rows),
    }
    notes = []
    if n_truncated := sum(prediction.stop == "length" for prediction in predictions):
        notes.append(f"{n_truncated} of {len(predictions)} replies were cut at evaluate.max_new_tokens")
    if len(predictions) < 2:
        notes.append("one row is too few for intervals and comparisons; give more")
    replies = {name: mean_estimate(values, seed) for name, values in flags.items()}
    return DecodingResult(len(predictions), predictions[0].decoding, replies, fields, tuple(notes))


def column(predictions: Sequence[Prediction], name: str) -> Column:
    """One field of predictions."""
    return Column(
        [prediction.expected[name] for prediction in predictions],
        [prediction.predicted[name] for prediction in predictions],
        [prediction.repeated for prediction in predictions],
    )


def faults(predictions: Sequence[Prediction]) -> dict[str, NDArray[np.float64]]:
    """What is wrong with whole replies, at each row: not valid, repeated, in a loop, truncated."""
    flags = {
        "invalid_rate": [not one.valid for one in predictions],
        "repeated_rate": [one.repeated for one in predictions],
        "loop_rate": [one.loop for one in predictions],
        "cut_rate": [one.stop == "length" for one in predictions],
    }
    return {name: np.array(of_rows, dtype=np.float64) for name, of_rows in flags.items()}


def all_right(predictions: Sequence[Prediction], recipe: Recipe) -> Means | None:
    """'all_fields_correct' at each row: every field but texts is right; None where the recipe has no field with labels."""
    if not any(scorer.has_labels for scorer in scorers(recipe).values()):
        return None
    right = [all(right_fields(one.expected, one.predicted, recipe).values()) for one in predictions]
    return Means({"all_fields_correct": np.array(right, dtype=np.float64)})


def _closed_labels_right(predictions: Sequence[Prediction], recipe: Recipe) -> list[bool] | None:
    """Whether every field with a closed list of labels is right, at each row; None where the recipe has no such field.

    Open lists are left out: hardly a reply has every one of a handful of free tags.
    """
    closed = {name: scorer for name, scorer in scorers(recipe).items() if scorer.closed_labels}
    if not closed:
        return None
    return [
        all(scorer.is_right(one.expected[name], one.predicted[name]) for name, scorer in closed.items())
        for one in predictions
    ]
