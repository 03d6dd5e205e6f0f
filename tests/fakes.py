"""Stand-ins that several tests share: a model that answers what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends.base import Constraint, Generation
from mlxtune.data.rows import Row
from mlxtune.evaluation.measure import EvaluationOptions, evaluate
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.recording import Recorded, record_predictions
from mlxtune.evaluation.results import EvaluatedModel, FileIdentity
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe

# To the type checker a fake is any model: it has the methods that its tests call, not all.
AnyModel: Any = object


class FakeModel(AnyModel):
    """Answers each prompt with the text that `answer` gives for it; under a constraint that must allow the text.

    After `fail_after` replies it is interrupted.
    """

    def __init__(self, tokenizer: Tokenizer, answer: Callable[[str], str], fail_after: int | None = None) -> None:
        self.tokenizer, self.answer, self.fail_after = tokenizer, answer, fail_after
        self.config = {"vocab_size": 448}
        self.asked: list[int] = []  # tokens of each prompt that was answered, in order

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        slots: int | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        for number in sorted(range(len(prompts)), key=lambda number: -len(prompts[number])):
            if len(self.asked) == self.fail_after:
                raise KeyboardInterrupt
            self.asked.append(len(prompts[number]))
            yield number, self._reply(self.tokenizer.decode(prompts[number]), max_new_tokens, constraint)

    def _reply(self, prompt: str, max_new_tokens: int, constraint: Constraint | None) -> Generation:
        ids = self.tokenizer.encode([self.answer(prompt)])[0].ids
        if constraint is not None:
            matcher = constraint.start()
            for token in ids:
                matcher.advance(token)
        if len(ids) >= max_new_tokens:
            return Generation(ids[:max_new_tokens], "length")
        return Generation(ids, "stop")


class Chooser(FakeModel):
    """Chooses as told: the right option of a row has its probability in `sure`, by the row's text; the rest share."""

    def __init__(self, *args: Any, sure: dict[str, float], wrong: Sequence[str] = ()) -> None:
        super().__init__(*args)
        self.sure, self.wrong = sure, wrong
        self.chosen: list[int] = []

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> Any:
        self.chosen.append(len(prompts))
        found = []
        for prompt in prompts:
            text = self.tokenizer.decode(prompt)
            p = next(p for key, p in self.sure.items() if f"\n{key}" in text)
            said = (*self.tokenizer.encode([self.answer(text)])[0].ids, self.tokenizer.end_of_turn)
            rest = (1 - p) / (len(options) - 1)
            found.append([np.log(p if tuple(option) == said else rest) - 3 for option in options])
        return np.array(found, np.float32)


def right_answer(rows: list[Row]) -> Callable[[str], str]:
    """The right reply to a row's prompt, in canonical order."""
    replies = {row.fields["text"]: ", ".join(row.fields["intents"]) for row in rows}
    return lambda prompt: next(reply for text, reply in replies.items() if f"\n{text}" in prompt)


def record(
    path: Path,
    rows: Sequence[Row],
    recipe: Recipe,
    model: Any,
    tokenizer: Tokenizer,
    decoding: str = "free",
    **more: Any,
) -> Recorded:
    """`record_predictions` of a model under a decoding."""
    return record_predictions(path, rows, Predictor(recipe, model, tokenizer, decoding), **more)


class Told:
    """A `Progress` that remembers what it was told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.advanced: list[int] = []

    def begin(self, what: str, n_items: int) -> None:
        self.begun.append((what, n_items))

    def advance(self, n_items: int) -> None:
        self.advanced.append(n_items)


EVALUATED = EvaluatedModel(
    "a model", None, "weights", "task", FileIdentity("a", "1"), FileIdentity("test.jsonl", "1", 7), "mlx"
)


def scores_of(
    recipe: Recipe,
    model: Any,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    out: Path,
    decoding: str | None = None,
    evaluated: EvaluatedModel | None = None,
    *,
    probabilities: bool = False,
    validation: Sequence[Row] | None = None,
    repeats: int | None = None,
    temperature: float = 0.7,
    tune_thresholds: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """The content of scores.json of a model that `evaluate` asked."""
    options = EvaluationOptions(
        decoding, probabilities, validation, repeats, temperature, tune_thresholds=tune_thresholds
    )
    return evaluate(recipe, model, tokenizer, rows, out, options, evaluated, **more).result.to_json()
