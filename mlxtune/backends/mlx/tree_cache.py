"""A cache through which the nodes of an option tree attend to the prompt and to their own path."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.prefix_cache import PrefixCache
from mlxtune.backends.option_tree import OptionTree


class TreeCache:
    """One layer's cache for a tree: each node is a row of one token, which attends to the prompt and its own path."""

    def __init__(self, prompt: PrefixCache, tree: OptionTree) -> None:
        self.offset = mx.array(prompt.offset + tree.depths)  # position of each row, for RoPE
        self._prompt = prompt
        self._path = mx.array(tree.path)
        seen = np.concatenate([np.ones((len(tree.tokens), prompt.offset), np.bool_), tree.on_path], axis=1)
        self._mask = mx.array(seen[:, None, None])  # (N, 1, 1, prompt + D)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to, (N, heads, prompt + D, head_dim), given each node's own, (N, heads, 1, head_dim)."""
        paths = [array[:, :, 0][self._path].transpose(0, 2, 1, 3) for array in (keys, values)]
        before = self._prompt.held()
        if before is None:
            return paths[0], paths[1]
        rows = keys.shape[0]
        of_prompt = [mx.broadcast_to(array, (rows, *array.shape[1:])) for array in before]
        return mx.concatenate([of_prompt[0], paths[0]], axis=2), mx.concatenate([of_prompt[1], paths[1]], axis=2)

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array:
        """Which of those are visible to each node."""
        return self._mask
