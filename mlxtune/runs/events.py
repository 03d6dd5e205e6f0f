"""Reading metrics.jsonl: one event a line, of a training that goes on, ended or was killed. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]
TAIL_BYTES = 1 << 16  # that hold the last events


def read_events(file: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Events in the order they were written; a line that cannot be read, as the last of a killed run, is left out.

    Args:
        file: metrics.jsonl; one that is not there has no events.
        kind: "step", "validation", ...; None for all.
    """
    return [event for _, event in read_lines(file) if kind in (None, event.get("event"))]


def read_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line that holds an event, as it stands and as it is read."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    yield from _events(lines)


def last_step(file: Path) -> int | None:
    """The last optimizer step; None before the first."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for _, event in _events(reversed(lines)):
        if event.get("event") == "step":
            step = event.get("step")
            return step if isinstance(step, int) and not isinstance(step, bool) else None
    return None


def _events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # being written, or the first of a tail
            continue
        if isinstance(event, dict):
            yield line, event
