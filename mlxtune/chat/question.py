"""What a chat server is asked, and what comes of it: values alone, no request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlxtune.errors import MlxtuneError


@dataclass(frozen=True)
class Question:
    """One conversation to be answered.

    Attributes:
        messages: In order, each {"role": "system" | "user" | "assistant", "content": text}.
        max_tokens: Where the answer is truncated.
        temperature: 0 is greedy.
        seed: Of the sampling, where the server has one. Equal questions have one answer: give sampled ones seeds of
            their own to have several.
    """

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class ChatFailure:
    """A question without a whole answer.

    Attributes:
        kind: 'refused' by the model or its filter; 'cut' at max_tokens; 'failed' requests, each with its repetitions.
        reason: Why, on one line.
        text: What there is of the answer.
    """

    kind: Literal["refused", "cut", "failed"]
    reason: str
    text: str = ""


Answer = str | ChatFailure


class ChatServerError(MlxtuneError):
    """A chat server that cannot be reached, or that refuses every question: a wrong address, key or model."""
