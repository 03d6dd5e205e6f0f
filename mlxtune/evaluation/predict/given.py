"""Replies that some other program wrote, read as if a model had been asked here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlxtune.data.examples import expected_values
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError, Problem, did_you_mean
from mlxtune.evaluation.predict.parsing import parse_reply
from mlxtune.evaluation.predict.predictions import FREE, Prediction, json_objects, prediction_of
from mlxtune.evaluation.predict.thinking import may_think
from mlxtune.recipe.sections import Recipe

LISTED = 20  # problems of a file that are shown; the others are counted


def read_replies(path: Path, rows: Sequence[Row], recipe: Recipe) -> list[Prediction]:
    """Replies that some other program wrote, read against rows as if they were generated here.

    Args:
        path: JSON lines with "prediction", the raw reply. Which row a line answers is told by "row", the row's index; else by
            "id", what the row has in its column `id`; else by the lines' order. All lines tell it in one way.
        rows: All the rows.
        recipe: Whose template reads the replies.

    Raises:
        DataError: The file cannot be read, or it does not hold one reply for each row.
    """
    template = ReplyTemplate(recipe.output)
    expected = expected_values(rows, recipe)
    problems: list[Problem] = []
    found: dict[int, Prediction] = {}
    records = list(json_objects(path, problems))
    n_unread = len(problems)  # lines: in row order nobody can tell which rows the lines after them answer
    key = next((key for key in ("row", "id") if any(key in record for _, record in records)), None)
    row_of = _rows_by_id(rows, path) if key == "id" else {}
    for position, (number, record) in enumerate(records):
        row, text = record.get("row", position), record.get("prediction")
        asked = record.get("input")
        name = f"{key or 'row'} {record.get(key or 'row', row)!r}"
        if key is not None and key not in record:
            problems.append(
                Problem(f"line {number}", f'no "{key}", which other lines have; give it in every line or in none')
            )
            continue
        if key == "id":
            row = row_of.get(str(record["id"]))
            if row is None:
                hint = did_you_mean(record["id"], row_of) if len(problems) < LISTED else ""
                problems.append(Problem(f"line {number}", f"{name} is none of the {len(rows)} test rows'{hint}"))
                continue
        if not isinstance(text, str):
            problems.append(Problem(f"line {number}", 'expected {"prediction": "..."}, the reply as text'))
        elif not isinstance(row, int) or not 0 <= row < len(rows):
            problems.append(
                Problem(f"line {number}", f"row {row!r} is not one of the {len(rows)} rows, counted from 0")
            )
        elif row in found:
            problems.append(Problem(f"line {number}", f"{name} is answered twice"))
        elif key is None and n_unread:
            continue
        elif isinstance(asked, str) and asked not in map(str, rows[row].fields.values()):
            other = f"expected a reply to row {row} ({rows[row].file}:{rows[row].line}), got one to {asked[:40]!r}"
            problems.append(Problem(f"line {number}", f"{other}; these are replies to other rows"))
        else:
            decoding, stop = (str(record.get("decoding", FREE)), str(record.get("stop", "stop")))
            parsed = parse_reply(template, text, stop == "length", decoding != FREE, may_think(recipe))
            found[row] = prediction_of(row, rows[row], recipe, expected[row], text, parsed, stop, 0, decoding)
    if problems:
        raise DataError(str(path), problems)
    if len(found) < len(rows):
        first = next(i for i in range(len(rows)) if i not in found)
        named = f"row {first}" + (
            f" (id {rows[first].fields['id']!r}, {rows[first].file}:{rows[first].line})" if key == "id" else ""
        )
        raise DataError(f"{path}: {len(found)} replies for {len(rows)} rows; {named} has none")
    return [found[i] for i in range(len(rows))]


def _rows_by_id(rows: Sequence[Row], path: Path) -> dict[str, int]:
    """Each row's place by its column `id`.

    Raises:
        DataError: A row has none, or two have the same.
    """
    found: dict[str, int] = {}
    problems = []
    for i, row in enumerate(rows):
        place, name = f"{row.file}:{row.line}", row.fields.get("id")
        if name is None or isinstance(name, (list, tuple, dict)):
            problems.append(Problem(place, "no column 'id', which replies with \"id\" need to find their rows"))
        elif str(name) in found:
            problems.append(Problem(place, f"id {name!r} is also the id of line {rows[found[str(name)]].line}"))
        else:
            found[str(name)] = i
    if problems:
        raise DataError(
            f'{path}: its replies have an "id", but the test rows cannot be found by it (give "row" instead, '
            "the row's index from 0, or neither if the replies are in the order of the rows)",
            problems,
        )
    return found
