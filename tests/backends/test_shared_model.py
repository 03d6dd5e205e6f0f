"""Replies that several processes write are those of one, each written once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.base import UNSUPERVISED, Batch, Generation, Group, Model, TokenScores
from mlxtune.backends.group import ALONE
from mlxtune.backends.processes import Processes
from mlxtune.backends.shared_model import shared_model
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

    def score(self, batch: Batch) -> TokenScores:
        return TokenScores((batch.tokens / 7).astype(np.float32), batch.tokens % 2 == 0)


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


def test_probabilities_of_options_are_those_of_one_model_to_the_last_bit() -> None:
    options = [[1], [2, 3]]
    found = on_ranks(3, lambda group: models(group)[1].choose(PROMPTS, options).tolist())
    assert found == [Echo().choose(PROMPTS, options).tolist()] * 3


def test_scores_of_tokens_come_back_in_their_rows() -> None:
    lengths = np.array([4, 2, 3], np.int32)
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    batch = Batch(
        np.zeros(0, np.int32), tokens, lengths, np.ones((3, 4), np.float32),
        np.full((3, 4), UNSUPERVISED, np.int16), (0, 1, 2),
    )  # fmt: skip
    for found in on_ranks(2, lambda group: models(group)[1].score(batch)):
        np.testing.assert_array_equal(found.nats, Echo().score(batch).nats)
        np.testing.assert_array_equal(found.correct, Echo().score(batch).correct)


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
