"""What a config.json says of a model: its linear layers, their shapes, its parameters. No weights are read.

Dense decoders of one shape: Qwen2 and Qwen2.5 (both "qwen2"), Qwen3, Llama. Names are Hugging Face's, which MLX keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mlxtune.errors import ModelError

MODEL_TYPES = ("qwen2", "qwen3", "llama")

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


def linear_layers(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Name -> (in, out) of every linear layer of the blocks, in order; the embedding and the head are not among them.

    Raises:
        ModelError: A model type that is not supported, or a config that lacks a key.

    >>> config = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    ...           "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 100}
    >>> linear_layers(config)["model.layers.0.self_attn.k_proj"]
    (8, 4)
    """
    check(config)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * head_dim(config)
    values = kv_heads(config) * head_dim(config)
    block = {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, values),
        "self_attn.v_proj": (hidden, values),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    return {
        f"model.layers.{layer}.{name}": shape
        for layer in range(config["num_hidden_layers"])
        for name, shape in block.items()
    }


def n_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of the model, tied embeddings counted once."""
    return sum(math.prod(shape) for shape in weight_shapes(config).values())


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight, matrices (out, in), in the order in which mlx-lm writes them.

    A tied head is not among them.
    """
    layers = linear_layers(config)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}

    def add(name: str) -> None:
        n_in, n_out = layers[name]
        shapes[f"{name}.weight"] = (n_out, n_in)
        if _has_bias(config, name):
            shapes[f"{name}.bias"] = (n_out,)

    for block in (f"model.layers.{layer}" for layer in range(config["num_hidden_layers"])):
        for part in ATTENTION:
            add(f"{block}.self_attn.{part}")
        if config["model_type"] == "qwen3":  # one norm for q, one for k, shared by the heads
            shapes |= {f"{block}.self_attn.{part}.weight": (head_dim(config),) for part in ("q_norm", "k_norm")}
        for part in ("gate_proj", "down_proj", "up_proj"):
            add(f"{block}.mlp.{part}")
        shapes |= {f"{block}.{part}.weight": (hidden,) for part in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm.weight"] = (hidden,)
    if not is_tied(config):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def lora_layers(
    config: Mapping[str, Any],
    targets: Literal["all", "attention", "mlp"] | Sequence[str] = "all",
    layers: Literal["all"] | int = "all",
) -> tuple[str, ...]:
    """Names of the linear layers that a recipe's `lora.targets` and `lora.layers` mean, in model order.

    Args:
        config: config.json.
        targets: "all", "attention", "mlp", or last parts of names: ["q_proj", "v_proj"].
        layers: Transformer blocks to adapt: "all", or that many from the end.

    Raises:
        ModelError: A target that the model does not have, or more layers than it has.
    """
    known = (*ATTENTION, *MLP)
    named: dict[str, tuple[str, ...]] = {"all": known, "attention": ATTENTION, "mlp": MLP}
    wanted = named[targets] if isinstance(targets, str) else tuple(targets)
    if not wanted:
        raise ModelError(f"lora.targets: names no layer; known: all, attention, mlp, {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise ModelError(f"lora.targets: the model has no layer named {name!r}; it has {', '.join(known)}")
    n_layers = config["num_hidden_layers"]
    if layers != "all" and not 1 <= layers <= n_layers:
        raise ModelError(f"lora.layers: expected 1 to {n_layers}, the layers this model has, got {layers}")
    first = 0 if layers == "all" else n_layers - layers
    return tuple(
        name for name in linear_layers(config) if name.rpartition(".")[2] in wanted and int(name.split(".")[2]) >= first
    )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding; transformers' default where the config is silent, no."""
    return bool(config.get("tie_word_embeddings", False))


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that a sequence may have, as far as RoPE scaling extends them; None where the config does not say.

    >>> max_positions({"max_position_embeddings": 32768, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
    131072
    """
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions < 1:
        return None
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("linear", "dynamic", "yarn"):  # llama3 and longrope state the extended number
        return positions
    original = scaling.get("original_max_position_embeddings") or positions
    return max(positions, int(original * float(scaling.get("factor") or 1)))


def check(config: Mapping[str, Any]) -> None:
    """Raise ModelError unless the config is of a supported model type, has what its shape needs, and attends to all tokens."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelError(
            f"config.json: model_type {model_type!r} is not supported; supported: {', '.join(MODEL_TYPES)}"
        )
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        if not isinstance(config.get(key), int):
            raise ModelError(f"config.json: expected a whole number under {key!r}, got {config.get(key)!r}")
    _check_window(config)


def _check_window(config: Mapping[str, Any]) -> None:
    """Refuse layers that see the last tokens only: mlx-lm and transformers each honour other keys of these."""
    layers, window, types = config["num_hidden_layers"], config.get("sliding_window"), config.get("layer_types")
    is_llama = config["model_type"] == "llama"  # which knows layer_types alone
    if types:
        n_windowed = sum(kind != "full_attention" for kind in types)
    elif is_llama or not config.get("use_sliding_window") or window is None:
        n_windowed = 0
    else:
        n_windowed = max(0, layers - int(config.get("max_window_layers", 28)))
    longest = max_positions(config)
    never_reached = not is_llama and isinstance(window, int) and longest is not None and window >= longest
    if n_windowed == 0 or never_reached:
        return
    size = f"{window:,}" if isinstance(window, int) else "few"
    remedy = "set use_sliding_window to false" + (" and remove layer_types" if types else "")
    raise ModelError(
        f"config.json: {n_windowed} of {layers} layers attend to the last {size} tokens only (sliding_window), which MLX and "
        f"PyTorch compute differently. For prompts and replies that together are no longer than that, full attention gives "
        f"the same result: {remedy} in config.json, and set train.max_tokens to that length or less"
    )


def kv_heads(config: Mapping[str, Any]) -> int:
    """Heads of keys and values."""
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def head_dim(config: Mapping[str, Any]) -> int:
    """Width of a head."""
    default = 128 if config["model_type"] == "qwen3" else config["hidden_size"] // config["num_attention_heads"]
    return int(config.get("head_dim") or default)


def _has_bias(config: Mapping[str, Any], name: str) -> bool:
    part = name.rpartition(".")[2]
    if config["model_type"] == "qwen2":
        return part in ("q_proj", "k_proj", "v_proj")
    return bool(config.get("attention_bias" if part in ATTENTION else "mlp_bias", False))
