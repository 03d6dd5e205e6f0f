"""Labels that begin with the same token where the reply writes them: the model's first token cannot tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlxtune.data.field_forms import Value
from mlxtune.data.template import ReplyTemplate
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import LabelsField, OutputSection, TextField


@dataclass(frozen=True)
class Collision:
    """Labels of a field whose first token is the same.

    Attributes:
        field: The output field.
        where: "first" in the field, or "after" another label of a set.
        token: The token as text, a leading space kept.
        labels: Two or more.
    """

    field: str
    where: Literal["first", "after"]
    token: str
    labels: tuple[str, ...]


def first_token_collisions(
    output: OutputSection, tokenizer: Tokenizer, seen: Mapping[str, Sequence[str]]
) -> list[Collision]:
    """Every collision among the labels of each field.

    Args:
        output: The recipe's `output`.
        tokenizer: The model's.
        seen: Field -> labels to look at where the recipe lists none.
    """
    template = ReplyTemplate(output)
    labels_of = {
        name: list(field.labels or seen.get(name, []))
        for name, field in template.fields.items()
        if not isinstance(field, TextField)
    }
    found: list[Collision] = []
    for name, labels in labels_of.items():
        field = template.fields[name]
        written = {label: [label] for label in labels}
        found += _collisions(name, "first", written, template, tokenizer, labels_of)
        if isinstance(field, LabelsField):
            several = [label for label in labels if label != field.exclusive]
            after = {label: [next(other for other in several if other != label), label] for label in several[:1]}
            after |= {label: [several[0], label] for label in several[1:]}
            found += _collisions(name, "after", after if len(several) > 1 else {}, template, tokenizer, labels_of)
    return found


def _collisions(
    name: str,
    where: Literal["first", "after"],
    written: Mapping[str, Sequence[str]],
    template: ReplyTemplate,
    tokenizer: Tokenizer,
    labels_of: Mapping[str, Sequence[str]],
) -> list[Collision]:
    """Collisions among replies whose field `name` holds these labels; the one looked at is the last."""
    filler: dict[str, Value] = {}
    for other, field in template.fields.items():
        some = next(iter(labels_of.get(other, [])), "x")
        filler[other] = (some,) if isinstance(field, LabelsField) else some
    texts: list[str] = []
    starts: list[int] = []
    for label, values in written.items():
        value: Value = tuple(values) if isinstance(template.fields[name], LabelsField) else label
        text, spans = template.format({**filler, name: value})
        # A label may hold what looks like another: the last span of the field is this label's whole.
        texts.append(text)
        starts.append([span for span in spans if span.segment == name][-1].start)
    by_token: dict[int, list[str]] = {}
    shown: dict[int, str] = {}
    for label, text, start, encoded in zip(written, texts, starts, tokenizer.encode(texts), strict=True):
        for identifier, (begin, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if end > start:  # the token of the label's first character, with a space before it where it has one
                by_token.setdefault(identifier, []).append(label)
                shown[identifier] = text[begin:end]
                break
    return [
        Collision(name, where, shown[identifier], tuple(labels))
        for identifier, labels in by_token.items()
        if len(labels) > 1
    ]
