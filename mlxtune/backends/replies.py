"""Replies written token by token, as one stream: who writes, what each may write next, and who takes the place of one that ended.

The loop of `generate` on every backend. A backend brings a `Session`, which computes; no array of a backend is seen here.
What a template forces costs no step: those tokens are fed together with the one before them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Constraint, Generation, Matcher

# Share of the slots that must be free before waiting prompts take them: a pass over prompts reads every weight, so that one
# pass over several costs less than several over one each; and a slot that is free costs nothing.
JOINING_SHARE = 1 / 4
FEW = 1 / 8  # of the vocabulary: so many rows of the head's weight are sooner copied than all of it is multiplied by


@dataclass(frozen=True)
class Allowed:
    """What each row may write next.

    Attributes:
        tokens: Ids that some row may write, in order, (n,): the head need compute no others. None is the whole vocabulary.
        mask: Which of them each row may, (B, n).
    """

    tokens: NDArray[np.int32] | None
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, masks: Sequence[NDArray[np.bool_]]) -> Allowed:
        """What masks of rows, (vocabulary,) each, allow."""
        mask = np.stack(masks)
        tokens = np.flatnonzero(mask.any(axis=0)).astype(np.int32)
        return cls(None, mask) if len(tokens) > FEW * mask.shape[1] else cls(tokens, mask[:, tokens])

    def named(self, picked: Sequence[int]) -> list[int]:
        """The tokens that stand in these places."""
        return list(picked) if self.tokens is None else self.tokens[picked].tolist()


class Session(Protocol):
    """Rows on a device, with the tokens that each has so far."""

    def join(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Begin rows behind those that are there, with what opens every row and these tokens; otherwise as `feed`."""
        ...

    def feed(self, tokens: NDArray[np.int32], counts: NDArray[np.int32]) -> None:
        """Append tokens to each row and begin to compute what follows; may return before the device is done.

        Args:
            tokens: (B, W); of row b the first `counts[b]` count, the rest is padding.
            counts: At least 1 each, (B,).
        """
        ...

    def pick(self, allowed: Allowed | None, temperature: float, draws: NDArray[np.float32] | None) -> list[int]:
        """The next token of each row: the likeliest, or at a temperature the one that a uniform draw falls on.

        Args:
            allowed: Tokens that each row may take; None is all.
            temperature: 0 takes the likeliest.
            draws: Uniform in [0, 1), (B,); None at temperature 0.

        Returns:
            Where it stands among `allowed.tokens`; the token itself where these are all.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order; each is then fed before the next token is picked."""
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
    slots: int,
    stop_tokens: Sequence[int],
    constraint: Constraint | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    numbers: Sequence[int] | None = None,
) -> Iterator[tuple[int, Generation]]:
    """Write a reply to each prompt, at most `slots` at a time, the longest prompts first; each with its number, as it ends.

    Args:
        session: Holds no row yet, and what comes before every prompt.
        prompts: Token ids that are not yet fed, at least one each.
        limits: Tokens that each reply may have, at least one.
        slots: Replies that are written at a time.
        stop_tokens: Each ends a reply and does not belong to it.
        constraint: What replies may be written.
        temperature: 0 is greedy. Else each token is a function of (seed, the prompt's number, place), whoever else is written.
        seed: Of the draws.
        numbers: Of the prompts in the draws; None is their places.
    """
    numbers = range(len(prompts)) if numbers is None else numbers
    waiting = deque(sorted(range(len(prompts)), key=lambda number: -len(prompts[number])))
    writing: list[_Reply] = []
    feeds: list[list[int]] = []
    while waiting or writing:
        if writing:
            session.feed(*_padded(feeds))
        free = slots - len(writing)
        if not writing or free >= JOINING_SHARE * slots:
            joining = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            if joining:
                session.join(*_padded([prompts[number] for number in joining]))
            writing += [_Reply(i, limits[i], None if constraint is None else constraint.start()) for i in joining]
        masks = [reply.matcher.mask() for reply in writing if reply.matcher is not None]  # while the device computes
        allowed = Allowed.of(masks) if masks else None
        picked = session.pick(allowed, temperature, _draws(writing, seed, numbers) if temperature > 0 else None)
        tokens = picked if allowed is None else allowed.named(picked)
        feeds = [reply.take(token, stop_tokens) for reply, token in zip(writing, tokens, strict=True)]
        ended = [reply for reply in writing if reply.stop_reason]
        if ended:
            rows = _closed_up([not reply.stop_reason for reply in writing])
            session.keep(rows)
            writing, feeds = [writing[row] for row in rows], [feeds[row] for row in rows]
        for reply in ended:
            yield reply.number, Generation(tuple(reply.tokens), reply.stop_reason)


def _closed_up(goes_on: Sequence[bool]) -> list[int]:
    """Rows that go on, each in its place, but for the last ones, which take the places of rows that do not."""
    n_rows = sum(goes_on)
    behind = [row for row in range(n_rows, len(goes_on)) if goes_on[row]]
    return [row if goes_on[row] else behind.pop() for row in range(n_rows)]


def _padded(feeds: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens of each row, (B, W), and how many count, (B,)."""
    counts = np.array([len(feed) for feed in feeds], np.int32)
    tokens = np.zeros((len(feeds), counts.max()), np.int32)
    for row, feed in enumerate(feeds):
        tokens[row, : len(feed)] = feed
    return tokens, counts


def _draws(writing: Sequence[_Reply], seed: int, numbers: Sequence[int]) -> NDArray[np.float32]:
    """Uniform in [0, 1), for the next token of each reply, (B,)."""
    places = [(numbers[reply.number], len(reply.tokens)) for reply in writing]
    return np.array([np.random.default_rng([seed, *place]).random() for place in places], np.float32)
