"""`mlxtune export`: every format by its command, what it prints, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from mlxtune.export.options import FORMATS, ExportOptions
from mlxtune.runs.folder import RunFolder
from tests.adapter_runs import adapter_run
from tests.conftest import Run, snapshot, write_recipe
from tests.tiny import tiny_model

# Format -> where it goes by default, and a file that it must have.
PLACES = {
    "peft": ("peft", "adapter_model.safetensors"),
    "hf": ("hf", "config.json"),
    "mlx": ("mlx", "config.json"),
    "gguf": ("{name}-F16.gguf", ""),
    "gguf-lora": ("{name}-lora.gguf", ""),
    "ollama": ("ollama", "Modelfile"),
}
# An option -> words that give it, of a format that does not take it.
IGNORED = {
    "type": ("peft", "--type", "q8_0"),
    "quantize": ("hf", "--quantize", "4"),
    "group_size": ("gguf", "--group-size", "32"),
    "dtype": ("gguf", "--dtype", "float32"),
    "base": ("hf", "--base"),
    "adapter_only": ("gguf", "--adapter-only", "qwen3:0.6b"),
}


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose adapter is not zero."""
    return adapter_run(tmp_path_factory.mktemp("run"), base)


@pytest.mark.parametrize("to", PLACES)
def test_every_format_says_what_was_written_its_size_and_how_to_load_it(
    to: str, run: RunFolder, mlxtune_run: Run
) -> None:
    place, file = PLACES[to]
    out = run.exports / place.format(name=run.path.parent.name)

    result = mlxtune_run("export", run, "--to", to, "--force")

    assert (result.code, (out / file).is_file()) == (0, True)
    assert result.out.startswith(f"{out}: ")
    assert " MB\n" in result.out


def test_json_says_the_same(run: RunFolder, tmp_path: Path, mlxtune_run: Run) -> None:
    result = mlxtune_run("export", run, "--to", "gguf-lora", "--out", tmp_path / "a.gguf", "--json")

    content = json.loads(result.out)
    assert (content["run"], content["path"], content["bytes"]) == (
        str(run), str(tmp_path / "a.gguf"), (tmp_path / "a.gguf").stat().st_size
    )  # fmt: skip


def test_an_ollama_folder_with_the_adapter_alone_names_the_model_that_it_is_put_on(
    run: RunFolder, tmp_path: Path, mlxtune_run: Run
) -> None:
    mlxtune_run("export", run, "--to", "ollama", "--adapter-only", "qwen3:0.6b", "--out", tmp_path / "o")

    assert (tmp_path / "o" / "Modelfile").read_text().startswith("FROM qwen3:0.6b\nADAPTER ./tiny-lora.gguf\n")


def test_every_option_is_taken_by_a_format_and_refused_by_another() -> None:
    names = {field.name for field in fields(ExportOptions)}

    assert names == set(IGNORED) == {name for taken in FORMATS.values() for name in taken}


@pytest.mark.parametrize("option", IGNORED)
def test_an_option_that_a_format_would_ignore_is_misuse(option: str, run: RunFolder, mlxtune_run: Run) -> None:
    to, *words = IGNORED[option]

    result = mlxtune_run("export", run, "--to", to, *words)

    assert result.code == 2
    assert f"--{option.replace('_', '-')} " in result.err


@pytest.mark.parametrize("name", ["", "qwen3 0.6b", "qwen3\nSYSTEM hi"])
def test_what_is_no_name_of_a_model_is_misuse(name: str, run: RunFolder, mlxtune_run: Run) -> None:
    result = mlxtune_run("export", run, "--to", "ollama", "--adapter-only", name)

    assert result.code == 2
    assert "--adapter-only: expected the name of a model in Ollama" in result.err


def test_an_export_that_lies_there_is_not_replaced(run: RunFolder, tmp_path: Path, mlxtune_run: Run) -> None:
    (tmp_path / "a.gguf").write_text("mine")

    result = mlxtune_run("export", run, "--to", "gguf", "--out", tmp_path / "a.gguf")

    assert result.code == 1
    assert "a.gguf: already exists; choose another --out, or replace it with --force" in result.err
    assert snapshot(tmp_path) == {"a.gguf": b"mine"}


@pytest.mark.parametrize("to", PLACES)
def test_a_run_without_an_adapter_is_refused(to: str, base: Path, tmp_path: Path, mlxtune_run: Run) -> None:
    run = adapter_run(tmp_path, base)
    for file in run.adapter.iterdir():
        file.unlink()

    result = mlxtune_run("export", run, "--to", to, "--out", tmp_path / "out")

    assert result.code == 1
    assert "has no adapter yet; its training did not reach a checkpoint" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", PLACES)
def test_another_base_than_the_adapters_is_refused(to: str, tmp_path: Path, mlxtune_run: Run) -> None:
    base = tiny_model(tmp_path / "base", "qwen3")
    run = adapter_run(tmp_path, base)
    tiny_model(base, "qwen3", seed=1)

    result = mlxtune_run("export", run, "--to", to, "--out", tmp_path / "out")

    assert result.code == 1
    assert "was trained on other weights than those in" in result.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, mlxtune_run: Run) -> None:
    write_recipe(tmp_path, tmp_path / "base")

    result = mlxtune_run("export", tmp_path, "--to", "peft")

    assert result.code == 1
    assert "run.json is missing" in result.err
