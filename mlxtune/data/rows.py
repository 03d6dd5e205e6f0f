"""Rows of a .jsonl, .json, .csv or .parquet file, here or on the Hub, with the place of each: no cleaning, no labels, no tokens.

Reading goes line by line and never stops at the first mistake: every malformed line is collected, so that one
run names all that is wrong with a file.

    rows = read_rows(Path("train.csv"), {"text": "body"})
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from mlxtune.data.conversation import Conversation
from mlxtune.data.hub_rows import hub_files
from mlxtune.data.suffixes import JSON, JSON_LINES, PARQUET, SUFFIXES
from mlxtune.errors import DataError, Problem
from mlxtune.recipe.sections import is_on_hub

SYNTHETIC = "synthetic"
REWRITTEN = " (rewritten)"
_SPACE = re.compile(r"[ \t\r\n]*")
_AS_NAMED: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Row:
    """One row and where it was read.

    Args:
        fields: Column -> str or list[str]. Numbers and booleans arrive as their JSON text and null as "", since a
            label may be written 1 or true. Anything nested stays as parsed, for whoever uses that column to judge.
        file: The file, as it was named; of a rewritten row that of the row it was made of, and REWRITTEN.
        line: The physical line on which the record starts, counted from 1; of a .parquet file the record's number.
        synthetic: No person wrote it: it was rewritten from another row (`augment.py`), or its file says so, with true in
            the column SYNTHETIC.
        conversation: What the model is asked, where the file brings conversations, or documents; None where the recipe's
            prompt is filled from `fields`, which then hold what is asked and what is replied alike.
    """

    fields: Mapping[str, Any]
    file: str
    line: int
    synthetic: bool = False
    conversation: Conversation | None = None

    @property
    def is_document(self) -> bool:
        """Whether its text itself is trained on, with no reply."""
        return self.conversation is not None and self.conversation.is_document

    @property
    def task(self) -> object:
        """What rows must share, beside their text, to ask for the same: the same for all rows of columns."""
        return None if self.conversation is None else self.conversation.task

    def compared(self, column: str) -> Any:
        """The text by which rows are the same, or nearly so: that of a column, or all turns of a conversation."""
        if self.conversation is None or self.conversation.is_document:
            return self.fields.get(column)
        return self.conversation.compared


def read_rows(path: Path, columns: Mapping[str, str] = _AS_NAMED) -> list[Row]:
    """Every row of a file, in order; blank lines are skipped.

    Args:
        path: A .jsonl or .ndjson file (one object a line), a .json file (an array of objects, or one a line), a .csv file
            with a header line, in UTF-8, or a .parquet file; or rows on the Hub, as `hub_rows` names them.
        columns: Our name -> the file's own name, for columns called something else there.

    Raises:
        DataError: The file is missing, empty or of another kind, or any line of it is malformed: all are listed. On the
            Hub, also what `hub_rows.hub_files` raises.
    """
    if not is_on_hub(str(path)):
        return _read_file(Path(path), columns)
    return [replace(row, file=one.name) for one in hub_files(str(path)) for row in _read_file(one.path, columns)]


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the files of rows on the Hub, one after another.

    Raises:
        DataError: What `hub_rows.hub_files` raises.
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    for one in [file.path for file in hub_files(str(path))] if is_on_hub(str(path)) else [Path(path)]:
        digest.update(one.read_bytes())
    return digest.hexdigest()


def _read_file(path: Path, columns: Mapping[str, str]) -> list[Row]:
    _check_file(path)
    problems: list[Problem] = []
    suffix = path.suffix.lower()
    if suffix == JSON:
        records = _array_records if _is_array(path) else _json_records
    else:
        records = _json_records if suffix in JSON_LINES else _parquet_records if suffix == PARQUET else _csv_records
    rows = []
    for line, record in records(path, problems):
        fields = _renamed(record, columns)
        if isinstance(fields, str):
            problems.append(_problem(path, line, fields))
        else:
            rows.append(Row(fields, str(path), line, str(fields.get(SYNTHETIC)).lower() == "true"))
    if problems:
        raise DataError(str(path), problems)
    if not rows:
        raise DataError(f"{path}: expected at least one row, got none; is this the right file?")
    return rows


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
        hint = f"name one of its files: {', '.join(inside[:5])}" if inside else "name a file"
        raise DataError(f"{path}: expected a file, got a folder; {hint}")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path (paths in a recipe are relative to the recipe)")
    if path.suffix.lower() not in SUFFIXES:
        got = f"'{path.suffix}'" if path.suffix else "none"
        raise DataError(f"{path}: expected a suffix of {', '.join(SUFFIXES)}, got {got}; {_conversion(path)}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check its permissions") from error
    if not start:
        raise DataError(f"{path}: expected at least one row, got an empty file; was it written to the end?")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path}: expected UTF-8, got UTF-16; save it again as UTF-8")


def _conversion(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in (".gz", ".zip", ".bz2", ".xz", ".zst"):
        return "unpack it first"
    if suffix in (".xlsx", ".xls", ".tsv"):
        return "export it as .csv in UTF-8"
    return "rename or convert it"


def _problem(path: Path, line: int, message: str) -> Problem:
    return Problem(f"{path.name}:{line}", message)


def _lines(path: Path, problems: list[Problem]) -> Iterator[tuple[str, bool]]:
    """Each line as text, and whether it was UTF-8; lines that were not are added to `problems`."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8"), True
            except UnicodeDecodeError as error:
                byte = line[error.start]
                message = f"expected UTF-8, got byte 0x{byte:02x} at column {error.start + 1}; save the file as UTF-8"
                problems.append(_problem(path, number, message))
                yield line.decode("utf-8", errors="replace"), False


def _json_records(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, (line, decoded) in enumerate(_lines(path, problems), start=1):
        if not decoded or not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_object, parse_constant=_not_json)
            line.encode() if "\\u" not in line else json.dumps(record, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            message = f"expected one JSON object, got invalid JSON at column {error.colno}: {error.msg}: {_short(line)}"
            problems.append(_problem(path, number, message))
        except UnicodeEncodeError:
            problems.append(_problem(path, number, r"expected text, got half a surrogate pair (\ud800 to \udfff)"))
        except RecursionError:
            problems.append(_problem(path, number, "expected a flat object, got one nested too deeply to read"))
        except ValueError as error:
            problems.append(_problem(path, number, str(error)))
        else:
            if isinstance(record, dict):
                yield number, {column: _value(value) for column, value in record.items()}
            else:
                message = f'expected an object such as {{"text": ...}}, got {_kind(record)}: {_short(line)}'
                problems.append(_problem(path, number, message))


def _is_array(path: Path) -> bool:
    """Whether a .json file holds an array; many that are called so hold an object a line."""
    with path.open("rb") as file:
        return file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _array_records(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of an array, each with the line on which it begins."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        problems.append(_problem(path, line, f"expected UTF-8, got byte 0x{byte:02x}; save the file as UTF-8"))
        return
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_not_json)
    at, line = text.index("[") + 1, 1
    counted = 0
    while True:
        at = _past_space(text, at)
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            if text[at + 1 :].strip():
                problems.append(_problem(path, line, f"expected nothing after the array, got {_short(text[at + 1 :])}"))
            return
        try:
            record, at = decoder.raw_decode(text, at)
            json.dumps(record, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            # What follows cannot be told apart.
            wrong = line + text.count("\n", counted, error.pos)
            message = f"expected an array of objects, got invalid JSON at column {error.colno}: {error.msg}"
            problems.append(_problem(path, wrong, message))
            return
        except UnicodeEncodeError:
            problems.append(_problem(path, line, r"expected text, got half a surrogate pair (\ud800 to \udfff)"))
            return
        except RecursionError:
            problems.append(_problem(path, line, "expected a flat object, got one nested too deeply to read"))
            return
        except ValueError as error:
            problems.append(_problem(path, line, str(error)))
            return
        if isinstance(record, dict):
            yield line, {column: _value(value) for column, value in record.items()}
        else:
            problems.append(_problem(path, line, f"expected an object, got {_kind(record)}"))
        at = _past_space(text, at)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != "]":
            wrong = line + text.count("\n", counted, at)
            problems.append(_problem(path, wrong, f"expected , or ] after an object, got {_short(text[at : at + 60])}"))
            return


def _past_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _csv_records(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    broken: set[int] = set()  # physical lines that were not UTF-8, already among the problems

    def text_lines() -> Iterator[str]:
        for number, (line, decoded) in enumerate(_lines(path, problems), start=1):
            if not decoded:
                broken.add(number)
            yield line

    reader = csv.reader(text_lines(), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # The reader may have swallowed many lines (a quote left open), so what follows cannot be trusted.
            problems.append(_problem(path, start, f"expected a CSV record, got: {error}; is a quote left open?"))
            return
        if not any(cell.strip() for cell in cells) and len(cells) < 2:
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            message = _header_problem(header)
            if message:
                problems.append(_problem(path, start, message))
                return
        elif broken.intersection(range(start, reader.line_num + 1)):
            continue
        elif len(cells) != len(header):
            message = (
                f"expected {len(header)} cells ({', '.join(header)}), got {len(cells)}; quote cells that hold a comma"
            )
            problems.append(_problem(path, start, message))
        else:
            yield start, dict(zip(header, cells, strict=True))


def _parquet_records(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; "
            "pip install 'mlxtune[parquet]', or export the rows as .jsonl"
        ) from error
    number = 0
    try:
        with ParquetFile(path) as file:
            message = _header_problem(list(file.schema_arrow.names))
            if message:
                problems.append(Problem(path.name, message))
                return
            names = _class_names(file.schema_arrow.metadata)
            for batch in file.iter_batches():
                for record in _parquet_batch(batch):
                    number += 1
                    if record is None:
                        problems.append(
                            _problem(path, number, "expected UTF-8, got other bytes; write the file again as UTF-8")
                        )
                    else:
                        yield (
                            number,
                            {
                                column: _parquet_value(_named(value, names.get(column, ())))
                                for column, value in record.items()
                            },
                        )
    except (ArrowException, OSError) as error:
        at = f" after row {number}" if number else ""
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a whole Parquet file{at}: {what}; write it again") from error


def _parquet_batch(batch: Any) -> list[dict[str, Any] | None]:
    """Records of a batch; None for one whose text is no UTF-8."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        records: list[dict[str, Any] | None] = []
        for index in range(batch.num_rows):
            try:
                records += batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError:
                records.append(None)
        return records


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> names of its numbered classes, which the `datasets` library writes beside the table."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        inner = {column: kind.get("feature", kind) for column, kind in features.items() if isinstance(kind, dict)}
        return {
            column: list(map(str, kind["names"]))
            for column, kind in inner.items()
            if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _named(value: Any, names: Sequence[str]) -> Any:
    """The class that a number stands for; -1 stands for none."""
    if names and isinstance(value, list):
        return [_named(item, names) for item in value]
    if names and isinstance(value, int) and -1 <= value < len(names):
        return "" if value < 0 else names[value]
    return value


def _parquet_value(value: Any) -> Any:
    """As from JSON; what JSON does not have (dates, decimals) as its text, and not-a-number as missing."""
    if isinstance(value, float) and value != value:
        return ""
    if isinstance(value, list):
        return [_parquet_value(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return _value(value)
    if isinstance(value, dict):
        return _without_nulls(value)
    return value if isinstance(value, (str, bytes)) else str(value)


def _without_nulls(value: Any) -> Any:
    """Nested values without the keys that a table has to have in every row, since some row has them."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def _header_problem(header: list[str]) -> str | None:
    if "" in header:
        return f"expected a name for every column, got none for column {header.index('') + 1}"
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        return f"expected each column once, got {', '.join(map(repr, twice))} twice; rename one"
    return None


def _renamed(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | str:
    """The record under our names, or what is wrong with it."""
    missing = sorted({theirs for theirs in columns.values() if theirs not in record})
    if missing:
        return f"expected the column {', '.join(map(repr, missing))}, got {', '.join(map(repr, record)) or 'none'}"
    used = set(columns.values())
    fields = {name: value for name, value in record.items() if name not in used}
    fields.update({ours: record[theirs] for ours, theirs in columns.items()})
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"expected each key once, got {twice!r} twice")
    return record


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"expected JSON, got {constant}, which is not a JSON number; use null")


def _value(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if isinstance(value, list):
        return [_value(item) for item in value]
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _short(line: str, limit: int = 60) -> str:
    line = line.strip()
    return repr(line if len(line) <= limit else line[:limit] + "...")
