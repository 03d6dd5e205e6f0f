"""Options that share beginnings as a tree, so that no token is computed twice. NumPy, and one cache for MLX's layers.

32 sets of five labels, up to 14 tokens each, are 448 tokens as padded rows and 54 as a tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.mlx.prefix_cache import PrefixCache

# Tokens of one forward pass, each of which holds a copy of the prompt's keys and values while a layer runs.
NODES_AT_ONCE = 128


@dataclass(frozen=True)
class OptionTree:
    """Some options as a tree whose root is the prompt's last token.

    Attributes:
        options: Which options, (n,).
        tokens: Token of each node, (N,); the root's is not known here and 0.
        depths: Tokens between the root and each node, (N,).
        path: Nodes from the root to each node, itself the last, (N, D); repeated where the path is shorter.
        on_path: Where `path` is no repetition, (N, D).
        predicting: Node that predicts each token of the options, (M,).
        targets: That token, (M,).
        owners: Its option's place in `options`, (M,).
    """

    options: NDArray[np.int64]
    tokens: NDArray[np.int32]
    depths: NDArray[np.int32]
    path: NDArray[np.int32]
    on_path: NDArray[np.bool_]
    predicting: NDArray[np.int32]
    targets: NDArray[np.int32]
    owners: NDArray[np.int64]


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

    def make_mask(self, length: int, return_array: bool = False, window_size: int | None = None) -> mx.array:
        """Which of those each node sees."""
        return self._mask


def option_trees(options: Sequence[Sequence[int]], nodes_at_once: int = NODES_AT_ONCE) -> Iterator[OptionTree]:
    """All options in trees of at most so many nodes, or of one option."""
    part: list[int] = []
    nodes: set[tuple[int, ...]] = set()
    for index in sorted(range(len(options)), key=lambda i: tuple(options[i])):  # those that share beginnings together
        option = tuple(options[index])
        own = {option[:length] for length in range(len(option))}
        if part and len(nodes | own) > nodes_at_once:
            yield _tree(options, part)
            part, nodes = [], set()
        part.append(index)
        nodes |= own
    yield _tree(options, part)


def _tree(options: Sequence[Sequence[int]], part: Sequence[int]) -> OptionTree:
    nodes: dict[tuple[int, ...], int] = {(): 0}
    paths: list[list[int]] = [[0]]
    predicting, targets, owners = [], [], []
    for owner, index in enumerate(part):
        option = tuple(options[index])
        for length, token in enumerate(option):
            beginning = option[:length]
            if beginning not in nodes:
                nodes[beginning] = len(paths)
                paths.append([*paths[nodes[beginning[:-1]]], len(paths)])
            predicting.append(nodes[beginning])
            targets.append(token)
            owners.append(owner)
    depth = max(map(len, paths))
    return OptionTree(
        options=np.array(part),
        tokens=np.array([beginning[-1] if beginning else 0 for beginning in nodes], np.int32),
        depths=np.array([len(path) - 1 for path in paths], np.int32),
        path=np.array([path + [path[-1]] * (depth - len(path)) for path in paths], np.int32),
        on_path=np.array([[place < len(path) for place in range(depth)] for path in paths]),
        predicting=np.array(predicting, np.int32),
        targets=np.array(targets, np.int32),
        owners=np.array(owners),
    )
