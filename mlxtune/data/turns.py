"""Where a chat template writes the assistant's turns: found by what changes in its text when a turn does. No tokens, no rows.

A template may write a turn otherwise once it is past: Qwen3's leaves out its thinking. So no turn is rendered by itself: the
whole conversation is, once as it is and once for each turn with a mark in its place. What differs is that turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.data.conversation import ASSISTANT, Conversation, Message
from mlxtune.models.tokenizer import Tokenizer

_MARK = "\ue000mlxtune\ue001"  # characters of the private use area: no text begins or ends with them


@dataclass(frozen=True)
class Turn:
    """A turn of the assistant's in a prompt's text: characters [start, end) were said, [end, closed) end the turn."""

    start: int
    end: int
    closed: int


def find_turns(
    messages: Sequence[Message], conversation: Conversation, tokenizer: Tokenizer, thinking: bool
) -> tuple[str, list[Turn]]:
    """A prompt's text, and the assistant's turns in it.

    Args:
        messages: Those of the conversation, with the recipe's system message if it has none of its own.
        conversation: Says which turns, and which tools there are.
        tokenizer: Has the chat template.
        thinking: Passed to it.

    Raises:
        ValueError: The template leaves a turn out.
        ModelError: The template refuses the conversation.
    """
    text = tokenizer.prompt_text(messages, thinking, conversation.tools)
    shift = len(messages) - len(conversation.messages)
    turns = []
    for place in conversation.supervised:
        marked = [*messages]
        marked[place + shift] = {"role": ASSISTANT, "content": _MARK}
        start, end = _changed(text, tokenizer.prompt_text(marked, thinking, conversation.tools))
        if start == end:
            raise ValueError(f"message {place + 1}: the chat template leaves it out, so it cannot be trained on")
        turns.append(Turn(start, end, _end_of_turn(text, end, tokenizer.end_of_turn_text)))
    return text, turns


def written_turn(
    messages: Sequence[Message],
    reply: Message,
    tools: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    thinking: bool,
) -> str:
    """The text of a conversation's last turn as the chat template writes it, which for calls of tools is its own affair.

    Raises:
        ModelError: The template refuses the conversation.
    """
    text = tokenizer.conversation_text([*messages, reply], thinking, tools)
    marked = tokenizer.conversation_text([*messages, {"role": ASSISTANT, "content": _MARK}], thinking, tools)
    start, end = _changed(text, marked)
    return text[start:end]


def _changed(text: str, marked: str) -> tuple[int, int]:
    """The part of a text that is not in the marked one: what both begin and end with is left out."""
    start = _common(text, marked)
    rest = _common(text[start:][::-1], marked[start:][::-1])
    return start, len(text) - rest


def _common(one: str, other: str) -> int:
    """Characters that two texts begin with alike, found by halving: comparing slices is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _end_of_turn(text: str, end: int, mark: str) -> int:
    """Where the turn's own end-of-turn token ends, if it follows what was said."""
    rest = text[end:]
    space = len(rest) - len(rest.lstrip())
    return end + space + len(mark) if rest.startswith(mark, space) else end
