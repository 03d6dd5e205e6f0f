"""The output template: formats a reply, marks its spans, parses it back and says what may be written. Strings only.

One template serves training (format, spans), decoding (pattern) and evaluation (parse), so that none of them can
disagree with another. Nothing else in the project knows what a field is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlxtune.data.field_forms import Field, Value, escape, form_of
from mlxtune.errors import did_you_mean
from mlxtune.recipe.sections import PLACEHOLDER, OutputSection

TEMPLATE_SEGMENT = "template"
# Stand for what a text or an open list may begin with: letter, digit, another script, punctuation.
OPEN_BEGINNINGS = ("a", "The", "1", "中", "(", "-")
_WHITE_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a formatted reply that belong to one segment with one loss weight."""

    start: int
    end: int
    segment: str
    weight: float


@dataclass(frozen=True)
class TemplateReading:
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
        self._forms = {name: form_of(field) for name, field in self.fields.items()}
        self._literals = pieces[0::2]
        self.segments = (TEMPLATE_SEGMENT, *self.fields)
        given = {name: getattr(field, "class_weights", {}) for name, field in self.fields.items()}
        self._class_weights: dict[str, Mapping[str, float]] = {
            name: {} if weights == "balanced" else weights for name, weights in given.items()
        } | dict(class_weights or {})
        self.label_fields = tuple(name for name, field in self.fields.items() if field.has_labels)

    @property
    def whole_text(self) -> str | None:
        """The field that is the whole reply, if that is one text."""
        (name, *others), free = self.fields, not any(literal.strip() for literal in self._literals)
        return name if free and not others and not self.fields[name].has_labels else None

    # Rows to replies

    def read(self, row: Mapping[str, Any]) -> tuple[dict[str, Value], list[str]]:
        """The fields' values in a row of data, label sets in canonical order; and what is wrong with them."""
        values: dict[str, Value] = {}
        problems: list[str] = []
        for name, form in self._forms.items():
            try:
                values[name] = form.read(name, _given(name, row))
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
        for (name, form), literal in zip(self._forms.items(), self._literals[1:], strict=True):
            weighted = form.pieces(values[name], self._class_weights[name])
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

    def parse(self, text: str) -> TemplateReading:
        """Read a reply that a model wrote.

        White space at the ends and in the template's literals is read loosely, labels without regard to case and
        order. A label said twice counts once and is reported as repeated. Anything else that the template does not
        allow makes its field None: what cannot be parsed is wrong, not nearly right.
        """
        pieces = self._written(text.strip())
        if pieces is None:
            return TemplateReading(dict.fromkeys(self.fields), False, "does not follow the template")
        values: dict[str, Value | None] = {}
        problems: list[str] = []
        repeated = False
        for (name, form), written in zip(self._forms.items(), pieces, strict=True):
            value, again = form.parse(written)
            values[name] = value
            repeated |= again
            if value is None:
                problems.append(f"{name}: {_clip(written)!r} is not allowed")
        return TemplateReading(values, repeated, "; ".join(problems) or None)

    def pattern(self, first: str | None = None, literal: str | None = None) -> str:
        """Regular expression of all replies that parse, in the syntax that Rust's regex and Python share.

        Args:
            first: Of what follows in them from this field on; None is the whole.
            literal: The template's text before it; None is all that stands there.
        """
        names = list(self._forms)
        begin = 0 if first is None else names.index(first)
        parts = [escape(self._literals[begin] if literal is None else literal)]
        for name, after in zip(names[begin:], self._literals[begin + 1 :], strict=True):
            parts += [self._forms[name].pattern(), escape(after)]
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
        for form, literal, latest, limit in zip(self._forms.values(), others, limits, limits[1:], strict=False):
            takes_all = form.takes_all or literal is others[-1]
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


def _given(name: str, row: Mapping[str, Any]) -> Any:
    """What a row has for a field."""
    if name not in row:
        raise ValueError(f"no {name!r}; the row has {', '.join(map(repr, row)) or 'nothing'}{did_you_mean(name, row)}")
    value = row[name]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{name!r} is empty")
    return value


def _clip(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
