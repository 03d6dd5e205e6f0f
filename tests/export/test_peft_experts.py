"""Experts' layers in PEFT's adapters: PEFT computes the same from ours, and we from what PEFT trained; gradients are PEFT's."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.adapter import Adapter, read_adapter, write_adapter
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.errors import AdapterError, ExportError
from mlxtune.export.import_adapter import lora_section
from mlxtune.export.peft_adapter import export_peft, read_peft
from mlxtune.export.peft_experts import layers_of
from mlxtune.export.source import open_source
from tests.adapted import assert_close, assert_equal, backend_named, examples_of, gradient_of, loss_by_row
from tests.adapter_runs import adapter_run, hugging_face_model, our_logits, torch_logits
from tests.conftest import chosen
from tests.export.exporting import source_of
from tests.tiny import N_EXPERTS, tiny_model

peft = pytest.importorskip("peft")


def in_peft(base: Path, folder: Path, **options: Any) -> Any:
    """An adapter folder on its base, in PEFT."""
    return peft.PeftModel.from_pretrained(hugging_face_model(base), str(folder), **options).eval()


@pytest.mark.parametrize(
    ("family", "lora"),
    [
        ("qwen3_moe", {"targets": "experts"}),
        ("qwen3_moe", {"targets": ["q_proj", "up_proj"], "rslora": True}),
        ("qwen3_moe-mixed", {"targets": "mlp", "dropout": 0.1}),
        ("qwen3_moe-mixed", {"targets": "attention"}),
        ("qwen3_moe-mixed", {"targets": "all", "layers": 1}),
    ],
)
def test_peft_computes_the_same_and_it_comes_back(tmp_path: Path, family: str, lora: dict[str, Any]) -> None:
    base = tiny_model(tmp_path / "base", family)
    run = adapter_run(tmp_path, base, lora=lora)
    source = open_source(run, chosen().backend)
    done = export_peft(source, tmp_path / "peft")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        theirs = torch_logits(in_peft(base, done.path))
    is_said = any("PEFT will warn that keys of rank_pattern" in note for note in done.notes)
    assert is_said or not any("rank_pattern keys did not match" in str(one.message) for one in warned)
    assert is_said == bool(json.loads((done.path / "adapter_config.json").read_text()).get("rank_pattern"))
    np.testing.assert_allclose(our_logits(chosen().backend, base, run.adapter), theirs, atol=1e-4)
    assert np.abs(theirs - torch_logits(hugging_face_model(base))).max() > 0.1
    assert any("lora_dropout is 0" in note for note in done.notes) == ("dropout" in lora)
    read, written = read_peft(done.path).adapter, read_adapter(run.adapter)
    assert_equal(read.weights, written.weights)
    section, notes = lora_section(read, source.architecture, source.recipe.lora)
    assert (section.targets, section.layers, notes) == (lora["targets"], lora.get("layers", "all"), [])


def test_an_adapter_that_peft_trained_on_experts_is_read(tmp_path: Path) -> None:
    import torch

    base = tiny_model(tmp_path / "base", "qwen3_moe")
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj"], target_parameters=parameters)
    model = peft.get_peft_model(hugging_face_model(base), config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(str(tmp_path / "theirs"))
    read = read_peft(tmp_path / "theirs").adapter
    write_adapter(tmp_path / "ours", Adapter(read.spec, read.weights), 2)
    ours = our_logits(chosen().backend, base, tmp_path / "ours")
    np.testing.assert_allclose(ours, torch_logits(model), atol=1e-4)
    assert read.spec.rank == 3 and len(read.spec.layers) == 2 * (1 + 3 * N_EXPERTS)


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_the_gradient_of_experts_is_pefts(tmp_path: Path, name: str) -> None:
    base = tiny_model(tmp_path / "base", "qwen3_moe")
    run = adapter_run(tmp_path, base, lora={"targets": "experts", "rank": 2, "alpha": 4})
    folder = export_peft(open_source(run, chosen().backend), tmp_path / "peft").path
    theirs = in_peft(base, folder, is_trainable=True)
    examples, _ = examples_of(base, tmp_path)
    loss_by_row(theirs, examples).backward()
    expected: dict[str, np.ndarray] = {}
    grown = {part.replace(".default.weight", ""): value.grad.numpy() for part, value in theirs.named_parameters() if value.grad is not None}  # fmt: skip
    for block in range(2):
        experts = f"base_model.model.model.layers.{block}.mlp.experts"
        for inside, parts in ((".base_layer", ("gate_proj", "up_proj")), ("", ("down_proj",))):
            a, b = (grown[f"{experts}{inside}.lora_{factor}"] for factor in "AB")
            of_experts = a.reshape(N_EXPERTS, len(parts), 2, -1)  # (experts, halves, r, in)
            outputs = b.reshape(len(parts), -1, len(parts), 2, N_EXPERTS)  # (halves, out, halves, r, experts)
            for number in range(N_EXPERTS):
                for place, part in enumerate(parts):
                    layer = f"model.layers.{block}.mlp.experts.{number}.{part}"
                    expected[f"{layer}.lora_A"] = of_experts[number, place]
                    expected[f"{layer}.lora_B"] = outputs[place, :, place, :, number]
    model = backend_named(name).load(base, run.adapter)
    found = gradient_of(model, build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples)))
    assert_close(found, expected, 1e-4)


def test_a_config_that_does_not_name_the_parameters_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen3_moe"))
    folder = export_peft(source, tmp_path / "peft").path
    config = json.loads((folder / "adapter_config.json").read_text())
    named = [name for name in config["target_parameters"] if "0.mlp.experts.down_proj" not in name]
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": named}))
    with pytest.raises(AdapterError, match="expected target_parameters to name what is updated of it"):
        read_peft(folder)


def test_experts_of_a_multimodal_base_are_refused_with_another_way(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen3_moe"))
    with pytest.raises(ExportError, match=r"adapts the MLPs of a multimodal model with experts.*write --to hf"):
        export_peft(replace(source, is_nested=True), tmp_path / "nested")
    folder = export_peft(source, tmp_path / "peft").path
    tensors = load_file(folder / "adapter_model.safetensors")
    nested = {name.replace("model.model.layers", "model.model.language_model.layers"): value for name, value in tensors.items()}  # fmt: skip
    save_file(nested, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="experts of a multimodal model"):
        read_peft(folder)


def test_factors_that_do_not_fit_their_rank_are_refused() -> None:
    a, b = np.zeros((5, 3), np.float32), np.zeros((4, 6), np.float32)
    with pytest.raises(AdapterError, match=r"expected A of experts x 2 rows and B of as many columns, got \(5, 3\)"):
        layers_of("model.layers.0.mlp.experts.down_proj", a, b, 2)
