"""An adapter folded into its base model: W + scale x B A, with DoRA's lengths, computed in float32, as a model folder of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from mlxtune.backends import conversion
from mlxtune.backends.adapter import Adapter, read_adapter
from mlxtune.backends.base import MAGNITUDE, WrittenModel
from mlxtune.backends.experts import stacked, stacks
from mlxtune.backends.mlx.architecture import architecture
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
    conversion.check_fuse(found, config, architecture(config), (adapter, base), requantize, dtype)

    losses: list[tuple[mx.array, mx.array]] = []
    modules = dict(network.named_modules())
    packed = {name: module for name, module in modules.items() if "scales" in module}
    unpacks = bool(packed) and not requantize
    if unpacks and dtype is None and next(iter(packed.values())).scales.dtype == mx.float32:
        dtype = "float16"
    changed: dict[str, nn.Module] = {}
    found = replace(found, weights=stacked(found.weights))
    for layer in stacks(found.spec.layers):
        changed[layer], loss = _fused(modules[layer], found, layer, requantize, dtype)
        losses += [loss] if loss is not None else []
    if unpacks:
        changed |= {name: _plain(module, dtype) for name, module in packed.items() if name not in changed}
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    network.update_modules(tree_unflatten(list(changed.items())))
    if dtype is not None:
        set_type(network, config, dtype)

    notes = conversion.fuse_notes(base, ((lost.item(), update.item()) for lost, update in losses))
    with model_folder(out) as folder:
        written = write_network(network, config, folder, companions=base)
    return WrittenModel(out, written.n_bytes, written.n_parameters, written.bits_per_weight, notes)


def _fused(
    module: Any, adapter: Adapter, layer: str, requantize: bool, dtype: str | None
) -> tuple[nn.Module, tuple[mx.array, mx.array] | None]:
    """A layer with its update, and when requantized the squared norms of what packing moved and of the update."""
    exact = _exact(module)
    weight = _updated(exact, adapter, layer)
    linear = _with_weight(module, weight.astype(_type(module, dtype)))
    if not ("scales" in module and requantize):
        return linear, None
    packed = linear.to_quantized(module.group_size, module.bits, module.mode)
    return packed, (mx.square(_exact(packed) - weight).sum(), mx.square(weight - exact).sum())


def _updated(weight: mx.array, adapter: Adapter, layer: str) -> mx.array:
    """W + scale x B A, (out, in), of stacks (experts, out, in), float32; with DoRA each row as long as its magnitude."""
    a = mx.array(adapter.weights[f"{layer}.lora_A"])  # (r, in)
    b = mx.array(adapter.weights[f"{layer}.lora_B"])  # (out, r)
    weight = weight + adapter.spec.scale * (b @ a)
    if not adapter.spec.has_magnitudes:
        return weight
    magnitudes = mx.array(adapter.weights[f"{layer}.{MAGNITUDE}"])
    return weight * (magnitudes / mx.sqrt(mx.square(weight).sum(axis=1)))[:, None]


def _plain(module: Any, dtype: str | None) -> nn.Module:
    """A packed layer, unpacked."""
    return _with_weight(module, _exact(module).astype(_type(module, dtype)))


def _with_weight(module: Any, weight: mx.array) -> nn.Module:
    """A plain layer of a weight, (out, in), or (experts, out, in), in the place of another."""
    if isinstance(module, nn.QuantizedEmbedding):
        layer = nn.Embedding(*weight.shape)
    elif isinstance(module, SwitchLinear | QuantizedSwitchLinear):
        n_experts, n_out, n_in = weight.shape
        layer = SwitchLinear(n_in, n_out, n_experts, bias="bias" in module)
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in module)
    layer.weight = weight
    if "bias" in module:
        layer.bias = module.bias
    return layer


def _type(module: Any, dtype: str | None) -> mx.Dtype:
    """The type asked for, or the layer's own, which is that of its scales if it is packed."""
    if dtype is not None:
        return getattr(mx, dtype)
    return module.scales.dtype if "scales" in module else module.weight.dtype


def _exact(module: Any) -> mx.array:
    """Weight of a layer, (out, in), float32; packed ones are unpacked in float32, so that they are rounded once."""
    if "scales" not in module:
        return module.weight.astype(mx.float32)
    scales, biases = module.scales.astype(mx.float32), module.biases.astype(mx.float32)
    return mx.dequantize(module.weight, scales, biases, module.group_size, module.bits, module.mode)
