"""A folder of rank 0 that other processes read: itself where they see it, else a copy that is sent in pieces. Knows nothing of what is in it.

folder = share_folder(group, folder, copy)      # on every process a folder that can be read
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from mlxtune.backends.base import Group
from mlxtune.backends.group import together

# Bytes that are sent at a time: so much of a file is in memory, however large it is.
PIECE_BYTES = 16 << 20


@dataclass(frozen=True)
class FileState:
    """A file of a folder, as what tells it from another.

    Attributes:
        place: Under the folder, with forward slashes.
        n_bytes: Its size.
        changed_ns: When its content changed last.
    """

    place: str
    n_bytes: int
    changed_ns: int


def share_folder(group: Group, folder: Path, copy: Path, names: Collection[str] | None = None) -> Path:
    """A folder that rank 0 has, where this process can read it. All processes call it.

    Args:
        group: The processes.
        folder: Where it lies; rank 0's counts.
        copy: Where a process that does not see rank 0's gets a copy; made there.
        names: Of the files and subfolders in it that are shared; None is all.

    Returns:
        The folder itself, on rank 0 and where this process sees the same files under that path; else the copy.

    Raises:
        OSError: It cannot be read, or the copy cannot be written.
    """
    with together(group) as report:
        if group.rank == 0:
            report.value = {"path": str(folder.resolve()), "files": [asdict(one) for one in files_of(folder, names)]}
    path, files = Path(report.values[0]["path"]), [FileState(**one) for one in report.values[0]["files"]]
    with together(group) as seen:
        seen.value = group.rank == 0 or files_of(path, names) == files
    if not all(seen.values):
        _copy(group, path, None if seen.values[group.rank] else copy, files)
    if group.rank == 0:
        return folder
    return path if seen.values[group.rank] else copy


def copy_folder(group: Group, folder: Path, copy: Path, names: Collection[str] | None = None) -> None:
    """Give every process but rank 0 a copy of a folder of rank 0, where it sees it, too; arguments as for `share_folder`."""
    with together(group) as report:
        if group.rank == 0:
            report.value = [asdict(one) for one in files_of(folder, names)]
    _copy(group, folder, None if group.rank == 0 else copy, [FileState(**one) for one in report.values[0]])


def files_of(folder: Path, names: Collection[str] | None = None) -> list[FileState]:
    """The files under a folder, in the order of their places; none where there is no folder."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        place = path.relative_to(folder)
        if path.is_file() and (names is None or place.parts[0] in names):
            state = path.stat()
            found.append(FileState(place.as_posix(), state.st_size, state.st_mtime_ns))
    return found


def _copy(group: Group, folder: Path, copy: Path | None, files: list[FileState]) -> None:
    """Send rank 0's files to all; those that have a place for a copy write one."""
    if copy is not None:
        copy.mkdir(parents=True, exist_ok=True)
    for file in files:
        with ExitStack() as stack:
            source: BinaryIO | None = None
            target: BinaryIO | None = None
            with together(group):
                if group.rank == 0:
                    source = stack.enter_context((folder / file.place).open("rb"))
                elif copy is not None:
                    (copy / file.place).parent.mkdir(parents=True, exist_ok=True)
                    target = stack.enter_context((copy / file.place).open("wb"))
            for n_bytes in _pieces(file.n_bytes):
                with together(group):
                    piece = b"" if source is None else _read(source, n_bytes, file)
                received = group.broadcast(piece)
                with together(group):
                    if target is not None:
                        target.write(received)


def _pieces(n_bytes: int) -> Iterator[int]:
    """Sizes of the pieces of so many bytes."""
    for start in range(0, n_bytes, PIECE_BYTES):
        yield min(PIECE_BYTES, n_bytes - start)


def _read(source: BinaryIO, n_bytes: int, file: FileState) -> bytes:
    piece = source.read(n_bytes)
    if len(piece) != n_bytes:
        raise OSError(f"{source.name}: is shorter than the {file.n_bytes} bytes that it had when it was listed")
    return piece
