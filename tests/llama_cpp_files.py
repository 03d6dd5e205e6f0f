"""A model as llama.cpp's own converter writes it into a .gguf: its names, orders and values, written down independently of ours.

    llama_cpp_file(tmp_path / "model.gguf", config, weights, tokenizer)

Source:
    conversion/gemma.py and conversion/qwen.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiny import add_facts

Weights = Mapping[str, NDArray[np.float32]]

ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
    "qwen3_5_text": "qwen35",
    "qwen3": "qwen3",
    "llama": "llama",
}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}  # fmt: skip
BLOCK_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps", "mlp.experts.down_proj": "ffn_down_exps",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.conv1d": "ssm_conv1d", "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
}  # fmt: skip


def llama_cpp_file(
    path: Path,
    config: Mapping[str, Any],
    weights: Weights,
    tokenizer: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    types: Mapping[str, tuple[Any, NDArray[np.uint8]]] | None = None,
) -> Path:
    """Write a .gguf in float32.

    Args:
        path: The file to write.
        config: config.json.
        weights: Under the names of Hugging Face's files.
        tokenizer: Its tokenizer.ggml.* metadata.
        metadata: To add or replace; None removes a key.
        types: Name in the file -> type and bytes of a tensor that is stored otherwise, (rows, bytes of a row).
    """
    from gguf import GGUFWriter

    architecture = ARCHITECTURES[config["model_type"]]
    facts = {
        **{f"{architecture}.{key}": value for key, value in facts_of(config).items()},
        **tokenizer,
        **(metadata or {}),
    }
    writer = GGUFWriter(path, architecture)
    add_facts(writer, facts)
    for name, value in stored_tensors(config, weights).items():
        if types and name in types:
            kind, content = types[name]
            writer.add_tensor(name, content, raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def facts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an architecture, without its prefix."""
    family, width = config["model_type"], config["head_dim"]
    rope = config.get("rope_parameters") or {}
    facts = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.freq_base": config.get("rope_theta") or rope["rope_theta"],
    }
    if family == "gemma3_text":  # neither the pattern nor the local RoPE: llama.cpp knows them
        facts["attention.sliding_window"] = config["sliding_window"]
    if family == "qwen3_moe":
        facts |= {
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
        }
    if family == "qwen3_5_text":
        facts |= {
            "ssm.conv_kernel": config["linear_conv_kernel_dim"],
            "ssm.state_size": config["linear_key_head_dim"],
            "ssm.group_count": config["linear_num_key_heads"],
            "ssm.time_step_rank": config["linear_num_value_heads"],
            "ssm.inner_size": config["linear_value_head_dim"] * config["linear_num_value_heads"],
            "full_attention_interval": config["full_attention_interval"],
            "rope.dimension_count": int(width * rope["partial_rotary_factor"]),
            "rope.dimension_sections": [*rope["mrope_section"], 0],
        }
    return facts


def stored_tensors(config: Mapping[str, Any], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Name in the file -> value."""
    stored = {}
    for name, value in with_stacked_experts(weights, config).items():
        if name.endswith("norm.weight") and config["model_type"] in ("gemma3_text", "qwen3_5_text"):
            value = value if "linear_attn" in name else value + 1
        if "linear_attn" in name:
            value = with_tiled_heads(name, value, config)
        stored[stored_name(name, config)] = value
    return stored


def stored_name(name: str, config: Mapping[str, Any]) -> str:
    """A tensor's name in the file."""
    if name in NAMES:
        return NAMES[name]
    _, _, block, inner = name.split(".", 3)
    if inner == "linear_attn.A_log":
        return f"blk.{block}.ssm_a"
    if inner == "linear_attn.dt_bias":
        return f"blk.{block}.ssm_dt.bias"
    module, _, kind = inner.rpartition(".")
    if module == "post_attention_layernorm":
        is_before_mlp = config["model_type"] in ("qwen3_moe", "qwen3", "llama")
        return f"blk.{block}.{'ffn_norm' if is_before_mlp else 'post_attention_norm'}.{kind}"
    return f"blk.{block}.{BLOCK_NAMES[module]}.{kind}"


def with_stacked_experts(weights: Weights, config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The weights, those of all experts of a block in one, (experts, out, in)."""
    whole = {name: value for name, value in weights.items() if ".experts." not in name}
    for block in range(config["num_hidden_layers"]):
        for layer in ("gate_proj", "up_proj", "down_proj"):
            at = f"model.layers.{block}.mlp.experts"
            experts = [weights.get(f"{at}.{expert}.{layer}.weight") for expert in range(config.get("num_experts", 0))]
            if experts:
                whole[f"{at}.{layer}.weight"] = np.stack([expert for expert in experts if expert is not None])
    return whole


def with_tiled_heads(name: str, value: NDArray[np.float32], config: Mapping[str, Any]) -> NDArray[np.float32]:
    """A weight of a gated delta net: the first value head of every key head comes first."""
    n_keys, n_values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    order = [key * (n_values // n_keys) + nth for nth in range(n_values // n_keys) for key in range(n_keys)]
    width, before = config["linear_value_head_dim"], 2 * n_keys * config["linear_key_head_dim"]
    rows = np.concatenate([np.arange(head * width, (head + 1) * width) for head in order])
    if name.endswith("A_log"):
        return -np.exp(value[order])
    if name.endswith(("dt_bias", "in_proj_a.weight", "in_proj_b.weight")):
        return value[order]
    if name.endswith("in_proj_z.weight"):
        return value[rows]
    if name.endswith("out_proj.weight"):
        return value[:, rows]
    if name.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        return np.concatenate([value[:before], value[before:][rows]]).squeeze()
    return value
