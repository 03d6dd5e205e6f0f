"""Validation over scores made by hand: what is averaged over what, and when a label counts as right."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import UNSUPERVISED, Batch, TokenScores, in_order
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.data.template import ReplyTemplate
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.training.validation import validate
from tests.adapted import backend_named, examples_of, loaded

TEMPLATE, PRIORITY, TAGS, RESPONSE = range(4)
SEGMENTS = ("template", "priority", "tags", "response")
LABEL_FIELDS = ("priority", "tags")


class Scored:
    """TokenScores each batch with the next of those given."""

    def __init__(self, scores: Sequence[TokenScores]) -> None:
        self._scores = iter(scores)

    def side_by_side(self) -> AbstractContextManager[None]:
        return nullcontext()

    def score(self, batch: Batch) -> TokenScores:
        return next(self._scores)


def scored(scores: Sequence[TokenScores]) -> Any:
    """A model that can do nothing but score."""
    return Scored(scores)


def batch_of(rows: Sequence[Sequence[int]], weight: float = 1.0) -> Batch:
    """Rows by the segment of each token, padded on the right; -1 is the prompt."""
    width = max(map(len, rows)) + 1
    segments = np.full((len(rows), width), UNSUPERVISED, np.int16)
    for b, row in enumerate(rows):
        segments[b, : len(row)] = row
    weights = np.where(segments == UNSUPERVISED, 0, weight).astype(np.float32)
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros(segments.shape, np.int32)
    return Batch(np.zeros(0, np.int32), tokens, lengths, weights, segments, tuple(range(len(rows))))


def scores_of(batch: Batch, nats: float, wrong: Sequence[tuple[int, int]] = ()) -> TokenScores:
    """The same nats everywhere; all tokens correct but those at `wrong`."""
    correct = batch.supervised.copy()
    for place in wrong:
        assert correct[place]
        correct[place] = False
    return TokenScores(np.where(batch.supervised, np.float32(nats), np.float32(0)), correct)


ROW = [-1, -1, 0, 1, 1, 0, 2, 2, 2, 0, 3, 3, 3, 0]  # prompt, "Priority: ", two tokens, "Tags: ", three, ...


def label_accuracies(wrong: Sequence[tuple[int, int]]) -> tuple[float, float]:
    batch = batch_of([ROW, ROW, ROW, ROW])
    found: Any = validate(scored([scores_of(batch, 1.0, wrong)]), [batch], SEGMENTS, LABEL_FIELDS)
    return found.segments["priority"]["label_accuracy"], found.segments["tags"]["label_accuracy"]


def test_losses_and_accuracies_count_each_token_once_over_all_batches() -> None:
    first, second = batch_of([ROW, ROW[:6]], weight=9.0), batch_of([ROW])
    scores = [scores_of(first, 2.0, [(0, 3), (0, 10), (1, 2)]), scores_of(second, 0.5, [(0, 11), (0, 12)])]
    found = validate(scored(scores), [first, second], SEGMENTS, LABEL_FIELDS)
    assert found.tokens == 12 + 4 + 12
    assert found.loss == pytest.approx((2.0 * 16 + 0.5 * 12) / 28)
    assert found.segments == {
        "template": {"loss": pytest.approx((2.0 * 6 + 0.5 * 4) / 10), "tokens": 10, "accuracy": 0.9},
        "priority": {
            "loss": 1.5,
            "tokens": 6,
            "accuracy": pytest.approx(5 / 6),
            "label_accuracy": pytest.approx(2 / 3),
        },
        "tags": {"loss": 1.25, "tokens": 6, "accuracy": 1.0, "label_accuracy": 1.0},
        "response": {"loss": 1.25, "tokens": 6, "accuracy": 0.5},
    }


def test_a_label_is_right_where_all_its_tokens_are() -> None:
    assert label_accuracies([]) == (1.0, 1.0)
    assert label_accuracies([(0, 3)]) == (0.75, 1.0)
    assert label_accuracies([(0, 3), (0, 4), (2, 8)]) == (0.75, 0.75)
    assert label_accuracies([(0, 3), (1, 4), (2, 6), (2, 7), (2, 8)]) == (0.5, 0.75)


def test_a_label_is_wrong_where_the_model_would_write_on() -> None:
    assert label_accuracies([(0, 5)]) == (0.75, 1.0)  # the token after the priority
    assert label_accuracies([(0, 9)]) == (1.0, 0.75)


def test_what_surrounds_a_label_does_not_count() -> None:
    before_and_text = [(0, 2), (1, 10), (2, 11), (3, 13)]
    assert label_accuracies(before_and_text) == (1.0, 1.0)


def test_a_label_that_the_batch_ends_with_needs_none_after_it() -> None:
    batch = batch_of([[-1, 0, 1, 1], [-1, 0, 1]])
    found = validate(scored([scores_of(batch, 1.0, [(1, 2)])]), [batch], SEGMENTS, LABEL_FIELDS)
    assert found.segments["priority"]["label_accuracy"] == 0.5


def test_without_label_fields_no_label_accuracy_is_claimed() -> None:
    batch = batch_of([ROW])
    found = validate(scored([scores_of(batch, 1.0)]), [batch], SEGMENTS)
    assert all(set(segment) == {"loss", "tokens", "accuracy"} for segment in found.segments.values())


def test_where_every_token_of_a_reply_is_correct_greedy_decoding_writes_that_reply(base: Path, tmp_path: Path) -> None:
    """What teacher-forced label accuracy promises, on a model that was trained until some replies are right."""
    from mlxtune.backends.base import OptimizerSpec

    model, _ = loaded(backend_named("mlx"), base)
    examples, recipe = examples_of(base, tmp_path)
    template, tokenizer = ReplyTemplate(recipe.output), load_tokenizer(base)
    assert template.label_fields == ("intents",)
    order = build_batches(examples, [[0, 1, 2, 3]], shared_prefix(examples))
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    for step in range(1, 31):
        model.train_step(order, 1e-2, step, len(template.segments))
    written = in_order(model.generate([example.prompt.tolist() for example in examples], 40, tokenizer.stop_tokens))
    replies = [[*reply.tokens, tokenizer.end_of_turn] for reply in written]
    right = [reply == example.reply.tolist() for reply, example in zip(replies, examples, strict=True)]
    assert 0 < sum(right) < len(right)
    held_out = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))
    found = validate(model, held_out, template.segments, template.label_fields)
    assert found.segments["intents"]["label_accuracy"] == pytest.approx(sum(right) / len(right))
