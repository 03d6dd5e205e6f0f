"""Caches through which the nodes of an option tree go on from their row's prompt and from their own ancestors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.mlx.prefix_cache import PrefixCache, tokens_held
from mlxtune.backends.mlx.state_cache import PrefixStateCache, TreePaths, TreeStateCache
from mlxtune.backends.option_tree import OptionPass


def tree_caches(before: Sequence[PrefixCache | PrefixStateCache], one: OptionPass) -> list[TreeCache | TreeStateCache]:
    """A cache a layer for a pass after what `before` holds; layers with a state take a pass of nodes alone."""
    rows, length, n_last = one.visible.shape
    n_before = tokens_held(before)
    seen = np.ones((rows, length, n_before + one.tokens.shape[1]), np.bool_)
    seen[:, :, -n_last:] = one.visible
    positions = n_before + one.offsets
    keys = np.concatenate([np.broadcast_to(np.arange(n_before), (rows, n_before)), positions], axis=1)
    masks = TreeMasks(seen, positions[:, :, None] - keys[:, None])
    paths = TreePaths(one.visible[0, -one.n_nodes :, -one.n_nodes :])  # the same tree in every row
    return [
        TreeStateCache(layer.carried, paths)
        if isinstance(layer, PrefixStateCache)
        else TreeCache(layer, mx.array(positions), masks)
        for layer in before
    ]


class TreeMasks:
    """Which keys each token of a pass attends to, (R, 1, L, before + L), by window.

    Args:
        seen: Where nothing limits how far back they are, (R, L, before + L).
        distances: Positions from each key to each token, likewise.
    """

    def __init__(self, seen: NDArray[np.bool_], distances: NDArray[np.int64]) -> None:
        self._seen, self._distances = seen, distances
        self._made: dict[int | None, mx.array] = {}

    def of(self, window: int | None) -> mx.array:
        """For layers with a window; None is all."""
        if window not in self._made:
            seen = self._seen if window is None else self._seen & (self._distances < window)
            self._made[window] = mx.array(seen[:, None])
        return self._made[window]


class TreeCache:
    """One layer's cache for a pass of several rows, each with the rest of its prompt and a tree's nodes behind it.

    Args:
        before: What all tokens attend to; it stays as it is.
        positions: Of each token, for RoPE, (R, L).
        masks: Which keys each token attends to.
    """

    def __init__(self, before: PrefixCache, positions: mx.array, masks: TreeMasks) -> None:
        self.offset = positions
        self._before = before
        self._masks = masks

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to, (R, heads, before + L, head_dim), given those of the pass."""
        return self._before.joined(keys, values)

    def make_mask(self, *args: Any, window_size: int | None = None, **kwargs: Any) -> mx.array:
        """Which of those are visible to each token."""
        return self._masks.of(window_size or self._before.window)
