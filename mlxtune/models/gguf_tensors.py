"""How a GGUF names and orders the tensors of a model, both ways; for what reads such files and what writes them.

Names: Hugging Face's `model.layers.3.self_attn.q_proj.weight` is llama.cpp's `blk.3.attn_q.weight`. Order: the llama family,
and it alone, has the rows of q and k interleaved, because llama.cpp rotates neighbouring values where Hugging Face rotates
the two halves of a head.

Source:
    conversion/llama.py of llama.cpp; its gguf package, tensor_mapping.py.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
INTERLEAVED = ("llama",)  # architectures whose q and k have their rows in another order
ROPE_DIVISORS = "rope_freqs.weight"

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
_OWN_NAMES = {long: short for short, long in _NAMES.items()}
_OWN_BLOCK_NAMES = {long: short for short, long in _BLOCK_NAMES.items()}


def hugging_face_name(name: str) -> str | None:
    """Hugging Face's name of a tensor of a GGUF; None where there is none.

    >>> hugging_face_name("blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    if (whole := re.fullmatch(r"(\w+)\.(weight|bias)", name)) and whole[1] in _NAMES:
        return f"{_NAMES[whole[1]]}.{whole[2]}"
    if (block := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)) and block[2] in _BLOCK_NAMES:
        return f"model.layers.{block[1]}.{_BLOCK_NAMES[block[2]]}.{block[3]}"
    return None


def gguf_name(name: str) -> str | None:
    """A GGUF's name of a tensor that Hugging Face calls so; None where there is none.

    >>> gguf_name("model.norm.weight")
    'output_norm.weight'
    """
    module, _, kind = name.rpartition(".")
    if module in _OWN_NAMES:
        return f"{_OWN_NAMES[module]}.{kind}"
    block = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", module)
    if block and block[2] in _OWN_BLOCK_NAMES:
        return f"blk.{block[1]}.{_OWN_BLOCK_NAMES[block[2]]}.{kind}"
    return None


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
