"""How a GGUF names and orders the tensors of a model, both ways; for what reads such files and what writes them.

Names: Hugging Face's `model.layers.3.self_attn.q_proj.weight` is llama.cpp's `blk.3.attn_q.weight`. Order: the llama family,
and it alone, has the rows of q and k interleaved, because llama.cpp rotates neighbouring values where Hugging Face rotates
the two halves of a head. What else differs in a family is said by its `Family`; `gguf_weights.py` does it.

Source:
    conversion/llama.py, gemma.py and qwen.py of llama.cpp; its gguf package, tensor_mapping.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROPE_DIVISORS = "rope_freqs.weight"

_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OWN_NAMES = {long: short for short, long in _NAMES.items()}
_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_QWEN3_MOE_BLOCK = {
    **_ATTENTION,
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_QWEN35_BLOCK = {
    **_ATTENTION,
    "post_attention_norm": "post_attention_layernorm",
    **_MLP,
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_a": "linear_attn.A_log",  # neither weight nor bias
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_LLAMA_BLOCK = {**_ATTENTION, "ffn_norm": "post_attention_layernorm", **_MLP}
_GEMMA3_BLOCK = {
    **_ATTENTION,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    **_MLP,
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Family:
    """A family of models, as Hugging Face and as llama.cpp name and store it.

    Attributes:
        architecture: Of general.architecture.
        model_type: Of config.json.
        model_class: transformers' class, of config.json's `architectures`.
        block_names: A tensor's name in a block of a GGUF -> its name in Hugging Face's block; where both end in .weight or .bias,
            without that.
        is_interleaved: Whether q and k have their rows in another order.
        adds_one: Whether the model multiplies by 1 + weight in its norms, so that a GGUF holds 1 + weight.
        has_experts: Whether its MLPs are mixtures of experts, of which a GGUF holds all in one tensor.
        has_delta_nets: Whether some of its blocks are gated delta nets, whose heads a GGUF holds in another order.
        dtype: What its weights become that are neither float32 nor bfloat16 in the file: float16, the type of the scales of
            quantized ones; bfloat16 where activations grow beyond what float16 holds.
    """

    architecture: str
    model_type: str
    model_class: str
    block_names: Mapping[str, str]
    is_interleaved: bool = False
    adds_one: bool = False
    has_experts: bool = False
    has_delta_nets: bool = False
    dtype: str = "float16"

    def hugging_face_name(self, name: str) -> str | None:
        """Hugging Face's name of a tensor of a GGUF; None where there is none.

        >>> FAMILIES["qwen3"].hugging_face_name("blk.3.attn_q.weight")
        'model.layers.3.self_attn.q_proj.weight'
        """
        if (whole := re.fullmatch(r"(\w+)\.(weight|bias)", name)) and whole[1] in _NAMES:
            return f"{_NAMES[whole[1]]}.{whole[2]}"
        if block := re.fullmatch(r"blk\.(\d+)\.(.+)", name):
            inner = _renamed(block[2], self.block_names)
            return None if inner is None else f"model.layers.{block[1]}.{inner}"
        return None

    def gguf_name(self, name: str) -> str | None:
        """A GGUF's name of a tensor that Hugging Face calls so; None where there is none.

        >>> FAMILIES["qwen3"].gguf_name("model.norm.weight")
        'output_norm.weight'
        """
        if block := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name):
            inner = _renamed(block[2], self._own_block_names)
            return None if inner is None else f"blk.{block[1]}.{inner}"
        module, _, kind = name.rpartition(".")
        return f"{_OWN_NAMES[module]}.{kind}" if module in _OWN_NAMES else None

    @cached_property
    def _own_block_names(self) -> dict[str, str]:
        return {long: short for short, long in self.block_names.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str | None:
    """A tensor's name in a block under the other names, .weight or .bias kept."""
    if name in names:
        return names[name]
    module, _, kind = name.rpartition(".")
    return f"{names[module]}.{kind}" if kind in ("weight", "bias") and module in names else None


FAMILIES = {
    family.architecture: family
    for family in (
        Family("llama", "llama", "LlamaForCausalLM", _LLAMA_BLOCK, is_interleaved=True),
        Family("qwen2", "qwen2", "Qwen2ForCausalLM", _LLAMA_BLOCK),
        Family("qwen3", "qwen3", "Qwen3ForCausalLM", _LLAMA_BLOCK),
        Family("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", _QWEN3_MOE_BLOCK, has_experts=True),
        Family("qwen35", "qwen3_5_text", "Qwen3_5ForCausalLM", _QWEN35_BLOCK, adds_one=True, has_delta_nets=True),
        Family("gemma3", "gemma3_text", "Gemma3ForCausalLM", _GEMMA3_BLOCK, adds_one=True, dtype="bfloat16"),
    )
}


def family_of(model_type: object) -> Family | None:
    """The family of a config.json's model_type; None where no GGUF of it is known here."""
    return next((family for family in FAMILIES.values() if family.model_type == model_type), None)


def interleaved(rows: NDArray[Any], n_heads: int) -> NDArray[Any]:
    """Rows of q or k from Hugging Face's order to a GGUF's.

    Args:
        rows: Of whole heads, (n_heads x head_dim, ...), each head's first halves of the rotary pairs, then the second ones.
        n_heads: How many heads these are.

    Returns:
        The same shape, the two of a pair beside each other.
    """
    pairs = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def deinterleaved(rows: NDArray[Any], n_heads: int) -> NDArray[Any]:
    """`interleaved`, undone."""
    pairs = rows.reshape(n_heads, rows.shape[0] // n_heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows.shape))


def rope_divisors(
    head_dim: int, theta: float, factor: float, *, low: float = 1.0, high: float = 4.0, original: int = 8192
) -> NDArray[np.float64]:
    """By what Llama 3 divides each rotary frequency, all that a GGUF keeps of its scaling, (head_dim / 2,).

    Args:
        head_dim: Width of a head.
        theta: RoPE's base.
        factor: Of the scaling: how much slower the slowest frequencies turn.
        low: Turns within the original context below which a frequency is scaled in full.
        high: Turns above which it is left alone.
        original: Positions that the model was pretrained on, tokens.

    Source:
        _compute_llama3_parameters of transformers' modeling_rope_utils.py.
    """
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelengths - low) / (high - low), 0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return divisors
