"""Values of a GGUF's tensors as Hugging Face stores them. Names are `gguf_tensors.py`, reading is `gguf_file.py`.

    for name, value in as_hugging_face("model.layers.0.input_layernorm.weight", stored, family, config):

Source:
    modify_tensors in conversion/llama.py, gemma.py and qwen.py of llama.cpp, undone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.models.gguf_tensors import Family, deinterleaved

Weight = NDArray[np.float32]


def as_hugging_face(
    name: str, value: Weight, family: Family, config: Mapping[str, Any]
) -> Iterator[tuple[str, Weight]]:
    """The weights that a tensor becomes: one, or one of each expert.

    Args:
        name: Hugging Face's, of `Family.hugging_face_name`.
        value: Of the file, the rows of a matrix first.
        family: Of the model.
        config: Its config.json.
    """
    if family.has_experts and ".mlp.experts." in name:
        block, _, projection = name.partition(".mlp.experts.")
        for expert, matrix in enumerate(value):
            yield f"{block}.mlp.experts.{expert}.{projection}", matrix
        return
    module = name.removesuffix(".weight").rpartition(".")[2]
    if family.is_interleaved and module in ("q_proj", "k_proj"):
        heads = config["num_attention_heads" if module == "q_proj" else "num_key_value_heads"]
        value = deinterleaved(value, heads)
    if family.has_delta_nets and ".linear_attn." in name:
        value = _of_delta_net(name.partition(".linear_attn.")[2], value, config)
    elif family.adds_one and value.ndim == 1:
        value = value - 1
    yield name, value


def _of_delta_net(part: str, value: Weight, config: Mapping[str, Any]) -> Weight:
    """A weight of a gated delta net, its value heads grouped by their key head again.

    With several value heads to a key head, llama.cpp has the first value head of every key head first, then the second ones.

    Args:
        part: Its name within the block's `linear_attn`.
        value: Of the file.
        config: config.json.
    """
    n_keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    if part == "norm.weight":
        return value
    if part == "out_proj.weight":
        return np.ascontiguousarray(_grouped(value.T, config).T)
    if part in ("in_proj_qkv.weight", "conv1d.weight"):  # rows of q, of k, of v
        value = np.concatenate([value[: 2 * n_keys], _grouped(value[2 * n_keys :], config)])
    else:
        value = _grouped(value, config)
    if part == "conv1d.weight":
        return value[:, None]  # (channels, 1, kernel)
    return np.log(-value) if part == "A_log" else value


def _grouped(rows: Weight, config: Mapping[str, Any]) -> Weight:
    """Rows of all value heads, (value heads x rows of each, ...), from llama.cpp's order to Hugging Face's."""
    n_keys, n_values = config["linear_num_key_heads"], config["linear_num_value_heads"]
    tiled = rows.reshape(n_values // n_keys, n_keys, len(rows) // n_values, *rows.shape[1:])
    return np.ascontiguousarray(tiled.swapaxes(0, 1).reshape(rows.shape))
