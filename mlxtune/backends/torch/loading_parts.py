"""The part of a model folder's weights that this process holds, put into a network whose parameters have no values yet.

Of the files no other pages are read, so that a base model takes no more of the host's memory, either, than a device holds of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from mlxtune.backends.experts import is_expert, number_of
from mlxtune.backends.torch.affine import Packed, dequantize, from_words
from mlxtune.backends.torch.architecture import architecture
from mlxtune.backends.torch.checkpoint import Checkpoint, Parts
from mlxtune.backends.torch.experts import ExpertStack, stack_under
from mlxtune.backends.torch.quantized_linear import QuantizedWeight, put_packed
from mlxtune.backends.torch.sharding import put_own_rows, shard_empty

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Kept = Callable[[Tensor], Tensor]


def load_parts(network: PreTrainedModel, checkpoint: Checkpoint, kept: Kept, mesh: DeviceMesh) -> None:
    """Shard a network over processes, and fill this one's part of it.

    Args:
        network: Its parameters on no device.
        checkpoint: Its weights.
        kept: What makes of a tensor of a file what the network keeps.
        mesh: The processes; all call it.
    """
    routers = architecture(checkpoint.config).routers  # these are never packed in a network
    packed = checkpoint.packings.keys() - routers
    for layer in checkpoint.layers:
        if layer in packed:
            _make_empty_packed(network, checkpoint, layer, kept)
    for module in network.modules():
        if isinstance(module, ExpertStack) and module.packed is None:
            module.make_empty()
    shard_empty(network, mesh, bool(checkpoint.config["tie_word_embeddings"]))
    for layer in checkpoint.layers:
        parts: Parts = checkpoint.read(layer)
        if layer in routers and layer in checkpoint.packings:
            packing = checkpoint.packings[layer]
            weight, scales, biases = from_words(parts["weight"]), kept(parts["scales"]), kept(parts["biases"])
            parts = {"weight": dequantize(kept(weight), scales, biases, packing.group_size, packing.bits)}
        place, first, tensors = _place_of(network, layer, parts, layer in packed)
        for name, tensor in tensors.items():
            put_own_rows(place, name, tensor, first, kept)


def _make_empty_packed(network: PreTrainedModel, checkpoint: Checkpoint, layer: str, kept: Kept) -> None:
    """Put a packed layer without values in the place of a plain one; a bias, which each process has whole, with its values."""
    parts = checkpoint.layers[layer]
    empty = Packed(from_words(parts["weight"]), parts["scales"], parts["biases"], checkpoint.packings[layer])
    if not is_expert(layer):
        bias = kept(checkpoint.read(layer)["bias"]) if "bias" in parts else None
        put_packed(network, layer, QuantizedWeight(empty), bias)
    elif number_of(layer) == 0:  # one for all
        stack_under(network, layer).put_packed(0, empty)


def _place_of(
    network: PreTrainedModel, layer: str, parts: Parts, is_packed: bool
) -> tuple[nn.Module, int, Mapping[str, Tensor]]:
    """The module that has a layer's parameters, from which of their rows on, and their values by name."""
    module: Any = stack_under(network, layer) if is_expert(layer) else network.get_submodule(layer)
    if is_packed:
        values = {"packed": from_words(parts["weight"]), "scales": parts["scales"], "biases": parts["biases"]}
        return module.packed, len(parts["scales"]) * number_of(layer) if is_expert(layer) else 0, values
    if is_expert(layer):
        return module, number_of(layer), {"weight": parts["weight"][None]}
    return module, 0, parts
