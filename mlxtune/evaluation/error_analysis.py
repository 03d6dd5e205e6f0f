"""Predictions to the rows worth reading: which labels are taken for which others, the worst rows, and the best, middle
and worst texts. No metrics of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mlxtune.evaluation.metrics.text_overlap import bucket_of, rouge_rows
from mlxtune.evaluation.predict.predictions import Prediction, right_fields
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe, TextField

ERRORS_FILE = "errors.json"
CASES = ("best", "middle", "worst")
MAX_CASES = 100  # of each: all of a large test set would be its predictions once more

Errors = dict[str, Any]  # the content of errors.json


def find_errors(predictions: Sequence[Prediction], recipe: Recipe) -> Errors:
    """The errors of one decoding's predictions.

    Args:
        predictions: In row order.
        recipe: Says what the fields are; text fields are neither right nor wrong.

    Returns:
        {"rows", "wrong": how many, "decoding", "fields": field -> `label_set_errors` or `label_errors`,
        "worst": the wrong rows, the most wrong first, "loops" and "unparseable": rows by number, "cases": text field ->
        `text_cases`}.
    """
    fields: dict[str, Any] = {}
    for name, field in recipe.output.fields.items():
        expected: list[Any] = [prediction.expected[name] for prediction in predictions]
        predicted: list[Any] = [prediction.predicted[name] for prediction in predictions]
        if isinstance(field, LabelsField):
            fields[name] = label_set_errors(expected, predicted)
        elif isinstance(field, LabelField):
            fields[name] = label_errors(expected, predicted)
    worst = worst_rows(predictions, recipe)
    return {
        "rows": len(predictions),
        "wrong": len(worst),
        "decoding": predictions[0].decoding if predictions else None,
        "fields": fields,
        "worst": worst,
        "loops": [prediction.row for prediction in predictions if prediction.loop],
        "unparseable": [prediction.row for prediction in predictions if not prediction.valid],
        "cases": {
            name: text_cases(predictions, name, recipe)
            for name, field in recipe.output.fields.items()
            if isinstance(field, TextField)
        },
    }


def label_set_errors(
    expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str] | None]
) -> dict[str, list[dict[str, Any]]]:
    """Which label is missed, and which is added, beside which other. Rows that could not be parsed are left out.

    Args:
        expected: The right labels of each row.
        predicted: The predicted ones; None where the reply could not be parsed.

    Returns:
        "missed" and "added", the commonest error first: {"label", "beside", "rows", "of"}. Of a label missed, `of` counts
        the rows that expect it with the label `beside`, or alone where that is None; of a label added, the rows that
        expect `beside` and not the label itself.

    >>> found = label_set_errors([("pay", "tell"), ("pay", "tell"), ("pay",)], [("pay",), ("pay", "tell"), ("pay", "ask")])
    >>> found["missed"]
    [{'label': 'tell', 'beside': 'pay', 'rows': 1, 'of': 2}]
    >>> found["added"]
    [{'label': 'ask', 'beside': 'pay', 'rows': 1, 'of': 3}]
    """
    pairs: dict[str, Counter[tuple[str, str | None]]] = {kind: Counter() for kind in ("missed", "added")}
    expects: Counter[tuple[str, str | None]] = Counter()  # rows that expect a label with another, or alone
    each: Counter[str] = Counter()
    for right, said in zip(expected, predicted, strict=True):
        if said is None:
            continue
        each.update(set(right))
        for label in set(right):
            beside: list[str | None] = [other for other in right if other != label] or [None]
            expects.update((label, other) for other in beside)
            if label not in said:
                pairs["missed"].update((label, other) for other in beside)
        for label in set(said) - set(right):
            pairs["added"].update((label, other) for other in set(right))

    def n_without(label: str, beside: str | None) -> int:
        assert beside is not None
        return each[beside] - expects[beside, label]

    found: dict[str, list[dict[str, Any]]] = {}
    for kind, counts in pairs.items():
        rows = [
            {
                "label": label,
                "beside": beside,
                "rows": n_rows,
                "of": expects[label, beside] if kind == "missed" else n_without(label, beside),
            }
            for (label, beside), n_rows in counts.items()
        ]
        found[kind] = sorted(rows, key=lambda row: (-row["rows"], row["of"], row["label"], row["beside"] or ""))
    return found


def label_errors(expected: Sequence[str], predicted: Sequence[str | None]) -> dict[str, list[dict[str, Any]]]:
    """Which label is taken for which other. Rows that could not be parsed are left out.

    Returns:
        "confused", the commonest first: {"label", "taken_for", "rows", "of"}, where `of` counts the rows that expect it.

    >>> label_errors(["high", "high", "low"], ["low", "high", None])
    {'confused': [{'label': 'high', 'taken_for': 'low', 'rows': 1, 'of': 2}]}
    """
    parsed = [(right, said) for right, said in zip(expected, predicted, strict=True) if said is not None]
    expects = Counter(right for right, _ in parsed)
    confused = Counter(pair for pair in parsed if pair[0] != pair[1])
    rows = [
        {"label": label, "taken_for": said, "rows": n_rows, "of": expects[label]}
        for (label, said), n_rows in confused.items()
    ]
    return {"confused": sorted(rows, key=lambda row: (-row["rows"], row["of"], row["label"], row["taken_for"]))}


def worst_rows(predictions: Sequence[Prediction], recipe: Recipe) -> list[dict[str, Any]]:
    """The rows with a wrong label, the most wrong first.

    A field is as wrong as the share of labels, among those expected or predicted, that are not both; a row as its fields
    together. Of equally wrong rows the one with more wrong labels comes first.
    """
    ranked = []
    for prediction in predictions:
        wrong, n_labels = 0.0, 0
        for name, field in recipe.output.fields.items():
            if not isinstance(field, TextField):
                right, said = _labels(prediction.expected[name]), _labels(prediction.predicted[name])
                wrong += len(right ^ said) / max(1, len(right | said))
                n_labels += len(right ^ said)
        if wrong:
            ranked.append(((-wrong, -n_labels, prediction.row), prediction))
    return [_record(prediction) for _, prediction in sorted(ranked, key=lambda item: item[0])]


def text_cases(predictions: Sequence[Prediction], name: str, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The best, middle and worst texts of a field by ROUGE-L; no row is two of these.

    Returns:
        "best", the best first, "middle", around the median, and "worst", the worst first; a third of the rows each, and
        at most `MAX_CASES`. A case has "row", "file", "line", "input", "reference", "prediction" (None, and the whole
        "reply", where it could not be read), "rougeL", "bucket", and of the fields with labels "right", "expected" and
        "predicted".
    """
    expected = [str(prediction.expected[name]) for prediction in predictions]
    values: list[Any] = [prediction.predicted[name] for prediction in predictions]
    rouge_l = rouge_rows(expected, values)["rougeL"].tolist()
    order = sorted(range(len(predictions)), key=lambda i: (-rouge_l[i], predictions[i].row))
    size = min(MAX_CASES, max(1, len(order) // 3))
    middle = order[size : len(order) - size]
    start = max(0, (len(middle) - size) // 2)
    chosen = {"best": order[:size], "middle": middle[start : start + size], "worst": order[size:][::-1][:size]}
    return {kind: [_case(predictions[i], name, rouge_l[i], recipe) for i in chosen[kind]] for kind in CASES}


def _case(prediction: Prediction, name: str, rouge_l: float, recipe: Recipe) -> dict[str, Any]:
    right = right_fields(prediction, recipe)
    case = {
        "row": prediction.row,
        "file": prediction.file,
        "line": prediction.line,
        "input": prediction.input,
        "reference": prediction.expected[name],
        "prediction": prediction.predicted[name],
        "rougeL": rouge_l,
        "bucket": bucket_of(rouge_l),
        "right": right,
        "expected": {field: prediction.expected[field] for field in right},
        "predicted": {field: prediction.predicted[field] for field in right},
    }
    if prediction.predicted[name] is None:
        case["reply"] = prediction.prediction
    return case


def _labels(value: Any) -> set[str]:
    return set() if value is None else {value} if isinstance(value, str) else set(value)


def _record(prediction: Prediction) -> dict[str, Any]:
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
