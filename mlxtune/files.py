"""Files and folders that appear whole or not at all: written beside their place and renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
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
        to_disk(stream.fileno())
    os.replace(temporary, file)


def write_safetensors(file: Path, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write NumPy arrays as a safetensors file, as readable to others as any file that is made there.

    The library writes a temporary file, which its author alone may read, and renames it; a file made in the ordinary way
    before says which permissions the umask, or the folder's access list, leaves.
    """
    from safetensors.numpy import save_file

    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    save_file(dict(arrays), file, metadata=None if metadata is None else dict(metadata))
    file.chmod(mode)


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
                _path_to_disk(path)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        if durable:
            _path_to_disk(out.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def to_disk(handle: int) -> None:
    """Wait until what was written to an open file, or to a folder's list of names, is on the disk.

    On macOS `fsync` only hands it to the drive, which may keep it in a cache of its own; F_FULLFSYNC empties that, too.
    Some file systems, such as network shares, do not know it.
    """
    full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(handle, full_sync)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY):
                raise
    os.fsync(handle)


def _path_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        to_disk(handle)
    finally:
        os.close(handle)
