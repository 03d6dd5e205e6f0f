"""The config.json of a model that a .gguf file holds: shapes, RoPE, windows and ids, from its metadata. No weight is read.

What a GGUF leaves to llama.cpp's own classes (Gemma 3's pattern of windows, its local RoPE) is written out here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import ModelError
from mlxtune.models.gguf_file import open_gguf, read_number, read_value, shortest
from mlxtune.models.gguf_tensors import FAMILIES, ROPE_DIVISORS, Family, rope_divisors

QWEN35_INTERVAL = 4  # blocks, of which the last attends to all tokens and the others are gated delta nets
GEMMA3_PATTERN = 6  # blocks, of which the last sees all tokens and the others the last ones
GEMMA3_LOCAL_BASE = 10000.0  # of RoPE in the blocks with a window
GEMMA3_27B_BLOCKS = 62  # the one size that scales its attention by the width of a head as the hidden size gives it


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a GGUF.

    Raises:
        ModelError: Not a GGUF, corrupt, or an architecture that is not supported.
    """
    facts = _Facts.of(path)
    layers = facts.whole("block_count") - facts.whole("nextn_predict_layers", 0)
    for needed in ("token_embd.weight", "output_norm.weight", f"blk.{layers - 1}.attn_norm.weight"):
        if needed not in facts.shapes:
            raise ModelError(f"{path}: the GGUF lacks the tensor {needed}, so it holds no whole language model")
    heads, hidden = facts.whole("attention.head_count"), facts.whole("embedding_length")
    if heads < 1:
        raise ModelError(f"{path}: the GGUF is damaged: {facts.key('attention.head_count')} is {heads}")
    family = facts.family
    config = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": facts.whole("feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": facts.whole("attention.head_count_kv", heads),
        "head_dim": facts.whole("attention.key_length", hidden // heads),
        "vocab_size": facts.shapes["token_embd.weight"][0],
        "max_position_embeddings": facts.whole("context_length"),
        "rms_norm_eps": shortest(facts.number("attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest(facts.number("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in facts.shapes,
    }
    if scaling := _rope_scaling(facts, config):
        config["rope_scaling"] = scaling
    config |= _OWN_KEYS[family.architecture](facts, config)
    return {key: value for key, value in {**config, **_token_ids(path)}.items() if value is not None}


def read_family(path: Path) -> Family:
    """The family of the model that a GGUF holds.

    Raises:
        ModelError: It is not supported, or the file is not the whole model.
    """
    architecture = read_value(path, "general.architecture")
    if not isinstance(architecture, str) or architecture not in FAMILIES:
        raise ModelError(
            f"{path}: architecture {architecture!r} is not supported; supported: {', '.join(FAMILIES)}; of other families "
            "give the Hugging Face folder or Hub id that the GGUF was made of"
        )
    if (n_files := read_number(path, "split.count", 1) or 0) > 1:
        raise ModelError(
            f"{path}: one part of a GGUF in {n_files:g} files; join them first with "
            "`llama-gguf-split --merge FIRST OUT`"
        )
    family = FAMILIES[architecture]
    if not family.has_experts and (read_number(path, f"{architecture}.expert_count") or 0) > 0:
        mixtures = ", ".join(name for name, one in FAMILIES.items() if one.has_experts)
        raise ModelError(
            f"{path}: a mixture of experts of architecture {architecture!r}, which is not supported; mixtures that are: {mixtures}"
        )
    return family


def token_id(path: Path, name: str) -> int | None:
    """The id that a GGUF has for "bos", "eos", "eot", "unknown" or "padding"."""
    value = read_number(path, f"tokenizer.ggml.{name}_token_id")
    return None if value is None else int(value)


@dataclass(frozen=True)
class _Facts:
    """The metadata of a file under its architecture's prefix, and the shapes of its tensors as Hugging Face has them."""

    path: Path
    family: Family
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, path: Path) -> _Facts:
        shapes = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in open_gguf(path).tensors}
        return cls(path, read_family(path), shapes)

    def key(self, name: str) -> str:
        """A key in full."""
        return f"{self.family.architecture}.{name}"

    def value(self, name: str) -> Any:
        """A value; None where there is none."""
        return read_value(self.path, self.key(name))

    def number(self, name: str, default: float | None = None) -> float:
        """A number, which there has to be unless there is a default."""
        found = read_number(self.path, self.key(name), default)
        if found is None:
            raise ModelError(
                f"{self.path}: the GGUF lacks {self.key(name)}; it is damaged or was written by a very old tool"
            )
        return found

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number, likewise."""
        return int(self.number(name, default))


# What each architecture has of its own ---------------------------------------------------------------------------


def _llama_keys(facts: _Facts, config: dict[str, Any]) -> dict[str, Any]:
    biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
    return {"hidden_act": "silu", **{key: name in facts.shapes for key, name in biases.items()}}


def _qwen2_keys(facts: _Facts, config: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False, "head_dim": None}  # Qwen2's class has no width of a head


def _qwen3_keys(facts: _Facts, config: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_bias": False}


def _qwen3_moe_keys(facts: _Facts, config: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp's own class has experts in every block, and weighs those that are used by shares that sum to 1."""
    return {
        **_qwen3_keys(facts, config),
        "num_experts": facts.whole("expert_count"),
        "num_experts_per_tok": facts.whole("expert_used_count"),
        "moe_intermediate_size": facts.whole("expert_feed_forward_length"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen35_keys(facts: _Facts, config: dict[str, Any]) -> dict[str, Any]:
    """The gated delta nets, which blocks they are, and a RoPE that turns a part of each head."""
    interval = facts.whole("full_attention_interval", QWEN35_INTERVAL)
    recurrent = facts.value("attention.recurrent_layers")
    blocks = range(config["num_hidden_layers"])
    if isinstance(recurrent, list) and [bool(recurrent[block]) for block in blocks] != [
        (block + 1) % interval != 0 for block in blocks
    ]:
        raise ModelError(
            f"{facts.path}: {facts.key('attention.recurrent_layers')}: expected the last of every {interval} blocks, and no other, to "
            "attend to all tokens"
        )
    v_heads = facts.whole("ssm.time_step_rank")
    turned = facts.whole("rope.dimension_count", config["head_dim"] // 4)
    sections = facts.value("rope.dimension_sections") or [0]
    return {
        "hidden_act": "silu",
        "attention_bias": False,
        "attn_output_gate": True,
        "full_attention_interval": interval,
        "layer_types": ["linear_attention" if (block + 1) % interval else "full_attention" for block in blocks],
        "linear_conv_kernel_dim": facts.whole("ssm.conv_kernel"),
        "linear_key_head_dim": facts.whole("ssm.state_size"),
        "linear_num_key_heads": facts.whole("ssm.group_count"),
        "linear_num_value_heads": v_heads,
        "linear_value_head_dim": facts.whole("ssm.inner_size") // v_heads,
        "rope_theta": None,
        "rope_scaling": None,
        "rope_parameters": {
            "rope_type": "default",
            **config.get("rope_scaling", {}),
            "rope_theta": config["rope_theta"],
            "partial_rotary_factor": turned / config["head_dim"],
            "mrope_section": sections[:3],
            "mrope_interleaved": True,
        },
    }


def _gemma3_keys(facts: _Facts, config: dict[str, Any]) -> dict[str, Any]:
    """Windows, local RoPE and the scale of the attention, which llama.cpp's own class of Gemma 3 sets where the file is silent."""
    if facts.number("final_logit_softcapping", 0.0):
        raise ModelError(
            f"{facts.path}: {facts.key('final_logit_softcapping')}: its logits are capped, which no Gemma 3 of "
            "Google's does and is not supported"
        )
    window = facts.whole("attention.sliding_window", 0)
    pattern = facts.whole("attention.sliding_window_pattern", GEMMA3_PATTERN) if window else 1
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    scaled_by = config["hidden_size"] // heads if layers == GEMMA3_27B_BLOCKS else config["head_dim"]
    kinds = ["full_attention" if block % pattern == 0 else "sliding_attention" for block in range(1, layers + 1)]
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scaled_by,
        "sliding_window": window or config["max_position_embeddings"],
        "sliding_window_pattern": pattern,
        "layer_types": kinds,
        "rope_local_base_freq": shortest(facts.number("rope.freq_base_swa", GEMMA3_LOCAL_BASE)),
    }


_OWN_KEYS: dict[str, Callable[[_Facts, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama_keys,
    "qwen2": _qwen2_keys,
    "qwen3": _qwen3_keys,
    "qwen3moe": _qwen3_moe_keys,
    "qwen35": _qwen35_keys,
    "gemma3": _gemma3_keys,
}


def _token_ids(path: Path) -> dict[str, Any]:
    """Ids that a config names; several end a text where a model has an end of turn besides its end of text."""
    bos, eos, eot, pad = (token_id(path, name) for name in ("bos", "eos", "eot", "padding"))
    ends = list(dict.fromkeys(token for token in (eos, eot) if token is not None))
    return {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends or None, "pad_token_id": pad}


# RoPE scaling ----------------------------------------------------------------------------------------------------


def _rope_scaling(facts: _Facts, config: dict[str, Any]) -> dict[str, Any] | None:
    kind = facts.value("rope.scaling.type")
    frequencies = next((tensor for tensor in open_gguf(facts.path).tensors if tensor.name == ROPE_DIVISORS), None)
    if frequencies is not None:
        return _llama3_scaling(facts.path, config, np.array(frequencies.data, dtype=np.float32))
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"{facts.path}: RoPE scaling of kind {kind!r} is not supported; supported: linear, yarn")
    factor = read_number(facts.path, facts.key("rope.scaling.factor"))
    if factor is None:
        raise ModelError(f"{facts.path}: the GGUF lacks {facts.key('rope.scaling.factor')}, by which it scales RoPE")
    scaling = {"rope_type": kind, "type": kind, "factor": float(factor)}
    if (original := read_number(facts.path, facts.key("rope.scaling.original_context_length"))) is not None:
        scaling["original_max_position_embeddings"] = int(original)
    for name in ("beta_fast", "beta_slow"):
        if (turns := read_number(facts.path, facts.key(f"rope.scaling.yarn_{name}"))) is not None:
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
