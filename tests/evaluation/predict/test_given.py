"""Replies of another program find their rows, or every mistake is told with its line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError
from mlxtune.evaluation.predict.given import read_replies
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import Recipe
from tests.conftest import write_rows
from tests.fakes import FakeModel, record, right_answer


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_rows(Path(str(recipe.data.test)))


@pytest.fixture
def tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(Path(recipe.model.path))


def test_replies_from_elsewhere_are_judged_in_row_order(rows, recipe, tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text("".join(json.dumps({"prediction": "none"}) + "\n" for _ in rows))
    assert [prediction.row for prediction in read_replies(file, rows, recipe)] == list(range(len(rows)))


def test_our_own_predictions_score_the_same_when_read_as_replies(rows, recipe, tokenizer, tmp_path):
    path = tmp_path / "predictions.jsonl"
    recorded = record(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
    again = read_replies(path, rows, recipe)
    assert [(p.row, p.predicted, p.valid) for p in again] == [
        (p.row, p.predicted, p.valid) for p in recorded.predictions
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
    record(path, rows, recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer)
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
        'line 4: no "id", which other lines have; give it in every line or in none',
    ):
        assert said in str(error.value)
    write_rows(file, [{"id": f"T{i}", "prediction": "none"} for i in range(6)])
    with pytest.raises(DataError, match=r"6 replies for 7 rows; row 6 \(id 'T6', .*test.jsonl:7\) has none"):
        read_replies(file, named, recipe)


def test_ids_need_a_column_of_them_that_tells_rows_apart(rows, recipe, tmp_path):
    file = write_rows(tmp_path / "replies.jsonl", [{"id": "a", "prediction": "none"} for _ in rows])
    with pytest.raises(DataError, match=r'(?s)give "row" instead.*test.jsonl:1: no column \'id\''):
        read_replies(file, rows, recipe)
    with pytest.raises(DataError, match=r"test.jsonl:2: id 'a' is also the id of line 1"):
        read_replies(file, with_ids(rows, ["a"] * len(rows)), recipe)


def test_where_a_line_says_its_row_its_id_is_not_looked_at(rows, recipe, tmp_path):
    lines = [{"row": i, "id": "request 9", "prediction": "none"} for i in reversed(range(len(rows)))]
    replies = read_replies(write_rows(tmp_path / "replies.jsonl", lines), rows, recipe)
    assert [reply.row for reply in replies] == list(range(len(rows)))


def test_a_row_without_a_reply_is_named(rows, recipe, tmp_path):
    file = tmp_path / "replies.jsonl"
    file.write_text('{"row": 0, "prediction": "none"}\n')
    with pytest.raises(DataError, match="1 replies for 7 rows; row 1 has none"):
        read_replies(file, rows, recipe)
