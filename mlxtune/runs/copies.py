"""Copies of a run for processes other than rank 0, whose machine may not have its folder: they read from these and write nothing back."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mlxtune.backends.base import Group
from mlxtune.backends.group import settle, together
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import ADAPTER, EVALUATIONS, RECIPE_FILE, RUN_FILE, VERIFY
from mlxtune.runs.shared_folder import copy_folder, share_folder

# What others read of a run, beside its model where it was trained whole; checkpoints, fused models and exports stay where they are.
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

    def find(self, find: Callable[[], RunFolder | None], with_model: bool = True) -> RunFolder | None:
        """What a function finds where it is called on rank 0; a copy of it on the others.

        Args:
            find: Finds the run.
            with_model: The copy has the run's model, if it was trained whole: a link to it where a process sees it, since a model is large.

        Raises:
            MlxtuneError: The function's own, on rank 0.
            ProcessFailed: The same, on the others.
        """
        if self._folder is None:
            return find()
        run = None
        with together(self._group) as report:
            if self._group.rank == 0:
                run = find()
                report.value = None if run is None else [str(run.path), run.is_full and with_model]
        if report.values[0] is None:
            return None
        path, has_model = Path(report.values[0][0]), report.values[0][1]
        copy = RunFolder(self._place(path.name))
        copy_folder(self._group, path, copy.path, COPIED)
        if has_model:
            model = share_folder(self._group, RunFolder(path).model, copy.model)
            if self._group.rank != 0 and model != copy.model:
                copy.model.symlink_to(model)
        return run or copy

    def existing(self, find: Callable[[], RunFolder]) -> RunFolder:
        """As `find`, of a function that finds one or raises."""
        run = self.find(find)
        assert run is not None
        return run

    def folder(self, path: Path) -> Path:
        """A folder that rank 0 writes: the path there, on the others a place of their own that holds what it holds."""
        if self._folder is None:
            return path
        copy = self._place(path.name)
        copy_folder(self._group, path, copy)
        return path if self._group.rank == 0 else copy

    def _place(self, name: str) -> Path:
        assert self._folder is not None
        self._n_copied += 1
        return self._folder / str(self._n_copied) / name


@contextlib.contextmanager
def run_copies(group: Group) -> Iterator[RunCopies]:
    """Copies that are removed at the end, where the processes wait for each other; one process needs none."""
    if group.size == 1:
        yield RunCopies(group, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield RunCopies(group, Path(folder))
        settle(group)
