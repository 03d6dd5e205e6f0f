"""The rows of a file as a recipe reads them: records become conversations where the file's format is one of those.

rows = read_recipe_rows(Path(recipe.data.train), recipe)
rows[0].conversation.messages      # None of rows, whose prompt the recipe makes
format_of(rows)                    # FoundFormat(name='messages', reason="a column 'messages' ...")
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxtune.data.conversation import Answered, FoundFormat, asked
from mlxtune.data.formats import find_format, read_record
from mlxtune.data.rows import Row, content_hash, read_rows
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError, Problem
from mlxtune.recipe.sections import AUTO, FORMAT_COLUMNS, ROWS, Recipe


def read_recipe_rows(path: Path, recipe: Recipe) -> list[Row]:
    """Every row of a file, in order.

    Args:
        path: As for `read_rows`.
        recipe: Says the file's format, or that its first record tells it.

    Raises:
        DataError: What `read_rows` raises; the file is of no known format, or of one for which keys of the recipe mean
            nothing; or records are no conversations: all are listed.
    """
    rows = read_rows(path, recipe.data.columns)
    first = rows[0]
    try:
        found = find_format(first.fields, recipe)
    except ValueError as error:
        raise DataError(f"{first.file}:{first.line}: {error}") from None
    if recipe.data.format == AUTO and (wrong := recipe.format_problems(found.name)):
        problems = [Problem(key, text) for key, text in wrong]
        raise DataError(f"{first.file}: data.format: auto finds {found}, which does not fit the recipe", problems)
    return rows if found.name == ROWS else _conversations(rows, found, recipe)


def read_training_rows(recipe: Recipe) -> list[Row]:
    """Every row of `data.train` and then of `data.more`, in order.

    Raises:
        DataError: As for `read_recipe_rows` and `joined`.
    """
    return joined([read_recipe_rows(Path(file), recipe) for file in recipe.data.training_files])


def joined(files: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several files as one set.

    Args:
        files: The rows of each, at least one.

    Raises:
        DataError: A file is of another format than the first.
    """
    first, *more = files
    found = format_of(first)
    for rows in more:
        if (other := format_of(rows)).name != found.name:
            raise DataError(
                f"data.more: {rows[0].file} has rows of the format {other.name}, {first[0].file} of the format {found.name}; "
                "training rows must have one format"
            )
    return [row for rows in files for row in rows]


def rows_files(recipe: Recipe, split: str) -> tuple[str, ...]:
    """The files that the recipe names for train, valid or test; none where it names none."""
    file = getattr(recipe.data, split)
    return tuple(recipe.data.training_files) if split == "train" else (file,) if file is not None else ()


def rows_hash(recipe: Recipe, split: str) -> str:
    """SHA-256 of a split's file; of several files, of their digests in order, each with a line end.

    Raises:
        DataError: As for `content_hash`, of any of them.
    """
    digests = [content_hash(Path(file)) for file in rows_files(recipe, split)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(f"{one}\n" for one in digests).encode()).hexdigest()
    )


def asked_row(record: Mapping[str, Any], recipe: Recipe, place: str) -> Row:
    """A row that asks with a conversation: {"messages": [...], "tools": [...]}, the last message the user's.

    Raises:
        ValueError: It is none.
    """
    turns = record.get("messages")
    if not isinstance(turns, list):
        raise ValueError(f"expected a list of messages, got {str(turns)[:60]!r}")
    conversation = asked(turns, record.get("tools"))
    return Row({recipe.data.text: conversation.question}, place, 1, conversation=conversation)


def format_of(rows: Sequence[Row]) -> FoundFormat:
    """The format that rows were read from."""
    conversation = next((row.conversation for row in rows if row.conversation is not None), None)
    return FoundFormat(ROWS, "columns of the recipe's") if conversation is None else conversation.found


def _conversations(rows: Sequence[Row], found: FoundFormat, recipe: Recipe) -> list[Row]:
    template = ReplyTemplate(recipe.output)
    problems: list[Problem] = []
    read: list[Row] = []
    for row in rows:
        try:
            one = read_record(row.fields, found)
            consumed = FORMAT_COLUMNS[found.name]
            rest = {name: value for name, value in row.fields.items() if name not in consumed}
            fields = {**rest, **_fields(one, template, recipe.data.text)}
        except ValueError as error:
            problems.append(Problem(f"{row.file}:{row.line}", str(error)))
        else:
            read.append(replace(row, fields=fields, conversation=one.conversation))
    if problems:
        advice = "correct these rows, or leave them out"
        raise DataError(f"rows that are not of the format {found}", problems, advice)
    return read


def _fields(one: Answered, template: ReplyTemplate, text: str) -> dict[str, Any]:
    """The columns that a conversation fills: its text, and what the reply says.

    Raises:
        ValueError: The reply is not one that the recipe's template allows.
    """
    if one.conversation.is_document:
        return {text: one.reply}
    shown = {text: one.conversation.question}
    if not one.reply.strip():  # cleaning drops it, or the row is refused
        return {**shown, **dict.fromkeys(template.fields, "")}
    reading = template.parse(one.reply)
    if reading.problem is not None:
        raise ValueError(f"its last turn is no reply of output.template: {reading.problem}; got {one.reply[:60]!r}")
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in reading.values.items()}
    return {**shown, **values}
