"""The small data sets of conversations, `data/chat` and `data/alpaca`: what their generator writes, and their recipes read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlxtune.data.leaks import find_leaks
from mlxtune.data.reading import format_of, read_recipe_rows
from mlxtune.data.report import read_splits
from mlxtune.recipe.load import load_recipe
from tests.conftest import ROOT


def test_the_files_are_what_the_generator_writes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_chats.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["chat", "alpaca"])
@pytest.mark.parametrize("said", ["auto", "as the recipe says"])
def test_the_recipe_reads_all_rows_and_no_two_ask_the_same(name: str, said: str) -> None:
    overrides = ["data.format=auto"] if said == "auto" else []
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides)
    splits = read_splits(recipe)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "valid": 8, "test": 8}
    rows = [row for some in splits.values() for row in some]
    assert format_of(rows).name == {"chat": "messages", "alpaca": "alpaca"}[name]
    assert len({(row.task, row.compared("text")) for row in rows}) == len(rows)
    assert all(row.fields["answer"].strip() for row in rows)


@pytest.mark.parametrize("name", ["chat", "alpaca"])
def test_no_row_is_nearly_one_of_another_split(name: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    splits = read_splits(recipe)
    assert find_leaks(splits, "text", lambda row: None) == []


def test_chats_have_several_turns_and_system_messages_of_their_own() -> None:
    recipe = load_recipe(ROOT / "recipes" / "chat.yaml")
    rows = read_recipe_rows(ROOT / "data" / "chat" / "train.jsonl", recipe)
    conversations = [row.conversation for row in rows if row.conversation]
    assert {len(one.turns) for one in conversations} == {1, 3, 5}
    assert len({one.system for one in conversations}) == 3
