"""`mlxtune import` as its users meet it: what it prints, how it exits, and that the other commands take what it made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlxtune.export.peft_adapter import export_peft
from mlxtune.export.source import open_source
from tests.adapted import backend_named
from tests.adapter_runs import adapter_run
from tests.conftest import ROWS, Run, snapshot, write_rows


@pytest.fixture
def place(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a run `run` of recipe/recipe.yaml, its adapter as mlx-lm's `adapters` and as PEFT's `peft`."""
    monkeypatch.chdir(tmp_path)
    run = adapter_run(tmp_path, base)
    shutil.copytree(run.adapter, tmp_path / "adapters")
    export_peft(open_source(run, backend_named("mlx")), tmp_path / "peft")
    return tmp_path


def test_an_adapter_becomes_a_run_and_says_what_is_next(place: Path, mlxtune: Run) -> None:
    made = mlxtune("import", "adapters", "--recipe", "recipe/recipe.yaml", "--out", "theirs")
    assert made.code == 0, made.err
    first, *rest = made.out.splitlines()
    assert first.startswith("mlx-lm adapter: ") and first.endswith("rank 4, alpha 8, scale 2")
    assert rest == ["run: theirs", "next: mlxtune evaluate theirs"]
    assert made.err == ""


def test_an_imported_run_lies_among_the_recipes_runs(place: Path, mlxtune: Run) -> None:
    made = json.loads(mlxtune("import", "peft", "--recipe", "recipe/recipe.yaml", "--json").out)
    assert Path(made["run"]).parent == Path("runs/tiny")
    listed = mlxtune("runs", "--json").out
    assert made["run"] in listed and '"backend": "peft"' in listed


def test_set_and_a_run_stand_for_a_recipe(place: Path, mlxtune: Run) -> None:
    made = mlxtune("import", "adapters", "--recipe", "run", "--set", "evaluate.max_new_tokens=7", "--out", "theirs")
    assert made.code == 0, made.err
    assert "max_new_tokens: 7" in Path("theirs/recipe.yaml").read_text()


@pytest.mark.parametrize("source", ["adapters", "peft"])
def test_an_imported_run_evaluates_as_the_run_that_it_came_from(source: str, place: Path, mlxtune: Run) -> None:
    assert mlxtune("import", source, "--recipe", "recipe/recipe.yaml", "--out", "theirs").code == 0
    for run in ("run", "theirs"):
        done = mlxtune("evaluate", run)
        assert done.code == 0, done.err
    replies = [Path(run, "evaluation/tuned/predictions.jsonl").read_bytes() for run in ("run", "theirs")]
    assert replies[0] == replies[1] and len(replies[0].splitlines()) == len(ROWS)
    compared = mlxtune("compare", "run", "theirs")
    assert compared.code == 0, compared.err
    fused = mlxtune("fuse", "theirs", "--json")
    assert fused.code == 0, fused.err
    assert json.loads(fused.out)["adapter_effect"] > 0.1
    exported = mlxtune("export", "theirs", "--to", "peft", "--out", "again")
    assert exported.code == 0, exported.err
    weights = [Path(folder, "adapter_model.safetensors").read_bytes() for folder in ("peft", "again")]
    assert weights[0] == weights[1]


def test_an_imported_run_is_verified(place: Path, mlxtune: Run) -> None:
    assert mlxtune("import", "peft", "--recipe", "recipe/recipe.yaml", "--out", "theirs").code == 0
    verified = mlxtune("verify", "theirs", "--artifacts", "fused,peft")
    assert verified.code == 0, verified.err + verified.out


def test_an_imported_run_is_no_training_to_go_on_with(place: Path, mlxtune: Run) -> None:
    mlxtune("import", "adapters", "--recipe", "recipe/recipe.yaml", "--out", "theirs")
    before = snapshot(Path("theirs"))
    refused = mlxtune("lora", "theirs", "--resume")
    assert refused.code == 1 and refused.out == ""
    assert "its adapter was imported, so it has no checkpoint" in refused.err
    assert "mlxtune lora theirs/recipe.yaml --from theirs" in refused.err
    assert snapshot(Path("theirs")) == before


def test_a_training_begins_from_an_imported_adapter(place: Path, mlxtune: Run) -> None:
    mlxtune("import", "adapters", "--recipe", "recipe/recipe.yaml", "--out", "theirs")
    again = mlxtune("lora", "theirs/recipe.yaml", "--from", "theirs", "--out", "more", "--set", "train.max_steps=1")
    assert again.code == 0, again.err


def test_a_config_becomes_a_recipe_that_data_and_lora_take(place: Path, base: Path, mlxtune: Run) -> None:
    Path("rows").mkdir()
    for split in ("train", "valid", "test"):
        turns = [
            [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": ", ".join(row["intents"])}]
            for row in ROWS
        ]
        write_rows(Path("rows") / f"{split}.jsonl", [{"messages": turn} for turn in turns])
    Path("lora_config.yaml").write_text(f"model: {base}\ndata: rows\niters: 2\nbatch_size: 2\nmask_prompt: true\n")
    made = mlxtune("import", "lora_config.yaml")
    assert made.code == 0, made.err
    assert made.out.splitlines() == ["recipe: lora.yaml", "next: mlxtune data lora.yaml"]
    assert "lora_parameters.scale: 20 at rank 8 is alpha 160" in made.err.splitlines()
    for words in (("data", "lora.yaml"), ("lora", "lora.yaml", "--out", "ours"), ("evaluate", "ours")):
        done = mlxtune(*words)
        assert done.code == 0, done.err
    again = mlxtune("import", "lora_config.yaml")
    assert again.code == 1 and "lora.yaml: already exists" in again.err


def test_json_says_what_was_written(place: Path, mlxtune: Run) -> None:
    write_rows(Path("recipe/train.jsonl"), [{"prompt": "a", "completion": "b"}])
    for split in ("valid", "test"):
        Path(f"recipe/{split}.jsonl").unlink()
    made = json.loads(mlxtune("import", "recipe", "--out", "new.yaml", "--json").out)
    assert made["recipe"] == "new.yaml"
    assert [key for key, _ in made["notes"]] == ["model", "mask_prompt"]


MISUSE = {
    "an adapter without a recipe": (("import", "adapters"), "say with --recipe RECIPE"),
    "a recipe for a config": (("import", "lora_config.yaml", "--recipe", "recipe/recipe.yaml"), "--recipe goes with an adapter"),
    "--set for a config": (("import", "lora_config.yaml", "--set", "a=1"), "--set goes with an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_exits_with_2_and_writes_nothing(name: str, place: Path, mlxtune: Run) -> None:
    words, message = MISUSE[name]
    Path("lora_config.yaml").write_text("model: x\n")
    before = snapshot(place)
    done = mlxtune(*words)
    assert done.code == 2 and done.out == "" and message in done.err
    assert snapshot(place) == before


@pytest.mark.parametrize("source", ["none", "run", "recipe/recipe.yaml"])
def test_what_cannot_be_imported_exits_with_1_in_one_message(source: str, place: Path, mlxtune: Run) -> None:
    done = mlxtune("import", source, "--recipe", "recipe/recipe.yaml")
    assert done.code == 1 and done.out == ""
    assert done.err.startswith(f"Error: {source}: ") and len(done.err.splitlines()) == 1
