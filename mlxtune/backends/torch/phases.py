"""How long each phase of a step takes, as the device sees it."""

from __future__ import annotations

import time

import torch

REST = ""  # what belongs to no phase


class PhaseClock:
    """Splits a step's time into phases, each of which lasts until the next is entered.

    A GPU computes behind the host's back, so there a phase lasts between two events of its stream: nothing waits for it but
    `seconds`. Where the GPU waits for the host, that counts as part of the phase that it waits in.

    Args:
        device: What computes.
        on: Whether to measure; a clock that is off does nothing.
    """

    def __init__(self, device: torch.device, on: bool) -> None:
        self._device, self._on = device, on
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def enter(self, phase: str) -> None:
        """From here on time belongs to a phase; it may have been entered before."""
        if self._on:
            self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase, in the order in which they were first entered; the last ends here."""
        if not self._marks:
            return {}
        self.enter(REST)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found: dict[str, float] = {}
        for (phase, begun), (_, ended) in zip(self._marks, self._marks[1:], strict=False):
            found[phase] = found.get(phase, 0.0) + _between(begun, ended)
        return found

    def _now(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(begun: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    if isinstance(begun, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
        return float(begun.elapsed_time(ended)) / 1e3  # milliseconds
    assert isinstance(begun, float) and isinstance(ended, float)
    return ended - begun
