"""How rows are grouped into forward passes: each once, within the limit, at the least cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from mlxtune.data.passes import PASS_COST, pass_positions, plan_passes

RANDOM = np.random.default_rng(0)
# Own tokens of short messages under long instructions: most are short, one in ten is twice as long.
MESSAGES = (12 + RANDOM.gamma(2.0, 5.0, 4000)).astype(int).tolist()


def positions(lengths: Sequence[int], passes: Sequence[Sequence[int]], sequence_tokens: int = 0) -> int:
    """Rows that are longer than half a sequence are as wide as the longest, the others as wide as they are.

    Where the longest is longer than a sequence, all sequences are as long as it, and rows longer than half of it have one each.
    """
    total = 0
    for own in ([lengths[row] for row in one] for one in passes):
        widest = max(own)
        if 0 < sequence_tokens < widest:
            total += widest * max(math.ceil(sum(own) / widest), sum(2 * each > widest for each in own))
        else:
            total += sum(each if 2 * each <= sequence_tokens else widest for each in own)
    return total


@pytest.mark.parametrize("tokens_per_pass", [1, 50, 300, 10_000])
def test_every_row_is_in_exactly_one_pass(tokens_per_pass: int) -> None:
    passes = plan_passes(MESSAGES[:200], tokens_per_pass)
    assert sorted(itertools.chain(*passes)) == list(range(200))


@pytest.mark.parametrize("tokens_per_pass", [1, 50, 300])
@pytest.mark.parametrize("sequence_tokens", [0, 40, 512])
def test_only_a_single_row_is_over_the_limit(tokens_per_pass: int, sequence_tokens: int) -> None:
    passes = plan_passes(MESSAGES[:200], tokens_per_pass, sequence_tokens=sequence_tokens)
    assert all(len(one) == 1 or positions(MESSAGES, [one], sequence_tokens) <= tokens_per_pass for one in passes)


def test_a_pass_is_a_whole_step_or_a_power_of_two_of_rows() -> None:
    sizes = {len(one) for at in range(0, 4000, 12) for one in plan_passes(MESSAGES[at : at + 12], 4096)}
    assert sizes <= {1, 2, 4, 8, 12}


def test_no_rows_make_no_pass() -> None:
    assert plan_passes([], 100) == []


@pytest.mark.parametrize("pass_cost", [0, 16, 64])
@pytest.mark.parametrize("split_cost", [0, 50])
@pytest.mark.parametrize("tokens_per_pass", [60, 150, 10_000])
@pytest.mark.parametrize("sequence_tokens", [0, 50])
def test_no_other_cut_costs_less(pass_cost: int, split_cost: int, tokens_per_pass: int, sequence_tokens: int) -> None:
    """Into powers of two, or where short rows share sequences into any numbers."""
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(3, 60, 8).tolist()
        order = sorted(range(8), key=lambda row: lengths[row])

        def cost(passes: Sequence[Sequence[int]], lengths: Sequence[int] = lengths) -> int:
            return (
                positions(lengths, passes, sequence_tokens) + pass_cost * len(passes) + split_cost * (len(passes) > 1)
            )

        every = []
        for cuts in itertools.product([False, True], repeat=7):
            ends = [at + 1 for at, cut in enumerate(cuts) if cut]
            passes = [order[a:b] for a, b in itertools.pairwise([0, *ends, 8])]
            if not sequence_tokens and any(len(one) not in (1, 2, 4, 8) for one in passes):
                continue
            if all(len(one) == 1 or positions(lengths, [one], sequence_tokens) <= tokens_per_pass for one in passes):
                every.append(cost(passes))
        found = plan_passes(lengths, tokens_per_pass, pass_cost, split_cost, sequence_tokens)
        assert cost(found) == pytest.approx(min(every))


def test_steps_of_short_messages_pad_less_than_one_pass_a_step() -> None:
    steps = [MESSAGES[at : at + 8] for at in range(0, 4000, 8)]
    planned = [plan_passes(step, 4096) for step in steps]
    computed = sum(positions(*both) for both in zip(steps, planned, strict=True))
    in_one = sum(positions(step, [range(8)]) for step in steps)
    assert computed + PASS_COST * (sum(map(len, planned)) - len(steps)) < 0.98 * in_one
    assert sum(map(len, planned)) < 2 * len(steps)


def test_short_rows_that_share_sequences_are_one_pass() -> None:
    passes = plan_passes(MESSAGES[:64], 4096, split_cost=0, sequence_tokens=512)
    assert len(passes) == 1 < len(plan_passes(MESSAGES[:64], 4096, split_cost=0))


def test_a_row_longer_than_a_sequence_stands_apart_from_short_ones() -> None:
    """In one pass the short ones would be padded to its length."""
    assert plan_passes([20] * 16 + [3000], 4096, sequence_tokens=512) == [list(range(16)), [16]]
    assert pass_positions([20] * 16 + [3000], 512) == 6000 and pass_positions([20] * 16, 512) == 320


def test_what_all_passes_share_is_not_split_for_less_than_that_costs() -> None:
    lengths = [10] * 4 + [40]
    assert len(plan_passes(lengths, 4096)) == 2
    assert len(plan_passes(lengths, 4096, split_cost=500)) == 1
    assert len(plan_passes(lengths, 100, split_cost=500)) > 1  # they do not fit one


def test_the_longest_rows_stand_together() -> None:
    passes = plan_passes(MESSAGES[:64], 300)
    ends = [(min(MESSAGES[row] for row in one), max(MESSAGES[row] for row in one)) for one in passes]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))
