"""Two systems' predictions on the same rows, compared row by row. Asks no model, reads no file.

Both sides answered the same rows, which says more than two intervals side by side.

    compare(tuned, base, recipe, "before").fields["intents"]["exact_match"].sentence
    # 'better than before by 0.12 [0.03, 0.21]'
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.evaluation.metrics.paired import Comparison, compare_tables
from mlxtune.evaluation.predict.predictions import Prediction, require_same_rows
from mlxtune.evaluation.results import Against
from mlxtune.evaluation.score import all_right, column
from mlxtune.recipe.sections import Recipe


def compare(
    ours: Sequence[Prediction],
    theirs: Sequence[Prediction],
    recipe: Recipe,
    name: str,
    fields: Collection[str] | None = None,
) -> Against:
    """Compare two lists of predictions, field by field and metric by metric, and whole replies.

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
    return Against(
        {
            field: compare_tables(
                scorer.table(column(ours, field)), scorer.table(column(theirs, field)), name, recipe.train.seed
            )
            for field, scorer in scorers(recipe).items()
            if fields is None or field in fields
        },
        compare_replies(ours, theirs, recipe, name),
    )


def compare_replies(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], recipe: Recipe, name: str
) -> dict[str, Comparison]:
    """Compare whole replies: 'all_fields_correct' -> in how many rows every field but texts is right.

    Nothing where the recipe has no field with labels. Arguments and errors as for `compare`.
    """
    require_same_rows(ours, theirs, name)
    mine, other = all_right(ours, recipe), all_right(theirs, recipe)
    return {} if mine is None or other is None else compare_tables(mine, other, name, recipe.train.seed)
