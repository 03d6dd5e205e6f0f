"""Decoding held to a reply template: which tokens may come next. llguidance and NumPy; no model, no backend.

The template's own pattern is the grammar, so whatever is written under it parses, unless it is cut by the length limit.
With `prompt.thinking: true` one block of thinking, in whatever words, may come first; once it has begun it must end.

    model.generate(prompts, 64, tokenizer.stop_tokens, constraint_of(recipe, tokenizer, model))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Model
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import ModelError, RecipeError
from mlxtune.evaluation.predict.thinking import BEGIN, END, may_think
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe


def constraint_of(recipe: Recipe, tokenizer: Tokenizer, model: Model) -> TemplateConstraint:
    """What a recipe lets a model write.

    Raises:
        RecipeError: The template is more than llguidance can follow.
    """
    template, width = ReplyTemplate(recipe.output), int(model.config["vocab_size"])
    return TemplateConstraint(template, tokenizer, width, may_think(recipe))


def constraint_of_rest(
    recipe: Recipe, tokenizer: Tokenizer, model: Model, field: str, literal: str
) -> TemplateConstraint:
    """What a recipe lets a model write after the beginning of a reply.

    Args:
        recipe: Whose template it is.
        tokenizer: The model's.
        model: That writes.
        field: The first field that is still to be written.
        literal: The template's text before it that is still to be written.

    Raises:
        RecipeError: The template is more than llguidance can follow.
    """
    template, width = ReplyTemplate(recipe.output), int(model.config["vocab_size"])
    return TemplateConstraint(template, tokenizer, width, after=(field, literal))


class TemplateConstraint:
    """Replies that a template allows; a `Constraint` of `backends/base.py`.

    The tokenizer's trie and the compiled pattern are made once here (about a second for 150,000 tokens) and shared by
    every reply, which starts in microseconds.

    Args:
        template: What replies look like.
        tokenizer: Spells them.
        vocabulary_size: Width of the model's logits. Ids beyond the tokenizer's have no text and are never allowed.
        thinking: Whether a block of thinking may come before the reply.
        after: The first field to be written and the template's text before it, where a reply's beginning is written already.

    Raises:
        RecipeError: The pattern is more than llguidance can follow.
    """

    def __init__(
        self,
        template: ReplyTemplate,
        tokenizer: Tokenizer,
        vocabulary_size: int,
        thinking: bool = False,
        after: tuple[str, str] | None = None,
    ) -> None:
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        self._vocabulary_size = vocabulary_size
        width = max(vocabulary_size, tokenizer.vocabulary_size)
        tokens = from_tokenizer(tokenizer.hf, n_vocab=width, eos_token=list(tokenizer.stop_tokens))
        if thinking:
            ids = [tokenizer.hf.convert_tokens_to_ids(mark) for mark in (BEGIN, END)]
            as_tokens = all(isinstance(token, int) and tokens.is_special_token(token) for token in ids)
            grammar = _thinking_grammar(template.pattern(), as_tokens, tokenizer.opens_thinking)
            self._beginning = LLMatcher(tokens, LLMatcher.grammar_from_lark(grammar))
        else:
            self._beginning = LLMatcher(tokens, LLMatcher.grammar_from_regex(template.pattern(*after or ())))
        _check(self._beginning)

    def start(self) -> TemplateMatcher:
        """A matcher at the beginning of a reply."""
        return TemplateMatcher(self._beginning.deep_copy(), self._vocabulary_size)


class TemplateMatcher:
    """Progress of one reply; a `Matcher` of `backends/base.py`."""

    def __init__(self, matcher: Any, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size

    def mask(self) -> NDArray[np.bool_]:
        """Tokens allowed next, (vocabulary,): stop tokens where the reply may end, and nothing else once it has."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        _check(self._matcher)
        return np.unpackbits(bits, count=self._vocabulary_size, bitorder="little").view(np.bool_)

    def advance(self, token: int) -> None:
        """Take one generated token, which the mask must allow."""
        if not self._matcher.consume_token(token):
            raise ModelError(
                f"the model wrote token {token}, which the template does not allow: its logits must be NaN; "
                "the adapter may be damaged"
            )

    def forced(self) -> list[int]:
        """Take the tokens that spell what the template writes next in any case, as the tokenizer itself would; return them."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        if tokens and not self._matcher.consume_tokens(tokens):
            _check(self._matcher)
        return tokens

    def is_done(self) -> bool:
        """Whether the reply is whole, and nothing may be added to it."""
        return bool(self._matcher.is_stopped())


def _thinking_grammar(pattern: str, as_tokens: bool, is_open: bool) -> str:
    """A reply, with or without a block of thinking before it, in llguidance's dialect of Lark.

    Args:
        pattern: Of the reply without thinking. It may then hold no mark of the block, or it might be taken for thinking.
        as_tokens: Whether <think> and </think> are tokens of their own, which text cannot spell; else they are text.
        is_open: Whether the block has begun in the prompt.
    """
    begin, end = (BEGIN, END) if as_tokens else (f'"{BEGIN}"', f'"{END}"')
    inside = "INSIDE?" if as_tokens else "INSIDE"
    block = f"{'thinking' if as_tokens else 'THINKING'}: {'' if is_open else begin} {inside} {end}"
    reply = pattern.replace("\n", r"\n").replace("/", r"\/")
    # ~ is everything else, bytes that are no text included: & takes the text of it.
    return f"""
start: REPLY | {"thinking" if as_tokens else "THINKING"} LATER
{block}
INSIDE: /(?s:.*)/ & ~/(?s:.*)<\\/think>(?s:.*)/
LATER: /\\s*/ REPLY
REPLY: /{reply}/ & ~/(?s:.*)<\\/?think>(?s:.*)/
"""


def _check(matcher: Any) -> None:
    if matcher.is_error():
        reason = matcher.get_error().strip().splitlines()[0]
        raise RecipeError(
            f"output.template: constrained decoding cannot follow it ({reason}); "
            "shorten the template or its label lists, or use evaluate.decoding: free"
        )
