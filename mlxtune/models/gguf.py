"""A .gguf file as a Hugging Face model folder: config, float weights, tokenizer. NumPy only; no backend.

    to_folder(Path("qwen2.5-0.5b-q4_k_m.gguf"), Path("qwen2.5-0.5b"))

GGUF is llama.cpp's format: one file with the metadata, the tokenizer and the weights, mostly quantized in blocks.
Read here are the architectures that this package trains (llama, qwen2, qwen3) and byte-level BPE tokenizers. What a
GGUF does not say is not guessed: an unknown architecture, tokenizer or pre-tokenizer is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import ModelError
from mlxtune.files import write_safetensors
from mlxtune.models.gguf_file import open_gguf, read_list, read_number, read_tensor, read_value, shortest
from mlxtune.models.gguf_tensors import (
    ARCHITECTURES,
    INTERLEAVED,
    ROPE_DIVISORS,
    deinterleaved,
    hugging_face_name,
    rope_divisors,
)
from mlxtune.models.gguf_tokens import COMPOSING_SPLITS, CONTROL, LLAMA3_SPLITS, SPLITS, UNUSED, USER_DEFINED

SHARD_BYTES = 2 << 30


def to_folder(path: Path, folder: Path, dtype: str = "float16") -> None:
    """Write config, tokenizer and weights of a GGUF into a folder, in Hugging Face's layout.

    Args:
        path: The .gguf file.
        folder: Where; made if need be. Not atomic: write into a temporary folder and rename it.
        dtype: "float16" or "float32" (NumPy has no bfloat16). Weights are dequantized in float32.

    Raises:
        ModelError: Not a GGUF, corrupt, or of a kind not supported.
    """
    write_config_and_tokenizer(path, folder, dtype)
    _write_weights(((name, weight.astype(dtype)) for name, weight in tensors(path)), folder)


def write_config_and_tokenizer(path: Path, folder: Path, dtype: str = "float16") -> None:
    """Write everything of `to_folder` but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**read_config(path), "torch_dtype": dtype}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {key: config[key] for key in config if key.endswith("_token_id")})
    write_tokenizer(path, folder)


def stored_type(path: Path) -> str:
    """What most of the weights are stored as: "F32", "BF16", "Q4_K", ..."""
    sizes: dict[str, int] = {}
    for tensor in open_gguf(path).tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return max(sizes, key=lambda name: sizes[name])


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a GGUF.

    Raises:
        ModelError: Not a GGUF, corrupt, or an architecture that is not supported.
    """
    file = open_gguf(path)
    architecture = _architecture(path)
    shapes = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in file.tensors}

    def value(key: str, default: float | None = None) -> float:
        found = read_number(path, f"{architecture}.{key}", default)
        if found is None:
            raise ModelError(
                f"{path}: the GGUF lacks {architecture}.{key}; it is damaged or was written by a very old tool"
            )
        return found

    layers = int(value("block_count"))
    for needed in ("token_embd.weight", "output_norm.weight", f"blk.{layers - 1}.attn_norm.weight"):
        if needed not in shapes:
            raise ModelError(f"{path}: the GGUF lacks the tensor {needed}, so it holds no whole language model")
    heads, hidden = int(value("attention.head_count")), int(value("embedding_length"))
    if heads < 1:
        raise ModelError(f"{path}: the GGUF is damaged: {architecture}.attention.head_count is {heads}")
    config = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": int(value("feed_forward_length")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(value("attention.head_count_kv", heads)),
        "head_dim": int(value("attention.key_length", hidden // heads)),
        "vocab_size": shapes["token_embd.weight"][0],
        "max_position_embeddings": int(value("context_length")),
        "rms_norm_eps": shortest(value("attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest(value("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in shapes,
        "hidden_act": "silu",
    }
    if scaling := _rope_scaling(path, config):
        config["rope_scaling"] = scaling
    if architecture == "llama":
        config |= {"attention_bias": "blk.0.attn_q.bias" in shapes, "mlp_bias": "blk.0.ffn_up.bias" in shapes}
    if architecture == "qwen2":
        config |= {"use_sliding_window": False}
        del config["head_dim"]  # Qwen2 has none of its own
    if architecture == "qwen3":
        config |= {"attention_bias": False}
    bos, eos, eot, pad = (_token_id(path, name) for name in ("bos", "eos", "eot", "padding"))
    ends = list(dict.fromkeys(token for token in (eos, eot) if token is not None))
    config |= {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None, "pad_token_id": pad}
    return {key: item for key, item in config.items() if item is not None}


def tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name (Hugging Face's) and value of each weight, one at a time, dequantized.

    Raises:
        ModelError: A tensor of unknown name, or in a quantization that the gguf package cannot read.
    """
    config = read_config(path)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in open_gguf(path).tensors:
        if tensor.name == ROPE_DIVISORS:
            continue  # read by read_config
        name = _hugging_face_name(path, tensor.name)
        value = read_tensor(path, tensor)
        part = tensor.name.split(".")[-2]
        if config["model_type"] in INTERLEAVED and part in heads:
            value = deinterleaved(value, heads[part])
        yield name, value


def write_tokenizer(path: Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, with the chat template, from tokenizer.ggml.*.

    Raises:
        ModelError: Not a byte-level BPE tokenizer, or split in a way that is not known.
    """
    model = read_value(path, "tokenizer.ggml.model")
    if model != "gpt2":
        raise ModelError(
            f"{path}: its tokenizer is of kind {model!r}; only byte-level BPE ('gpt2', as Qwen's and SmolLM's) is "
            "supported; use the model's own folder or Hub id"
        )
    split = _splitting(path)
    tokens: list[str] = read_list(path, "tokenizer.ggml.tokens", str)
    types: list[int] = read_list(path, "tokenizer.ggml.token_type", int) or [1] * len(tokens)
    merges: list[str] = read_list(path, "tokenizer.ggml.merges", str)
    if not tokens or len(types) != len(tokens):
        raise ModelError(
            f"{path}: the GGUF is damaged: it has {len(tokens):,} tokens and {len(types):,} types of tokens"
        )
    # Unused ids only pad the embedding; the model's own tokenizer does not have them.
    vocabulary = {token: index for index, token in enumerate(tokens) if types[index] != UNUSED}
    added = [
        {
            "id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": types[index] == CONTROL,
        }
        for index, token in enumerate(tokens)
        if types[index] in (CONTROL, USER_DEFINED)
    ]  # fmt: skip

    named = {name: _token_id(path, name) for name in ("bos", "eos", "unknown", "padding")}
    text = {name: tokens[index] for name, index in named.items() if index is not None and index < len(tokens)}
    # Where the file does not say, llama.cpp opens a text with BOS for Llama 3 only.
    add_bos = read_value(path, "tokenizer.ggml.add_bos_token")
    add_bos = "bos" in text and (split in LLAMA3_SPLITS if add_bos is None else bool(add_bos))

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in SPLITS[split]
    ]
    opening: dict[str, Any] = byte_level
    if add_bos:
        bos = {"SpecialToken": {"id": text["bos"], "type_id": 0}}
        template: dict[str, Any] = {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {text["bos"]: {"id": text["bos"], "ids": [named["bos"]], "tokens": [text["bos"]]}},
        }
        opening = {"type": "Sequence", "processors": [byte_level, template]}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if split in COMPOSING_SPLITS else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": opening,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": split in LLAMA3_SPLITS,
            "vocab": vocabulary, "merges": [merge.split(" ", 1) for merge in merges],
        },
    }  # fmt: skip
    settings = {
        # Not the model's own class: those rebuild their splitting from the vocabulary; SmolLM's would lose its digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": read_value(path, f"{_architecture(path)}.context_length"),
        "bos_token": text.get("bos"),
        "eos_token": text.get("eos"),
        "unk_token": text.get("unknown"),
        "pad_token": text.get("padding", text.get("eos")),
        "additional_special_tokens": [
            token["content"] for token in added if token["special"] and token["content"] not in text.values()
        ],
        "added_tokens_decoder": {
            str(token["id"]): {key: item for key, item in token.items() if key != "id"} for token in added
        },
        "chat_template": read_value(path, "tokenizer.chat_template"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", settings)


# Reading the file ------------------------------------------------------------------------------------------------


def _architecture(path: Path) -> str:
    architecture = read_value(path, "general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path}: architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}; of other families "
            "give the Hugging Face folder or Hub id that the GGUF was made of"
        )
    if (n_files := read_number(path, "split.count", 1) or 0) > 1:
        raise ModelError(
            f"{path}: one part of a GGUF in {n_files:g} files; join them first with "
            "`llama-gguf-split --merge FIRST OUT`"
        )
    if (read_number(path, f"{architecture}.expert_count") or 0) > 0:
        raise ModelError(f"{path}: a mixture of experts; only dense models are supported")
    return str(architecture)


def _token_id(path: Path, name: str) -> int | None:
    value = read_number(path, f"tokenizer.ggml.{name}_token_id")
    return None if value is None else int(value)


def _splitting(path: Path) -> str:
    split = read_value(path, "tokenizer.ggml.pre")
    if split in (None, "default") and _architecture(path).startswith("qwen"):
        return "qwen2"  # files from before llama.cpp told pre-tokenizers apart
    split = split or "default"
    if not isinstance(split, str) or split not in SPLITS:
        raise ModelError(f"{path}: its text is split as {split!r}, which is not known here; known: {', '.join(SPLITS)}")
    return str(split)


def _rope_scaling(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    prefix = f"{config['model_type']}.rope.scaling"
    kind = read_value(path, f"{prefix}.type")
    frequencies = next((tensor for tensor in open_gguf(path).tensors if tensor.name == ROPE_DIVISORS), None)
    if frequencies is not None:
        return _llama3_scaling(path, config, np.array(frequencies.data, dtype=np.float32))
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{path}: RoPE scaling of kind {kind!r} is not supported; supported: linear, yarn")
    factor = read_number(path, f"{prefix}.factor")
    if factor is None:
        raise ModelError(f"{path}: the GGUF lacks {prefix}.factor, by which it scales RoPE")
    scaling = {"rope_type": kind, "type": kind, "factor": float(factor)}
    if (original := read_number(path, f"{prefix}.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = int(original)
    for name in ("beta_fast", "beta_slow"):
        if (turns := read_number(path, f"{prefix}.yarn_{name}")) is not None:
            scaling[name] = float(turns)
    return scaling


def _llama3_scaling(path: Path, config: dict[str, Any], factors: NDArray[np.float32]) -> dict[str, Any]:
    """Llama 3's scaling, of which a GGUF keeps only the divisor of each frequency, (head_dim / 2,)."""
    factor, low, high, original = float(factors.max()), 1.0, 4.0, 8192
    expected = rope_divisors(config["head_dim"], config["rope_theta"], factor, low=low, high=high, original=original)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        raise ModelError(
            f"{path}: its RoPE frequencies are scaled in a way that is not Llama 3's, the only one known here"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _hugging_face_name(path: Path, name: str) -> str:
    found = hugging_face_name(name)
    if found is None:
        raise ModelError(f"{path}: the tensor {name} belongs to no {', '.join(ARCHITECTURES)} model that is known here")
    return found


# Writing the folder ----------------------------------------------------------------------------------------------


def _write_weights(weights: Iterator[tuple[str, NDArray[Any]]], folder: Path) -> None:
    """model.safetensors, or shards with an index where one file would pass SHARD_BYTES; holds one shard in memory."""
    shards: list[dict[str, str]] = []
    held: dict[str, NDArray[Any]] = {}

    def flush() -> None:
        part = folder / f"part-{len(shards)}"
        write_safetensors(part, held, {"format": "pt"})
        shards.append(dict.fromkeys(held, part.name))
        held.clear()

    n_bytes = total_bytes = 0
    for name, weight in weights:
        if held and n_bytes + weight.nbytes > SHARD_BYTES:
            flush()
            n_bytes = 0
        held[name] = weight
        n_bytes += weight.nbytes
        total_bytes += weight.nbytes
    flush()
    if len(shards) == 1:
        (folder / "part-0").rename(folder / "model.safetensors")
        return
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        final = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number - 1}").rename(folder / final)
        index |= dict.fromkeys(shard, final)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total_bytes}, "weight_map": index})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
