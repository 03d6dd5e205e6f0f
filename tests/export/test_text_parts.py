"""Runs on multimodal models: what they export is of the text part, and adapters name its layers as the whole base model has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import read_adapter
from mlxtune.errors import AdapterError, ExportError
from mlxtune.export.card_usage import HubArtifact, load_line, usage_lines
from mlxtune.export.fused_folder import export_hf, export_mlx
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.import_adapter import import_adapter
from mlxtune.export.import_source import AdapterSource, find_source
from mlxtune.export.peft_adapter import export_peft, read_peft
from mlxtune.export.source import open_source
from mlxtune.files import read_safetensors, write_safetensors
from mlxtune.models.gguf_config import read_config as read_gguf_config
from mlxtune.models.source import read_config
from mlxtune.recipe.load import load_recipe
from mlxtune.training.tune import tune
from tests.adapted import backend_named
from tests.adapter_runs import adapter_run, hugging_face_model, our_logits, torch_logits
from tests.architectures import lora_layers
from tests.conftest import chosen, write_recipe
from tests.export.exporting import source_of
from tests.multimodal import PLAIN, tiny_multimodal


def whole_model(folder: Path) -> Any:
    """The multimodal network of transformers that a PEFT user loads."""
    import torch
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("part", ["all", "last block", "some of each block"])
def test_peft_puts_what_was_exported_onto_the_whole_model_and_it_comes_back(
    tmp_path: Path, family: str, part: str
) -> None:
    pytest.importorskip("peft")
    from peft import PeftModel

    base, backend = tiny_multimodal(tmp_path / "base", family), chosen().backend
    layers = lora_layers(read_config(base), "all", 1 if part == "last block" else "all")
    run = adapter_run(tmp_path, base, layers[::3] if part.startswith("some") else layers)
    source = open_source(run, backend)
    exported = export_peft(source, tmp_path / "peft")
    network = PeftModel.from_pretrained(whole_model(tmp_path / "base"), str(exported.path)).eval()
    adapted = {name for name, _ in network.named_modules() if name.endswith(".lora_A.default")}
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in adapted)
    assert len(adapted) == len(source.trained.spec.layers)
    expected = our_logits(chosen().backend, source.base, source.run.adapter)
    np.testing.assert_allclose(torch_logits(network), expected, atol=1e-4)
    assert np.abs(expected - our_logits(chosen().backend, source.base)).max() > 1e-2
    assert "AutoModelForImageTextToText.from_pretrained" in exported.load
    read = read_peft(exported.path).adapter
    assert set(read.spec.layers) == set(source.trained.spec.layers)
    for name, value in source.trained.weights.items():
        np.testing.assert_array_equal(read.weights[name], value)


@pytest.mark.parametrize("name", ["hf", "mlx"])
@pytest.mark.parametrize("family", PLAIN)
def test_fused_folders_are_text_models_and_say_so(tmp_path: Path, family: str, name: str) -> None:
    source = source_of(tmp_path, tiny_multimodal(tmp_path / "base", family))
    export = export_hf if name == "hf" else export_mlx
    exported = export(source, chosen().backend, tmp_path / "out")
    assert any("reads no images" in note for note in exported.notes)
    expected = our_logits(chosen().backend, source.base, source.run.adapter)
    pytest.importorskip("torch")
    np.testing.assert_allclose(torch_logits(hugging_face_model(tmp_path / "out")), expected, atol=1e-4)


@pytest.mark.parametrize("family", PLAIN)
def test_mlx_lm_puts_a_runs_adapter_onto_the_whole_model(tmp_path: Path, family: str) -> None:
    backend = backend_named("mlx")
    import mlx.core as mx
    from mlx_lm.utils import load

    base = tiny_multimodal(tmp_path / "base", family, "mlx-lm")
    recipe = load_recipe(write_recipe(tmp_path / "recipe", base, train={"max_steps": 1, "learning_rate": 0.1}))
    run = tune(recipe, chosen(), tmp_path / "run").run
    stored = read_safetensors(run.adapter / "adapters.safetensors")
    assert all(name.startswith("language_model.model.layers.") for name in stored) and stored
    assert read_adapter(run.adapter).is_nested
    network = load(str(base), adapter_path=str(run.adapter))[0]
    ids = [5, 17, 256, 300, 41, 42, 43, 7, 380]
    expected = backend.load(base, run.adapter).logits(ids)
    np.testing.assert_allclose(np.array(network(mx.array([ids]))[0]), expected, atol=1e-4)
    assert np.abs(expected - backend.load(base).logits(ids)).max() > 1e-2
    assert open_source(run, chosen().backend).is_nested


def test_a_run_on_the_quantized_text_part_has_the_names_of_the_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    base = tiny_multimodal(tmp_path / "base", "qwen3_vl")
    model = {"quantize": {"bits": 4, "group_size": 32}}
    recipe = load_recipe(write_recipe(tmp_path / "recipe", base, model=model, train={"max_steps": 1}))
    run = tune(recipe, chosen(), tmp_path / "run").run
    assert read_adapter(run.adapter).is_nested
    source = open_source(run, chosen().backend)
    assert source.config["quantization"]["bits"] == 4 and source.config["model_type"] == "qwen3"
    stored = read_safetensors(export_peft(source, tmp_path / "peft").path / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in stored) and stored


@pytest.mark.parametrize("form", ["peft", "mlx-lm"])
def test_an_adapter_of_the_whole_model_becomes_a_run_with_mlx_lms_names(tmp_path: Path, form: str) -> None:
    base = tiny_multimodal(tmp_path / "base", "qwen3_vl")
    source = source_of(tmp_path, base)
    folder = export_peft(source, tmp_path / "peft").path
    recipe = load_recipe(write_recipe(tmp_path / "recipe", base))
    first = import_adapter(_adapter(folder), recipe, chosen().backend, tmp_path / "first").run
    if form == "mlx-lm":
        first = import_adapter(_adapter(first.adapter), recipe, chosen().backend, tmp_path / "second").run
    assert read_adapter(first.adapter).is_nested
    found = our_logits(chosen().backend, base, first.adapter)
    np.testing.assert_allclose(found, our_logits(chosen().backend, base, source.run.adapter), atol=1e-5)


def test_an_adapter_of_the_vision_part_is_refused(tmp_path: Path) -> None:
    base = tiny_multimodal(tmp_path / "base", "gemma3")
    source = source_of(tmp_path, base)
    folder = export_peft(source, tmp_path / "peft").path
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    layer = "model.vision_tower.encoder.layers.0.self_attn.q_proj"
    for factor, shape in (("A", (3, 8)), ("B", (8, 3))):
        tensors[f"base_model.model.{layer}.lora_{factor}.weight"] = np.ones(shape, np.float32)
    write_safetensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": "all-linear"}))
    with pytest.raises(AdapterError, match=rf"has an update of {layer}.*not of the text part"):
        read_peft(folder)
    stored = read_safetensors(source.run.adapter / "adapters.safetensors")
    stored["vision_tower.encoder.layers.0.self_attn.q_proj.lora_a"] = np.ones((8, 3), np.float32)
    write_safetensors(source.run.adapter / "adapters.safetensors", stored, {"format": "mlx"})
    with pytest.raises(AdapterError, match=r"adapts vision_tower\..*not of the text part"):
        read_adapter(source.run.adapter)


def test_a_gguf_is_of_the_text_family_or_refused_by_its_name(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_multimodal(tmp_path / "base", "qwen2_5_vl"))
    exported = export_gguf(source, tmp_path / "out.gguf", "f32")
    assert read_gguf_config(exported.path)["model_type"] == "qwen2"
    note = export_gguf_lora(source, tmp_path / "lora.gguf").notes[0]
    assert "--to gguf --base" in note and "of another architecture" in note
    gemma = source_of(tmp_path / "gemma", tiny_multimodal(tmp_path / "gemma" / "base", "gemma3"))
    with pytest.raises(ExportError, match=r"'gemma3_text' with .* cannot be written as a GGUF"):
        export_gguf(gemma, tmp_path / "gemma.gguf")


def test_a_card_loads_the_whole_model_under_an_adapter(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path / "recipe", tmp_path))
    artifact = HubArtifact("peft", is_nested=True)
    assert "AutoModelForImageTextToText.from_pretrained(" in load_line(artifact, recipe, "alice/tickets")
    code = "\n".join(usage_lines(artifact, recipe, "alice/tickets", None))
    assert "import AutoModelForImageTextToText, AutoTokenizer" in code and "AutoModelForCausalLM" not in code


def _adapter(folder: Path) -> AdapterSource:
    found = find_source(folder)
    assert isinstance(found, AdapterSource)
    return found
