"""The predictions as the page carries them: one compressed JSON text, which its script unpacks. No HTML.

Lists, not objects, since there may be thousands of rows of several fields and systems; `assets/predictions.js` gives the places
their names again.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.report.blocks import FieldAnswer, PredictionRow, Predictions
from mlxtune.report.page.plain_text import MAX_NAME, MAX_TEXT, shortened
from mlxtune.report.words import Words


def packed(predictions: Predictions, say: Words) -> str:
    """The predictions as JSON, by gzip, in base64."""
    content = json.dumps(_content(predictions, say), ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode("ascii")


def _content(predictions: Predictions, say: Words) -> dict[str, Any]:
    # every field that has an answer, in the order in which the rows name them
    names = dict.fromkeys(name for row in predictions.rows for answers in row.answers.values() for name in answers)
    fields = [
        {
            "name": shortened(name, say, MAX_NAME),
            "labels": [shortened(label, say, MAX_NAME) for label in predictions.labels.get(name, ())],
            "text": _holds_texts(predictions, name),
        }
        for name in names
    ]
    return {
        "systems": [shortened(system, say, MAX_NAME) for system in predictions.systems],
        "fields": fields,
        "rows": [_Row(row, predictions.systems, say).packed(list(names)) for row in predictions.rows],
    }


def _holds_texts(predictions: Predictions, field: str) -> bool:
    """Texts are neither right nor wrong."""
    answers = (read[field] for row in predictions.rows for read in row.answers.values() if field in read)
    return all(answer.right is None for answer in answers)


@dataclass(frozen=True)
class _Row:
    """A row on its way into the page."""

    row: PredictionRow
    systems: Sequence[str]
    say: Words

    def packed(self, fields: Sequence[str]) -> list[Any]:
        """[number, place, input, reply a system, problem a system, [reference, answer a system] a field]."""
        row = self.row
        place = shortened(row.place, self.say, MAX_NAME)
        return [
            row.number,
            place,
            shortened(row.input, self.say, MAX_TEXT, self.say("page.whole_input", place=place)),
            [self._text(row.replies.get(system)) for system in self.systems],
            [self._text(row.problems.get(system)) for system in self.systems],
            [self._field(field) for field in fields],
        ]

    def _field(self, field: str) -> list[Any]:
        read = [self.row.answers.get(system, {}).get(field) for system in self.systems]
        reference = next((answer.expected for answer in read if answer), "")
        return [self._value(reference), [self._answer(answer) for answer in read]]

    def _answer(self, answer: FieldAnswer | None) -> list[Any] | None:
        """[predicted, right, probability, bucket, closeness]."""
        if answer is None:
            return None
        bucket = None if answer.bucket is None else shortened(answer.bucket, self.say, MAX_NAME)
        return [
            self._value(answer.predicted),
            answer.right,
            _rounded(answer.probability),
            bucket,
            _rounded(answer.closeness),
        ]

    def _value(self, value: str | tuple[str, ...] | None) -> str | list[str | None] | None:
        return [self._text(label) for label in value] if isinstance(value, tuple) else self._text(value)

    def _text(self, text: str | None) -> str | None:
        whole = self.say("page.whole_reply", number=self.row.number)
        return None if text is None else shortened(text, self.say, MAX_TEXT, whole)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
