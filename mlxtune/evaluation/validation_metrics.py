"""Metrics of a model that is being trained: it answers a fixed sample of the validation rows, as `evaluate` would ask.

    measure = reply_metrics(recipe, tokenizer)
    measure(model)                               # {"intents.exact_match": 0.83, ...}

Training selects by them; it is given `measure` and knows nothing of metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlxtune.backends.base import Model
from mlxtune.data.rows import Row
from mlxtune.errors import DataError
from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.evaluation.predict.best import scored_fields
from mlxtune.evaluation.predict.predictions import BEST
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.recording import predictions_of
from mlxtune.evaluation.results import DecodingResult
from mlxtune.evaluation.score import score
from mlxtune.evaluation.subject import read_validation_rows
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe


def reply_metrics(
    recipe: Recipe, tokenizer: Tokenizer, rows: Sequence[Row] | None = None
) -> Callable[[Model], dict[str, float]]:
    """What measures a model on the recipe's validation rows.

    Args:
        rows: These, where they were read and checked before.

    Raises:
        DataError: It has no validation rows, or they cannot be read.
        RecipeError: Its replies cannot be scored in best decoding.
    """
    if recipe.evaluate.decoding == BEST:
        scored_fields(recipe, tokenizer)  # now, and not at the first validation
    rows = read_validation_rows(recipe) if rows is None else rows
    if not rows:
        raise DataError(f"{recipe.selection_metric}: there are no validation rows to measure it on")
    sample = sample_rows(rows, recipe)
    predictor: Predictor | None = None

    def measure(model: Model) -> dict[str, float]:
        nonlocal predictor
        if predictor is None or predictor.model is not model:  # its constraint takes a second to make
            predictor = Predictor(recipe, model, tokenizer)
        return named_metrics(score(predictions_of(sample, predictor), recipe), recipe)

    return measure


def sample_rows(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    """`train.metric_rows` of them in their order, the same ones whenever it is asked."""
    count = min(recipe.train.metric_rows, len(rows))
    chosen = np.random.default_rng(recipe.train.seed).permutation(len(rows))[:count]
    return [rows[index] for index in sorted(chosen.tolist())]


def named_metrics(result: DecodingResult, recipe: Recipe) -> dict[str, float]:
    """The metrics of fields under the names by which a recipe asks for them."""
    by_field = scorers(recipe)
    return {
        f"{name}.{metric}": value
        for name, scores in result.fields.items()
        for metric, value in by_field[name].selection_values(scores).items()
    }
