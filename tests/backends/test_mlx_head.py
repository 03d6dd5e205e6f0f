"""The head in chunks: the numbers of the plain computation, and no logits of all positions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends import shapes
from mlxtune.backends.base import OptimizerSpec, in_order
from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.backends.mlx.head import Head, to_numpy
from mlxtune.data.batches import build_batches, shared_prefix
from tests.adapted import N_SEGMENTS, assert_close, examples_of, gradient_of, loaded
from tests.tiny import tiny_model

HIDDEN, VOCABULARY, POSITIONS = 64, 512, 200
CHUNK_BYTES = 64 * VOCABULARY * 4  # 64 positions: 4 chunks
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles CPU kernels with a C++ compiler")


def network(tied: bool = True, dtype: str = "float32", bits: int | None = None, bias: bool = False) -> Any:
    """What a head is found in: an embedding and, untied, an lm_head, with values that are not all small."""
    import mlx.core as mx
    import mlx.nn as nn

    found = nn.Module()
    found.model = nn.Module()
    found.model.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
    if not tied:
        found.lm_head = nn.Linear(HIDDEN, VOCABULARY, bias=bias)
    layer = found.model.embed_tokens if tied else found.lm_head
    random = np.random.default_rng(0)
    layer.weight = mx.array(random.normal(0, 0.3, (VOCABULARY, HIDDEN)).astype(np.float32))
    if bias:
        layer.bias = mx.array(random.normal(0, 1, VOCABULARY).astype(np.float32))
    found.set_dtype(getattr(mx, dtype))
    if bits:
        nn.quantize(found, 32, bits)
    return found


def positions(dtype: str = "float32") -> tuple[Any, Any, Any]:
    """Hidden states, targets and weights, some of them zero."""
    import mlx.core as mx

    random = np.random.default_rng(1)
    hidden = mx.array(random.normal(0, 1, (POSITIONS, HIDDEN)).astype(np.float32)).astype(getattr(mx, dtype))
    weights = np.where(np.arange(POSITIONS) % 7, random.uniform(0.5, 2, POSITIONS), 0).astype(np.float32)
    return hidden, mx.array(random.integers(0, VOCABULARY, POSITIONS)), mx.array(weights)


def weight_of(found: Any) -> NDArray[np.float64]:
    """The head's weight as its values are, whatever it is stored in."""
    import mlx.core as mx

    layer = found.lm_head if "lm_head" in found else found.model.embed_tokens
    if "scales" in layer:
        scales, biases = layer.scales.astype(mx.float32), layer.biases.astype(mx.float32)
        weight = mx.dequantize(layer.weight, scales, biases, layer.group_size, layer.bits)
    else:
        weight = layer.weight
    return np.array(weight.astype(mx.float32), np.float64)


def in_numpy(found: Any, hidden: Any, targets: Any, weights: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Nats, argmax and the weighted nats' gradient by the hidden states, in float64 over whole logits."""
    import mlx.core as mx

    weight = weight_of(found)
    logits = np.array(hidden.astype(mx.float32), np.float64) @ weight.T
    if "lm_head" in found and "bias" in found.lm_head:
        logits += np.array(found.lm_head.bias.astype(mx.float32), np.float64)
    log_p = logits - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    places = np.arange(POSITIONS), np.array(targets)
    by_logits = np.exp(log_p)
    by_logits[places] -= 1
    return -log_p[places], logits.argmax(-1), np.array(weights)[:, None] * by_logits @ weight


def nats_and_gradient(
    head: Head, hidden: Any, targets: Any, weights: Any, compiled: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    import mlx.core as mx

    def loss(hidden: Any) -> Any:
        nats = head.nats(hidden, targets)
        return mx.sum(mx.concatenate(nats) * weights), nats

    function: Callable[..., Any] = mx.value_and_grad(loss)
    (_, nats), gradient = (mx.compile(function) if compiled else function)(hidden)
    return to_numpy(nats), np.array(gradient.astype(mx.float32))


HEADS = [
    {},
    {"tied": False},
    {"tied": False, "bias": True},
    {"dtype": "bfloat16"},
    {"tied": False, "dtype": "bfloat16", "bias": True},
    {"dtype": "float16"},
    {"bits": 4},
    {"tied": False, "bits": 8},
    {"dtype": "bfloat16", "bits": 4},
]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("kind", HEADS, ids=str)
def test_nats_and_gradient_in_chunks_are_those_of_whole_logits(kind: dict[str, Any], compiled: bool) -> None:
    found, (hidden, targets, weights) = network(**kind), positions()
    nats, gradient = nats_and_gradient(Head(found, CHUNK_BYTES).widen(), hidden, targets, weights, compiled)
    wanted, _, wanted_gradient = in_numpy(found, hidden, targets, weights)
    np.testing.assert_allclose(nats, wanted, rtol=1e-6, atol=1e-5)
    assert np.linalg.norm(gradient - wanted_gradient) < 1e-5 * np.linalg.norm(wanted_gradient)


def test_a_confident_token_has_a_gradient_as_precise_as_any() -> None:
    """At 1e-3 nats; what is left of a softmax beside 1 must not vanish in a sum with it."""
    import mlx.core as mx

    found, (hidden, _, weights) = network(), positions()
    best = in_numpy(found, hidden, mx.zeros(POSITIONS, mx.int32), weights)[1]
    hidden, targets = hidden * 4, mx.array(best)
    nats, gradient = nats_and_gradient(Head(found, CHUNK_BYTES), hidden, targets, weights)
    sure = nats < 1e-2
    assert sure.sum() > 20
    wanted = in_numpy(found, hidden, targets, weights)[2]
    assert np.linalg.norm((gradient - wanted)[sure]) < 1e-3 * np.linalg.norm(wanted[sure])


@pytest.mark.parametrize("kind", HEADS, ids=str)
def test_scores_in_chunks_are_those_of_whole_logits(kind: dict[str, Any]) -> None:
    found, (hidden, targets, weights) = network(**kind), positions("bfloat16")
    nats, argmax = Head(found, CHUNK_BYTES).scores(hidden, targets)
    wanted, best, _ = in_numpy(found, hidden, targets, weights)
    np.testing.assert_allclose(nats, wanted, rtol=1e-6, atol=1e-5)
    assert np.array_equal(argmax, best)


@pytest.mark.parametrize("n_positions", [1, 63, 64, 65, 129])
def test_chunks_hold_every_position_once_and_in_order(n_positions: int) -> None:
    hidden, targets, _ = positions()
    head, whole = Head(network(), CHUNK_BYTES), Head(network(), 1 << 30)
    found = head.scores(hidden[:n_positions], targets[:n_positions])[0]
    np.testing.assert_allclose(found, whole.scores(hidden[:n_positions], targets[:n_positions])[0], atol=1e-6)


def test_neither_training_nor_scoring_holds_the_logits_of_all_positions() -> None:
    import mlx.core as mx

    found = network()
    random = np.random.default_rng(0)
    n_positions = 4000
    hidden = mx.array(random.normal(0, 1, (n_positions, HIDDEN)).astype(np.float32))
    targets = mx.array(random.integers(0, VOCABULARY, n_positions))
    weights = mx.ones(n_positions)
    mx.eval(hidden, targets, weights, found.parameters())
    all_logits = n_positions * VOCABULARY * 4

    def peak(compute: Callable[[], Any]) -> int:
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        compute()
        return int(mx.get_peak_memory() - held)

    head, whole = Head(found, all_logits // 20), Head(found, all_logits)
    assert peak(lambda: nats_and_gradient(head, hidden, targets, weights)) < 0.6 * all_logits
    assert peak(lambda: nats_and_gradient(whole, hidden, targets, weights)) > all_logits
    assert peak(lambda: head.scores(hidden, targets)) < 0.3 * all_logits


def test_a_16_bit_head_is_widened_once_a_model(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    model: Any = MlxBackend().load(base, dtype="bfloat16")
    model.score(batch_list[0])
    copy: Any = model._head._widened
    assert copy.nbytes == 2 * model._network.model.embed_tokens.weight.nbytes
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    in_order(model.generate([[3, 4, 5]], 2, [0]))
    assert model._head._widened is copy


@pytest.mark.parametrize("dtype", ["float32", None], ids=["float32", "packed"])
def test_a_head_that_needs_no_copy_has_none(dtype: str | None) -> None:
    assert Head(network(bits=None if dtype else 4)).widen()._widened is None


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_chunks_leave_a_steps_loss_and_gradient_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float, gradient_checkpointing: bool, quantized: bool
) -> None:
    monkeypatch.setattr(shapes, "MIN_POSITIONS", 1)
    packing = {"bits": 4, "group_size": 32} if quantized else None
    folder = tiny_model(tmp_path / "base", "qwen3", tied=quantized, quantization=packing)
    examples, _ = examples_of(folder, tmp_path)
    batch_list = build_batches(examples, [[0, 1, 2], [3]], shared_prefix(examples))

    def step(logits_bytes: int) -> tuple[float, dict[str, Any]]:
        model, _ = loaded(MlxBackend(), folder, dropout)
        model._head = Head(model._network, logits_bytes)  # type: ignore[attr-defined]
        gradient = gradient_of(model, batch_list, gradient_checkpointing=gradient_checkpointing)
        return model.train_step(batch_list, 0.0, 1, N_SEGMENTS).loss, gradient

    (loss, gradient), (wanted, wanted_gradient) = step(5 * 448 * 4), step(1 << 30)
    assert loss == pytest.approx(wanted, abs=1e-6)
    assert_close(gradient, wanted_gradient, 1e-5)
