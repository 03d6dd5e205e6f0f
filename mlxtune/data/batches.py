"""Examples to batches: the order of rows in an epoch, the shared prefix, and padding. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import UNSUPERVISED, Batch
from mlxtune.data.examples import Example


def shared_prefix(examples: Sequence[Example]) -> NDArray[np.int32]:
    """Token ids that open every prompt, (P,), leaving at least one prompt token to each row.

    That token predicts the first token of the reply, so every supervised token has its predictor in its own row.
    """
    if not examples:
        return np.zeros(0, np.int32)
    first = examples[0].prompt
    shared = min(len(example.prompt) for example in examples) - 1
    for example in examples:
        same = example.prompt[:shared] == first[:shared]
        shared = int(np.argmin(same)) if not same.all() else shared
    return first[:shared]


def epoch_order(n_rows: int, rows_per_step: int, seed: int, epoch: int) -> list[list[int]]:
    """Which rows form each optimizer step of an epoch: a pure function of its arguments.

    Rows are drawn into steps at random, and only inside a step are they sorted by length into passes. Sorting over more
    rows would pad less, but where length tells of the label (several intents make long messages) it makes steps of one
    kind of row, and training swings between kinds.

    Args:
        n_rows: Rows of an epoch.
        rows_per_step: Rows a step; the last step may have fewer.
        seed: The run's seed.
        epoch: Counted from 0.

    Returns:
        Steps of indices; each index stands in exactly one.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n_rows).tolist()
    return [order[start : start + rows_per_step] for start in range(0, n_rows, rows_per_step)]


def collate(examples: Sequence[Example], prefix: NDArray[np.int32]) -> Batch:
    """Examples whose prompts all open with `prefix`, as one batch, as wide as the longest; a backend pads it further, or packs it."""
    n_prefix = len(prefix)
    lengths = [example.n_tokens - n_prefix for example in examples]
    width = max(lengths)
    tokens = np.zeros((len(examples), width), np.int32)
    weights = np.zeros((len(examples), width), np.float32)
    segments = np.full((len(examples), width), UNSUPERVISED, np.int16)
    for b, example in enumerate(examples):
        reply = slice(lengths[b] - len(example.reply), lengths[b])
        tokens[b, : reply.start] = example.prompt[n_prefix:]
        tokens[b, reply] = example.reply
        weights[b, reply] = example.weights
        segments[b, reply] = example.segments
    rows = tuple(example.row for example in examples)
    return Batch(prefix, tokens, np.asarray(lengths, np.int32), weights, segments, rows)


def build_batches(
    examples: Sequence[Example], order: Sequence[Sequence[int]], prefix: NDArray[np.int32]
) -> list[Batch]:
    """Batches in the given order."""
    return [collate([examples[index] for index in indices], prefix) for indices in order]
