"""JSON content to typed values, each key of the type that its dataclass declares, or an error that names the key. No files.

    read_dataclass(Estimate, {"value": 0.8, "low": 0.7, "high": 0.9})  # Estimate(0.8, 0.7, 0.9)
    read_dataclass(Estimate, {"value": "x", "low": None, "high": None})  # JsonError: value: expected a number, got 'x'

What a dataclass does not name is left out, so that content of a later version can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Reader = Callable[[Any], T]  # JSON content -> what it says; raises JsonError

EXPECTED = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
MAX_SHOWN = 60  # characters of what arrived instead


class JsonError(ValueError):
    """Content that does not have the shape it should have: at which key, what was expected, what arrived.

    >>> print(JsonError("expected a number, got 'x'", ("fields", "tags", "low")))
    fields.tags.low: expected a number, got 'x'
    """

    def __init__(self, problem: str, keys: tuple[str, ...] = ()) -> None:
        super().__init__(f"{'.'.join(keys)}: {problem}" if keys else problem)
        self.problem, self.keys = problem, keys


def read_dataclass(kind: Callable[..., T], content: Any, rest: str | None = None) -> T:
    """A dataclass from the content of its fields.

    Args:
        kind: The dataclass.
        content: Its fields by name; one that is missing has its default.
        rest: A field that is a mapping, and whose keys stand beside the other fields: it gets all keys that are no field's.

    Raises:
        JsonError: A field is missing that has no default, or is of another type.
    """
    content = mapping(content)
    hints = _hints(kind)
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]
        read = typed(hints[one.name])
        if one.name == rest:
            values[rest] = read({key: value for key, value in content.items() if key not in hints})
        elif one.name in content or one.default is one.default_factory is MISSING:
            values[one.name] = required(content, one.name, read)
    return kind(**values)


def required(content: Any, key: str, read: Reader[T]) -> T:
    """The value of a key.

    Raises:
        JsonError: There is no such key, or the value is of another type.
    """
    content = mapping(content)
    if key not in content:
        raise JsonError("expected this key, it is missing", (key,))
    with inside(key):
        return read(content[key])


def optional(content: Any, key: str, read: Reader[T]) -> T | None:
    """The value of a key; None where there is none, or it is null."""
    return None if mapping(content).get(key) is None else required(content, key, read)


def each(read: Reader[T]) -> Reader[dict[str, T]]:
    """A reader of an object whose values are all of one type."""
    return lambda content: {key: required(content, key, read) for key in mapping(content)}


def mapping(content: Any) -> Mapping[str, Any]:
    """The content, which is an object."""
    if not isinstance(content, Mapping):
        raise JsonError(f"expected an object, got {_shown(content)}")
    return content


def typed(kind: Any) -> Reader[Any]:
    """A reader of a type as an annotation names it: a number, text, a list, an object, a dataclass, or one of these or None.

    >>> typed(dict[str, float | None])({"a": 0.5, "b": None})
    {'a': 0.5, 'b': None}
    """
    return lambda content: _read(kind, content)


@contextmanager
def inside(*keys: str) -> Iterator[None]:
    """Errors in here are of what lies under these keys."""
    try:
        yield
    except JsonError as error:
        raise JsonError(error.problem, (*keys, *error.keys)) from None


def _read(kind: Any, content: Any) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return content
    if origin in (Union, UnionType):
        if content is None and NoneType in parts:
            return None
        (kind,) = (part for part in parts if part is not NoneType)
        return _read(kind, content)
    if is_dataclass(kind):
        of_its_own: Reader[Any] | None = getattr(kind, "from_json", None)
        return read_dataclass(kind, content) if of_its_own is None else of_its_own(content)  # type: ignore[arg-type]
    if origin in (Mapping, dict):
        return each(typed(parts[1]))(content)
    if origin in (Sequence, list, tuple):
        items = _items(content, typed(parts[0]))
        return tuple(items) if origin is tuple else items
    if origin is Literal:
        if content not in parts:
            raise JsonError(f"expected one of {', '.join(map(repr, parts))}, got {_shown(content)}")
        return content
    wanted = (float, int) if kind is float else (kind,)  # JSON of others may have 1 for 1.0
    if not isinstance(content, wanted) or (isinstance(content, bool) and kind is not bool):
        raise JsonError(f"expected {EXPECTED[kind]}, got {_shown(content)}")
    return content


def _items(content: Any, read: Reader[T]) -> list[T]:
    if not isinstance(content, list):
        raise JsonError(f"expected a list, got {_shown(content)}")
    found = []
    for position, item in enumerate(content):
        with inside(str(position)):
            found.append(read(item))
    return found


def _shown(content: Any) -> str:
    text = repr(content)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
