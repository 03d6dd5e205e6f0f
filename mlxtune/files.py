"""Files and folders that appear whole or not at all: written beside their place and renamed. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all; an existing one is replaced."""
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all; an existing one is replaced."""
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

    Raises:
        OSError: It cannot be written; the library has an error of its own for a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    try:
        save_file(dict(arrays), file, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
    file.chmod(mode)


def read_safetensors(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file as NumPy arrays, in the order of their names; bfloat16, which NumPy lacks, is widened to float32.

    Raises:
        ValueError: It is cut off or corrupt, or holds a type that is no number.
        OSError: It cannot be read.
    """
    import numpy as np
    from safetensors import SafetensorError, deserialize

    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
    arrays: dict[str, Any] = {}
    try:
        stored = sorted(deserialize(file.read_bytes()), key=lambda one: str(one[0]))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    for name, tensor in stored:
        kind, data = tensor["dtype"], tensor["data"]
        if kind == "BF16":
            array = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
        elif kind in types:
            array = np.frombuffer(data, types[kind])
        else:
            raise ValueError(f"{name} is of type {kind}, which is not read here")
        arrays[name] = array.reshape(tensor["shape"])
    return arrays


def cache_folder() -> Path:
    """Where everything is kept that may be made again: $MLXTUNE_CACHE, else ~/.cache/mlxtune."""
    root = os.environ.get("MLXTUNE_CACHE")
    return Path(root).expanduser() if root else Path.home() / ".cache" / "mlxtune"


@contextlib.contextmanager
def whole_folder(out: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its name when the block ends without an error.

    What lies at `out` is replaced; it goes only once the new folder is whole. No system call of Python's exchanges two
    folders, so for a moment neither has the name: what a process that is killed there leaves, `heal` puts right.

    Args:
        out: The folder.
        durable: Wait until its files are on the disk before it takes its name, so that no loss of power leaves it half.

    Yields:
        The folder to write into.
    """
    heal(out.parent, out.name)
    with _writer(out) as writer:
        try:
            new = _beside(writer, "new")
            new.mkdir()
            yield new
            if durable:
                for path in (*new.iterdir(), new):
                    _path_to_disk(path)
            if out.exists():
                out.rename(_beside(writer, "old"))
            new.rename(out)
            if durable:
                _path_to_disk(out.parent)
        finally:
            _settle(writer, out)


@contextlib.contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """A temporary file's path beside `out`, which takes its name when the block ends without an error; what lies there is replaced.

    What a process that is killed leaves, `heal` removes.

    Args:
        out: The file.

    Yields:
        The path to write to.
    """
    heal(out.parent, out.name)
    with _writer(out) as writer:
        new = _beside(writer, "new")
        try:
            yield new
            os.replace(new, out)
        finally:
            _remove(new)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in `parent` that is removed after the block; what a process that is killed leaves, `heal` removes.

    Args:
        parent: Where.
        name: What it is for; its own name begins with it.
    """
    with _writer(parent / name) as writer:
        new = _beside(writer, "new")
        new.mkdir()
        try:
            yield new
        finally:
            _remove(new)


def heal(parent: Path, name: str | None = None) -> None:
    """Put right what processes left that were killed while they wrote a file or folder; those that live are left alone.

    A folder that has no name but its temporary one gets its own back. It is the one that was replaced: it is known to be
    whole, and all that was written about it, as in run.json, still holds; the process that was killed never said that
    the new one was done. What else a dead process left is removed.

    Args:
        parent: Where the folder lies; it need not exist.
        name: The folder's; None stands for all in `parent`.
    """
    found = [(match["writer"], match["name"]) for match in map(_LEFT_OVER.fullmatch, _names(parent)) if match]
    left = {parent / writer: parent / folder for writer, folder in found if name in (None, folder)}
    for writer in sorted(left, key=_replaced_at, reverse=True):  # of several that were replaced the last counts
        with contextlib.suppress(OSError):  # not ours to write, or without locks: it stays as it is
            handle = hold(_beside(writer, "lock"), wait=False)
            if handle is None:
                continue
            try:
                _settle(writer, left[writer])
                _beside(writer, "lock").unlink(missing_ok=True)
            finally:
                os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder: others see it whole or not at all, and what a kill leaves of it `heal` removes."""
    with _writer(folder) as writer:
        folder.rename(_beside(writer, "new"))
        shutil.rmtree(_beside(writer, "new"))


def left_over(parent: Path) -> list[Path]:
    """The folders in `parent` that `heal` would remove or give their names back: those of processes that are dead."""
    found = []
    for match in map(_LEFT_OVER.fullmatch, _names(parent)):
        if match and match["kind"] != "lock" and not is_held(parent / f"{match['writer']}.lock"):
            found.append(parent / match[0])
    return sorted(found)


def hold(lock: Path, *, shared: bool = False, wait: bool = True) -> int | None:
    """Take a lock that other processes see, until its file is closed or this process ends.

    Args:
        lock: Its file, made if need be. Whoever holds it alone may remove it.
        shared: With others that share it.
        wait: Until nobody has it in a way that excludes this one.

    Returns:
        The open file; None where another process has the lock, and `wait` is not set.

    Raises:
        OSError: It cannot be made, or the file system has no locks.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, kind)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(lock)):
                    return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it was removed by the one who had it


def is_held(lock: Path) -> bool:
    """Whether a living process has a lock; also where that cannot be found out."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


# .NAME.PROCESS-RANDOM, one for each writing of the file or folder NAME, and what may lie there: the new one, the replaced one, and
# the lock that tells whether the process lives. Its number would not: in containers most are small and soon taken again.
_LEFT_OVER = re.compile(r"(?P<writer>\.(?P<name>.+)\.[0-9]+-[0-9a-f]{8})\.(?P<kind>new|old|lock)")


def _beside(writer: Path, kind: str) -> Path:
    return writer.with_name(f"{writer.name}.{kind}")


def _settle(writer: Path, out: Path) -> None:
    """Give the folder that was replaced its name back if nothing has it, and remove what else lies there of a writer.

    Raises:
        OSError: It cannot have it back; it is still there.
    """
    new, old = _beside(writer, "new"), _beside(writer, "old")
    if os.path.lexists(old) and not os.path.lexists(out):
        old.rename(out)
    _remove(old)
    _remove(new)


def _remove(path: Path) -> None:
    """Remove a file or folder, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _writer(out: Path) -> Iterator[Path]:
    """What the temporary names of a new writer of `out` begin with; while it lives, it holds the lock of that name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    writer = out.with_name(f".{out.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    handle = None
    with contextlib.suppress(OSError):  # a file system without locks: nothing is healed there
        handle = hold(_beside(writer, "lock"))
    try:
        yield writer
    finally:
        _beside(writer, "lock").unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _replaced_at(writer: Path) -> int:
    """When the folder that a writer replaced got its temporary name; 0 where there is none."""
    try:
        return _beside(writer, "old").stat().st_ctime_ns
    except OSError:
        return 0


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


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
