"""Files and folders of ours: readable to whom the umask says, whole or not there, and on the drive where that is promised."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxtune.backends import choose
from mlxtune.backends.base import ConvertSpec
from mlxtune.models.base_model import base_folder, cache_folder
from mlxtune.recipe import ModelSection, Quantize
from mlxtune.runs import BASE, TUNED
from mlxtune.sweeping.grid import parse_axis, plan_cells
from mlxtune.sweeping.run import sweep
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
    assert_modes(cache_folder().parent, umask, 13, "models/*.lock", "models/base-*/model.safetensors")


def test_sheets_and_sweeps_have_the_modes_that_the_umask_says(umask: int, tmp_path: Path, mlxtune: Run) -> None:
    rows = tickets(6, response=True)
    recipe = ticket_recipe(tmp_path / "recipe", rows)

    def made(words: object, log: Path) -> int:
        made_run(log.with_suffix(""), recipe, replies_of(rows, 0.7))
        log.touch()
        return 0

    cells = plan_cells(recipe, [parse_axis("lora.rank=4,8")])
    sweep(cells, tmp_path / "sweep", made)
    done = mlxtune("review", tmp_path / "sweep" / "rank-4", "--out", tmp_path / "sweep" / "sheets")
    assert done.code == 0, done.err
    assert_modes(tmp_path / "sweep", umask, 20, "sweep.json", "rank-4/run.json", "sheets/*.csv")


def test_safetensors_are_written_in_one_place() -> None:
    writers = [path for path in sorted(PACKAGE.rglob("*.py")) if "save_file" in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(PACKAGE)) for path in writers] == ["files.py"]
