"""Every row is asked once; replies are kept as they come, whole, and in the end in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.recording import record_predictions
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import Recipe
from tests.fakes import FakeModel, Told, record, right_answer


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_rows(Path(str(recipe.data.test)))


@pytest.fixture
def tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(Path(recipe.model.path))


def test_every_row_is_asked_once(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, lambda prompt: "payment")
    record(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer)
    lengths = sorted((len(prompt) for prompt in prompt_ids(rows, recipe, tokenizer)), reverse=True)
    assert model.asked == lengths


def test_the_file_is_in_row_order_and_reads_back_the_same(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "new" / "predictions.jsonl"
    recorded = record(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    assert [prediction.row for prediction in recorded.predictions] == list(range(len(rows)))
    assert read_predictions(path) == recorded.predictions
    assert list(path.parent.iterdir()) == [path]


def test_a_line_says_what_was_asked_expected_and_answered(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    record(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    line = json.loads(path.read_text(encoding="utf-8").splitlines()[2])
    n_tokens = line.pop("tokens")
    assert n_tokens == len(tokenizer.encode(["none"])[0].ids)
    assert line == {
        "row": 2,
        "file": recipe.data.test,
        "line": 3,
        "input": "你好",
        "expected": {"intents": ["none"]},
        "predicted": {"intents": ["none"]},
        "prediction": "none",
        "valid": True,
        "repeated": False,
        "loop": False,
        "problem": None,
        "stop": "stop",
        "decoding": "free",
    }


def test_a_reply_that_does_not_parse_has_null_values(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, lambda prompt: "I would say payment")
    recorded = record(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer)
    assert all(prediction.predicted == {"intents": None} for prediction in recorded.predictions)
    assert not any(prediction.valid for prediction in recorded.predictions)


def test_progress_is_told_after_each_reply(rows, recipe, tokenizer, tmp_path):
    told = Told()
    model = FakeModel(tokenizer, right_answer(rows))
    record(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer, progress=told)
    assert told.advanced == [1] * len(rows)


def test_an_interrupted_file_holds_whole_lines_and_leaves_the_finished_one_alone(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("finished earlier\n")
    model = FakeModel(tokenizer, right_answer(rows), fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        record(path, rows, recipe, model, tokenizer)
    assert path.read_text() == "finished earlier\n"
    assert len(read_predictions(tmp_path / "predictions.jsonl.part")) == 4


def test_a_line_half_written_when_interrupted_is_taken_back(rows, recipe, tokenizer, tmp_path, monkeypatch):
    def dumps_first_only(record: Any, **options: Any) -> str:
        text = json.JSONEncoder(**options).encode(record)
        if record["row"] != first:
            with (tmp_path / "predictions.jsonl.part").open("ab") as half:
                half.write(text[:20].encode())
            raise KeyboardInterrupt
        return text

    lengths = [len(prompt) for prompt in prompt_ids(rows, recipe, tokenizer)]
    first = lengths.index(max(lengths))
    monkeypatch.setattr("mlxtune.evaluation.predict.predictions.json.dumps", dumps_first_only)
    model = FakeModel(tokenizer, right_answer(rows))
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer)
    assert [prediction.row for prediction in read_predictions(tmp_path / "predictions.jsonl.part")] == [first]


def test_rows_with_unknown_labels_are_refused_before_anything_is_asked(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows))
    wrong = [*rows, Row({"text": "x", "intents": ["paymnt"]}, "test.jsonl", 99)]
    with pytest.raises(DataError, match=r"test\.jsonl:99.*did you mean 'payment'"):
        record(tmp_path / "predictions.jsonl", wrong, recipe, model, tokenizer)
    assert model.asked == []


def test_constrained_replies_are_marked_as_such(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows))
    recorded = record(tmp_path / "p.jsonl", rows, recipe, model, tokenizer, "constrained")
    assert {prediction.decoding for prediction in recorded.predictions} == {"constrained"}
    assert all(prediction.predicted == prediction.expected for prediction in recorded.predictions)


def thinks(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"thinking": True})})


@pytest.mark.parametrize("decoding", ["free", "constrained"])
def test_thinking_is_not_part_of_the_answer(rows, recipe, tokenizer, tmp_path, decoding):
    model = FakeModel(tokenizer, lambda prompt: "<think>\nhm\n</think>\n\npayment")
    predictor = Predictor(thinks(recipe), model, tokenizer, decoding)
    recorded = record_predictions(tmp_path / "p.jsonl", rows, predictor)
    assert {prediction.predicted["intents"] for prediction in recorded.predictions} == {("payment",)}
    assert {prediction.prediction for prediction in recorded.predictions} == {"<think>\nhm\n</think>\n\npayment"}
    assert predictor.samples(rows, 1, temperature=1.0) == [[{"intents": ("payment",)}] for _ in rows]
    assert predictor.predict_rows(rows[:1])[0].values == {"intents": ("payment",)}
