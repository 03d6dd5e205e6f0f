"""Every prediction as a row to search and filter: what was expected, what each system replied, and whether that is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mlxtune.data.field_forms import Value
from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.evaluation.fields.scorer import Scorer
from mlxtune.evaluation.metrics.text_overlap import bucket_of
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.score import column
from mlxtune.recipe.sections import Recipe
from mlxtune.report.blocks import FieldAnswer, Paragraph, PredictionRow, Predictions, Section
from mlxtune.report.sections.pieces import place, together
from mlxtune.report.values import count_text
from mlxtune.report.words import Words

MAX_LABELS = 100  # of an open list, to filter by: the most frequent


def predictions_section(systems: Mapping[str, Sequence[Prediction]], recipe: Recipe, say: Words) -> Section | None:
    """The predictions of one or several systems.

    Args:
        systems: Name -> its predictions in row order, the run whose report this is last; none where they are missing. Only
            the rows that the last one answered are shown; another's reply to a row that it was asked differently is left out.
        recipe: Says what the fields are.
        say: The words.

    Returns:
        None where there are no predictions.
    """
    if not systems or not (ours := list(systems.values())[-1]):
        return None
    block = predictions_block({name: predictions for name, predictions in systems.items() if predictions}, recipe)
    return Section(
        "predictions",
        say("predictions.title"),
        [Paragraph(_summary(ours, scorers(recipe), say)), block],
    )


def predictions_block(systems: Mapping[str, Sequence[Prediction]], recipe: Recipe) -> Predictions:
    """The predictions of one or several systems, each with some; arguments as for `predictions_section`."""
    by_field = scorers(recipe)
    *_, ours = systems.values()
    answers = {name: _answers(predictions, by_field) for name, predictions in systems.items()}
    places = {name: {_key(one): i for i, one in enumerate(predictions)} for name, predictions in systems.items()}
    rows = []
    for one in ours:
        found = {name: places[name][_key(one)] for name in systems if _key(one) in places[name]}
        rows.append(
            PredictionRow(
                one.row,
                place(one.file, one.line),
                one.whole_input,
                {name: systems[name][i].prediction for name, i in found.items()},
                {name: answers[name][i] for name, i in found.items()},
                {name: problem for name, i in found.items() if (problem := systems[name][i].problem) is not None},
            )
        )
    labels = {name: _labels(name, scorer, ours) for name, scorer in by_field.items() if scorer.has_labels}
    return Predictions(list(systems), labels, rows)


# Details ---------------------------------------------------------------------------------------------------------


def _summary(ours: Sequence[Prediction], by_field: Mapping[str, Scorer], say: Words) -> str:
    """How many rows have every label right, and how many replies could not be read."""
    with_labels = {name: scorer for name, scorer in by_field.items() if scorer.has_labels}
    sentences = [say("predictions.rows", n=len(ours))]
    if with_labels:
        right = [
            all(scorer.is_right(one.expected[n], one.predicted[n]) for n, scorer in with_labels.items()) for one in ours
        ]
        sentences.append(say("predictions.right", rows=count_text(sum(right), len(ours))))
    if unreadable := sum(one.problem is not None for one in ours):
        sentences.append(say("predictions.problems", rows=count_text(unreadable, len(ours))))
    return together(sentences, say)


def _answers(predictions: Sequence[Prediction], by_field: Mapping[str, Scorer]) -> list[dict[str, FieldAnswer]]:
    """Of each prediction: field -> answer."""
    found: list[dict[str, FieldAnswer]] = [{} for _ in predictions]
    for name, scorer in by_field.items():
        closeness = scorer.closeness(column(predictions, name))
        near = None if closeness is None else closeness.values.tolist()
        for i, one in enumerate(predictions):
            expected, predicted = one.expected[name], one.predicted[name]
            found[i][name] = FieldAnswer(
                expected,
                predicted,
                scorer.is_right(expected, predicted) if scorer.has_labels else None,
                (one.probability or {}).get(name),
                None if near is None else bucket_of(near[i]),
                None if near is None else near[i],
            )
    return found


def _labels(name: str, scorer: Scorer, predictions: Sequence[Prediction]) -> list[str]:
    """The labels of a field, to filter by; of an open list the most frequent ones that were expected or predicted."""
    if scorer.closed_labels is not None:
        return list(scorer.closed_labels)
    counts: Counter[str] = Counter()
    for one in predictions:
        for value in (one.expected[name], one.predicted[name]):
            counts.update(_as_labels(value))
    return [label for label, _ in counts.most_common(MAX_LABELS)]


def _as_labels(value: Value | None) -> Sequence[str]:
    return () if value is None else (value,) if isinstance(value, str) else value


def _key(one: Prediction) -> tuple[int, str]:
    return one.row, one.input
