"""Preparing a recipe's data: every file is read once and every step is done once, whoever asks for how much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import prepare as module
from mlxtune.data.prepare import RecipeRows, prepare
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training.plan import plan
from tests.conftest import ROWS, chosen, write_recipe
from tests.tiny import tiny_model

SPLIT = {"valid": None, "valid_fraction": 0.4, "clean": {"dedupe": "near"}}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often rows were read, by file, and how often they were cleaned and split."""
    counted: Counter[str] = Counter()

    def count(function: str, name: Callable[..., str]) -> None:
        real = getattr(module, function)

        def counting(*arguments: Any, **keywords: Any) -> Any:
            counted[name(*arguments)] += 1
            return real(*arguments, **keywords)

        monkeypatch.setattr(module, function, counting)

    count("read_recipe_rows", lambda path, *others: path.name)
    count("clean_rows", lambda *others: "clean")
    count("split_positions", lambda *others: "split")
    return counted


def recipe_with(folder: Path, **data: Any) -> Recipe:
    file = write_recipe(folder, tiny_model(folder / "base"), data=data)
    return load_recipe(file)


def test_rows_that_are_split_are_read_cleaned_and_split_once(tmp_path: Path, calls: Counter[str]) -> None:
    recipe = recipe_with(tmp_path, **SPLIT)
    prepare(recipe, load_tokenizer(tmp_path / "base"))
    assert calls == {"train.jsonl": 1, "clean": 1, "split": 1}


def test_files_of_their_own_are_read_once_each(tmp_path: Path, calls: Counter[str]) -> None:
    recipe = recipe_with(tmp_path)
    prepare(recipe, load_tokenizer(tmp_path / "base"))
    assert calls == {"train.jsonl": 1, "valid.jsonl": 1}


def test_a_plan_reads_once(tmp_path: Path, calls: Counter[str]) -> None:
    plan(recipe_with(tmp_path, **SPLIT), chosen().backend)
    assert calls == {"train.jsonl": 1, "clean": 1, "split": 1}


def test_rows_asked_for_again_are_not_read_again(tmp_path: Path, calls: Counter[str]) -> None:
    rows = RecipeRows(recipe_with(tmp_path, **SPLIT))
    for _ in range(2):
        assert len(rows.training) + len(rows.validation or ()) == len(ROWS)
    assert calls == {"train.jsonl": 1, "clean": 1, "split": 1}


def test_what_nobody_asks_for_is_not_read(tmp_path: Path, calls: Counter[str]) -> None:
    assert RecipeRows(recipe_with(tmp_path)).validation
    assert calls == {"valid.jsonl": 1}
