"""Copies of a run for processes other than rank 0, whose machine may not have its folder: they read from these and write nothing back."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mlxtune.backends.base import Group
from mlxtune.backends.group import settle, together
from mlxtune.files import packed, unpack
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import ADAPTER, EVALUATIONS, RECIPE_FILE, RUN_FILE, VERIFY

# What others read of a run; checkpoints, fused models and exports stay where they are.
COPIED = (RECIPE_FILE, RUN_FILE, ADAPTER, EVALUATIONS, VERIFY)


class RunCopies:
    """Runs that rank 0 finds, for all processes.

    Args:
        group: The processes.
        folder: Where copies go.
    """

    def __init__(self, group: Group, folder: Path | None) -> None:
        self._group, self._folder = group, folder
        self._n_copied = 0

    def find(self, find: Callable[[], RunFolder | None]) -> RunFolder | None:
        """What a function finds where it is called on rank 0; a copy of it on the others.

        Raises:
            MlxtuneError: The function's own, on rank 0.
            ProcessFailed: The same, on the others.
        """
        if self._folder is None:
            return find()
        run, content = None, b""
        with together(self._group) as report:
            if self._group.rank == 0:
                run = find()
                content = b"" if run is None else packed(run.path, COPIED)
                report.value = None if run is None else str(run.path)
        if report.values[0] is None:
            return None
        content = self._group.broadcast(content)
        if run is not None:
            return run
        return RunFolder(self._unpacked(content, Path(report.values[0]).name))

    def existing(self, find: Callable[[], RunFolder]) -> RunFolder:
        """As `find`, of a function that finds one or raises."""
        run = self.find(find)
        assert run is not None
        return run

    def folder(self, path: Path) -> Path:
        """A folder that rank 0 writes: the path there, on the others a place of their own that holds what it holds."""
        if self._folder is None:
            return path
        with together(self._group) as report:
            content = packed(path) if self._group.rank == 0 and path.is_dir() else b""
            report.value = path.is_dir()
        if report.values[0]:
            content = self._group.broadcast(content)
        if self._group.rank == 0:
            return path
        return self._unpacked(content, path.name) if report.values[0] else self._place(path.name)

    def _place(self, name: str) -> Path:
        assert self._folder is not None
        self._n_copied += 1
        return self._folder / str(self._n_copied) / name

    def _unpacked(self, content: bytes, name: str) -> Path:
        copy = self._place(name)
        copy.mkdir(parents=True)
        unpack(content, copy)
        return copy


@contextlib.contextmanager
def run_copies(group: Group) -> Iterator[RunCopies]:
    """Copies that are removed at the end, where the processes wait for each other; one process needs none."""
    if group.size == 1:
        yield RunCopies(group, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield RunCopies(group, Path(folder))
        settle(group)
