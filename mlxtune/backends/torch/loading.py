"""A model folder as transformers' network, frozen, on a device: Hugging Face's or MLX's layout, quantized or not."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
from mlxtune.backends.torch.experts import stack_under, take_experts
from mlxtune.backends.torch.loading_parts import load_parts
from mlxtune.backends.torch.quantized_linear import (
    EMBEDDING,
    QuantizedEmbedding,
    QuantizedLinear,
    QuantizedWeight,
    put_packed,
)
from mlxtune.backends.torch.runtime import has_bfloat16

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

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
        mesh: Processes that hold a part of the weights each; None is this one, which holds all.

    Raises:
        ModelError: The folder is not whole, or is of a kind that transformers or this backend cannot load.
    """
    types = TRAINABLE if has_bfloat16(device) else (torch.float32,)
    with open_checkpoint(folder) as checkpoint:
        network = empty_network(checkpoint.config)
        take_experts(network)
        pass_states(network)
        config = checkpoint.config
        kept = functools.partial(_kept, device=device, dtype=dtype, types=types)
        if mesh is not None:
            load_parts(network, checkpoint, kept, mesh)
            return network.eval(), config
        routers = architecture(checkpoint.config).routers
        for layer in checkpoint.layers:
            parts = {part: kept(tensor) for part, tensor in checkpoint.read(layer).items()}
            packing = checkpoint.packings.get(layer)
            if packing is not None:
                packed = Packed(from_words(parts["weight"]), parts["scales"], parts["biases"], packing)
                if is_expert(layer):
                    stack_under(network, layer).put_packed(number_of(layer), packed)
                    continue
                if layer not in routers:
                    put_packed(network, layer, QuantizedWeight(packed), parts.get("bias"))
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
    if config["tie_word_embeddings"]:
        embedding = network.get_submodule(EMBEDDING)
        if isinstance(embedding, QuantizedEmbedding):
            network.lm_head = QuantizedLinear(embedding.packed)
        else:
            network.lm_head.weight = embedding.weight
    return network.to(device).requires_grad_(False).eval(), config  # the rotary frequencies are still on the CPU


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
