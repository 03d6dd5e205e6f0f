"""What an export wrote, and where it may write: a file or a folder, whole or not at all. Knows no format."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import ExportError
from mlxtune.files import heal, whole_file, whole_folder
from mlxtune.models.writing import CannotWrite


@dataclass(frozen=True)
class Exported:
    """An artifact on disk.

    Attributes:
        format: As `--to` names it.
        path: The file, or the folder.
        n_bytes: Of all its files.
        load: The command or the lines of code that load it.
        notes: Sentences that its user should know.
    """

    format: str
    path: Path
    n_bytes: int
    load: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What `export --json` prints."""
        return {
            "format": self.format,
            "path": str(self.path),
            "bytes": self.n_bytes,
            "load": self.load,
            "notes": list(self.notes),
        }


@contextlib.contextmanager
def new_folder(out: Path, marker: str, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its name when the block ends without an error.

    Args:
        out: The folder to write.
        marker: File that every such folder has. With `force` only a folder that has it is replaced.
        force: Replace a folder of this kind that lies there; it goes only once the new one is whole.

    Yields:
        The folder to write into.

    Raises:
        ExportError: `out` is taken, holds something else, or cannot be written.
    """
    check_folder_free(out, marker, force=force)
    try:
        with _no_new_parents(out), whole_folder(out) as new:
            yield new
            check_folder_free(out, marker, force=force)  # someone else may have been faster
    except (OSError, CannotWrite, ExportNotWritten) as error:
        raise _about(out, error) from error


@contextlib.contextmanager
def new_file(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary file's path beside `out`, which takes its name when the block ends without an error.

    Args:
        out: The file to write.
        force: Replace a file that lies there; it goes only once the new one is whole.

    Yields:
        The path to write to.

    Raises:
        ExportError: `out` is taken, a folder, or cannot be written.
    """
    check_file_free(out, force=force)
    try:
        with _no_new_parents(out), whole_file(out) as new:
            yield new
            check_file_free(out, force=force)  # someone else may have been faster
    except (OSError, CannotWrite, ExportNotWritten) as error:
        raise _about(out, error) from error


def check_folder_free(out: Path, marker: str, *, force: bool = False) -> None:
    """Raise ExportError unless a folder may be written: absent, empty, or with `force` one that has `marker`."""
    heal(out.parent, out.name)
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ExportError(f"{out}: already exists; choose another --out, or replace it with --force")
    if not (out / marker).is_file():
        raise ExportError(f"{out}: holds something else (it has no {marker}), so --force does not replace it")


def check_file_free(out: Path, *, force: bool = False) -> None:
    """Raise ExportError unless a file may be written: absent, or with `force` a file."""
    if out.is_dir():
        raise ExportError(f"{out}: is a folder; expected the name of a file")
    if out.exists() and not force:
        raise ExportError(f"{out}: already exists; choose another --out, or replace it with --force")


@contextlib.contextmanager
def _no_new_parents(out: Path) -> Iterator[None]:
    """Where the block fails, remove the folders above `out` that it made."""
    missing = [folder for folder in out.absolute().parents if not folder.exists()]  # the innermost first
    try:
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # not made, or another process writes there
                folder.rmdir()
        raise


class ExportNotWritten(ExportError):
    """An export cannot be written: a full disk, missing permissions."""

    def __init__(self, out: Path, cause: OSError) -> None:
        free = ""
        with contextlib.suppress(OSError):
            n_free = shutil.disk_usage(next(folder for folder in out.absolute().parents if folder.is_dir())).free
            free = f"; {n_free / 1e9:.2f} GB are free there"
        why = cause.strerror or f"only a part of it was written ({cause})"
        super().__init__(f"{out}: cannot be written: {why}{free}; nothing was left behind")
        self.cause = cause


def _about(out: Path, error: OSError | CannotWrite | ExportNotWritten) -> ExportError:
    """The error for `out` of one while it was written: without temporary names, which say nothing to a user."""
    cause = error if isinstance(error, OSError) else error.cause
    if cause.filename is not None:
        place = Path(os.fsdecode(cause.filename)).absolute()
        if out.absolute().parent not in (place, *place.parents):  # what is missing there was to be read
            return ExportError(f"{place}: {cause.strerror or cause}; {out} was not written")
    return ExportNotWritten(out, cause)


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
