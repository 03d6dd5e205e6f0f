"""GGUF files read back as the models they were written from; written here with llama.cpp's own package."""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers

from mlxtune.errors import ModelError
from mlxtune.models import gguf
from mlxtune.models.gguf_config import read_config
from mlxtune.models.gguf_layout import ImpossibleLayout, check_layout
from mlxtune.models.gguf_tokenizer_files import write_tokenizer
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
    got = read_config(file)
    ours = {"bos_token_id", "generation_config", "initializer_range", "torch_dtype", "use_cache"}  # not in a GGUF
    for key in expected.keys() - ours:
        assert got[key] == expected[key], key
    assert len(expected.keys() - ours) >= 14


@pytest.mark.parametrize("family", FAMILIES)
def test_tokenizer_gives_the_same_ids_and_chat_prompt(tmp_path: Path, family: str) -> None:
    from transformers import AutoTokenizer

    folder, file = written(tmp_path, family)
    write_tokenizer(file, tmp_path / "out")
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
    write_tokenizer(file, tmp_path / "out")
    before = Tokenizer.from_file(str(folder / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert after.get_vocab() == before.get_vocab()


@pytest.mark.parametrize("add_bos", [True, False])
def test_bos_opens_a_text_only_where_the_file_says_so(tmp_path: Path, add_bos: bool) -> None:
    metadata = {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.bos_token_id": 5}
    _, file = written(tmp_path, metadata=metadata)
    write_tokenizer(file, tmp_path / "out")
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
    write_tokenizer(file, tmp_path / "out")
    split = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).pre_tokenizer
    own = pre_tokenizers.Sequence(OWN_SPLITS[pre])
    for text in TEXTS:
        assert [piece for piece, _ in split.pre_tokenize_str(text)] == [
            piece for piece, _ in own.pre_tokenize_str(text)
        ], text


def test_qwen_files_without_a_pre_tokenizer_are_split_as_qwen(tmp_path: Path) -> None:
    folder, file = written(tmp_path, "qwen2", pre="default")
    write_tokenizer(file, tmp_path / "out")
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
    scaling = read_config(file)["rope_scaling"]
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
    scaling = read_config(file)["rope_scaling"]
    assert (scaling["rope_type"], scaling["original_max_position_embeddings"]) == ("llama3", 8192)
    assert scaling["factor"] == pytest.approx(factor)
    assert dict(gguf.tensors(file)).keys() == weights.keys()


def test_another_scaling_than_llama_3s_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "source", "llama")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "rope_freqs.weight": np.arange(1, 9, dtype=np.float32)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="not Llama 3's"):
        read_config(tiny_gguf(tmp_path / "model.gguf", folder))


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
        (
            {"general.architecture": "mamba"},
            r"architecture 'mamba' is not supported; supported: llama, qwen2, qwen3, ",
        ),
        ({"qwen3.expert_count": 8}, "a mixture of experts"),
        ({"qwen3.rope.scaling.type": "longrope"}, "'longrope' is not supported"),
        ({"split.count": 3}, "one part of a GGUF in 3 files"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    _, file = written(tmp_path, metadata=metadata)
    with pytest.raises(ModelError, match=message):
        read_config(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, "tokenizer is of kind 't5'"),
        ({"tokenizer.ggml.model": "llama"}, "it has 448 tokens, 448 types of tokens and 0 scores"),
        ({"tokenizer.ggml.pre": "gpt-4o"}, "split as 'gpt-4o', which is not known"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    _, file = written(tmp_path, metadata=metadata)
    with pytest.raises(ModelError, match=message):
        write_tokenizer(file, tmp_path / "out")


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
        read_config(file)


def test_a_file_that_is_no_gguf_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelError, match="not a GGUF file"):
        read_config(tmp_path / "model.gguf")


# Headers that their file cannot hold -------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int) -> bytes:
    return struct.pack("<IQ", kind, count)


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0, n_dimensions: int | None = None) -> bytes:
    n_dimensions = len(shape) if n_dimensions is None else n_dimensions
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", n_dimensions, *shape, kind, offset)


def header(
    *keys: bytes, tensors: Sequence[bytes] = (), n_keys: int | None = None, n_tensors: int | None = None, version: int = 3
) -> bytes:  # fmt: skip
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors) + bytes(64)


TOKENS, STRING, ARRAY, UINT32 = "tokenizer.ggml.tokens", 8, 9, 4
IMPOSSIBLE = {
    "tokens without end": (header(key(TOKENS, ARRAY, array(STRING, 1 << 40))), f"entries of {TOKENS}: at least"),
    "numbers without end": (header(key("scores", ARRAY, array(UINT32, 1 << 62))), "entries of scores: at least"),
    "keys without end": (header(n_keys=1 << 60), "keys: at least"),
    "tensors without end": (header(n_tensors=1 << 60), "tensors: at least"),
    "a long string": (header(key("name", STRING, struct.pack("<Q", 1 << 63))), "name: a string of 9,223,372,036,854,775,808 bytes"),
    "a long string in a list": (header(key(TOKENS, ARRAY, array(STRING, 2) + text("a") + struct.pack("<Q", 99))), "number 2"),
    "a long key": (header(struct.pack("<Q", 1 << 40)), "key 1 of 1: a name of"),
    "a long name": (header(tensors=[struct.pack("<Q", 60_000)]), "bytes of the name of tensor 1 of 1: at least"),
    "arrays in arrays": (header(key("deep", ARRAY, array(ARRAY, 1) * 100)), "deep: arrays more than 4 deep"),
    "arrays in arrays without end": (header(key("deep", ARRAY, array(ARRAY, 1 << 50))), "entries of deep: at least"),
    "an unknown type": (header(key("odd", 77, b"")), "odd: unknown type 77"),
    "a list of an unknown type": (header(key("odd", ARRAY, array(13, 1))), "odd: unknown type 13"),
    "a key twice": (header(key("k", UINT32, bytes(4)), key("k", UINT32, bytes(4))), "key 2 of 2: 'k' stands twice"),
    "an odd alignment": (header(key("general.alignment", UINT32, struct.pack("<I", 3))), "expected a power of two"),
    "no alignment": (header(key("general.alignment", UINT32, struct.pack("<I", 0))), "expected a power of two"),
    "dimensions without end": (header(tensors=[tensor("t", [], n_dimensions=1 << 31)]), "t: 2,147,483,648 dimensions"),
    "a shape past 64 bits": (header(tensors=[tensor("t", [1 << 33, 1 << 33])]), "the weights of t end at byte"),
    "an unknown quantization": (header(tensors=[tensor("t", [32], kind=255)]), "t: unknown type of weights 255"),
    "a broken block": (header(tensors=[tensor("t", [33], kind=2)]), "t: rows of 33 weights in blocks of 32"),
    "weights behind the end": (header(tensors=[tensor("t", [4], offset=1 << 40)]), "the weights of t end at byte"),
    "weights past 64 bits": (header(tensors=[tensor("t", [4], offset=(1 << 64) - 1)]), "the weights of t end at byte"),
    "a tensor twice": (header(tensors=[tensor("t", [1]), tensor("t", [1])]), "tensor 2 of 2: 't' stands twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_a_file_cannot_hold_is_refused_with_its_place_in_a_moment(tmp_path: Path, name: str) -> None:
    content, message = IMPOSSIBLE[name]
    (tmp_path / "model.gguf").write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(ModelError, match="truncated or damaged") as caught:
        read_config(tmp_path / "model.gguf")
    assert message in str(caught.value)
    assert time.perf_counter() - began < 2, "some milliseconds"


@pytest.mark.parametrize("version", [0x01000000 * 9, 1, 4])
def test_another_version_is_named(tmp_path: Path, version: int) -> None:
    (tmp_path / "model.gguf").write_bytes(header(version=version))
    shown = version if version < 1000 else 9  # written on a big-endian machine
    with pytest.raises(ModelError, match=f"a GGUF of version {shown}, expected 2 or 3"):
        read_config(tmp_path / "model.gguf")


def test_a_large_file_of_nothing_is_refused_in_a_moment(tmp_path: Path) -> None:
    with (tmp_path / "model.gguf").open("wb") as file:
        file.write(header(key(TOKENS, ARRAY, array(STRING, 1 << 30)))[:-64])
        file.truncate(20 << 30)  # on disk a few kilobytes
    began = time.perf_counter()
    with pytest.raises(ModelError, match="more than 10,000,000 entries"):
        read_config(tmp_path / "model.gguf")
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_a_file_cut_anywhere_is_impossible_and_whole_is_not(tmp_path: Path, order: str) -> None:
    from gguf import GGUFEndian, GGUFWriter

    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "qwen3", endianess=GGUFEndian[order])
    writer.add_token_list(["a", "bc", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_bool("flag", True)
    writer.add_tensor("one", np.ones((3, 5), np.float32))
    writer.add_tensor("two", np.ones(7, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = file.read_bytes()
    check_layout(file)
    end = content.rindex(np.ones(7, "<f2" if order == "LITTLE" else ">f2").tobytes()) + 14
    for size in range(4, end):
        file.write_bytes(content[:size])
        with pytest.raises(ImpossibleLayout):
            check_layout(file)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"qwen3.block_count": "many"}, "qwen3.block_count: expected a number, got many"),
        ({"qwen3.block_count": 1 << 31}, "lacks the tensor blk.2147483647.attn_norm.weight"),
        ({"qwen3.attention.head_count": 0}, "head_count is 0"),
        ({"split.count": "all"}, "split.count: expected a number"),
        ({"qwen3.rope.scaling.type": "yarn"}, "lacks qwen3.rope.scaling.factor"),
    ],
)
def test_metadata_of_another_kind_is_refused_by_name(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    _, file = written(tmp_path, metadata=metadata)
    with pytest.raises(ModelError, match=message):
        read_config(file)
