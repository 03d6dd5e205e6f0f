"""Model files inside installed packages: anywhere in one, or in parts that several share."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from mlxtune.errors import ModelError
from mlxtune.models.source import find
from tests.tiny import tiny_gguf, tiny_model

NAME, PATH = "big_model_gguf", "package:big_model_gguf/model.gguf"


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A .gguf in three parts: in the package of its name, and in two packages of parts; packages raise when they are imported."""
    whole = tiny_gguf(tmp_path / "whole.gguf", tiny_model(tmp_path / "base")).read_bytes()
    for number in range(3):
        package = f"{NAME}_part{number}" if number else NAME
        folder = site(tmp_path) / package / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
        (folder / f"model.gguf.part0{number}").write_bytes(whole[number * 100_000 : (number + 1) * 100_000])
    rest = whole[300_000:]
    assert rest
    with (site(tmp_path) / f"{NAME}_part2" / "data" / "model.gguf.part02").open("ab") as stream:
        stream.write(rest)
    sums = f"{hashlib.sha256(whole).hexdigest()}  model.gguf\n"
    (site(tmp_path) / NAME / "data" / "SHA256SUMS").write_text(sums)
    facts = site(tmp_path) / f"{NAME}-1.0.dist-info"
    facts.mkdir()
    requires = "".join(f"Requires-Dist: big-model-gguf-part{number}==1.0\n" for number in (1, 2))
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: big-model-gguf\nVersion: 1.0\n{requires}")
    monkeypatch.setattr(sys, "path", [str(site(tmp_path)), *sys.path])
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    return whole


def site(folder: Path) -> Path:
    return folder / "site"


def test_parts_are_joined_once(content: bytes, tmp_path: Path) -> None:
    source = find(PATH)
    assert (source.kind, source.name) == ("gguf", "model")
    assert source.path.read_bytes() == content
    assert source.path.is_relative_to(tmp_path / "cache" / "models")
    changed = source.path.stat().st_mtime_ns
    assert find(PATH, need="config").path.stat().st_mtime_ns == changed


def test_without_their_sum_parts_are_joined_as_they_are(content: bytes, tmp_path: Path) -> None:
    (site(tmp_path) / NAME / "data" / "SHA256SUMS").unlink()
    assert find(PATH).path.read_bytes() == content


def test_a_file_is_found_wherever_it_lies_in_its_package(content: bytes, tmp_path: Path) -> None:
    file = site(tmp_path) / NAME / "data" / "whole.gguf"
    file.write_bytes(content)
    assert find("package:big_model_gguf/whole.gguf").path == file


@pytest.mark.parametrize("missing", [("part1",), ("part1", "part2")])
def test_packages_of_parts_that_are_not_installed_are_named(
    content: bytes, tmp_path: Path, missing: tuple[str, ...]
) -> None:
    for part in missing:
        (site(tmp_path) / f"{NAME}_{part}").rename(tmp_path / part)
    wanted = " ".join(f"big-model-gguf-{part}" for part in missing)
    with pytest.raises(ModelError, match=f"{PATH}: lies in parts, .* run `pip install {wanted}`"):
        find(PATH)


def test_a_part_that_its_package_lacks_is_named(content: bytes, tmp_path: Path) -> None:
    (site(tmp_path) / f"{NAME}_part1" / "data" / "model.gguf.part01").unlink()
    with pytest.raises(ModelError, match=r"its part 1 is missing .*--force-reinstall big-model-gguf`"):
        find(PATH)


def test_parts_that_are_damaged_are_refused_and_not_kept(content: bytes, tmp_path: Path) -> None:
    (site(tmp_path) / f"{NAME}_part2" / "data" / "model.gguf.part02").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"its 3 parts together have not the SHA-256 of SHA256SUMS"):
        find(PATH)
    assert not list((tmp_path / "cache" / "models").glob("*/model.gguf"))


def test_a_misspelt_file_of_a_package_is_answered_with_those_that_are_there(content: bytes, tmp_path: Path) -> None:
    (site(tmp_path) / NAME / "small.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"there is no such file or folder .*did you mean 'small\.gguf'"):
        find("package:big_model_gguf/smal.gguf")
