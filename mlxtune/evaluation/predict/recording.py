"""A model's replies to rows, recorded in predictions.jsonl as they arrive, so that an interrupted evaluation can resume.

While it goes, whole lines are added to predictions.jsonl.part; when every row is answered they are put into row order and
renamed to predictions.jsonl, so that a file of that name is always complete. What an interrupted attempt left is gone on
from, if it asked the same (`unfinished.py`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlxtune.data.examples import expected_values
from mlxtune.data.field_forms import Value
from mlxtune.data.rows import Row
from mlxtune.evaluation.predict import unfinished
from mlxtune.evaluation.predict.predictions import Prediction, from_record, prediction_of, whole_lines
from mlxtune.evaluation.predict.predictor import Predictor, Reply
from mlxtune.evaluation.predict.probabilities import with_probabilities
from mlxtune.progress import SILENT, Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """Predictions in row order, and the seconds the model spent on them."""

    predictions: list[Prediction]
    seconds: float


def record_predictions(
    path: Path,
    rows: Sequence[Row],
    predictor: Predictor,
    progress: Progress = SILENT,
    *,
    model_hash: str | None = None,
    shots: Sequence[Row] = (),
) -> Recorded:
    """Ask a model about rows and keep its replies.

    Args:
        path: predictions.jsonl, replaced once all rows are answered.
        rows: With the columns of the prompt and the references.
        predictor: Answers.
        progress: Told how many rows were answered.
        model_hash: Of the model with its adapter. Replies that it gave to the same questions before it was interrupted are
            kept, and the rest is asked; with None everything is asked, and nothing kept for later.
        shots: Rows shown with their replies as earlier turns of every conversation.

    Raises:
        DataError: Rows that lack a column of the prompt, or hold a value that the recipe does not allow.
    """
    recipe = predictor.recipe
    expected = expected_values(rows, recipe)
    prompts = predictor.prompts(rows, shots)
    part = unfinished.part_file(path)
    key = None
    if model_hash is not None:
        places = [(row.file, row.line) for row in rows]
        key = unfinished.json_hash(
            model_hash, predictor.decoding, recipe.model_dump(include={"prompt", "output"}),
            recipe.evaluate.max_new_tokens, recipe.evaluate.batch_size, prompts, expected, places,
        )  # fmt: skip
    found, seconds = _kept(path, key, len(rows))
    if found:
        progress.advance(len(found))
    if len(found) == len(rows) and not part.exists():
        return Recorded([found[i] for i in range(len(rows))], seconds)
    unfinished.delete_header(path)  # until the file holds what the header says
    with whole_lines(part) as add:
        add(list(found.values()))
        if key is not None:
            unfinished.write_header(path, key, seconds)
        asked = [i for i in range(len(rows)) if i not in found]
        start = time.perf_counter()
        for place, reply in predictor.answer([prompts[i] for i in asked]):
            seconds += time.perf_counter() - start
            i = asked[place]
            found[i] = as_prediction(i, rows[i], predictor, expected[i], reply)
            add([found[i]])
            if key is not None:
                unfinished.write_header(path, key, seconds)
            progress.advance(1)
            start = time.perf_counter()
    in_order = [found[i] for i in range(len(rows))]
    with whole_lines(part) as add:
        add(in_order)
    os.replace(part, path)
    if key is not None:
        unfinished.write_header(path, key, seconds, finished=True)
    return Recorded(in_order, seconds)


def predictions_of(rows: Sequence[Row], predictor: Predictor, progress: Progress = SILENT) -> list[Prediction]:
    """A model's replies to rows, kept nowhere; errors as for `record_predictions`."""
    expected = expected_values(rows, predictor.recipe)
    replies = predictor.replies(rows, progress)
    return [as_prediction(i, rows[i], predictor, expected[i], reply) for i, reply in enumerate(replies)]


def as_prediction(
    index: int, row: Row, predictor: Predictor, expected: Mapping[str, Value], reply: Reply
) -> Prediction:
    """A row with the reply to it, and the probabilities that came with it."""
    prediction = prediction_of(
        index, row, predictor.recipe, expected, reply.text, reply.parsed, reply.stop, reply.n_tokens, predictor.decoding
    )
    return with_probabilities(prediction, reply.distributions) if reply.distributions else prediction


def _kept(path: Path, key: str | None, n_rows: int) -> tuple[dict[int, Prediction], float]:
    """What an earlier attempt at the same questions answered, by row, and its seconds.

    The rest is then written beside other rows than without the interruption, which can change the last bit of logits; a reply
    depends on it where two tokens are equally likely to that bit.
    """
    earlier = None if key is None else unfinished.read_attempt(path, key)
    found: dict[int, Prediction] = {}
    if earlier is not None:
        with suppress(KeyError, TypeError, AttributeError):  # a line that is no prediction ends what can be kept
            for record in earlier.records:
                found[int(record["row"])] = from_record(record)
    if len(found) == n_rows:
        log.info("%s: all %s rows are answered already", path.name, n_rows)
    elif found:
        log.info("%s: resuming an interrupted evaluation, %s of %s rows are answered", path.name, len(found), n_rows)
    elif unfinished.part_file(path).exists():
        log.info("%s: belongs to another evaluation, so it is discarded", unfinished.part_file(path))
    return found, 0.0 if earlier is None or not found else earlier.seconds
