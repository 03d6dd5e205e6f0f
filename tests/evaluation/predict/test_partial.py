"""Interrupted evaluations go on where they stopped, and only where the same was asked of the same model."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.rows import Row
from mlxtune.evaluation.baselines import ask_baselines
from mlxtune.evaluation.predict.predictions import read_predictions, write_predictions
from mlxtune.evaluation.run import evaluate, model_identity
from mlxtune.evaluation.subject import read_test_rows
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import Recipe
from tests.fakes import FakeModel, right_answer

ABOUT = {"base": "weights", "adapter": {"file": "a", "sha256": "1"}, "backend": "mlx"}


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_test_rows(recipe)


@pytest.fixture
def tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(Path(recipe.model.path))


def changed(recipe: Recipe, section: str, **keys: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})


def interrupt(path: Path, rows: list[Row], recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Leave the first batch of four rows of the model 'a'."""
    model = FakeModel(tokenizer, right_answer(rows), fail_after=1)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, rows, recipe, model, tokenizer, identity="a")


def test_a_resumed_file_equals_an_uninterrupted_one(rows, recipe, tokenizer, tmp_path):
    told: list[Any] = []
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    write_predictions(whole, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, identity="a")
    interrupt(parts, rows, recipe, tokenizer)
    rest = FakeModel(tokenizer, right_answer(rows))
    answers = write_predictions(parts, rows, recipe, rest, tokenizer, None, told.append, identity="a", say=told.append)
    assert parts.read_bytes() == whole.read_bytes()
    assert [len(batch) for batch in rest.batches] == [3]
    assert "4 of 7 rows are answered" in told[0] and told[1:] == [4, 3]
    assert answers.predictions == read_predictions(whole)
    assert not parts.with_name("parts.jsonl.part").exists()


def test_an_evaluation_can_be_interrupted_again_and_again(rows, recipe, tokenizer, tmp_path):
    one_by_one = changed(recipe, "evaluate", batch_size=1)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    write_predictions(whole, rows, one_by_one, FakeModel(tokenizer, right_answer(rows)), tokenizer, identity="a")
    for _ in range(len(rows)):
        model = FakeModel(tokenizer, right_answer(rows), fail_after=1)
        with suppress(KeyboardInterrupt):  # all but the last are interrupted
            write_predictions(parts, rows, one_by_one, model, tokenizer, identity="a")
        assert len(model.batches) == 1
    silent = FakeModel(tokenizer, right_answer(rows), fail_after=0)
    write_predictions(parts, rows, one_by_one, silent, tokenizer, identity="a")
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("different", ["identity", "prompt", "rows", "expected", "limit", "batches", "shots", "nobody"])
def test_replies_to_anything_else_are_discarded(different, rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    interrupt(path, rows, recipe, tokenizer)
    options: dict[str, Any] = {"identity": "a"}
    if different == "identity":
        options["identity"] = "another adapter"
    elif different == "nobody":
        options["identity"] = None
    elif different == "prompt":
        recipe = changed(recipe, "prompt", system="Other.")
    elif different == "rows":
        rows = [*rows[:-1], Row({**rows[-1].fields, "text": "hello"}, rows[-1].file, rows[-1].line)]
    elif different == "expected":
        rows = [Row({**rows[0].fields, "intents": ["none"]}, rows[0].file, rows[0].line), *rows[1:]]
    elif different == "limit":
        recipe = changed(recipe, "evaluate", max_new_tokens=41)
    elif different == "batches":
        recipe = changed(recipe, "evaluate", batch_size=3)
    elif different == "shots":
        options["shots"] = rows[:1]
    told: list[str] = []
    model = FakeModel(tokenizer, lambda prompt: "none")
    write_predictions(path, rows, recipe, model, tokenizer, say=told.append, **options)
    assert sum(map(len, model.batches)) == len(rows)
    assert "discarded" in told[0]
    assert {one.prediction for one in read_predictions(path)} == {"none"}


def test_half_a_line_costs_its_batch_and_nothing_else(rows, recipe, tokenizer, tmp_path):
    one_by_one = changed(recipe, "evaluate", batch_size=1)
    path = tmp_path / "predictions.jsonl"
    model = FakeModel(tokenizer, right_answer(rows), fail_after=3)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, rows, one_by_one, model, tokenizer, identity="a")
    part = path.with_name("predictions.jsonl.part")
    part.write_bytes(part.read_bytes()[:-20])  # as after a loss of power
    rest = FakeModel(tokenizer, right_answer(rows))
    write_predictions(path, rows, one_by_one, rest, tokenizer, identity="a")
    assert len(rest.batches) == len(rows) - 2
    assert [one.row for one in read_predictions(path)] == list(range(len(rows)))


def test_a_damaged_header_is_no_reason_to_fail(rows, recipe, tokenizer, tmp_path):
    for number, content in enumerate(("{", "[]", '{"identity": "a"}', "null")):
        path = tmp_path / str(number) / "predictions.jsonl"
        interrupt(path, rows, recipe, tokenizer)
        path.with_name("predictions.jsonl.part.json").write_text(content)
        model = FakeModel(tokenizer, right_answer(rows))
        write_predictions(path, rows, recipe, model, tokenizer, identity="a")
        assert sum(map(len, model.batches)) == len(rows)


def test_of_two_decodings_the_one_that_was_complete_is_not_asked_again(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows), fail_after=3)  # two batches free, one constrained
    with pytest.raises(KeyboardInterrupt):
        evaluate(recipe, model, tokenizer, rows, tmp_path, "both", ABOUT)
    rest = FakeModel(tokenizer, right_answer(rows))
    scores = evaluate(recipe, rest, tokenizer, rows, tmp_path, "both", ABOUT)
    assert [len(batch) for batch in rest.batches] == [3]
    assert scores["decodings"]["free"]["fields"]["intents"]["exact_match"]["value"] == 1.0
    assert scores["speed"]["seconds_per_row"] > 0


def test_a_finished_evaluation_leaves_nothing_to_resume(rows, recipe, tokenizer, tmp_path):
    ask_baselines(
        recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, rows, tmp_path, ["zero_shot"], identity="b"
    )
    for _ in range(2):  # what is asked again on purpose is asked whole
        model = FakeModel(tokenizer, right_answer(rows))
        evaluate(recipe, model, tokenizer, rows, tmp_path, None, ABOUT)
        assert sum(map(len, model.batches)) == len(rows)
        assert sorted(path.name for path in tmp_path.glob("*.json*")) == [
            "errors.json", "predictions.jsonl", "scores.json",
        ]  # fmt: skip


def test_predictions_changed_since_are_asked_again(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, identity="a")
    header = json.loads(path.with_name("predictions.jsonl.part.json").read_text())
    assert header["sha256"] is not None
    path.write_text(path.read_text(encoding="utf-8").replace("payment", "none"), encoding="utf-8")
    model = FakeModel(tokenizer, right_answer(rows))
    write_predictions(path, rows, recipe, model, tokenizer, identity="a")
    assert sum(map(len, model.batches)) == len(rows)


def test_a_model_is_told_from_another_by_weights_adapter_and_type(recipe):
    one = model_identity(recipe, ABOUT)
    assert one == model_identity(recipe, {**ABOUT, "adapter": {"file": "b", "sha256": "1"}})
    for about in ({**ABOUT, "base": "x"}, {**ABOUT, "adapter": None}, {**ABOUT, "backend": "torch"}):
        assert model_identity(recipe, about) != one
    assert model_identity(changed(recipe, "model", dtype="bfloat16"), ABOUT) != one
    assert model_identity(recipe, {}) is None
