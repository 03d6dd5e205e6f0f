"""Keys and values that rows attend to without having computed them: a prefix, kept in the graph or cut from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Layers = Sequence[tuple[Tensor, Tensor]]


class PrefixCache:
    """What each layer of the next pass attends to before its own tokens, and what that pass computes.

    It answers the calls that transformers' attention layers make of a cache, under the names and with all the arguments of
    transformers' own `Cache`, and changes nothing that it was given: a layer may run again, as gradient checkpointing
    makes it, with the same result.

    Args:
        before: Keys and values of each layer, (1, heads, P, head_dim); empty before the first pass.
    """

    def __init__(self, before: Layers = ()) -> None:
        self._before = before
        self._computed: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens before those of the next pass."""
        return int(self._before[0][0].shape[2]) if self._before else 0

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values to attend to, (B, heads, P + T, head_dim), given those of the present tokens.

        What a layer says beyond these (its own keyword arguments, since transformers 5.24) is of no use here.
        """
        if self._before:
            rows = key_states.shape[0]
            key_states, value_states = (
                torch.cat([held.expand(rows, -1, -1, -1).to(own.dtype), own], dim=2)
                for held, own in zip(self._before[layer_idx], (key_states, value_states), strict=True)
            )
        self._computed.setdefault(layer_idx, (key_states, value_states))  # a second run is the same one again
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before those of the next pass; the same for every layer."""
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the next token, from which transformers makes a mask where it is given none."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Keys that `query_length` new tokens have to do with, and where these keys begin."""
        return self.length + query_length, 0

    def computed(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values after a pass of one row, its own included, layer by layer."""
        return [self._computed[layer] for layer in sorted(self._computed)]


class Leaves:
    """A prefix cut from its graph, so that each micro-batch can free its own: gradients gather here and go on at the end.

    Args:
        computed: Keys and values of each layer, with their graph.
    """

    def __init__(self, computed: Layers) -> None:
        self._computed = computed
        self.layers: Layers = [tuple(_leaf(tensor) for tensor in pair) for pair in computed]  # type: ignore[misc]

    def backward(self) -> None:
        """Send what has gathered back through the prefix."""
        pairs = [
            (tensor, leaf.grad)
            for computed, leaves in zip(self._computed, self.layers, strict=True)
            for tensor, leaf in zip(computed, leaves, strict=True)
            if tensor.requires_grad and leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [grad for _, grad in pairs])


def cache_argument(forward: Callable[..., Any]) -> str:
    """What a transformers model calls its cache: `cache` since 5.24, `past_key_values` before.

    Args:
        forward: The model's forward method.
    """
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)
