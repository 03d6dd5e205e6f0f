"""Preparing a recipe's data: every file is read once and every step is done once, whoever asks for how much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import prepare as module
from mlxtune.data.prepare import RecipeRows, prepare
from mlxtune.data.reading import rows_hash
from mlxtune.data.rows import content_hash
from mlxtune.errors import DataError
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training.plan import plan
from tests.conftest import ROWS, chosen, write_recipe, write_rows
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


def test_training_rows_of_several_files_are_one_set(tmp_path: Path, calls: Counter[str]) -> None:
    further = [{"text": "why was the violet lamp charged twice", "intents": ["payment"]}, dict(ROWS[0])]
    recipe = recipe_with(tmp_path, more=["further.jsonl"], clean={"dedupe": "exact"})
    write_rows(tmp_path / "further.jsonl", further)
    rows = RecipeRows(recipe)
    distinct = list(dict.fromkeys(str(row["text"]) for row in ROWS))
    assert [row.fields["text"] for row in rows.training] == [*distinct, further[0]["text"]]
    assert rows.cleaning is not None
    assert rows.cleaning.duplicates == len(ROWS) - len(distinct) + 1  # ROWS[0] in the second file, too
    assert calls == {"train.jsonl": 1, "further.jsonl": 1, "clean": 1}
    assert rows_hash(recipe, "valid") == content_hash(tmp_path / "valid.jsonl")
    before = rows_hash(recipe, "train")
    write_rows(tmp_path / "further.jsonl", further[:1])
    assert rows_hash(recipe, "train") != before


def test_training_rows_of_two_formats_are_refused(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "none"}]
    write_rows(tmp_path / "chats.jsonl", [{"messages": turns}])
    recipe = recipe_with(tmp_path, more=["chats.jsonl"])
    with pytest.raises(
        DataError, match=r"chats.jsonl has rows of the format messages, .*train.jsonl of the format rows"
    ):
        prepare(recipe, load_tokenizer(tmp_path / "base"))


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
