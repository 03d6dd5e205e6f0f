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
from mlxtune.errors import did_you_mean
from mlxtune.recipe.sections import PLACEHOLDER, LabelField, LabelsField, OutputSection, TextField

TEMPLATE_SEGMENT = "template"
# Stand for what a text or an open list may begin with: letter, digit, another script, punctuation.
OPEN_BEGINNINGS = ("a", "The", "1", "中", "(", "-")
# White space as Python strips it: \s alone leaves out four control characters in Rust.
_SPACE = r"\s\x1c-\x1f"
_WHITE_SPACE = re.compile(r"\s*")
_FULL_STOPS = ".。․‥…︒︙︰﹒．｡"  # characters that NFKC makes full stops, and nothing else

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
        pieces = self._written(text.strip())
        if pieces is None:
            return Reply(dict.fromkeys(self.fields), False, "does not follow the template")
        values: dict[str, Value | None] = {}
        problems: list[str] = []
        repeated = False
        for (name, field), written in zip(self.fields.items(), pieces, strict=True):
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

    def _written(self, text: str) -> list[str] | None:
        """What stands in each field's place in a reply without outer white space; None if a literal is missing.

        A text field, and the last field, take as much as they can: a text's own words may look like the template's.
        The other fields take as little as they can. Of a literal's white space only what a field needs to itself is left
        to it. Time is linear in the text: one search from the right finds how late each literal may begin, one from the
        left where it does.
        """
        first, *others = self._searched
        backwards = text[::-1]
        # Where each literal must have ended: where the next one begins at the latest.
        limits = [len(text)]
        for literal in reversed(others):
            find = literal.backwards.match if literal is others[-1] else literal.backwards.search
            found = find(backwards, len(text) - limits[-1])
            if found is None:
                return None
            limits.append(len(text) - found.end())
        limits.reverse()
        opening = first.words.match(text)
        if opening is None or opening.end() > limits[0]:
            return None
        start = first.end(text, opening, limits[0])
        written: list[str] = []
        for field, literal, latest, limit in zip(self.fields.values(), others, limits, limits[1:], strict=False):
            takes_all = isinstance(field, TextField) or literal is others[-1]
            found = literal.words.match(text, latest) if takes_all else literal.words.search(text, start)
            assert found is not None, "the search from the right found one"
            before = text[start : found.start()]
            written.append(before.rstrip() if literal.is_loose_before and not takes_all else before)
            start = literal.end(text, found, limit)
        return written

    @cached_property
    def _searched(self) -> list[_Literal]:
        """The literals, without the white space at the template's own ends, as a reply's is left out as well."""
        first, *between, last = self._literals
        return [_literal(literal) for literal in (first.lstrip(), *between, last.rstrip())]


@dataclass(frozen=True)
class _Literal:
    """A literal of the template, to be found in replies whose white space differs.

    White space between its words may be any or left out. White space alone keeps two fields apart, so one character of
    it must be there.

    Attributes:
        words: From its first word to its last.
        backwards: The same in a text that is read backwards.
        is_loose_before: Whether white space before the first word belongs to it.
        is_loose_after: Whether white space after the last word belongs to it.
    """

    words: re.Pattern[str]
    backwards: re.Pattern[str]
    is_loose_before: bool
    is_loose_after: bool

    def end(self, text: str, found: re.Match[str], limit: int) -> int:
        """Where it ends that was found in a text, with the white space after it up to a limit."""
        end = found.end()
        if self.is_loose_after and (space := _WHITE_SPACE.match(text, end)):
            return min(space.end(), limit)
        return end


def _literal(text: str) -> _Literal:
    words = text.split()
    if text and not words:
        return _Literal(re.compile(r"\s"), re.compile(r"\s"), False, True)
    forwards, backwards = (re.compile(r"\s*".join(map(re.escape, one))) for one in (words, text[::-1].split()))
    return _Literal(forwards, backwards, text[:1].isspace(), text[-1:].isspace())


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
        mark = field.separator.strip()
        parts = split_labels([part for line in written.split("\n") for part in line.split(mark)])
    else:
        parts = split_labels(written, field.separator if isinstance(field, LabelsField) else None)
    known: list[str | None] = list(parts)
    if field.labels is not None:
        whole = _known_labels([written.strip()], field.labels)  # a label may itself hold a comma
        known = whole if whole[0] else _known_labels(parts, field.labels)
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


def _known_labels(texts: Sequence[str], labels: Sequence[str]) -> list[str | None]:
    """The label that each text says, a full stop after it forgiven; None where it says none."""
    names = {_folded(label): label for label in labels}
    # NFKC joins up to four characters in one, and its time is quadratic in a run of accents: what is longer is no label.
    longest = 4 * max(map(len, names))
    found: dict[str, str | None] = {}
    for text in dict.fromkeys(texts):
        bare = text.rstrip(_FULL_STOPS)
        whole = _folded(text) if len(text) <= longest else ""
        without_stop = whole if bare == text else _folded(bare) if len(bare) <= longest else ""
        found[text] = names.get(whole) or names.get(without_stop.rstrip(".。"))
    return [found[text] for text in texts]


def _folded(label: str) -> str:
    return unicodedata.normalize("NFKC", label).casefold()


def _clip(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


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
