"""The layers of experts in PEFT's adapter: updates of the parameters in which transformers holds all experts of a block.

transformers has one parameter for gate_proj and up_proj of all experts, gate_up_proj (experts, 2 x inner, hidden), and one for down_proj.
PEFT adapts a parameter (`target_parameters`) by factors of two dimensions, A (experts x r, in) and B (out, r x experts), whose rows and
columns are counted expert by expert and rank by rank. The update of gate and up together has the rank of both: A one above the
other, B with theirs in two blocks and zeros beside. Read from PEFT 0.20's and 0.21's ParamWrapper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.experts import EXPERTS, FUSED, STACKED, is_stack, parts_of, stacked
from mlxtune.errors import AdapterError

INNER = "base_layer"  # PEFT wraps the first of two parameters of a module, then the second around it
_EXPERTS = re.compile(rf"(?P<experts>.+\.{EXPERTS})(?P<inner>\.{INNER})?")

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ParameterUpdate:
    """The update of one parameter.

    Attributes:
        parameter: Its name: "model.layers.0.mlp.experts.down_proj".
        module: What PEFT's files call that which holds the factors.
        a: (experts x r, in).
        b: (out, r x experts).
        rank: r.
    """

    parameter: str
    module: str
    a: Array
    b: Array
    rank: int


def parameter_updates(weights: Mapping[str, Array]) -> list[ParameterUpdate]:
    """The updates of experts' parameters that the factors of an adapter are; layers that belong to no expert are left out.

    Args:
        weights: LAYER.lora_A (r, in) and LAYER.lora_B (out, r).

    Raises:
        AdapterError: An expert has a layer that transformers holds in none of FUSED.
    """
    factors = {name: value for name, value in stacked(weights).items() if is_stack(name)}
    by_module: dict[str, dict[str, tuple[Array, Array]]] = {}
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in factors):
        mlp, _, part = layer.partition(f".{STACKED}.")
        by_module.setdefault(f"{mlp}.{EXPERTS}", {})[part] = factors[f"{layer}.lora_A"], factors[f"{layer}.lora_B"]
    updates = []
    for module, layers in by_module.items():
        if strange := sorted(set(layers) - {part for parts in FUSED.values() for part in parts}):
            raise AdapterError(
                f"{module}: PEFT has no place for the update of its {strange[0]}; export --to hf instead"
            )
        adapted = {name: parts for name, parts in FUSED.items() if layers.keys() & set(parts)}
        for name, parts in adapted.items():
            a, b = _together([layers.get(part) for part in parts])
            inside = f".{INNER}" if name != list(adapted)[-1] else ""
            updates.append(ParameterUpdate(f"{module}.{name}", f"{module}{inside}", _flat_a(a), _flat_b(b), a.shape[1]))
    return updates


def is_of_experts(module: str) -> bool:
    """Whether PEFT's files have factors of an experts' parameter under a name."""
    return _EXPERTS.fullmatch(module) is not None


def parameter_of(module: str, modules: Iterable[str], targeted: Iterable[str]) -> str:
    """The parameter that the factors under a name of PEFT's files update.

    Args:
        module: The name.
        modules: All such names.
        targeted: The config's target_parameters.

    Raises:
        AdapterError: target_parameters name other parameters.
    """
    found = _EXPERTS.fullmatch(module)
    assert found is not None
    experts = found["experts"]
    own = [name for name in FUSED if any(f".{experts}.{name}".endswith(f".{one}") for one in targeted)]
    wrapped = [name for name in (f"{experts}.{INNER}", experts) if name in set(modules)]
    if len(own) != len(wrapped):
        raise AdapterError(f"{module}: expected target_parameters to name what is updated of it: {' or '.join(FUSED)}")
    return f"{experts}.{own[wrapped.index(module)]}"


def layers_of(parameter: str, a: Array, b: Array, rank: int) -> dict[str, tuple[Array, Array]]:
    """The layers of single experts that a parameter's update is, each with A (r, in) and B (out, r).

    The rows of A that a half of gate_up_proj does not use, because its columns of B are zero, are left out, and so is a half that uses
    none: of what `parameter_updates` made the very factors come back.

    Args:
        parameter: Its name.
        a: (experts x rank, in).
        b: (out, rank x experts).
        rank: Of the update.

    Raises:
        AdapterError: The shapes do not fit the rank.
    """
    if a.shape[0] % rank or a.shape[0] != b.shape[1]:
        raise AdapterError(
            f"{parameter}: expected A of experts x {rank} rows and B of as many columns, got {a.shape} and {b.shape}"
        )
    n_experts = a.shape[0] // rank
    of_experts = a.reshape(n_experts, rank, -1)
    outputs = b.reshape(len(b), rank, n_experts).transpose(2, 0, 1)  # (experts, out, r)
    module, _, name = parameter.rpartition(".")
    mlp = module.removesuffix(f".{EXPERTS}")
    found: dict[str, tuple[Array, Array]] = {}
    for part, half in zip(FUSED[name], np.split(outputs, len(FUSED[name]), axis=1), strict=True):
        used = np.flatnonzero(half.any(axis=(0, 1)))
        if len(used) == 0 and outputs.any():
            continue
        if len(used) == 0 or len(FUSED[name]) == 1:
            used = np.arange(rank)
        for number, layer in enumerate(parts_of(f"{mlp}.{STACKED}.{part}", n_experts)):
            found[layer] = np.ascontiguousarray(of_experts[number, used]), np.ascontiguousarray(half[number][:, used])
    return found


def _together(parts: list[tuple[Array, Array] | None]) -> tuple[Array, Array]:
    """A (experts, r, in) and B (experts, out, r) of layers that lie above each other in one parameter; None of one that is not adapted."""
    given = [pair for pair in parts if pair is not None]
    n_experts, n_out, _ = given[0][1].shape
    a = np.concatenate([own for own, _ in given], axis=1)
    b = np.zeros((n_experts, n_out * len(parts), a.shape[1]), np.float32)
    column = 0
    for place, pair in enumerate(parts):
        if pair is None:
            continue
        width = pair[1].shape[2]
        b[:, place * n_out : (place + 1) * n_out, column : column + width] = pair[1]
        column += width
    return a, b


def _flat_a(a: Array) -> Array:
    """(experts, r, in) -> (experts x r, in)."""
    return np.ascontiguousarray(a.reshape(-1, a.shape[2]))


def _flat_b(b: Array) -> Array:
    """(experts, out, r) -> (out, r x experts)."""
    return np.ascontiguousarray(b.transpose(1, 2, 0).reshape(b.shape[1], -1))
