"""The loop that writes replies token by token, with a session that computes nothing; and what it may attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.base import Constraint, Generation, in_order
from mlxtune.backends.columns import Columns, go_apart
from mlxtune.backends.replies import Allowed, write_replies
from mlxtune.backends.slots import slot_bytes, slots_within
from tests.architectures import architecture_of
from tests.tiny import tiny_config

STOP = 0
VOCABULARY = 10


class Scripted:
    """A session in which the reply to a prompt that begins with `first` is `script[first]`, whatever is fed; it records what it is told."""

    def __init__(self, script: Mapping[int, Sequence[int]]) -> None:
        self._script = script
        self.rows: list[list[int]] = []  # what each row is still to write
        self.joined: list[list[list[int]]] = []
        self.fed: list[list[list[int]]] = []
        self.allowed: list[Allowed | None] = []
        self.draws: list[list[float]] = []

    def join(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        self.joined.append(_without_padding(tokens, counts))
        self.rows += [list(self._script[prompt[0]]) for prompt in self.joined[-1]]

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        assert len(tokens) == len(self.rows)
        self.fed.append(_without_padding(tokens, counts))

    def pick(self, allowed: Allowed | None, temperature: float, draws: NDArray[np.float32] | None) -> list[int]:
        self.allowed.append(allowed)
        if draws is not None:
            self.draws.append(draws.tolist())
        tokens = [row.pop(0) for row in self.rows]
        return tokens if allowed is None or allowed.tokens is None else np.searchsorted(allowed.tokens, tokens).tolist()

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


def _without_padding(tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> list[list[int]]:
    return [row[:count].tolist() for row, count in zip(tokens, counts, strict=True)]


def written(
    session: Scripted,
    prompts: Sequence[Sequence[int]],
    limit: int = 9,
    slots: int | None = None,
    constraint: Constraint | None = None,
    **sampling: Any,
) -> list[tuple[int, Generation]]:
    """All replies in the order in which they end."""
    limits = [limit] * len(prompts)
    return list(write_replies(session, prompts, limits, slots or len(prompts), [STOP], constraint, **sampling))


class Forcing:
    """A constraint under which 1 is always followed by 2 and 3, and nothing may follow 4."""

    def start(self) -> ForcingMatcher:
        return ForcingMatcher()


class ForcingMatcher:
    def __init__(self) -> None:
        self._last = -1

    def mask(self) -> NDArray[np.bool_]:
        return np.arange(VOCABULARY) != 9

    def advance(self, token: int) -> None:
        self._last = token

    def forced(self) -> list[int]:
        return [2, 3] if self._last == 1 else []

    def is_done(self) -> bool:
        return self._last == 4


def test_each_reply_ends_at_its_own_stop_token_or_limit() -> None:
    session = Scripted({1: [5, STOP], 2: [6, 7, 8], 3: [STOP]})

    replies = in_order(written(session, [[1], [2], [3]], limit=3))

    assert replies == [Generation((5,), "stop"), Generation((6, 7, 8), "length"), Generation((), "stop")]


def test_replies_come_with_their_numbers_as_they_end() -> None:
    session = Scripted({1: [5, STOP], 2: [6, 7, 8], 3: [STOP]})

    assert [number for number, _ in written(session, [[1], [2], [3]], limit=3)] == [2, 0, 1]


def test_a_row_that_ended_is_not_fed_again() -> None:
    session = Scripted({1: [5, STOP], 3: [6, 7, STOP], 4: [STOP]})

    written(session, [[1, 2], [3], [4]])

    assert session.joined == [[[1, 2], [3], [4]]]
    assert session.fed == [[[5], [6]], [[7]]]


def test_the_last_row_takes_the_place_of_one_that_ended() -> None:
    session = Scripted({1: [STOP], 2: [STOP], 3: [5, 6, STOP], 4: [7, 8, STOP]})

    replies = written(session, [[1], [2], [3], [4]])

    assert session.fed == [[[7], [5]], [[8], [6]]]
    assert in_order(replies)[2:] == [Generation((5, 6), "stop"), Generation((7, 8), "stop")]


def test_the_longest_prompts_begin() -> None:
    session = Scripted({1: [STOP], 2: [STOP], 3: [STOP], 4: [STOP]})

    written(session, [[1], [2, 0, 0], [3, 0], [4, 0, 0]], slots=2)

    assert session.joined == [[[2, 0, 0], [4, 0, 0]], [[3, 0], [1]]]


def test_no_more_replies_are_written_at_a_time_than_there_are_slots_and_all_are_written() -> None:
    random = np.random.default_rng(0)
    script = {first: [*([5] * int(random.integers(0, 7))), STOP] for first in range(1, 41)}
    for slots in (1, 2, 3, 8, 40):
        session = Scripted(script)
        most = 0
        for _ in write_replies(session, [[first] for first in script], [9] * 40, slots, [STOP]):
            most = max(most, len(session.rows))
        replies = written(Scripted(script), [[first] for first in script], slots=slots)
        assert most <= slots
        assert [reply.tokens for reply in in_order(replies)] == [tuple(tokens[:-1]) for tokens in script.values()]


def test_prompts_that_wait_join_once_a_quarter_of_the_slots_is_free() -> None:
    """The second of eight slots that is free is a quarter of them."""
    script = {first: [5] * first + [STOP] for first in range(1, 13)}
    session = Scripted(script)

    written(session, [[first] for first in script], limit=20, slots=8)

    assert [len(prompts) for prompts in session.joined] == [8, 2, 2]


def test_a_prompt_joins_while_others_write_and_its_reply_is_its_own() -> None:
    session = Scripted({1: [STOP], 2: [6, 7, STOP], 3: [8, 9, STOP]})

    replies = written(session, [[1], [2], [3]], slots=2)

    assert session.joined == [[[1], [2]], [[3]]]
    assert session.fed == [[[6]], [[7], [8]], [[9]]]
    assert in_order(replies)[1:] == [Generation((6, 7), "stop"), Generation((8, 9), "stop")]


def test_what_is_forced_is_fed_with_the_token_before_it() -> None:
    session = Scripted({7: [1, 5, STOP], 8: [6, 5, STOP]})

    replies = in_order(written(session, [[7], [8]], constraint=Forcing()))

    assert session.fed[0] == [[1, 2, 3], [6]]
    assert [reply.tokens for reply in replies] == [(1, 2, 3, 5), (6, 5)]


def test_a_reply_that_nothing_may_follow_ends_without_a_step() -> None:
    session = Scripted({7: [5, 4]})

    assert written(session, [[7]], constraint=Forcing()) == [(0, Generation((5, 4), "stop"))]


def test_forced_tokens_beyond_the_limit_are_truncated() -> None:
    assert written(Scripted({7: [1]}), [[7]], 2, constraint=Forcing()) == [(0, Generation((1, 2), "length"))]


def test_every_row_has_a_mask_of_its_own() -> None:
    session = Scripted({7: [5, STOP], 8: [STOP]})

    written(session, [[7], [8]], constraint=Forcing())

    assert [None if one is None else one.mask.shape for one in session.allowed] == [(2, VOCABULARY), (1, VOCABULARY)]


def test_the_head_is_asked_for_the_tokens_that_some_row_may_write_where_they_are_few() -> None:
    masks = np.zeros((2, 80), np.bool_)
    masks[0, [7, 40]] = masks[1, [40, 60]] = True

    few, all_of_them = Allowed.of(list(masks)), Allowed.of([~masks[0], masks[1]])

    assert few.tokens is not None and few.tokens.tolist() == [7, 40, 60]
    assert few.mask.tolist() == [[True, True, False], [False, True, True]]
    assert few.named([1, 2]) == [40, 60]
    assert all_of_them.tokens is None and all_of_them.mask.shape == (2, 80)
    assert all_of_them.named([3, 60]) == [3, 60]


def test_a_pass_has_a_row_a_token_where_most_of_it_would_be_padding() -> None:
    def apart(*counts: int) -> bool:
        return go_apart(np.array(counts, np.int32))

    assert apart(6, 1, 1, 1, 1, 1)
    assert not apart(1, 1, 1) and not apart(6, 6, 5, 1) and not apart(2, 1)
    assert not apart(100, 1, 1, 1)  # whose copies of keys and values would be many


def test_a_row_a_token_goes_where_the_rows_would() -> None:
    padded, apart = Columns(2), Columns(2)
    for columns in (padded, apart):
        columns.join(2)
        columns.add(np.array([2, 1], np.int32), 2)
    counts = np.array([1, 3], np.int32)

    wide, narrow = padded.add(counts, 3), apart.add_apart(counts)

    assert narrow.slots.tolist() == [0, 1, 1, 1] and narrow.run is None and wide.run == slice(0, 2)
    assert narrow.columns[:, 0].tolist() == [wide.columns[0, 0], *wide.columns[1]]
    assert apart.add(counts, 3).columns.tolist() == padded.add(counts, 3).columns.tolist()


def test_a_draw_depends_on_seed_number_and_place_alone() -> None:
    """Whichever other prompts there are, how many are written at a time, and where among them a reply is written."""

    def draws(script: Mapping[int, Sequence[int]], slots: int | None = None, seed: int = 1) -> list[float]:
        session = Scripted(script)
        written(session, [[first] for first in script], slots=slots, temperature=1.0, seed=seed)
        return sorted(draw for step in session.draws for draw in step)

    every = draws({1: [5, 5, STOP], 2: [5, STOP], 3: [STOP]})
    assert len(every) == 6
    assert draws({1: [5, 5, STOP], 2: [5, STOP], 3: [STOP]}, slots=1) == every
    assert draws({1: [5, 5, STOP], 2: [5, STOP], 3: [STOP]}, slots=2) == every
    assert set(draws({1: [5, 5, STOP]})) < set(every)
    assert not set(draws({1: [STOP]}, seed=2)) & set(every)


def test_a_token_sees_its_own_row_up_to_itself() -> None:
    columns = Columns(1)
    columns.join(2)
    columns.add(np.array([2, 1], np.int32), 2)

    span = columns.add(np.array([1, 2], np.int32), 2)

    assert span.offsets.tolist() == [3, 2] and span.n_columns == 5
    assert span.visible()[0, 0].astype(int).tolist() == [1, 1, 1, 1, 0]
    assert span.visible()[1, :2].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]


def test_padding_is_written_over_by_the_rows_next_token() -> None:
    columns = Columns(0)
    columns.join(2)
    assert columns.add(np.array([3, 1], np.int32), 3).columns.tolist() == [[0, 1, 2], [0, 1, 2]]

    assert columns.add(np.array([1, 1], np.int32), 1).columns.tolist() == [[3], [1]]


def test_rows_that_are_kept_move_into_the_first_slots() -> None:
    columns = Columns(0)
    columns.join(4)
    columns.add(np.array([1, 2, 3, 4], np.int32), 4)

    assert columns.keep([3, 1]) == ([3], [0])
    assert columns.add(np.array([1, 1], np.int32), 1).offsets.tolist() == [4, 2]


def test_columns_do_not_grow_while_rows_come_and_go() -> None:
    columns = Columns(5)
    columns.join(4)
    for _ in range(300):
        columns.add(np.array([3, 1, 1, 1], np.int32), 3)
        columns.keep([3, 1, 2])
        first = columns.join(1)
        columns.add(np.array([6], np.int32), 6, first)
        columns.keep([3, 0, 1])
        columns.join(1)
    assert columns.n_columns < 20


# Slots

QWEN3 = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
}  # fmt: skip


def test_slots_are_as_many_as_asked_for_where_memory_has_room() -> None:
    prompts, limits = [[0] * 200] * 50, [64] * 50
    assert slots_within(16, prompts, limits, architecture_of(QWEN3), 10**11, 2) == 16
    assert slots_within(None, prompts, limits, architecture_of(QWEN3), 10**11, 2) == 50
    assert slots_within(16, prompts[:3], limits[:3], architecture_of(QWEN3), 10**11, 2) == 3


def test_slots_are_fewer_where_memory_is_short_and_never_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlxtune")
    prompts, limits = [[0] * 4000] * 50, [96] * 50
    a_slot = slot_bytes(4000, 4096, architecture_of(QWEN3), 2)
    assert a_slot > 4096 * 28 * 2 * 8 * 128 * 2  # keys and values alone
    assert slots_within(16, prompts, limits, architecture_of(QWEN3), 12 * a_slot, 2) == 6
    assert "writing 6 replies at a time, not 16: each of up to 4096 tokens" in caplog.text
    assert slots_within(16, prompts, limits, architecture_of(QWEN3), 0, 2) == 1


def test_a_slot_of_a_recurrent_model_holds_a_state_and_the_keys_of_its_attention_alone() -> None:
    hybrid = architecture_of(tiny_config("qwen3_5_text", layers=8))
    twice, once = (slot_bytes(100, longest, hybrid, 2) for longest in (4096, 2048))
    assert twice - once == 2048 * 4 * 2 * hybrid.n_kv_heads * hybrid.head_dim * 2  # of 4 of 8 blocks
    assert once > hybrid.state_bytes(2) > 4 * 4 * (4 * 16 * 32)
