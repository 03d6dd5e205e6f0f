"""One row, asked and answered: a line of predictions.jsonl, written and read. Asks no model, computes no metric."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mlxtune.data.field_forms import Value
from mlxtune.data.rows import Row
from mlxtune.errors import DataError, Problem
from mlxtune.evaluation.predict.parsing import ParsedReply
from mlxtune.recipe.sections import Recipe

FREE = "free"
CONSTRAINED = "constrained"
BEST = "best"
BOTH = "both"  # free and constrained, one after the other


@dataclass(frozen=True)
class Prediction:
    """One row, asked and answered: a line of predictions.jsonl.

    Attributes:
        row: Index of the row in its file's rows.
        file: File of the row.
        line: Its line there.
        input: The row's text; of a conversation, what the user said last.
        expected: Field -> reference; label sets in canonical order.
        predicted: Field -> value read from the reply; None where it holds none that the field allows.
        prediction: The reply as the model wrote it.
        valid: Every field has a value; a constrained reply was not truncated. A free reply that was truncated is read as it stands.
        repeated: The reply says a label again, or loops.
        loop: The reply was truncated by the length limit while it repeated one passage over and over.
        problem: Why it is not valid, or None.
        stop: 'stop', or 'length' where it was truncated.
        tokens: Tokens generated.
        decoding: 'free', 'constrained' or 'best'.
        probability: Field -> probability of its predicted value; None unless asked for, or decoding is best.
        probabilities: Field -> label -> probability that it is said; likewise.
        conversation: All turns that the reply answers; None where `input` is the only one.
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
    conversation: str | None = None

    @property
    def whole_input(self) -> str:
        """All that the reply answers."""
        return self.conversation or self.input


def replace_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write predictions.jsonl anew, whole or not at all."""
    unfinished = path.with_name(path.name + ".part")
    with whole_lines(unfinished) as add:
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
    for number, record in json_objects(path, problems):
        missing = sorted(names - record.keys())
        if missing:
            problems.append(Problem(f"line {number}", f"not a prediction: it has no {', '.join(map(repr, missing))}"))
            continue
        predictions.append(from_record(record))
    if problems:
        raise DataError(str(path), problems)
    return predictions


def require_same_rows(ours: Sequence[Prediction], theirs: Sequence[Prediction], name: str) -> None:
    """Refuse to compare predictions of different rows.

    Raises:
        DataError: Says which row is the first to differ.
    """
    if len(ours) != len(theirs):
        raise DataError(f"{name}: {len(theirs)} predictions for {len(ours)} rows; evaluate it on the same rows")
    for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if (our.row, our.input, our.expected) != (their.row, their.input, their.expected):
            raise DataError(
                f"{name}: its predictions are of other rows: number {number} is of row {their.row}, "
                f"{their.input[:40]!r}, expected row {our.row}, {our.input[:40]!r}; evaluate it on the same rows"
            )


# Records -----------------------------------------------------------------------------------------------------------

_VALUES = ("expected", "predicted")
_OPTIONAL = ("probability", "probabilities", "conversation")  # left out of a line where there are none


def from_record(record: Mapping[str, Any]) -> Prediction:
    """The prediction of a line."""
    values = {name: {field: _tuples(value) for field, value in record[name].items()} for name in _VALUES}
    optional = {name: record[name] for name in _OPTIONAL if name in record}
    names = [field.name for field in fields(Prediction) if field.name not in _OPTIONAL]
    return Prediction(**{**{name: record[name] for name in names}, **values, **optional})


@contextmanager
def whole_lines(path: Path) -> Iterator[Callable[[Sequence[Prediction]], None]]:
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


def prediction_of(
    index: int,
    row: Row,
    recipe: Recipe,
    expected: Mapping[str, Value],
    text: str,
    parsed: ParsedReply,
    stop: str,
    n_tokens: int,
    decoding: str,
) -> Prediction:
    """A row with the reply to it."""
    shown = next((row.fields[name] for name in recipe.prompt_columns if name in row.fields), "")
    return Prediction(
        row=index,
        file=row.file,
        line=row.line,
        input=str(shown),
        expected=expected,
        predicted=parsed.predicted,
        prediction=text,
        valid=parsed.valid,
        repeated=parsed.repeated,
        loop=parsed.loop,
        problem=parsed.problem,
        stop=stop,
        tokens=n_tokens,
        decoding=decoding,
        conversation=None if row.conversation is None else row.conversation.transcript,
    )


def json_objects(path: Path, problems: list[Problem]) -> Iterator[tuple[int, dict[str, Any]]]:
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
