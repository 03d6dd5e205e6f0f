"""How a value of each kind of output field is read from a row, written into a reply, read back, and what it may look like.

Strings only. `template.py` puts fields together; nothing else asks how a field is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mlxtune.data.labels import split_labels
from mlxtune.errors import did_you_mean
from mlxtune.recipe.sections import LabelField, LabelsField, TextField

Value = str | tuple[str, ...]  # of a label or text field; of a label set
Field = LabelField | LabelsField | TextField
SPACE = r"\s\x1c-\x1f"  # white space as Python strips it: \s alone leaves out four control characters in Rust
_FULL_STOPS = ".。․‥…︒︙︰﹒．｡"  # characters that NFKC makes full stops, and nothing else


class FieldForm(Protocol):
    """The written form of one field.

    Attributes:
        takes_all: Whether a reply's text goes to this field as far as it can, since its own words may look like the template's.
    """

    takes_all: bool

    def read(self, name: str, value: Any) -> Value:
        """The value in a row of data, label sets in canonical order; it is not empty.

        Raises:
            ValueError: The field does not allow it; the message names the field.
        """

    def pieces(self, value: Value, class_weights: Mapping[str, float]) -> list[tuple[str, float]]:
        """The text of a value in pieces with their loss weights: class weights lie on the label's own characters."""

    def parse(self, written: str) -> tuple[Value | None, bool]:
        """The value in a piece of a reply, None where it holds none; and whether labels are repeated in it."""

    def pattern(self) -> str:
        """Regular expression of all that may be written, in the syntax that Rust's regex and Python share."""


def form_of(field: Field) -> FieldForm:
    """The form of one field."""
    return FORMS[field.kind](field)


class LabelForm:
    """One label of a list."""

    takes_all = False

    def __init__(self, field: LabelField) -> None:
        self._field = field

    def read(self, name: str, value: Any) -> Value:
        """See `FieldForm`."""
        label = _require_text(name, value)
        _require_label(name, label, self._field.labels)
        return label

    def pieces(self, value: Value, class_weights: Mapping[str, float]) -> list[tuple[str, float]]:
        """See `FieldForm`."""
        return [(str(value), self._field.loss_weight * class_weights.get(str(value), 1.0))]

    def parse(self, written: str) -> tuple[Value | None, bool]:
        """See `FieldForm`."""
        chosen, repeated = _chosen(written, split_labels(written, None), self._field.labels)
        return (chosen[0] if len(chosen) == 1 else None), repeated

    def pattern(self) -> str:
        """See `FieldForm`."""
        return "(?:" + "|".join(escape(label) for label in self._field.labels) + ")"


class LabelSetForm:
    """A set of labels, of a list or open."""

    takes_all = False

    def __init__(self, field: LabelsField) -> None:
        self._field = field

    def read(self, name: str, value: Any) -> Value:
        """See `FieldForm`."""
        field = self._field
        if not isinstance(value, (str, list, tuple)):
            raise ValueError(f"{name!r}: expected a list of labels or text, got {value!r}")
        labels = split_labels(value, field.separator, field.labels)
        if not labels:
            raise ValueError(f"{name!r} has no label")
        for label in labels:
            _require_label(name, label, field.labels)
            if field.separator.strip() in label:
                raise ValueError(f"{name!r}: label {label!r} contains the separator {field.separator!r}")
        return self._canonical(name, labels)

    def pieces(self, value: Value, class_weights: Mapping[str, float]) -> list[tuple[str, float]]:
        """See `FieldForm`."""
        pieces: list[tuple[str, float]] = []
        for label in value:
            if pieces:
                pieces.append((self._field.separator, self._field.loss_weight))
            pieces.append((label, self._field.loss_weight * class_weights.get(label, 1.0)))
        return pieces

    def parse(self, written: str) -> tuple[Value | None, bool]:
        """See `FieldForm`."""
        if self._field.labels is None:
            # Of an open set any text is a label, so only its own separator and a new line part them.
            mark = self._field.separator.strip()
            parts = split_labels([part for line in written.split("\n") for part in line.split(mark)])
        else:
            parts = split_labels(written, self._field.separator)
        chosen, repeated = _chosen(written, parts, self._field.labels)
        try:
            return (self._canonical("", chosen) if chosen else None), repeated
        except ValueError:
            return None, repeated

    def pattern(self) -> str:
        """See `FieldForm`."""
        field, separator = self._field, escape(self._field.separator)
        if field.labels is None:
            mark = field.separator.strip()[0]
            ends = rf"[^{SPACE}{escape(mark)}]"
            one = rf"{ends}(?:[^\n{escape(mark)}]*{ends})?"
            return f"{one}(?:{separator}{one})*"
        several = [label for label in field.labels if label != field.exclusive]
        # In canonical order each set has one spelling: it begins with some label, and any later ones may follow.
        sets = [
            escape(first) + "".join(f"(?:{separator}{escape(later)})?" for later in several[index + 1 :])
            for index, first in enumerate(several)
        ]
        if field.exclusive is not None:
            sets.append(escape(field.exclusive))
        return "(?:" + "|".join(sets) + ")"

    def _canonical(self, name: str, labels: Sequence[str]) -> tuple[str, ...]:
        field = self._field
        chosen = list(dict.fromkeys(labels))
        if field.exclusive in chosen and len(chosen) > 1:
            raise ValueError(f"{name!r}: {field.exclusive!r} must stand alone, got {', '.join(chosen)}")
        return tuple(sorted(chosen, key=field.labels.index)) if field.labels else tuple(chosen)


class TextForm:
    """Free text."""

    takes_all = True

    def __init__(self, field: TextField) -> None:
        self._field = field

    def read(self, name: str, value: Any) -> Value:
        """See `FieldForm`."""
        return _require_text(name, value)

    def pieces(self, value: Value, class_weights: Mapping[str, float]) -> list[tuple[str, float]]:
        """See `FieldForm`."""
        return [(str(value), self._field.loss_weight)]

    def parse(self, written: str) -> tuple[Value | None, bool]:
        """See `FieldForm`."""
        return (written.strip() or None), False

    def pattern(self) -> str:
        """See `FieldForm`."""
        return rf"[\s\S]*[^{SPACE}][\s\S]*"


FORMS: Mapping[str, Callable[[Any], FieldForm]] = {"label": LabelForm, "labels": LabelSetForm, "text": TextForm}


# Pieces ----------------------------------------------------------------------------------------------------------


def _require_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name!r}: expected text, got {value!r}")
    return value.strip()


def _require_label(name: str, label: str, labels: Sequence[str] | None) -> None:
    if labels is not None and label not in labels:
        raise ValueError(f"{name!r}: {label!r} is not one of {', '.join(labels)}{did_you_mean(label, labels)}")


def _chosen(written: str, parts: Sequence[str], allowed: Sequence[str] | None) -> tuple[list[str], bool]:
    """The labels that are said, each once, none where anything else is said; and whether one is said again."""
    known: list[str | None] = list(parts)
    if allowed is not None:
        whole = _known_labels([written.strip()], allowed)  # a label may itself hold a comma
        known = whole if whole[0] else _known_labels(parts, allowed)
    labels = [label for label in known if label is not None]
    chosen = list(dict.fromkeys(labels))
    repeated = len(chosen) < len(labels)
    return ([] if len(labels) < len(known) else chosen), repeated


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


def escape(text: str) -> str:
    """Escape for both Python's re and Rust's regex, which refuses escapes it does not know (such as `\\ `)."""
    return re.sub(r"([\\.+*?()|\[\]{}^$#&\-~])", r"\\\1", text)
