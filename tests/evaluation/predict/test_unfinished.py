"""Interrupted evaluations go on where they stopped, and only where the same was asked of the same model."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.rows import Row
from mlxtune.evaluation.measure import ask_baselines, model_hash
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.results import FileIdentity
from mlxtune.evaluation.subject import read_test_rows
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import Recipe
from tests.fakes import EVALUATED, FakeModel, Told, record, right_answer, scores_of


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_test_rows(recipe)


@pytest.fixture
def tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(Path(recipe.model.path))


def changed(recipe: Recipe, section: str, **keys: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})


def interrupt(path: Path, rows: list[Row], recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Leave the first four replies of the model 'a'."""
    model = FakeModel(tokenizer, right_answer(rows), fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        record(path, rows, recipe, model, tokenizer, model_hash="a")


def test_a_resumed_file_equals_an_uninterrupted_one(rows, recipe, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "mlxtune")
    told = Told()
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    record(whole, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, model_hash="a")
    interrupt(parts, rows, recipe, tokenizer)
    rest = FakeModel(tokenizer, right_answer(rows))
    recorded = record(parts, rows, recipe, rest, tokenizer, progress=told, model_hash="a")
    assert parts.read_bytes() == whole.read_bytes()
    assert len(rest.asked) == 3
    assert "4 of 7 rows are answered" in caplog.text and told.advanced == [4, 1, 1, 1]
    assert recorded.predictions == read_predictions(whole)
    assert not parts.with_name("parts.jsonl.part").exists()


def test_an_evaluation_can_be_interrupted_again_and_again(rows, recipe, tokenizer, tmp_path):
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    record(whole, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, model_hash="a")
    for _ in range(len(rows)):
        model = FakeModel(tokenizer, right_answer(rows), fail_after=1)
        with suppress(KeyboardInterrupt):  # all but the last are interrupted
            record(parts, rows, recipe, model, tokenizer, model_hash="a")
        assert len(model.asked) == 1
    silent = FakeModel(tokenizer, right_answer(rows), fail_after=0)
    record(parts, rows, recipe, silent, tokenizer, model_hash="a")
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("different", ["identity", "prompt", "rows", "expected", "limit", "batches", "shots", "nobody"])
def test_replies_to_anything_else_are_discarded(different, rows, recipe, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "mlxtune")
    path = tmp_path / "predictions.jsonl"
    interrupt(path, rows, recipe, tokenizer)
    options: dict[str, Any] = {"model_hash": "a"}
    if different == "identity":
        options["model_hash"] = "another adapter"
    elif different == "nobody":
        options["model_hash"] = None
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
    model = FakeModel(tokenizer, lambda prompt: "none")
    record(path, rows, recipe, model, tokenizer, **options)
    assert len(model.asked) == len(rows)
    assert "discarded" in caplog.text
    assert {one.prediction for one in read_predictions(path)} == {"none"}


def test_half_a_line_costs_its_row_and_nothing_else(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    model = FakeModel(tokenizer, right_answer(rows), fail_after=3)
    with pytest.raises(KeyboardInterrupt):
        record(path, rows, recipe, model, tokenizer, model_hash="a")
    part = path.with_name("predictions.jsonl.part")
    part.write_bytes(part.read_bytes()[:-20])  # as after a loss of power
    rest = FakeModel(tokenizer, right_answer(rows))
    record(path, rows, recipe, rest, tokenizer, model_hash="a")
    assert len(rest.asked) == len(rows) - 2
    assert [one.row for one in read_predictions(path)] == list(range(len(rows)))


def test_a_damaged_header_is_no_reason_to_fail(rows, recipe, tokenizer, tmp_path):
    for number, content in enumerate(("{", "[]", '{"identity": "a"}', "null")):
        path = tmp_path / str(number) / "predictions.jsonl"
        interrupt(path, rows, recipe, tokenizer)
        path.with_name("predictions.jsonl.part.json").write_text(content)
        model = FakeModel(tokenizer, right_answer(rows))
        record(path, rows, recipe, model, tokenizer, model_hash="a")
        assert len(model.asked) == len(rows)


def test_of_two_decodings_the_one_that_was_complete_is_not_asked_again(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows), fail_after=len(rows) + 4)  # all free, four constrained
    with pytest.raises(KeyboardInterrupt):
        scores_of(recipe, model, tokenizer, rows, tmp_path, "both", EVALUATED)
    rest = FakeModel(tokenizer, right_answer(rows))
    scores = scores_of(recipe, rest, tokenizer, rows, tmp_path, "both", EVALUATED)
    assert len(rest.asked) == 3
    assert scores["decodings"]["free"]["fields"]["intents"]["exact_match"]["value"] == 1.0
    assert scores["speed"]["seconds_per_row"] > 0


def test_a_finished_evaluation_leaves_nothing_to_resume(rows, recipe, tokenizer, tmp_path):
    before = FakeModel(tokenizer, right_answer(rows))
    ask_baselines(recipe, before, tokenizer, rows, tmp_path, ["zero_shot"], None, EVALUATED)
    for _ in range(2):  # what is asked again on purpose is asked whole
        model = FakeModel(tokenizer, right_answer(rows))
        scores_of(recipe, model, tokenizer, rows, tmp_path, None, EVALUATED)
        assert len(model.asked) == len(rows)
        assert sorted(path.name for path in tmp_path.glob("*.json*")) == [
            "errors.json", "predictions.jsonl", "scores.json",
        ]  # fmt: skip


def test_predictions_changed_since_are_asked_again(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    record(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, model_hash="a")
    header = json.loads(path.with_name("predictions.jsonl.part.json").read_text())
    assert header["sha256"] is not None
    path.write_text(path.read_text(encoding="utf-8").replace("payment", "none"), encoding="utf-8")
    model = FakeModel(tokenizer, right_answer(rows))
    record(path, rows, recipe, model, tokenizer, model_hash="a")
    assert len(model.asked) == len(rows)


def test_a_model_is_told_from_another_by_weights_adapter_and_type(recipe):
    one = model_hash(recipe, EVALUATED)
    assert one == model_hash(recipe, replace(EVALUATED, adapter=FileIdentity("b", "1")))
    for other in (replace(EVALUATED, base="x"), replace(EVALUATED, adapter=None), replace(EVALUATED, backend="torch")):
        assert model_hash(recipe, other) != one
    assert model_hash(changed(recipe, "model", dtype="bfloat16"), EVALUATED) != one
    assert model_hash(recipe, None) is None
