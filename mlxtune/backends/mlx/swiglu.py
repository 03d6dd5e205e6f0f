"""MLPs gated by SiLU, as most families have them, computed by `exponential.silu` where mlx-lm's own is the slower one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu

from mlxtune.backends.mlx.exponential import has_fast_exp, silu

CALLED = {"gate_proj", "up_proj", "down_proj", swiglu.__name__}  # all the names that the code of such an MLP reads


def use_faster_swiglu(blocks: Iterable[nn.Module]) -> None:
    """Compute down(silu(gate(x)) * up(x)) with our SiLU in the MLPs of some blocks, whose classes get a subclass here; mlx-lm's are unchanged.

    MLPs that compute anything else, of other families or changed before, stay as they are.
    """
    if has_fast_exp():
        return
    classes: dict[type, type] = {}
    for block in blocks:
        mlp = block.get("mlp")
        plain = type(mlp)
        if mlp is not None and _calls(plain) == CALLED:
            if plain not in classes:
                classes[plain] = type(plain.__name__, (plain,), {"__call__": _faster})
            mlp.__class__ = classes[plain]


def _calls(layer: type) -> set[str]:
    """Names that a layer's code reads; none where it is not Python's."""
    return set(getattr(getattr(layer.__call__, "__code__", None), "co_names", ()))


def _faster(self: Any, x: mx.array) -> mx.array:
    result: mx.array = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
    return result
