"""A run that trains all weights (lora.type: full): its files, resuming, and every command that takes a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlxtune.models import gguf
from mlxtune.models.gguf_file import read_value
from mlxtune.recipe.load import load_recipe
from mlxtune.training.checkpoints import CHECKPOINT_BYTES
from tests.adapted import backend_named
from tests.adapter_runs import hugging_face_model, our_logits, torch_logits
from tests.conftest import Run, chosen, snapshot, write_recipe
from tests.tiny import tiny_model


def recipe_of(folder: Path, base: Path, **sections: Any) -> Path:
    """The small intent recipe, trained whole: three steps of which the second epoch's are better."""
    import yaml

    file = write_recipe(folder, base, **sections)
    content = yaml.safe_load(file.read_text())
    content["lora"] = {"type": "full"}
    content["train"] = {
        "epochs": 2,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "learning_rate": 1e-3,
        **sections.get("train", {}),
    }
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a float16 base, trained by the command line."""
    import subprocess
    import sys

    from mlxtune.backends.base import ConvertSpec

    root = tmp_path_factory.mktemp("full")
    base = chosen().backend.convert(tiny_model(root / "plain", "qwen2"), root / "base", ConvertSpec(dtype="float16"))
    recipe = recipe_of(root / "recipe", base.folder)
    command = [sys.executable, "-m", "mlxtune", "lora", str(recipe), "--out", str(root / "run")]
    subprocess.run(command, check=True, capture_output=True)
    return root / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def info_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "run.json").read_text()))


def test_a_run_holds_a_float32_model_that_shares_its_checkpoints_file(trained: Path) -> None:
    weights = trained / "model" / "model.safetensors"
    (last,) = (trained / "checkpoints").glob("step-*")
    assert weights.samefile(last / "weights.safetensors") and not (trained / "adapter").exists()
    base = load_file(trained.parent / "base" / "model.safetensors")
    after = load_file(weights)
    assert after.keys() == base.keys() and all(value.dtype == np.float32 for value in after.values())
    assert all(np.abs(value - base[name]).max() > 1e-4 for name, value in after.items())
    assert json.loads((trained / "model" / "config.json").read_text())["torch_dtype"] == "float32"
    info, n_parameters = info_of(trained), sum(value.size for value in after.values())
    assert info["trainable_parameters"] == info["parameters"] == n_parameters
    files = [last / "weights.safetensors", last / "optimizer.safetensors"]
    assert sum(file.stat().st_size for file in files) == pytest.approx(n_parameters * CHECKPOINT_BYTES, rel=0.05)


def test_transformers_loads_the_model_and_both_backends_compute_the_same(trained: Path) -> None:
    theirs = torch_logits(hugging_face_model(trained / "model"))
    before = torch_logits(hugging_face_model(trained.parent / "base"))
    assert np.abs(theirs - before).max() > 0.1
    for name in ("mlx", "torch"):
        np.testing.assert_allclose(our_logits(backend_named(name), trained / "model"), theirs, atol=1e-4)


def test_a_resumed_run_is_bit_identical(trained: Path, tmp_path: Path, mlxtune_run: Run) -> None:
    recipe = trained.parent / "recipe" / "recipe.yaml"
    out = tmp_path / "again"
    assert mlxtune_run("lora", recipe, "--out", out, "--set", "train.max_steps=1").code == 0
    assert mlxtune_run("lora", recipe, "--resume", out).code == 0
    for file in ("model/model.safetensors", "checkpoints/step-000004/optimizer.safetensors"):
        assert (out / file).read_bytes() == (trained / file).read_bytes()


def test_the_best_model_is_the_runs_where_the_recipe_says_so(trained: Path, tmp_path: Path, mlxtune_run: Run) -> None:
    """The rate is too high from the second validation on."""
    recipe = recipe_of(
        tmp_path / "recipe",
        trained.parent / "base",
        train={
            "epochs": 4, "learning_rate": 0.1, "schedule": "constant", "warmup_ratio": 0.9, "evaluate_every": 1, "load_best": True,
            "early_stopping": {"patience": 2},
        },
    )  # fmt: skip
    out = tmp_path / "run"
    assert mlxtune_run("lora", recipe, "--out", out).code == 0
    info = info_of(out)
    best = info["best"]["step"]
    assert info["adapter_step"] == best < info["step"] and info["stopped"]
    kept = {path.name for path in (out / "checkpoints").glob("step-*")}
    assert kept == {f"step-{best:06}", f"step-{info['step']:06}"}
    assert (out / "model" / "model.safetensors").samefile(
        out / "checkpoints" / f"step-{best:06}" / "weights.safetensors"
    )


def test_another_run_starts_from_its_model(trained: Path, tmp_path: Path, mlxtune_run: Run) -> None:
    recipe, out = trained.parent / "recipe" / "recipe.yaml", tmp_path / "second"
    result = mlxtune_run("lora", recipe, "--from", trained, "--out", out, "--set", "train.learning_rate=1e-12")
    assert result.code == 0
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (trained, out))
    assert max(np.abs(after[name] - value).max() for name, value in before.items()) < 1e-6
    lora = write_recipe(tmp_path / "lora", trained.parent / "base")
    refused = mlxtune_run("lora", lora, "--from", trained, "--out", tmp_path / "third")
    assert refused.code == 1 and f"--set model.path={trained / 'model'}" in refused.err
    assert mlxtune_run("lora", lora, "--out", tmp_path / "adapted").code == 0
    refused = mlxtune_run("lora", recipe, "--from", tmp_path / "adapted", "--out", tmp_path / "fourth")
    assert refused.code == 1 and "has an adapter, and this recipe trains all weights" in refused.err


def test_commands_that_ask_a_run_ask_its_model(run: Path, mlxtune_run: Run) -> None:
    assert mlxtune_run("evaluate", run).code == 0
    assert mlxtune_run("evaluate", run, "--base").code == 0
    scores = json.loads((run / "evaluation" / "tuned" / "scores.json").read_text())
    untuned = json.loads((run / "evaluation" / "base" / "scores.json").read_text())
    assert scores["adapter"]["file"].endswith("model/model.safetensors") and untuned["adapter"] is None
    predicted = mlxtune_run("predict", run, "pay the bill")
    assert predicted.code == 0 and predicted.out.strip()
    compared = mlxtune_run("compare", run, run / "evaluation" / "base")
    assert compared.code == 0
    assert mlxtune_run("report", run).code == 0 and "full fine-tuning" in (run / "report.html").read_text()
    assert "finished" in mlxtune_run("runs", "list", run.parent).out
    refused = mlxtune_run("evaluate", run, "--set", "model.path=other")
    assert refused.code == 1 and "was trained whole" in refused.err


def test_its_exports_are_the_model_in_the_bases_own_type(run: Path, mlxtune_run: Run) -> None:
    assert mlxtune_run("export", run, "--to", "hf").code == 0
    weights, exported = (load_file(folder / "model.safetensors") for folder in (run / "model", run / "exports" / "hf"))
    assert exported.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(exported[name], value.astype(np.float16), err_msg=name)
    assert mlxtune_run("export", run, "--to", "mlx", "--dtype", "float32").code == 0
    exact = load_file(run / "exports" / "mlx" / "model.safetensors")
    for name, value in weights.items():
        np.testing.assert_array_equal(exact[name], value, err_msg=name)
    assert mlxtune_run("export", run, "--to", "gguf", "--type", "f32").code == 0
    (file,) = (run / "exports").glob("*-F32.gguf")
    for name, value in dict(gguf.tensors(file)).items():
        np.testing.assert_array_equal(value, weights[name], err_msg=name)
    assert read_value(file, "general.name") == "tiny"
    assert mlxtune_run("export", run, "--to", "ollama").code == 0
    assert (run / "exports" / "ollama" / "Modelfile").is_file()


def test_what_holds_an_adapter_alone_is_refused_by_name(run: Path, mlxtune_run: Run) -> None:
    for words in (("--to", "peft"), ("--to", "gguf-lora"), ("--to", "ollama", "--adapter-only", "x")):
        refused = mlxtune_run("export", run, *words)
        assert refused.code == 1 and "was trained whole (lora.type: full), so it has no adapter" in refused.err
    refused = mlxtune_run("fuse", run)
    assert refused.code == 1 and f"its model is {run / 'model'}, in float32" in refused.err
    assert not (run / "fused").exists() and not (run / "exports").exists()


def test_verify_asks_its_exports(run: Path, mlxtune_run: Run) -> None:
    result = mlxtune_run("verify", run, "--artifacts", "fused,gguf,peft", "--limit", "2", "--json")
    found = json.loads(result.out)
    assert found["artifacts"].keys() >= {"fused", "gguf"}
    assert "has no adapter" in found["failed"]["peft"] and result.code == 1
    differences = [found["artifacts"][name]["largest_logit_difference"] for name in ("fused", "gguf")]
    assert all(0 < value < 0.1 for value in differences)  # float16's rounding


def test_a_plan_states_memory_and_disk(trained: Path, tmp_path: Path, mlxtune_run: Run) -> None:
    recipe = trained.parent / "recipe" / "recipe.yaml"
    before = snapshot(tmp_path)
    plan = json.loads(mlxtune_run("lora", recipe, "--plan", "--probe", "--json").out)
    n_parameters = plan["total_parameters"]
    assert plan["trainable_parameters"] == n_parameters and plan["probe"]["peak_memory_gb"] > 0
    assert plan["disk_gb"] == round(3 * CHECKPOINT_BYTES * n_parameters / 1e9, 3)
    assert plan["memory_gb"]["gradients and optimizer"] >= 3 * 4 * n_parameters / 1e9 - 1e-3
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lora.rank=8"], "lora.rank: it means nothing where lora.type is full"),
        (["model.quantize={bits: 4, group_size: 32}"], "model.quantize: lora.type: full trains the weights"),
        (["model.dtype=bfloat16"], "model.dtype: lora.type: full computes in float32"),
    ],
)
def test_keys_that_mean_nothing_are_refused(
    settings: list[str], message: str, trained: Path, tmp_path: Path, mlxtune_run: Run
) -> None:
    recipe = trained.parent / "recipe" / "recipe.yaml"
    sets = [word for one in settings for word in ("--set", one)]
    result = mlxtune_run("lora", recipe, "--out", tmp_path / "run", *sets)
    assert result.code != 0 and message in result.err and not (tmp_path / "run").exists()


def test_a_quantized_base_is_refused_before_training(tmp_path: Path, mlxtune_run: Run) -> None:
    packed = tiny_model(tmp_path / "packed", "qwen2", quantization={"bits": 4, "group_size": 32})
    recipe = recipe_of(tmp_path / "recipe", packed)
    for words in ((), ("--plan",)):
        result = mlxtune_run("lora", recipe, "--out", tmp_path / "run", *words)
        assert result.code == 1 and "is quantized, and quantized weights cannot be trained" in result.err
    assert not (tmp_path / "run").exists()


def test_full_and_dora_of_experts_are_refused_before_training(tmp_path: Path, mlxtune_run: Run) -> None:
    base = tiny_model(tmp_path / "experts", "qwen3_moe")
    whole, adapted = recipe_of(tmp_path / "whole", base), write_recipe(tmp_path / "adapted", base)
    dora = ("--set", "lora.type=dora")
    for words in ((), ("--plan",)):
        result = mlxtune_run("lora", whole, "--out", tmp_path / "run", *words)
        assert result.code == 1 and "has experts, which are not trained whole (lora.type: full)" in result.err
        result = mlxtune_run("lora", adapted, "--out", tmp_path / "run", *dora, "--set", "lora.targets=all", *words)
        assert result.code == 1 and "lora.type: dora adapts no layers of experts" in result.err
    assert not (tmp_path / "run").exists()
    assert mlxtune_run("lora", adapted, *dora, "--set", "lora.targets=attention", "--plan").code == 0


def test_a_resolved_recipe_says_the_type_alone_and_loads_again(trained: Path) -> None:
    recipe = load_recipe(trained / "recipe.yaml")
    assert recipe.lora.is_full and recipe.model_dump(mode="json")["lora"] == {"type": "full"}
