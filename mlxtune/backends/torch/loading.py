"""A model folder as transformers' network, frozen, on a device: Hugging Face's or MLX's layout, quantized or not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mlxtune.backends.base import STORED
from mlxtune.backends.experts import is_expert, number_of
from mlxtune.backends.torch.affine import Packed, dequantize, from_words
from mlxtune.backends.torch.architecture import architecture, empty_network
from mlxtune.backends.torch.checkpoint import open_checkpoint
from mlxtune.backends.torch.delta_net import pass_states
from mlxtune.backends.torch.experts import ExpertStack, stack_under, take_experts
from mlxtune.backends.torch.quantized_linear import SCALE, QuantizedEmbedding, QuantizedLinear, QuantizedWeight
from mlxtune.backends.torch.runtime import has_bfloat16
from mlxtune.backends.torch.sharding import own_part, own_rows, shard_empty

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

EMBEDDING = "model.embed_tokens"
TRAINABLE = (torch.bfloat16, torch.float32)  # on a GPU that knows both; gradients leave float16's range


def load_network(
    folder: Path, device: torch.device, dtype: str | None = None, mesh: DeviceMesh | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """transformers' network of a model folder and its config, no parameter of it trainable.

    Args:
        folder: Hugging Face's layout, or MLX's with affine groups of 4 or 8 bits, which stay packed.
        device: Where the weights go, layer by layer.
        dtype: Type of the weights, or of a packed layer's scales, STORED for their own; None is float32 on a CPU, and on a GPU the model's own, or
            bfloat16 for float16, whose range gradients leave.
        mesh: Processes that hold a part of the weights each; None is this one, which holds all. Nothing may be packed then.

    Raises:
        ModelError: The folder is not whole, or is of a kind that transformers or this backend cannot load.
    """
    types = TRAINABLE if has_bfloat16(device) else (torch.float32,)
    with open_checkpoint(folder) as checkpoint:
        network = empty_network(checkpoint.config)
        take_experts(network)
        pass_states(network)
        config = checkpoint.config
        if mesh is not None:
            shard_empty(network, mesh, bool(config["tie_word_embeddings"]))
        routers = architecture(checkpoint.config).routers
        kept = functools.partial(_kept, device=device, dtype=dtype, types=types)
        for layer in checkpoint.layers:
            read = checkpoint.read(layer)
            if mesh is not None:
                _put_own_parts(network, layer, read, kept)
                continue
            parts = {part: kept(tensor) for part, tensor in read.items()}
            packing = checkpoint.packings.get(layer)
            if packing is not None:
                packed = Packed(from_words(parts["weight"]), parts["scales"], parts["biases"], packing)
                if is_expert(layer):
                    stack_under(network, layer).put_packed(number_of(layer), packed)
                    continue
                if layer not in routers:
                    _pack(network, layer, QuantizedWeight(packed), parts.get("bias"))
                    continue
                parts = {
                    "weight": dequantize(packed.weight, packed.scales, packed.biases, packing.group_size, packing.bits)
                }
            if is_expert(layer):
                stack_under(network, layer).put(number_of(layer), parts["weight"])
                continue
            module = network.get_submodule(layer)
            for part, tensor in parts.items():
                setattr(module, part, nn.Parameter(tensor, requires_grad=False))
    if mesh is not None:  # FSDP2 has moved the rest
        return network.eval(), config
    if config["tie_word_embeddings"]:
        embedding = network.get_submodule(EMBEDDING)
        if isinstance(embedding, QuantizedEmbedding):
            network.lm_head = QuantizedLinear(embedding.packed)
        else:
            network.lm_head.weight = embedding.weight
    return network.to(device).requires_grad_(False).eval(), config  # the rotary frequencies are still on the CPU


def _put_own_parts(
    network: PreTrainedModel, layer: str, parts: Mapping[str, Tensor], kept: Callable[[Tensor], Tensor]
) -> None:
    """This process's rows of a layer, or of an expert's this process's experts, in the place of parameters without values.

    Of a file no other pages are read.
    """
    if is_expert(layer):
        _put_own_expert(stack_under(network, layer), number_of(layer), kept(parts["weight"]))
        return
    module = network.get_submodule(layer)
    for part, tensor in parts.items():
        empty = getattr(module, part)
        setattr(module, part, own_part(empty, kept(tensor[own_rows(empty)])))


def _put_own_expert(stack: ExpertStack, number: int, weight: Tensor) -> None:
    """The weight of an expert, if this process holds it; `stack` has a parameter without values before the first."""
    present: Any = stack.weight
    rows = own_rows(present)
    if present.is_meta:
        present = stack.weight = own_part(present, weight.new_empty(rows.stop - rows.start, *weight.shape))
    if rows.start <= number < rows.stop:
        present.to_local()[number - rows.start] = weight


def network_dtype(network: PreTrainedModel) -> torch.dtype:
    """Type that a network's hidden states have."""
    dtype: torch.dtype = network.model.norm.weight.dtype
    return dtype


def _kept(tensor: Tensor, device: torch.device, dtype: str | None, types: Sequence[torch.dtype]) -> Tensor:
    """A tensor of a file as the network keeps it."""
    return tensor.to(device, _kept_type(tensor, dtype, types))


def _kept_type(tensor: Tensor, wanted: str | None, types: Sequence[torch.dtype]) -> torch.dtype:
    """What is wanted, else the tensor's own type where the device trains in it, else the first that it does."""
    if wanted == STORED or not tensor.is_floating_point():
        return tensor.dtype
    if wanted is None:
        return tensor.dtype if tensor.dtype in types else types[0]
    return getattr(torch, wanted)  # type: ignore[no-any-return]


def _pack(network: PreTrainedModel, layer: str, weight: QuantizedWeight, bias: Tensor | None) -> None:
    """Put a packed layer in the place of a plain one."""
    place, _, name = layer.rpartition(".")
    own = network.get_submodule(layer)
    module = (
        QuantizedEmbedding(weight, getattr(own, SCALE, None)) if layer == EMBEDDING else QuantizedLinear(weight, bias)
    )
    setattr(network.get_submodule(place), name, module)
