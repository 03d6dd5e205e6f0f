"""Caches through which the nodes of an option tree attend to their row's prompt and to their own ancestors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.prefix_cache import PrefixCache
from mlxtune.backends.option_tree import OptionPass


def tree_caches(before: Sequence[PrefixCache], one: OptionPass) -> list[TreeCache]:
    """A cache a layer for a pass after what `before` holds."""
    rows, length, n_last = one.visible.shape
    n_before = before[0].offset
    seen = np.ones((rows, length, n_before + one.tokens.shape[1]), np.bool_)
    seen[:, :, -n_last:] = one.visible
    positions, mask = mx.array(n_before + one.offsets), mx.array(seen[:, None])
    return [TreeCache(layer, positions, mask) for layer in before]


class TreeCache:
    """One layer's cache for a pass of several rows, each with the rest of its prompt and a tree's nodes behind it.

    Args:
        before: What all tokens attend to; it stays as it is.
        positions: Of each token, for RoPE, (R, L).
        mask: Which keys each token attends to, (R, 1, L, before + L).
    """

    def __init__(self, before: PrefixCache, positions: mx.array, mask: mx.array) -> None:
        self.offset = positions
        self._before = before
        self._mask = mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to, (R, heads, before + L, head_dim), given those of the pass."""
        return self._before.joined(keys, values)

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array:
        """Which of those are visible to each token."""
        return self._mask
