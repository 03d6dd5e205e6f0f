"""What is worth a warning before rows are asked: replies that cannot fit. Asks no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlxtune.data.examples import expected_values, prompt_ids
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError, Problem
from mlxtune.models.positions import max_positions
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe


def limit_warnings(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    """A sentence if expected replies would be truncated by `evaluate.max_new_tokens`, their end-of-turn token counted."""
    template = ReplyTemplate(recipe.output)
    texts = [template.format(values)[0] for values in expected_values(rows, recipe)]
    needed = [len(reply.ids) + 1 for reply in tokenizer.encode(texts)]
    limit = recipe.evaluate.max_new_tokens
    n_long = sum(n > limit for n in needed)
    if not n_long:
        return []
    advice = f"the longest needs {max(needed)}: --set evaluate.max_new_tokens={max(needed)}"
    long = f"{n_long} of {len(rows)} expected replies are longer, so they will be truncated and counted as wrong"
    return [f"evaluate.max_new_tokens is {limit}, but {long}; {advice}"]


def position_warnings(
    rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, config: Mapping[str, Any]
) -> list[str]:
    """A sentence if prompts leave less than `evaluate.max_new_tokens` of the model's positions, where replies end.

    Raises:
        DataError: Prompts that leave none; names the rows.
    """
    positions, limit = max_positions(config), recipe.evaluate.max_new_tokens
    if positions is None:
        return []
    lengths = list(map(len, prompt_ids(rows, recipe, tokenizer)))
    full = [
        Problem(f"{row.file}:{row.line}", f"a prompt of {length} tokens")
        for row, length in zip(rows, lengths, strict=True)
        if length >= positions
    ]
    if full:
        what = f"no room for a reply: the model has {positions} positions (max_position_embeddings); shorten these rows"
        raise DataError(what, full)
    n_short = sum(length + limit > positions for length in lengths)
    if not n_short:
        return []
    return [
        f"{n_short} of {len(rows)} prompts leave less room than evaluate.max_new_tokens = {limit}: the model has {positions} "
        "positions (max_position_embeddings), and replies are truncated there"
    ]
