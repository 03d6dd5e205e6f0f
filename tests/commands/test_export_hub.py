"""`mlxtune export --to hub`: what it uploads to a Hub on 127.0.0.1, what it shows before, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends.adapter import read_adapter
from mlxtune.export.peft_adapter import read_peft
from mlxtune.runs.folder import RunFolder
from tests.adapter_runs import adapter_run
from tests.conftest import Run, snapshot
from tests.hub_server import Hub, Repository, hub_server

NAME = "alice/intent"
PEFT_FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "mlx/adapter_config.json",
    "mlx/adapters.safetensors",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server(monkeypatch, tmp_path) as server:
        server.log_in("alice")
        yield server


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose adapter is not zero."""
    return adapter_run(tmp_path_factory.mktemp("run"), base)


def held(repository: Repository) -> dict[str, bytes]:
    return {name: content for name, content in repository.files.items() if name != ".gitattributes"}


def test_a_run_arrives_as_both_adapters_with_its_card(
    hub: Hub, run: RunFolder, tmp_path: Path, mlxtune_run: Run
) -> None:
    before = snapshot(run.path)
    result = mlxtune_run("export", run, NAME, "--to", "hub")
    assert result.code == 0, result.err
    files = held(hub.repositories[NAME])
    assert set(files) == PEFT_FILES
    assert hub.repositories[NAME].private
    for name, content in files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    ours = read_adapter(run.adapter).weights
    for theirs in (read_peft(tmp_path / "got").adapter.weights, read_adapter(tmp_path / "got" / "mlx").weights):
        assert {name: value.tobytes() for name, value in theirs.items()} == {
            name: value.tobytes() for name, value in ours.items()
        }
    lines = result.out.splitlines()
    assert lines[0] == f"{hub.url}/{NAME}"
    assert {line.split()[0] for line in lines[1:6]} == PEFT_FILES
    assert lines[6] == 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "alice/intent")'
    assert "the repository is private" in result.err
    assert snapshot(run.path) == before


def test_nothing_that_arrives_names_a_place_of_this_machine(hub: Hub, run: RunFolder, mlxtune_run: Run) -> None:
    mlxtune_run("export", run, NAME, "--to", "hub")
    places = [str(run.path.parent).encode(), run.recipe().model.path.encode()]
    assert not [name for name, content in held(hub.repositories[NAME]).items() for place in places if place in content]


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["hf"], {"model.safetensors", "config.json", "tokenizer.json"}),
        (["mlx", "--quantize", "8", "--group-size", "32"], {"model.safetensors", "config.json", "tokenizer.json"}),
        (["gguf", "--type", "q8_0"], {"tiny-Q8_0.gguf"}),
        (["gguf-lora"], {"tiny-lora.gguf"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_each_format_arrives_with_its_options(
    words: list[str], files: set[str], hub: Hub, run: RunFolder, mlxtune_run: Run
) -> None:
    result = mlxtune_run("export", run, NAME, "--to", "hub", "--upload", *words)
    assert result.code == 0, result.err
    assert {*files, "README.md"} <= set(held(hub.repositories[NAME]))
    if "--quantize" in words:
        assert json.loads(hub.repositories[NAME].files["config.json"])["quantization"]["bits"] == 8


def test_a_dry_run_shows_files_and_card_and_needs_no_hub(
    run: RunFolder, mlxtune_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    before = snapshot(run.path)
    result = mlxtune_run("export", run, NAME, "--to", "hub", "--dry-run")
    assert result.code == 0, result.err
    files, _, card = result.out.partition("\n\n")
    assert {line.split()[0] for line in files.splitlines()} == PEFT_FILES
    assert card.startswith("---\n")
    assert "\n# intent\n" in card
    assert "nothing was uploaded" in result.err
    assert snapshot(run.path) == before


def test_the_card_that_a_dry_run_shows_is_the_one_that_arrives(hub: Hub, run: RunFolder, mlxtune_run: Run) -> None:
    shown = json.loads(mlxtune_run("export", run, NAME, "--to", "hub", "--dry-run", "--json").out)
    assert hub.repositories == {}
    done = json.loads(mlxtune_run("export", run, NAME, "--to", "hub", "--json").out)
    assert hub.repositories[NAME].files["README.md"].decode() == shown["card"]
    assert done["files"] == shown["files"] == {name: len(text) for name, text in held(hub.repositories[NAME]).items()}
    assert (done["url"], done["public"], done["unchanged"]) == (f"{hub.url}/{NAME}", False, False)


def test_the_same_command_again_changes_nothing(hub: Hub, run: RunFolder, mlxtune_run: Run) -> None:
    mlxtune_run("export", run, NAME, "--to", "hub")
    result = mlxtune_run("export", run, NAME, "--to", "hub")
    assert result.code == 0
    assert "held all of this already; there is no new commit" in result.err
    assert len(hub.repositories[NAME].commits) == 1


def test_a_repository_with_another_card_needs_force(hub: Hub, run: RunFolder, mlxtune_run: Run) -> None:
    hub.repositories[NAME] = Repository(True, {"README.md": b"mine"})
    result = mlxtune_run("export", run, NAME, "--to", "hub")
    assert result.code == 1
    assert "holds README.md with other content; replace with --force" in result.err
    assert hub.repositories[NAME].files == {"README.md": b"mine"}
    assert mlxtune_run("export", run, NAME, "--to", "hub", "--force").code == 0
    assert set(held(hub.repositories[NAME])) == PEFT_FILES


def test_an_upload_that_breaks_leaves_nothing_here_and_the_command_goes_on(
    hub: Hub, run: RunFolder, mlxtune_run: Run
) -> None:
    before = snapshot(run.path)
    hub.drop("commit", times=4)
    result = mlxtune_run("export", run, NAME, "--to", "hub")
    assert result.code == 1
    assert "the same command goes on" in result.err
    assert "Traceback" not in result.err
    assert snapshot(run.path) == before
    assert mlxtune_run("export", run, NAME, "--to", "hub").code == 0
    assert hub.sent("put") == 2


def test_without_a_token_nothing_is_made(
    hub: Hub, run: RunFolder, mlxtune_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    result = mlxtune_run("export", run, NAME, "--to", "hub")
    assert (result.code, result.out) == (1, "")
    assert "run `hf auth login`" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "hub"], "--to hub needs a repository: mlxtune export RUN OWNER/NAME --to hub"),
        (["intent", "--to", "hub"], "expected OWNER/NAME, a repository on the Hub, got 'intent'"),
        ([NAME, "--to", "hub", "--out", "x"], "--out cannot be used with --to hub"),
        ([NAME, "--to", "hub", "--type", "q8_0"], "--type is an option of gguf and ollama, not of peft"),
        ([NAME, "--to", "hub", "--upload", "gguf", "--base"], "--base leaves the adapter out"),
        ([NAME, "--to", "peft"], "only --to hub takes a repository; did you mean --out alice/intent?"),
        (["--to", "peft", "--upload", "hf"], "--upload is an option of hub, not of peft"),
        (["--to", "peft", "--public"], "--public is an option of hub, not of peft"),
        (["--to", "peft", "--dry-run"], "--dry-run is an option of hub, not of peft"),
    ],
)
def test_what_makes_no_sense_is_misuse(words: list[str], said: str, run: RunFolder, mlxtune_run: Run) -> None:
    before = snapshot(run.path)
    result = mlxtune_run("export", run, *words)
    assert result.code == 2, result.err
    assert said in result.err
    assert snapshot(run.path) == before
