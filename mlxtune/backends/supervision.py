"""What backends derive from batches and prompts before they compute, and from nats after. NumPy only.

Indices are computed here, on the host: no backend's arrays have a shape that depends on data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import UNSUPERVISED, Batch, StepResult, TokenScores
from mlxtune.backends.shapes import PassPadding
from mlxtune.errors import DataError
from mlxtune.models.positions import max_positions


@dataclass(frozen=True)
class Supervised:
    """The supervised tokens of a batch, in row order.

    Attributes:
        positions: Where each is predicted, in the rows' own tokens without their last, flattened: (N,), int32.
        targets: Its id, (N,), int32.
        weights: Its loss weight, (N,), float32.
    """

    positions: NDArray[np.int32]
    targets: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)

    def padded(self, n_positions: int) -> Supervised:
        """So many; what is added has no weight."""
        missing = (0, n_positions - len(self))
        return Supervised(np.pad(self.positions, missing), np.pad(self.targets, missing), np.pad(self.weights, missing))


def supervised(batch: Batch) -> Supervised:
    """The supervised tokens of a batch; the last token of a row predicts nothing.

    Raises:
        ValueError: One stands first in its row, where no own token predicts it.
    """
    rows, columns = np.nonzero(batch.supervised)
    if len(columns) and columns.min() == 0:
        raise ValueError("the first token of a row cannot be supervised: no earlier token predicts it")
    width = batch.tokens.shape[1] - 1
    positions = (rows * width + columns - 1).astype(np.int32)
    return Supervised(positions, batch.tokens[rows, columns], batch.weights[rows, columns])


def padded_batch(batch: Batch, padding: PassPadding) -> Batch:
    """The same rows, padded to more columns and with rows of padding alone after them; nothing added is supervised."""
    rows, width = batch.tokens.shape
    missing = (0, padding.rows(rows) - rows), (0, padding.width(width) - width)
    return replace(
        batch,
        tokens=np.pad(batch.tokens, missing),
        lengths=np.pad(batch.lengths, missing[0]),
        weights=np.pad(batch.weights, missing),
        segments=np.pad(batch.segments, missing, constant_values=UNSUPERVISED),
    )


def total_weight(batches: Sequence[Batch]) -> float:
    """Sum of the weights of all micro-batches of a step."""
    return math.fsum(float(batch.weights.sum(dtype=np.float64)) for batch in batches)


@dataclass(frozen=True)
class StepSums:
    """What one process saw of an optimizer step, or what all of them did, in float64.

    Attributes:
        total_nats: Sum over supervised tokens of weight x -log p.
        segment_nats: Sum of -log p by segment, unweighted, (S,).
        segment_tokens: Supervised tokens by segment, (S,).
        stop: Asked to end after the step.
    """

    total_nats: float
    segment_nats: NDArray[np.float64]
    segment_tokens: NDArray[np.int64]
    stop: bool = False

    @classmethod
    def of(
        cls, batches: Sequence[Batch], nats: Sequence[NDArray[np.float32]], n_segments: int, stop: bool = False
    ) -> StepSums:
        """Those of micro-batches.

        Args:
            batches: There may be none.
            nats: -log p of each one's supervised tokens, in row order.
            n_segments: Segments to sum over.
            stop: Asked to end after the step.
        """
        if not batches:
            return cls(0.0, np.zeros(n_segments), np.zeros(n_segments, np.int64), stop)
        own = np.concatenate(nats).astype(np.float64)
        weights = np.concatenate([batch.weights[batch.supervised] for batch in batches]).astype(np.float64)
        segments = np.concatenate([batch.segments[batch.supervised] for batch in batches])
        return cls(
            total_nats=float(own @ weights),
            segment_nats=np.bincount(segments, own, n_segments).astype(np.float64),
            segment_tokens=np.bincount(segments, minlength=n_segments),
            stop=stop,
        )

    @classmethod
    def of_all(cls, reports: Sequence[Mapping[str, Any]]) -> StepSums:
        """Those of all processes, added up in the order of their ranks.

        Args:
            reports: Each one's, as `to_json` gives it.
        """
        return cls(
            total_nats=math.fsum(one["total_nats"] for one in reports),
            segment_nats=np.sum([one["segment_nats"] for one in reports], axis=0, dtype=np.float64),
            segment_tokens=np.sum([one["segment_tokens"] for one in reports], axis=0, dtype=np.int64),
            stop=any(one["stop"] for one in reports),
        )

    @classmethod
    def of_same(cls, reports: Sequence[Mapping[str, Any]]) -> StepSums:
        """Those of rank 0, where every process computed all of a step; asked to end where one was. Reports as of `of_all`."""
        return replace(cls.of_all(reports[:1]), stop=any(one["stop"] for one in reports))

    def to_json(self) -> dict[str, Any]:
        """For the other processes."""
        segments = {"segment_nats": self.segment_nats.tolist(), "segment_tokens": self.segment_tokens.tolist()}
        return {"total_nats": self.total_nats, **segments, "stop": self.stop}

    def result(self, total_weight: float, grad_norm: float) -> StepResult:
        """The step's result, given the sum of its weights and the gradient's norm before clipping."""
        return StepResult(self.total_nats, total_weight, self.segment_nats, self.segment_tokens, grad_norm, self.stop)


def token_scores(batch: Batch, nats: NDArray[np.float32], argmax: NDArray[np.integer]) -> TokenScores:
    """Scores of a batch from those of its supervised tokens.

    Args:
        batch: The N supervised tokens and where they stand.
        nats: -log p of each one, in row order, (N,).
        argmax: The token of the largest logit where each one is predicted, (N,).
    """
    supervised = batch.supervised
    placed = np.zeros(batch.tokens.shape, np.float32)
    placed[supervised] = nats
    correct = np.zeros(batch.tokens.shape, np.bool_)
    correct[supervised] = argmax == batch.tokens[supervised]
    return TokenScores(placed, correct)


def dropout_seed(seed: int, step: int, rank: int = 0) -> int:
    """Seed of a step's dropout, 64 bits; each process, whose rows are its own, draws other masks."""
    parts = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def common_length(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that open all prompts, leaving each at least one of its own."""
    limit = min(map(len, prompts)) - 1
    first = prompts[0]
    return next((at for at in range(limit) if any(prompt[at] != first[at] for prompt in prompts)), limit)


def require_prompts(prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]] | None = None) -> None:
    """Raise ValueError unless there are prompts, and options where they are asked for, of a token or more each."""
    if not prompts or min(map(len, prompts)) == 0:
        raise ValueError("expected prompts of at least one token each")
    if options is not None and (not options or min(map(len, options)) == 0):
        raise ValueError("expected options of at least one token each")


def require_room(prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]], config: Mapping[str, Any]) -> None:
    """Raise DataError where a prompt and an option behind it are more tokens than the model has positions."""
    positions = max_positions(config)
    longest, option = max(map(len, prompts)), max(map(len, options))
    if positions is not None and longest + option > positions:
        raise DataError(
            f"a prompt of {longest} tokens leaves no room for the longest option, {option} tokens: the model has "
            f"{positions} positions (max_position_embeddings); shorten the prompt"
        )


def reply_limits(prompts: Sequence[Sequence[int]], max_new_tokens: int, config: Mapping[str, Any]) -> list[int]:
    """Tokens that each reply may have: `max_new_tokens`, or as many as the model's positions leave.

    Raises:
        DataError: A prompt leaves none.
    """
    positions = max_positions(config)
    if positions is None:
        return [max_new_tokens] * len(prompts)
    longest = max(map(len, prompts))
    if longest >= positions:
        raise DataError(
            f"a prompt of {longest} tokens leaves no room for a reply: the model has {positions} positions "
            "(max_position_embeddings); shorten it"
        )
    return [min(max_new_tokens, positions - len(prompt)) for prompt in prompts]


def described(batches: Sequence[Batch]) -> str:
    """The largest of some batches, for messages."""
    if not batches:
        return "none of its rows"
    largest = max(batches, key=lambda batch: batch.tokens.size)
    rows, own = largest.tokens.shape
    return f"a batch of {rows} rows of up to {own + len(largest.prefix)} tokens"


def described_replies(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> str:
    """Replies that are written, for messages."""
    longest = max(map(len, prompts))
    return f"replies of up to {max_new_tokens} tokens to prompts of up to {longest}"
