"""pydantic's errors in a user's words: the key, its line, what was expected, what arrived. Finds no error itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel

from mlxtune.errors import did_you_mean
from mlxtune.recipe.sections import KINDS, Recipe, key_place
from mlxtune.recipe.source import Place, Where


@dataclass(frozen=True)
class _Finding:
    """What is wrong with one key.

    Attributes:
        where: The line or option that says it.
        key: Dotted.
        says: What was expected; where nothing was `got`, a whole sentence.
        got: What arrived instead, with a hint if there is one.
    """

    where: str
    key: str
    says: str
    got: str | None

    def __str__(self) -> str:
        return self.says if self.got is None else f"expected {self.says}, got {self.got}"


def explain(error: Any, places: Mapping[Place, Where], overridden: Mapping[Place, str]) -> _Finding:
    """One pydantic error: its place, what it expected and what it got."""
    place, section = _resolve(error["loc"])
    if error["type"] == "mlxtune":
        place = key_place(".".join([*place, str(error["ctx"]["key"])]))
    name = ".".join(place)
    where = next((text for key, text in overridden.items() if place[: len(key)] == key), None)
    for end in range(len(place), -1, -1):
        if where is None and place[:end] in places:
            where = str(places[place[:end]])
    return _Finding(where or "line 1", name, *_says_and_got(error, place, section))


def merge(findings: Iterable[_Finding]) -> list[_Finding]:
    """A value that fits neither of two types is one problem: 'expected A, or B, got V'."""
    merged: dict[tuple[str, str, str], _Finding] = {}
    for finding in findings:
        place = (finding.where, finding.key, finding.says if finding.got is None else "")
        first = merged.setdefault(place, finding)
        if first is not finding and finding.got is not None:
            merged[place] = replace(first, says=f"{first.says}, or {finding.says}")
    return list(merged.values())


def _says_and_got(error: Any, place: Place, section: type[BaseModel] | None) -> tuple[str, str | None]:
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if kind == "mlxtune":
        return str(context["message"]), None
    if kind == "extra_forbidden":
        return "unknown key" + _suggest_key(place, section), None
    if kind == "missing":
        return "missing; this key has no default", None
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return "kind must be 'label' (one of a list), 'labels' (a set) or 'text' (free text)", None
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return str(context["expected"]), shown + did_you_mean(value, allowed)
    expected = {
        "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number", "bool_type": "true or false",
        "string_type": "text", "list_type": "a list", "dict_type": "keys with values",
        "model_type": "keys with values", "model_attributes_type": "keys with values",
        "greater_than": f"more than {context.get('gt')}", "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}", "less_than_equal": f"at most {context.get('le')}",
        "too_short": f"at least {context.get('min_length')} entries", "string_too_short": "some text",
        "string_pattern_mismatch": "letters, digits, '.', '_' and '-' only",
        "finite_number": "a finite number", "mlxtune_expected": context.get("expected"),
    }.get(kind)  # fmt: skip
    hint = "; put it in quotes" if kind == "string_type" and not isinstance(value, (dict, list, type(None))) else ""
    return (str(expected), shown + hint) if expected else (f"{error['msg']}, got {shown}", None)


def _resolve(location: Sequence[Any]) -> tuple[Place, type[BaseModel] | None]:
    """A pydantic location without the union members it names, and the section that its last key stands in."""
    section: Any = Recipe
    parent: type[BaseModel] | None = Recipe
    place: list[str] = []
    for part in location:
        if isinstance(section, type) and issubclass(section, BaseModel):
            parent = section
            place.append(str(part))
            field = section.model_fields.get(str(part))
            section = _sections_in(field.annotation) if field else None
        elif section == "fields" and len(place) and place[-1] == "fields":
            place.append(str(part))
        elif section == "fields":
            section = KINDS[str(part)]
        elif section == "weights":  # the union's own tag
            section = "mapping"
        elif isinstance(part, int) or section == "mapping":
            place.append(str(part))
    return tuple(place), parent


def _sections_in(annotation: Any) -> Any:
    """The section class inside an annotation, 'fields' for the output fields, 'mapping' for a plain mapping, 'weights' for
    one with a tag before its keys."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if "OutputField" in str(annotation) or "LabelField" in str(annotation):
        return "fields"
    if "Tag(tag='weights')" in str(annotation):
        return "weights"
    if str(annotation).startswith("dict"):
        return "mapping"
    return next((found for inner in get_args(annotation) if (found := _sections_in(inner))), None)


def _suggest_key(place: Place, section: type[BaseModel] | None) -> str:
    """The key meant by an unknown one: a close one of its own section, or the same one of another section."""
    here = [*section.model_fields, *(["extends"] if section is Recipe else [])] if section else []
    if close := did_you_mean(place[-1], here):
        return close
    for name, field in Recipe.model_fields.items():
        other = _sections_in(field.annotation)
        if isinstance(other, type) and issubclass(other, BaseModel) and place[-1] in other.model_fields:
            return f"; it belongs under {name}:"
    return f"; known here: {', '.join(here)}" if here else ""
