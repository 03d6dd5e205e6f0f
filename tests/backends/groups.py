"""Groups of threads: what several processes do together, in one process and without a launcher."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.processes import Processes
from mlxtune.backends.watchdog import Watchdog

T = TypeVar("T")
TIMEOUT_S = 20  # of a thread that waits for others: a test fails where they never come


class Unwatched(Watchdog):
    """Watches nothing: threads of one process get no signals of their own."""

    def __init__(self) -> None:
        pass

    @contextlib.contextmanager
    def watching(self, patient: bool = False, usual_s: float = 0.0) -> Iterator[None]:
        """An exchange."""
        yield


class ThreadWire:
    """Bytes between threads; of different lengths they are refused, as a library would not notice."""

    def __init__(self, rank: int, slots: list[NDArray[np.uint8] | None], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self._slots, self._barrier = slots, barrier

    def gather(self, own: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Every thread's bytes, (size, n)."""
        self._slots[self.rank] = own
        self._barrier.wait(TIMEOUT_S)
        found = np.stack([slot for slot in self._slots if slot is not None])
        self._barrier.wait(TIMEOUT_S)
        return found

    def broadcast(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of rank 0, (n,)."""
        return self.gather(content)[0]

    def is_broken_by(self, error: RuntimeError) -> bool:
        """Whether an error is one of the connection: of a barrier's, any."""
        return True

    def say(self, why: str) -> None:
        """Nothing: threads of a test do not leave."""

    def said(self) -> str | None:
        """Likewise."""
        return None


def on_ranks(size: int, call: Callable[[Processes], T]) -> list[T]:
    """What a function returns, or the exception that it raises, on each of so many ranks."""
    slots: list[NDArray[np.uint8] | None] = [None] * size
    barrier = threading.Barrier(size)

    def called(rank: int) -> Any:
        try:
            return call(Processes(ThreadWire(rank, slots, barrier), Unwatched()))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(called, range(size)))
