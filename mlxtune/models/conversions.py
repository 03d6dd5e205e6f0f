"""Converted models that are kept in a cache folder: found by what they were made of, listed and removed. Converts nothing.

    folder = kept(cache, "SmolLM2-135M-Instruct.Q4_1", model_hash(file, cache), "plain", make)
    list_conversions(cache)                       # name, size, when each was last used, whether it is in use

A conversion is named after its source and a hash of the source's content, so that a model that was moved, copied or
installed anew is not converted again, and one that changed is. Its time of modification says when it was last used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from mlxtune.errors import ModelError, RunError, did_you_mean
from mlxtune.files import cache_folder, heal, hold, is_held, left_over, remove_folder, write_json

log = logging.getLogger(__name__)

# Part of every cache key: raise it when a conversion writes something else than before.
CACHE_VERSION = 2
HASHES_FILE = "hashes.json"
# What of a model folder a conversion depends on.
MODEL_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")
NOTABLE_BYTES = 1 << 30  # reading more is told to the user
# A file that changed a moment ago may change again within one tick of its file system's clock, and look the same.
SETTLED_S = 2.0

# Conversions that this process uses, with their open locks: nobody removes them before it ends.
_IN_USE: dict[Path, int] = {}


@dataclass(frozen=True)
class CacheEntry:
    """A converted model's folder in the cache, or a file of prepared data (`data/prepared_cache.py`).

    Attributes:
        path: Where.
        n_bytes: All its files.
        last_used: When a process last loaded it, or when it was made.
        in_use: A living process uses or makes it; also where that cannot be found out.
        unfinished: What a process left that was killed while it wrote.
        kind: Which of the two.
    """

    path: Path
    n_bytes: int
    last_used: datetime
    in_use: bool
    unfinished: bool
    kind: Literal["model", "prepared"] = "model"

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "name": self.path.name,
            "kind": self.kind,
            "bytes": self.n_bytes,
            "last_used": self.last_used.isoformat(timespec="seconds"),
            "in_use": self.in_use,
            "unfinished": self.unfinished,
        }


def models_cache() -> Path:
    """Where converted models are kept: `models` in the cache folder."""
    return cache_folder() / "models"


def kept(cache: Path, name: str, identity: str, what: str, make: Callable[[Path], None]) -> Path:
    """The cache's folder for a source, made by `make` unless it is there; one process makes, the others wait.

    Args:
        cache: The folder of all conversions.
        name: The source's, for people.
        identity: Names the source's content.
        what: What it is made into.
        make: Writes the folder that it is given, whole or not at all.

    Returns:
        The folder, which `remove` leaves alone while this process lives.

    Raises:
        ModelError: It cannot be made.
    """
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, identity, what]).encode()).hexdigest()[:12]
    shown = re.sub(r"[^\w.-]+", "-", f"{name}-{what}").strip("-.")
    # The source may have had another name when it was converted.
    folder = next((path for path in _folders(cache) if path.name.endswith(f"-{digest}")), cache / f"{shown}-{digest}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        while not _use(folder):
            with _alone(_lock_of(folder)) as is_ours:
                if is_ours and not folder.is_dir():
                    make(folder)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written: {error}; set MLXTUNE_CACHE to another folder") from error
    return folder


def model_hash(model: Path, cache: Path) -> str:
    """SHA-256 of a .gguf file, or of all that counts in a model folder: the same wherever it lies.

    Args:
        model: The file or folder.
        cache: The folder of all conversions, which remembers hashes, so that files are read once.
    """
    files = [model] if model.is_file() else sorted(path for path in model.iterdir() if path.suffix in MODEL_SUFFIXES)
    hashes = _Hashes(cache)
    n_bytes = sum(file.stat().st_size for file in files if hashes.known(file) is None)
    if n_bytes > NOTABLE_BYTES:
        log.info("hashing %s (%.1f GB) once, to recognise its conversion in later runs", model, n_bytes / 1e9)
    found = {file.name: hashes.known(file) or hashes.read(file) for file in files}
    hashes.save()
    if model.is_file():
        return f"sha256:{found[model.name]}"
    return f"sha256:{hashlib.sha256(json.dumps(found).encode()).hexdigest()}"


def list_conversions(cache: Path) -> list[CacheEntry]:
    """What a cache folder holds, the one that was used last first."""
    unfinished = left_over(cache)
    found = [_look_at(path, path in unfinished) for path in [*_folders(cache), *unfinished]]
    return sorted(found, key=lambda one: one.last_used, reverse=True)


def named(entries: Sequence[CacheEntry], names: Sequence[str]) -> list[CacheEntry]:
    """Those with these names; all where none is named.

    Raises:
        RunError: There is none of a name.
    """
    known = {one.path.name: one for one in entries}
    for name in names:
        if name not in known:
            raise RunError(
                f"{name}: no such converted model or file of prepared rows{did_you_mean(name, known)}; nothing was removed"
            )
    return [one for one in entries if not names or one.path.name in names]


def remove(cache: Path, entries: Sequence[CacheEntry]) -> Iterator[CacheEntry]:
    """Remove conversions of a cache folder, and the locks of those that are gone, or files of prepared data.

    Yields:
        Each once it is gone; one that a process began to use since is left alone.
    """
    for one in entries:
        if one.kind == "prepared":
            one.path.unlink(missing_ok=True)
            yield one
            continue
        if one.unfinished:
            heal(cache)
            yield one
            continue
        with _alone(_lock_of(one.path)) as is_ours:
            if not is_ours or not one.path.is_dir():
                continue
            remove_folder(one.path)
            _lock_of(one.path).unlink(missing_ok=True)
        yield one
    for lock in cache.glob("*.lock"):
        with _alone(lock) as is_ours:
            if is_ours and not lock.with_suffix("").exists():
                lock.unlink(missing_ok=True)


def count(cache: Path) -> int:
    """How many conversions a cache folder holds."""
    return len(_folders(cache))


def _use(folder: Path) -> bool:
    """Whether a conversion is there; it is in use from now on, and was used just now."""
    try:
        handle = hold(_lock_of(folder), shared=True)
    except OSError:  # a cache that is not ours to write, or a file system without locks
        return folder.is_dir()
    assert handle is not None
    if not folder.is_dir():
        os.close(handle)
        return False
    if _IN_USE.setdefault(folder, handle) != handle:
        os.close(handle)
    with contextlib.suppress(OSError):
        os.utime(folder)
    return True


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether no other process makes, removes or uses a conversion; none will before the block ends."""
    try:
        handle = hold(lock, wait=False)
    except OSError:  # a file system without locks; one that cannot be written says so when the folder is made
        yield True
        return
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _look_at(folder: Path, unfinished: bool) -> CacheEntry:
    n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    last_used = datetime.fromtimestamp(folder.stat().st_mtime, timezone.utc)
    return CacheEntry(folder, n_bytes, last_used, not unfinished and is_held(_lock_of(folder)), unfinished)


def _folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir() and path.name[0] != ".") if cache.is_dir() else []


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


class _Hashes:
    """SHA-256 of files, kept for as long as a file's size, number and times of change stay the same.

    Args:
        cache: Remembers them, in HASHES_FILE; where it cannot be written, files are read again each time.
    """

    def __init__(self, cache: Path) -> None:
        self._file = cache / HASHES_FILE
        self._changed = False
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            self._known = {str(path): (str(one["state"]), str(one["sha256"])) for path, one in content.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or not ours: it is made anew
            self._known = {}

    def known(self, file: Path) -> str | None:
        """A file's hash, if it is known and the file has not changed."""
        state, sha256 = self._known.get(str(file.resolve()), ("", ""))
        return sha256 if state == _state(file) else None

    def read(self, file: Path) -> str:
        """A file's hash, which takes about a second for 500 MB."""
        state, sha256 = _state(file), hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha256.update(block)
        status = file.stat()
        if _state(file) == state and time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S:
            self._known[str(file.resolve())] = (state, sha256.hexdigest())
            self._changed = True
        return sha256.hexdigest()

    def save(self) -> None:
        """Remember what is new, of files that are still there."""
        if not self._changed:
            return
        known = {path: one for path, one in sorted(self._known.items()) if os.path.exists(path)}
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                self._file, {path: {"state": state, "sha256": sha256} for path, (state, sha256) in known.items()}
            )


def _state(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
