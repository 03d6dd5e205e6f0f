"""An adapter folded into its base model: W + scale x B A, computed in float32, as a model folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.utils import dequantize_model

from mlxtune.backends import conversion
from mlxtune.backends.adapter import Adapter, read_adapter
from mlxtune.backends.base import WrittenModel
from mlxtune.backends.mlx.convert import set_type, write_network
from mlxtune.backends.mlx.loading import load_network
from mlxtune.models.writing import model_folder


def fuse(base: Path, adapter: Path, out: Path, requantize: bool, dtype: str | None = None) -> WrittenModel:
    """Write the base model with an adapter folded in.

    Args:
        base: The model folder that the adapter was trained on.
        adapter: The adapter folder.
        out: The folder to write; must not exist, or be empty.
        requantize: Pack the adapted layers of a quantized base again, with their own bits and group size. Without it,
            a quantized base comes out unquantized in 16 bits: rounding to 4 bits can erase a small adapter.
        dtype: Type of the fused weights; None is the base's own, and for a quantized base that of its scales, float16
            where they are float32.

    Returns:
        What was written; its notes say what requantizing cost.

    Raises:
        ModelError: The base cannot be read, or cannot be requantized.
        AdapterError: The adapter cannot be read, or does not fit the base.
    """
    conversion.check_dtype(dtype)
    network, config = load_network(base)
    found = read_adapter(adapter)
    conversion.check_fuse(found, config, (adapter, base), requantize, dtype)

    losses: list[tuple[mx.array, mx.array]] = []
    modules = dict(network.named_modules())
    fused = []
    for layer, delta in _deltas(found):
        module, loss = _fused(modules[layer], delta, requantize)
        fused.append((layer, module))
        losses += [loss] if loss is not None else []
    network.update_modules(tree_unflatten(fused))
    if "quantization" in config and not requantize:
        scales = next(module.scales for module in modules.values() if isinstance(module, nn.QuantizedLinear))
        if dtype is None and scales.dtype == mx.float32:
            dtype = "float16"
        network = dequantize_model(network)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    if dtype is not None:
        set_type(network, config, dtype)

    notes = conversion.fuse_notes((lost.item(), update.item()) for lost, update in losses)
    with model_folder(out) as folder:
        written = write_network(network, config, folder, companions=base)
    return WrittenModel(out, written.n_bytes, written.n_parameters, written.bits_per_weight, notes)


def _deltas(adapter: Adapter) -> Iterator[tuple[str, mx.array]]:
    """Layer -> scale x B A, (out, in), float32."""
    for layer in adapter.spec.layers:
        a = mx.array(adapter.weights[f"{layer}.lora_A"])  # (r, in)
        b = mx.array(adapter.weights[f"{layer}.lora_B"])  # (out, r)
        yield layer, adapter.spec.scale * (b @ a)


def _fused(module: Any, delta: mx.array, requantize: bool) -> tuple[nn.Module, tuple[mx.array, mx.array] | None]:
    """A layer with its update, and when requantized the squared norms of what packing moved and of the update."""
    is_packed = isinstance(module, nn.QuantizedLinear)
    dtype = module.scales.dtype if is_packed else module.weight.dtype
    weight = _unpacked(module) + delta if is_packed else module.weight.astype(mx.float32) + delta
    linear = nn.Linear(delta.shape[1], delta.shape[0], bias="bias" in module)
    linear.weight = weight.astype(dtype)
    if "bias" in module:
        linear.bias = module.bias
    if not (is_packed and requantize):
        return linear, None
    packed = nn.QuantizedLinear.from_linear(linear, module.group_size, module.bits, module.mode)
    return packed, (mx.square(_unpacked(packed) - weight).sum(), mx.square(delta).sum())


def _unpacked(module: Any) -> mx.array:
    """Weight of a quantized layer, (out, in), float32."""
    weight = mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits, module.mode)
    return weight.astype(mx.float32)
