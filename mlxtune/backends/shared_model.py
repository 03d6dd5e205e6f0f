"""A model whose replies several processes write, and batches that they compute: each its share, and all have all of what came of it.

Every process makes the same calls with the same arguments, and gets the same answers. Trains nothing.

    for number, found in share_batches(model, batches, lambda number: own_model(model).choose(batches[number], options).tolist()):
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

from mlxtune.backends.base import Constraint, Generation, Model
from mlxtune.backends.group import require_same, share_rows, together

# Prompts of a process that are answered before the processes tell each other: enough that few wait at the end of a round, and few
# enough that an interrupted evaluation has kept most of its replies.
ROUND = 64


def shared_model(model: Model) -> Model:
    """The model, its replies written by all processes that share rows; the model itself where none do."""
    return model if model.rows_group.size == 1 else cast(Model, SharedModel(model))


def own_model(model: Model) -> Model:
    """The model of this process, which answers alone."""
    return model.own if isinstance(model, SharedModel) else model


def share_batches(
    model: Model, batches: Sequence[Sequence[Sequence[int]]], answer: Callable[[int], Any]
) -> Iterator[tuple[int, Any]]:
    """What is computed of each batch, by one process as a whole: so its numbers are to the last bit those of one process alone.

    Args:
        model: Whose processes share the batches; that of one process computes them all.
        batches: Tokens of the rows of each batch; what they cost goes by them.
        answer: Computes the batch of a number with this process's own model; JSON holds what it returns.

    Yields:
        Number and answer of each batch in their order, those of a round at once.

    Raises:
        BackendError: Another process has other batches.
    """
    if isinstance(model, SharedModel):
        yield from model.share_batches(batches, answer)
    else:
        yield from ((number, answer(number)) for number in range(len(batches)))


class SharedModel:
    """A `Model` that writes replies with those of the other processes; all else each process computes for itself.

    Args:
        own: The model of this process; all processes of its `rows_group` have the same one.
    """

    def __init__(self, own: Model) -> None:
        self.own, self._group = own, own.rows_group

    def __getattr__(self, name: str) -> Any:
        """What is not shared is the model's own."""
        return getattr(self.own, name)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        slots: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to all prompts, round by round, in the order of the prompts of a round.

        Raises:
            BackendError: Another process asks other prompts.
        """

        def answer(asked: Sequence[int]) -> dict[int, Any]:
            drawn = {} if not temperature else {"numbers": [numbers[i] if numbers else i for i in asked]}
            written = self.own.generate(
                [prompts[index] for index in asked], max_new_tokens, stop_tokens, constraint,
                temperature=temperature, seed=seed, slots=slots, **drawn,
            )  # fmt: skip
            return {asked[place]: [list(one.tokens), one.stop_reason] for place, one in written}

        require_same(self._group, {"prompts": _hash(prompts)})
        for index, (tokens, stop_reason) in self._in_rounds([len(prompt) for prompt in prompts], ROUND, answer):
            yield index, Generation(tuple(tokens), stop_reason)

    def share_batches(
        self, batches: Sequence[Sequence[Sequence[int]]], answer: Callable[[int], Any]
    ) -> Iterator[tuple[int, Any]]:
        """As the function of this name."""
        require_same(self._group, {"prompts": _hash([row for batch in batches for row in batch])})
        n_tokens = [sum(map(len, batch)) for batch in batches]
        a_round = max(1, ROUND // max(map(len, batches), default=1))
        yield from self._in_rounds(n_tokens, a_round, lambda own: {number: answer(number) for number in own})

    def _in_rounds(
        self, n_tokens: Sequence[int], a_round: int, answer: Callable[[Sequence[int]], dict[int, Any]]
    ) -> Iterator[tuple[int, Any]]:
        """The answers of all processes, each with its number.

        Args:
            n_tokens: What each costs to answer.
            a_round: So many of a process are answered before the processes tell each other.
            answer: Answers to some numbers, by number.
        """
        size = a_round * self._group.size
        for start in range(0, len(n_tokens), size):
            numbers = range(start, min(start + size, len(n_tokens)))
            shares = share_rows([n_tokens[number] for number in numbers], self._group.size)
            own = [numbers[place] for place in shares[self._group.rank]]
            with together(self._group) as report, self.own.side_by_side():
                report.value = answer(own) if own else {}
            found = {int(number): one for value in report.values for number, one in value.items()}
            yield from ((number, found[number]) for number in numbers)


def _hash(tokens: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps([list(map(int, one)) for one in tokens]).encode()).hexdigest()
