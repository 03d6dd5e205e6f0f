"""A YAML file becomes a Recipe: read, overridden by --set, checked, its file names made absolute. Opens none of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlxtune.errors import Problem, RecipeError
from mlxtune.recipe.explain import explain, merge
from mlxtune.recipe.sections import (
    DATA_FILES,
    EXPECT,
    HUB_ROWS,
    HUB_SPLITS,
    KINDS,
    MORE_ROWS,
    Recipe,
    is_local_model,
    is_on_hub,
    key_place,
)
from mlxtune.recipe.source import Place, read_source
from mlxtune.recipe.yaml_text import YamlError, YamlSyntaxError, read_yaml

# Kinds of pydantic's errors that an inherited key would cure.
MAY_BE_INHERITED = ("missing", "union_tag_not_found", "mlxtune")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe.

    Args:
        path: The YAML file. `extends: other.yaml` in it names one, relative to it, from which it differs only in what
            it says; `source.py` has the rules.
        overrides: "KEY=VALUE" each, KEY dotted ("train.epochs"), VALUE in YAML. File names in them are
            relative to the current folder, those in a file to that file's folder.

    Returns:
        The recipe, its file names absolute.

    Raises:
        RecipeError: The file cannot be read, or says something wrong; all problems together.
    """
    source = read_source(path, {kind: one.model_fields.keys() for kind, one in KINDS.items()})
    content = source.content
    problems = [Problem(str(where), text) for where, text in source.problems]
    problems += [Problem(where, text) for override in overrides for where, text in _override(content, override)]
    content.setdefault("name", path.stem)
    overridden = {key_place(item.partition("=")[0]): f"--set {item}" for item in overrides}
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        # What a file that could not be read may have said is not missed.
        errors = [one for one in error.errors() if source.complete or one["type"] not in MAY_BE_INHERITED]
        findings = merge(explain(one, source.places, overridden) for one in errors)
        problems += [Problem(one.where, f"{one.key}: {one}") for one in findings]
        recipe = None
    if problems or recipe is None:
        raise RecipeError(str(path), source.in_order(problems))

    def folder(place: Place) -> Path:
        """Of the file in which a key stands; the recipe's own for what --set says."""
        stated = place in source.places and not any(place[: len(key)] == key for key in overridden)
        return source.places[place].file.parent if stated else path.parent

    return _with_absolute_paths(recipe, folder)


def _override(content: dict[str, Any], override: str) -> Iterator[tuple[str, str]]:
    """Apply one "KEY=VALUE" in place; yield what is wrong with it."""
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        yield where, "expected KEY=VALUE, as in --set train.epochs=1"
        return
    try:
        value = _condition(key, text) or read_yaml(text)
    except YamlSyntaxError:
        yield where, f"the value is not valid YAML: {text!r}; quote it"
        return
    except YamlError as error:
        yield where, f"the value: {error.message}"
        return
    if isinstance(value, str):
        value = _from_current_folder(key, value)
    elif key == f"data.{MORE_ROWS}" and isinstance(value, list):
        value = [_from_current_folder(key, file) if isinstance(file, str) else file for file in value]
    if key == "extends":
        yield where, "extends can only be set in the recipe file; --set takes any other key, as in train.epochs=1"
        return
    target = content
    *parents, last = key_place(key)
    for parent in parents:
        inner = target.get(parent)
        if inner is None:
            inner = target[parent] = {}
        if not isinstance(inner, dict):
            yield where, f"'{parent}' holds a value, not keys"
            return
        target = inner
    target[last] = value


def _condition(key: str, text: str) -> str | None:
    """The text of a condition such as '>= 0.8', which YAML would take for the beginning of a block; None of other values."""
    return text.strip() if key.startswith(f"{EXPECT}.") and text.lstrip().startswith(">") else None


def _from_current_folder(key: str, value: str) -> str:
    section, _, name = key.partition(".")
    names_file = section == "data" and name in (*DATA_FILES, MORE_ROWS) and not is_on_hub(value)
    if names_file or (key == "model.path" and (is_local_model(value) or Path(value).is_dir())):
        return os.path.abspath(os.path.expanduser(value))
    return value


def _with_absolute_paths(recipe: Recipe, folder_of: Callable[[Place], Path]) -> Recipe:
    def absolute(name: str, folder: Path) -> str:
        return os.path.abspath(folder / os.path.expanduser(name))

    def whole(name: str, split: str, file: str) -> str:
        rows = HUB_ROWS.fullmatch(file)
        if rows is None:
            return absolute(file, folder_of(("data", name)))
        return file if rows["split"] else f"{file}:{HUB_SPLITS[split]}"

    files = {name: getattr(recipe.data, name) for name in DATA_FILES}
    found: dict[str, Any] = {name: whole(name, name, file) for name, file in files.items() if file}
    found[MORE_ROWS] = [whole(MORE_ROWS, "train", file) for file in recipe.data.more]
    data = recipe.data.model_copy(update=found)
    path, folder = recipe.model.path, folder_of(("model", "path"))
    # "models/base" may be a Hub id; beside a folder "models" it is a path, if a mistyped one.
    parent = Path(path).parts[0] if "/" in path and not path.startswith("package:") else ""
    if is_local_model(path) or (folder / path).is_dir() or (parent and (folder / parent).is_dir()):
        path = absolute(path, folder)
    elif Path(path).is_dir():  # beside where the command is given; kept absolute, so that it is found again
        path = str(Path(path).absolute())
    model = recipe.model.model_copy(update={"path": path})
    return recipe.model_copy(update={"data": data, "model": model})
