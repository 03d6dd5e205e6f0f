"""The loop that writes replies token by token, with a session that computes nothing; and what it may attend to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Generation
from mlxtune.backends.columns import Columns
from mlxtune.backends.replies import write_replies

STOP = 0
VOCABULARY = 10


class Scripted:
    """A session in which row b writes `script[b]`, a token at a time, whatever is fed; it records what it is told."""

    def __init__(self, script: Sequence[Sequence[int]]) -> None:
        self.rows = [list(tokens) for tokens in script]
        self.fed: list[list[list[int]]] = []
        self.allowed: list[NDArray[np.bool_] | None] = []
        self.draws: list[list[float]] = []

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        self.fed.append([row[:count].tolist() for row, count in zip(tokens, counts, strict=True)])

    def pick(
        self, allowed: NDArray[np.bool_] | None, temperature: float, draws: NDArray[np.float32] | None
    ) -> list[int]:
        self.allowed.append(allowed)
        if draws is not None:
            self.draws.append(draws.tolist())
        return [row.pop(0) for row in self.rows]

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]


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
    session = Scripted([[5, STOP], [6, 7, 8], [STOP]])

    replies = write_replies(session, [[1], [2], [3]], [3, 3, 3], [STOP])

    assert replies == [Generation((5,), "stop"), Generation((6, 7, 8), "length"), Generation((), "stop")]


def test_a_row_that_ended_is_not_fed_again() -> None:
    session = Scripted([[5, STOP], [6, 7, STOP], [STOP]])

    write_replies(session, [[1, 2], [3], [4]], [9, 9, 9], [STOP])

    assert session.fed == [[[1, 2], [3], [4]], [[5], [6]], [[7]]]


def test_what_is_forced_is_fed_with_the_token_before_it() -> None:
    session = Scripted([[1, 5, STOP], [6, 5, STOP]])

    replies = write_replies(session, [[7], [8]], [9, 9], [STOP], Forcing())

    assert session.fed[1] == [[1, 2, 3], [6]]
    assert [reply.tokens for reply in replies] == [(1, 2, 3, 5), (6, 5)]


def test_a_reply_that_nothing_may_follow_ends_without_a_step() -> None:
    session = Scripted([[5, 4]])

    assert write_replies(session, [[7]], [9], [STOP], Forcing()) == [Generation((5, 4), "stop")]


def test_forced_tokens_beyond_the_limit_are_truncated() -> None:
    assert write_replies(Scripted([[1]]), [[7]], [2], [STOP], Forcing()) == [Generation((1, 2), "length")]


def test_every_row_has_a_mask_of_its_own() -> None:
    session = Scripted([[5, STOP], [STOP]])

    write_replies(session, [[7], [8]], [9, 9], [STOP], Forcing())

    assert [None if one is None else one.shape for one in session.allowed] == [(2, VOCABULARY), (1, VOCABULARY)]


def test_a_draw_depends_on_seed_reply_and_place_alone() -> None:
    def draws(script: Sequence[Sequence[int]], seed: int = 1) -> list[list[float]]:
        session = Scripted(script)
        write_replies(session, [[7]] * len(script), [9] * len(script), [STOP], temperature=1.0, seed=seed)
        return session.draws

    two, one = draws([[5, 5, STOP], [5, STOP]]), draws([[5, 5, STOP]])
    assert [step[0] for step in two] == [step[0] for step in one]
    assert len({value for step in two for value in step}) == 5
    assert draws([[STOP]], seed=2) != draws([[STOP]], seed=1)


def test_a_token_sees_its_own_row_up_to_itself_and_no_hole() -> None:
    columns = Columns(2, 1)
    columns.add(np.array([2, 1], np.int32), 2)

    seen: Callable[[int, int], list[int]] = lambda row, token: visible[row, token].astype(int).tolist()  # noqa: E731
    visible = columns.visible(np.array([1, 2], np.int32), 2)

    assert columns.offsets.tolist() == [3, 2]
    assert (seen(0, 0), seen(1, 0), seen(1, 1)) == ([1, 1, 1, 1, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1])


def test_rows_that_are_kept_keep_their_columns() -> None:
    columns = Columns(3, 0)
    columns.add(np.array([1, 2, 3], np.int32), 3)

    columns.keep([2, 0])

    assert columns.offsets.tolist() == [3, 1]
