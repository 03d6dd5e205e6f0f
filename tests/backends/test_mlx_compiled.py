"""A compiled step keeps a bounded number of shapes, and computes what the plain one does."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import UNSUPERVISED, OptimizerSpec
from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.backends.mlx.compiled import CompiledByShape
from mlxtune.backends.mlx.model import MlxModel
from mlxtune.data.batches import build_batches, shared_prefix
from tests.adapted import N_SEGMENTS, assert_close, examples_of, gradient_of, loaded

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles CPU kernels with a C++ compiler")


def counting(max_shapes: int) -> tuple[CompiledByShape, list[int]]:
    """The sum of an array, compiled, and the lengths it was traced for."""
    import mlx.core as mx

    traced: list[int] = []

    def total(values: Any) -> Any:
        traced.append(len(values))
        return mx.sum(values)

    return CompiledByShape(total, max_shapes=max_shapes), traced


def test_the_shape_that_was_not_used_for_the_longest_time_is_dropped() -> None:
    import mlx.core as mx

    compiled, traced = counting(max_shapes=2)
    for length in (3, 4, 3, 5, 3, 4):
        assert compiled(mx.ones(length)).item() == length
    assert traced == [3, 4, 5, 4] and compiled.n_compiled == 4


def test_what_is_dropped_is_gone() -> None:
    """MLX would keep what a function object was traced for until the object itself is gone."""
    import mlx.core as mx

    compiled, traced = counting(max_shapes=1)
    for length in (3, 4, 3, 4):
        compiled(mx.ones(length))
        gc.collect()
    assert traced == [3, 4, 3, 4]


def test_types_and_lists_tell_shapes_apart() -> None:
    import mlx.core as mx

    compiled = CompiledByShape(lambda values, more: values + more[0])
    for dtype in (mx.float32, mx.int32):
        for length in (1, 3):
            assert compiled(mx.ones(3, dtype), [mx.ones(length, dtype)]).tolist() == [2, 2, 2]
    assert compiled.n_compiled == 4


@needs_compiler
def test_a_step_in_buckets_has_the_loss_and_gradient_of_one_without(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples * 3, [list(range(9)), [9, 10]], shared_prefix(examples))

    def step(compiled: bool) -> tuple[float, dict[str, Any]]:
        plain, spec = loaded(MlxBackend(), base)
        model = MlxModel(MlxBackend().load(base)._network, plain.config, compiled)  # type: ignore[attr-defined]
        model.attach_lora(spec, plain.adapter_weights())
        gradient = gradient_of(model, batch_list)
        return model.train_step(batch_list, 0.0, 1, N_SEGMENTS).loss, gradient

    (loss, gradient), (wanted, wanted_gradient) = step(True), step(False)
    assert loss == pytest.approx(wanted, abs=1e-6)
    assert_close(gradient, wanted_gradient, 1e-5)


@needs_compiler
def test_scores_in_buckets_are_those_without(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    (batch,) = build_batches(examples * 3, [list(range(9))], shared_prefix(examples))
    plain: Any = MlxBackend().load(base)
    found = MlxModel(plain._network, plain.config, compiled=True).score(batch)
    wanted = plain.score(batch)
    np.testing.assert_allclose(found.nats, wanted.nats, atol=1e-5)
    assert np.array_equal(found.correct, wanted.correct) and found.nats.any()


@needs_compiler
def test_batches_of_many_lengths_are_compiled_for_few(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    network: Any = MlxBackend().load(base)
    plain, spec = loaded(MlxBackend(), base)
    model: Any = MlxModel(network._network, network.config, compiled=True)
    model.attach_lora(spec, plain.adapter_weights())
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    (batch,) = build_batches(examples, [[0, 1]], shared_prefix(examples)[:1])
    widths = set()
    for extra in range(8):
        at = ((0, 0), (extra, 0))  # prompts of more and more tokens
        longer = replace(
            batch,
            tokens=np.pad(batch.tokens, at, constant_values=5),
            lengths=batch.lengths + extra,
            weights=np.pad(batch.weights, at),
            segments=np.pad(batch.segments, at, constant_values=UNSUPERVISED),
        )
        widths.add(longer.tokens.shape[1])
        model.train_step([longer], 0.0, 1, N_SEGMENTS)
    assert len(widths) == 8
    assert model._step_gradient.n_compiled <= 3
