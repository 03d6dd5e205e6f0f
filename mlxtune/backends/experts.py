"""The layers of experts under two names: each its own, as Hugging Face's files have them, and stacked, as networks compute them. NumPy only.

    model.layers.0.mlp.experts.3.up_proj      one expert's layer, (out, in); so files, the seam and all else call it
    model.layers.0.mlp.switch_mlp.up_proj     the same layer of all experts of a block, (experts, out, in): mlx-lm's name

Both backends hold the factors of a stack in one array a factor, and so does an adapter on disk; at the seam each expert has its own.
Some files have what transformers' networks have: one tensor of gate and up of all experts of a block, and one of down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXPERTS, STACKED = "experts", "switch_mlp"  # the module of a block's MLP that holds them, one by one and stacked
FUSED = {
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}  # transformers' parameters -> the layers in them
_FUSED = re.compile(rf"(?P<mlp>.+)\.{EXPERTS}\.(?P<name>{'|'.join(FUSED)})")
_ONE = re.compile(rf"(?P<mlp>.+)\.{EXPERTS}\.(?P<number>\d+)\.(?P<rest>.+)")
_STACK = re.compile(rf"(?P<mlp>.+)\.{STACKED}\.(?P<rest>.+)")


def is_expert(name: str) -> bool:
    """Whether a layer or weight is one expert's."""
    return _ONE.fullmatch(name) is not None


def is_stack(name: str) -> bool:
    """Whether a layer or weight is a stack."""
    return _STACK.fullmatch(name) is not None


def stacks_in(name: str) -> tuple[str, ...]:
    """Weights of the stacks that lie in a fused tensor, one after the other along its rows; none in any other.

    >>> stacks_in("model.layers.0.mlp.experts.gate_up_proj")
    ('model.layers.0.mlp.switch_mlp.gate_proj.weight', 'model.layers.0.mlp.switch_mlp.up_proj.weight')
    """
    found = _FUSED.fullmatch(name)
    return tuple(f"{found['mlp']}.{STACKED}.{part}.weight" for part in FUSED[found["name"]]) if found else ()


def are_turned(shapes: Mapping[str, tuple[int, ...]], hidden_size: int) -> bool:
    """Whether fused tensors are (experts, in, out), as files of Qwen3-VL have them, and not (experts, out, in).

    Args:
        shapes: Of all tensors of a model's files; a square one says nothing, and gate_up_proj and down_proj are not both square.
        hidden_size: Width of what goes from block to block.
    """
    for name, shape in shapes.items():
        if stacks_in(name) and shape[1] != shape[2]:
            return shape[2 if name.endswith(".down_proj") else 1] == hidden_size
    return False


def number_of(name: str) -> int:
    """Which expert a layer or weight belongs to; 0 for any other.

    >>> number_of("model.layers.0.mlp.experts.3.up_proj")
    3
    """
    found = _ONE.fullmatch(name)
    return int(found["number"]) if found else 0


def stack_of(name: str) -> str:
    """The stack that a layer or weight of an expert is part of; any other's own name.

    >>> stack_of("model.layers.0.mlp.experts.3.up_proj")
    'model.layers.0.mlp.switch_mlp.up_proj'
    >>> stack_of("model.layers.0.mlp.up_proj")
    'model.layers.0.mlp.up_proj'
    """
    found = _ONE.fullmatch(name)
    return f"{found['mlp']}.{STACKED}.{found['rest']}" if found else name


def parts_of(name: str, n_experts: int) -> list[str]:
    """The experts' own names of a stack; of anything else its name.

    >>> parts_of("model.layers.0.mlp.switch_mlp.up_proj", 2)
    ['model.layers.0.mlp.experts.0.up_proj', 'model.layers.0.mlp.experts.1.up_proj']
    """
    found = _STACK.fullmatch(name)
    if not found:
        return [name]
    return [f"{found['mlp']}.{EXPERTS}.{number}.{found['rest']}" for number in range(n_experts)]


def stacks(layers: Iterable[str]) -> dict[str, list[str]]:
    """Stack -> the layers that it is made of, by number; a layer of no expert is a stack of its own name alone."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        found.setdefault(stack_of(layer), []).append(layer)
    return {stack: sorted(parts, key=number_of) for stack, parts in found.items()}


def stacked(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Factors of an adapter, or what is shaped like them, with those of experts stacked: (experts, r, in) and (experts, out, r)."""
    return {stack: joined(weights, parts) for stack, parts in stacks(weights).items()}


def joined(weights: Mapping[str, NDArray[Any]], parts: Sequence[str]) -> NDArray[Any]:
    """The stack of what some experts have, in their order; of a single layer, which is no expert's, its own."""
    return np.stack([weights[part] for part in parts]) if is_expert(parts[0]) else weights[parts[0]]


def unstacked(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What `stacked` made one, each by itself again."""
    found: dict[str, NDArray[Any]] = {}
    for name, value in weights.items():
        parts = list(value) if value.ndim == 3 else [value]
        found |= dict(zip(parts_of(name, len(parts)), parts, strict=True))
    return found
