"""A folder of rank 0 is read where it lies by the processes that see it, and sent in pieces to those that do not."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends.processes import Processes
from mlxtune.errors import ProcessFailed
from mlxtune.runs import shared_folder
from mlxtune.runs.copies import RunCopies
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import MODEL, MODEL_CONFIG, MODEL_WEIGHTS, RUN_FILE
from mlxtune.runs.shared_folder import files_of, share_folder
from tests.backends.groups import on_ranks

PIECE_BYTES = 1000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of three files, of which one takes several pieces and one has nothing in it."""
    folder = tmp_path / "source"
    (folder / "under").mkdir(parents=True)
    (folder / "weights").write_bytes(os.urandom(3 * PIECE_BYTES + 7))
    (folder / "under" / "small").write_bytes(b"small")
    (folder / "empty").touch()
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each broadcast, on all processes."""
    found: list[int] = []
    broadcast = Processes.broadcast

    def counted(self: Processes, content: bytes) -> bytes:
        received = broadcast(self, content)
        found.append(len(received))
        return received

    monkeypatch.setattr(Processes, "broadcast", counted)
    monkeypatch.setattr(shared_folder, "PIECE_BYTES", PIECE_BYTES)
    return found


def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all processes but rank 0, which lists its files before they look, see no file."""
    calls = itertools.count()
    list_files = shared_folder.files_of
    monkeypatch.setattr(shared_folder, "files_of", lambda *args: list_files(*args) if next(calls) == 0 else [])


def contents(folder: Path) -> dict[str, bytes]:
    return {one.place: (folder / one.place).read_bytes() for one in files_of(folder)}


def test_a_folder_that_all_see_is_taken_as_it_is(source: Path, tmp_path: Path, sent: list[int]) -> None:
    copy = tmp_path / "copy"
    assert on_ranks(2, lambda group: share_folder(group, source, copy)) == [source, source.resolve()]
    assert not sent and not copy.exists()


def test_a_folder_that_others_do_not_see_is_sent_in_pieces(
    source: Path, tmp_path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen(monkeypatch)
    found = on_ranks(2, lambda group: share_folder(group, source, tmp_path / f"copy-{group.rank}"))
    assert found == [source, tmp_path / "copy-1"]
    assert contents(found[1]) == contents(source)
    assert max(sent) == PIECE_BYTES and sum(sent) == 2 * sum(map(len, contents(source).values()))
    assert not (tmp_path / "copy-0").exists()


def test_another_file_of_the_same_size_is_not_the_same(source: Path) -> None:
    before = files_of(source)
    weights = source / "weights"
    weights.write_bytes(os.urandom(weights.stat().st_size))
    os.utime(weights, ns=(0, before[-1].changed_ns + 1))
    assert files_of(source) != before and len(before) == 3


def test_only_what_is_named_is_shared(
    source: Path, tmp_path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen(monkeypatch)
    _, copy = on_ranks(2, lambda group: share_folder(group, source, tmp_path / "copy", ("under", "absent")))
    assert contents(copy) == {"under/small": b"small"}


def test_where_a_file_cannot_be_read_all_processes_end(
    source: Path, tmp_path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen(monkeypatch)
    listed = shared_folder.files_of
    monkeypatch.setattr(shared_folder, "files_of", lambda *args: _longer(listed(*args)))
    first, second = on_ranks(2, lambda group: share_folder(group, source, tmp_path / "copy"))
    assert isinstance(first, OSError) and "is shorter than the 6 bytes" in str(first)
    assert isinstance(second, ProcessFailed) and "is shorter than" in str(second)


def _longer(files: list[shared_folder.FileState]) -> list[shared_folder.FileState]:
    return [shared_folder.FileState(one.place, one.n_bytes + 1, one.changed_ns) for one in files if one.n_bytes == 5]


@pytest.mark.parametrize("seen", [True, False])
def test_a_copy_of_a_run_that_was_trained_whole_has_its_model_or_a_link_to_it(
    seen: bool, tmp_path: Path, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (run / MODEL).mkdir(parents=True)
    (run / RUN_FILE).write_text("{}")
    (run / MODEL / MODEL_CONFIG).write_text("{}")
    (run / MODEL / MODEL_WEIGHTS).write_bytes(os.urandom(2 * PIECE_BYTES))
    if not seen:
        list_files = shared_folder.files_of
        asked = itertools.count()

        def unseen_model(folder: Path, *args: Any) -> list[shared_folder.FileState]:
            return [] if folder.name == MODEL and next(asked) else list_files(folder, *args)

        monkeypatch.setattr(shared_folder, "files_of", unseen_model)

    def found(group: Processes) -> RunFolder | None:
        return RunCopies(group, tmp_path / f"copies-{group.rank}").find(lambda: RunFolder(run))

    original, copy = on_ranks(2, found)
    assert original is not None and original.path == run
    assert copy is not None and copy.path != run and copy.is_full and copy.model.is_symlink() == seen
    assert copy.trained_file.read_bytes() == original.trained_file.read_bytes()
    assert (max(sent) < PIECE_BYTES) == seen
