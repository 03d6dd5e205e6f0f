"""The output template: formats a reply, marks its spans, parses it back and says what may be written. Strings only.

One template serves training (format, spans), decoding (pattern) and evaluation (parse), so that none of them can
disagree with another. Nothing else in the project knows what a field is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlxtune.data.labels import split_labels
from mlxtune.recipe import PLACEHOLDER, LabelField, LabelsField, OutputSection, TextField, did_you_mean

TEMPLATE_SEGMENT = "template"
# White space as Python strips it: \s alone leaves out four control characters in Rust.
_SPACE = r"\s\x1c-\x1f"

Value = str | tuple[str, ...]  # of a label or text field; of a label set
Field = LabelField | LabelsField | TextField


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a formatted reply that belong to one segment with one loss weight."""

    start: int
    end: int
    segment: str
    weight: float


@dataclass(frozen=True)
class Reply:
    """A reply, parsed.

    Attributes:
        values: Field -> its value; None where the text holds none that the field allows.
        repeated: The text says a label more than once or loops.
        problem: Why it could not be parsed whole, or None.
    """

    values: Mapping[str, Value | None]
    repeated: bool
    problem: str | None

    @property
    def valid(self) -> bool:
        """Whether every field has a value."""
        return self.problem is None


class ReplyTemplate:
    """The reply as a recipe's `output` section describes it."""

    def __init__(self, output: OutputSection, class_weights: Mapping[str, Mapping[str, float]] | None = None) -> None:
        """Of a recipe's output.

        Args:
            output: The recipe's.
            class_weights: Field -> label -> weight, for fields whose weights come from the training rows; without them
                all labels of such a field weigh 1.
        """
        pieces = PLACEHOLDER.split(output.template)
        self.fields: dict[str, Field] = {name: output.fields[name] for name in pieces[1::2]}
        self._literals = pieces[0::2]
        self.segments = (TEMPLATE_SEGMENT, *self.fields)
        given = {name: getattr(field, "class_weights", {}) for name, field in self.fields.items()}
        self._class_weights: dict[str, Mapping[str, float]] = {
            name: {} if weights == "balanced" else weights for name, weights in given.items()
        } | dict(class_weights or {})
        self.label_fields = tuple(name for name, field in self.fields.items() if not isinstance(field, TextField))

    # Rows to replies

    def read(self, row: Mapping[str, Any]) -> tuple[dict[str, Value], list[str]]:
        """The fields' values in a row of data, label sets in canonical order; and what is wrong with them."""
        values: dict[str, Value] = {}
        problems: list[str] = []
        for name, field in self.fields.items():
            try:
                values[name] = _read_value(name, field, row)
            except ValueError as error:
                problems.append(str(error))
        return values, problems

    def format(self, values: Mapping[str, Value]) -> tuple[str, list[Span]]:
        """The reply's text and its spans, which cover it without gaps.

        >>> output = OutputSection.model_validate(
        ...     {"template": "{a}.", "fields": {"a": {"kind": "labels", "labels": ["x", "y"], "class_weights": {"y": 2.0}}}}
        ... )
        >>> text, spans = ReplyTemplate(output).format({"a": ("x", "y")})
        >>> text, [(text[s.start : s.end], s.segment, s.weight) for s in spans]
        ('x, y.', [('x', 'a', 1.0), (', ', 'a', 1.0), ('y', 'a', 2.0), ('.', 'template', 1.0)])
        """
        pieces: list[tuple[str, str, float]] = [(self._literals[0], TEMPLATE_SEGMENT, 1.0)]
        for (name, field), literal in zip(self.fields.items(), self._literals[1:], strict=True):
            weighted = _weighted_pieces(field, values[name], self._class_weights[name])
            pieces += [(text, name, weight) for text, weight in weighted]
            pieces.append((literal, TEMPLATE_SEGMENT, 1.0))
        spans: list[Span] = []
        text = ""
        for piece, segment, weight in pieces:
            if piece:
                spans.append(Span(len(text), len(text) + len(piece), segment, weight))
                text += piece
        return text, spans

    # Replies to values

    def parse(self, text: str) -> Reply:
        """Read a reply that a model wrote.

        White space at the ends and in the template's literals is read loosely, labels without regard to case and
        order. A label said twice counts once and is reported as repeated. Anything else that the template does not
        allow makes its field None: what cannot be parsed is wrong, not nearly right.
        """
        found = self._shape.fullmatch(text.strip())
        if not found:
            return Reply(dict.fromkeys(self.fields), False, "does not follow the template")
        values: dict[str, Value | None] = {}
        problems: list[str] = []
        repeated = False
        for (name, field), written in zip(self.fields.items(), found.groups(), strict=True):
            value, again = _parse_value(field, written)
            values[name] = value
            repeated |= again
            if value is None:
                problems.append(f"{name}: {_clip(written)!r} is not allowed")
        return Reply(values, repeated, "; ".join(problems) or None)

    def pattern(self) -> str:
        """Regular expression of all replies that parse, in the syntax that Rust's regex and Python share."""
        parts = [_escape(self._literals[0])]
        for field, literal in zip(self.fields.values(), self._literals[1:], strict=True):
            parts += [_value_pattern(field), _escape(literal)]
        return "".join(parts)

    @cached_property
    def _shape(self) -> re.Pattern[str]:
        """The template with each field left open, for finding where fields lie in a reply."""
        first, *rest = [_loose(literal) for literal in self._literals]
        last = len(rest) - 1
        # A text field takes as much as it can: its own words may look like the template's.
        greedy = [
            isinstance(field, TextField) or position == last for position, field in enumerate(self.fields.values())
        ]
        groups = [
            (r"([\s\S]*)" if takes_all else r"([\s\S]*?)") + literal
            for takes_all, literal in zip(greedy, rest, strict=True)
        ]
        return re.compile(first.lstrip() + "".join(groups))


def _read_value(name: str, field: Field, row: Mapping[str, Any]) -> Value:
    if name not in row:
        raise ValueError(f"no {name!r}; the row has {', '.join(map(repr, row)) or 'nothing'}{did_you_mean(name, row)}")
    value = row[name]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{name!r} is empty")
    if isinstance(field, LabelsField):
        if not isinstance(value, (str, list, tuple)):
            raise ValueError(f"{name!r}: expected a list of labels or text, got {value!r}")
        labels = split_labels(value, field.separator, field.labels)
        if not labels:
            raise ValueError(f"{name!r} has no label")
        for label in labels:
            _require_label(name, label, field.labels)
            if field.separator.strip() in label:
                raise ValueError(f"{name!r}: label {label!r} contains the separator {field.separator!r}")
        return _canonical(name, field, labels)
    if not isinstance(value, str):
        raise ValueError(f"{name!r}: expected text, got {value!r}")
    if isinstance(field, LabelField):
        _require_label(name, value.strip(), field.labels)
    return value.strip()


def _require_label(name: str, label: str, labels: Sequence[str] | None) -> None:
    if labels is not None and label not in labels:
        raise ValueError(f"{name!r}: {label!r} is not one of {', '.join(labels)}{did_you_mean(label, labels)}")


def _canonical(name: str, field: LabelsField, labels: Sequence[str]) -> tuple[str, ...]:
    chosen = list(dict.fromkeys(labels))
    if field.exclusive in chosen and len(chosen) > 1:
        raise ValueError(f"{name!r}: {field.exclusive!r} must stand alone, got {', '.join(chosen)}")
    return tuple(sorted(chosen, key=field.labels.index)) if field.labels else tuple(chosen)


def _weighted_pieces(field: Field, value: Value, class_weights: Mapping[str, float]) -> list[tuple[str, float]]:
    """The text of a value in pieces with their loss weights: class weights lie on the label's own characters."""
    if isinstance(field, TextField):
        return [(str(value), field.loss_weight)]
    if isinstance(field, LabelField):
        return [(str(value), field.loss_weight * class_weights.get(str(value), 1.0))]
    pieces: list[tuple[str, float]] = []
    for label in value:
        if pieces:
            pieces.append((field.separator, field.loss_weight))
        pieces.append((label, field.loss_weight * class_weights.get(label, 1.0)))
    return pieces


def _parse_value(field: Field, written: str) -> tuple[Value | None, bool]:
    """The value in a piece of a reply, and whether labels are repeated in it."""
    if isinstance(field, TextField):
        return (written.strip() or None), False
    if isinstance(field, LabelsField) and field.labels is None:
        # Of an open set any text is a label, so only its own separator and a new line part them.
        parts = [
            part.strip() for line in written.split("\n") for part in line.split(field.separator.strip()) if part.strip()
        ]
    else:
        parts = split_labels(written, field.separator if isinstance(field, LabelsField) else None)
    known: list[str | None] = list(parts)
    if field.labels is not None:
        names = {_folded(label): label for label in field.labels}
        whole = _known_label(written, names)  # a label may itself hold a comma
        known = [whole] if whole else [_known_label(part, names) for part in parts]
    labels = [label for label in known if label is not None]
    chosen = list(dict.fromkeys(labels))
    repeated = len(chosen) < len(labels)
    if not chosen or len(labels) < len(known):
        return None, repeated
    if isinstance(field, LabelField):
        return (chosen[0] if len(chosen) == 1 else None), repeated
    try:
        return _canonical("", field, chosen), repeated
    except ValueError:
        return None, repeated


def _known_label(text: str, names: Mapping[str, str]) -> str | None:
    """The label that a text says, a full stop after it forgiven."""
    folded = _folded(text.strip())
    return names.get(folded) or names.get(folded.rstrip(".。"))


def _folded(label: str) -> str:
    return unicodedata.normalize("NFKC", label).casefold()


def _clip(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _loose(literal: str) -> str:
    """A literal of the template in which any white space matches any other.

    White space between words may be left out; a literal that is nothing else keeps two fields apart, so it may not.
    """
    if literal and not literal.strip():
        return r"\s+"
    return r"\s*".join(re.escape(part) for part in re.split(r"\s+", literal))


def _value_pattern(field: Field) -> str:
    if isinstance(field, TextField):
        return rf"[\s\S]*[^{_SPACE}][\s\S]*"
    if isinstance(field, LabelField):
        return "(?:" + "|".join(_escape(label) for label in field.labels) + ")"
    separator = _escape(field.separator)
    if field.labels is None:
        mark = field.separator.strip()[0]
        ends = rf"[^{_SPACE}{_escape(mark)}]"
        one = rf"{ends}(?:[^\n{_escape(mark)}]*{ends})?"
        return f"{one}(?:{separator}{one})*"
    several = [label for label in field.labels if label != field.exclusive]
    # In canonical order each set has one spelling: it begins with some label, and any later ones may follow.
    sets = [
        _escape(first) + "".join(f"(?:{separator}{_escape(later)})?" for later in several[index + 1 :])
        for index, first in enumerate(several)
    ]
    if field.exclusive is not None:
        sets.append(_escape(field.exclusive))
    return "(?:" + "|".join(sets) + ")"


def _escape(text: str) -> str:
    """Escape for both Python's re and Rust's regex, which refuses escapes it does not know (such as `\\ `)."""
    return re.sub(r"([\\.+*?()|\[\]{}^$#&\-~])", r"\\\1", text)
