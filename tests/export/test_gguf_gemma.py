"""A Gemma 3 exported as a GGUF: 1 + weight in its norms, SentencePiece as pieces with scores, and what llama.cpp fixes is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.errors import ExportError
from mlxtune.export.gguf_adapter import export_gguf_lora, read_gguf_lora
from mlxtune.export.gguf_model import export_gguf
from mlxtune.export.gguf_tokenizer import gguf_tokenizer
from mlxtune.models import gguf
from mlxtune.models.gguf_config import read_config
from mlxtune.models.gguf_file import open_gguf, read_value
from tests.export.exporting import folded, source_of
from tests.models.test_gguf_sentencepiece import TEXTS, described, read_back, trained
from tests.tiny import tiny_model

FIXED = {
    "query_pre_attn_scalar": 32,
    "rope_local_base_freq": 10000.0,
    "sliding_window_pattern": 6,
    "hidden_activation": "gelu_pytorch_tanh",
}  # as llama.cpp's class of Gemma 3 has them, for heads of 32


def gemma(folder: Path, **changes: Any) -> Path:
    base = tiny_model(folder, "gemma3_text", layers=7)
    file = base / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **FIXED, **changes}))
    return base


def test_base_plus_adapter_comes_back(tmp_path: Path) -> None:
    source = source_of(tmp_path, gemma(tmp_path / "base"))
    export_gguf(source, tmp_path / "out.gguf", "f32")
    expected, got = folded(source), dict(gguf.tensors(tmp_path / "out.gguf"))
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_allclose(got[name], weight, atol=1e-6, err_msg=name)
    norm = next(one for one in open_gguf(tmp_path / "out.gguf").tensors if one.name == "output_norm.weight")
    np.testing.assert_allclose(norm.data, 1 + expected["model.norm.weight"], atol=1e-6)
    config = read_config(tmp_path / "out.gguf")
    assert config.items() >= {"model_type": "gemma3_text", "sliding_window": 8, **FIXED}.items()
    assert read_value(tmp_path / "out.gguf", "general.architecture") == "gemma3"


def test_the_adapter_alone_comes_back(tmp_path: Path) -> None:
    source = source_of(tmp_path, gemma(tmp_path / "base"))
    export_gguf_lora(source, tmp_path / "lora.gguf")
    read = read_gguf_lora(tmp_path / "lora.gguf", source.architecture)
    assert set(read.spec.layers) == set(source.trained.spec.layers)
    for name, weight in read.weights.items():
        np.testing.assert_array_equal(weight, source.trained.weights[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_pre_attn_scalar": 24}, "query_pre_attn_scalar 24 cannot be written as a GGUF: llama.cpp computes 32"),
        ({"rope_local_base_freq": 5000.0}, r"rope_local_base_freq 5000\.0 .*computes 10000\.0"),
        ({"sliding_window_pattern": 3}, "not the first five of every six"),
        ({"hidden_activation": "gelu"}, "hidden_activation 'gelu'"),
    ],
)
def test_what_llama_cpp_fixes_is_refused_where_it_differs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    source = source_of(tmp_path, gemma(tmp_path / "base", **changes))
    with pytest.raises(ExportError, match=message):
        export_gguf(source, tmp_path / "out.gguf")


@pytest.mark.parametrize("prefix", [False, True])
def test_sentencepiece_comes_out_as_it_went_in(tmp_path: Path, prefix: bool) -> None:
    metadata = described(trained(prefix), prefix)
    before = read_back(tmp_path / "first", metadata)
    config = read_config(tmp_path / "first" / "model.gguf")
    found = gguf_tokenizer(tmp_path / "first" / "out", {**config, "vocab_size": len(metadata["tokenizer.ggml.tokens"])})
    written = found.metadata()
    assert list(written["tokenizer.ggml.tokens"]) == metadata["tokenizer.ggml.tokens"]
    types = [3 if kind == 2 else kind for kind in metadata["tokenizer.ggml.token_type"]]
    assert list(written["tokenizer.ggml.token_type"]) == types
    for name in (
        "model",
        "pre",
        "bos_token_id",
        "eos_token_id",
        "unknown_token_id",
        "add_bos_token",
        "add_space_prefix",
    ):
        assert written[f"tokenizer.ggml.{name}"] == metadata[f"tokenizer.ggml.{name}"], name
    after = read_back(
        tmp_path / "again", {key: list(one) if isinstance(one, tuple) else one for key, one in written.items()}
    )
    assert after.ids(TEXTS) == before.ids(TEXTS)
