"""Replies of an interrupted evaluation, to resume from if model, prompt and rows are the same. Files only: no model, no judging.

Beside PREDICTIONS.jsonl.part lies PREDICTIONS.jsonl.part.json: who answers what, by hash, and the seconds spent so far. It
stays until the whole evaluation is scored, so that of several files those that are complete are not asked again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EarlierAttempt:
    """Records of an earlier attempt, in the order they were asked, and the model's seconds for them."""

    records: list[dict[str, Any]]
    seconds: float


def part_file(path: Path) -> Path:
    """Where predictions stand until all are there."""
    return path.with_name(path.name + ".part")


def header_file(path: Path) -> Path:
    """Where it stands whose they are."""
    return path.with_name(path.name + ".part.json")


def json_hash(*content: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode(errors="replace")).hexdigest()


def read_attempt(path: Path, identity: str) -> EarlierAttempt | None:
    """The replies at `path` of an evaluation with this identity, finished or not; None where there are none, or of another identity."""
    try:
        header = json.loads(header_file(path).read_text(encoding="utf-8"))
        if header["identity"] != identity:
            return None
        whole = header["sha256"] is not None
        content = (path if whole else part_file(path)).read_bytes()
        seconds = float(header["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if whole and hashlib.sha256(content).hexdigest() != header["sha256"]:
        return None
    return EarlierAttempt(list(_records(content)), seconds)


def write_header(path: Path, identity: str, seconds: float, finished: bool = False) -> None:
    """Write down whose the predictions at `path` are, and for how long the model was asked."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if finished else None
    content = {"identity": identity, "seconds": seconds, "sha256": digest}
    # One name, and no wait for the disk: it is written after every reply, and costs the replies if it is lost.
    new = _new_header(path)
    new.write_text(json.dumps(content), encoding="utf-8")
    os.replace(new, header_file(path))


def delete_header(path: Path) -> None:
    """Nothing at `path` is to be continued."""
    for file in (header_file(path), _new_header(path)):
        file.unlink(missing_ok=True)


def _new_header(path: Path) -> Path:
    return path.with_name(f".{path.name}.part.json.new")


def _records(content: bytes) -> Iterator[dict[str, Any]]:
    """The complete lines before the first incomplete one: a power failure may leave half a line."""
    for line in content.split(b"\n")[:-1]:
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict):
            return
        yield record
