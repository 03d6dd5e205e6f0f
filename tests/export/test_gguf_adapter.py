"""An adapter written as a GGUF comes back bit for bit, and llama.cpp's arithmetic with it is ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.errors import AdapterError, ExportError, ModelError
from mlxtune.export.gguf_adapter import export_gguf_lora, read_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.source import ExportSource, open_source
from mlxtune.models.gguf_file import open_gguf, read_value
from tests.conftest import chosen
from tests.export.exporting import source_of
from tests.tiny import FAMILIES, tiny_model


@pytest.fixture
def source(tmp_path: Path, base: Path) -> ExportSource:
    return source_of(tmp_path, base)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_comes_back_bit_for_bit(tmp_path: Path, family: str) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", family))
    export_gguf_lora(source, tmp_path / "lora.gguf")
    expected, got = source.trained, read_gguf_lora(tmp_path / "lora.gguf", source.architecture)
    assert (got.spec.rank, got.spec.scale) == (3, 2.0)
    assert set(got.spec.layers) == set(expected.spec.layers)
    assert got.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        np.testing.assert_array_equal(got.weights[name], value, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_adapter_files_together_are_the_fused_file(tmp_path: Path, family: str) -> None:
    """What llama.cpp computes: W + alpha / rank x B A, in the order of rows that its files have."""
    source = source_of(tmp_path, tiny_model(tmp_path / "base", family))
    export_gguf_lora(source, tmp_path / "lora.gguf")
    export_gguf(open_source(source.run, chosen().backend, base_only=True), tmp_path / "base.gguf", "f32")
    export_gguf(source, tmp_path / "fused.gguf", "f32")
    files = {name: tmp_path / f"{name}.gguf" for name in ("lora", "base", "fused")}
    lora, weights, fused = ({t.name: t.data.copy() for t in open_gguf(file).tensors} for file in files.values())
    alpha = read_value(files["lora"], "adapter.lora.alpha")
    names = [name.removesuffix(".lora_a") for name in lora if name.endswith(".lora_a")]
    assert len(names) == 14
    for name in names:
        a, b = lora[f"{name}.lora_a"], lora[f"{name}.lora_b"]
        assert np.abs(fused[name] - weights[name]).max() > 1e-3
        np.testing.assert_allclose(fused[name], weights[name] + alpha / len(a) * b @ a, atol=1e-6, err_msg=name)


def test_only_llamas_q_and_k_have_their_rows_reordered(tmp_path: Path) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "llama"))
    export_gguf_lora(source, tmp_path / "lora.gguf")
    stored = {tensor.name: tensor.data.copy() for tensor in open_gguf(tmp_path / "lora.gguf").tensors}
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
             "attn_output": "self_attn.o_proj", "ffn_up": "mlp.up_proj"}  # fmt: skip
    for short, long in parts.items():
        a, b = (source.trained.weights[f"model.layers.0.{long}.lora_{factor}"] for factor in "AB")
        np.testing.assert_array_equal(stored[f"blk.0.{short}.weight.lora_a"], a)
        if short in ("attn_q", "attn_k"):  # heads 16 wide: rows 0, 8, 1, 9, ... of each
            order = [16 * head + at for head in range(len(b) // 16) for pair in range(8) for at in (pair, pair + 8)]
            b = b[order]
        np.testing.assert_array_equal(stored[f"blk.0.{short}.weight.lora_b"], b)


def test_what_the_file_is_is_in_it(tmp_path: Path, source: ExportSource) -> None:
    written = export_gguf_lora(source, tmp_path / "lora.gguf")
    file = tmp_path / "lora.gguf"
    wanted = {
        "general.type": "adapter",
        "general.architecture": "qwen3",
        "adapter.type": "lora",
        "adapter.lora.alpha": 6.0,  # scale 2 x rank 3
        "general.base_model.0.name": "qwen3",
    }
    assert {key: read_value(file, key) for key in wanted} == wanted
    assert written.format == "gguf-lora"
    assert written.load == f"llama-cli -m BASE.gguf --lora {file}"


@pytest.mark.parametrize(("rank", "scale"), [(8, 20.0), (8, 1.6), (6, 0.7), (64, 2.0)])
def test_the_scale_comes_back(tmp_path: Path, source: ExportSource, rank: int, scale: float) -> None:
    weights = {
        name: np.zeros((rank, value.shape[1]) if name.endswith("A") else (value.shape[0], rank), np.float32)
        for name, value in source.trained.weights.items()
    }
    adapter = replace(source.trained, spec=replace(source.trained.spec, rank=rank, scale=scale), weights=weights)
    export_gguf_lora(replace(source, adapter=adapter), tmp_path / "lora.gguf")
    spec = read_gguf_lora(tmp_path / "lora.gguf", source.architecture).spec
    assert spec.rank == rank
    assert spec.scale == pytest.approx(scale, rel=1e-15)


def test_a_run_without_adapter_is_refused(tmp_path: Path, source: ExportSource) -> None:
    with pytest.raises(ExportError, match="expected a run with its adapter, which is all that this format holds"):
        export_gguf_lora(replace(source, adapter=None), tmp_path / "lora.gguf")


def test_an_unknown_family_is_refused(tmp_path: Path, source: ExportSource) -> None:
    other = replace(source, architecture=replace(source.architecture, model_type="gemma3"))
    with pytest.raises(ExportError, match="'gemma3' cannot be written as a GGUF"):
        export_gguf_lora(other, tmp_path / "lora.gguf")


def test_nothing_is_overwritten_unless_told(tmp_path: Path, source: ExportSource) -> None:
    (tmp_path / "lora.gguf").write_text("mine")
    with pytest.raises(ExportError, match="already exists"):
        export_gguf_lora(source, tmp_path / "lora.gguf")
    export_gguf_lora(source, tmp_path / "lora.gguf", force=True)
    assert read_value(tmp_path / "lora.gguf", "general.type") == "adapter"


# Reading


def lora_file(file: Path, tensors: dict[str, Any], architecture: str = "qwen3", **keys: Any) -> Path:
    """An adapter as llama.cpp's own package writes it."""
    from gguf import GGUFWriter

    writer = GGUFWriter(file, architecture)
    said = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0}
    said |= {key.replace("__", "."): value for key, value in keys.items()}
    for key, value in said.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_float32(key, value)
    for name, value in tensors.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def pair(name: str = "blk.0.ffn_up", rank: int = 2, n_in: int = 64, n_out: int = 128) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        f"{name}.weight.lora_a": random.standard_normal((rank, n_in)).astype(np.float16),
        f"{name}.weight.lora_b": random.standard_normal((n_out, rank)).astype(np.float16),
    }


def test_an_adapter_of_another_program_is_read_in_float32(tmp_path: Path, source: ExportSource) -> None:
    tensors = pair()
    adapter = read_gguf_lora(lora_file(tmp_path / "theirs.gguf", tensors), source.architecture)
    assert (adapter.spec.rank, adapter.spec.scale) == (2, 2.0)
    assert adapter.spec.layers == ("model.layers.0.mlp.up_proj",)
    for factor in "AB":
        got = adapter.weights[f"model.layers.0.mlp.up_proj.lora_{factor}"]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, tensors[f"blk.0.ffn_up.weight.lora_{factor.lower()}"])


def test_alpha_of_zero_means_no_scaling_as_in_llama_cpp(tmp_path: Path, source: ExportSource) -> None:
    file = lora_file(tmp_path / "theirs.gguf", pair(), adapter__lora__alpha=0.0)
    assert read_gguf_lora(file, source.architecture).spec.scale == 1.0


@pytest.mark.parametrize(
    ("tensors", "keys", "said"),
    [
        (pair(), {"architecture": "qwen2"}, "an adapter of a qwen2 model; the base model is of type qwen3"),
        (pair(), {"general__type": "model"}, "is 'model'; expected a LoRA adapter"),
        (pair(), {"adapter__type": "control_vector"}, "is an adapter of kind 'control_vector'"),
        (pair(), {"adapter__lora__alpha": None}, r"holds no adapter\.lora\.alpha"),
        ({}, {}, "holds no tensors"),
        (dict(list(pair().items())[:1]), {}, r"lacks model\.layers\.0\.mlp\.up_proj\.lora_B"),
        (dict(list(pair().items())[1:]), {}, r"lacks model\.layers\.0\.mlp\.up_proj\.lora_A"),
        (pair("token_embd", 2, 64, 448), {}, r"adapts model\.embed_tokens, which is no linear layer"),
        (pair("blk.7.ffn_up"), {}, r"adapts model\.layers\.7\.mlp\.up_proj, which is no linear layer"),
        ({"blk.0.ffn_up.weight": np.zeros((2, 64), np.float32)}, {}, "belongs to no LoRA adapter"),
        ({**pair(), **pair("blk.1.ffn_up", 3)}, {}, r"different ranks \(2, 3\)"),
        (pair(n_in=96), {}, r"lora_A should be 2 x 64, got 2 x 96"),
    ],
)
def test_what_is_no_adapter_of_the_base_is_refused(
    tmp_path: Path, source: ExportSource, tensors: dict[str, Any], keys: dict[str, Any], said: str
) -> None:
    file = lora_file(tmp_path / "theirs.gguf", tensors, **keys)
    with pytest.raises(AdapterError, match=said):
        read_gguf_lora(file, source.architecture)


@pytest.mark.parametrize("n_out", [15, 17, 32, 80])
def test_rows_that_are_no_whole_heads_are_refused_where_they_would_be_reordered(tmp_path: Path, n_out: int) -> None:
    source = source_of(tmp_path, tiny_model(tmp_path / "base", "llama"))
    file = lora_file(tmp_path / "theirs.gguf", pair("blk.0.attn_q", n_out=n_out), "llama")
    with pytest.raises(AdapterError, match=rf"lora_B should be 64 x 2, got {n_out} x 2"):
        read_gguf_lora(file, source.architecture)


def test_a_model_is_no_adapter(tmp_path: Path, source: ExportSource) -> None:
    export_gguf(source, tmp_path / "model.gguf")
    with pytest.raises(AdapterError, match="is 'model'; expected a LoRA adapter"):
        read_gguf_lora(tmp_path / "model.gguf", source.architecture)


@pytest.mark.parametrize("share", [0.1, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, source: ExportSource, share: float) -> None:
    export_gguf_lora(source, tmp_path / "lora.gguf")
    content = (tmp_path / "lora.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="truncated or damaged"):
        read_gguf_lora(tmp_path / "cut.gguf", source.architecture)
