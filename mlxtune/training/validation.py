"""Validation: loss and accuracy over whole sets, unweighted, by segment. Touches no training randomness.

Accuracies are teacher-forced: each token is predicted from the right ones before it, not from what the model would have
written. They come from the forward pass that the loss needs anyway, and are no measure of generated replies.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Batch, Group, Model, TokenScores
from mlxtune.backends.group import ALONE, together


@dataclass(frozen=True)
class Validation:
    """What a model makes of a set of rows.

    Attributes:
        loss: Mean -log p of the supervised tokens, nats.
        tokens: How many they are.
        segments: Segment -> its own "loss", "tokens", "accuracy" (share of its tokens that no other is likelier than)
            and, of fields with labels, "label_accuracy" (share of the rows in which all tokens of the field and the
            one that ends it are so). Both accuracies are teacher-forced.
    """

    loss: float
    tokens: int
    segments: dict[str, dict[str, float]]


def validate(
    model: Model,
    batches: Sequence[Batch],
    segments: Sequence[str],
    label_fields: Collection[str] = (),
    group: Group = ALONE,
) -> Validation:
    """Score every batch and average over its supervised tokens, each counted once whatever its loss weight.

    Args:
        model: Scored with dropout off.
        batches: The rows; of several processes, this one's, which may be none.
        segments: Names of the segments that the batches count.
        label_fields: Those of them that hold labels: `ReplyTemplate.label_fields`.
        group: The processes whose rows are averaged over.
    """
    with together(group) as report, model.side_by_side():
        own = _counted(model, batches, segments, label_fields)
        report.value = {"nats": own.nats.tolist(), "counts": [one.tolist() for one in own.counts]}
    nats: NDArray[np.float64] = np.asarray([one["nats"] for one in report.values]).sum(axis=0)
    tokens, correct, rows, right = np.asarray([one["counts"] for one in report.values]).sum(axis=0)
    found = segment_losses(nats, tokens, segments)
    for index, name in enumerate(segments):
        if tokens[index]:
            found[name]["accuracy"] = float(correct[index] / tokens[index])
        if rows[index]:
            found[name]["label_accuracy"] = float(right[index] / rows[index])
    return Validation(float(nats.sum() / tokens.sum()), int(tokens.sum()), found)


@dataclass(frozen=True)
class _Counted:
    """Sums over rows by segment, (S,): -log p, and counts of tokens, correct tokens, rows with labels and right ones."""

    nats: NDArray[np.float64]
    counts: tuple[NDArray[np.int64], ...]


def _counted(
    model: Model, batches: Sequence[Batch], segments: Sequence[str], label_fields: Collection[str]
) -> _Counted:
    """Arguments as of `validate`."""
    nats = np.zeros(len(segments))
    tokens, correct, rows, right = (np.zeros(len(segments), np.int64) for _ in range(4))
    for batch in batches:
        scores = model.score(batch)
        places = batch.segments[batch.supervised]
        nats += np.bincount(places, scores.nats[batch.supervised].astype(np.float64), len(segments))
        tokens += np.bincount(places, minlength=len(segments))
        correct += np.bincount(batch.segments[scores.correct], minlength=len(segments))
        for index, name in enumerate(segments):
            if name in label_fields:
                labels = _right_labels(batch, scores, index)
                rows[index] += len(labels)
                right[index] += labels.sum()
    return _Counted(nats, (tokens, correct, rows, right))


def _right_labels(batch: Batch, scores: TokenScores, segment: int) -> NDArray[np.bool_]:
    """Of each row that has the segment, whether all its tokens and the one after it are correct.

    The one after ends the label: a model that would write "payment, refund" has not got "payment" right.
    """
    inside = batch.segments == segment  # (B, T)
    span = inside.copy()
    span[:, 1:] |= inside[:, :-1]
    all_correct = (scores.correct | ~(span & batch.supervised)).all(axis=1)
    result: NDArray[np.bool_] = all_correct[inside.any(axis=1)]
    return result


def segment_losses(
    nats: NDArray[np.float64], tokens: NDArray[np.int64], segments: Sequence[str]
) -> dict[str, dict[str, float]]:
    """{segment: {"loss", "tokens"}} of the segments that have tokens."""
    return {
        name: {"loss": float(nats[index] / tokens[index]), "tokens": int(tokens[index])}
        for index, name in enumerate(segments)
        if tokens[index]
    }
