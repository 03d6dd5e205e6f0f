"""An adapter folded into the network that carries it, in place, as a check of `fuse.py`, with which it shares no code.

And the embeddings from which such a network computes in float32, whatever type its weights have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear

from mlxtune.backends.experts import parts_of
from mlxtune.backends.mlx.dora import DoraLinear, exact_weight

PACKED = "U32"
TYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}  # as safetensors names them


def fold(network: nn.Module, types: Mapping[str, str]) -> None:
    """`Model.fold` of a network."""
    for name, module in list(network.named_modules()):
        first = parts_of(name, 1)[0]  # plain experts are written each by itself, all of one type
        kind = types.get(f"{name}.weight", types.get(f"{first}.weight"))
        is_adapted = isinstance(module, LoRALinear | LoRASwitchLinear | DoraLinear)
        if kind is None or (kind == PACKED and not is_adapted):
            continue
        plain = module.linear if is_adapted else module
        weight = exact_weight(plain)
        if is_adapted:
            weight = weight + _update(module)
        if isinstance(module, DoraLinear):
            weight = weight * (module.m / mx.linalg.norm(weight, axis=1))[:, None]
        weight = weight.astype(plain.scales.dtype if kind == PACKED else TYPES[kind])
        layer = _layer(plain, weight)
        if "bias" in plain:
            layer.bias = plain.bias.astype(TYPES[types[f"{name}.bias"]])
        if kind == PACKED:
            layer = layer.to_quantized(plain.group_size, plain.bits, plain.mode)
        mx.eval(layer.parameters())  # here, so that one layer is in memory twice and not all
        network.update_modules(tree_unflatten([(name, layer)]))


@contextlib.contextmanager
def float32_embeddings(model: nn.Module) -> Iterator[None]:
    """Let a network's inner model embed tokens in float32 meanwhile, from where on all of it computes in float32."""
    own = model.embed_tokens
    model.embed_tokens = _Float32Embedding(own)
    try:
        yield
    finally:
        model.embed_tokens = own


class _Float32Embedding(nn.Module):  # type: ignore[misc]
    """An embedding in float32; a packed one's own call unpacks in the type of its scales."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def __call__(self, tokens: mx.array) -> mx.array:
        own: Any = self.own
        if "scales" not in own:
            return own(tokens).astype(mx.float32)
        scales, biases = (part[tokens].astype(mx.float32) for part in (own.scales, own.biases))
        return mx.dequantize(own.weight[tokens], scales, biases, own.group_size, own.bits, own.mode)


def _update(module: Any) -> mx.array:
    """What the adapter of a layer adds to its weight, (out, in), or (experts, out, in)."""
    if isinstance(module, LoRASwitchLinear):
        return module.scale * mx.einsum("eor,eri->eoi", module.lora_b, module.lora_a)
    return module.scale * (module.lora_a @ module.lora_b).T


def _layer(plain: Any, weight: mx.array) -> Any:
    """A layer of the same sort with a plain weight."""
    if isinstance(plain, nn.QuantizedEmbedding):
        layer = nn.Embedding(*weight.shape)
    elif isinstance(plain, nn.QuantizedLinear):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in plain)
    elif isinstance(plain, QuantizedSwitchLinear):
        n_experts, n_out, n_in = weight.shape
        layer = SwitchLinear(n_in, n_out, n_experts, bias="bias" in plain)
    else:
        layer = plain
    layer.weight = weight
    return layer
