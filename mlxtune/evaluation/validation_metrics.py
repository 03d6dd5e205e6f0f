"""Metrics of a model that is being trained: it answers a fixed sample of the validation rows, as `evaluate` would ask.

    measure = reply_metrics(recipe, tokenizer)
    measure(model)                               # {"intents.exact_match": 0.83, ...}

Training selects by them; it is given `measure` and knows nothing of metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlxtune.backends.base import Model
from mlxtune.data.rows import Row
from mlxtune.errors import DataError
from mlxtune.evaluation.predict.constraint import TemplateConstraint, constraint_of
from mlxtune.evaluation.predict.predictions import FREE, predictions_of
from mlxtune.evaluation.run import score
from mlxtune.evaluation.subject import read_validation_rows
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import METRICS, Recipe


def reply_metrics(recipe: Recipe, tokenizer: Tokenizer) -> Callable[[Model], dict[str, float]]:
    """What measures a model on the recipe's validation rows.

    Raises:
        DataError: It has no validation rows, or they cannot be read.
    """
    rows = read_validation_rows(recipe)
    if not rows:
        raise DataError(f"{recipe.selection_metric}: there are no validation rows to measure it on")
    sample = sample_rows(rows, recipe)
    constraint: TemplateConstraint | None = None

    def measure(model: Model) -> dict[str, float]:
        nonlocal constraint
        if constraint is None and recipe.evaluate.decoding != FREE:
            constraint = constraint_of(recipe, tokenizer, model)
        predictions = predictions_of(sample, recipe, model, tokenizer, constraint)
        return named_metrics(score(predictions, recipe)["fields"], recipe)

    return measure


def sample_rows(rows: Sequence[Row], recipe: Recipe) -> list[Row]:
    """`train.metric_rows` of them in their order, the same ones whenever it is asked."""
    count = min(recipe.train.metric_rows, len(rows))
    chosen = np.random.default_rng(recipe.train.seed).permutation(len(rows))[:count]
    return [rows[index] for index in sorted(chosen.tolist())]


def named_metrics(fields: Mapping[str, Any], recipe: Recipe) -> dict[str, float]:
    """The metrics of scores.json's "fields" under the names by which a recipe asks for them."""
    found: dict[str, float] = {}
    for name, figures in fields.items():
        for metric in METRICS[recipe.output.fields[name].kind]:
            found[f"{name}.{metric}"] = figures[metric]["value"]
        for label, of_label in figures.get("labels", {}).items():
            for metric in ("precision", "recall", "f1"):
                value = of_label[metric]
                found[f"{name}.{label}.{metric}"] = value["value"] if isinstance(value, Mapping) else value
    return found
