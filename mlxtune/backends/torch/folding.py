"""An adapter folded into the network that carries it, in place, as a check of `fuse.py`, with which it shares no code.

And the mode in which such a network computes in float32, whatever type its weights have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from mlxtune.backends.experts import is_expert, is_stack, stack_of
from mlxtune.backends.torch.affine import quantize
from mlxtune.backends.torch.dora import DoraLinear
from mlxtune.backends.torch.experts import ExpertStack, stack_under
from mlxtune.backends.torch.lora import LoraLinear
from mlxtune.backends.torch.quantized_linear import (
    SCALE,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedWeight,
    ScaledEmbedding,
)

PACKED = "U32"
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors names them


class Widened(TorchFunctionMode):
    """Linear layers widen their weights to the type of their inputs, one at a time, while this is entered."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torch calls it for each of its functions."""
        if func is nn.functional.linear and not kwargs:
            args = (args[0], *(part if part is None else part.to(args[0].dtype) for part in args[1:]))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def fold(network: PreTrainedModel, types: Mapping[str, str], adapter: str) -> None:
    """`Model.fold` of a network whose head is a `Float32Head`; `adapter` is PEFT's name of the one to fold."""
    for name in sorted({name.rpartition(".")[0] for name in types}):
        if is_stack(name) or is_expert(name):
            continue
        place, _, own = ("lm_head.own" if name == "lm_head" else name).rpartition(".")
        parent = network.get_submodule(place)
        module = getattr(parent, own)
        if f"{name}.weight" not in types:
            _cast(module, {part: types[f"{name}.{part}"] for part, _ in module.named_parameters(recurse=False)})
            continue
        kind, is_adapted = types[f"{name}.weight"], isinstance(module, (LoraLinear, DoraLinear))
        if kind == PACKED and not is_adapted:
            continue
        plain = module.base_layer if is_adapted else module
        weight = _weight(plain)
        if isinstance(module, DoraLinear):
            weight += module.scale * (module.lora_B @ module.lora_A)
            weight *= (module.magnitude / torch.linalg.vector_norm(weight, dim=1))[:, None]
        elif is_adapted:
            weight += module.scaling[adapter] * (module.lora_B[adapter].weight @ module.lora_A[adapter].weight)
        if kind == PACKED:
            packed = quantize(
                weight.to(plain.packed.scales.dtype), plain.packed.packing.group_size, plain.packed.packing.bits
            )
            layer: nn.Module = QuantizedLinear(QuantizedWeight(packed), plain.bias)
        else:
            layer = _layer(plain, weight.to(TYPES[kind]))
            if getattr(plain, "bias", None) is not None:
                layer.bias = _parameter(plain.bias.to(TYPES[types[f"{name}.bias"]]))
        setattr(parent, own, layer)
    for name, kind in {stack_of(name): kind for name, kind in types.items() if name.endswith(".weight")}.items():
        if is_stack(name):
            _fold_stack(stack_under(network, name.removesuffix(".weight")), kind)
    if "lm_head.weight" not in types:  # tied
        tied = network.get_submodule("model.embed_tokens")
        is_packed = isinstance(tied, QuantizedEmbedding)
        network.lm_head.own = QuantizedLinear(tied.packed) if is_packed else _linear(tied.weight)


def _fold_stack(stack: ExpertStack, kind: str) -> None:
    """The same of a stack of experts, one of them at a time."""
    a, b, packed = stack.lora_A, stack.lora_B, stack.packed
    if kind == PACKED and a is None:
        return
    folded = ExpertStack(stack.n_experts, stack.n_out, stack.n_in)
    for number in range(stack.n_experts):
        weight = stack.plain(number)
        if a is not None and b is not None:
            weight += stack.scale * (b[number] @ a[number])
        if kind == PACKED and packed is not None:
            packing = packed.packing
            folded.put_packed(number, quantize(weight.to(packed.scales.dtype), packing.group_size, packing.bits))
        else:
            folded.put(number, weight.to(TYPES[kind]))
    stack.weight, stack.packed, stack.lora_A, stack.lora_B = folded.weight, folded.packed, None, None


def embedded(embedding: Any, tokens: Tensor) -> Tensor:
    """Embeddings of tokens in float32, scaled where the family scales them."""
    if isinstance(embedding, QuantizedEmbedding):
        return embedding(tokens, torch.float32)  # type: ignore[no-any-return]
    values = nn.functional.embedding(tokens, embedding.weight).float()
    scale = getattr(embedding, SCALE, None)
    return values if scale is None else values * scale


def _weight(plain: Any) -> Tensor:
    """Weight of a layer, float32, a copy."""
    if isinstance(plain, (QuantizedLinear, QuantizedEmbedding)):
        return plain.packed.rows(0, plain.packed.n_out, torch.float32)
    return plain.weight.detach().to(torch.float32, copy=True)  # type: ignore[no-any-return]


def _cast(module: nn.Module, types: Mapping[str, str]) -> None:
    """Round the parameters that a module has beside those of its layers."""
    for part, kind in types.items():
        setattr(module, part, _parameter(getattr(module, part).to(TYPES[kind])))


def _layer(plain: nn.Module, weight: Tensor) -> Any:
    """A layer of the same sort with a plain weight."""
    if isinstance(plain, QuantizedEmbedding):
        return ScaledEmbedding(weight, plain.embed_scale)
    if isinstance(plain, (QuantizedLinear, nn.Linear)):
        return _linear(weight)
    plain.weight = _parameter(weight)  # an embedding or a norm
    return plain


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = _parameter(weight)
    return layer


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
