"""A model with its recipe, ready to be asked: replies, probabilities and samples of rows. Writes and scores nothing.

predictor = Predictor(recipe, model, tokenizer)
predictor.predict(["where is my parcel"])[0].values       # {"intents": ("order_management",)}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mlxtune.backends.base import Constraint, Generation, Model
from mlxtune.data.examples import prompt_ids
from mlxtune.data.field_forms import Value
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import Misuse
from mlxtune.evaluation.predict.best import BestReplies
from mlxtune.evaluation.predict.constraint import constraint_of
from mlxtune.evaluation.predict.parsing import ParsedReply, parse_reply
from mlxtune.evaluation.predict.predictions import BEST, BOTH, CONSTRAINED, FREE
from mlxtune.evaluation.predict.probabilities import Distribution, Options, distributions, options_of
from mlxtune.evaluation.predict.thinking import may_think
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import PLACEHOLDER, Recipe

Values = Mapping[str, Value | None]  # of one reply; None where it could not be parsed


@dataclass(frozen=True)
class Reply:
    """A reply as the model wrote it, and what it says.

    Attributes:
        text: As written.
        parsed: What it says.
        stop: 'stop', or 'length' where it was truncated.
        n_tokens: Tokens generated.
        distributions: How probable each value of a field is: of the first field where that is known and was asked; under best
            decoding of every field that was scored, given the values of those before it.
    """

    text: str
    parsed: ParsedReply
    stop: str
    n_tokens: int
    distributions: tuple[Distribution, ...] = ()

    @property
    def values(self) -> Values:
        """Field -> value; None where the reply holds none that the field allows."""
        return self.parsed.predicted

    @property
    def distribution(self) -> Distribution | None:
        """That of the first field; None where it is not known or was not asked."""
        return self.distributions[0] if self.distributions else None

    @property
    def probabilities(self) -> dict[str, float | None]:
        """Field -> the probability of its value, of the fields of which it is known."""
        return {one.field: one.of(self.values[one.field]) for one in self.distributions}


class Predictor:
    """A model with its recipe and tokenizer.

    Args:
        recipe: Prompt, output and limits.
        model: With its adapter, if any.
        tokenizer: The model's.
        decoding: 'free', 'constrained' or 'best'; None is the recipe's, where 'both' means constrained.

    Attributes:
        decoding: 'free', 'constrained' or 'best'.
        best: Answers under best decoding; None under the others.

    Raises:
        RecipeError: The template cannot be followed in constrained decoding, or its replies cannot be scored in best decoding.
    """

    def __init__(self, recipe: Recipe, model: Model, tokenizer: Tokenizer, decoding: str | None = None) -> None:
        self.recipe, self.model, self.tokenizer = recipe, model, tokenizer
        self.template = ReplyTemplate(recipe.output)
        self.decoding = decoding or recipe.evaluate.decoding
        if self.decoding == BOTH:
            self.decoding = CONSTRAINED
        self.best = BestReplies(recipe, model, tokenizer) if self.decoding == BEST else None
        if self.decoding == CONSTRAINED:
            _ = self.constraint  # a template that cannot be followed is refused here

    @cached_property
    def constraint(self) -> Constraint | None:
        """What may be written token by token; None under free decoding."""
        return None if self.decoding == FREE else constraint_of(self.recipe, self.tokenizer, self.model)

    @cached_property
    def options(self) -> Options | None:
        """What the first field may say; None where its values cannot be told apart exactly."""
        return options_of(self.recipe, self.tokenizer)

    @property
    def scored(self) -> tuple[str, ...]:
        """The fields whose values have probabilities."""
        if self.best is not None:
            return self.best.fields.names
        return () if self.options is None else (self.options.field,)

    def predict(self, texts: Sequence[str | Mapping[str, str]]) -> list[Reply]:
        """The replies to texts, with the probabilities of the first field where they are known.

        Args:
            texts: One a row; where the prompt needs several columns, a mapping of them.

        Raises:
            Misuse: A text where the prompt needs several columns, or a mapping without one of them.
        """
        rows = [self._row(text, f"text {position}") for position, text in enumerate(texts, start=1)]
        found: list[Reply] = []
        for start in range(0, len(rows), self.recipe.evaluate.batch_size):
            found += self.predict_batch(rows[start : start + self.recipe.evaluate.batch_size])
        return found

    def predict_batch(self, rows: Sequence[Row]) -> list[Reply]:
        """The replies to rows, with the probabilities of the first field where they are known; all rows are one batch.

        Raises:
            DataError: Rows that lack a column of the prompt.
        """
        prompts = self.prompts(rows)
        replies = self.answer(prompts)
        options = None if self.best is not None else self.options
        if options is None:
            return replies
        found = distributions(self.model, prompts, options)
        return [replace(reply, distributions=(one,)) for reply, one in zip(replies, found, strict=True)]

    def replies(self, rows: Sequence[Row], progress: Progress = SILENT) -> list[Reply]:
        """The replies to rows, in their order, asked batch by batch and without further probabilities; errors as for `predict_batch`."""
        prompts = self.prompts(rows)
        found: dict[int, Reply] = {}
        for batch in self.batches(prompts):
            found.update(zip(batch, self.answer([prompts[i] for i in batch]), strict=True))
            progress.advance(len(batch))
        return [found[i] for i in range(len(rows))]

    def probabilities(self, rows: Sequence[Row], progress: Progress = SILENT) -> list[Distribution] | None:
        """How probable each value of the first field is, by row; None where its values cannot be told apart exactly."""
        options = self.options
        if options is None:
            return None
        prompts = self.prompts(rows)
        found: dict[int, Distribution] = {}
        for batch in self.batches(prompts):
            found.update(zip(batch, distributions(self.model, [prompts[i] for i in batch], options), strict=True))
            progress.advance(len(batch))
        return [found[i] for i in range(len(rows))]

    def samples(
        self, rows: Sequence[Row], n: int, temperature: float, progress: Progress = SILENT
    ) -> list[list[Values]]:
        """What each row's reply says, each of `n` times: [row][repeat].

        Under best decoding they are drawn token by token, as under constrained decoding. The draws are a function of the recipe's seed, the repeat and the batch, so the same evaluation finds the same.
        """
        prompts = self.prompts(rows)
        found: list[list[Values]] = [[] for _ in rows]
        for repeat in range(n):
            for number, batch in enumerate(self.batches(prompts)):
                seed = _seed(self.recipe.train.seed, repeat, number)
                replies = self.parse(self.generate([prompts[i] for i in batch], temperature, seed))
                for i, reply in zip(batch, replies, strict=True):
                    found[i].append(reply.values)
                progress.advance(len(batch))
        return found

    # Pieces, for whoever keeps replies as they come

    def prompts(self, rows: Sequence[Row], shots: Sequence[Row] = ()) -> list[list[int]]:
        """The tokens that ask about each row, after rows shown with their replies; errors as for `predict_batch`."""
        return [list(ids) for ids in prompt_ids(rows, self.recipe, self.tokenizer, shots)]

    def batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Indices of prompts, batch by batch."""
        return batches(prompts, self.recipe.evaluate.batch_size)

    def answer(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """The replies to prompts, as one batch; under best decoding with the probabilities of the fields that are scored."""
        if self.best is None:
            return self.parse(self.generate(prompts))
        found = self.best.answer(prompts)
        replies = self.parse([one.generation for one in found])
        return [replace(reply, distributions=one.distributions) for reply, one in zip(replies, found, strict=True)]

    def generate(self, prompts: Sequence[Sequence[int]], temperature: float = 0.0, seed: int = 0) -> list[Generation]:
        """What the model writes after each prompt, as one batch; greedy without a temperature."""
        limit, stops = self.recipe.evaluate.max_new_tokens, self.tokenizer.stop_tokens
        return self.model.generate(prompts, limit, stops, self.constraint, temperature=temperature, seed=seed)

    def parse(self, written: Sequence[Generation]) -> list[Reply]:
        """What was written, as replies."""
        thinking, constrained = may_think(self.recipe), self.decoding != FREE
        found = []
        for one in written:
            text = self.tokenizer.decode(one.tokens)
            parsed = parse_reply(self.template, text, one.stop_reason == "length", constrained, thinking)
            found.append(Reply(text, parsed, one.stop_reason, len(one.tokens)))
        return found

    def _row(self, text: str | Mapping[str, str], place: str) -> Row:
        needed = list(dict.fromkeys(PLACEHOLDER.findall(self.recipe.prompt.user)))
        if isinstance(text, str):
            if len(needed) != 1:
                raise Misuse(
                    f"{place}: prompt.user needs {', '.join(needed)}; expected a mapping of these, got {text!r}"
                )
            return Row({needed[0]: text}, place, 1)
        missing = [name for name in needed if name not in text]
        if missing:
            raise Misuse(f"{place}: prompt.user needs {', '.join(needed)}; got none of {', '.join(missing)}")
        return Row(dict(text), place, 1)


def batches(prompts: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of prompts, batch by batch, longest first: a batch pads little, one that does not fit fails at once."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
