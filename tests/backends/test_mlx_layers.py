"""LoRA's layer and MLPs as ours compute them equal mlx-lm's own, in values and gradients."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.mlx import exponential, swiglu

ROWS, WIDTH = 3, 64


def numbers(*shape: int) -> Any:
    """The same random array of a shape every time."""
    import mlx.core as mx

    return mx.array(np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32))


def with_gradients(layer: Any, x: Any) -> dict[str, np.ndarray[Any, Any]]:
    """What a layer computes, and the gradients of a sum of it by what it trains and by its inputs."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    by_inputs = mx.grad(lambda x: (layer(x) * numbers(*layer(x).shape)).sum())(x)
    _, by_own = nn.value_and_grad(layer, lambda: (layer(x) * numbers(*layer(x).shape)).sum())()
    found = {"values": layer(x), "inputs": by_inputs, **dict(tree_flatten(by_own))}
    return {name: np.array(value.astype(mx.float32)) for name, value in found.items()}


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_update_is_added_as_mlx_lm_adds_it(bits: int | None, dtype: str) -> None:
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm.tuner.lora import LoRALinear

    from mlxtune.backends.mlx.lora import LoraLinear

    linear = nn.Linear(WIDTH, 2 * WIDTH)
    linear.update({"weight": numbers(2 * WIDTH, WIDTH).astype(getattr(mx, dtype))})
    linear.freeze()
    base = linear if bits is None else nn.QuantizedLinear.from_linear(linear, 32, bits)
    layers = [kind.from_base(base, r=8, scale=2.5) for kind in (LoraLinear, LoRALinear)]
    for layer in layers:
        layer.update({"lora_a": numbers(WIDTH, 8), "lora_b": numbers(8, 2 * WIDTH)})
        layer.linear.freeze()
    x = numbers(2, ROWS, WIDTH).astype(getattr(mx, dtype))
    assert layers[0](x).dtype == layers[1](x).dtype
    ours, theirs = (with_gradients(layer, x) for layer in layers)
    assert ours.keys() == theirs.keys() >= {"values", "inputs", "lora_a", "lora_b"}
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=tolerance, atol=tolerance * abs(value).max())


@pytest.mark.parametrize("family", ["qwen2", "qwen3_next", "gemma3_text"])
def test_mlps_gated_by_silu_compute_what_mlx_lms_do_and_others_are_left(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.nn as nn

    for module in (exponential, swiglu):
        monkeypatch.setattr(module, "has_fast_exp", lambda: False)
    module = importlib.import_module(f"mlx_lm.models.{family}")
    name = "Qwen3NextMLP" if family == "qwen3_next" else "MLP"
    block = nn.Module()
    block.mlp = getattr(module, name)(WIDTH, 2 * WIDTH)
    own = type(block.mlp)
    x = 3 * numbers(ROWS, WIDTH)
    theirs = with_gradients(block.mlp, x)
    swiglu.use_faster_swiglu([block, nn.Module()])  # a block of another kind has no MLP
    assert (type(block.mlp) is own) == (family == "gemma3_text")
    assert isinstance(block.mlp, own)
    for name, value in with_gradients(block.mlp, x).items():
        np.testing.assert_allclose(value, theirs[name], rtol=1e-4, atol=1e-5)


def test_mlps_stay_mlx_lms_own_where_these_are_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.nn as nn
    from mlx_lm.models.qwen2 import MLP

    monkeypatch.setattr(swiglu, "has_fast_exp", lambda: True)
    block = nn.Module()
    block.mlp = MLP(WIDTH, WIDTH)
    swiglu.use_faster_swiglu([block])
    assert type(block.mlp) is MLP
