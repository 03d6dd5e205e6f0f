"""GGUF files read back as the models they were written from; written here with llama.cpp's own package."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers

from mlxtune.errors import ModelError
from mlxtune.models import gguf
from tests.tiny import CORPUS, FAMILIES, tiny_gguf, tiny_model

TEXTS = [
    *CORPUS,
    "Hello world, it's 2024-11-21! I'LL pay $1,234.50...",
    "查询账户余额,转账 12345 元。付款失败了怎么办？",
    "😀👩‍👩‍👧 emoji 🇨🇳",
    "  leading   spaces\n\n\n\ttabs\r\nCRLF  end  ",
    "<|im_start|>user\nhi<|im_end|>\n<think>\n\n</think>",
    "e\u0301 café ﬁ Å １２３ ½ \u3000 \u200b",
    "",
]


def written(tmp_path: Path, family: str = "qwen3", quantization: str = "F32", **more: Any) -> tuple[Path, Path]:
    """A tiny model's folder, and the same model as a .gguf."""
    tied = more.pop("tied", True)
    folder = tiny_model(tmp_path / "source", family, tied=tied)
    return folder, tiny_gguf(tmp_path / "model.gguf", folder, quantization, **more)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_float32_weights_come_back_exactly(tmp_path: Path, family: str, tied: bool) -> None:
    folder, file = written(tmp_path, family, tied=tied)
    expected = load_file(folder / "model.safetensors")
    got = dict(gguf.tensors(file))
    assert got.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(got[name], weight, err_msg=name)


@pytest.mark.parametrize("quantization", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantized_weights_come_back_as_they_were_rounded(tmp_path: Path, quantization: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    folder, file = written(tmp_path, "llama", quantization)
    kind = GGMLQuantizationType[quantization]
    got = dict(gguf.tensors(file))
    for name, weight in load_file(folder / "model.safetensors").items():
        rounded = weight if weight.ndim == 1 else dequantize(quantize(weight, kind), kind)
        np.testing.assert_array_equal(got[name], rounded, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_config_is_the_models_own(tmp_path: Path, family: str, tied: bool) -> None:
    folder, file = written(tmp_path, family, tied=tied)
    expected = json.loads((folder / "config.json").read_text())
    got = gguf.read_config(file)
    ours = {"bos_token_id", "generation_config", "initializer_range", "torch_dtype", "use_cache"}  # not in a GGUF
    for key in expected.keys() - ours:
        assert got[key] == expected[key], key
    assert len(expected.keys() - ours) >= 14


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_gives_the_same_ids_and_chat_prompt(tmp_path: Path, family: str) -> None:
    from transformers import AutoTokenizer

    folder, file = written(tmp_path, family)
    gguf.write_tokenizer(file, tmp_path / "out")
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    for text in TEXTS:
        assert after.encode(text).ids == before.encode(text).ids, text
    old, new = (AutoTokenizer.from_pretrained(str(place)) for place in (folder, tmp_path / "out"))
    assert (new.eos_token_id, new.pad_token_id) == (old.eos_token_id, old.pad_token_id)
    message = [{"role": "user", "content": "你好 123"}]
    prompts = [
        t.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        for t in (old, new)
    ]
    assert prompts[1] == prompts[0]


def test_unused_ids_are_no_tokens(tmp_path: Path) -> None:
    folder, file = written(tmp_path)
    gguf.write_tokenizer(file, tmp_path / "out")
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert after.get_vocab() == before.get_vocab()


@pytest.mark.parametrize("add_bos", [True, False])
def test_bos_opens_a_text_only_where_the_file_says_so(tmp_path: Path, add_bos: bool) -> None:
    metadata = {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.bos_token_id": 5}
    _, file = written(tmp_path, metadata=metadata)
    gguf.write_tokenizer(file, tmp_path / "out")
    ids = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("pay").ids
    assert (ids[0] == 5) == add_bos


# How each kind's own tokenizer.json on the Hub splits, written down independently of the patterns in gguf.py.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
OWN_SPLITS = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


@pytest.mark.parametrize("pre", list(OWN_SPLITS))
def test_text_is_split_as_the_kinds_own_tokenizer_splits_it(tmp_path: Path, pre: str) -> None:
    _, file = written(tmp_path, "llama", pre=pre)
    gguf.write_tokenizer(file, tmp_path / "out")
    split = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).pre_tokenizer
    own = pre_tokenizers.Sequence(OWN_SPLITS[pre])
    for text in TEXTS:
        assert [piece for piece, _ in split.pre_tokenize_str(text)] == [
            piece for piece, _ in own.pre_tokenize_str(text)
        ], text


def test_qwen_files_without_a_pre_tokenizer_are_split_as_qwen(tmp_path: Path) -> None:
    folder, file = written(tmp_path, "qwen2", pre="default")
    gguf.write_tokenizer(file, tmp_path / "out")
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert all(after.encode(text).ids == before.encode(text).ids for text in TEXTS)


def test_yarn_scaling_is_kept(tmp_path: Path) -> None:
    metadata = {
        "qwen2.rope.scaling.type": "yarn",
        "qwen2.rope.scaling.factor": 4.0,
        "qwen2.rope.scaling.original_context_length": 1024,
    }
    _, file = written(tmp_path, "qwen2", metadata=metadata)
    scaling = gguf.read_config(file)["rope_scaling"]
    assert (scaling["rope_type"], scaling["factor"], scaling["original_max_position_embeddings"]) == ("yarn", 4.0, 1024)


def llama3_divisors(theta: float, width: int, factor: float) -> list[float]:
    """What llama.cpp stores for Llama 3's scaling: the divisor of each frequency, as its converter computes it."""
    divisors = []
    for index in range(0, width, 2):
        wavelength = 2 * math.pi * theta ** (index / width)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192 / 1:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3_scaling_is_recovered_from_its_divisors(tmp_path: Path, factor: float) -> None:
    folder = tiny_model(tmp_path / "source", "llama")
    weights = load_file(folder / "model.safetensors")
    divisors = np.array(llama3_divisors(30000.0, 16, factor), np.float32)
    save_file({**weights, "rope_freqs.weight": divisors}, folder / "model.safetensors")
    file = tiny_gguf(tmp_path / "model.gguf", folder)
    scaling = gguf.read_config(file)["rope_scaling"]
    assert (scaling["rope_type"], scaling["original_max_position_embeddings"]) == ("llama3", 8192)
    assert scaling["factor"] == pytest.approx(factor)
    assert dict(gguf.tensors(file)).keys() == weights.keys()


def test_another_scaling_than_llama_3s_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "source", "llama")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="not Llama 3's"):
        gguf.read_config(tiny_gguf(tmp_path / "model.gguf", folder))


def test_weights_are_sharded_when_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "SHARD_BYTES", 100_000)
    folder, file = written(tmp_path)
    gguf.to_folder(file, tmp_path / "out", "float32")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 1
    assert shards == sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    merged = {name: load_file(tmp_path / "out" / shard)[name] for name, shard in index["weight_map"].items()}
    for name, weight in load_file(folder / "model.safetensors").items():
        np.testing.assert_array_equal(merged[name], weight)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "mamba"}, r"architecture 'mamba' is not supported; supported: llama, qwen2, qwen3"),
        ({"qwen3.expert_count": 8}, "a mixture of experts"),
        ({"qwen3.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
        ({"split.count": 3}, "one part of a GGUF in 3 files"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    _, file = written(tmp_path, metadata=metadata)
    with pytest.raises(ModelError, match=message):
        gguf.read_config(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer is of kind 'llama'"),
        ({"tokenizer.ggml.pre": "gpt-4o"}, "split as 'gpt-4o', which is not known"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    _, file = written(tmp_path, metadata=metadata)
    with pytest.raises(ModelError, match=message):
        gguf.write_tokenizer(file, tmp_path / "out")


def test_an_unknown_tensor_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "source")
    weights = {**load_file(folder / "model.safetensors"), "model.layers.0.router.weight": np.ones((2, 2), np.float32)}
    save_file(weights, folder / "model.safetensors")
    file = tiny_gguf(tmp_path / "model.gguf", folder)
    with pytest.raises(ModelError, match=r"blk\.0\.router\.weight"):
        dict(gguf.tensors(file))


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.999])
def test_a_truncated_file_is_said_to_be_so(tmp_path: Path, share: float) -> None:
    _, file = written(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match="truncated or damaged"):
        gguf.read_config(file)


def test_a_file_that_is_no_gguf_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="not a GGUF file"):
        gguf.read_config(tmp_path / "model.gguf")
