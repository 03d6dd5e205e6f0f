"""Holding out and balancing: shares by hand, near-duplicates by brute force, and the same draw for the same seed."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.balance import balance
from mlxtune.data.near import near_duplicate_groups
from mlxtune.data.prepare import RecipeRows, prepare, training_split, validation_split
from mlxtune.data.splitting import split_positions
from mlxtune.errors import DataError, RecipeError
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.training.tune import describe_data
from tests.conftest import ROWS, write_recipe, write_rows
from tests.data.test_cleaning import oracle_near, varied_texts
from tests.tiny import tiny_tokenizer

# Texts that are near-duplicates of none.
APART = [f"{first} {second} {third}" for first in ("alpha", "bravo", "delta", "golf", "hotel")
         for second in ("river", "mount", "field", "coast") for third in ("seven", "eight", "twelve", "thirty", "sixty")]  # fmt: skip


def test_the_texts_that_stand_apart_do() -> None:
    assert len(set(near_duplicate_groups(APART))) == len(APART) == 100


def test_every_row_goes_to_one_side() -> None:
    split = split_positions(APART, ["a"] * 100, 0.2, seed=0)
    assert sorted([*split.training, *split.validation]) == list(range(100))
    assert len(split.validation) == 20


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_label_set_gives_its_share(fraction: float) -> None:
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    split = split_positions(APART, strata, fraction, seed=3)
    counts = Counter(strata[row] for row in split.validation)
    assert len(split.validation) == round(100 * fraction)
    for name, rows in {"a": 60, "b": 30, "c": 10}.items():
        assert abs(counts[name] - rows * fraction) < 1


def test_near_duplicates_are_never_parted() -> None:
    texts = varied_texts(240)
    split = split_positions(texts, [str(row % 4) for row in range(240)], 0.2, seed=1)
    held_out = set(split.validation)
    groups = near_duplicate_groups(texts)
    assert {groups[row] for row in held_out}.isdisjoint(groups[row] for row in split.training)
    near = [(a, b) for a, b in combinations(range(240), 2) if oracle_near(texts[a], texts[b])]
    parts = sum((a in held_out) != (b in held_out) for a, b in near)
    assert len(near) > 60 and parts <= 0.03 * len(near)
    assert len(held_out) == pytest.approx(48, abs=6)


def test_the_seed_decides_the_draw() -> None:
    draws = [split_positions(APART, ["a"] * 100, 0.2, seed).validation for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_label_set_of_one_row_stays_in_training() -> None:
    split = split_positions(APART[:11], ["a"] * 10 + ["b"], 0.5, seed=0)
    assert 10 in split.training and len(split.validation) == 6


def test_label_sets_that_all_differ_still_give_a_row() -> None:
    assert len(split_positions(APART[:5], list("abcde"), 0.2, seed=0).validation) == 1


def test_rows_that_are_all_alike_are_not_parted() -> None:
    assert split_positions(["the same text"] * 5, ["a"] * 5, 0.4, seed=0).validation == ()


def test_oversampling_repeats_each_row_of_a_label_equally_often_but_for_one() -> None:
    classes = ["a"] * 10 + ["b"] * 4 + ["c"]
    balanced = balance(classes, "oversample", seed=0)
    counts = Counter(balanced.positions)
    assert Counter(classes[row] for row in balanced.positions) == {"a": 10, "b": 10, "c": 10}
    assert {counts[row] for row in range(10)} == {1} and {counts[row] for row in range(10, 14)} == {2, 3}
    assert balanced.before == {"a": 10, "b": 4, "c": 1} and balanced.after == {"a": 10, "b": 10, "c": 10}
    assert balanced.most_repeats == 10


def test_undersampling_leaves_rows_out_and_repeats_none() -> None:
    classes = ["a"] * 10 + ["b"] * 4
    balanced = balance(classes, "undersample", seed=0)
    assert Counter(classes[row] for row in balanced.positions) == {"a": 4, "b": 4}
    assert len(set(balanced.positions)) == 8 and balanced.most_repeats == 1
    assert balanced.positions == balance(classes, "undersample", seed=0).positions
    assert balanced.positions != balance(classes, "undersample", seed=1).positions


# Through the recipe


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {"text": text, "intents": ["none"] if place % 4 else ["payment", "user_auth"]}
        for place, text in enumerate(APART[:n])
    ]


def recipe_with(folder: Path, **data: Any) -> Path:
    file = write_recipe(folder, tiny_tokenizer(folder / "base"), data={"valid": None, **data})
    write_rows(folder / "train.jsonl", rows(40))
    return file


def test_training_and_validation_share_no_row_and_miss_none(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_with(tmp_path, valid_fraction=0.2))
    tokenizer = load_tokenizer(tmp_path / "base")
    prepared = prepare(recipe, tokenizer)
    training, validation = prepared.training, prepared.validation
    assert validation is not None and len(validation.examples) == 8 == training.n_validation
    lines = [row.line for row in [*training.rows, *validation.rows]]
    assert sorted(lines) == list(range(1, 41))
    assert sum(len(row.fields["intents"]) == 2 for row in validation.rows) == 2
    other = load_recipe(tmp_path / "recipe.yaml", ["train.seed=1"])
    moved = validation_split(RecipeRows(other), tokenizer)
    assert moved is not None and [row.line for row in moved.rows] != [row.line for row in validation.rows]


def test_only_training_rows_are_balanced_and_sets_are_one_class_in_any_order(tmp_path: Path) -> None:
    recipe = load_recipe(
        recipe_with(tmp_path, valid_fraction=0.2, balance={"field": "intents", "method": "oversample"})
    )
    write_rows(
        tmp_path / "train.jsonl",
        [{**row, "intents": row["intents"][::-1]} if n % 8 else row for n, row in enumerate(rows(40))],
    )
    tokenizer = load_tokenizer(tmp_path / "base")
    prepared = prepare(recipe, tokenizer)
    training, validation = prepared.training, prepared.validation
    assert training.balanced is not None and validation is not None
    assert training.balanced.before == {"none": 24, "user_auth, payment": 8}
    assert training.balanced.after == {"none": 24, "user_auth, payment": 24}
    assert len(training.examples) == 48 and len(training.rows) == 32
    assert len(validation.examples) == 8 and validation.balanced is None


def test_rows_that_cannot_be_parted_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(recipe_with(tmp_path, valid_fraction=0.2))
    write_rows(tmp_path / "train.jsonl", [ROWS[0]] * 3)
    with pytest.raises(DataError, match="can hold out none of 3 rows"):
        training_split(RecipeRows(recipe), load_tokenizer(tmp_path / "base"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"valid": "valid.jsonl", "valid_fraction": 0.1},
            "data.valid_fraction: data.valid names validation rows already",
        ),
        ({"valid_fraction": 1.0}, "data.valid_fraction: expected less than 1"),
        ({"valid_fraction": 0}, "data.valid_fraction: expected more than 0"),
        ({"balance": {"field": "intent", "method": "oversample"}}, "data.balance.field: 'intent' is no output field"),
        (
            {"balance": {"field": "intents", "method": "over"}},
            "data.balance.method: expected 'oversample' or 'undersample'",
        ),
        ({"balance": {"field": "intents"}}, "data.balance.method: missing"),
        ({"balance": True}, "data.balance: expected keys with values"),
    ],
)
def test_impossible_settings_are_refused_with_their_line(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe_with(tmp_path, **data))
    assert said in str(caught.value) and "  line " in str(caught.value)


def test_training_says_what_was_held_out_and_balanced(tmp_path: Path) -> None:
    recipe = load_recipe(
        recipe_with(tmp_path, valid_fraction=0.2, balance={"field": "intents", "method": "undersample"})
    )
    tokenizer = load_tokenizer(tmp_path / "base")
    prepared = prepare(recipe, tokenizer)
    said = describe_data(prepared.training, prepared.validation, recipe)
    assert said == "16 rows to train; balanced from 32, 8 to validate"
