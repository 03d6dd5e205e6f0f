"""Predictions to the rows worth reading: which labels are taken for which others, the worst rows, and the best, middle
and worst texts. No metrics of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.evaluation.fields.kinds import right_fields, scorers
from mlxtune.evaluation.fields.scorer import Closeness
from mlxtune.evaluation.metrics.mistakes import LabelMistakes
from mlxtune.evaluation.metrics.text_overlap import bucket_of
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.score import column
from mlxtune.recipe.sections import Recipe

MAX_CASES = 100  # of each: all of a large test set would be its predictions once more


@dataclass(frozen=True)
class TextCase:
    """A text beside its reference.

    Attributes:
        prediction: The row with its reply.
        field: The text field.
        rouge_l: How near the text is to the reference.
        right: Of the fields with labels, whether each is right.
    """

    prediction: Prediction
    field: str
    rouge_l: float
    right: Mapping[str, bool]

    def to_json(self) -> dict[str, Any]:
        """As errors.json has it; with the whole reply where the text could not be read from it."""
        one = self.prediction
        case = {
            "row": one.row,
            "file": one.file,
            "line": one.line,
            "input": one.input,
            "reference": one.expected[self.field],
            "prediction": one.predicted[self.field],
            "rougeL": self.rouge_l,
            "bucket": bucket_of(self.rouge_l),
            "right": dict(self.right),
            "expected": {field: one.expected[field] for field in self.right},
            "predicted": {field: one.predicted[field] for field in self.right},
        }
        return case if one.predicted[self.field] is not None else {**case, "reply": one.prediction}


@dataclass(frozen=True)
class TextCases:
    """The best, middle and worst texts of a field by ROUGE-L; no row is two of these."""

    best: Sequence[TextCase]
    middle: Sequence[TextCase]
    worst: Sequence[TextCase]

    def to_json(self) -> dict[str, Any]:
        """As errors.json has it."""
        kinds = {"best": self.best, "middle": self.middle, "worst": self.worst}
        return {kind: [one.to_json() for one in cases] for kind, cases in kinds.items()}


@dataclass(frozen=True)
class ErrorAnalysis:
    """The errors of one decoding's predictions.

    Attributes:
        rows: How many predictions.
        decoding: Theirs; None of none.
        fields: Field with labels -> which were missed, added, confused.
        worst: The predictions with a wrong label, the most wrong first.
        loops: Rows, by number, whose reply loops.
        unparseable: Rows whose reply is not valid.
        cases: Text field -> its cases.
    """

    rows: int
    decoding: str | None
    fields: Mapping[str, LabelMistakes]
    worst: Sequence[Prediction]
    loops: Sequence[int]
    unparseable: Sequence[int]
    cases: Mapping[str, TextCases]

    def to_json(self) -> dict[str, Any]:
        """The content of errors.json."""
        return {
            "rows": self.rows,
            "wrong": len(self.worst),
            "decoding": self.decoding,
            "fields": {name: one.to_json() for name, one in self.fields.items()},
            "worst": [_wrong_row(one) for one in self.worst],
            "loops": list(self.loops),
            "unparseable": list(self.unparseable),
            "cases": {name: one.to_json() for name, one in self.cases.items()},
        }


def find_errors(predictions: Sequence[Prediction], recipe: Recipe) -> ErrorAnalysis:
    """The errors of one decoding's predictions.

    Args:
        predictions: In row order.
        recipe: Says what the fields are; texts are neither right nor wrong.
    """
    mistakes: dict[str, LabelMistakes] = {}
    cases: dict[str, TextCases] = {}
    for name, scorer in scorers(recipe).items():
        of_field = column(predictions, name)
        if (found := scorer.mistakes(of_field)) is not None:
            mistakes[name] = found
        if (near := scorer.closeness(of_field)) is not None:
            cases[name] = text_cases(predictions, name, near, recipe)
    return ErrorAnalysis(
        len(predictions),
        predictions[0].decoding if predictions else None,
        mistakes,
        worst_rows(predictions, recipe),
        [prediction.row for prediction in predictions if prediction.loop],
        [prediction.row for prediction in predictions if not prediction.valid],
        cases,
    )


def worst_rows(predictions: Sequence[Prediction], recipe: Recipe) -> list[Prediction]:
    """The rows with a wrong label, the most wrong first.

    A field is as wrong as the share of labels, among those expected or predicted, that are not both; a row as its fields
    together. Of equally wrong rows the one with more wrong labels comes first.
    """
    by_field = scorers(recipe)
    ranked = []
    for prediction in predictions:
        found = [scorer.wrongness(prediction.expected[n], prediction.predicted[n]) for n, scorer in by_field.items()]
        wrong, n_labels = sum(share for share, _ in found), sum(n for _, n in found)
        if wrong:
            ranked.append(((-wrong, -n_labels, prediction.row), prediction))
    return [prediction for _, prediction in sorted(ranked, key=lambda item: item[0])]


def text_cases(predictions: Sequence[Prediction], name: str, closeness: Closeness, recipe: Recipe) -> TextCases:
    """The best texts of a field, the middle ones, around the median, and the worst; a third of the rows each.

    At most `MAX_CASES` of each, the best and the worst first.
    """
    rouge_l = closeness.values.tolist()
    order = sorted(range(len(predictions)), key=lambda i: (-rouge_l[i], predictions[i].row))
    size = min(MAX_CASES, max(1, len(order) // 3))
    middle = order[size : len(order) - size]
    start = max(0, (len(middle) - size) // 2)

    def of(chosen: Sequence[int]) -> list[TextCase]:
        return [
            TextCase(one, name, rouge_l[i], right_fields(one.expected, one.predicted, recipe))
            for i in chosen
            for one in [predictions[i]]
        ]

    return TextCases(of(order[:size]), of(middle[start : start + size]), of(order[size:][::-1][:size]))


def _wrong_row(prediction: Prediction) -> dict[str, Any]:
    record = {
        "row": prediction.row,
        "file": prediction.file,
        "line": prediction.line,
        "input": prediction.input,
        "expected": dict(prediction.expected),
        "predicted": dict(prediction.predicted),
        "prediction": prediction.prediction,
        "problem": prediction.problem,
        "loop": prediction.loop,
    }
    if prediction.probability is not None:
        record["probability"] = dict(prediction.probability)
    return record
