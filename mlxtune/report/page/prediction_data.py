"""The predictions as the page carries them: one compressed JSON text, which its script unpacks. No HTML.

Lists, not objects, since there may be thousands of rows of several fields and systems; `assets/predictions.js` gives the places
their names again.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Mapping
from typing import Any

from mlxtune.report.blocks import FieldAnswer, PredictionRow, Predictions
from mlxtune.report.page.plain_text import shortened, visible
from mlxtune.report.words import Words

Show = Callable[[str], str]  # a text -> as the page shows it


def packed(predictions: Predictions, say: Words) -> str:
    """The predictions as JSON, by gzip, in base64."""
    content = json.dumps(_content(predictions, say), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode("ascii")


def _content(predictions: Predictions, say: Words) -> dict[str, Any]:
    fields = _fields(predictions)
    return {
        "systems": [visible(system) for system in predictions.systems],
        "fields": [
            {
                "name": visible(field),
                "labels": [visible(label) for label in predictions.labels.get(field, ())],
                "text": _holds_texts(predictions, field),
            }
            for field in fields
        ],
        "rows": [_row(row, predictions.systems, fields, say) for row in predictions.rows],
    }


def _fields(predictions: Predictions) -> list[str]:
    """Every field that has an answer, in the order in which the rows name them."""
    return list(dict.fromkeys(field for row in predictions.rows for read in row.answers.values() for field in read))


def _holds_texts(predictions: Predictions, field: str) -> bool:
    """Texts are neither right nor wrong."""
    answers = (read[field] for row in predictions.rows for read in row.answers.values() if field in read)
    return all(answer.right is None for answer in answers)


def _row(row: PredictionRow, systems: Any, fields: list[str], say: Words) -> list[Any]:
    """[number, place, input, reply a system, problem a system, [reference, answer a system] a field]."""
    show_reply: Show = lambda text: shortened(text, say, say("page.whole_reply", number=row.number))  # noqa: E731
    return [
        row.number,
        visible(row.place),
        shortened(row.input, say, say("page.whole_input", place=row.place)),
        [_optional(row.replies.get(system), show_reply) for system in systems],
        [_optional(row.problems.get(system), show_reply) for system in systems],
        [_field(row.answers, field, systems, show_reply) for field in fields],
    ]


def _field(answers: Mapping[str, Mapping[str, FieldAnswer]], field: str, systems: Any, show: Show) -> list[Any]:
    read = [answers.get(system, {}).get(field) for system in systems]
    reference = next((answer.expected for answer in read if answer), "")
    return [_value(reference, show), [_answer(answer, show) for answer in read]]


def _answer(answer: FieldAnswer | None, show: Show) -> list[Any] | None:
    """[predicted, right, probability, bucket, closeness]."""
    if answer is None:
        return None
    return [
        None if answer.predicted is None else _value(answer.predicted, show),
        answer.right,
        _rounded(answer.probability),
        _optional(answer.bucket, visible),
        _rounded(answer.closeness),
    ]


def _value(value: str | tuple[str, ...], show: Show) -> str | list[str]:
    return show(value) if isinstance(value, str) else [show(label) for label in value]


def _optional(text: str | None, show: Show) -> str | None:
    return None if text is None else show(text)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
