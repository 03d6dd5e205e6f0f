"""Replies written token by token, as one batch: who still writes, what each may write next, and what is written for certain.

The loop of `generate` on every backend. A backend brings a `Session`, which computes; no array of a backend is seen here.
What a template forces costs no step: those tokens are fed together with the one before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Constraint, Generation, Matcher


class Session(Protocol):
    """Rows on a device, with the tokens that each has so far."""

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Append tokens to each row and begin to compute what follows; may return before the device is done.

        Args:
            tokens: (B, W); of row b the first `counts[b]` count, the rest is padding.
            counts: At least 1 each, (B,).
        """
        ...

    def pick(
        self, allowed: NDArray[np.bool_] | None, temperature: float, draws: NDArray[np.float32] | None
    ) -> list[int]:
        """The next token of each row: the likeliest, or at a temperature the one that a uniform draw falls on.

        Args:
            allowed: Tokens that each row may take, (B, vocabulary); None is all.
            temperature: 0 takes the likeliest.
            draws: Uniform in [0, 1), (B,); None at temperature 0.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        ...


@dataclass
class _Reply:
    """One reply while it is written."""

    number: int
    limit: int
    matcher: Matcher | None
    tokens: list[int] = field(default_factory=list)
    stop_reason: str = ""

    def take(self, token: int, stop_tokens: Sequence[int]) -> list[int]:
        """Take a token that was picked, and what follows it for certain; all that is to be fed, nothing at the end."""
        if token in stop_tokens:
            self.stop_reason = "stop"
            return []
        before = len(self.tokens)
        self.tokens.append(token)
        if self.matcher is not None:
            self.matcher.advance(token)
            self.tokens += self.matcher.forced()
        if len(self.tokens) >= self.limit:
            self.tokens, self.stop_reason = self.tokens[: self.limit], "length"
        elif self.matcher is not None and self.matcher.is_done():
            self.stop_reason = "stop"  # nothing but a stop token may come, which need not be computed
        return [] if self.stop_reason else self.tokens[before:]


def write_replies(
    session: Session,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    stop_tokens: Sequence[int],
    constraint: Constraint | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Generation]:
    """Write a reply to each prompt.

    Args:
        session: Holds a row for each prompt, and what comes before it.
        prompts: Token ids that are not yet fed, at least one each.
        limits: Tokens that each reply may have, at least one.
        stop_tokens: Each ends a reply and does not belong to it.
        constraint: What replies may be written.
        temperature: 0 is greedy. Else each token is a function of (seed, reply, place), whoever else is in the batch.
        seed: Of the draws.
    """
    replies = [_Reply(i, limit, None if constraint is None else constraint.start()) for i, limit in enumerate(limits)]
    writing, feeds = replies, [list(prompt) for prompt in prompts]
    while writing:
        session.feed(*_padded(feeds))
        # While the device computes:
        masks = [reply.matcher.mask() for reply in writing if reply.matcher is not None]
        draws = None
        if temperature > 0:
            draws = np.array([_draw(seed, reply.number, len(reply.tokens)) for reply in writing], np.float32)
        picked = session.pick(np.stack(masks) if masks else None, temperature, draws)
        feeds = [reply.take(token, stop_tokens) for reply, token in zip(writing, picked, strict=True)]
        rows = [row for row, feed in enumerate(feeds) if feed]
        if 0 < len(rows) < len(writing):
            session.keep(rows)
        writing, feeds = [writing[row] for row in rows], [feeds[row] for row in rows]
    return [Generation(tuple(reply.tokens), reply.stop_reason) for reply in replies]


def _padded(feeds: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens of each row, (B, W), and how many count, (B,)."""
    counts = np.array([len(feed) for feed in feeds], np.int32)
    tokens = np.zeros((len(feeds), counts.max()), np.int32)
    for row, feed in enumerate(feeds):
        tokens[row, : len(feed)] = feed
    return tokens, counts


def _draw(seed: int, reply: int, place: int) -> float:
    return float(np.random.default_rng([seed, reply, place]).random())
