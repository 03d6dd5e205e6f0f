"""MlxtuneError and its kinds: what a user is told when something cannot be done.

Library code raises one of these; `cli.py` prints its message after "Error: " and leaves with its `exit_code`.
A message names the place, what was expected, what arrived, and the next move. Anything else that escapes is a
bug of ours and shows as a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class MlxtuneError(Exception):
    """Something failed for a reason that the user can act on."""

    exit_code = 1


class Misuse(MlxtuneError):
    """The command line itself asks for something impossible."""

    exit_code = 2


class RecipeError(MlxtuneError):
    """A recipe that cannot be read, or that says something wrong."""


class DataError(MlxtuneError):
    """Rows that cannot be read, or that the recipe cannot use."""


class ModelError(MlxtuneError):
    """A base model that cannot be found, read or converted."""


class AdapterError(MlxtuneError):
    """An adapter that cannot be read, or that does not fit its base model."""


class RunError(MlxtuneError):
    """A run folder that is missing something, is in use, or may not be overwritten."""


class BackendError(MlxtuneError):
    """A backend that is not installed, or that this machine cannot run."""


class TrainingError(MlxtuneError):
    """Training that had to stop: a loss or gradient that is not finite, no rows, no memory."""


class OutOfMemory(MlxtuneError):
    """Memory does not suffice for a computation.

    Args:
        what: What was computed: "step 3 (a batch of 8 rows of 120 tokens)".
        where: Whose memory: "the GPU (40 GB)", "this machine".
    """

    def __init__(self, what: str, where: str) -> None:
        super().__init__(
            f"out of memory: {where} has not enough for {what}; lower train.batch_size (and raise "
            "train.gradient_accumulation), evaluate.batch_size or train.max_tokens, set train.gradient_checkpointing=true, or "
            "take a quantized base: model.quantize={bits: 4, group_size: 64}"
        )


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one place, for errors that report everything at once.

    Args:
        place: Where, as a reader would look for it: "line 14", "train.jsonl:7".
        message: What was expected, what arrived, what to do.
    """

    place: str
    message: str


def listing(subject: str, problems: Sequence[Problem], limit: int = 20) -> str:
    """All problems of one subject as one message; past `limit` they are counted.

    >>> print(listing("a.yaml", [Problem("line 3", "train.epochs: expected a number, got 'x'")]))
    a.yaml: 1 problem
      line 3: train.epochs: expected a number, got 'x'
    """
    head = f"{subject}: {len(problems)} problem{'' if len(problems) == 1 else 's'}"
    lines = [f"  {problem.place}: {problem.message}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more")
    return "\n".join([head, *lines])


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """'; did you mean ...?' for the closest known word, or nothing."""
    close = difflib.get_close_matches(str(word), [str(item) for item in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
