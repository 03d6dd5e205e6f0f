"""Validation loss: the whole validation set, unweighted, by segment. Touches no training randomness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlxtune.backends.base import Batch, Model


@dataclass(frozen=True)
class Validation:
    """Mean -log p of the supervised tokens, in nats, of all and by segment, and how many tokens each mean is over."""

    loss: float
    tokens: int
    segments: dict[str, dict[str, float]]


def validate(model: Model, batches: Sequence[Batch], segments: Sequence[str]) -> Validation:
    """Score every batch and average over its supervised tokens, each counted once whatever its loss weight."""
    nats = np.zeros(len(segments))
    tokens = np.zeros(len(segments), np.int64)
    for batch in batches:
        scores = model.score(batch)
        places = batch.segments[batch.supervised]
        nats += np.bincount(places, scores[batch.supervised].astype(np.float64), len(segments))
        tokens += np.bincount(places, minlength=len(segments))
    return Validation(float(nats.sum() / tokens.sum()), int(tokens.sum()), segment_losses(nats, tokens, segments))


def segment_losses(nats: np.ndarray, tokens: np.ndarray, segments: Sequence[str]) -> dict[str, dict[str, float]]:
    """{segment: {"loss", "tokens"}} of the segments that have tokens."""
    return {
        name: {"loss": float(nats[index] / tokens[index]), "tokens": int(tokens[index])}
        for index, name in enumerate(segments)
        if tokens[index]
    }
