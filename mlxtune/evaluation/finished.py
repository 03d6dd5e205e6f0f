"""An evaluation that lies in its folder, to be added to: is it the one that is asked for? Asks no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.data.examples import expected_values
from mlxtune.data.rows import Row
from mlxtune.errors import RunError
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions
from mlxtune.evaluation.run import BOTH, Scores, asked, identity, read_scores
from mlxtune.evaluation.subject import Subject


@dataclass(frozen=True)
class Finished:
    """What an evaluation folder holds."""

    scores: Scores
    predictions: list[Prediction]


def finished_evaluation(
    out: Path,
    subject: Subject,
    rows: Sequence[Row],
    decoding: str | None = None,
    probabilities: bool = False,
    repeats: int | None = None,
) -> Finished | None:
    """The evaluation in a folder, if it says what evaluating the subject now would say.

    Args:
        out: The folder.
        subject: Whose evaluation it should be.
        rows: The rows that should be answered.
        decoding: As asked for; None takes any.
        probabilities: Whether they are asked for.
        repeats: Samples of each row that are asked for.

    Returns:
        None where there is none.

    Raises:
        RunError: It is another one; says in what.
        DataError: Its predictions are missing or damaged.
    """
    scores = read_scores(out)
    if scores is None:
        return None
    predictions = read_predictions(out / str(scores.get("predictions", "predictions.jsonl")))
    recipe = subject.recipe
    adapter = subject.adapter and identity(subject.adapter / "adapters.safetensors")["sha256"]
    other = []
    if not _same_rows(predictions, rows, expected_values(rows, recipe)):
        other.append("other rows")
    if scores.get("asked") != asked(recipe):
        other.append("another prompt, output or evaluate.max_new_tokens")
    if scores.get("model") != {"path": recipe.model.path, "revision": recipe.model.revision}:
        other.append("another base model")
    if (scores.get("adapter") or {}).get("sha256") != adapter:
        other.append("another adapter")
    if decoding is not None and decoding != (BOTH if "decodings" in scores else scores.get("decoding")):
        other.append("another decoding")
    if probabilities and any(one.probabilities is None for one in predictions):
        other.append("no probabilities")
    if repeats is not None and scores.get("consistency", {}).get("repeats") != repeats:
        other.append(f"no {repeats} samples of each row")
    if other:
        raise RunError(f"{out}: holds another evaluation ({', '.join(other)}); --force replaces it, --out keeps it")
    return Finished(scores, predictions)


def _same_rows(predictions: Sequence[Prediction], rows: Sequence[Row], expected: Sequence[object]) -> bool:
    return len(predictions) == len(rows) and all(
        prediction.expected == values and prediction.input in map(str, row.fields.values())
        for prediction, row, values in zip(predictions, rows, expected, strict=True)
    )
