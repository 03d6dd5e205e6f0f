"""Converted models are kept by content, and can be seen and removed; what a process uses stays."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from mlxtune import doctor
from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.models import conversions
from mlxtune.models.base_model import base_folder, config_and_tokenizer
from mlxtune.models.conversions import models_cache
from mlxtune.models.source import ModelSource
from mlxtune.models.writing import model_folder
from mlxtune.recipe.sections import ModelSection, Quantize
from tests.conftest import Result, Run
from tests.runs.test_healing import in_a_child, paused
from tests.runs.test_listing import Terminal
from tests.tiny import tiny_gguf, tiny_model


class Converter:
    """A backend that can convert: it writes a config and counts."""

    name = "fake"

    def __init__(self) -> None:
        self.sources: list[str] = []

    def architecture(self, config: dict[str, Any]) -> None:
        """Any config will do."""

    def convert(self, source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
        self.sources.append(source.name)
        with model_folder(out) as folder:
            (folder / "config.json").write_text(json.dumps({"bits": spec.bits}))
            (folder / "model.safetensors").write_bytes(b"x" * 5000)
        return WrittenModel(out, 0, 0, 0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own; files count as settled, though they were written a moment ago."""
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversions, "SETTLED_S", -1.0)
    yield models_cache()
    end_of_the_process()


@pytest.fixture
def backend() -> Any:
    return Converter()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read whole."""
    read, names = conversions._Hashes.read, list[str]()
    monkeypatch.setattr(conversions._Hashes, "read", lambda self, file: names.append(file.name) or read(self, file))
    return names


def end_of_the_process() -> None:
    """What this process used is no longer in use."""
    for handle in conversions._IN_USE.values():
        os.close(handle)
    conversions._IN_USE.clear()


def moved(path: Path, to: Path) -> Path:
    """The same content elsewhere, and written at another time, as by `pip install`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, to) if path.is_dir() else shutil.copyfile(path, to)
    for file in to.iterdir() if to.is_dir() else (to,):
        os.utime(file, (1, 1))
    return to


# Found by content --------------------------------------------------------------------------------------------------


def test_a_gguf_that_was_installed_anew_is_not_converted_again(tmp_path: Path, backend: Any) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    first = base_folder(ModelSection(path=str(file)), backend)
    elsewhere = moved(file, tmp_path / "site-packages" / "renamed.gguf")
    file.unlink()
    assert base_folder(ModelSection(path=str(elsewhere)), backend) == first
    assert moved(elsewhere, file) and base_folder(ModelSection(path=str(file)), backend) == first
    assert backend.sources == ["model.gguf"]
    _, tokenizer = config_and_tokenizer(ModelSection(path=str(file)))
    assert config_and_tokenizer(ModelSection(path=str(elsewhere)))[1] == tokenizer


def test_a_folder_to_be_quantized_is_known_by_its_content(tmp_path: Path, backend: Any) -> None:
    model, quantize = tiny_model(tmp_path / "base"), Quantize(bits=4)
    first = base_folder(ModelSection(path=str(model), quantize=quantize), backend)
    elsewhere = moved(model, tmp_path / "copies" / "other-name")
    assert base_folder(ModelSection(path=str(elsewhere), quantize=quantize), backend) == first
    (elsewhere / "README.md").write_text("says nothing about the model")
    assert base_folder(ModelSection(path=str(elsewhere), quantize=quantize), backend) == first
    assert base_folder(ModelSection(path=str(elsewhere), quantize=Quantize(bits=8)), backend) != first
    assert backend.sources == ["base", "other-name"]


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_another_content_of_the_same_size_and_time_is_another_model(changed: str, tmp_path: Path, backend: Any) -> None:
    model = tiny_model(tmp_path / "base")
    section = ModelSection(path=str(model), quantize=Quantize(bits=4))
    file = model / changed
    first, status, content = base_folder(section, backend), file.stat(), file.read_bytes()
    is_json = changed.endswith(".json")
    file.write_bytes(content.replace(b'": ', b'" :', 1) if is_json else content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.read_bytes() != content and file.stat().st_size == status.st_size
    assert base_folder(section, backend) != first


def test_the_last_weight_of_a_gguf_tells_models_apart(tmp_path: Path, backend: Any) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    first, content, status = base_folder(ModelSection(path=str(file)), backend), file.read_bytes(), file.stat()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert base_folder(ModelSection(path=str(file)), backend) != first


def test_a_hub_model_is_known_by_its_commit_and_not_read(cache: Path, reads: list[str], tmp_path: Path) -> None:
    from mlxtune.models import base_model

    hub = ModelSource("folder", tmp_path, "Qwen/Qwen3-0.6B@c0ffee", "Qwen/Qwen3-0.6B")
    folder = base_model._cached(hub, "4bit-g64", lambda out: out.mkdir())
    # As 0.1.0 named it: what users have stays valid.
    assert folder == cache / "Qwen-Qwen3-0.6B-4bit-g64-90c960ebacf0" and not reads


# Hashes ------------------------------------------------------------------------------------------------------------


def test_a_file_is_read_once_and_again_when_it_changed(
    tmp_path: Path, backend: Any, reads: list[str], cache: Path
) -> None:
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))
    section = ModelSection(path=str(file))
    base_folder(section, backend)
    config_and_tokenizer(section)
    base_folder(section, backend)
    assert reads == ["model.gguf"]
    for damage in ("", "{", "[]", '{"a": 1}', f'{{"{file}": {{"state": 1}}}}'):
        (cache / "hashes.json").write_text(damage)
        base_folder(section, backend)
    assert len(reads) == 6
    moved(file, tmp_path / "other.gguf")
    file.unlink()
    base_folder(ModelSection(path=str(tmp_path / "other.gguf")), backend)
    assert list(json.loads((cache / "hashes.json").read_text())) == [str(tmp_path / "other.gguf")]
    assert backend.sources == ["model.gguf"]


def test_a_plain_folder_is_never_read_for_its_hash(tmp_path: Path, backend: Any, reads: list[str]) -> None:
    base_folder(ModelSection(path=str(tiny_model(tmp_path / "base"))), backend)
    assert not reads and not backend.sources


def test_the_hash_of_a_file_that_changed_a_moment_ago_is_not_kept(
    tmp_path: Path, backend: Any, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversions, "SETTLED_S", 60.0)
    section = ModelSection(path=str(tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))))
    base_folder(section, backend)
    base_folder(section, backend)
    assert reads == ["model.gguf"] * 2 and len(backend.sources) == 1


def test_much_to_be_read_is_said_before(
    tmp_path: Path, backend: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mlxtune")
    monkeypatch.setattr(conversions, "NOTABLE_BYTES", 1000)
    section = ModelSection(path=str(tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base"))))
    for _ in range(2):
        base_folder(section, backend)
    said = caplog.messages
    assert [line.split()[0] for line in said] == ["hashing", "converting"] and "model.gguf (0.0 GB) once" in said[0]


# Seen and removed --------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path, backend: Any) -> list[Path]:
    """Two conversions that nobody uses, the second used last, ten days ago, and their sources."""
    model = tiny_model(tmp_path / "base")
    found = [base_folder(ModelSection(path=str(model), quantize=Quantize(bits=bits)), backend) for bits in (4, 8)]
    end_of_the_process()
    now = datetime.now(timezone.utc).timestamp()
    for folder, days in zip(found, (20, 10), strict=True):
        os.utime(folder, (now - 86400 * days,) * 2)
    return found


def test_cleaning_lists_size_and_last_use_and_removes_what_is_not_used(
    two: list[Path], mlxtune: Run, cache: Path
) -> None:
    (cache / "of-an-older-version-0123456789ab").mkdir()
    (cache / "of-an-older-version-0123456789ab" / "config.json").write_text("{}")
    unasked = mlxtune("runs", "clean", "--cache")
    assert (unasked.code, unasked.out) == (2, "") and "add --yes" in unasked.err
    lines = unasked.err.splitlines()
    older = re.escape(f"{cache}/of-an-older-version-0123456789ab: 2 B, last used ")
    assert re.match(older + r"\d+ s ago", lines[0])
    assert lines[1] == f"{two[1]}: 5.0 kB, last used 10 d ago" and lines[2] == f"{two[0]}: 5.0 kB, last used 20 d ago"
    assert two[0].is_dir() and two[1].is_dir()
    done = mlxtune("runs", "clean", "--cache", "--yes")
    assert (done.code, done.out) == (0, "removed 3 converted models, 10.0 kB\n")
    assert sorted(path.name for path in cache.iterdir()) == ["hashes.json"]
    assert mlxtune("runs", "clean", "--cache").out == "nothing to remove\n"


def test_one_is_removed_by_its_name_and_told_in_json(two: list[Path], mlxtune: Run, cache: Path) -> None:
    wrong = mlxtune("runs", "clean", "--cache", two[0].name + "x", "--yes")
    assert wrong.code == 1 and f"did you mean '{two[0].name}'?" in wrong.err and two[0].is_dir()
    done = mlxtune("runs", "clean", "--cache", two[0], "--yes", "--json")
    said = json.loads(done.out)
    assert said["folder"] == str(cache) and said["bytes"] == 5011 and said["kept"] == []
    assert [one["name"] for one in said["removed"]] == [two[0].name]
    assert not two[0].exists() and two[1].is_dir()


def test_it_asks_first(two: list[Path], monkeypatch: pytest.MonkeyPatch, mlxtune: Run) -> None:
    typed: Callable[[str], Result] = lambda text: mlxtune("runs", "clean", "--cache", stdin=Terminal(text))  # noqa: E731
    declined = typed("n\n")
    assert (declined.code, declined.out) == (0, "") and "Remove 2 converted models, 10.0 kB? [y/N]" in declined.err
    assert two[0].is_dir()
    assert typed("y\n").out == "removed 2 converted models, 10.0 kB\n" and not two[0].exists()


def test_using_a_conversion_says_when_it_was_used_last(two: list[Path], tmp_path: Path, backend: Any) -> None:
    base_folder(ModelSection(path=str(tmp_path / "base"), quantize=Quantize(bits=4)), backend)
    found = conversions.list_conversions(models_cache())
    assert [one.path for one in found] == two
    assert (datetime.now(timezone.utc) - found[0].last_used).total_seconds() < 60
    assert [one.in_use for one in found] == [True, False]


def test_what_a_process_uses_is_kept_until_it_ends(two: list[Path], tmp_path: Path, backend: Any, mlxtune: Run) -> None:
    def use(pause: Callable[[], None]) -> None:
        base_folder(ModelSection(path=str(tmp_path / "base"), quantize=Quantize(bits=4)), backend)
        pause()

    with paused(use):
        done = mlxtune("runs", "clean", "--cache", "--yes")
        assert done.out == "removed 1 converted model, 5.0 kB\n" and f"{two[0]}: 5.0 kB" in done.err
        assert "kept, a process uses it" in done.err and two[0].is_dir() and not two[1].exists()
    assert mlxtune("runs", "clean", "--cache", "--yes").out == "removed 1 converted model, 5.0 kB\n"


def test_leftovers_and_locks_of_the_dead_are_removed_and_those_of_the_living_kept(
    two: list[Path], tmp_path: Path, mlxtune: Run, cache: Path
) -> None:
    def convert(name: str, then: Callable[[], None]) -> None:
        with model_folder(cache / name) as new:
            (new / "weights").write_bytes(b"x" * 2000)
            then()

    with paused(lambda pause: convert("dead", pause)):
        pass
    with paused(lambda pause: convert("living", pause)) as ended:
        (cache / "gone-0123456789ab.lock").touch()
        done = mlxtune("runs", "clean", "--cache", "--yes")
        assert done.out == "removed 3 converted models, 12.0 kB\n"
        assert re.search(r"/\.dead\..*: 2\.0 kB, left \d+ s ago by an interrupted conversion", done.err)
        left = sorted(path.name for path in cache.iterdir())
        assert len(left) == 3 and left[0].startswith(".living.") and left[2] == "hashes.json"
        assert ended() == 0 and (cache / "living" / "weights").is_file()


def test_a_removal_that_is_killed_leaves_no_half_a_model(
    two: list[Path], tmp_path: Path, backend: Any, cache: Path
) -> None:
    def half(path: Path) -> None:
        (path / "config.json").unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def remove() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "rmtree", half)
            list(conversions.remove(cache, conversions.named(conversions.list_conversions(cache), [two[0].name])))

    assert os.WIFSIGNALED(os.waitpid(in_a_child(remove), 0)[1])
    assert not two[0].exists()
    base_folder(ModelSection(path=str(tmp_path / "base"), quantize=Quantize(bits=4)), backend)
    assert (two[0] / "config.json").is_file() and backend.sources == ["base"] * 3
    assert not list(cache.glob(".*"))


def test_doctor_counts_what_is_kept_and_names_the_command(tmp_path: Path, cache: Path, request: Any) -> None:
    none = doctor.check_conversions(cache)
    assert none.next is None and none.facts["conversions"] == 0 and "nothing yet in" in none.found
    request.getfixturevalue("two")
    check = doctor.check_conversions(cache)
    assert check.found == f"2 converted models: 0.0 GB in {cache}" and check.facts["conversions"] == 2
    assert check.status == doctor.OK and check.next is not None and "`mlxtune runs clean --cache`" in check.next
