"""Paired comparison of two lists of predictions on the same rows: McNemar and the bootstrap. Asks no model, prints nothing.

Both sides answered the same rows, so they are compared row by row, which says more than two intervals side by side.
What is right or wrong at each row is tested by McNemar's exact test; every difference has a 95% percentile bootstrap
interval in which both sides draw the same rows.

    compare(tuned, base, recipe, "before")["intents"]["exact_match"].sentence
    # 'better than before by 0.12 [0.03, 0.21]'
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.errors import DataError
from mlxtune.evaluation.metrics.estimates import Means, Rated
from mlxtune.evaluation.metrics.labels import label_figures, label_set_figures
from mlxtune.evaluation.metrics.paired import Comparison, Comparisons, compare_figures, plain
from mlxtune.evaluation.metrics.texts import text_figures
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions, right_fields
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe, TextField


def compare(
    ours: Sequence[Prediction],
    theirs: Sequence[Prediction],
    recipe: Recipe,
    name: str,
    fields: Collection[str] | None = None,
) -> Comparisons:
    """Compare two lists of predictions, field by field and figure by figure.

    Args:
        ours: Predictions of what is evaluated.
        theirs: Predictions of the same rows, in the same order.
        recipe: Says what the fields are; its training seed seeds the resampling.
        name: What theirs is called in the sentences.
        fields: The fields to compare; None is all.

    Raises:
        DataError: The predictions are not of the same rows.
    """
    require_same_rows(ours, theirs, name)
    found: Comparisons = {}
    for field_name, field in recipe.output.fields.items():
        if fields is not None and field_name not in fields:
            continue
        found[field_name] = compare_figures(
            _figures(ours, field_name, field), _figures(theirs, field_name, field), name, recipe.train.seed
        )
    return found


def compare_replies(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], recipe: Recipe, name: str
) -> dict[str, Comparison]:
    """Compare whole replies: in how many rows every field but texts is right.

    Args: As for `compare`.

    Returns:
        'all_fields_correct' -> its comparison; nothing where the recipe has no field with labels.

    Raises:
        DataError: They are not predictions of the same rows.
    """
    require_same_rows(ours, theirs, name)
    mine, other = all_right(ours, recipe), all_right(theirs, recipe)
    return {} if mine is None or other is None else compare_figures(mine, other, name, recipe.train.seed)


def all_right(predictions: Sequence[Prediction], recipe: Recipe) -> Means | None:
    """'all_fields_correct' at each row; None where the recipe has no field with labels."""
    if all(isinstance(field, TextField) for field in recipe.output.fields.values()):
        return None
    right = [all(right_fields(prediction, recipe).values()) for prediction in predictions]
    return Means({"all_fields_correct": np.array(right, dtype=np.float64)})


def require_same_rows(ours: Sequence[Prediction], theirs: Sequence[Prediction], name: str) -> None:
    """Refuse to compare predictions of different rows.

    Raises:
        DataError: Says which row is the first to differ.
    """
    if len(ours) != len(theirs):
        raise DataError(f"{name}: {len(theirs)} predictions for {len(ours)} rows; evaluate it on the same rows")
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if (our.row, our.input, our.expected) != (their.row, their.input, their.expected):
            raise DataError(
                f"{name}: its predictions are of other rows: the one in place {number} is of row {their.row}, "
                f"{their.input[:40]!r}, ours of row {our.row}, {our.input[:40]!r}; evaluate it on the same rows"
            )


# Evaluations on disk ---------------------------------------------------------------------------------------------


def common_decoding(
    scores: Mapping[str, Any], others: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Of two scores.json, the parts in a decoding that both have; where they share none, their tops."""
    if scores["decoding"] == others["decoding"]:
        return scores, others
    ours = {one["decoding"]: one for one in (scores, *scores.get("decodings", {}).values())}
    theirs = {one["decoding"]: one for one in (others, *others.get("decodings", {}).values())}
    common = next((name for name in ours if name in theirs), None)
    return (ours[common], theirs[common]) if common else (scores, others)


def compare_folders(
    scores: Mapping[str, Any],
    folder: Path,
    others: Mapping[str, Any],
    other_folder: Path,
    recipe: Recipe,
    name: str,
) -> dict[str, Any]:
    """Compare two evaluations by the predictions in their folders, in a decoding that both have.

    Args:
        scores: Content of scores.json of ours.
        folder: Where it lies.
        others: Content of scores.json of theirs.
        other_folder: Where it lies.
        recipe: Of both.
        name: What theirs is called.

    Returns:
        "fields": field -> figure -> comparison; "replies": figure -> comparison, of whole replies.

    Raises:
        DataError: The predictions are missing, damaged, or of other rows.
    """
    mine, other = common_decoding(scores, others)
    ours, theirs = (
        read_predictions(where / str(one.get("predictions", "predictions.jsonl")))
        for one, where in ((mine, folder), (other, other_folder))
    )
    fields, replies = compare(ours, theirs, recipe, name), compare_replies(ours, theirs, recipe, name)
    return {"fields": plain(fields), "replies": {figure: asdict(one) for figure, one in replies.items()}}


# Arithmetic ------------------------------------------------------------------------------------------------------


def _figures(predictions: Sequence[Prediction], name: str, field: LabelField | LabelsField | TextField) -> Rated:
    expected: list[Any] = [prediction.expected[name] for prediction in predictions]
    predicted: list[Any] = [prediction.predicted[name] for prediction in predictions]
    repeated = [prediction.repeated for prediction in predictions]
    if isinstance(field, TextField):
        return text_figures(expected, predicted)
    if isinstance(field, LabelsField):
        return label_set_figures(expected, predicted, repeated, field.labels)
    return label_figures(expected, predicted, repeated, field.labels)
