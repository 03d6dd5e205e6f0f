"""Predictions: every row is asked once in padding-friendly batches, judged strictly, and kept whole and in order."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row, read_rows
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError
from mlxtune.evaluation.predict.consistency import sample
from mlxtune.evaluation.predict.constraint import TemplateConstraint, constraint_of
from mlxtune.evaluation.predict.predictions import (
    MIN_LOOP_CHARS,
    batches,
    is_loop,
    judge,
    read_predictions,
    read_replies,
    right_fields,
    write_predictions,
)
from mlxtune.evaluation.predict.predictor import Asker
from mlxtune.evaluation.predict.thinking import may_think
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import OutputSection, Recipe
from tests.conftest import write_rows
from tests.fakes import FakeModel, right_answer


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_rows(Path(str(recipe.data.test)))


@pytest.fixture
def tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(Path(recipe.model.path))


def test_every_row_is_asked_once_longest_first(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, lambda prompt: "payment")
    write_predictions(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer)
    lengths = sorted((len(prompt) for prompt in prompt_ids(rows, recipe, tokenizer)), reverse=True)
    assert [len(batch) for batch in model.batches] == [4, 3]
    assert [length for batch in model.batches for length in batch] == lengths


def test_the_file_is_in_row_order_and_reads_back_the_same(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "new" / "predictions.jsonl"
    answers = write_predictions(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    assert [prediction.row for prediction in answers.predictions] == list(range(len(rows)))
    assert read_predictions(path) == answers.predictions
    assert list(path.parent.iterdir()) == [path]


def test_a_line_says_what_was_asked_expected_and_answered(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    record = json.loads(path.read_text(encoding="utf-8").splitlines()[2])
    n_tokens = record.pop("tokens")
    assert n_tokens == len(tokenizer.encode(["none"])[0].ids)
    assert record == {
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
    answers = write_predictions(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer)
    assert all(prediction.predicted == {"intents": None} for prediction in answers.predictions)
    assert not any(prediction.valid for prediction in answers.predictions)


def test_progress_is_told_after_each_batch(rows, recipe, tokenizer, tmp_path):
    told: list[int] = []
    model = FakeModel(tokenizer, right_answer(rows))
    write_predictions(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer, on_rows=told.append)
    assert told == [4, 3]


def test_an_interrupted_file_holds_whole_lines_and_leaves_the_finished_one_alone(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text("finished earlier\n")
    model = FakeModel(tokenizer, right_answer(rows), fail_after=1)
    with pytest.raises(KeyboardInterrupt):
        write_predictions(path, rows, recipe, model, tokenizer)
    assert path.read_text() == "finished earlier\n"
    assert len(read_predictions(tmp_path / "predictions.jsonl.part")) == 4


def test_a_line_half_written_when_interrupted_is_taken_back(rows, recipe, tokenizer, tmp_path, monkeypatch):
    def dumps_first_batch_only(record: Any, **options: Any) -> str:
        text = json.JSONEncoder(**options).encode(record)
        if record["row"] not in first_batch:
            with (tmp_path / "predictions.jsonl.part").open("ab") as half:
                half.write(text[:20].encode())
            raise KeyboardInterrupt
        return text

    first_batch = next(batches(prompt_ids(rows, recipe, tokenizer), recipe.evaluate.batch_size))
    monkeypatch.setattr("mlxtune.evaluation.predict.predictions.json.dumps", dumps_first_batch_only)
    model = FakeModel(tokenizer, right_answer(rows))
    with pytest.raises(KeyboardInterrupt):
        write_predictions(tmp_path / "predictions.jsonl", rows, recipe, model, tokenizer)
    assert [prediction.row for prediction in read_predictions(tmp_path / "predictions.jsonl.part")] == first_batch


def test_rows_with_unknown_labels_are_refused_before_anything_is_asked(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows))
    wrong = [*rows, Row({"text": "x", "intents": ["paymnt"]}, "test.jsonl", 99)]
    with pytest.raises(DataError, match=r"test\.jsonl:99.*did you mean 'payment'"):
        write_predictions(tmp_path / "predictions.jsonl", wrong, recipe, model, tokenizer)
    assert model.batches == []


def test_constrained_replies_are_marked_as_such(rows, recipe, tokenizer, tmp_path):
    constraint = TemplateConstraint(ReplyTemplate(recipe.output), tokenizer, 448)
    model = FakeModel(tokenizer, right_answer(rows))
    answers = write_predictions(tmp_path / "p.jsonl", rows, recipe, model, tokenizer, constraint)
    assert {prediction.decoding for prediction in answers.predictions} == {"constrained"}
    assert all(prediction.predicted == prediction.expected for prediction in answers.predictions)


# Judging one reply -----------------------------------------------------------------------------------------------

LABELS = {"kind": "labels", "labels": ["payment", "notification", "none"], "exclusive": "none"}


def template(**output: Any) -> ReplyTemplate:
    return ReplyTemplate(OutputSection.model_validate(output or {"template": "{a}", "fields": {"a": LABELS}}))


def test_a_label_said_again_counts_once_and_is_reported():
    verdict = judge(template(), "none, none, none", cut=False, constrained=False)
    assert (verdict.predicted, verdict.valid, verdict.repeated, verdict.loop) == ({"a": ("none",)}, True, True, False)


def test_a_loop_cut_by_the_limit_is_reported_even_where_it_does_not_parse():
    verdict = judge(template(), "hello hello hello hello hel", cut=True, constrained=False)
    assert (verdict.predicted, verdict.repeated, verdict.loop) == ({"a": None}, True, True)


def test_a_constrained_reply_that_was_cut_is_invalid():
    assert judge(template(), "payment", cut=True, constrained=False).valid
    verdict = judge(template(), "payment", cut=True, constrained=True)
    assert (verdict.predicted, verdict.valid) == ({"a": None}, False)
    assert verdict.problem == "cut at the length limit"


def test_labels_before_a_text_that_was_cut_still_count():
    ticket = template(template="Tags: {a}\nReply: {b}", fields={"a": LABELS, "b": {"kind": "text"}})
    verdict = judge(ticket, "Tags: payment\nReply: Dear cust", cut=True, constrained=True)
    assert (verdict.predicted, verdict.valid) == ({"a": ("payment",), "b": "Dear cust"}, False)


@pytest.mark.parametrize("text", ["none, none, none, no", "啊啊啊啊啊啊啊啊啊啊啊啊", "so. I am. I am. I am. I am."])
def test_a_loop_is_found(text):
    assert is_loop(text)


@pytest.mark.parametrize("text", ["", "none", "payment, notification", "wait...", "ha ha ha", "1000000"])
def test_an_ordinary_reply_is_no_loop(text):
    assert not is_loop(text)


def test_loops_are_those_of_a_search_over_every_length_of_a_passage():
    def searched(text: str) -> bool:
        for size in range(1, len(text) // 3 + 1):
            tail = text[-max(3 * size, MIN_LOOP_CHARS) :]
            if len(tail) >= MIN_LOOP_CHARS and tail[size:] == tail[:-size]:
                return True
        return False

    generator = random.Random(0)
    texts = ["".join(generator.choices("ab", k=4)) for _ in range(30)]
    texts = ["".join(generator.choices(texts, k=5)) + generator.choice(texts) * 3 + one[:2] for one in texts * 20]
    texts += ["".join(generator.choices("ab", k=generator.randrange(10, 40))) for _ in range(3000)]
    assert [is_loop(text) for text in texts] == [searched(text) for text in texts]
    assert 100 < sum(map(is_loop, texts)) < len(texts) / 2


def test_a_loop_is_looked_for_in_a_megabyte():
    began = time.perf_counter()
    assert not is_loop("".join(random.Random(0).choices("ab", k=1_000_000)))
    assert time.perf_counter() - began < 5, "about 0.4 s"


def thinks(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"thinking": True})})


@pytest.mark.parametrize("constrained", [False, True])
def test_thinking_is_not_part_of_the_answer(rows, recipe, tokenizer, tmp_path, constrained):
    model = FakeModel(tokenizer, lambda prompt: "<think>\nhm\n</think>\n\npayment")
    constraint = constraint_of(thinks(recipe), tokenizer, model) if constrained else None
    answers = write_predictions(tmp_path / "p.jsonl", rows, thinks(recipe), model, tokenizer, constraint)
    assert {prediction.predicted["intents"] for prediction in answers.predictions} == {("payment",)}
    assert {prediction.prediction for prediction in answers.predictions} == {"<think>\nhm\n</think>\n\npayment"}
    sampled = sample(rows, thinks(recipe), model, tokenizer, constraint, repeats=1, temperature=1.0)
    assert sampled == [[{"intents": ("payment",)}] for _ in rows]
    asked = Asker(thinks(recipe), model, tokenizer, "constrained" if constrained else "free").ask(rows[:1])
    assert asked[0].verdict.predicted == {"intents": ("payment",)}


@pytest.mark.parametrize(
    ("text", "predicted"),
    [
        ("payment", ("payment",)),
        ("hm</think>payment", ("payment",)),  # the prompt began the block
        ("<think>a</think>payment</think>", None),  # one block, not all up to the last
        ("<think>a</think><think>b</think>payment", None),
        ("<think>\npayment", None),
        ("<think> payment, payment, payment, payment", None),
    ],
)
def test_one_block_of_thinking_that_ends_is_left_out(text, predicted):
    verdict = judge(template(), text, cut=False, constrained=False, thinking=True)
    assert verdict.predicted == {"a": predicted} and verdict.valid == (predicted is not None)


def test_thinking_that_does_not_end_is_no_text():
    reply = template(template="{a}", fields={"a": {"kind": "text"}})
    verdict = judge(reply, "<think> Let me see. Let me see. Let me see.", cut=True, constrained=False, thinking=True)
    assert verdict.predicted == {"a": None} and verdict.loop
    assert verdict.problem == "does not follow the template: its thinking does not end"
    assert judge(reply, "<think> hm", cut=True, constrained=True, thinking=True).problem.startswith(
        "cut at the length limit"
    )


def test_a_template_that_writes_the_block_itself_is_followed_as_it_stands(recipe):
    output = {"template": "<think>\n{why}\n</think>\n\n{a}", "fields": {"why": {"kind": "text"}, "a": LABELS}}
    own = thinks(recipe).model_copy(update={"output": OutputSection.model_validate(output)})
    assert may_think(thinks(recipe)) and not may_think(own)
    verdict = judge(ReplyTemplate(own.output), "<think>\nA bill.\n</think>\n\npayment", False, True, may_think(own))
    assert verdict.predicted == {"why": "A bill.", "a": ("payment",)}


# Replies from elsewhere ------------------------------------------------------------------------------------------


def test_replies_from_elsewhere_are_judged_in_row_order(rows, recipe, tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text("".join(json.dumps({"prediction": "none"}) + "\n" for _ in rows))
    assert [prediction.row for prediction in read_replies(file, rows, recipe)] == list(range(len(rows)))


def test_our_own_predictions_score_the_same_when_read_as_replies(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    answers = write_predictions(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    again = read_replies(path, rows, recipe)
    assert [(p.row, p.predicted, p.valid) for p in again] == [
        (p.row, p.predicted, p.valid) for p in answers.predictions
    ]


def test_all_mistakes_of_a_file_of_replies_are_told_together(rows, recipe, tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text(
        '{"row": 0, "prediction": "none"}\n{"row": 0, "prediction": "none"}\n[1]\n{"row": 99, "prediction": "x"}\n{\n'
    )
    with pytest.raises(DataError) as error:
        read_replies(file, rows, recipe)
    for line in (2, 3, 4, 5):
        assert f"line {line}:" in str(error.value)


@pytest.mark.parametrize("damage", ['{"prediction": null}', "not JSON"])
def test_one_damaged_line_is_told_without_the_lines_after_it(rows, recipe, tmp_path, damage):
    lines = [json.dumps({"prediction": "none", "input": row.fields["text"]}) for row in rows]
    file = tmp_path / "replies.jsonl"
    file.write_text("\n".join([lines[0], damage, *lines[2:]]))
    with pytest.raises(DataError, match=r"1 problem\n  line 2: "):
        read_replies(file, rows, recipe)


def test_replies_to_other_rows_are_refused(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    other = [Row({**row.fields, "text": f"text {number}"}, row.file, row.line) for number, row in enumerate(rows)]
    with pytest.raises(DataError, match=r"line 1: expected a reply to row 0 .*replies to other rows"):
        read_replies(path, other, recipe)


def with_ids(rows: list[Row], names: Sequence[Any]) -> list[Row]:
    return [Row({**row.fields, "id": name}, row.file, row.line) for row, name in zip(rows, names, strict=True)]


def test_replies_find_their_rows_by_id_in_any_order(rows, recipe, tmp_path):
    named = with_ids(rows, [100 + i for i in range(len(rows))])  # a number in the data, text in the file
    answer = right_answer(rows)
    lines = [{"id": str(row.fields["id"]), "prediction": answer(f"\n{row.fields['text']}")} for row in reversed(named)]
    replies = read_replies(write_rows(tmp_path / "replies.jsonl", lines), named, recipe)
    assert [reply.row for reply in replies] == list(range(len(rows)))
    assert all(reply.predicted == reply.expected for reply in replies)


def test_ids_that_fit_no_row_or_several_are_named_with_their_line(rows, recipe, tmp_path):
    named = with_ids(rows, [f"T{i}" for i in range(len(rows))])
    lines = [{"id": "T0"}, {"id": "T0"}, {"id": "X99"}, {}, *({"id": f"T{i}"} for i in range(2, 7))]
    file = write_rows(tmp_path / "replies.jsonl", [{**line, "prediction": "none"} for line in lines])
    with pytest.raises(DataError) as error:
        read_replies(file, named, recipe)
    for said in (
        "line 2: id 'T0' is answered twice",
        "line 3: id 'X99' is none of the 7 test rows'",
        'line 4: no "id", which other lines have',
    ):
        assert said in str(error.value)
    write_rows(file, [{"id": f"T{i}", "prediction": "none"} for i in range(6)])
    with pytest.raises(DataError, match=r"6 replies for 7 rows; row 6 \(id 'T6', .*test.jsonl:7\) has none"):
        read_replies(file, named, recipe)


def test_ids_need_a_column_of_them_that_tells_rows_apart(rows, recipe, tmp_path):
    file = write_rows(tmp_path / "replies.jsonl", [{"id": "a", "prediction": "none"} for _ in rows])
    with pytest.raises(DataError, match=r'(?s)give "row" instead.*test.jsonl:1: no column \'id\''):
        read_replies(file, rows, recipe)
    with pytest.raises(DataError, match=r"test.jsonl:2: id 'a' is that of line 1 too"):
        read_replies(file, with_ids(rows, ["a"] * len(rows)), recipe)


def test_where_a_line_says_its_row_its_id_is_not_looked_at(rows, recipe, tmp_path):
    lines = [{"row": i, "id": "request 9", "prediction": "none"} for i in reversed(range(len(rows)))]
    replies = read_replies(write_rows(tmp_path / "replies.jsonl", lines), rows, recipe)
    assert [reply.row for reply in replies] == list(range(len(rows)))


def test_a_set_is_right_in_any_order_and_a_text_is_neither_right_nor_wrong(rows, recipe, tmp_path):
    reply = read_replies(write_rows(tmp_path / "replies.jsonl", [{"prediction": "none"} for _ in rows]), rows, recipe)[
        0
    ]
    turned = replace(reply, expected={"intents": ("payment", "none")}, predicted={"intents": ("none", "payment")})
    assert right_fields(turned, recipe) == {"intents": True}
    assert right_fields(replace(turned, predicted={"intents": None}), recipe) == {"intents": False}
    text = recipe.model_copy(
        update={
            "output": OutputSection.model_validate({"template": "{intents}", "fields": {"intents": {"kind": "text"}}})
        }
    )
    assert right_fields(turned, text) == {}


def test_a_row_without_a_reply_is_named(rows, recipe, tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text('{"row": 0, "prediction": "none"}\n')
    with pytest.raises(DataError, match="1 replies for 7 rows; row 1 has none"):
        read_replies(file, rows, recipe)
