"""What several processes agree on, over any `Group`: one process is a group of its own. No mlx, no torch.

with together(group) as report:          # where this fails on one process, all raise that one's error
    report.value = load_something()
report.values                             # what each process put there, in the order of their ranks
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mlxtune.backends.base import Group
from mlxtune.errors import BackendError, MlxtuneError, ProcessFailed, ProcessLost

T = TypeVar("T")


class Alone:
    """The group of one process: whoever is asked is itself."""

    rank = 0
    size = 1
    is_broken = False

    def gather(self, value: Any, patient: bool = False) -> list[Any]:
        """The value."""
        return [value]

    def broadcast(self, content: bytes) -> bytes:
        """The content."""
        return content


ALONE = Alone()


# Sections that all processes enter together ------------------------------------------------------------------------


@dataclass
class Report:
    """What a process reports of a section, and then what all did.

    Attributes:
        value: This process's; JSON holds it.
        values: Of all, by rank; filled at the section's end.
    """

    value: Any = None
    values: tuple[Any, ...] = ()


@contextlib.contextmanager
def together(group: Group, patient: bool = False) -> Iterator[Report]:
    """A section that every process goes through; all leave it at once, or all with the same error.

    Args:
        group: The processes.
        patient: One may take as long as it likes.

    Raises:
        MlxtuneError: This process's own error, its rank named before it where there are several.
        ProcessFailed: Another process failed, and this one did not, or is not the first that did.
    """
    report = Report()
    error: Exception | None = None
    try:
        yield report
    except Exception as caught:
        if group.size == 1 or group.is_broken:
            raise  # nobody is there to be told
        error = caught
    reports = group.gather({"value": report.value, "failure": None if error is None else failure(error)}, patient)
    report.values = tuple(one["value"] for one in reports)
    failures = {rank: one["failure"] for rank, one in enumerate(reports) if one["failure"] is not None}
    if not failures:
        return
    settle(group)
    first = min(failures)
    if first == group.rank and error is not None:
        raise error
    raise ProcessFailed(first, failures[first]["message"], failures[first]["exit_code"])


def settle(group: Group) -> None:
    """Wait, before leaving, until every process has what the exchange before this one brought: who leaves closes connections.

    A process that is past the wait needs nothing any more, so what breaks meanwhile is no failure.
    """
    if group.size > 1:
        with contextlib.suppress(ProcessLost):
            group.gather(None, patient=True)


def failure(error: Exception) -> dict[str, Any]:
    """What the other processes are told of an error: its message, and the exit code that it leaves with; JSON holds it."""
    known = isinstance(error, MlxtuneError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return {"message": message, "exit_code": error.exit_code if isinstance(error, MlxtuneError) else 1}


def in_turns(group: Group, prepare: Callable[[], T]) -> T:
    """What a function returns on this process, called where its first call on a machine leaves something for the others.

    Rank 0 calls it first, then the first process of every other machine, then the rest: so what is downloaded or converted into
    a cache folder is there once for all processes that see that folder, and no two write into it at once.

    Args:
        group: The processes.
        prepare: Called once.
    """
    machines = group.gather(platform.node())
    is_first = machines.index(machines[group.rank]) == group.rank
    own_turn = 0 if group.rank == 0 else 1 if is_first else 2
    found: list[T] = []
    for turn in range(3 if group.size > 1 else 1):
        with together(group, patient=True):
            if turn == own_turn:
                found.append(prepare())
    return found[0]


def require_same(group: Group, facts: Mapping[str, Any]) -> None:
    """Refuse to go on where a process sees something else than rank 0 does.

    Args:
        group: The processes.
        facts: What must be the same, each under the name that a message has for it; JSON holds them.

    Raises:
        BackendError: Says on which process what is different.
        ProcessFailed: Another process says so.
    """
    if group.size == 1:
        return
    first = group.gather(facts if group.rank == 0 else None)[0]
    with together(group):
        differences = [
            f"  {name}: {_shown(first.get(name))} on process 0, {_shown(facts.get(name))} here"
            for name in {**first, **facts}
            if first.get(name) != facts.get(name)
        ]
        if differences:
            listed = "\n".join(differences)
            raise BackendError(
                f"this process ({platform.node()}) would not compute what process 0 does:\n{listed}\n"
                "Give every machine the same recipe, data and base model, and install the same versions"
            )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}..."


def share_rows(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The rows of each process: the longest that is left goes to the process with the fewest tokens so far.

    Args:
        lengths: Tokens of each row that are its own.
        size: Processes.

    Returns:
        Indices of rows in their order, by process; each stands in exactly one list, and a list may be empty.

    >>> share_rows([30, 8, 8, 15], 2)
    [[0], [1, 2, 3]]
    """
    shares: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        least = min(range(size), key=lambda rank: (tokens[rank], len(shares[rank])))
        shares[least].append(index)
        tokens[least] += lengths[index]
    return [sorted(share) for share in shares]
