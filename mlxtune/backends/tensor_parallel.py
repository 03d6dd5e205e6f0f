"""Tensor parallelism in values: which part of each block one of several processes has. No mlx, no torch.

A process has some of the heads and a part of every MLP. Layers that lead to these have a part of their outputs, those that lead back a
part of their inputs, and what the processes compute with the latter is added up. Embedding, norms, routers and head are whole on each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlxtune.backends.architecture import Architecture, block_of, is_in_block, last_part
from mlxtune.backends.experts import parts_of
from mlxtune.errors import ModelError

# Of the families that mlx-lm shards, those that tests compare with one process.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_5_text", "qwen3_moe")
# Layers from heads, or from the inside of an MLP, to what goes from block to block.
LEAD_BACK = ("o_proj", "out_proj", "down_proj")
CONVOLUTION = "conv1d"
OF_A_HEAD = ("A_log", "dt_bias")  # weights of a gated delta net with a value for each head


@dataclass(frozen=True)
class FactorPart:
    """What a process has of a linear layer, as places in the whole one.

    Attributes:
        inputs: Of its inputs; None is all.
        outputs: Of its outputs, one after the other; empty is all.
        n_inputs: Inputs of the whole layer.
    """

    inputs: slice | None
    outputs: tuple[slice, ...]
    n_inputs: int


def splits_inputs(layer: str) -> bool:
    """Whether a process has a part of a layer's inputs, and not of its outputs.

    >>> splits_inputs("model.layers.0.self_attn.o_proj"), splits_inputs("model.layers.0.self_attn.q_proj")
    (True, False)
    """
    return last_part(layer) in LEAD_BACK


def require_parts(architecture: Architecture, size: int, group_size: int | None = None) -> None:
    """Refuse a model that is not split into parts of its layers, or not into so many.

    Args:
        architecture: Of the whole model.
        size: Processes.
        group_size: Of the weights that have a scale in common, where it is quantized.

    Raises:
        ModelError: Names the family; or what does not divide, and the numbers that do.
    """
    if architecture.model_type not in FAMILIES:
        raise ModelError(
            f"model.shard: with MLX, processes do not share a base of model_type {architecture.model_type!r}, only {', '.join(FAMILIES)}; set "
            "model.shard to false, or start the processes with torchrun, which connects those of PyTorch"
        )
    counts = dict(_counts(architecture, group_size or 1))
    uneven = next((name for name, count in counts.items() if count % size), None)
    if uneven is None:
        return
    largest = math.gcd(*counts.values())
    possible = [str(number) for number in range(2, largest + 1) if largest % number == 0]
    instead = f"start {' or '.join(possible)} processes" if possible else "set model.shard to false"
    raise ModelError(
        f"model.shard: {size} processes cannot share the model's {counts[uneven]:,} {uneven} evenly; {instead}"
    )


def part_of(architecture: Architecture, size: int) -> Architecture:
    """What one of several processes has of a model, as an architecture of its own: all have as much.

    Args:
        architecture: Of the whole model, which `require_parts` lets pass.
        size: Processes.
    """
    layers = {
        layer: (n_in // size, n_out) if splits_inputs(layer) else (n_in, n_out // size)
        for layer, (n_in, n_out) in architecture.linear_layers.items()
    }
    weights = {name: _part_shape(name, shape, layers, size) for name, shape in architecture.weights.items()}
    nets = tuple(
        net and replace(net, n_key_heads=net.n_key_heads // size, n_value_heads=net.n_value_heads // size)
        for net in architecture.delta_nets
    )
    return replace(
        architecture,
        weights=weights,
        linear_layers=layers,
        n_heads=architecture.n_heads // size,
        n_kv_heads=architecture.n_kv_heads // size,
        delta_nets=nets,
    )


def factor_part(architecture: Architecture, layer: str, rank: int, size: int) -> FactorPart:
    """What a process has of a layer.

    Args:
        architecture: Of the whole model.
        layer: A linear layer's name, or that of a stack of experts.
        rank: Which process.
        size: Processes.
    """
    n_in, n_out = architecture.linear_layers[parts_of(layer, 1)[0]]
    if splits_inputs(layer):
        return FactorPart(_share(0, n_in, rank, size), (), n_in)
    ends = list(itertools.accumulate(_widths(architecture, layer, n_out)))
    places = tuple(_share(start, end, rank, size) for start, end in zip([0, *ends], ends, strict=False))
    return FactorPart(None, places, n_in)


def _share(start: int, end: int, rank: int, size: int) -> slice:
    own = (end - start) // size
    return slice(start + rank * own, start + (rank + 1) * own)


def _widths(architecture: Architecture, layer: str, n_out: int) -> Sequence[int]:
    """Widths of what a layer makes one beside the other, of each of which a process has a part."""
    net = architecture.delta_nets[block_of(layer)]
    if net is None or last_part(layer) != "in_proj_qkv":
        return (n_out,)
    keys = net.n_key_heads * net.key_dim
    return keys, keys, net.n_value_heads * net.value_dim


def _counts(architecture: Architecture, group_size: int) -> Mapping[str, int]:
    """What must be divisible, by name."""
    found: dict[str, int] = {}
    if architecture.n_attention_blocks:
        found |= {"attention heads": architecture.n_heads, "heads of keys and values": architecture.n_kv_heads}
    for net in architecture.delta_nets:
        if net is not None:
            found |= {
                "key heads of gated delta nets": net.n_key_heads,
                "value heads of gated delta nets": net.n_value_heads,
            }
    for layer, (n_in, _) in architecture.linear_layers.items():
        if splits_inputs(layer):
            what = f"inputs of {last_part(layer)}"
            found[what if group_size == 1 else f"groups of {group_size} {what}"] = n_in // group_size
    return found


def _part_shape(name: str, shape: tuple[int, ...], layers: Mapping[str, tuple[int, int]], size: int) -> tuple[int, ...]:
    """Shape of a process's part of a weight, given (in, out) of its part of each linear layer."""
    layer, _, kind = name.rpartition(".")
    if layer in layers:
        n_in, n_out = layers[layer]
        return (n_out, n_in) if kind == "weight" else (n_out,)
    of_heads = kind in OF_A_HEAD or last_part(layer) == CONVOLUTION
    return (shape[0] // size, *shape[1:]) if is_in_block(name) and of_heads else shape
