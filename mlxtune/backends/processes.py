"""The group of several processes: values as JSON and bytes over what a library exchanges. No mlx, no torch."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.group import failure
from mlxtune.backends.watchdog import Watchdog
from mlxtune.errors import MlxtuneError, ProcessFailed, ProcessLost

# Bytes of the first exchange of a gather: most values fit, and one exchange does.
SLOT_BYTES = 1024
LENGTH_BYTES = 8  # of the length that stands before a value in its slot
# Bytes that a broadcast sends at a time.
PIECE_BYTES = 64 << 20
# Elements of gradients that are exchanged as one array, 128 MB: few exchanges do, and no copy of all gradients is needed.
BUCKET_ELEMENTS = 32 << 20


class Wire(Protocol):
    """What a library exchanges between the processes of a launcher. Arrays have the same shape on all of them."""

    rank: int
    size: int

    def gather(self, own: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Every process's bytes, (size, n)."""
        ...

    def broadcast(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of rank 0, (n,)."""
        ...

    def is_broken_by(self, error: RuntimeError) -> bool:
        """Whether an error is one of the connection."""
        ...

    def say(self, why: str) -> None:
        """Leave why this process ends where the others find it."""
        ...

    def said(self) -> str | None:
        """What one of the others has left; None where it left nothing."""
        ...


class Processes:
    """The group of the processes that a launcher started, over a library's wire.

    Args:
        wire: Exchanges bytes.
        watchdog: Ends this process where an exchange does not come to an end.
    """

    def __init__(self, wire: Wire, watchdog: Watchdog) -> None:
        self.rank, self.size, self.is_broken = wire.rank, wire.size, False
        self._wire, self._watchdog = wire, watchdog
        self._longest_s = 0.0  # of `passes` so far

    def gather(self, value: Any, patient: bool = False) -> list[Any]:
        """Values of all processes, as JSON brings them back; see `Group.gather`."""
        content = json.dumps(value).encode()
        slots = self._gathered(content[: SLOT_BYTES - LENGTH_BYTES], len(content), SLOT_BYTES, patient)
        lengths = [int.from_bytes(slot[:LENGTH_BYTES].tobytes(), "little") for slot in slots]
        if (longest := max(lengths) + LENGTH_BYTES) > SLOT_BYTES:
            slots = self._gathered(content, len(content), longest, patient)
        return [
            json.loads(slot[LENGTH_BYTES : LENGTH_BYTES + n].tobytes()) for slot, n in zip(slots, lengths, strict=True)
        ]

    def _gathered(self, content: bytes, length: int, n_bytes: int, patient: bool) -> NDArray[np.uint8]:
        """A slot of each process: a length and what fits of a content."""
        slot = np.zeros(n_bytes, np.uint8)
        filled = length.to_bytes(LENGTH_BYTES, "little") + content
        slot[: len(filled)] = np.frombuffer(filled, np.uint8)
        with self.exchange(patient):
            return self._wire.gather(slot)

    def broadcast(self, content: bytes) -> bytes:
        """What rank 0 has; see `Group.broadcast`."""
        n_bytes = int(self.gather(len(content))[0])
        pieces = []
        for start in range(0, n_bytes, PIECE_BYTES):
            size = min(PIECE_BYTES, n_bytes - start)
            piece = np.zeros(size, np.uint8)
            if self.rank == 0:
                piece = np.frombuffer(content[start : start + size], np.uint8)
            with self.exchange():
                pieces.append(self._wire.broadcast(piece).tobytes())
        return b"".join(pieces)

    @contextlib.contextmanager
    def exchange(self, patient: bool = False) -> Iterator[None]:
        """Wait for the others meanwhile.

        Args:
            patient: They may take as long as they like, as for a download.

        Raises:
            ProcessLost: The connection to one of them broke.
            ProcessFailed: One of them said why before it left.
        """
        try:
            with self._watchdog.watching(patient):
                yield
        except RuntimeError as error:  # what both libraries raise
            raise self._lost(error) from error

    @contextlib.contextmanager
    def passes(self) -> Iterator[None]:
        """Compute what the processes exchange in the middle of, as where each holds a part of the weights.

        Where this process fails in it, it leaves: the others wait for its part, and learn why once it has ended.

        Raises:
            ProcessLost: The connection to one of them broke.
            ProcessFailed: One of them said why before it left.
        """
        begun = time.monotonic()
        with self.leaving():
            try:
                with self._watchdog.watching(usual_s=self._longest_s):
                    yield
            except RuntimeError as error:
                if self._wire.is_broken_by(error):
                    raise self._lost(error) from error
                raise
        self._longest_s = max(self._longest_s, time.monotonic() - begun)

    @contextlib.contextmanager
    def leaving(self) -> Iterator[None]:
        """What the others would not hear a failure of, since they do not come to a gather: this process says why, and leaves."""
        try:
            yield
        except Exception as error:
            if not self.is_broken:
                self.is_broken = True
                self._wire.say(json.dumps({"rank": self.rank, **failure(error)}))
            raise

    def _lost(self, error: RuntimeError) -> MlxtuneError:
        """What a broken connection is to this process."""
        self.is_broken = True
        self._watchdog.lose()
        if said := self._wire.said():
            found = json.loads(said)
            return ProcessFailed(found["rank"], found["message"], found["exit_code"])
        return ProcessLost(_first_sentence(error))


def _first_sentence(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]


def buckets(sizes: Sequence[int], largest: int = BUCKET_ELEMENTS) -> list[slice]:
    """Which arrays are exchanged as one: those that follow each other up to so many elements, or a single larger one.

    >>> buckets([3, 3, 9, 1], largest=6)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    found, start, total = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > largest:
            found.append(slice(start, index))
            start, total = index, 0
        total += size
    return [*found, slice(start, len(sizes))] if sizes else []
