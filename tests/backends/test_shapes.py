"""Buckets of sizes: they hold what they are asked to, waste a bounded share, and are few for any data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends.base import UNSUPERVISED, Device
from mlxtune.backends.mlx.compiled import MAX_SHAPES
from mlxtune.backends.shapes import (
    BUCKETED,
    EXACT,
    POSITIONS_PER_OCTAVE,
    WIDTHS_PER_OCTAVE,
    PassPadding,
    bucket,
    sequence_tokens,
)
from mlxtune.backends.supervision import padded_batch, supervised
from mlxtune.data.batches import build_batches, epoch_order, shared_prefix
from mlxtune.data.passes import plan_passes
from mlxtune.training.plan import plan
from tests.adapted import examples_of
from tests.conftest import chosen


@pytest.mark.parametrize("per_octave", [WIDTHS_PER_OCTAVE, POSITIONS_PER_OCTAVE])
def test_a_bucket_holds_its_size_and_wastes_less_than_a_step(per_octave: int) -> None:
    for size in range(1, 5000):
        held = bucket(size, per_octave)
        assert size <= held < size * (1 + 1 / per_octave)
        assert bucket(held, per_octave) == held


@pytest.mark.parametrize("per_octave", [WIDTHS_PER_OCTAVE, POSITIONS_PER_OCTAVE])
def test_an_octave_has_so_many_buckets(per_octave: int) -> None:
    assert len({bucket(size, per_octave) for size in range(65, 1025)}) == 4 * per_octave


def test_no_size_falls_below_the_smallest() -> None:
    assert [bucket(size, 4, smallest=16) for size in (0, 1, 16)] == [16, 16, 16]


def test_tickets_of_real_length_meet_few_shapes() -> None:
    """24,022 rows of prompts around 90 and replies around 140 tokens, both of heavy tails, 16 a step."""
    random = np.random.default_rng(0)
    replies = np.clip(random.lognormal(np.log(140), 0.6, 24022), 20, 900).astype(int)
    lengths = replies + np.clip(random.lognormal(np.log(90), 0.7, 24022), 12, 1500).astype(int)
    passes = [
        np.array(step)[rows]
        for step in epoch_order(24022, 16, 0, 0)
        for rows in plan_passes(lengths[step].tolist(), 4096)
    ]

    def shapes(padding: PassPadding) -> Counter[tuple[int, ...]]:
        return Counter(
            (
                padding.rows(len(rows)),
                padding.width(int(max(lengths[rows]))),
                padding.positions(int(sum(replies[rows]))),
            )
            for rows in passes
        )

    met = shapes(BUCKETED)
    assert len(met) < 180
    assert len(shapes(EXACT)) > 5000
    assert sum(times for _, times in met.most_common(MAX_SHAPES)) > 0.97 * len(passes)


def test_a_padded_batch_supervises_the_same_tokens(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    (batch,) = build_batches(examples * 3, [list(range(9))], shared_prefix(examples))
    padded = padded_batch(batch, BUCKETED)
    assert padded.tokens.shape == (10, BUCKETED.width(batch.tokens.shape[1])) != batch.tokens.shape
    found, wanted = supervised(padded), supervised(batch)
    assert np.array_equal(found.targets, wanted.targets) and np.array_equal(found.weights, wanted.weights)
    own, width = padded.tokens[:, :-1].ravel(), batch.tokens.shape[1] - 1
    assert np.array_equal(own[found.positions], batch.tokens[:, :-1].ravel()[wanted.positions])
    assert len(found) and (padded.segments[9:] == UNSUPERVISED).all() and (padded.segments[:, width + 1 :] == -1).all()


def test_what_is_computed_exactly_has_no_padding_of_a_single_row(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    (batch,) = build_batches(examples, [[0]], shared_prefix(examples))
    padded = padded_batch(batch, EXACT)
    assert padded.tokens.shape == (1, batch.lengths[0])


def test_the_plan_counts_the_padding_of_the_device(base: Path, tmp_path: Path) -> None:
    """Counted here row by row; a row's last token is computed in no layer. With torch rows share a sequence and are not padded."""
    examples, recipe = examples_of(base, tmp_path, train={"batch_size": 2, "gradient_accumulation": 1})
    backend = chosen().backend
    planned = plan(recipe, backend, Device("gpu", "a GPU", 10**9, padding=BUCKETED))
    exact = plan(recipe, backend, Device("gpu", "a GPU", 10**9))
    in_sequence = sequence_tokens(backend.name, is_recurrent=False)
    prefix = len(shared_prefix(examples))
    own_tokens = [example.n_tokens - prefix for example in examples]
    steps = epoch_order(len(examples), 2, recipe.train.seed, 0)
    computed = prefix * len(steps)
    padding = head = 0
    order = [
        [step[row] for row in rows]
        for step in steps
        for rows in plan_passes([own_tokens[i] for i in step], 4096, sequence_tokens=in_sequence)
    ]
    for rows in order:
        own = [examples[row].n_tokens - prefix - 1 for row in rows]
        positions = sum(own) if in_sequence else (BUCKETED.width(max(own) + 1) - 1) * BUCKETED.rows(len(rows))
        computed += positions
        padding += positions - sum(own)
        head += BUCKETED.positions(sum(len(examples[row].reply) for row in rows))
    assert planned.padding == pytest.approx(padding / computed)
    assert planned.head_padding == pytest.approx(1 - sum(len(e.reply) for e in examples) / head)
    assert exact.head_padding == 0 and (planned.padding == 0 if in_sequence else planned.padding > exact.padding)
    assert (
        f"padding          {planned.padding:.1%} of the positions computed, {planned.head_padding:.1%} of"
        in planned.as_text()
    )
