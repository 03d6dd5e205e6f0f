"""Prepared data that is kept: equal to preparing anew in every array and fact, made anew where anything that decides it changed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.data import prepare as preparing
from mlxtune.data import prepared_cache as module
from mlxtune.data.prepare import Prepared, Split, prepare
from mlxtune.data.prepared_cache import cached_prepare, list_prepared
from mlxtune.errors import DataError
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training.plan import plan
from tests.conftest import LABELS, Run, chosen, heard, write_recipe, write_rows
from tests.tiny import tiny_model

EVERYTHING = (
    "data.valid=null",
    "data.valid_fraction=0.3",
    "data.clean={dedupe: near, min_chars: 4, drop_garbled: true}",
    "data.balance={field: intents, method: oversample}",
    "output.fields.intents.class_weights=balanced",
    "train.max_tokens=90",
    "train.over_long=drop",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prepared"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe whose rows have duplicates, near-duplicates, conflicts, rubbish and one that is too long."""
    file = write_recipe(tmp_path / "recipe", tiny_model(tmp_path / "base"))
    rows: list[dict[str, Any]] = [
        {"text": f"{word} number {number} of my account is {end}", "intents": [label]}
        for number, word in enumerate(["invoice", "parcel", "password", "refund", "weather"])
        for end, label in zip(("wrong", "gone 退款", "late"), LABELS, strict=False)
    ]
    rows += [rows[0], {**rows[1], "text": f"{rows[1]['text']}!"}, {**rows[2], "intents": [LABELS[0]]}]
    rows += [{"text": "hm", "intents": [LABELS[0]]}, {"text": "long " * 200, "intents": [LABELS[0]]}]
    write_rows(tmp_path / "recipe" / "train.jsonl", rows)
    return file


@pytest.fixture
def tokenizer(file: Path, tmp_path: Path) -> Tokenizer:
    return load_tokenizer(tmp_path / "base")


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the recipes that are prepared and not read."""
    names: list[str] = []
    monkeypatch.setattr(
        module, "prepare", lambda recipe, *others: names.append(recipe.name) or prepare(recipe, *others)
    )
    return names


def assert_same(one: Split | None, other: Split | None) -> None:
    if one is None or other is None:
        assert one is other
        return
    assert list(one.rows) == list(other.rows) and len(one.examples) == len(other.examples)
    for mine, theirs in zip(one.examples, other.examples, strict=True):
        assert mine.row == theirs.row and type(mine.row) is int
        for name in ("prompt", "reply", "weights", "segments"):
            array, expected = getattr(mine, name), getattr(theirs, name)
            assert array.dtype == expected.dtype and np.array_equal(array, expected), name
    assert replace(one, rows=(), examples=[]) == replace(other, rows=(), examples=[])
    assert str(replace(one, rows=(), examples=[])) == str(replace(other, rows=(), examples=[]))  # and in the same order


def copies(examples: Sequence[Any]) -> int:
    return len(examples) - len({id(example) for example in examples})


@pytest.mark.parametrize(
    "overrides",
    [EVERYTHING, (), ("data.valid=null",), ("data.clean.dedupe=exact", "data.balance={field: intents, method: undersample}")],
    ids=["everything", "plain", "no-validation", "undersampled"],
)  # fmt: skip
def test_what_is_read_equals_what_is_prepared(
    file: Path, tokenizer: Tokenizer, prepared: list[str], overrides: tuple[str, ...]
) -> None:
    recipe = load_recipe(file, [*overrides, *(() if overrides == EVERYTHING else ("train.max_tokens=2048",))])
    plain = prepare(recipe, tokenizer)
    cached_prepare(recipe, tokenizer)
    found = cached_prepare(recipe, tokenizer)
    assert prepared == ["tiny"]
    assert_same(found.training, plain.training)
    assert_same(found.validation, plain.validation)
    if overrides == EVERYTHING:
        report = plain.training.cleaning
        assert report is not None and report.dropped and report.near_duplicates and report.conflicts
        assert plain.training.left_out and plain.training.class_weights and plain.training.n_validation
        assert copies(found.training.examples) == copies(plain.training.examples) > 0


@pytest.mark.parametrize(
    "override",
    [
        "data.valid=null", "data.valid_fraction=0.4", "data.clean.dedupe=exact", "data.balance.method=undersample",
        "data.columns={text: text}", "prompt.system=Other words.", "prompt.user='Text: {text}'", "output.template='Intents: {intents}'",
        "output.fields.intents.loss_weight=2", "train.max_tokens=91", "train.seed=1",
    ],
)  # fmt: skip
def test_what_decides_the_tokens_is_prepared_anew_where_it_changes(
    file: Path, tokenizer: Tokenizer, prepared: list[str], override: str
) -> None:
    others = EVERYTHING if override != "data.valid=null" else ("train.over_long=drop",)
    for words in (others, (*others, override)):
        recipe = load_recipe(file, words)
        assert_same(cached_prepare(recipe, tokenizer).training, prepare(recipe, tokenizer).training)
    assert len(prepared) == 2


def test_what_does_not_decide_them_is_not(file: Path, tokenizer: Tokenizer, prepared: list[str]) -> None:
    for words in (
        (),
        ("train.learning_rate=1", "train.batch_size=3", "data.test=null", "lora.rank=2", "train.epochs=5"),
    ):
        cached_prepare(load_recipe(file, [*EVERYTHING, *words]), tokenizer)
    assert len(prepared) == 1


@pytest.mark.parametrize("name", ["recipe/train.jsonl", "recipe/valid.jsonl", "base/tokenizer_config.json"])
def test_a_changed_file_is_prepared_anew(
    file: Path, tokenizer: Tokenizer, prepared: list[str], tmp_path: Path, name: str
) -> None:
    recipe = load_recipe(file)
    cached_prepare(recipe, tokenizer)
    with (tmp_path / name).open("a") as stream:
        stream.write("\n")
    cached_prepare(recipe, load_tokenizer(tmp_path / "base"))
    assert len(prepared) == 2


def test_another_version_prepares_anew(
    file: Path, tokenizer: Tokenizer, prepared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(part for part in module._code())
    cached_prepare(load_recipe(file), tokenizer)
    monkeypatch.setattr(module, "_code", lambda: ["another"])
    cached_prepare(load_recipe(file), tokenizer)
    assert len(prepared) == 2


def only(cache: Path) -> Path:
    (found,) = cache.iterdir()
    return found


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"not safetensors at all" * 10,
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        lambda content: content.replace(b'"n_validation"', b'"m_validation"'),
    ],
    ids=["cut", "empty", "other", "bit", "key"],
)
def test_a_damaged_file_is_made_again(
    file: Path, tokenizer: Tokenizer, prepared: list[str], cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    recipe = load_recipe(file, EVERYTHING)
    first = cached_prepare(recipe, tokenizer)
    kept, content = only(cache), only(cache).read_bytes()
    assert damage(content) != content
    kept.write_bytes(damage(content))
    assert_same(cached_prepare(recipe, tokenizer).training, first.training)
    assert len(prepared) == 2 and only(cache).read_bytes() == content


def test_a_file_of_the_same_name_for_something_else_is_not_taken(
    file: Path, tokenizer: Tokenizer, prepared: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter(["0" * 16 + "1", "0" * 16 + "2"])
    monkeypatch.setattr(module, "_digest", lambda *others: next(digests))
    for words in ((), ("prompt.system=Other words.",)):
        recipe = load_recipe(file, [*EVERYTHING, *words])
        assert_same(cached_prepare(recipe, tokenizer).training, prepare(recipe, tokenizer).training)
    assert len(prepared) == 2


def test_a_second_plan_neither_cleans_nor_splits_nor_tokenizes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(file, EVERYTHING)
    first = plan(recipe, chosen().backend)
    for function in ("clean_rows", "split_positions", "build_examples"):
        monkeypatch.setattr(preparing, function, None)
    assert plan(recipe, chosen().backend) == first


def test_rows_of_a_server_are_prepared_each_time(
    file: Path, tokenizer: Tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def prepare_anew(recipe: Recipe, tokenizer: Tokenizer, ask: bool) -> Prepared:
        asked.append(ask)
        return Prepared(Split([], [], None, []), None)

    monkeypatch.setattr(module, "prepare", prepare_anew)
    server = "{field: intents, value: none, endpoint: http://127.0.0.1:9, model: m}"
    recipe = load_recipe(file, [f"data.augment={server}"])
    for ask in (False, True):
        cached_prepare(recipe, tokenizer, ask)
    assert asked == [False, True] and not cache.exists()


def test_a_tokenizer_without_a_folder_is_not_known_again(file: Path, tokenizer: Tokenizer, cache: Path) -> None:
    cached_prepare(load_recipe(file), Tokenizer(tokenizer.hf))
    assert not cache.exists()


def test_wrong_rows_are_refused_as_ever_and_nothing_is_kept(file: Path, tokenizer: Tokenizer, cache: Path) -> None:
    for words in (["train.max_tokens=90"], ["data.train=missing.jsonl"]):
        with pytest.raises(DataError):
            cached_prepare(load_recipe(file, words), tokenizer)
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_is_told_of(
    file: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "a-file"))
    with heard() as said:
        assert cached_prepare(load_recipe(file), tokenizer).training.examples
    assert said == [f"prepared tokens cannot be kept in {tmp_path / 'a-file' / 'prepared'}: Not a directory"]


def test_a_writer_that_fails_leaves_nothing(
    file: Path, tokenizer: Tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*others: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlxtune.data.prepared_cache.os.replace", full)
    with heard() as said:
        cached_prepare(load_recipe(file), tokenizer)
    assert "No space left on device" in said[0] and not list(cache.iterdir())


def test_the_last_used_are_kept_within_bounds(
    file: Path, tokenizer: Tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    for seed in range(3):
        cached_prepare(load_recipe(file, [f"train.seed={seed}"]), tokenizer)
        for one in cache.iterdir():
            os.utime(one, (time.time() - 100 + seed,) * 2) if one.stat().st_mtime > time.time() - 50 else None
    cached_prepare(load_recipe(file, ["train.seed=0"]), tokenizer)  # used again, so the second is the oldest
    oldest = list_prepared()[-1].path
    cached_prepare(load_recipe(file, ["train.seed=9"]), tokenizer)
    assert len(list_prepared()) == 3 and not oldest.exists()
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    cached_prepare(load_recipe(file, ["train.seed=10"]), tokenizer)
    assert len(list_prepared()) == 1  # the one just made stays, however large


def test_what_a_killed_writer_left_goes_after_a_day(file: Path, tokenizer: Tokenizer, cache: Path) -> None:
    cache.mkdir(parents=True)
    for name, age in (("fresh", 60), ("old", 2 * 24 * 3600)):
        (cache / f".{name}.1.safetensors").write_bytes(b"half")
        os.utime(cache / f".{name}.1.safetensors", (time.time() - age,) * 2)
    cached_prepare(load_recipe(file), tokenizer)
    assert sorted(one.path.name[:5] for one in list_prepared()) == [".fres", "tiny-"]


def test_it_is_listed_and_removed_with_the_cache(file: Path, tokenizer: Tokenizer, cache: Path, mlxtune: Run) -> None:
    cached_prepare(load_recipe(file), tokenizer)
    kept = only(cache)
    unasked = mlxtune("runs", "clean", "--cache")
    assert unasked.code == 2 and f"{kept}: " in unasked.err and kept.exists()
    done = mlxtune("runs", "clean", "--cache", "--yes", "--json")
    removed = json.loads(done.out)["removed"]
    assert [(one["name"], one["kind"]) for one in removed] == [(kept.name, "prepared")]
    assert not kept.exists()


def test_prepared_rows_are_counted_apart_from_models(
    file: Path, tokenizer: Tokenizer, cache: Path, mlxtune: Run
) -> None:
    cached_prepare(load_recipe(file), tokenizer)
    (cache.parent / "models" / "a-0123456789ab").mkdir(parents=True)
    done = mlxtune("runs", "clean", "--cache", "--yes")
    assert done.out.startswith("removed 1 converted model and 1 file of prepared rows, ")
