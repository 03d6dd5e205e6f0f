"""Gradient checkpointing: the backward pass runs each transformer block again instead of keeping its activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.dropout import DropoutKeys
from mlxtune.backends.mlx.prefix_cache import PrefixCache
from mlxtune.backends.mlx.state_cache import PrefixStateCache


def checkpoint_blocks(blocks: Iterable[nn.Module], keys: DropoutKeys) -> None:
    """Let these blocks be run again while training; each gets a class of its own model, mlx-lm's stays as it is."""
    classes: dict[type, type] = {}
    for block in blocks:
        plain = _plain(block)
        block.__class__ = classes.setdefault(plain, _checkpointed(plain, keys))


def keep_activations(blocks: Iterable[nn.Module]) -> None:
    """Undo `checkpoint_blocks`."""
    for block in blocks:
        block.__class__ = _plain(block)


def _plain(block: nn.Module) -> type:
    found: type = getattr(type(block), "checkpointed_class", type(block))
    return found


def _checkpointed(plain: type, keys: DropoutKeys) -> type:
    """A subclass of a block's class that keeps its inputs and results only, and takes all that the block takes."""

    def call(
        self: Any,
        x: mx.array,
        mask: Any = None,
        cache: PrefixCache | PrefixStateCache | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> mx.array:
        if not self.training:
            return plain.__call__(self, x, mask, cache, *args, **kwargs)
        prefix = [] if cache is None else list(cache.held() or ())
        fills = cache is not None and not prefix

        def run(
            parameters: Any, x: mx.array, prefix: list[mx.array], of_layers: mx.array | None, args: Any, kwargs: Any
        ) -> tuple[mx.array, list[mx.array]]:
            # All that a gradient flows through, or that differs between calls, is an argument; nothing is left changed.
            before = self.trainable_parameters()
            own = None if cache is None else type(cache)(*prefix)
            self.update(parameters)
            try:
                with keys.used(None if of_layers is None else mx.stop_gradient(of_layers)):
                    hidden = plain.__call__(self, x, mask, own, *args, **kwargs)
            finally:
                self.update(before)
            return hidden, list(own.held() or ()) if fills and own else []

        hidden, filled = mx.checkpoint(run)(self.trainable_parameters(), x, prefix, keys.of_layers, args, kwargs)
        if fills and cache is not None:
            cache.hold(*filled)
        return hidden

    return type(plain.__name__, (plain,), {"__call__": call, "checkpointed_class": plain})
