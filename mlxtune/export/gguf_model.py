"""A run's fused model as one .gguf file, for llama.cpp and what is built on it.

    export_gguf(open_source(run, backend), Path("intent-q8_0.gguf"), "q8_0")

Each weight is read, folded in float32, and rounded once to the type that is written; the model as a whole is never in
memory, nor on disk a second time. The inverse, `models/gguf.py`, reads such files.

Source:
    llama.cpp's converter: conversion/base.py, qwen.py and llama.py; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.architecture import Architecture
from mlxtune.errors import ExportError
from mlxtune.export.chat_template import gguf_chat_template
from mlxtune.export.exported import Exported, check_file_free, new_file, size_on_disk
from mlxtune.export.fused_tensors import FusedTensors
from mlxtune.export.gguf_family import family_to_write
from mlxtune.export.gguf_tokenizer import GgufTokenizer, gguf_tokenizer
from mlxtune.export.gguf_writing import FILE_TYPES, GgufTensor, base_name, block_size, provenance, write_gguf
from mlxtune.export.source import ExportSource
from mlxtune.models.gguf_config import GEMMA3_27B_BLOCKS, GEMMA3_LOCAL_BASE, GEMMA3_PATTERN
from mlxtune.models.gguf_tensors import ROPE_DIVISORS, Family, interleaved, rope_divisors

QUANTIZATIONS = tuple(kind.lower() for kind in FILE_TYPES)
FALLBACK = "F16"  # of a matrix whose rows cannot be divided into blocks, as in llama.cpp
HEAD = "Q8_0"  # of the head where the rest takes fewer bits; llama.cpp's own Q6_K cannot be written here
_FEW_BITS = ("Q5_1", "Q5_0", "Q4_1", "Q4_0")
_QUANTIZATION_VERSION = 2  # of the block formats


def export_gguf(source: ExportSource, out: Path, quantization: str = "f16", *, force: bool = False) -> Exported:
    """Write a run's model as a GGUF, its adapter folded in.

    Args:
        source: The run; without its adapter, where the base alone is meant.
        out: The .gguf file to write.
        quantization: One of QUANTIZATIONS: what matrices are stored as. Vectors, norms among them, are float32.
        force: Replace a file that lies there.

    Returns:
        The file, and what its user should know.

    Raises:
        ExportError: `out` is taken or cannot be written, or the model or its tokenizer cannot be said in a GGUF.
        ModelError: The base model cannot be read.
    """
    kind = _kind(quantization)
    check_file_free(out, force=force)
    family = _family(source.config)
    metadata = model_metadata(source.config, source.architecture)
    tokenizer = gguf_tokenizer(source.base, source.config)
    plan = _plan(source, family, kind)
    metadata |= {
        **_general(source, kind),
        **tokenizer.metadata(),
        **_template(source, tokenizer),
    }
    with new_file(out, force=force) as new:
        write_gguf(new, family.architecture, metadata, plan.tensors)
    notes = [*plan.notes, *_notes(tokenizer)]
    return Exported("gguf", out, size_on_disk(out), f"llama-cli -m {shlex.quote(str(out))}", tuple(notes))


def model_metadata(config: Mapping[str, Any], architecture: Architecture) -> dict[str, Any]:
    """What a GGUF says of a model's shape.

    Args:
        config: Its config.json, settled.
        architecture: Of it.

    Raises:
        ExportError: llama.cpp does not compute what the config says.
    """
    family, width = _family(config), architecture.head_dim
    keys: dict[str, Any] = {
        "block_count": architecture.n_blocks,
        "context_length": context_length(config),
        "embedding_length": architecture.hidden_size,
        "feed_forward_length": architecture.inner_size,
        "attention.head_count": architecture.n_heads,
        "attention.head_count_kv": architecture.n_kv_heads,
        "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
        "rope.freq_base": float(config.get("rope_theta", 10000.0)),
        "vocab_size": architecture.vocabulary,
        **_rope_scaling(config),
    }
    if config.get("head_dim") or family.architecture in ("qwen3", "gemma3"):
        keys |= {"attention.key_length": width, "attention.value_length": width}
    if family.architecture == "llama":
        keys["rope.dimension_count"] = width
    if family.architecture == "gemma3":
        keys["attention.sliding_window"] = int(config["sliding_window"])
    return {f"{family.architecture}.{key}": value for key, value in keys.items()}


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens that a model attends to; transformers' default for Llama where its config.json does not say."""
    return int(config.get("max_position_embeddings") or 2048)


@dataclass(frozen=True)
class _Plan:
    """What will be written, and what should be known of it."""

    tensors: Sequence[GgufTensor]
    notes: Sequence[str]


def _plan(source: ExportSource, family: Family, kind: str) -> _Plan:
    """The tensors of a model, those that make a GGUF of it included."""
    config = source.config
    fused = FusedTensors(source.base, config, source.architecture, source.adapter)
    head = "model.embed_tokens.weight" if source.architecture.is_tied else "lm_head.weight"
    tensors, whole, notes = [], [], []
    for name, shape in fused.shapes.items():
        short = family.gguf_name(name)
        if short is None:
            raise ExportError(f"{source.base}: a GGUF has no name for {name}")
        stored = "F32" if len(shape) == 1 else HEAD if name == head and kind in _FEW_BITS else kind
        if shape[-1] % block_size(stored):
            stored = FALLBACK
            whole.append(short)
        tensors.append(GgufTensor(short, shape, stored, _chunks(fused, name, family, source.architecture.head_dim)))
    if kind in _FEW_BITS and family.gguf_name(head) not in whole:
        notes.append(f"{family.gguf_name(head)}, which computes the logits, is stored as {HEAD}")
    if whole:
        few = f" and {len(whole) - 3} more" if len(whole) > 3 else ""
        notes.append(
            f"{len(whole)} tensors are stored as {FALLBACK}, because {kind} divides rows into blocks of {block_size(kind)} and "
            f"theirs are of another width: {', '.join(whole[:3])}{few}"
        )
    if (scaling := _scaling(config)).get("rope_type") == "llama3":
        divisors = _divisors(config, scaling, source.architecture.head_dim)
        tensors.insert(0, GgufTensor(ROPE_DIVISORS, divisors.shape, "F32", lambda: iter([divisors])))
    return _Plan(tensors, notes)


def _chunks(fused: FusedTensors, name: str, family: Family, width: int) -> Callable[[], Iterator[NDArray[np.float32]]]:
    """A weight's rows in the order, and with the values, that its family has in a GGUF; `width` is a head's."""
    part = name.split(".")[-2]
    if family.is_interleaved and part in ("q_proj", "k_proj"):
        return lambda: (interleaved(rows, len(rows) // width) for rows in fused.chunks(name, width))
    if family.adds_one and len(fused.shapes[name]) == 1:
        return lambda: (rows + 1 for rows in fused.chunks(name))
    return partial(fused.chunks, name)


def _kind(quantization: str) -> str:
    kind = quantization.upper()
    if kind not in FILE_TYPES:
        raise ExportError(
            f"quantization {quantization!r} cannot be written; expected one of {', '.join(QUANTIZATIONS)}. For others, such as "
            "Q4_K_M, write f16 and run llama.cpp's `llama-quantize FILE OUT Q4_K_M`"
        )
    return kind


def _general(source: ExportSource, kind: str) -> dict[str, Any]:
    recipe = source.recipe
    return {
        "general.type": "model",
        "general.name": recipe.name if source.is_trained else base_name(recipe.model),
        **(provenance(recipe.model) if source.is_trained else {}),
        "general.file_type": FILE_TYPES[kind],
        "general.quantization_version": _QUANTIZATION_VERSION,
    }


def _template(source: ExportSource, tokenizer: GgufTokenizer) -> dict[str, str]:
    if tokenizer.chat_template is None:
        return {}
    return {"tokenizer.chat_template": gguf_chat_template(tokenizer.chat_template, source.recipe)}


def _notes(tokenizer: GgufTokenizer) -> list[str]:
    if not tokenizer.composes:
        return []
    return [
        "llama.cpp does not compose Unicode (NFC) as this tokenizer does; give it composed text, as keyboards write it"
    ]


def _family(config: Mapping[str, Any]) -> Family:
    """The family of a config; what llama.cpp's class of it does not compute is refused."""
    remedy = "For others write --to hf, and convert that folder with llama.cpp's convert_hf_to_gguf.py"
    family = family_to_write(config.get("model_type"), "a model", remedy)
    if family.architecture == "qwen3" and config.get("attention_bias"):
        raise ExportError("a qwen3 model with attention_bias cannot be written as a GGUF: llama.cpp's has none")
    if family.architecture == "gemma3":
        _check_gemma3(config)
        return family
    _check_value(config, "hidden_act", "silu", config.get("hidden_act", "silu"))
    return family


def _check_gemma3(config: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp's class of Gemma 3 sets by itself, where the model has it otherwise."""
    blocks, heads = int(config["num_hidden_layers"]), int(config.get("num_attention_heads", 8))
    width = int(config["hidden_size"]) // heads if blocks == GEMMA3_27B_BLOCKS else int(config.get("head_dim", 256))
    _check_value(config, "hidden_activation", "gelu_pytorch_tanh", config.get("hidden_activation", "gelu_pytorch_tanh"))
    _check_value(config, "query_pre_attn_scalar", width, config.get("query_pre_attn_scalar", 256))
    _check_value(
        config, "rope_local_base_freq", GEMMA3_LOCAL_BASE, config.get("rope_local_base_freq", GEMMA3_LOCAL_BASE)
    )
    kinds = config.get("layer_types") or [
        "sliding_attention" if block % int(config.get("sliding_window_pattern", GEMMA3_PATTERN)) else "full_attention"
        for block in range(1, blocks + 1)
    ]
    expected = ["sliding_attention" if block % GEMMA3_PATTERN else "full_attention" for block in range(1, blocks + 1)]
    if kinds != expected:
        raise ExportError(
            "a model of type 'gemma3_text' whose blocks with a window are not the first five of every six cannot be written as a GGUF: "
            "llama.cpp computes no other pattern"
        )


def _check_value(config: Mapping[str, Any], key: str, expected: object, said: object) -> None:
    """Refuse a value of a config that llama.cpp does not compute."""
    if said != expected:
        raise ExportError(
            f"a model of type {config['model_type']!r} with {key} {said!r} cannot be written as a GGUF: llama.cpp computes {expected!r}"
        )


# RoPE scaling ----------------------------------------------------------------------------------------------------


def _scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling that a config asks for, with its kind as rope_type; empty where there is none."""
    said = dict(config.get("rope_scaling") or {})
    kind = said.get("rope_type") or said.get("type") or "default"
    return {} if kind == "default" else {**said, "rope_type": kind}


def _rope_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a scaling. Llama 3's has none: `_divisors` are all there is of it."""
    scaling = _scaling(config)
    kind = scaling.get("rope_type")
    if kind is None:
        return {}
    if kind == "llama3" and config["model_type"] == "llama":
        return {}
    if kind not in ("linear", "yarn"):
        raise ExportError(
            f"RoPE scaling of kind {kind!r} cannot be written as a GGUF of a {config['model_type']} model; linear and yarn can, "
            "and llama3 of a llama model"
        )
    factor = float(scaling["factor"])
    keys: dict[str, Any] = {"rope.scaling.type": kind, "rope.scaling.factor": factor}
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]
        keys["rope.scaling.original_context_length"] = int(original)
        keys |= {
            f"rope.scaling.yarn_{name}": float(scaling[name])
            for name in ("beta_fast", "beta_slow")
            if scaling.get(name)
        }
        _check_yarn(scaling, factor)
    return keys


def _check_yarn(scaling: Mapping[str, Any], factor: float) -> None:
    """Refuse a scaling of the attention that is not YaRN's own, 0.1 ln(factor) + 1."""
    own = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    attention = scaling.get("attention_factor")
    others = [name for name in ("mscale", "mscale_all_dim") if scaling.get(name)]
    if others or (attention is not None and not math.isclose(attention, own, rel_tol=1e-3)):
        raise ExportError(
            f"YaRN with {others[0] if others else 'attention_factor'} of its own cannot be written as a GGUF; expected none, "
            f"which means {own:.4f}"
        )


def _divisors(config: Mapping[str, Any], scaling: Mapping[str, Any], head_dim: int) -> NDArray[np.float32]:
    """What a llama3 scaling divides each frequency by, (head_dim / 2,)."""
    return rope_divisors(
        head_dim,
        float(config.get("rope_theta", 10000.0)),
        float(scaling["factor"]),
        low=float(scaling.get("low_freq_factor", 1.0)),
        high=float(scaling.get("high_freq_factor", 4.0)),
        original=int(scaling.get("original_max_position_embeddings", 8192)),
    ).astype(np.float32)
