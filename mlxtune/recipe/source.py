"""A recipe's YAML files: read with the line of every key, and merged where one extends another. Checks no value.

A recipe with `extends: other.yaml` says only what differs from that one:

- mappings merge key by key, at every depth; lists and single values replace; null replaces too;
- null over an inherited entry whose name is the user's own (a field, a column, a label) removes that entry;
- a field whose `kind` changes keeps the inherited keys that its new kind has as well, and loses the others;
- `name` is never inherited.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from mlxtune.errors import Problem, RecipeError, did_you_mean
from mlxtune.recipe.yaml_text import YamlError, read_yaml

Place = tuple[str, ...]  # ("train", "epochs")
Kinds = Mapping[str, Collection[str]]  # kind of output field -> its keys

# Mappings whose keys are names that the user made up: null has no meaning there but 'not this one'.
OWN_NAMES = ("data.columns", "evaluate.keywords", "evaluate.expect", "output.fields", "output.fields.*.class_weights")


@dataclass(frozen=True)
class Where:
    """A line of one of the files."""

    depth: int  # 0 is the recipe itself, 1 what it extends
    line: int
    file: Path

    def __str__(self) -> str:
        return f"{self.file} line {self.line}" if self.depth else f"line {self.line}"


@dataclass(frozen=True)
class RecipeSource:
    """What a recipe's files say together.

    Attributes:
        content: The merged keys and values.
        places: Where each key stands; of a key in several files, in the one that has the last word.
        problems: What is wrong with the files themselves.
        complete: Whether all of them could be read; otherwise keys may be missing from `content`.
    """

    content: dict[str, Any]
    places: dict[Place, Where]
    problems: list[tuple[Where, str]]
    complete: bool

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems in the recipe's own lines, then those in the files it extends, then the rest."""
        known = [*self.places.values(), *(where for where, _ in self.problems)]
        order = {str(one): (one.depth, one.line) for one in known}
        return sorted(problems, key=lambda problem: order.get(problem.place, (10**9, 0)))


def read_source(path: Path, kinds: Kinds) -> RecipeSource:
    """Read a recipe's file and those it extends.

    Args:
        path: The recipe.
        kinds: The keys of each kind of output field.

    Raises:
        RecipeError: The recipe itself cannot be read. What is wrong with the others is among the problems.
    """
    try:
        documents = [_read(path, 0)]
    except _Unreadable as error:
        if error.line is None:
            raise RecipeError(f"{path}: {error.message}") from None
        raise RecipeError(str(path), [Problem(f"line {error.line}", error.message)]) from None
    problems = list(documents[0].problems)
    complete = True
    while "extends" in documents[-1].content:
        named = documents[-1].content.pop("extends")
        where = documents[-1].where(("extends",))
        try:
            documents.append(_parent(named, documents))
        except _Unreadable as error:
            in_parent = error.file is not None and error.line is not None
            if in_parent:
                problems.append((Where(len(documents), error.line or 1, error.file or path), error.message))
            else:
                problems.append((where, f"extends: {error.message}"))
            complete = False
            break
        documents[-1].content.pop("name", None)
        problems += documents[-1].problems
    content: dict[str, Any] = {}
    places: dict[Place, Where] = {}
    for document in reversed(documents):
        content = _merged(content, document.content, (), document, places, kinds)
    return RecipeSource(content, places, problems, complete)


# Reading ---------------------------------------------------------------------------------------------------------


class _Unreadable(Exception):
    """A file that holds no mapping of keys, and where in it that shows."""

    def __init__(self, message: str, file: Path | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.file, self.line = message, file, line


@dataclass(frozen=True)
class _Document:
    """One file as it stands."""

    file: Path
    depth: int
    content: dict[str, Any]
    lines: dict[Place, int]
    problems: list[tuple[Where, str]]

    def where(self, place: Place) -> Where:
        """The line of a key, or of the nearest one above it that has a line."""
        end = next(end for end in range(len(place), -1, -1) if place[:end] in self.lines)
        return Where(self.depth, self.lines[place[:end]], self.file)


def _parent(named: Any, documents: list[_Document]) -> _Document:
    """The file that the last of the documents extends."""
    if not isinstance(named, str) or not named.strip():
        raise _Unreadable(f"expected the file name of a recipe, got {named!r}")
    file = Path(os.path.normpath(documents[-1].file.parent / os.path.expanduser(named)))
    files = [document.file for document in documents]
    if os.path.realpath(file) in [os.path.realpath(one) for one in files]:
        raise _Unreadable(f"extends itself in a circle: {' -> '.join(map(str, [*files, file]))}")
    try:
        return _read(file, len(documents), not_meant=files)
    except _Unreadable as error:
        if error.line is None:
            raise _Unreadable(f"{file}: {error.message}") from None
        raise


def _read(file: Path, depth: int, not_meant: Collection[Path] = ()) -> _Document:
    """The file as a mapping, and the line of each key in it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = sorted(set(file.parent.glob("*.y*ml")) - set(not_meant)) if file.parent.is_dir() else []
        raise _Unreadable(f"no such recipe{did_you_mean(file.name, [one.name for one in beside])}") from None
    except IsADirectoryError:
        raise _Unreadable("expected a recipe, a YAML file; this is a folder") from None
    except UnicodeDecodeError as error:
        raise _Unreadable(f"expected UTF-8 text, got byte {error.object[error.start]:#x}") from None
    except (OSError, ValueError) as error:
        raise _Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    lines: dict[Place, int] = {}
    twice: list[tuple[int, str]] = []
    try:
        content = read_yaml(text, on_node=lambda node: twice.extend(_walk(node, (), lines)))
    except YamlError as error:
        raise _Unreadable(error.message, file, error.line) from None
    if not isinstance(content, dict):
        got = "an empty file" if content is None else f"a {type(content).__name__}"
        raise _Unreadable(f"expected a recipe, keys with values under model:, data: and output:; got {got}")
    return _Document(file, depth, content, lines, [(Where(depth, line, file), said) for line, said in twice])


def _walk(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Iterator[tuple[int, str]]:
    """Note the line of every key below a node; yield keys that stand twice, which YAML would silently merge."""
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                yield line, f"{'.'.join([*place, name])}: is given twice, first in line {seen[name]}"
            seen[name] = line
            lines[(*place, name)] = line
            yield from _walk(value, (*place, name), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _walk(value, (*place, str(index)), lines)


# Merging ---------------------------------------------------------------------------------------------------------


def _merged(
    base: Mapping[str, Any], over: Mapping[str, Any], at: Place, document: _Document, places: dict[Place, Where], kinds: Kinds
) -> dict[str, Any]:  # fmt: skip
    """A mapping of `document` laid over what it extends; `places` is brought up to date, nothing else is changed."""
    places[at] = document.where(at)
    lost = _keys_of_old_kind(base, over, kinds) if at[:2] == ("output", "fields") and len(at) == 3 else set()
    content = {key: value for key, value in base.items() if key not in lost}
    for key in lost:
        _forget(base.get(key), (*at, key), places)
    own_names = any(fnmatchcase(".".join(at), pattern) for pattern in OWN_NAMES)
    for key, value in over.items():
        place = (*at, str(key))
        inherited = content.get(key)
        if isinstance(value, dict) and isinstance(inherited, dict):
            content[key] = _merged(inherited, value, place, document, places, kinds)
            continue
        _forget(inherited, place, places)
        if value is None and inherited is not None and own_names:
            del content[key]
            continue
        content[key] = value
        _note(value, place, document, places)
    return content


def _keys_of_old_kind(base: Mapping[str, Any], over: Mapping[str, Any], kinds: Kinds) -> set[str]:
    """Keys that a field has of its inherited kind, where it is given another that has no such keys."""
    old, new = base.get("kind"), over.get("kind")
    if not (isinstance(old, str) and isinstance(new, str) and old in kinds and new in kinds):
        return set()
    return set(kinds[old]) - set(kinds[new])


def _forget(value: Any, place: Place, places: dict[Place, Where]) -> None:
    """Forget where a value and everything in it stands."""
    places.pop(place, None)
    for key, one in _inner(value):
        _forget(one, (*place, str(key)), places)


def _note(value: Any, place: Place, document: _Document, places: dict[Place, Where]) -> None:
    """Note where a value and everything in it stands."""
    places[place] = document.where(place)
    for key, one in _inner(value):
        _note(one, (*place, str(key)), document, places)


def _inner(value: Any) -> Iterable[tuple[Any, Any]]:
    """Key or position, and value, of what a value holds."""
    return value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
