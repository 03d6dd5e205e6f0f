"""Options that share beginnings as a tree, so that no token is computed twice. NumPy only.

32 sets of five labels, up to 14 tokens each, are 448 tokens as padded rows and 54 as a tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
