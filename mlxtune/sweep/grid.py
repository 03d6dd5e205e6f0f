"""What a sweep varies: from the words of --vary to the trials of a grid, each with a checked recipe and a folder name.
Trains nothing, reads no run.

    axes = [parse_axis("lora.rank=32,64"), parse_axis("train.learning_rate=1e-4,2e-4")]
    plan_trials(Path("recipe.yaml"), axes)[0].name  # 'rank-32_learning_rate-1e-4'
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.errors import Misuse, Problem, RecipeError
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.recipe.yaml_text import YamlError, YamlSyntaxError, read_yaml
from mlxtune.runs.layout import RUNS

MAX_VALUE_CHARS = 40  # of a value in a folder's name
MAX_NAME_BYTES = 200  # of a folder's name; file systems take 255
OPENING, CLOSING = "[{(", "]})"


@dataclass(frozen=True)
class Axis:
    """Keys that vary together, and their values as written, in YAML: (("32", "64"), ("64", "128")) of rank and alpha."""

    keys: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Trial:
    """One combination.

    Attributes:
        name: Of its run folder.
        settings: (key, value as written), in the order of the axes.
        overrides: "KEY=VALUE" of everything that the command line sets, these settings last.
        file: The recipe's file.
        recipe: The recipe with these settings, checked.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    overrides: tuple[str, ...]
    file: Path
    recipe: Recipe

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings)


def parse_axis(text: str) -> Axis:
    """What one --vary says: KEY=VALUE,VALUE,... or, for keys that vary together, KEY,KEY=VALUE:VALUE,VALUE:VALUE,...

    Values are YAML, so lists are written [q_proj, v_proj] and text with a comma in quotes. The list of values may itself
    stand in brackets.

    Raises:
        Misuse: It says something else.

    >>> parse_axis("lora.rank,lora.alpha=32:64,64:128").choices
    (('32', '64'), ('64', '128'))
    """
    keys_text, equals, values_text = text.partition("=")
    keys = tuple(key.strip() for key in keys_text.split(","))
    where = f"--vary {text}"
    if not equals or not all(part for key in keys for part in key.split(".")):
        raise Misuse(f"{where}: expected KEY=VALUE,VALUE, as in --vary lora.rank=32,64")
    if len(set(keys)) < len(keys):
        raise Misuse(f"{where}: names a key twice")
    values = _split(values_text, ",")
    if len(values) == 1 and values[0].startswith("[") and values[0].endswith("]"):
        values = _split(values[0][1:-1], ",")
    choices = [tuple(_split(value, ":")) if len(keys) > 1 else (value,) for value in values]
    for value, choice in zip(values, choices, strict=True):
        if len(choice) != len(keys):
            raise Misuse(f"{where}: {value!r} holds {len(choice)} values for {len(keys)} keys; write them as 32:64")
        for one in choice:
            if not one:
                raise Misuse(f"{where}: a value is missing; write null for no value")
            try:
                read_yaml(one)
            except YamlSyntaxError:
                raise Misuse(f"{where}: {one!r} is not valid YAML; quote it") from None
            except YamlError as error:
                raise Misuse(f"{where}: a value: {error.message}") from None
    twice = [choice for choice, times in Counter(map(_same, choices)).items() if times > 1]
    if twice:
        raise Misuse(f"{where}: names {twice[0]} twice")
    if len(choices) < 2:
        raise Misuse(f"{where}: expected two values or more, got one; for a fixed value use --set {text}")
    return Axis(keys, tuple(choices))


def plan_trials(file: Path, axes: Sequence[Axis], overrides: Sequence[str] = (), evaluate: bool = True) -> list[Trial]:
    """Every combination of the axes' values, the last axis changing fastest, with its recipe.

    Args:
        file: The recipe.
        axes: What varies.
        overrides: "KEY=VALUE" of what is the same in all of them.
        evaluate: Whether each will be evaluated, which needs test rows.

    Raises:
        Misuse: Nothing varies, or a key varies twice or is set as well.
        RecipeError: Some of the recipes say something wrong; every problem of every one of them is listed once.
    """
    if not axes:
        raise Misuse("nothing to vary; name a key and its values, as in --vary lora.rank=32,64")
    keys = [key for axis in axes for key in axis.keys]
    fixed = [override.partition("=")[0] for override in overrides]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise Misuse(f"--vary {key}: is given twice")
        if key in fixed:
            raise Misuse(f"--vary {key}: is also set by --set; give it once")
        if key == "name":
            raise Misuse("--vary name: the recipe's name does not change the training; vary another key")
    trials: list[Trial] = []
    problems: dict[Problem, None] = {}  # each once, in order
    for combination in itertools.product(*(axis.choices for axis in axes)):
        values = [value for choice in combination for value in choice]
        settings = tuple(zip(keys, values, strict=True))
        words = (*overrides, *(f"{key}={value}" for key, value in settings))
        try:
            recipe = load_recipe(file, words)
            if evaluate and recipe.data.test is None:
                missing = Problem("data.test", "missing; add it, or leave evaluation out: --no-evaluate")
                raise RecipeError(str(file), [missing])
        except RecipeError as error:
            if not error.problems:  # the file itself cannot be read
                raise
            varied = {f"--set {key}={value}": f"--vary {key}={value}" for key, value in settings}
            found = (replace(one, place=varied.get(one.place, one.place)) for one in error.problems)
            problems |= dict.fromkeys(found)
        else:
            trials.append(Trial("", settings, words, file, recipe))
    if problems:
        raise RecipeError(str(file), problems)
    names = _names(trials)
    return [
        Trial(name, one.settings, one.overrides, one.file, one.recipe) for name, one in zip(names, trials, strict=True)
    ]


def default_folder(recipe_name: str, axes: Sequence[Axis], overrides: Sequence[str] = ()) -> Path:
    """Where a sweep lies if nobody says: a function of what varies and what is fixed, so that the same command finds it.

    The values are not in it: a grid that has grown finds the trials that it had.
    """
    keys = [key for axis in axes for key in axis.keys]
    name = "sweep-" + "-".join(_short(key, keys) for key in keys)
    if overrides:
        name += "-" + hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:8]
    return RUNS / recipe_name / name


def scale_note(trials: Sequence[Trial]) -> str | None:
    """A sentence where the rank varies alone: with it varies how much the adapter counts."""
    keys = {key for key, _ in trials[0].settings}
    if "lora.rank" not in keys or "lora.alpha" in keys:
        return None
    scales = {trial.recipe.lora.rank: trial.recipe.lora.scale for trial in trials}
    first = trials[0].recipe.lora
    power = 0.5 if first.rslora else 1.0
    kept = ",".join(f"{rank}:{first.alpha * (rank / first.rank) ** power:.4g}" for rank in scales)
    of_ranks = ", ".join(f"{scale:.3g} at rank {rank}" for rank, scale in scales.items())
    return (
        f"lora.alpha stays {first.alpha:g}, so the adapter's scale varies with the rank: {of_ranks}; "
        f"to keep the scale of rank {first.rank} everywhere: --vary lora.rank,lora.alpha={kept}"
    )


def _split(text: str, separator: str) -> list[str]:
    """Pieces between separators that stand in no brackets or quotes, without outer spaces.

    >>> _split("all, [q_proj, v_proj]", ",")
    ['all', '[q_proj, v_proj]']
    """
    pieces, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not pieces[-1].strip(" [{,:"):
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
        elif character == separator and depth == 0:
            pieces.append("")
            continue
        pieces[-1] += character
    return [piece.strip() for piece in pieces]


def _same(choice: Sequence[str]) -> str:
    """The same text for the same values: 1e-4 and 0.0001, 'all' with and without quotes."""
    return ":".join(json.dumps(read_yaml(one), sort_keys=True, default=str) for one in choice)


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key where no other ends in it."""
    last = key.rpartition(".")[2]
    return last if sum(one.rpartition(".")[2] == last for one in keys) == 1 else key


def _names(trials: Sequence[Trial]) -> list[str]:
    """A folder name for each, none twice: rank-32_learning_rate-1e-4."""
    names = []
    for trial in trials:
        keys = [key for key, _ in trial.settings]
        parts = []
        for key, value in trial.settings:
            plain = re.sub(r"[^\w.+-]+", "-", os.path.basename(value.rstrip("/"))).strip("-.") or "value"
            # What cannot be shown whole is told apart by a hash, which depends on this value alone.
            whole = plain == value and len(plain) <= MAX_VALUE_CHARS
            mark = "" if whole else "~" + hashlib.sha256(value.encode()).hexdigest()[:6]
            parts.append(f"{_short(key, keys)}-{plain[:MAX_VALUE_CHARS]}{mark}")
        name = "_".join(parts)
        if len(name.encode()) > MAX_NAME_BYTES:
            name = (
                name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
                + "~"
                + hashlib.sha256(name.encode()).hexdigest()[:6]
            )
        names.append(name)
    return names
