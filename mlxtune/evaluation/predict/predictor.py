"""Asking a model about rows without right answers: replies and what they say. Nothing is written or scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.backends.base import Constraint, Model
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.evaluation.predict.constraint import constraint_of
from mlxtune.evaluation.predict.predictions import CONSTRAINED, FREE, Verdict, judge
from mlxtune.evaluation.predict.probabilities import Distribution, distributions, options_of
from mlxtune.evaluation.predict.thinking import may_think
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class Answer:
    """A reply as the model wrote it, what it says, and how probable its first field's values are, if that is known."""

    text: str
    verdict: Verdict
    chances: Distribution | None = None


class Asker:
    """A model with its recipe, ready to be asked.

    Args:
        recipe: Prompt, output and limits.
        model: With its adapter, if any.
        tokenizer: The model's.
        decoding: 'free' or 'constrained'; None is the recipe's, where 'both' means constrained.
    """

    def __init__(self, recipe: Recipe, model: Model, tokenizer: Tokenizer, decoding: str | None = None) -> None:
        self._recipe, self._model, self._tokenizer = recipe, model, tokenizer
        self._template = ReplyTemplate(recipe.output)
        self._options = options_of(recipe, tokenizer)
        self._constraint: Constraint | None = None
        if (decoding or recipe.evaluate.decoding) != FREE:
            self._constraint = constraint_of(recipe, tokenizer, model)

    @property
    def decoding(self) -> str:
        """'free' or 'constrained'."""
        return FREE if self._constraint is None else CONSTRAINED

    def ask(self, rows: Sequence[Row]) -> list[Answer]:
        """The answers to rows, asked as one batch.

        Raises:
            DataError: Rows that lack a column of the prompt.
        """
        prompts = prompt_ids(rows, self._recipe, self._tokenizer)
        limit = self._recipe.evaluate.max_new_tokens
        replies = self._model.generate(prompts, limit, self._tokenizer.stop_tokens, self._constraint)
        chances: Sequence[Distribution | None] = [None] * len(rows)
        if self._options is not None:
            chances = distributions(self._model, prompts, self._options)
        answers = []
        for reply, chance in zip(replies, chances, strict=True):
            text, cut = self._tokenizer.decode(reply.tokens), reply.stop_reason == "length"
            verdict = judge(self._template, text, cut, self._constraint is not None, may_think(self._recipe))
            answers.append(Answer(text, verdict, chance))
        return answers
