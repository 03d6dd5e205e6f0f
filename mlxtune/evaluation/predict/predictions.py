"""Replies to rows: asked in batches, judged by the template, kept in predictions.jsonl. No metrics, no backend's code.

Rows are asked longest first, so that a batch pads little and one that does not fit into memory fails at once. While it
goes, whole lines are added to predictions.jsonl.part; when every row is answered they are put into row order and
renamed to predictions.jsonl, so that a file of that name is always complete. What an interrupted attempt left is gone on
from, if it asked the same (`resume.py`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mlxtune.backends.base import Constraint, Generation, Model
from mlxtune.data.examples import expected_values, prompt_ids
from mlxtune.data.rows import Row
from mlxtune.data.template import Reply, ReplyTemplate, Value
from mlxtune.errors import DataError, Problem, did_you_mean
from mlxtune.evaluation.predict import partial as resume
from mlxtune.evaluation.predict.thinking import may_think, without_thinking
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import LabelsField, Recipe, TextField

FREE = "free"
CONSTRAINED = "constrained"
LISTED = 20  # problems of a file that are shown; the others are counted
MIN_LOOP_CHARS = 12  # shorter repetition at a reply's end is "..." or "haha", not a loop


@dataclass(frozen=True)
class Prediction:
    """One row, asked and answered: a line of predictions.jsonl.

    Attributes:
        row: Index of the row in its file's rows.
        file: File of the row.
        line: Its line there.
        input: The row's text.
        expected: Field -> right value; label sets in canonical order.
        predicted: Field -> value read from the reply; None where it holds none that the field allows.
        prediction: The reply as the model wrote it.
        valid: Every field has a value; a constrained reply was not cut. A free reply that was cut is read as it stands.
        repeated: The reply says a label again, or loops.
        loop: The reply was cut by the length limit while it repeated one passage over and over.
        problem: Why it is not valid, or None.
        stop: 'stop', or 'length' where it was cut.
        tokens: Tokens generated.
        decoding: 'free' or 'constrained'.
        probability: Field -> probability of its predicted value; None unless asked for.
        probabilities: Field -> label -> probability that it is said; None unless asked for.
    """

    row: int
    file: str
    line: int
    input: str
    expected: Mapping[str, Value]
    predicted: Mapping[str, Value | None]
    prediction: str
    valid: bool
    repeated: bool
    loop: bool
    problem: str | None
    stop: str
    tokens: int
    decoding: str
    probability: Mapping[str, float | None] | None = None
    probabilities: Mapping[str, Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Verdict:
    """What one reply says; the names are `Prediction`'s."""

    predicted: Mapping[str, Value | None]
    valid: bool
    repeated: bool
    loop: bool
    problem: str | None


@dataclass(frozen=True)
class Answers:
    """Predictions in row order, and the seconds the model spent on them."""

    predictions: list[Prediction]
    seconds: float


def write_predictions(
    path: Path,
    rows: Sequence[Row],
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    constraint: Constraint | None = None,
    on_rows: Callable[[int], None] = lambda n_rows: None,
    *,
    identity: str | None = None,
    shots: Sequence[Row] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Answers:
    """Ask a model about rows and keep its replies.

    Args:
        path: predictions.jsonl, replaced once all rows are answered.
        rows: With the columns of the prompt and the right values.
        recipe: Prompt, output and limits.
        model: Answers.
        tokenizer: The model's.
        constraint: What may be written; None lets it write anything.
        on_rows: Called after each batch with the number of rows in it.
        identity: Of the model with its adapter. Replies that it gave to the same questions before it was interrupted are
            kept, and the rest is asked; with None everything is asked, and nothing kept for later.
        shots: Rows shown with their replies as earlier turns of every conversation.
        say: Told what was kept of an earlier attempt.

    Raises:
        DataError: Rows that lack a column of the prompt, or hold a value that the recipe does not allow.
    """
    decoding = FREE if constraint is None else CONSTRAINED
    expected = expected_values(rows, recipe)
    prompts = prompt_ids(rows, recipe, tokenizer, shots)
    template = ReplyTemplate(recipe.output)
    unfinished = resume.part_file(path)
    key = None
    if identity is not None:
        places = [(row.file, row.line) for row in rows]
        key = resume.identify(
            identity, decoding, recipe.model_dump(include={"prompt", "output"}), recipe.evaluate.max_new_tokens,
            recipe.evaluate.batch_size, prompts, expected, places,
        )  # fmt: skip
    found, seconds = _kept(path, key, list(batches(prompts, recipe.evaluate.batch_size)), say)
    if found:
        on_rows(len(found))
    if len(found) == len(rows) and not unfinished.exists():
        return Answers([found[i] for i in range(len(rows))], seconds)
    resume.forget(path)  # until the file holds what the header says
    with _whole_lines(unfinished) as add:
        add(list(found.values()))
        if key is not None:
            resume.note(path, key, seconds)
        for batch in batches(prompts, recipe.evaluate.batch_size):
            if batch[0] in found:
                continue
            start = time.perf_counter()
            replies = _generate(batch, prompts, recipe, model, tokenizer, constraint)
            seconds += time.perf_counter() - start
            for i, reply in zip(batch, replies, strict=True):
                found[i] = _prediction(i, rows[i], recipe, template, expected[i], reply, tokenizer, decoding)
            add([found[i] for i in batch])
            if key is not None:
                resume.note(path, key, seconds)
            on_rows(len(batch))
    in_order = [found[i] for i in range(len(rows))]
    with _whole_lines(unfinished) as add:
        add(in_order)
    os.replace(unfinished, path)
    if key is not None:
        resume.note(path, key, seconds, finished=True)
    return Answers(in_order, seconds)


def predictions_of(
    rows: Sequence[Row], recipe: Recipe, model: Model, tokenizer: Tokenizer, constraint: Constraint | None = None
) -> list[Prediction]:
    """A model's replies to rows, kept nowhere; arguments and errors as for `write_predictions`."""
    decoding = FREE if constraint is None else CONSTRAINED
    expected, prompts = expected_values(rows, recipe), prompt_ids(rows, recipe, tokenizer)
    template = ReplyTemplate(recipe.output)
    found: dict[int, Prediction] = {}
    for batch in batches(prompts, recipe.evaluate.batch_size):
        replies = _generate(batch, prompts, recipe, model, tokenizer, constraint)
        for i, reply in zip(batch, replies, strict=True):
            found[i] = _prediction(i, rows[i], recipe, template, expected[i], reply, tokenizer, decoding)
    return [found[i] for i in range(len(rows))]


def replace_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions.jsonl anew, whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    with _whole_lines(unfinished) as add:
        add(predictions)
    os.replace(unfinished, path)


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file, in its order.

    Raises:
        DataError: It cannot be read, or some lines are not predictions; all are listed.
    """
    predictions: list[Prediction] = []
    problems: list[Problem] = []
    names = {field.name for field in fields(Prediction) if field.name not in _OPTIONAL}
    for number, record in _objects(path, problems):
        missing = sorted(names - record.keys())
        if missing:
            problems.append(Problem(f"line {number}", f"not a prediction: it has no {', '.join(map(repr, missing))}"))
            continue
        predictions.append(_from_record(record))
    if problems:
        raise DataError(str(path), problems)
    return predictions


def read_replies(path: Path, rows: Sequence[Row], recipe: Recipe) -> list[Prediction]:
    """Replies that some other program wrote, judged against rows as if they were generated here.

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
    records = list(_objects(path, problems))
    n_unread = len(problems)  # lines: in row order nobody can tell which rows the lines after them answer
    key = next((key for key in ("row", "id") if any(key in record for _, record in records)), None)
    row_of = _rows_by_id(rows, path) if key == "id" else {}
    for position, (number, record) in enumerate(records):
        row, text = record.get("row", position), record.get("prediction")
        asked = record.get("input")
        name = f"{key or 'row'} {record.get(key or 'row', row)!r}"
        if key is not None and key not in record:
            problems.append(Problem(f"line {number}", f'no "{key}", which other lines have'))
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
            verdict = judge(template, text, stop == "length", decoding == CONSTRAINED, may_think(recipe))
            found[row] = _record(row, rows[row], recipe, expected[row], text, verdict, stop, 0, decoding)
    if problems:
        raise DataError(str(path), problems)
    if len(found) < len(rows):
        first = next(i for i in range(len(rows)) if i not in found)
        named = f"row {first}" + (
            f" (id {rows[first].fields['id']!r}, {rows[first].file}:{rows[first].line})" if key == "id" else ""
        )
        raise DataError(f"{path}: {len(found)} replies for {len(rows)} rows; {named} has none")
    return [found[i] for i in range(len(rows))]


def right_fields(prediction: Prediction, recipe: Recipe) -> dict[str, bool]:
    """Of each field but texts, which are neither right nor wrong, whether it is right; label sets as sets."""
    found = {}
    for name, field in recipe.output.fields.items():
        if not isinstance(field, TextField):
            right, said = prediction.expected[name], prediction.predicted[name]
            is_set = isinstance(field, LabelsField)
            found[name] = said is not None and (set(right) == set(said) if is_set else right == said)
    return found


def judge(template: ReplyTemplate, text: str, cut: bool, constrained: bool, thinking: bool = False) -> Verdict:
    """Read one reply, without the thinking that it may begin with.

    A constrained reply that was cut is not valid even where its beginning parses: "payment" may have been about to
    become "payment, notification". Its last field is where it was cut, so labels of that field do not count; text
    does, as far as it goes. Free replies are read as they stand.
    """
    answer = without_thinking(text) if thinking else text
    if answer is None:
        reply = Reply(dict.fromkeys(template.fields), False, "does not follow the template: its thinking does not end")
    else:
        reply, text = template.parse(answer), answer
    values, problem = dict(reply.values), reply.problem
    if cut and constrained:
        *_, last = template.fields
        if not isinstance(template.fields[last], TextField):
            values[last] = None
        problem = "cut at the length limit" + (f"; {problem}" if problem else "")
    loop = cut and is_loop(text)
    return Verdict(values, problem is None, reply.repeated or loop, loop, problem)


def is_loop(text: str) -> bool:
    """Whether a text ends in one passage three times over, the last perhaps cut short.

    >>> is_loop("none, none, none, none, no"), is_loop("none, payment, none")
    (True, False)
    """
    backwards = text[::-1]
    # Of each beginning of it, the longest piece that it both begins and ends with (Knuth, Morris and Pratt, 1977): the
    # rest of the beginning is the shortest passage that it repeats.
    borders = [0] if text else []
    border = 0
    for position in range(1, len(text)):
        character = backwards[position]
        while border and character != backwards[border]:
            border = borders[border - 1]
        border += character == backwards[border]
        borders.append(border)
        length = position + 1
        if length >= MIN_LOOP_CHARS and 3 * (length - border) <= length:
            return True
    return False


def batches(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts, batch by batch, longest first."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


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
            problems.append(Problem(place, "no column 'id', by which replies with \"id\" find their rows"))
        elif str(name) in found:
            problems.append(Problem(place, f"id {name!r} is that of line {rows[found[str(name)]].line} too"))
        else:
            found[str(name)] = i
    if problems:
        raise DataError(
            f'{path}: tells its replies apart by "id", and the test rows do not (give "row" instead, '
            "the row's index, or neither where the lines are in row order)",
            problems,
        )
    return found


# Records ---------------------------------------------------------------------------------------------------------

_VALUES = ("expected", "predicted")
_OPTIONAL = ("probability", "probabilities")  # left out of a line where they were not asked for


def _kept(
    path: Path, key: str | None, asked: Sequence[Sequence[int]], say: Callable[[str], None]
) -> tuple[dict[int, Prediction], float]:
    """What an earlier attempt at the same questions answered, by row in the order asked, and its seconds.

    Only whole batches count: what a row is padded to can change the last bit of its logits, and so its reply.
    """
    earlier = None if key is None else resume.kept(path, key)
    answered: dict[int, Prediction] = {}
    if earlier is not None:
        with suppress(KeyError, TypeError, AttributeError):  # a line that is no prediction ends what can be kept
            for record in earlier.records:
                answered[int(record["row"])] = _from_record(record)
    found = {i: answered[i] for batch in asked if all(i in answered for i in batch) for i in batch}
    n_rows = sum(map(len, asked))
    if found:
        say(f"{path.name}: going on from an interrupted evaluation, {len(found)} of {n_rows} rows are answered")
    elif resume.part_file(path).exists():
        say(f"{resume.part_file(path)}: left by another evaluation; discarded")
    return found, 0.0 if earlier is None or not found else earlier.seconds


def _from_record(record: Mapping[str, Any]) -> Prediction:
    values = {name: {field: _tuples(value) for field, value in record[name].items()} for name in _VALUES}
    optional = {name: record[name] for name in _OPTIONAL if name in record}
    names = [field.name for field in fields(Prediction) if field.name not in _OPTIONAL]
    return Prediction(**{**{name: record[name] for name in names}, **values, **optional})


@contextmanager
def _whole_lines(path: Path) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """A function that adds predictions to a new file, which holds whole lines only, however writing ends."""
    n_bytes = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:

        def add(predictions: Sequence[Prediction]) -> None:
            nonlocal n_bytes
            lines = [json.dumps(_line(prediction), ensure_ascii=False) + "\n" for prediction in predictions]
            content = "".join(lines).encode("utf-8", errors="backslashreplace")
            file.write(content)
            file.flush()
            n_bytes += len(content)

        try:
            yield add
        except BaseException:
            with suppress(OSError):  # a full disk: what stopped us matters more than the last line
                os.truncate(path, n_bytes)
            raise


def _line(prediction: Prediction) -> dict[str, Any]:
    """The object of one line."""
    content = asdict(prediction)
    return {name: value for name, value in content.items() if name not in _OPTIONAL or value is not None}


def _generate(
    batch: Sequence[int],
    prompts: Sequence[Sequence[int]],
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    constraint: Constraint | None,
) -> list[Generation]:
    limit = recipe.evaluate.max_new_tokens
    return model.generate([prompts[i] for i in batch], limit, tokenizer.stop_tokens, constraint)


def _prediction(
    index: int,
    row: Row,
    recipe: Recipe,
    template: ReplyTemplate,
    expected: Mapping[str, Value],
    reply: Generation,
    tokenizer: Tokenizer,
    decoding: str,
) -> Prediction:
    text = tokenizer.decode(reply.tokens)
    verdict = judge(template, text, reply.stop_reason == "length", decoding == CONSTRAINED, may_think(recipe))
    return _record(index, row, recipe, expected, text, verdict, reply.stop_reason, len(reply.tokens), decoding)


def _record(
    index: int,
    row: Row,
    recipe: Recipe,
    expected: Mapping[str, Value],
    text: str,
    verdict: Verdict,
    stop: str,
    n_tokens: int,
    decoding: str,
) -> Prediction:
    shown = next((row.fields[name] for name in recipe.prompt_columns if name in row.fields), "")
    return Prediction(
        row=index,
        file=row.file,
        line=row.line,
        input=str(shown),
        expected=expected,
        predicted=verdict.predicted,
        prediction=text,
        valid=verdict.valid,
        repeated=verdict.repeated,
        loop=verdict.loop,
        problem=verdict.problem,
        stop=stop,
        tokens=n_tokens,
        decoding=decoding,
    )


def _objects(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers; what is no object is added to `problems`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of predictions") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, got byte {error.object[error.start]:#x}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(Problem(f"line {number}", f"not JSON: {error}"))
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            problems.append(Problem(f"line {number}", f"expected an object, got {line.strip()[:40]}"))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
