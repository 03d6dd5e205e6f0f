"""Reading rows: what arrives, and what is said when a file is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mlxtune.data.rows import read_rows
from mlxtune.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def message_of(path: Path, **columns: str) -> str:
    with pytest.raises(DataError) as raised:
        read_rows(path, columns)
    return str(raised.value)


def test_json_lines_keep_text_lists_and_their_line(tmp_path: Path) -> None:
    path = written(
        tmp_path, "a.jsonl", '{"text": "退款", "intents": ["payment"]}\n\n{"text": "hi\\u2028", "intents": []}\n'
    )
    first, second = read_rows(path)
    assert (first.fields, first.file, first.line) == ({"text": "退款", "intents": ["payment"]}, str(path), 1)
    assert (second.fields["text"], second.line) == ("hi\u2028", 3)


def test_numbers_and_booleans_become_their_json_text_and_null_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, "a.ndjson", '{"a": 1, "b": true, "c": null, "d": [2, "x"], "e": {"f": 1}}')
    assert read_rows(path)[0].fields == {"a": "1", "b": "true", "c": "", "d": ["2", "x"], "e": {"f": 1}}


def test_csv_agrees_with_the_standard_reader_and_counts_physical_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cells = [["text", "label"], ['two\nlines, "quoted"', "x"], ["中文", "y"], ["last", ""]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(cells)
    rows = read_rows(path)
    assert [list(row.fields.values()) for row in rows] == cells[1:]
    assert [row.line for row in rows] == [2, 4, 5]


def test_columns_are_renamed_even_when_two_swap_names(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "t", "body": "b", "id": "7"}')
    assert read_rows(path, {"text": "body"})[0].fields == {"text": "b", "id": "7"}
    assert read_rows(path, {"text": "body", "body": "text"})[0].fields == {"text": "b", "body": "t", "id": "7"}


def test_a_missing_column_names_the_columns_there_are(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "title,label\nx,y\n")
    assert "a.csv:2: expected the column 'body', got 'title', 'label'" in message_of(path, text="body")


def test_every_malformed_line_is_reported_at_once(tmp_path: Path) -> None:
    good = json.dumps({"text": "fine"}).encode()
    bad = [b'{"text": ', b"[1, 2]", b'{"text": "\xff"}', b'{"a": NaN}', b'{"a": "1", "a": "2"}', b'{"a": "\\ud800"}']
    path = written(tmp_path, "a.jsonl", b"\n".join([good, *bad, good, b"null"]))
    message = message_of(path)
    assert message.splitlines()[0] == f"{path}: 7 problems"
    for line, part in [
        (2, "invalid JSON at column"),
        (3, "got a list"),
        (4, "got byte 0xff at column 11"),
        (5, "got NaN"),
        (6, "got 'a' twice"),
        (7, "surrogate"),
        (9, "got null"),
    ]:
        assert any(f"a.jsonl:{line}: " in found and part in found for found in message.splitlines()), (line, message)


def test_csv_rows_of_the_wrong_width_and_broken_bytes_are_all_reported(tmp_path: Path) -> None:
    message = message_of(written(tmp_path, "a.csv", b"text,label\na,b,c\nok,x\nonly\n\xe9t\xe9,y\n"))
    assert "a.csv: 3 problems" in message
    assert "a.csv:2: expected 2 cells (text, label), got 3" in message
    assert "a.csv:4: expected 2 cells (text, label), got 1" in message
    assert "a.csv:5: expected UTF-8, got byte 0xe9" in message


def test_an_open_quote_names_the_line_where_the_record_starts(tmp_path: Path) -> None:
    assert "a.csv:3: expected a CSV record" in message_of(written(tmp_path, "a.csv", 'text,label\na,b\n"open,c\nd,e\n'))


@pytest.mark.parametrize(
    ("header", "part"), [("text,", "got none for column 2"), ("text,text", "got 'text' twice"), ("text,x\n", "one row")]
)
def test_a_header_must_name_each_column_once_and_be_followed_by_rows(tmp_path: Path, header: str, part: str) -> None:
    assert part in message_of(written(tmp_path, "a.csv", header + ("\n1,2" if header[-1] != "\n" else "")))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", b"", "got an empty file"),
        ("blank.jsonl", b"\n  \n", "expected at least one row"),
        ("a.json", b"[]", "expected at least one row"),
        ("a.csv.gz", b"x", "unpack it first"),
        ("a", b"x", "got none"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "got UTF-16"),
    ],
)
def test_files_that_cannot_be_rows_get_one_clear_message(
    tmp_path: Path, name: str, content: bytes | None, part: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    message = message_of(path)
    assert part in message
    assert str(path) in message
    assert "\n" not in message


def test_a_folder_suggests_its_files(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", "{}")
    assert "got a folder; name one of its files: train.jsonl" in message_of(tmp_path)
