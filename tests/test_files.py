"""Files and folders of ours: readable to whom the umask says, whole or not there, and on the drive where that is promised."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlxtune.backends import choose
from mlxtune.backends.base import ConvertSpec
from mlxtune.files import cache_folder, whole_folder, write_json
from mlxtune.models import conversions
from mlxtune.models.base_model import base_folder
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import ModelSection, Quantize
from mlxtune.runs.layout import BASE, TUNED
from mlxtune.sweep.grid import parse_axis, plan_trials
from mlxtune.sweep.run import sweep
from mlxtune.training.tune import tune
from tests.adapted import BACKENDS
from tests.conftest import Run, write_recipe
from tests.made_runs import made_run, replies_of, ticket_recipe, tickets
from tests.tiny import tiny_gguf

PACKAGE = Path(__file__).parent.parent / "mlxtune"


# Permissions -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What new files keep from others while a test runs."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_modes(folder: Path, umask: int, n_files: int, *patterns: str) -> None:
    """Every folder and file below has the mode that the umask leaves; so many files, and some that match each pattern."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    for path in folder.rglob("*"):
        assert oct(stat.S_IMODE(path.stat().st_mode)) == oct((0o777 if path.is_dir() else 0o666) & ~umask), path
    assert len(files) == n_files, sorted(str(path.relative_to(folder)) for path in files)
    assert all(list(folder.glob(pattern)) for pattern in patterns)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_folder_has_the_modes_that_the_umask_says(
    backend: str, umask: int, tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    monkeypatch.setenv("MLXTUNE_BACKEND", backend)
    recipe, run = write_recipe(tmp_path / "recipe", base), tmp_path / "run"
    for words in (
        ("lora", recipe, "--out", run, "--set", "train.save_every=1"),
        ("evaluate", run, "--base"),
        ("evaluate", run, "--probabilities"),
        ("fuse", run),
    ):
        done = mlxtune(*words)
        assert done.code == 0, done.err
    weights = ("adapter/adapters.safetensors", "checkpoints/step-*/optimizer.safetensors", "fused/model.safetensors")
    said = (f"evaluation/{name}/scores.json" for name in (BASE, TUNED))
    assert_modes(run, umask, 28, ".lock", "metrics.jsonl", *weights, *said)


@pytest.mark.parametrize("backend", BACKENDS)
def test_converted_models_have_the_modes_that_the_umask_says(
    backend: str, umask: int, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversions, "SETTLED_S", -1.0)
    computes = choose(backend, "cpu").backend
    gguf = tiny_gguf(tmp_path / "base.gguf", base)
    (tmp_path / "models").mkdir()
    for name, source, spec in (
        ("plain", base, ConvertSpec()),
        ("packed", base, ConvertSpec(4, 32)),
        ("gguf", gguf, ConvertSpec()),
        ("gguf-packed", gguf, ConvertSpec(4, 32)),
    ):
        computes.convert(source, tmp_path / "models" / name, spec)
    assert_modes(tmp_path / "models", umask, 23, "*/model.safetensors")
    base_folder(ModelSection(path=str(gguf)), computes)
    base_folder(ModelSection(path=str(base), quantize=Quantize(bits=4, group_size=32)), computes)
    assert_modes(cache_folder(), umask, 14, "models/hashes.json", "models/*.lock", "models/base-*/model.safetensors")


def test_sheets_and_sweeps_have_the_modes_that_the_umask_says(umask: int, tmp_path: Path, mlxtune: Run) -> None:
    rows = tickets(6, response=True)
    recipe = ticket_recipe(tmp_path / "recipe", rows)

    def made(words: object, log: Path) -> int:
        made_run(log.with_suffix(""), recipe, replies_of(rows, 0.7))
        log.touch()
        return 0

    trials = plan_trials(recipe, [parse_axis("lora.rank=4,8")])
    sweep(trials, tmp_path / "sweep", made)
    done = mlxtune("review", tmp_path / "sweep" / "rank-4", "--out", tmp_path / "sweep" / "sheets")
    assert done.code == 0, done.err
    assert_modes(tmp_path / "sweep", umask, 20, "sweep.json", "rank-4/run.json", "sheets/*.csv")


def test_safetensors_are_written_in_one_place() -> None:
    writers = [path for path in sorted(PACKAGE.rglob("*.py")) if "save_file" in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(PACKAGE)) for path in writers] == ["files.py"]


# On the drive ------------------------------------------------------------------------------------------------------

F_FULLFSYNC = 51  # macOS's number


@dataclass
class Drive:
    """Remembers how each file was synchronised, in place of a Mac's `fcntl`; `fails` is the errno of its full sync."""

    fails: int | None = None
    synced: list[tuple[str, str]] = field(default_factory=list)

    def fcntl(self, handle: int, command: int) -> int:
        assert command == F_FULLFSYNC
        if self.fails is not None:
            raise OSError(self.fails, os.strerror(self.fails))
        self.synced.append(("F_FULLFSYNC", self._name(handle)))
        return 0

    def fsync(self, handle: int) -> None:
        self.synced.append(("fsync", self._name(handle)))

    @staticmethod
    def _name(handle: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name.partition(f".{os.getpid()}")[0]


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> Drive:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("names of open files are read from /proc")
    made = Drive()
    monkeypatch.setattr(fcntl, "fcntl", made.fcntl)
    monkeypatch.setattr(os, "fsync", made.fsync)
    return made


@pytest.fixture
def on_a_mac(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> Drive:
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", F_FULLFSYNC, raising=False)
    return drive


def test_on_a_mac_what_is_written_reaches_the_drive_itself(on_a_mac: Drive, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {})
    assert on_a_mac.synced == [("F_FULLFSYNC", ".run.json")]
    on_a_mac.synced.clear()
    with whole_folder(tmp_path / "step-1", durable=True) as new:
        (new / "state").touch()
        assert not on_a_mac.synced
    assert on_a_mac.synced == [("F_FULLFSYNC", name) for name in ("state", ".step-1", tmp_path.name)]


def test_a_training_waits_for_the_drive_with_weights_and_metrics(on_a_mac: Drive, tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base), ["train.max_steps=1"])
    tune(recipe, choose("mlx", "cpu"), tmp_path / "run")
    weights = {"adapter.safetensors", "optimizer.safetensors", ".step-000001", "checkpoints"}
    assert {("F_FULLFSYNC", name) for name in ("metrics.jsonl", *weights)} <= set(on_a_mac.synced)
    assert not [name for how, name in on_a_mac.synced if how == "fsync"]


@pytest.mark.parametrize("refusal", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_file_system_without_a_full_sync_gets_the_ordinary_one(refusal: int, on_a_mac: Drive, tmp_path: Path) -> None:
    on_a_mac.fails = refusal
    write_json(tmp_path / "run.json", {})
    assert on_a_mac.synced == [("fsync", ".run.json")]


def test_a_drive_that_fails_is_no_file_system_without_a_full_sync(on_a_mac: Drive, tmp_path: Path) -> None:
    on_a_mac.fails = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_json(tmp_path / "run.json", {})
    assert not (tmp_path / "run.json").exists() and not on_a_mac.synced


def test_elsewhere_fsync_is_enough(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fcntl, "F_FULLFSYNC", raising=False)
    write_json(tmp_path / "run.json", {})
    assert drive.synced == [("fsync", ".run.json")]


def test_nothing_is_synchronised_past_the_one_function() -> None:
    callers = [path for path in sorted(PACKAGE.rglob("*.py")) if "os.fsync" in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(PACKAGE)) for path in callers] == ["files.py"]
