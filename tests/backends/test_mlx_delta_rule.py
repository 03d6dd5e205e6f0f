"""The gated delta rule in chunks computes what transformers computes token by token, and so do its gradients."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.mlx.delta_rule import CHUNK, gated_delta_rule, gated_delta_tree

ROWS, KEY_HEADS, VALUE_HEADS, KEY_DIM, VALUE_DIM = 2, 2, 4, 16, 24
NAMES = ("queries", "keys", "values", "log_decays", "betas", "state")
Arrays = list[NDArray[np.float32]]


def inputs_of(n_tokens: int, kind: str, seed: int = 0) -> Arrays:
    """Queries and keys of length 1, values, log decays, betas and a state.

    Args:
        n_tokens: T.
        kind: Decays as usual; 'strong', where some forget everything; or 'repeated': one key for all, nothing is forgotten and
            nearly all replaced, which is where the inverse of a chunk's system is hardest to compute.
        seed: Of the numbers.
    """
    random = np.random.default_rng(seed)
    heads = (ROWS, n_tokens, KEY_HEADS, KEY_DIM)
    queries, keys = random.standard_normal((2, *heads))
    gates = (ROWS, n_tokens, VALUE_HEADS)
    log_decays = -np.exp(random.standard_normal(gates) - 1)
    betas = random.uniform(0, 1, gates)
    if kind == "strong":
        log_decays = -random.choice([0.001, 1e4], gates, p=[0.9, 0.1])
    if kind == "repeated":
        keys, log_decays, betas = np.broadcast_to(keys[:, :1], heads), np.zeros(gates), np.full(gates, 0.99)
    queries, keys = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (queries, keys))
    values = random.standard_normal((*gates, VALUE_DIM))
    state = random.standard_normal((ROWS, VALUE_HEADS, VALUE_DIM, KEY_DIM))
    return [part.astype(np.float32) for part in (queries, keys, values, log_decays, betas, state)]


def cotangents_of(values: NDArray[Any], state: NDArray[Any]) -> Arrays:
    """What the loss weighs outputs and state with."""
    random = np.random.default_rng(1)
    return [random.standard_normal(part.shape).astype(np.float32) for part in (values, state)]


def theirs(inputs: Arrays) -> tuple[Arrays, Arrays]:
    """Outputs and state of transformers' loop over tokens, and the gradients of a weighted sum of both."""
    torch = pytest.importorskip("torch")
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

    tensors = [torch.tensor(part, requires_grad=True) for part in inputs]
    queries, keys, *tokens, state = tensors
    # Older versions of transformers take a head of queries and keys for each one of the values.
    queries, keys = (part.repeat_interleave(VALUE_HEADS // KEY_HEADS, dim=2) for part in (queries, keys))
    outputs, last = torch_recurrent_gated_delta_rule(
        queries, keys, *tokens, initial_state=state.transpose(-1, -2), output_final_state=True
    )
    found = [outputs, last.transpose(-1, -2)]
    weights = cotangents_of(inputs[2], inputs[5])
    sum((part * torch.tensor(weight)).sum() for part, weight in zip(found, weights, strict=True)).backward()
    return [part.detach().numpy() for part in found], [part.grad.numpy() for part in tensors]


def ours(inputs: Arrays) -> tuple[Arrays, Arrays]:
    """The same, of ours; transformers scales the queries itself."""
    import mlx.core as mx

    weights = [mx.array(part) for part in cotangents_of(inputs[2], inputs[5])]

    def found(queries: Any, *rest: Any) -> list[Any]:
        return list(gated_delta_rule(queries * KEY_DIM**-0.5, *rest))

    results, gradients = mx.vjp(found, [mx.array(part) for part in inputs], weights)
    return [np.array(part) for part in results], [np.array(part) for part in gradients]


def relative(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("kind", ["usual", "strong", "repeated"])
@pytest.mark.parametrize("n_tokens", [1, 31, 63, 64, 65, 200, 8 * CHUNK + 1])
def test_outputs_state_and_gradients_are_those_of_the_loop_over_tokens(n_tokens: int, kind: str) -> None:
    inputs = inputs_of(n_tokens, kind)
    (results, gradients), (wanted, wanted_gradients) = ours(inputs), theirs(inputs)
    for got, expected in zip(results, wanted, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    for name, got, expected in zip(NAMES, gradients, wanted_gradients, strict=True):
        assert np.all(np.isfinite(got)) and relative(got, expected) < 1e-5, name


def test_bfloat16_inputs_are_computed_in_float32_and_rounded_once() -> None:
    import mlx.core as mx

    rounded = [mx.array(part).astype(mx.bfloat16) for part in inputs_of(100, "usual")]
    outputs, state = gated_delta_rule(*rounded)
    exact, exact_state = gated_delta_rule(*(part.astype(mx.float32) for part in rounded))
    assert outputs.dtype == mx.bfloat16 and state.dtype == mx.float32
    assert mx.array_equal(outputs, exact.astype(mx.bfloat16)) and mx.array_equal(state, exact_state)
    gradients = mx.grad(lambda *parts: gated_delta_rule(*parts)[0].astype(mx.float32).sum(), argnums=(0, 3))(*rounded)
    assert all(part.dtype == mx.bfloat16 and mx.isfinite(part).all().item() for part in gradients)


def test_tokens_without_decay_and_beta_leave_the_state_as_it_is() -> None:
    import mlx.core as mx

    inputs = [mx.array(part) for part in inputs_of(70, "usual")]
    queries, keys, values, log_decays, betas, state = inputs
    own = (mx.arange(70) < 50)[:, None]
    _, last = gated_delta_rule(queries, keys, values, mx.where(own, log_decays, 0), mx.where(own, betas, 0), state)
    _, wanted = gated_delta_rule(*[*(part[:, :50] for part in inputs[:5]), state])
    np.testing.assert_allclose(np.array(last), np.array(wanted), atol=1e-6)


@pytest.mark.parametrize("kind", ["usual", "strong"])
def test_each_node_of_a_tree_has_the_output_of_its_path_as_a_sequence(kind: str) -> None:
    import mlx.core as mx

    random = np.random.default_rng(0)
    paths: list[list[int]] = [[0]]
    for node in range(1, 37):
        paths.append([*paths[int(random.integers(node))], node])
    ancestors = np.zeros((len(paths), len(paths)), np.bool_)
    for node, path in enumerate(paths):
        ancestors[node, path] = True
    inputs = [mx.array(part) for part in inputs_of(len(paths), kind)]
    found = np.array(gated_delta_tree(*[*inputs, mx.array(ancestors)]))
    for node, path in enumerate(paths):
        wanted, _ = gated_delta_rule(*[*(part[:, mx.array(path)] for part in inputs[:5]), inputs[5]])
        np.testing.assert_allclose(found[:, node], np.array(wanted)[:, -1], atol=1e-5)
    assert max(map(len, paths)) > 5


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles CPU kernels with a C++ compiler")
def test_compiled_it_has_the_same_gradient() -> None:
    import mlx.core as mx

    def gradients(*parts: Any) -> Any:
        return mx.grad(lambda *inputs: gated_delta_rule(*inputs)[0].sum(), argnums=tuple(range(6)))(*parts)

    inputs = [mx.array(part) for part in inputs_of(4, "usual")]
    for got, wanted in zip(mx.compile(gradients)(*inputs), gradients(*inputs), strict=True):
        np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-5)


def peak_of(function: Any, inputs: Sequence[Any]) -> int:
    """Bytes that a gradient takes above what is held before."""
    import mlx.core as mx

    mx.eval(inputs)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.grad(lambda *parts: function(*parts)[0].sum(), argnums=tuple(range(6)))(*inputs))
    return int(mx.get_peak_memory() - before)


def test_a_gradient_keeps_a_state_a_block_of_chunks_and_not_one_a_token() -> None:
    import mlx.core as mx

    queries, keys, values, *gates, state = inputs_of(256, "usual")
    wide = [np.tile(part, 4) / 2 for part in (queries, keys, values)]  # heads as wide as real ones
    inputs = [mx.array(part) for part in (*wide, *gates, np.tile(state, (4, 4)))]
    assert peak_of(gated_delta_rule, inputs) < 256 * inputs[5].nbytes / 2


def test_a_key_head_that_serves_several_value_heads_is_as_many_equal_key_heads() -> None:
    import mlx.core as mx

    def repeated(queries: Any, keys: Any, *rest: Any) -> Any:
        times = VALUE_HEADS // KEY_HEADS
        return gated_delta_rule(mx.repeat(queries, times, axis=2), mx.repeat(keys, times, axis=2), *rest)[0]

    inputs = [mx.array(part) for part in inputs_of(70, "usual")]
    weights = [mx.array(cotangents_of(np.array(inputs[2]), np.array(inputs[5]))[0])]
    for got, wanted in zip(
        mx.vjp(lambda *parts: [repeated(*parts)], inputs, weights)[1],
        mx.vjp(lambda *parts: [gated_delta_rule(*parts)[0]], inputs, weights)[1],
        strict=True,
    ):
        assert relative(np.array(got), np.array(wanted)) < 1e-5


def test_without_a_gradient_it_computes_the_same_and_keeps_no_states() -> None:
    import mlx.core as mx

    inputs = [mx.array(part) for part in inputs_of(40 * CHUNK, "usual")]
    queries, keys, values, log_decays, betas, state = inputs
    wide = [mx.concatenate([part] * 8, axis=-1) / 3 for part in (queries, keys, values)]  # heads as wide as real ones
    states = mx.tile(state, (8, 8))
    peaks, results = [], []
    for differentiable in (True, False):
        mx.eval(wide, states)
        mx.clear_cache()
        mx.reset_peak_memory()
        results.append(
            gated_delta_rule(wide[0], wide[1], wide[2], log_decays, betas, states, differentiable=differentiable)
        )
        mx.eval(results[-1])
        peaks.append(mx.get_peak_memory())
    assert all(mx.array_equal(*parts) for parts in zip(*results, strict=True))
    assert peaks[0] - peaks[1] > 20 * states.nbytes
