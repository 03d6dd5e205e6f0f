"""The block in which a Qwen3-style model may think before it replies: <think>...</think>. Strings only.

With `prompt.thinking: true` the model may write one before its reply, in every decoding, and it is left out before the
reply is read. A template that writes such a block itself is followed as it stands.
"""

from __future__ import annotations

from mlxtune.recipe.sections import Recipe

BEGIN, END = "<think>", "</think>"


def may_think(recipe: Recipe) -> bool:
    """Whether replies may begin with thinking that is no part of them."""
    return recipe.prompt.thinking and BEGIN not in recipe.output.template and END not in recipe.output.template


def without_thinking(text: str) -> str | None:
    """What follows a reply's thinking; None where that does not end.

    Some chat templates write the beginning of the block into the prompt, so it may be missing here.

    >>> without_thinking("<think>\\nA bill.\\n</think>\\n\\npayment"), without_thinking("payment")
    ('\\n\\npayment', 'payment')
    """
    before, end, reply = text.partition(END)
    if end and (before.lstrip().startswith(BEGIN) or BEGIN not in before):
        return reply
    return None if text.lstrip().startswith(BEGIN) else text
