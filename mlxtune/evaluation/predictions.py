"""Replies to rows: asked in batches, judged by the template, kept in predictions.jsonl. No metrics, no backend's code.

Rows are asked longest first, so that a batch pads little and one that does not fit into memory fails at once. While it
goes, whole lines are added to predictions.jsonl.part; when every row is answered they are put into row order and
renamed to predictions.jsonl, so that a file of that name is always complete.
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
from mlxtune.data.template import ReplyTemplate, Value
from mlxtune.errors import DataError, Problem, listing
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe import Recipe, TextField

FREE = "free"
CONSTRAINED = "constrained"
THINKING_END = "</think>"
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

    Raises:
        DataError: Rows that lack a column of the prompt, or hold a value that the recipe does not allow.
    """
    decoding = FREE if constraint is None else CONSTRAINED
    expected = expected_values(rows, recipe)
    prompts = prompt_ids(rows, recipe, tokenizer)
    template = ReplyTemplate(recipe.output)
    found: dict[int, Prediction] = {}
    seconds = 0.0
    unfinished = path.with_name(path.name + ".part")
    with _whole_lines(unfinished) as add:
        for batch in batches(prompts, recipe.evaluate.batch_size):
            start = time.perf_counter()
            replies = model.generate(
                [prompts[i] for i in batch], recipe.evaluate.max_new_tokens, tokenizer.stop_tokens, constraint
            )
            seconds += time.perf_counter() - start
            for i, reply in zip(batch, replies, strict=True):
                found[i] = _prediction(i, rows[i], recipe, template, expected[i], reply, tokenizer, decoding)
            add([found[i] for i in batch])
            on_rows(len(batch))
    in_order = [found[i] for i in range(len(rows))]
    with _whole_lines(unfinished) as add:
        add(in_order)
    os.replace(unfinished, path)
    return Answers(in_order, seconds)


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file, in its order.

    Raises:
        DataError: It cannot be read, or some lines are not predictions; all are listed.
    """
    predictions: list[Prediction] = []
    problems: list[Problem] = []
    names = {field.name for field in fields(Prediction)}
    for number, record in _objects(path, problems):
        missing = sorted(names - record.keys())
        if missing:
            problems.append(Problem(f"line {number}", f"not a prediction: it has no {', '.join(map(repr, missing))}"))
            continue
        values = {name: {field: _tuples(value) for field, value in record[name].items()} for name in _VALUES}
        predictions.append(Prediction(**{**{name: record[name] for name in names}, **values}))
    if problems:
        raise DataError(listing(str(path), problems))
    return predictions


def read_replies(path: Path, rows: Sequence[Row], recipe: Recipe) -> list[Prediction]:
    """Replies that some other program wrote, judged against rows as if they were generated here.

    Args:
        path: JSON lines with "prediction", the raw reply; and "row", its row's index, unless they are in row order.
        rows: All the rows.
        recipe: Whose template reads the replies.

    Raises:
        DataError: The file cannot be read, or it does not hold one reply for each row.
    """
    template = ReplyTemplate(recipe.output)
    expected = expected_values(rows, recipe)
    problems: list[Problem] = []
    found: dict[int, Prediction] = {}
    for number, record in _objects(path, problems):
        row, text = record.get("row", len(found)), record.get("prediction")
        if not isinstance(text, str):
            problems.append(Problem(f"line {number}", 'expected {"prediction": "..."}, the reply as text'))
        elif not isinstance(row, int) or not 0 <= row < len(rows):
            problems.append(
                Problem(f"line {number}", f"row {row!r} is not one of the {len(rows)} rows, counted from 0")
            )
        elif row in found:
            problems.append(Problem(f"line {number}", f"row {row} is answered twice"))
        else:
            decoding, stop = (str(record.get("decoding", FREE)), str(record.get("stop", "stop")))
            answer = after_thinking(text, recipe)
            verdict = judge(template, answer, cut=stop == "length", constrained=decoding == CONSTRAINED)
            found[row] = _record(row, rows[row], recipe, expected[row], text, verdict, stop, 0, decoding)
    if problems:
        raise DataError(listing(str(path), problems))
    if len(found) < len(rows):
        first = next(i for i in range(len(rows)) if i not in found)
        raise DataError(f"{path}: {len(found)} replies for {len(rows)} rows; row {first} has none")
    return [found[i] for i in range(len(rows))]


def judge(template: ReplyTemplate, text: str, cut: bool, constrained: bool) -> Verdict:
    """Read one reply.

    A constrained reply that was cut is not valid even where its beginning parses: "payment" may have been about to
    become "payment, notification". Its last field is where it was cut, so labels of that field do not count; text
    does, as far as it goes. Free replies are read as they stand.
    """
    reply = template.parse(text)
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
    for size in range(1, len(text) // 3 + 1):
        covered = max(3 * size, MIN_LOOP_CHARS)
        tail = text[-covered:]
        if len(tail) == covered and tail[size:] == tail[:-size]:
            return True
    return False


def batches(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts, batch by batch, longest first."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def reply_text(reply: Generation, recipe: Recipe, tokenizer: Tokenizer) -> tuple[str, str]:
    """A reply as the model wrote it, and the part of it that answers: what follows its thinking."""
    text = tokenizer.decode(reply.tokens)
    return text, after_thinking(text, recipe)


def after_thinking(text: str, recipe: Recipe) -> str:
    """The part of a reply that answers."""
    return text.rpartition(THINKING_END)[2] if recipe.prompt.thinking else text


# Records ---------------------------------------------------------------------------------------------------------

_VALUES = ("expected", "predicted")


@contextmanager
def _whole_lines(path: Path) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """A function that adds predictions to a new file, which holds whole lines only, however writing ends."""
    n_bytes = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:

        def add(predictions: Sequence[Prediction]) -> None:
            nonlocal n_bytes
            lines = [json.dumps(asdict(prediction), ensure_ascii=False) + "\n" for prediction in predictions]
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
    text, answer = reply_text(reply, recipe, tokenizer)
    verdict = judge(template, answer, cut=reply.stop_reason == "length", constrained=decoding == CONSTRAINED)
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
