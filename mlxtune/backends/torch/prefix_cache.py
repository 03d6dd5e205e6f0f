"""What layers keep of tokens that rows go on from without computing them: a prefix, kept in the graph or cut from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """Tokens that rows go on from, of one row that all share or of each of several.

    Attributes:
        length: How many, padding of shorter rows included.
        layers: What each layer keeps of them: keys and values, (R, heads, length, head_dim) each, or the state of a delta net
            (`delta_net.py`). Empty where there are no tokens.
    """

    length: int = 0
    layers: Sequence[tuple[Tensor, Tensor]] = ()


NOTHING = Prefix()


class PrefixCache:
    """What each layer of the next pass goes on from, and what that pass computes.

    It answers the calls that transformers' attention layers make of a cache, under the names and with all the arguments of
    transformers' own `Cache`, and those of our delta nets. It changes nothing that it was given: a layer may run again, as gradient
    checkpointing makes it, with the same result.

    Args:
        before: The tokens before the pass.
        counted: As `delta_net.States` has it.
        visible: Likewise.
    """

    def __init__(self, before: Prefix = NOTHING, counted: Tensor | None = None, visible: Tensor | None = None) -> None:
        self._before = before.layers
        self.length = before.length  # tokens before those of the next pass
        self.counted, self.visible = counted, visible
        self._computed: dict[int, tuple[Tensor, Tensor]] = {}

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

    def has_previous_state(self, *args: Any, **kwargs: Any) -> bool:
        """As `delta_net.States` has it."""
        return True

    def state(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """State of a delta net before the pass."""
        return self._before[layer] if self._before else None

    def set_state(self, layer: int, state: tuple[Tensor, Tensor]) -> None:
        """State of a delta net after the pass."""
        self._computed.setdefault(layer, state)  # a second run is the same one again

    def computed(self, n_tokens: int) -> Prefix:
        """What there is after a pass of so many tokens."""
        return Prefix(self.length + n_tokens, [self._computed[layer] for layer in sorted(self._computed)])


class Leaves:
    """A prefix cut from its graph, so that each micro-batch can free its own: gradients gather here and go on at the end.

    Args:
        computed: With its graph.
    """

    def __init__(self, computed: Prefix) -> None:
        self._computed = computed.layers
        layers = [(_leaf(first), _leaf(second)) for first, second in computed.layers]
        self.prefix = Prefix(computed.length, layers)

    def backward(self) -> None:
        """Send what has gathered back through the prefix."""
        pairs = [
            (tensor, leaf.grad)
            for computed, leaves in zip(self._computed, self.prefix.layers, strict=True)
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
