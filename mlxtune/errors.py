"""MlxtuneError and its kinds: what a user is told when something cannot be done.

Library code raises one of these; `cli.py` prints its message after "Error: " and leaves with its `exit_code`.
A message names the place, what was expected, what arrived, and the next move. Anything else that escapes is a
bug of ours and shows as a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_SHOWN = 20  # problems in a message


@dataclass(frozen=True)
class Problem:
    """One thing wrong at one place, for errors that report everything at once.

    Args:
        place: Where, as a reader would look for it: "line 14", "train.jsonl:7"; "" where the message names it.
        message: What was expected, what arrived, what to do.
    """

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class MlxtuneError(Exception):
    """Something failed for a reason that the user can act on.

    Args:
        subject: The reason, as a sentence; or, with problems, what they are problems of: a file, "rows longer than ...".
        problems: Everything that is wrong with the subject. They stay values; `str` renders them, and past
            `MAX_SHOWN` counts them.
        advice: The last line: what can be done about all of them.

    >>> print(RecipeError("a.yaml", [Problem("line 3", "train.epochs: expected a number, got 'x'")]))
    a.yaml: 1 problem
      line 3: train.epochs: expected a number, got 'x'
    """

    exit_code = 1

    def __init__(self, subject: str, problems: Iterable[Problem] = (), advice: str = "") -> None:
        super().__init__(subject)
        self.subject = subject
        self.problems = tuple(problems)
        self.advice = advice

    def __str__(self) -> str:
        lines = [self.subject]
        if self.problems:
            lines[0] += f": {len(self.problems)} problem{'' if len(self.problems) == 1 else 's'}"
        lines += [f"  {problem}" for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            lines.append(f"  ... and {len(self.problems) - MAX_SHOWN} more")
        return "\n".join([*lines, self.advice] if self.advice else lines)


class Misuse(MlxtuneError):
    """The command line itself asks for something impossible."""

    exit_code = 2


class RecipeError(MlxtuneError):
    """A recipe that cannot be read, or that says something wrong."""


class DataError(MlxtuneError):
    """Rows that cannot be read, or that the recipe cannot use."""


class DataErrors(DataError):
    """What is wrong with several files, an error for each."""

    def __init__(self, errors: Sequence[DataError]) -> None:
        super().__init__("rows that cannot be read", [problem for error in errors for problem in error.problems])
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


class ModelError(MlxtuneError):
    """A base model that cannot be found, read or converted."""


class AdapterError(MlxtuneError):
    """An adapter that cannot be read, or that does not fit its base model."""


class ExportError(MlxtuneError):
    """An artifact that cannot be written, or that its format has no place for."""


class ExpectationError(MlxtuneError):
    """Metrics that do not meet the conditions of `evaluate.expect`."""


class RunError(MlxtuneError):
    """A run folder that is missing something, is in use, or may not be overwritten."""


class BackendError(MlxtuneError):
    """A backend that is not installed, or that this machine cannot run."""


class TrainingError(MlxtuneError):
    """Training that had to stop: a loss or gradient that is not finite, no rows, no memory."""


class ProcessFailed(MlxtuneError):
    """Another of the processes that a launcher started failed, so this one ends too; the other says why.

    Args:
        rank: Which one failed.
        reason: Its message.
        code: The exit code that it leaves with.
    """

    def __init__(self, rank: int, reason: str, code: int) -> None:
        super().__init__(f"process {rank} failed: {reason}")
        self.exit_code = code


class ProcessLost(MlxtuneError):
    """The connection to another of the processes that a launcher started broke; nothing can be asked of it any more.

    Args:
        reason: What the library says.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the connection to another process is lost, which ended or cannot be reached ({reason}). The last checkpoint is kept: "
            "continue with --resume"
        )


class OutOfMemory(MlxtuneError):
    """Memory does not suffice for a computation.

    Args:
        what: What was computed: "step 3 (a batch of 8 rows of 120 tokens)".
        where: Whose memory: "the GPU (40 GB)", "this machine".
    """

    def __init__(self, what: str, where: str) -> None:
        super().__init__(
            f"out of memory: {where} has not enough for {what}; lower train.tokens_per_pass, "
            "evaluate.batch_size or train.max_tokens, set train.gradient_checkpointing=true, or "
            "take a quantized base: model.quantize={bits: 4, group_size: 64}"
        )


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """'; did you mean ...?' for the closest known word, or nothing."""
    close = difflib.get_close_matches(str(word), [str(item) for item in known], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
