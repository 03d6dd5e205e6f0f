"""Weights as Hugging Face's files have them, for models whose weights mlx-lm changes when it loads: those with gated delta nets or experts.

mlx-lm moves the channels of a convolution last, and adds 1 to the weights of RMS norms, which in 16 bits rounds them. A folder
that it wrote has them so, under names that transformers does not know. Here norms keep the weights of the files and add the 1
when they compute, and folders are written as Hugging Face's. Of experts it has one stack a layer; plain ones are written each by
itself, packed ones as stacks, since mlx-lm reads no others.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import SwitchLinear

from mlxtune.backends.architecture import DELTA_NET
from mlxtune.backends.experts import EXPERTS, STACKED, are_turned, stacks_in
from mlxtune.backends.stored_form import CONVOLUTION, MORE_TOKENS, NORMS, is_mlx_lm_form


class OffsetNorm(nn.Module):  # type: ignore[misc]
    """An RMS norm with the factors 1 + weight, computed in float32 as in transformers.

    Args:
        own: mlx-lm's norm, whose weight it takes.
    """

    def __init__(self, own: nn.RMSNorm) -> None:
        super().__init__()
        self.weight, self._eps = own.weight, own.eps

    def __call__(self, x: mx.array) -> mx.array:
        """(..., width), in the type of `x`."""
        return mx.fast.rms_norm(x, 1 + self.weight.astype(mx.float32), self._eps).astype(x.dtype)


def keep_stored_norms(network: nn.Module) -> None:
    """Let the norms of a network with gated delta nets take the weights of the files as they are."""
    if any(DELTA_NET in block for block in network.layers):
        norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.RMSNorm)]
        network.update_modules(tree_unflatten([(name, OffsetNorm(norm)) for name, norm in norms]))


def as_network_has(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Weights of a folder, Hugging Face's or mlx-lm's, for a network that keeps stored norms; others stay as they are."""
    convolutions = {name: value for name, value in weights.items() if name.endswith(CONVOLUTION)}
    if not convolutions:
        return weights
    weights = {name: value for name, value in weights.items() if not name.startswith(MORE_TOKENS)}
    if is_mlx_lm_form({name: value.shape for name, value in convolutions.items()}):
        return {name: value - 1 if name.endswith(NORMS) else value for name, value in weights.items()}
    return weights | {name: value.moveaxis(2, 1) for name, value in convolutions.items()}


def with_stacks(weights: dict[str, mx.array], hidden_size: int) -> dict[str, mx.array]:
    """Weights of a folder with the stacks of experts that lie in its fused tensors, which mlx-lm reads of some families only."""
    turned = are_turned({name: value.shape for name, value in weights.items()}, hidden_size)
    found: dict[str, mx.array] = {}
    for name, value in weights.items():
        stacks = stacks_in(name)
        if not stacks:
            found[name] = value
            continue
        rows = value.swapaxes(1, 2) if turned else value  # (experts, out, in)
        parts = mx.split(rows, len(stacks), axis=1)
        found |= zip(stacks, map(mx.contiguous, parts), strict=True)  # else each product would copy them
    return found


def store_as_files_have(network: nn.Module) -> None:
    """Give weights the names and shapes of Hugging Face's files; the network cannot compute afterwards."""
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Conv1d):
            module.weight = module.weight.moveaxis(1, 2)
        if name.endswith(f".{STACKED}"):
            _part_experts(modules[name.removesuffix(f".{STACKED}")], module)


def _part_experts(mlp: nn.Module, stacks: nn.Module) -> None:
    """Let an MLP have its plain experts each by itself, those that are packed stacked as they are."""
    plain = {part: layer.weight for part, layer in stacks.items() if isinstance(layer, SwitchLinear)}
    mlp[EXPERTS] = [nn.Module() for _ in range(max(map(len, plain.values()), default=0))]
    for part, weights in plain.items():
        del stacks[part]
        for expert, weight in zip(mlp[EXPERTS], weights, strict=True):
            expert[part] = nn.Linear(1, 1, bias=False)
            expert[part].weight = weight
