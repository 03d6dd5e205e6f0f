"""What users have: each format becomes the conversation that it is, and what is none is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.formats import find_format
from mlxtune.data.reading import format_of, read_recipe_rows
from mlxtune.data.rows import Row
from mlxtune.errors import DataError, RecipeError
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe

CHAT = [
    {"role": "user", "content": "Where is my parcel?"},
    {"role": "assistant", "content": "What is its number?"},
    {"role": "user", "content": "It is 12."},
    {"role": "assistant", "content": "It comes today."},
]
ASKED = (("user", "Where is my parcel?"),)


def recipe_of(folder: Path, **sections: Any) -> Recipe:
    file = folder / "recipe.yaml"
    content = {"name": "any", "model": {"path": "./base"}, "data": {"train": "train.jsonl"}}
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}  # type: ignore[dict-item]
    file.write_text(json.dumps(content), encoding="utf-8")
    return load_recipe(file)


def rows_of(folder: Path, *records: Any, name: str = "train.jsonl", **sections: Any) -> list[Row]:
    file = folder / name
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return read_recipe_rows(file, recipe_of(folder, **sections))


def said(row: Row) -> tuple[tuple[str, str], ...]:
    assert row.conversation is not None
    return tuple((one["role"], one["content"]) for one in row.conversation.messages)


def refusal(folder: Path, *records: Any, **sections: Any) -> str:
    with pytest.raises(DataError) as error:
        rows_of(folder, *records, **sections)
    return str(error.value)


@pytest.mark.parametrize(
    ("record", "name", "asked", "reply"),
    [
        ({"messages": CHAT[:2]}, "messages", ASKED, "What is its number?"),
        ({"conversations": CHAT[:2]}, "messages", ASKED, "What is its number?"),
        ({"messages": json.dumps(CHAT[:2])}, "messages", ASKED, "What is its number?"),
        ({"prompt": "Where is my parcel?", "completion": "Here."}, "completions", ASKED, "Here."),
        ({"prompt": CHAT[:1], "completion": CHAT[1:2]}, "completions", ASKED, "What is its number?"),
        ({"prompt": CHAT[:3], "completion": "Today."}, "completions", None, "Today."),
        ({"instruction": "Where is my parcel?", "output": "Here."}, "alpaca", ASKED, "Here."),
        ({"instruction": "Where is my parcel?", "input": "", "output": "Here."}, "alpaca", ASKED, "Here."),
        ({"instruction": "Translate.", "input": "Hallo", "output": "Hello"}, "alpaca", (("user", "Translate.\nHallo"),), "Hello"),
        ({"instruction": "B?", "output": "b", "system": "Be brief.", "history": [["A?", "a"]]}, "alpaca",
         (("system", "Be brief."), ("user", "A?"), ("assistant", "a"), ("user", "B?")), "b"),
        ({"conversations": [{"from": "human", "value": "Where is my parcel?"}, {"from": "gpt", "value": "Here."}]}, "sharegpt",
         ASKED, "Here."),
        ({"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "a"}], "system": "Be brief."}, "sharegpt",
         (("system", "Be brief."), ("user", "A?")), "a"),
    ],
)  # fmt: skip
def test_a_record_tells_its_format_and_becomes_a_conversation(
    tmp_path: Path, record: dict[str, Any], name: str, asked: Any, reply: str
) -> None:
    (row,) = rows_of(tmp_path, record)
    assert format_of([row]).name == name
    assert said(row) == (asked or tuple((one["role"], one["content"]) for one in CHAT[:3]))
    assert row.fields["answer"] == reply
    (told,) = rows_of(tmp_path, record, data={"format": name})
    assert (said(told), told.fields) == (said(row), row.fields)


def test_the_recipes_own_columns_come_before_any_format(tmp_path: Path) -> None:
    output = {"template": "{completion}", "fields": {"completion": {"kind": "text"}}}
    (row,) = rows_of(
        tmp_path,
        {"prompt": "A?", "completion": "a"},
        prompt={"user": "{prompt}"},
        data={"text": "prompt"},
        output=output,
    )
    assert row.conversation is None
    assert format_of([row]).name == "rows"


def test_columns_of_other_names_are_renamed(tmp_path: Path) -> None:
    record = {"question": "A?", "answer": "a", "id": 7}
    (row,) = rows_of(tmp_path, record, data={"columns": {"prompt": "question", "completion": "answer"}})
    assert said(row) == (("user", "A?"),)
    assert row.fields == {"id": "7", "text": "A?", "answer": "a"}


def test_a_conversation_ends_at_the_last_turn_of_the_assistant(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"messages": [*CHAT, {"role": "user", "content": "Thanks!"}]})
    assert said(row)[-1] == ("user", "It is 12.")
    assert row.fields == {"text": "It is 12.", "answer": "It comes today."}


def test_an_output_reads_the_last_turn(tmp_path: Path) -> None:
    output = {
        "template": "Intents: {intents}\nAnswer: {answer}",
        "fields": {"intents": {"kind": "labels", "labels": ["pay", "order"]}, "answer": {"kind": "text"}},
    }
    record = {"messages": [CHAT[0], {"role": "assistant", "content": "Intents: order, pay\nAnswer: Here."}]}
    (row,) = rows_of(tmp_path, record, output=output)
    assert row.fields == {"text": "Where is my parcel?", "intents": ["pay", "order"], "answer": "Here."}
    assert "train.jsonl:1: its last turn is no reply of output.template: intents: 'ship' is not allowed" in refusal(
        tmp_path,
        {"messages": [CHAT[0], {"role": "assistant", "content": "Intents: ship\nAnswer: Here."}]},
        output=output,
    )


def test_calls_of_tools_are_passed_on_with_arguments_as_objects(tmp_path: Path) -> None:
    tool = {"name": "track", "parameters": {"type": "object", "properties": {"number": {"type": "string"}}}}
    openai = {"id": "1", "type": "function", "function": {"name": "track", "arguments": '{"number": "12"}'}}
    turns = [
        CHAT[0],
        {"role": "assistant", "content": None, "tool_calls": [openai]},
        {"role": "tool", "content": "today", "tool_call_id": "1"},
        {"role": "assistant", "content": "It comes today."},
    ]
    (row,) = rows_of(tmp_path, {"messages": turns, "tools": json.dumps([tool])})
    assert row.conversation is not None
    assert row.conversation.messages[1]["tool_calls"][0]["function"]["arguments"] == {"number": "12"}
    assert row.conversation.tools == ({"type": "function", "function": tool},)
    shared = [
        {"from": "human", "value": "Where is my parcel?"},
        {"from": "function_call", "value": '{"name": "track", "arguments": {"number": "12"}}'},
        {"from": "observation", "value": "today"},
        {"from": "gpt", "value": "It comes today."},
    ]
    (other,) = rows_of(tmp_path, {"conversations": shared, "tools": json.dumps([tool])})
    assert other.conversation is not None
    assert said(other) == said(row)
    assert other.conversation.compared == row.conversation.compared
    (ending,) = rows_of(tmp_path, {"messages": turns[:2]})
    assert ending.fields["answer"] == '<tool_call>\n{"name": "track", "arguments": {"number": "12"}}\n</tool_call>'


def test_parts_that_are_all_text_are_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "my parcel?"}]
    (row,) = rows_of(tmp_path, {"messages": [{"role": "user", "content": parts}, CHAT[1]]})
    assert said(row) == ASKED


@pytest.mark.parametrize(
    ("messages", "part"),
    [
        ([], "expected messages, got an empty list"),
        (CHAT[:1], "expected a turn of the assistant, got none"),
        ([{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, *CHAT],
         "message 2: expected one system message, the first, got a second one"),
        ([CHAT[0], {"role": "system", "content": "b"}, CHAT[1]], "message 2: expected one system message, the first, got one here"),
        ([CHAT[0], CHAT[2], CHAT[1]], "message 2: expected assistant after user, got user"),
        ([CHAT[1], *CHAT], "message 1: expected system or user first, got assistant"),
        ([CHAT[0], CHAT[1], CHAT[3]], "message 3: expected user or tool after assistant, got assistant"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, CHAT[1]],
         "message 1: expected text as its content, got a part of type 'image_url'; only text is trained on"),
        ([{"role": "user", "content": 5}, CHAT[1]], "message 1: expected text as its content, got 5"),
        ([{"role": "user", "content": None}, CHAT[1]], "message 1: expected text as its content, got none"),
        ([{"role": "boss", "content": "a"}, CHAT[1]], "message 1: expected the role system, user, assistant, tool, got 'boss'"),
        (["hello"], "message 1: expected an object with role and content, got 'hello'"),
        ([CHAT[0], {**CHAT[1], "weight": 0}], "the last turn of the assistant has weight 0"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_named_with_its_line(tmp_path: Path, messages: list[Any], part: str) -> None:
    message = refusal(tmp_path, {"messages": CHAT}, {"messages": messages})
    assert f"train.jsonl:2: {part}" in message
    assert "1 problem" in message


def test_records_of_another_format_in_the_same_file_are_named(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"messages": CHAT}, {"prompt": "A?", "completion": "a"}, {"messages": CHAT})
    assert (
        "train.jsonl:2: expected the column 'messages', since the file's format is messages "
        "(a column 'messages' of turns with role and content); got 'prompt', 'completion'" in message
    )


def test_a_file_of_no_known_format_is_told_what_there_is(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"body": "a"})
    assert message.startswith(f"{tmp_path / 'train.jsonl'}:1: no format that is known: expected 'messages'")
    assert "got 'body'" in message


def test_labels_beside_a_text_are_no_document(tmp_path: Path) -> None:
    """Who forgot `output` would train on the texts alone."""
    message = refusal(tmp_path, {"text": "pay the bill", "intents": ["payment"]})
    assert "got 'text', 'intents'" in message
    assert (
        "say in `output` what a row's reply is made of; documents with further columns need data.format: text"
        in message
    )
    (row,) = rows_of(tmp_path, {"text": "pay the bill", "intents": ["payment"]}, data={"format": "text"})
    assert row.is_document


def test_a_document_is_what_has_text_alone_and_no_output(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, {"text": "Once upon a time.", "url": "x"})
    assert row.is_document and row.fields == {"url": "x", "text": "Once upon a time."}
    output = {"template": "{intent}", "fields": {"intent": {"kind": "text"}}}
    (other,) = rows_of(tmp_path, {"text": "Once upon a time."}, output=output)
    assert not other.is_document  # its intent is missing, which is said where it is read


@pytest.mark.parametrize(
    ("format", "sections", "key"),
    [
        ("messages", {"prompt": {"user": "Q: {text}"}}, "prompt.user"),
        ("alpaca", {"data": {"text": "body"}}, "data.text"),
        ("text", {"prompt": {"system": "Be brief."}}, "prompt.system"),
        ("text", {"train": {"supervise": "all"}}, "train.supervise"),
        ("text", {"evaluate": {"baselines": ["few_shot"]}}, "evaluate.baselines"),
        ("messages", {"data": {"columns": {"chat": "x"}}}, "data.columns.chat"),
    ],
)
def test_a_key_that_means_nothing_for_a_format_is_refused(
    tmp_path: Path, format: str, sections: dict[str, Any], key: str
) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_of(tmp_path, **{**sections, "data": {"format": format, **sections.get("data", {})}})


def test_the_same_key_is_refused_once_the_format_is_found(tmp_path: Path) -> None:
    message = refusal(tmp_path, {"messages": CHAT}, prompt={"user": "Q: {text}"})
    assert "data.format: auto finds messages (a column 'messages' of turns with role and content)" in message
    assert "prompt.user: it means nothing where data.format is messages" in message


def test_rows_need_an_output_and_have_one_reply(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="output: missing; rows have columns"):
        recipe_of(tmp_path, data={"format": "rows"})
    output = {"template": "{intent}", "fields": {"intent": {"kind": "text"}}}
    with pytest.raises(RecipeError, match=r"train\.supervise: rows have one reply each"):
        recipe_of(tmp_path, data={"format": "rows"}, output=output, train={"supervise": "all"})


def test_an_array_is_read_with_the_line_of_each_object(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    records = [{"instruction": "A?", "input": "", "output": "a"}, {"instruction": "B?\nC?", "input": "", "output": "b"}]
    file.write_text(json.dumps(records, indent=1), encoding="utf-8")
    rows = read_recipe_rows(file, recipe_of(tmp_path))
    assert [(row.line, row.fields["answer"]) for row in rows] == [(2, "a"), (7, "b")]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert [row.line for row in read_recipe_rows(file, recipe_of(tmp_path))] == [1, 2]  # lines, whatever it is called


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[{"text": "a"},\n {"text": ]', "train.json:2: expected an array of objects, got invalid JSON at column 11"),
        ('[{"text": "a"}\n {"text": "b"}]', "train.json:2: expected , or ] after an object"),
        ('[{"text": "a"},\n 5]', "train.json:2: expected an object, got a number"),
        ('[{"text": "a"}]\n[]', "train.json:1: expected nothing after the array"),
    ],
)
def test_a_broken_array_says_where(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_recipe_rows(file, recipe_of(tmp_path))
    assert part in str(error.value)


def test_nested_columns_of_parquet_are_read_without_their_nulls(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    turns = [{**one, "name": None} for one in CHAT]
    parquet.write_table(pyarrow.table({"messages": [turns]}), tmp_path / "train.parquet")
    (row,) = read_recipe_rows(tmp_path / "train.parquet", recipe_of(tmp_path))
    assert row.conversation is not None
    assert row.conversation.messages == tuple(CHAT[:3])


def test_the_reason_of_a_format_is_a_clause(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    assert (
        str(find_format({"prompt": "a", "completion": "b"}, recipe))
        == "completions (columns 'prompt' and 'completion')"
    )
