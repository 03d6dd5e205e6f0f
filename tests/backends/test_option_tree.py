"""Trees and the passes over them: what each token attends to and predicts, counted token by token. No model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from mlxtune.backends.option_tree import OptionTree, node_targets, option_pass, option_totals, option_trees, row_groups

OPTIONS = [[7], [7, 8], [9, 10, 11, 12], [13, 7, 2], [9, 10, 11, 5]]
PROMPTS = [[1, 2, 3, 4, 5], [1, 2, 6], [1, 2, 3]]
N_SHARED = 2


def whole_tree() -> OptionTree:
    (tree,) = option_trees(OPTIONS)
    return tree


def path_of(tree: OptionTree, node: int) -> list[int]:
    """Tokens from below the root to a node, by the tree's own record of ancestors."""
    nodes = np.flatnonzero(tree.ancestors[node])
    return [int(tree.tokens[one]) for one in sorted(nodes, key=lambda one: tree.depths[one])][1:]


def test_a_tree_has_each_beginning_once_and_predicts_each_token_behind_its_own() -> None:
    tree = whole_tree()
    beginnings = [tuple(path_of(tree, node)) for node in range(len(tree.tokens))]
    wanted = {tuple(option[:length]) for option in OPTIONS for length in range(len(option))}
    assert len(beginnings) == len(wanted) and set(beginnings) == wanted
    assert [len(beginning) for beginning in beginnings] == tree.depths.tolist()
    for place, option in enumerate(tree.options):
        own = tree.owners == place
        found = [
            (beginnings[node], int(token)) for node, token in zip(tree.predicting[own], tree.targets[own], strict=True)
        ]
        assert found == [(tuple(OPTIONS[option][:length]), token) for length, token in enumerate(OPTIONS[option])]


def visible_to(
    held: Sequence[int], tokens: Sequence[int], offsets: Sequence[int], row: Sequence[bool]
) -> list[tuple[int, int]]:
    """(position, token) of all that one token attends to, in order of position."""
    n_before = len(held) + len(tokens) - len(row)
    keys = [*enumerate(held), *zip([len(held) + offset for offset in offsets], tokens, strict=True)]
    return sorted(keys[:n_before] + [key for key, seen in zip(keys[n_before:], row, strict=True) if seen])


def test_every_node_attends_to_its_prompt_and_its_path_at_their_positions_and_to_nothing_else() -> None:
    tree = whole_tree()
    one = option_pass(PROMPTS, N_SHARED, tree)
    after = one.after_prompts()
    width = one.rest_of_prompts.shape[1]
    for row, prompt in enumerate(PROMPTS):
        held = [*prompt[:N_SHARED], *one.rest_of_prompts[row].tolist()]  # padding included
        for node in range(one.n_nodes):
            wanted = list(enumerate([*prompt, *path_of(tree, node)]))
            at = width + node
            alone = visible_to(
                prompt[:N_SHARED], one.tokens[row].tolist(), one.offsets[row].tolist(), one.visible[row, at]
            )
            assert alone == wanted
            behind = visible_to(held, after.tokens[row].tolist(), after.offsets[row].tolist(), after.visible[row, node])
            assert [token for _, token in behind if token] == [token for _, token in wanted]
            assert len(held) + after.offsets[row, node] == len(prompt) - 1 + tree.depths[node]


def test_every_token_of_a_prompt_attends_to_those_before_it() -> None:
    one = option_pass(PROMPTS, N_SHARED, whole_tree())
    for row, prompt in enumerate(PROMPTS):
        for place in range(len(prompt) - 1 - N_SHARED):
            found = visible_to(
                prompt[:N_SHARED], one.tokens[row].tolist(), one.offsets[row].tolist(), one.visible[row, place]
            )
            assert found == list(enumerate(prompt[: N_SHARED + place + 1]))
    assert one.visible.any(axis=-1).all()  # no token attends to nothing, which would be NaN


@pytest.mark.parametrize("nodes_at_once", [1, 3, 100])
def test_totals_are_the_sums_over_each_options_tokens_whatever_the_parts(nodes_at_once: int) -> None:
    tree, n_rows = whole_tree(), 3
    log_p = np.random.default_rng(0).normal(size=(n_rows, len(tree.tokens), 20))  # of each token after each node
    found = np.full((n_rows, len(tree.targets)), np.nan)
    for part in node_targets(tree, n_rows, nodes_at_once):
        block = log_p.reshape(-1, 20)[part.nodes]
        assert len(block) <= nodes_at_once
        found.reshape(-1)[part.places] = block[part.predicting, part.targets]
    beginnings = [tuple(path_of(tree, node)) for node in range(len(tree.tokens))]
    for place, index in enumerate(tree.options):
        option = OPTIONS[index]
        wanted = sum(log_p[:, beginnings.index(tuple(option[:at])), token] for at, token in enumerate(option))
        np.testing.assert_allclose(option_totals(tree, found)[:, place], wanted)


def test_rows_of_a_pass_are_as_many_as_fit_and_every_row_is_in_one() -> None:
    lengths = [5, 900, 31, 30, 29, 2, 300]
    groups = [
        rows.tolist()
        for rows in row_groups([[1] * length for length in lengths], n_shared=1, n_nodes=10, tokens_at_once=120)
    ]
    assert sorted(row for group in groups for row in group) == list(range(7))
    assert [[lengths[row] for row in group] for group in groups] == [[900], [300], [31, 30, 29], [5, 2]]
