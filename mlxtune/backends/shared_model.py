"""A model whose replies several processes write: each computes its share of the prompts, and all have all of them.

Every process makes the same calls with the same arguments, and gets the same answers. Trains nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Batch, Constraint, Generation, Model, TokenScores
from mlxtune.backends.group import require_same, share_rows, together

# Prompts of a process that are answered before the processes tell each other: enough that few wait at the end of a round, and few
# enough that an interrupted evaluation has kept most of its replies.
ROUND = 64


def shared_model(model: Model) -> Model:
    """The model, its replies written by all processes that share rows; the model itself where none do."""
    return model if model.rows_group.size == 1 else cast(Model, SharedModel(model))


class SharedModel:
    """A `Model` that answers with those of the other processes; what is not shared is computed on each.

    Args:
        model: Of this process; all processes of its `rows_group` have the same one.
    """

    def __init__(self, model: Model) -> None:
        self._model, self._group = model, model.rows_group

    def __getattr__(self, name: str) -> Any:
        """What is not shared is the model's own."""
        return getattr(self._model, name)

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
        require_same(self._group, {"prompts": _hash(prompts)})
        for own, chosen in self._rounds(prompts):
            asked = [own[index] for index in chosen[self._group.rank]]
            found: dict[int, Generation] = {}
            with together(self._group) as report, self._model.side_by_side():
                drawn = {} if not temperature else {"numbers": [numbers[i] if numbers else i for i in asked]}
                if asked:
                    written = self._model.generate(
                        [prompts[index] for index in asked], max_new_tokens, stop_tokens, constraint,
                        temperature=temperature, seed=seed, slots=slots, **drawn,
                    )  # fmt: skip
                    found = {asked[place]: one for place, one in written}
                report.value = {index: [list(one.tokens), one.stop_reason] for index, one in found.items()}
            answered = {int(index): one for value in report.values for index, one in value.items()}
            for index in own:
                tokens, stop_reason = answered[index]
                yield index, Generation(tuple(tokens), stop_reason)

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log-probability of each option's tokens after each prompt, (B, n_options); errors as for `generate`."""
        require_same(self._group, {"prompts": _hash(prompts), "options": _hash(options)})
        shares = share_rows([len(prompt) for prompt in prompts], self._group.size)
        own = shares[self._group.rank]
        with together(self._group) as report, self._model.side_by_side():
            report.value = self._model.choose([prompts[index] for index in own], options).tolist() if own else []
        found = np.zeros((len(prompts), len(options)), np.float32)
        for share, rows in zip(shares, report.values, strict=True):
            for index, row in zip(share, rows, strict=True):
                found[index] = row
        return found

    def score(self, batch: Batch) -> TokenScores:
        """-log p of each supervised token, and whether none is likelier."""
        shares = share_rows(batch.lengths.tolist(), self._group.size)
        own = shares[self._group.rank]
        with together(self._group) as report, self._model.side_by_side():
            if own:
                scores = self._model.score(_some_rows(batch, own))
                report.value = [scores.nats.tolist(), scores.correct.tolist()]
        nats, correct = np.zeros(batch.tokens.shape, np.float32), np.zeros(batch.tokens.shape, np.bool_)
        for rows, value in zip(shares, report.values, strict=True):
            if rows:
                nats[rows], correct[rows] = value
        return TokenScores(nats, correct)

    def _rounds(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Indices of the prompts of each round, and which of them each process answers."""
        size = ROUND * self._group.size
        for start in range(0, len(prompts), size):
            own = list(range(start, min(start + size, len(prompts))))
            yield own, share_rows([len(prompts[index]) for index in own], self._group.size)


def _hash(tokens: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps([list(map(int, one)) for one in tokens]).encode()).hexdigest()


def _some_rows(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch, as wide as it is."""
    return replace(
        batch,
        tokens=batch.tokens[rows],
        lengths=batch.lengths[rows],
        weights=batch.weights[rows],
        segments=batch.segments[rows],
        rows=tuple(batch.rows[row] for row in rows),
    )
