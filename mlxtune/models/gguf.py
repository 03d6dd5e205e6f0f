"""A .gguf file as a Hugging Face model folder: config, float weights, tokenizer. NumPy only; no backend.

    to_folder(Path("qwen2.5-0.5b-q4_k_m.gguf"), Path("qwen2.5-0.5b"))

GGUF is llama.cpp's format: one file with the metadata, the tokenizer and the weights, mostly quantized in blocks.
Read here are the architectures that this package trains (llama, qwen2, qwen3) and byte-level BPE tokenizers. What a
GGUF does not say is not guessed: an unknown architecture, tokenizer or pre-tokenizer is refused by name.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import ModelError
from mlxtune.files import write_safetensors
from mlxtune.models.gguf_layout import UnknownVersion, check_layout

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
SHARD_BYTES = 2 << 30

_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# Token types of tokenizer.ggml.token_type.
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5

# How text is split before BPE, by tokenizer.ggml.pre. The patterns are those that llama.cpp applies for that name;
# the Qwen one is also, character by character, that of Qwen's own tokenizer.json.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_SPLITS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "default": _DEFAULT,
    "smollm": (r"\p{N}", _GPT2),
    "qwen2": (_QWEN,),
    "deepseek-r1-qwen": (_QWEN,),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
}
_NFC = ("qwen2", "deepseek-r1-qwen")  # Qwen composes Unicode first; llama.cpp does not, its own tokenizer does
_LLAMA3_NAMES = ("llama-bpe", "llama3")


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
    for tensor in _open(path).tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return max(sizes, key=lambda name: sizes[name])


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a GGUF.

    Raises:
        ModelError: Not a GGUF, corrupt, or an architecture that is not supported.
    """
    file = _open(path)
    architecture = _architecture(path)
    shapes = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in file.tensors}

    def value(key: str, default: float | None = None) -> float:
        found = _number(path, f"{architecture}.{key}", default)
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
        "rms_norm_eps": _short(value("attention.layer_norm_rms_epsilon")),
        "rope_theta": _short(value("rope.freq_base", 10000.0)),
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
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    config = read_config(path)
    for tensor in _open(path).tensors:
        if tensor.name == "rope_freqs.weight":
            continue  # read by read_config
        name = _hugging_face_name(path, tensor.name)
        quantization = GGMLQuantizationType(tensor.tensor_type)
        try:
            value = dequantize(tensor.data, quantization)
        except NotImplementedError:
            raise ModelError(
                f"{path}: {tensor.name} is quantized as {quantization.name}, which the gguf package cannot read; "
                "take a GGUF of another quantization, such as Q8_0 or Q4_K_M"
            ) from None
        shape = tuple(reversed(tensor.shape.tolist()))
        value = np.ascontiguousarray(value.reshape(shape), dtype=np.float32)
        if config["model_type"] == "llama" and ".attn_q." in tensor.name:
            value = _unpermute(value, config["num_attention_heads"])
        if config["model_type"] == "llama" and ".attn_k." in tensor.name:
            value = _unpermute(value, config["num_key_value_heads"])
        yield name, value


def write_tokenizer(path: Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, with the chat template, from tokenizer.ggml.*.

    Raises:
        ModelError: Not a byte-level BPE tokenizer, or split in a way that is not known.
    """
    model = _value(path, "tokenizer.ggml.model")
    if model != "gpt2":
        raise ModelError(
            f"{path}: its tokenizer is of kind {model!r}; only byte-level BPE ('gpt2', as Qwen's and SmolLM's) is "
            "supported; use the model's own folder or Hub id"
        )
    split = _splitting(path)
    tokens: list[str] = _list(path, "tokenizer.ggml.tokens", str)
    types: list[int] = _list(path, "tokenizer.ggml.token_type", int) or [1] * len(tokens)
    merges: list[str] = _list(path, "tokenizer.ggml.merges", str)
    if not tokens or len(types) != len(tokens):
        raise ModelError(
            f"{path}: the GGUF is damaged: it has {len(tokens):,} tokens and {len(types):,} types of tokens"
        )
    # Unused ids only pad the embedding; the model's own tokenizer does not have them.
    vocabulary = {token: index for index, token in enumerate(tokens) if types[index] != _UNUSED}
    added = [
        {
            "id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": types[index] == _CONTROL,
        }
        for index, token in enumerate(tokens)
        if types[index] in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip

    named = {name: _token_id(path, name) for name in ("bos", "eos", "unknown", "padding")}
    text = {name: tokens[index] for name, index in named.items() if index is not None and index < len(tokens)}
    # Where the file does not say, llama.cpp opens a text with BOS for Llama 3 only.
    add_bos = _value(path, "tokenizer.ggml.add_bos_token")
    add_bos = "bos" in text and (split in _LLAMA3_NAMES if add_bos is None else bool(add_bos))

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in _SPLITS[split]
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
        "normalizer": {"type": "NFC"} if split in _NFC else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": opening,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": split in _LLAMA3_NAMES,
            "vocab": vocabulary, "merges": [merge.split(" ", 1) for merge in merges],
        },
    }  # fmt: skip
    settings = {
        # Not the model's own class: those rebuild their splitting from the vocabulary; SmolLM's would lose its digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": add_bos,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": _value(path, f"{_architecture(path)}.context_length"),
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
        "chat_template": _value(path, "tokenizer.chat_template"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(folder / "tokenizer_config.json", settings)


# Reading the file ------------------------------------------------------------------------------------------------


def check(path: Path) -> None:
    """Raise ModelError unless the file begins as a GGUF does; whether it is whole shows when it is read, in seconds."""
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{path}: not a GGUF file: it begins with {magic!r}, a GGUF with b'GGUF'")


def _open(path: Path) -> Any:
    status = path.stat()
    return _open_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _open_version(path: Path, n_bytes: int, modified_ns: int) -> Any:
    """The gguf package's reader; parsing a vocabulary takes it seconds, so the last file stays open."""
    check(path)
    from gguf import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """Slices the file as a plain array: np.memmap's own slicing takes most of the time that a vocabulary does."""

        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, memory_map: Any) -> None:
            self._bytes = np.asarray(memory_map)

    try:
        check_layout(path)
        return Reader(path)
    except UnknownVersion as error:
        raise ModelError(f"{path}: a GGUF of {error}; take a newer file, or the model's own folder or Hub id") from None
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise ModelError(
            f"{path}: the GGUF is truncated or damaged ({n_bytes:,} bytes; {error}); download it again"
        ) from error


def _architecture(path: Path) -> str:
    architecture = _value(path, "general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ModelError(
            f"{path}: architecture {architecture!r} is not supported; supported: {', '.join(ARCHITECTURES)}"
        )
    if (n_files := _number(path, "split.count", 1) or 0) > 1:
        raise ModelError(
            f"{path}: one part of a GGUF in {n_files:g} files; join them first with "
            "`llama-gguf-split --merge FIRST OUT`"
        )
    if (_number(path, f"{architecture}.expert_count") or 0) > 0:
        raise ModelError(f"{path}: a mixture of experts; only dense models are supported")
    return str(architecture)


def _value(path: Path, key: str) -> Any:
    field = _open(path).fields.get(key)
    try:
        return None if field is None else field.contents()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: the GGUF is damaged: {key} is not UTF-8 ({error}); download it again") from error


def _number(path: Path, key: str, default: float | None = None) -> float | None:
    """A number of the metadata, whole or not."""
    value = _value(path, key)
    if value is None:
        return default
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"{path}: {key}: expected a number, got {str(value)[:40]}")
    return value


def _list(path: Path, key: str, kind: type) -> list[Any]:
    """A list of the metadata; empty where there is none."""
    value = _value(path, key)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, kind) for one in value)):
        raise ModelError(f"{path}: {key}: expected a list of {kind.__name__}, got {str(value)[:40]}")
    return value or []


def _token_id(path: Path, name: str) -> int | None:
    value = _number(path, f"tokenizer.ggml.{name}_token_id")
    return None if value is None else int(value)


def _short(value: float) -> float:
    """The shortest decimal number that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _splitting(path: Path) -> str:
    split = _value(path, "tokenizer.ggml.pre")
    if split in (None, "default") and _architecture(path).startswith("qwen"):
        return "qwen2"  # files from before llama.cpp told pre-tokenizers apart
    split = split or "default"
    if not isinstance(split, str) or split not in _SPLITS:
        raise ModelError(
            f"{path}: its text is split as {split!r}, which is not known here; known: {', '.join(_SPLITS)}"
        )
    return str(split)


def _rope_scaling(path: Path, config: dict[str, Any]) -> dict[str, Any] | None:
    prefix = f"{config['model_type']}.rope.scaling"
    kind = _value(path, f"{prefix}.type")
    frequencies = next((tensor for tensor in _open(path).tensors if tensor.name == "rope_freqs.weight"), None)
    if frequencies is not None:
        return _llama3_scaling(path, config, np.array(frequencies.data, dtype=np.float32))
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{path}: RoPE scaling of kind {kind!r} is not supported; supported: linear, yarn")
    factor = _number(path, f"{prefix}.factor")
    if factor is None:
        raise ModelError(f"{path}: the GGUF lacks {prefix}.factor, by which it scales RoPE")
    scaling = {"rope_type": kind, "type": kind, "factor": float(factor)}
    if (original := _number(path, f"{prefix}.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = int(original)
    return scaling


def _llama3_scaling(path: Path, config: dict[str, Any], factors: NDArray[np.float32]) -> dict[str, Any]:
    """Llama 3's scaling, of which a GGUF keeps only the divisor of each frequency, (head_dim / 2,)."""
    factor, low, high, original = float(factors.max()), 1.0, 4.0, 8192
    width = config["head_dim"]
    wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(0, width, 2) / width)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
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
    if (whole := re.fullmatch(r"(\w+)\.(weight|bias)", name)) and whole[1] in _NAMES:
        return f"{_NAMES[whole[1]]}.{whole[2]}"
    if (block := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)) and block[2] in _BLOCK_NAMES:
        return f"model.layers.{block[1]}.{_BLOCK_NAMES[block[2]]}.{block[3]}"
    raise ModelError(f"{path}: the tensor {name} belongs to no {', '.join(ARCHITECTURES)} model that is known here")


def _unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q or k from llama.cpp's interleaved order of rotary pairs to Hugging Face's two halves."""
    half = weight.shape[0] // heads // 2
    pairs = weight.reshape(heads, half, 2, *weight.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


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
