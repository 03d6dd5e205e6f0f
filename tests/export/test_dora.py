"""What becomes of DoRA adapters: PEFT and mlx-lm read ours and we theirs, a GGUF holds the folded weights, and LoRA files refuse it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlxtune.backends.adapter import read_adapter
from mlxtune.errors import ExportError
from mlxtune.export.fuse import fuse_run
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.import_adapter import ImportedRun, import_adapter
from mlxtune.export.import_source import AdapterSource, find_source
from mlxtune.export.ollama import export_ollama
from mlxtune.export.peft_adapter import export_peft, read_peft
from mlxtune.export.source import open_source
from mlxtune.models import gguf
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.adapted import BACKENDS, assert_equal, backend_named
from tests.adapter_runs import IDS, adapter_run, config_of, hugging_face_model, our_logits, torch_logits
from tests.conftest import Run, chosen, write_recipe
from tests.tiny import tiny_model

DORA = {"type": "dora", "rank": 3, "alpha": 7, "dropout": 0.1}


def imported(source: Path, recipe: Recipe, out: Path) -> ImportedRun:
    found = find_source(source)
    assert isinstance(found, AdapterSource)
    return import_adapter(found, recipe, chosen().backend, out)


def test_peft_computes_the_runs_logits_and_gives_the_adapter_back(any_base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    run = adapter_run(tmp_path, any_base, lora=DORA)
    folder = export_peft(open_source(run, chosen().backend), tmp_path / "peft").path
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["use_dora"] is True and config["lora_alpha"] == 7
    network = hugging_face_model(any_base)
    plain = torch_logits(network)
    theirs = torch_logits(peft.PeftModel.from_pretrained(network, folder).eval())
    assert np.abs(theirs - plain).max() > 0.1
    for name in BACKENDS:
        np.testing.assert_allclose(our_logits(backend_named(name), any_base, run.adapter), theirs, atol=1e-4)
    before, after = read_adapter(run.adapter), read_peft(folder).adapter
    assert_equal(after.weights, before.weights)
    assert (after.spec.kind, after.spec.scale, after.spec.dropout) == ("dora", before.spec.scale, 0.1)


def test_an_adapter_of_pefts_becomes_a_run_with_its_logits(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=5,
        target_modules=["q_proj", "up_proj"],
        use_dora=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(hugging_face_model(base), config)
    for name, value in model.named_parameters():
        if "magnitude" in name:
            value.data *= 1 + 0.2 * torch.randn(value.shape)
    model.save_pretrained(tmp_path / "theirs")
    made = imported(tmp_path / "theirs", recipe, tmp_path / "run")
    assert (made.recipe.lora.type, made.recipe.lora.targets) == ("dora", ["q_proj", "up_proj"])
    np.testing.assert_allclose(
        our_logits(chosen().backend, base, made.run.adapter), torch_logits(model.eval()), atol=1e-4
    )


def test_an_adapter_of_mlx_lms_becomes_a_run_with_its_logits(base: Path, tmp_path: Path, recipe: Recipe) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model, save_config

    network, _ = load_model(base)
    network.freeze()
    said = {"rank": 2, "scale": 3.0, "dropout": 0.0}
    linear_to_lora_layers(network, 1, said, use_dora=True)
    network.unfreeze(keys=["m"])
    mx.random.seed(0)
    network.update(tree_map(lambda v: v + 0.1 * mx.random.normal(v.shape), network.trainable_parameters()))
    (tmp_path / "theirs").mkdir()
    mx.save_safetensors(
        str(tmp_path / "theirs" / "adapters.safetensors"), dict(tree_flatten(network.trainable_parameters()))
    )
    config = {"fine_tune_type": "dora", "num_layers": 1, "lora_parameters": said, "model": str(base)}
    save_config(config, tmp_path / "theirs" / "adapter_config.json")
    made = imported(tmp_path / "theirs", recipe, tmp_path / "run")
    assert (made.recipe.lora.type, made.recipe.lora.layers) == ("dora", 1)
    expected = np.array(network(mx.array([IDS]))[0])
    np.testing.assert_allclose(our_logits(chosen().backend, base, made.run.adapter), expected, atol=1e-4)


def folded(base: Path, adapter: Path) -> dict[str, NDArray[Any]]:
    """The weights with the adapter folded in, computed in float64 and apart from our code."""
    weights, found = load_file(base / "model.safetensors"), read_adapter(adapter)
    for layer in found.spec.layers:
        a, b = (found.weights[f"{layer}.lora_{factor}"].astype(np.float64) for factor in "AB")
        weight = weights[f"{layer}.weight"] + found.spec.scale * b @ a
        lengths = np.sqrt((weight**2).sum(1))
        weights[f"{layer}.weight"] = weight * (found.weights[f"{layer}.magnitude"] / lengths)[:, None]
    return weights


@pytest.mark.parametrize("family", ["qwen2", "llama"])  # llama's q and k have their rows reordered
def test_a_gguf_holds_the_folded_weights(tmp_path: Path, family: str) -> None:
    base = tiny_model(tmp_path / "base", family)
    run = adapter_run(tmp_path, base, lora=DORA)
    export_gguf(open_source(run, chosen().backend), tmp_path / "out.gguf", "f32")
    got, expected = dict(gguf.tensors(tmp_path / "out.gguf")), folded(base, run.adapter)
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(got[name], weight, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", BACKENDS)
def test_fusing_is_proved_and_writes_the_folded_weights(name: str, base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, lora=DORA)
    fused = fuse_run(run, backend_named(name), tmp_path / "fused")
    assert fused.proof.effect > 0.1 and fused.proof.difference < 1e-4
    got, expected = load_file(tmp_path / "fused" / "model.safetensors"), folded(base, run.adapter)
    for one, weight in expected.items():
        np.testing.assert_allclose(got[one], weight, atol=1e-6, err_msg=one)


def test_lora_files_of_llama_cpp_refuse_it_by_name(base: Path, tmp_path: Path) -> None:
    source = open_source(adapter_run(tmp_path, base, lora=DORA), chosen().backend)
    for write in (
        lambda: export_gguf_lora(source, tmp_path / "lora.gguf"),
        lambda: export_ollama(source, tmp_path / "ollama", "f16", adapter_only="qwen3:0.6b"),
    ):
        with pytest.raises(ExportError, match=r"its adapter is DoRA, .* write the fused model with --to gguf"):
            write()
    assert not (tmp_path / "lora.gguf").exists() and not (tmp_path / "ollama").exists()


def test_a_run_trains_is_evaluated_and_starts_another(mlxtune_run: Run, base: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", base, lora={**DORA, "dropout": 0.0})
    first, second = tmp_path / "first", tmp_path / "second"
    assert mlxtune_run("lora", recipe, "--out", first).code == 0
    config = config_of(base)
    adapter = read_adapter(first / "adapter")
    assert json.loads((first / "adapter" / "adapter_config.json").read_text())["fine_tune_type"] == "dora"
    assert sum(value.ndim == 1 for value in adapter.weights.values()) == 7 * config["num_hidden_layers"]
    n_trained = json.loads((first / "run.json").read_text())["trainable_parameters"]
    assert n_trained == sum(value.size for value in adapter.weights.values())
    assert mlxtune_run("lora", recipe, "--from", first, "--out", second).code == 0
    assert mlxtune_run("evaluate", second).code == 0
    other = write_recipe(tmp_path / "other", base, lora={**DORA, "type": "lora"})
    result = mlxtune_run("lora", other, "--from", first, "--out", tmp_path / "third")
    assert result.code == 1 and "its lora.type is dora, the recipe's lora" in result.err
    assert load_recipe(second / "recipe.yaml").lora.type == "dora"
