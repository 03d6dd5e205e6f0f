"""Where a training's time went: what the loop does, and the phases of its steps as the backend tells them apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DATA, VALIDATION, SAVING, OTHER = "data", "validation", "saving", "other"


@dataclass(frozen=True)
class Profile:
    """Seconds of a training by part.

    Attributes:
        steps: Optimizer steps that were taken while it was measured.
        seconds: Of each part; OTHER is what no part has measured.
        total_seconds: From beginning to end, the sum of all parts.
    """

    steps: int
    seconds: Mapping[str, float]
    total_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As run.json has it under "profile"."""
        rounded = {part: round(seconds, 4) for part, seconds in self.seconds.items()}
        return {"steps": self.steps, "total_seconds": round(self.total_seconds, 4), "seconds": rounded}


class PartClock:
    """Adds up the time of a training's parts, from when it is made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done while this is entered; parts do not nest."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add({name: time.perf_counter() - begun})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count parts that were measured elsewhere."""
        for name, value in seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + value

    def profile(self, steps: int) -> Profile:
        """All parts up to now."""
        total = time.perf_counter() - self._begun
        return Profile(steps, {**self._seconds, OTHER: total - sum(self._seconds.values())}, total)
