"""A model with its recipe, ready to be asked: replies, probabilities and samples of rows. Writes and scores nothing.

predictor = Predictor(recipe, model, tokenizer)
predictor.predict(["where is my parcel"])[0].values       # {"intents": ("order_management",)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlxtune.backends.base import Constraint, Generation, Model
from mlxtune.backends.shared_model import own_model, share_batches
from mlxtune.data.examples import prompt_ids
from mlxtune.data.field_forms import Value
from mlxtune.data.reading import asked_row
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import Misuse
from mlxtune.evaluation.predict.best import BestReplies, BestReply
from mlxtune.evaluation.predict.constraint import constraint_of
from mlxtune.evaluation.predict.parsing import ParsedReply, parse_reply
from mlxtune.evaluation.predict.predictions import BEST, BOTH, CONSTRAINED, FREE
from mlxtune.evaluation.predict.probabilities import Distribution, Options, distributions_of, options_of
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
        self.best = BestReplies(recipe, own_model(model), tokenizer) if self.decoding == BEST else None
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

    def predict(self, texts: Sequence[str | Mapping[str, Any]]) -> list[Reply]:
        """The replies to texts, with the probabilities of the first field where they are known.

        Args:
            texts: One a row; where the prompt needs several columns, a mapping of them; or a conversation, a mapping with
                `messages`, the last of them the user's, and perhaps `tools`.

        Raises:
            Misuse: A text where the prompt needs several columns, a mapping without one of them, or no conversation.
        """
        return self.predict_rows([self._row(text, f"text {position}") for position, text in enumerate(texts, start=1)])

    def predict_rows(self, rows: Sequence[Row]) -> list[Reply]:
        """The replies to rows, in their order, with the probabilities of the first field where they are known.

        Raises:
            DataError: Rows that lack a column of the prompt.
        """
        replies = self.replies(rows)
        found = None if self.best is not None else self.probabilities(rows)
        if found is None:
            return replies
        return [replace(reply, distributions=(one,)) for reply, one in zip(replies, found, strict=True)]

    def replies(self, rows: Sequence[Row], progress: Progress = SILENT) -> list[Reply]:
        """The replies to rows, in their order, without further probabilities; errors as for `predict_rows`."""
        found: dict[int, Reply] = {}
        for i, reply in self.answer(self.prompts(rows)):
            found[i] = reply
            progress.advance(1)
        return [found[i] for i in range(len(rows))]

    def probabilities(self, rows: Sequence[Row], progress: Progress = SILENT) -> list[Distribution] | None:
        """How probable each value of the first field is, by row; None where its values cannot be told apart exactly."""
        options = self.options
        if options is None:
            return None
        own, tokens = own_model(self.model), options.tokens
        found: dict[int, Distribution] = {}
        for batch, scores in self._by_batch(self.prompts(rows), lambda asked: own.choose(asked, tokens).tolist()):
            found.update(zip(batch, distributions_of(scores, options), strict=True))
            progress.advance(len(batch))
        return [found[i] for i in range(len(rows))]

    def samples(
        self, rows: Sequence[Row], n: int, temperature: float, progress: Progress = SILENT
    ) -> list[list[Values]]:
        """What each row's reply says, each of `n` times: [row][repeat].

        Under best decoding they are drawn token by token, as under constrained decoding. The draws are a function of the recipe's
        seed, the repeat and the row's number, so the same evaluation finds the same, whichever rows are written together.
        """
        prompts = self.prompts(rows)
        found: list[list[Values]] = [[] for _ in rows]
        for repeat in range(n):
            for i, reply in self._parsed(self.generate(prompts, temperature, _seed(self.recipe.train.seed, repeat))):
                found[i].append(reply.values)
                progress.advance(1)
        return found

    # Pieces, for whoever keeps replies as they come

    def prompts(self, rows: Sequence[Row], shots: Sequence[Row] = ()) -> list[list[int]]:
        """The tokens that ask about each row, after rows shown with their replies; errors as for `predict_rows`."""
        return [list(ids) for ids in prompt_ids(rows, self.recipe, self.tokenizer, shots)]

    def answer(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[int, Reply]]:
        """The replies to prompts, each with its prompt's number, as they end; under best decoding batch by batch, with the
        probabilities of the fields that are scored.
        """
        if not prompts:
            return
        best = self.best
        if best is None:
            yield from self._parsed(self.generate(prompts))
            return
        for batch, answers in self._by_batch(prompts, lambda asked: [one.to_json() for one in best.answer(asked)]):
            for i, one in zip(batch, map(BestReply.from_json, answers), strict=True):
                yield i, replace(self._reply(one.generation), distributions=one.distributions)

    def _by_batch(
        self, prompts: Sequence[Sequence[int]], answer: Callable[[list[Sequence[int]]], list[Any]]
    ) -> Iterator[tuple[list[int], list[Any]]]:
        """Indices of prompts that are computed together, batch by batch, and what a function makes of these prompts; JSON holds it."""
        chosen = list(batches(prompts, self.recipe.evaluate.batch_size))
        asked = [[prompts[i] for i in batch] for batch in chosen]
        for number, found in share_batches(self.model, asked, lambda number: answer(asked[number])):
            yield chosen[number], found

    def generate(
        self, prompts: Sequence[Sequence[int]], temperature: float = 0.0, seed: int = 0
    ) -> Iterator[tuple[int, Generation]]:
        """What the model writes after each prompt, with the prompt's number, as it ends; greedy without a temperature."""
        evaluate, stops = self.recipe.evaluate, self.tokenizer.stop_tokens
        return self.model.generate(
            prompts, evaluate.max_new_tokens, stops, self.constraint,
            temperature=temperature, seed=seed, slots=evaluate.batch_size,
        )  # fmt: skip

    def _parsed(self, written: Iterable[tuple[int, Generation]]) -> Iterator[tuple[int, Reply]]:
        return ((i, self._reply(one)) for i, one in written)

    def _reply(self, written: Generation) -> Reply:
        """What was written, as a reply."""
        text = self.tokenizer.decode(written.tokens)
        truncated, constrained = written.stop_reason == "length", self.decoding != FREE
        parsed = parse_reply(self.template, text, truncated, constrained, may_think(self.recipe))
        return Reply(text, parsed, written.stop_reason, len(written.tokens))

    def _row(self, text: str | Mapping[str, Any], place: str) -> Row:
        needed = list(dict.fromkeys(PLACEHOLDER.findall(self.recipe.prompt.user)))
        if isinstance(text, str):
            if len(needed) != 1:
                raise Misuse(
                    f"{place}: prompt.user needs {', '.join(needed)}; expected a mapping of these, got {text!r}"
                )
            return Row({needed[0]: text}, place, 1)
        if "messages" in text and "messages" not in needed:
            try:
                return asked_row(text, self.recipe, place)
            except ValueError as error:
                raise Misuse(f"{place}: {error}") from None
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
