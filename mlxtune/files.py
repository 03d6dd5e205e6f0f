"""Files and folders that appear whole or not at all: written beside their place and renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; one that lies there is replaced."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all; one that lies there is replaced."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)


@contextlib.contextmanager
def whole_folder(out: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its name when the block ends without an error.

    What lies at `out` is replaced; it goes only once the new folder is whole.

    Args:
        out: The folder.
        durable: Wait until its files are on the disk before it takes its name, so that no loss of power leaves it half.

    Yields:
        The folder to write into.
    """
    name = f".{out.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    new, old = out.parent / f"{name}.new", out.parent / f"{name}.old"
    new.mkdir(parents=True)
    try:
        yield new
        if durable:
            for path in (*new.iterdir(), new):
                _to_disk(path)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        if durable:
            _to_disk(out.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Wait until a file or a folder's list of names is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
