"""A run exported as a GGUF is its fused model, as our reader and transformers' read it."""

from __future__ import annotations

import errno
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from mlxtune.errors import ExportError, ModelError
from mlxtune.export import fused_tensors
from mlxtune.export.gguf_model import QUANTIZATIONS, export_gguf, model_metadata
from mlxtune.export.source import ExportSource, open_source
from mlxtune.models import gguf
from mlxtune.models.gguf_config import read_config
from mlxtune.models.gguf_file import open_gguf, read_value
from mlxtune.models.gguf_tokenizer_files import write_tokenizer
from mlxtune.models.tokenizer import load_tokenizer
from tests.conftest import chosen, snapshot
from tests.export.exporting import folded, source_of
from tests.tiny import FAMILIES, tiny_gguf, tiny_model

BLOCKS = [kind for kind in QUANTIZATIONS if kind not in ("f32", "f16", "bf16")]
ROUNDED = 1e-6  # sums of products that another order rounds otherwise


def read_back(file: Path) -> dict[str, NDArray[np.float32]]:
    return dict(gguf.tensors(file))


def stored_types(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in open_gguf(file).tensors}


def change_config(base: Path, **keys: Any) -> Path:
    file = base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))
    return base


# Weights


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_float32_holds_base_plus_adapter(tmp_path: Path, family: str, tied: bool) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", family, tied=tied))
    export_gguf(source, tmp_path / "out.gguf", "f32")
    expected, got = folded(source), read_back(tmp_path / "out.gguf")
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(got[name], weight, atol=ROUNDED, err_msg=name)
    before = load_file(source.base / "model.safetensors")
    assert sum(not np.allclose(got[name], before[name], atol=1e-3) for name in before) == 14


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_alone_comes_out_bit_for_bit_and_as_llama_cpps_own_writer_has_it(tmp_path: Path, family: str) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", family), base_only=True)
    export_gguf(source, tmp_path / "out.gguf", "f32")
    theirs = tiny_gguf(tmp_path / "theirs.gguf", source.base, "F32")
    expected = {tensor.name: tensor.data.copy() for tensor in open_gguf(theirs).tensors}
    got = {tensor.name: tensor.data.copy() for tensor in open_gguf(tmp_path / "out.gguf").tensors}
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(got[name], weight, err_msg=name)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_quantization_rounds_once_and_keeps_vectors(tmp_path: Path, quantization: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen2"))
    export_gguf(source, tmp_path / "exact.gguf", "f32")
    export_gguf(source, tmp_path / "out.gguf", quantization)
    exact, got, types = (
        read_back(tmp_path / "exact.gguf"),
        read_back(tmp_path / "out.gguf"),
        stored_types(tmp_path / "out.gguf"),
    )
    assert set(types.values()) >= {"F32", quantization.upper()}
    for name, weight in exact.items():
        kind = GGMLQuantizationType[quantization.upper()]
        if name == "model.embed_tokens.weight" and quantization[:2] in ("q4", "q5"):
            kind = GGMLQuantizationType.Q8_0  # the head, which is tied
        rounded = weight if weight.ndim == 1 else dequantize(quantize(weight, kind), kind)
        np.testing.assert_array_equal(got[name], rounded, err_msg=name)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_base_is_unpacked_before_the_adapter_is_folded_in(tmp_path: Path, bits: int, tied: bool) -> None:
    pytest.importorskip("mlx")
    from mlxtune.backends.mlx.fuse import fuse

    quantization = {"bits": bits, "group_size": 32}
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "llama", tied=tied, quantization=quantization))
    export_gguf(source, tmp_path / "out.gguf", "f32")
    fused = fuse(source.base, source.run.adapter, tmp_path / "fused", requantize=False, dtype="float32")
    expected, got = load_file(fused.folder / "model.safetensors"), read_back(tmp_path / "out.gguf")
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(got[name], weight, atol=ROUNDED, err_msg=name)


def test_layers_packed_in_their_own_way_are_unpacked_so(tmp_path: Path) -> None:
    mlx = pytest.importorskip("mlx.core")
    base = tiny_model(tmp_path / "base", "qwen2", quantization={"bits": 4, "group_size": 32})
    layer = "model.layers.1.mlp.up_proj"
    weights = load_file(base / "model.safetensors")
    wanted = np.random.default_rng(3).standard_normal((128, 64)).astype(np.float32)
    packed = mlx.quantize(mlx.array(wanted), 64, 6)
    weights |= {
        f"{layer}.{part}": np.array(value) for part, value in zip(("weight", "scales", "biases"), packed, strict=True)
    }
    save_file(weights, base / "model.safetensors")
    settings = {"bits": 4, "group_size": 32, layer: {"bits": 6, "group_size": 64}}
    source = source_of(tmp_path, change_config(base, quantization=settings), base_only=True)
    export_gguf(source, tmp_path / "out.gguf", "f32")
    expected = np.array(mlx.dequantize(*packed, 64, 6))
    np.testing.assert_allclose(read_back(tmp_path / "out.gguf")[f"{layer}.weight"], expected, atol=ROUNDED)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_weights_of_16_bits_are_folded_in_float32(tmp_path: Path, stored: str) -> None:
    pytest.importorskip("mlx")
    from mlxtune.backends.base import ConvertSpec
    from mlxtune.backends.mlx.convert import convert
    from mlxtune.backends.mlx.fuse import fuse

    plain = tiny_model(tmp_path / "plain", "qwen3")
    source = source_of(tmp_path, convert(plain, tmp_path / "base", ConvertSpec(dtype=stored)).folder)
    export_gguf(source, tmp_path / "out.gguf", "f32")
    fused = fuse(source.base, source.run.adapter, tmp_path / "fused", requantize=False, dtype="float32")
    got = read_back(tmp_path / "out.gguf")
    for name, weight in load_file(fused.folder / "model.safetensors").items():
        np.testing.assert_allclose(got[name], weight, atol=ROUNDED, err_msg=name)


@pytest.mark.parametrize("values", [100, 5000])
def test_rows_are_the_same_however_few_are_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "llama", tied=False))
    export_gguf(source, tmp_path / "whole.gguf", "f32")
    monkeypatch.setattr(fused_tensors, "CHUNK_VALUES", values)
    export_gguf(source, tmp_path / "parts.gguf", "f32")
    expected, got = read_back(tmp_path / "whole.gguf"), read_back(tmp_path / "parts.gguf")
    for name, weight in expected.items():
        np.testing.assert_allclose(got[name], weight, atol=ROUNDED, err_msg=name)


def test_memory_is_one_tensor_as_it_is_stored_and_some_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_model(tmp_path / "base", "qwen2", hidden=256, layers=6)
    source = source_of(tmp_path, base)
    monkeypatch.setattr(fused_tensors, "CHUNK_VALUES", 1 << 12)
    export_gguf(source, tmp_path / "first.gguf", "q8_0")  # what is imported and kept, is by now
    tracemalloc.start()
    try:
        export_gguf(source, tmp_path / "out.gguf", "q8_0")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    model = (base / "model.safetensors").stat().st_size
    assert model > 14e6
    assert peak < 0.2 * model


def test_rows_that_blocks_do_not_divide_are_float16_and_it_is_said(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen2", hidden=80))
    written = export_gguf(source, tmp_path / "out.gguf", "q4_0")
    types = stored_types(tmp_path / "out.gguf")
    assert types["blk.0.ffn_down.weight"] == "Q4_0"  # 160 wide
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == "F16"
    assert any("13 tensors are stored as F16" in note and "Q4_0" in note for note in written.notes)


# What other readers make of it


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_transformers_computes_the_same_from_the_file(tmp_path: Path, family: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    source = source_of(tmp_path, tiny_model(tmp_path / "base", family))
    export_gguf(source, tmp_path / "out.gguf", "f16")
    fused = tmp_path / "fused"
    fused.mkdir()
    (fused / "config.json").write_text((source.base / "config.json").read_text())
    rounded = {
        name: weight if weight.ndim == 1 else weight.astype(np.float16).astype(np.float32)
        for name, weight in folded(source).items()
    }
    save_file(rounded, fused / "model.safetensors", {"format": "pt"})

    ids = torch.tensor([[5, 17, 256, 300, 41, 42, 43, 7, 380]])

    def logits(folder: Path, **options: Any) -> NDArray[np.float32]:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, **options)
        with torch.no_grad():
            return np.asarray(model(ids).logits[0].numpy())

    # Its reader takes every Qwen3's heads to be 128 wide, whatever the file says.
    told = {"config": AutoConfig.from_pretrained(str(fused))} if family == "qwen3" else {}
    got = logits(tmp_path, gguf_file="out.gguf", **told)
    np.testing.assert_allclose(got, logits(fused), atol=1e-3)
    assert np.abs(logits(source.base) - got).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_config_and_tokenizer_come_back(tmp_path: Path, family: str) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", family))
    export_gguf(source, tmp_path / "out.gguf")
    config = read_config(tmp_path / "out.gguf")
    for key in ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads",
                "vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
                "model_type"):  # fmt: skip
        assert config[key] == source.config[key], key
    write_tokenizer(tmp_path / "out.gguf", tmp_path / "back")
    before, after = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source.base, tmp_path / "back"))
    assert after.get_vocab() == before.get_vocab()
    for text in ("pay 1,234.50 now, it's 付款失败了怎么办", "<|im_start|>user\nhi<|im_end|>\n<think>\n"):
        assert after.encode(text).ids == before.encode(text).ids


def test_the_embedded_chat_template_writes_the_recipes_prompt(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen3"))
    export_gguf(source, tmp_path / "out.gguf")
    write_tokenizer(tmp_path / "out.gguf", tmp_path / "back")
    messages = [{"role": "user", "content": "你好"}]
    ours = load_tokenizer(source.base)
    theirs = load_tokenizer(tmp_path / "back")
    expected = ours.prompt(messages, thinking=False)
    assert expected != ours.prompt(messages, thinking=True)
    # llama.cpp asks for thinking unless told otherwise.
    assert theirs.prompt(messages, thinking=True) == theirs.prompt(messages, thinking=False) == expected


def test_what_the_file_is_and_comes_from_is_in_it(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen3"), name="intents")
    written = export_gguf(source, tmp_path / "out.gguf", "q8_0")
    found = {key: read_value(tmp_path / "out.gguf", key) for key in open_gguf(tmp_path / "out.gguf").fields}
    wanted = {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": "intents",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "general.base_model.count": 1,
        "general.base_model.0.name": "base",
        "qwen3.attention.key_length": 32,
        "qwen3.attention.value_length": 32,
        "qwen3.vocab_size": source.config["vocab_size"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
    }
    assert {key: found.get(key) for key in wanted} == wanted
    assert "general.base_model.0.repo_url" not in found
    assert (written.format, written.path) == ("gguf", tmp_path / "out.gguf")
    assert written.n_bytes == (tmp_path / "out.gguf").stat().st_size
    assert written.load == f"llama-cli -m {tmp_path / 'out.gguf'}"


# RoPE scaling


@pytest.mark.parametrize(
    ("family", "scaling"),
    [
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}),
        ("qwen3", {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048, "beta_fast": 16.0}),
        ("llama", {"type": "linear", "factor": 2.5}),
        ("llama", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 8192}),
    ],
)  # fmt: skip
def test_rope_scaling_comes_back(tmp_path: Path, family: str, scaling: dict[str, Any]) -> None:
    base = change_config(tiny_model(tmp_path / "base", family), rope_scaling=scaling)
    export_gguf(source_of(tmp_path, base), tmp_path / "out.gguf")
    got = read_config(tmp_path / "out.gguf")["rope_scaling"]
    assert got["rope_type"] == scaling.get("rope_type", scaling.get("type"))
    for key in scaling.keys() - {"type", "rope_type"}:
        assert got[key] == pytest.approx(scaling[key]), key


@pytest.mark.parametrize(
    ("family", "scaling", "said"),
    [
        (
            "qwen2",
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 4096,
            },
            "'llama3' cannot be written as a GGUF of a qwen2 model",
        ),
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, "'dynamic' cannot be written"),
        ("qwen3", {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0}, "attention_factor of its own"),
        ("qwen3", {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}, "mscale of its own"),
    ],
)
def test_rope_scaling_that_llama_cpp_does_not_compute_is_refused(
    tmp_path: Path, family: str, scaling: dict[str, Any], said: str
) -> None:
    source = source_of(tmp_path, change_config(tiny_model(tmp_path / "base", family), rope_scaling=scaling))
    with pytest.raises(ExportError, match=said):
        export_gguf(source, tmp_path / "out.gguf")


# What goes wrong


@pytest.fixture
def source(tmp_path: Path, base: Path) -> ExportSource:
    return source_of(tmp_path, base)


def test_an_unknown_quantization_is_refused_and_the_way_to_it_said(tmp_path: Path, source: ExportSource) -> None:
    with pytest.raises(ExportError, match=r"'q4_k_m' cannot be written; expected one of f32, .*llama-quantize"):
        export_gguf(source, tmp_path / "out.gguf", "q4_k_m")


def test_an_unknown_family_is_refused_by_name(source: ExportSource) -> None:
    with pytest.raises(ExportError, match="a model of type 'qwen3_5' cannot be written as a GGUF; it can be for llama"):
        model_metadata({"model_type": "qwen3_5"}, source.architecture)


def test_nothing_is_overwritten_unless_told(tmp_path: Path, source: ExportSource) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    with pytest.raises(ExportError, match="already exists"):
        export_gguf(source, out)
    assert out.read_text() == "mine"
    export_gguf(source, out, force=True)
    assert out.read_bytes()[:4] == b"GGUF"


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gguf import GGUFWriter

    write, written = GGUFWriter.write_tensor_data, list[None]()

    def full(self: Any, tensor: Any, *more: Any) -> None:
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(self, tensor, *more))

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", full)
    before = snapshot(tmp_path)
    with pytest.raises(ExportError, match=r"No space left on device; .* GB are free there; nothing was left behind"):
        export_gguf(source, tmp_path / "out.gguf")
    assert len(written) == 3
    assert snapshot(tmp_path) == before


def test_values_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen3")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = 7e4
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    source = source_of(tmp_path, base)
    with pytest.raises(
        ExportError, match=r"blk\.1\.ffn_up\.weight: holds values up to 70,0\d\d, F16 holds up to 65,504"
    ):
        export_gguf(source, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    export_gguf(source, tmp_path / "out.gguf", "bf16")


def test_values_that_are_no_numbers_are_refused(tmp_path: Path, source: ExportSource) -> None:
    source.trained.weights["model.layers.0.mlp.up_proj.lora_B"][0, 0] = np.nan
    with pytest.raises(ExportError, match=r"model\.layers\.0\.mlp\.up_proj\.weight: holds values that are no numbers"):
        export_gguf(source, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, r"lacks the weight model\.layers\.1\.mlp\.up_proj\.weight"),
        ({"model.layers.1.mlp.up_proj.bias": np.zeros(128, np.float32)}, r"mlp\.up_proj\.bias, which no model of this type"),
        ({"model.norm.weight": np.ones(63, np.float32)}, r"model\.norm\.weight is 63 of type F32; expected 64"),
        ({"model.norm.weight": np.ones(64, np.int32)}, r"model\.norm\.weight is 64 of type I32; expected 64 of type F32"),
    ],
)  # fmt: skip
def test_weights_that_are_not_the_models_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "qwen3"))
    weights = {**load_file(source.base / "model.safetensors"), **change}
    save_file({name: value for name, value in weights.items() if value is not None}, source.base / "model.safetensors")
    with pytest.raises(ModelError, match=said):
        export_gguf(source, tmp_path / "out.gguf")


def test_a_stale_head_of_a_tied_model_is_left_out(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", "qwen2")
    weights = load_file(base / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}, base / "model.safetensors")
    export_gguf(source_of(tmp_path, base), tmp_path / "out.gguf")
    assert "output.weight" not in stored_types(tmp_path / "out.gguf")


def test_open_source_hands_over_the_adapter_only_where_it_is_meant(tmp_path: Path, source: ExportSource) -> None:
    alone = open_source(source.run, chosen().backend, base_only=True)
    export_gguf(alone, tmp_path / "base.gguf", "f32")
    assert read_value(tmp_path / "base.gguf", "general.name") == source.base.name
    export_gguf(source, tmp_path / "fused.gguf", "f32")
    one, other = read_back(tmp_path / "base.gguf"), read_back(tmp_path / "fused.gguf")
    assert {name for name in one if not np.array_equal(one[name], other[name])} == {
        f"{layer}.weight" for layer in source.trained.spec.layers
    }
