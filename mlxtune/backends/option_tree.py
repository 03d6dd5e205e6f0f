"""Options that share beginnings as a tree, so that no token is computed twice, and the passes that score it. NumPy only.

32 sets of five labels, up to 14 tokens each, are 448 tokens as padded rows and 54 as a tree. One forward pass takes the rest
of several prompts and, behind each, the nodes of a tree, which attend to their own prompt and their own ancestors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Nodes of a tree: attention among them costs their square. More options make several trees, and passes.
NODES_AT_ONCE = 512
# Tokens of one forward pass, unless a single row has more: what bounds the memory of its activations.
TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class OptionTree:
    """Some options as a tree whose root is the prompt's last token.

    Attributes:
        options: Which options, (n,).
        tokens: Token of each node, (N,); the root's is not known here and 0.
        depths: Tokens between the root and each node, (N,).
        ancestors: Which nodes lie between the root and each node, both included, (N, N).
        predicting: Node that predicts each token of the options, (M,).
        targets: That token, (M,).
        owners: Its option's place in `options`, (M,).
    """

    options: NDArray[np.int64]
    tokens: NDArray[np.int32]
    depths: NDArray[np.int32]
    ancestors: NDArray[np.bool_]
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
    ancestors = np.zeros((len(paths), len(paths)), np.bool_)
    for node, path in enumerate(paths):
        ancestors[node, path] = True
    return OptionTree(
        options=np.array(part),
        tokens=np.array([beginning[-1] if beginning else 0 for beginning in nodes], np.int32),
        depths=np.array([len(path) - 1 for path in paths], np.int32),
        ancestors=ancestors,
        predicting=np.array(predicting, np.int32),
        targets=np.array(targets, np.int32),
        owners=np.array(owners),
    )


@dataclass(frozen=True)
class OptionPass:
    """Tokens of one forward pass over several rows, after what all of them hold already.

    Attributes:
        tokens: (R, L); the last N of each row are a tree's nodes.
        offsets: Place of each token after what is held, (R, L); below 0 where a row holds padding.
        visible: Which of the last K keys each token attends to, (R, L, K); it attends to all keys before these.
        counted: Which of the tokens before the nodes are no padding, (R, L - N).
        n_nodes: N.
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int32]
    visible: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    n_nodes: int

    @property
    def rest_of_prompts(self) -> NDArray[np.int32]:
        """What stands before the nodes, padded on the right, (R, W)."""
        return self.tokens[:, : -self.n_nodes]

    def after_prompts(self) -> OptionPass:
        """The nodes alone, where the rows hold the rest of their prompts, padding included, as well."""
        width = self.rest_of_prompts.shape[1]
        nodes = slice(width, None)
        return OptionPass(
            self.tokens[:, nodes],
            self.offsets[:, nodes] - width,
            self.visible[:, nodes],
            self.counted[:, :0],
            self.n_nodes,
        )


def option_pass(prompts: Sequence[Sequence[int]], n_shared: int, tree: OptionTree) -> OptionPass:
    """The pass that computes the rest of each prompt, and a tree behind it.

    Args:
        prompts: The rows.
        n_shared: Tokens of each that are computed already, and less than all.
        tree: Its root stands for each prompt's last token.
    """
    n_own = np.array([len(prompt) - 1 - n_shared for prompt in prompts])
    width, n_nodes = int(n_own.max()), len(tree.tokens)
    shape = (len(prompts), width + n_nodes)
    tokens, offsets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    offsets[:, :width] = np.arange(width)
    offsets[:, width:] = n_own[:, None] + tree.depths
    tokens[:, width:] = tree.tokens
    for row, prompt in enumerate(prompts):
        tokens[row, : n_own[row]] = prompt[n_shared:-1]
        tokens[row, width] = prompt[-1]
    visible = np.zeros((*shape, shape[1]), np.bool_)
    visible[:, :width, :width] = np.tri(width, dtype=np.bool_)  # padding stands behind, where no prompt looks
    counted = np.arange(width) < n_own[:, None]
    visible[:, width:, :width] = counted[:, None]
    visible[:, width:, width:] = tree.ancestors
    return OptionPass(tokens, offsets, visible, counted, n_nodes)


def row_groups(
    prompts: Sequence[Sequence[int]], n_shared: int, n_nodes: int, tokens_at_once: int = TOKENS_AT_ONCE
) -> Iterator[NDArray[np.int64]]:
    """Indices of prompts by pass, those of like length together: as many as fit so many tokens, padding included, or one.

    Args:
        prompts: The rows.
        n_shared: Tokens of each that are computed already.
        n_nodes: Of the largest tree.
        tokens_at_once: Of a pass.
    """
    group: list[int] = []
    width = 0
    for index in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if not group:
            width = len(prompts[index]) - 1 - n_shared + n_nodes
        elif (len(group) + 1) * width > tokens_at_once:
            yield np.array(group)
            group, width = [], len(prompts[index]) - 1 - n_shared + n_nodes
        group.append(index)
    yield np.array(group)


@dataclass(frozen=True)
class NodeTargets:
    """Tokens that some neighbouring nodes predict, of all the nodes of a pass, (R x N) in row order.

    Attributes:
        nodes: Which nodes.
        predicting: Of each token, the node's place among them, (m,).
        targets: The token, (m,).
        places: Its place among all tokens that the pass predicts, (R x M) in row order, (m,).
    """

    nodes: slice
    predicting: NDArray[np.int64]
    targets: NDArray[np.int64]
    places: NDArray[np.int64]


def node_targets(tree: OptionTree, n_rows: int, nodes_at_once: int) -> Iterator[NodeTargets]:
    """What the nodes of a pass predict, in parts of so many nodes, whose logits may exist at a time."""
    n_nodes = len(tree.tokens)
    predicting = (np.arange(n_rows)[:, None] * n_nodes + tree.predicting).reshape(-1)
    targets = np.tile(tree.targets, n_rows).astype(np.int64)
    order = np.argsort(predicting, kind="stable")
    ordered = predicting[order]
    for start in range(0, n_rows * n_nodes, nodes_at_once):
        stop = start + nodes_at_once
        places = order[slice(*np.searchsorted(ordered, [start, stop]))]
        yield NodeTargets(slice(start, stop), predicting[places] - start, targets[places], places)


def option_totals(tree: OptionTree, log_probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-probability of each option of a tree, (R, n), from that of each of its tokens, (R, M)."""
    totals = np.zeros((len(log_probabilities), len(tree.options)))
    np.add.at(totals.T, tree.owners, log_probabilities.T)
    return totals
