"""Exports that cannot be written whole: one message, which names what the user named, and nothing left behind.

The disk is full by the system's own limit on the size of a file, which every library meets as it meets a full disk.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from mlxtune.errors import ExportError
from mlxtune.export.exported import new_file, new_folder
from mlxtune.runs.folder import RunFolder, open_run
from tests.adapted import BACKENDS
from tests.adapter_runs import adapter_run
from tests.conftest import Run

LIMIT = 20_000  # bytes of a file
EXPORTS = {
    "peft": "peft",
    "hf": "hf",
    "mlx": "mlx",
    "mlx --quantize 8": "mlx-8bit",
    "gguf": "{name}-F16.gguf",
    "gguf-lora": "{name}-lora.gguf",
    "ollama": "ollama",
    "ollama --adapter-only qwen3:0.6b": "ollama-adapter",
}


@pytest.fixture
def run(base: Path, tmp_path: Path) -> RunFolder:
    """A run whose adapter is not zero."""
    return adapter_run(tmp_path / "made", base)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can be longer than LIMIT."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def paths(folder: Path) -> list[str]:
    """Everything below a folder, empty and hidden folders too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("words", EXPORTS)
def test_a_full_disk_is_one_message_that_names_the_export(
    words: str, backend: str, run: RunFolder, mlxtune_run: Run
) -> None:
    pytest.importorskip(backend)
    before = paths(run.path)
    with full_disk():
        result = mlxtune_run("export", run, "--to", *words.split(), "--backend", backend)
    (error,) = [line for line in result.err.splitlines() if not line.startswith("backend: ")]
    out = run.exports / EXPORTS[words].format(name=run.path.parent.name)
    assert (result.code, result.out) == (1, "")
    assert error.startswith(f"Error: {out}: cannot be written: ")
    assert error.endswith(" GB are free there; nothing was left behind")
    assert paths(run.path) == before


@pytest.mark.parametrize(
    ("words", "place"),
    [(("export", "{run}", "a/b", "--to", "hub", "--dry-run"), "{run}"), (("fuse", "{run}"), "{run}/fused")],
)
def test_no_temporary_name_is_in_the_message(
    words: tuple[str, ...], place: str, run: RunFolder, mlxtune_run: Run
) -> None:
    before = paths(run.path)
    with full_disk():
        result = mlxtune_run(*(word.format(run=run) for word in words))
    assert result.code == 1
    assert f"Error: {place.format(run=run)}: cannot be written: " in result.err
    assert "Traceback" not in result.err
    assert paths(run.path) == before


def test_an_import_leaves_no_folder_above_the_run_either(run: RunFolder, tmp_path: Path, mlxtune_run: Run) -> None:
    with full_disk():
        result = mlxtune_run("import", run.adapter, "--recipe", run.recipe_file, "--out", tmp_path / "a" / "b" / "run")
    assert result.code == 1
    assert f"Error: {tmp_path / 'a' / 'b' / 'run'}: cannot be written: " in result.err
    assert not (tmp_path / "a").exists()


def in_folder(out: Path) -> AbstractContextManager[Path]:
    return new_folder(out, "marker")


@pytest.mark.parametrize("writing", [in_folder, new_file])
def test_folders_that_were_there_stay(writing: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "there" / "new" / "out"):
        raise KeyboardInterrupt
    assert paths(tmp_path) == ["there"]


@pytest.mark.parametrize("writing", [in_folder, new_file])
def test_a_file_that_was_to_be_read_is_the_one_that_is_named(
    writing: Callable[[Path], AbstractContextManager[Path]], tmp_path: Path
) -> None:
    missing, out = tmp_path / "base" / "model.safetensors", tmp_path / "exports" / "out"
    with pytest.raises(ExportError) as caught, writing(out):
        missing.read_bytes()
    assert str(caught.value) == f"{missing}: No such file or directory; {out} was not written"


KILLED = """
import sys, time
from pathlib import Path
from mlxtune.export.exported import new_file, new_folder
from mlxtune.files import temporary_folder
exports = Path(sys.argv[1]) / "exports"
with new_file(exports / "a.gguf") as file, new_folder(exports / "hf", "config.json") as folder:
    with temporary_folder(exports.parent, "verify") as temporary:
        for place in (file, folder / "config.json", temporary / "model.safetensors"):
            place.write_bytes(b"half")
        print("written", flush=True)
        time.sleep(60)
"""


def test_what_a_killed_process_leaves_is_removed_when_the_run_is_opened(run: RunFolder) -> None:
    before = paths(run.path)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    open_run(run.path)
    while_it_lives = paths(run.path)
    process.kill()
    process.communicate()

    open_run(run.path)

    assert sum(path.endswith(".new") for path in while_it_lives) == 3
    assert paths(run.path) == sorted([*before, "exports"])
