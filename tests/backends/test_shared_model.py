"""Replies that several processes write are those of one, each written once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.base import Generation, Group, Model
from mlxtune.backends.group import ALONE
from mlxtune.backends.processes import Processes
from mlxtune.backends.shared_model import own_model, share_batches, shared_model
from mlxtune.errors import BackendError, ProcessFailed
from tests.backends.groups import on_ranks

PROMPTS = [[length, *range(length)] for length in (9, 2, 5, 5, 1, 12, 3)]


class Echo:
    """Answers each prompt with its tokens backwards, and keeps what it was asked."""

    def __init__(self, group: Group = ALONE) -> None:
        self.rows_group = group
        self.config: dict[str, Any] = {"hidden_size": 64}
        self.asked: list[list[int]] = []

    def side_by_side(self) -> AbstractContextManager[None]:
        return nullcontext()

    def generate(self, prompts: Sequence[Sequence[int]], *args: Any, **words: Any) -> Iterator[tuple[int, Generation]]:
        numbers = words.get("numbers")
        for place in reversed(range(len(prompts))):  # in no order that can be relied on
            self.asked.append(list(prompts[place]))
            drawn = () if numbers is None else (numbers[place],)
            yield place, Generation((*drawn, *reversed(prompts[place])), "stop")

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        return np.array([[sum(prompt) / 3 + sum(option) for option in options] for prompt in prompts], np.float32)


def models(group: Processes) -> tuple[Echo, Model]:
    own = Echo(group)
    return own, shared_model(own)  # type: ignore[arg-type]


@pytest.mark.parametrize("rounds", [1, 64])
def test_every_process_gets_all_replies_and_each_is_written_once(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.backends.shared_model.ROUND", rounds)

    def ask(group: Processes) -> tuple[list[tuple[int, Generation]], list[list[int]]]:
        own, shared = models(group)
        return list(shared.generate(PROMPTS, 10, [0])), own.asked

    found = on_ranks(3, ask)
    wanted = [(number, Generation(tuple(reversed(prompt)), "stop")) for number, prompt in enumerate(PROMPTS)]
    assert [replies for replies, _ in found] == [wanted] * 3
    assert sorted(one for _, asked in found for one in asked) == sorted(PROMPTS)
    assert all(asked for _, asked in found)


def test_samples_are_drawn_by_the_prompts_own_numbers() -> None:
    def ask(group: Processes) -> list[int]:
        _, shared = models(group)
        return [one.tokens[0] for _, one in shared.generate(PROMPTS, 10, [0], temperature=0.7)]

    assert on_ranks(2, ask) == [list(range(len(PROMPTS)))] * 2


BATCHES = [[[1, 2, 3], [4, 5]], [[6]], [[7, 8], [9, 1]], [[2]], [[3, 4, 5]]]


@pytest.mark.parametrize("rounds", [1, 64])
def test_each_batch_is_computed_whole_by_one_process_and_all_get_what_came_of_it(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtune.backends.shared_model.ROUND", rounds)

    def ask(group: Processes) -> tuple[list[tuple[int, Any]], list[list[list[int]]]]:
        own, shared = models(group)
        assert own_model(shared) is own  # type: ignore[comparison-overlap]
        asked: list[list[list[int]]] = []

        def answer(number: int) -> list[list[float]]:
            asked.append(BATCHES[number])
            return own.choose(BATCHES[number], [[1], [2, 3]]).tolist()

        return list(share_batches(shared, BATCHES, answer)), asked

    found = on_ranks(3, ask)
    wanted = [(number, Echo().choose(batch, [[1], [2, 3]]).tolist()) for number, batch in enumerate(BATCHES)]
    assert [answers for answers, _ in found] == [wanted] * 3  # to the last bit
    assert sorted(batch for _, asked in found for batch in asked) == sorted(BATCHES)
    assert all(asked for _, asked in found)


def test_batches_are_shared_out_by_their_tokens() -> None:
    def count(group: Processes) -> int:
        computed: list[int] = []
        batches = [[[0] * n] for n in (8, 1, 1, 1, 5)]
        list(share_batches(models(group)[1], batches, lambda number: computed.append(len(batches[number][0]))))
        return sum(computed)

    assert on_ranks(2, count) == [8, 8]


def test_one_process_computes_batch_after_batch_as_they_are_asked_for() -> None:
    computed: list[int] = []
    found = share_batches(Echo(), BATCHES, lambda number: computed.append(number) or number)  # type: ignore[arg-type]
    assert next(found) == (0, 0) and computed == [0]
    assert [number for number, _ in found] == [1, 2, 3, 4]


def test_processes_with_different_batches_are_told_so() -> None:
    def ask(group: Processes) -> list[tuple[int, Any]]:
        return list(share_batches(models(group)[1], BATCHES[group.rank :], lambda number: number))

    first, second = on_ranks(2, ask)
    assert isinstance(second, BackendError) and isinstance(first, ProcessFailed)


def test_processes_that_ask_different_prompts_are_told_so() -> None:
    def ask(group: Processes) -> list[tuple[int, Generation]]:
        return list(models(group)[1].generate(PROMPTS[group.rank :], 10, [0]))

    first, second = on_ranks(2, ask)
    assert isinstance(second, BackendError) and "prompts:" in str(second)
    assert isinstance(first, ProcessFailed)


def test_one_process_has_its_model_as_it_is() -> None:
    own = Echo()
    assert shared_model(own) is own  # type: ignore[arg-type, comparison-overlap]
    assert on_ranks(2, lambda group: models(group)[1].config) == [own.config] * 2
