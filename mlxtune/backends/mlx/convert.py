"""A model folder or .gguf file -> an MLX model folder, optionally quantized. Nothing is trained or downloaded here.

The layout is mlx-lm's own: Hugging Face's files, plus "quantization" in config.json where weights are packed. Plain
folders are Hugging Face folders still, so transformers and PEFT read them as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import compute_bits_per_weight, quantize_model, save_config, save_model

from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.backends.mlx.loading import load_network
from mlxtune.errors import ModelError
from mlxtune.models import gguf
from mlxtune.models.architecture import n_parameters
from mlxtune.models.writing import model_folder

GROUP_SIZES = (32, 64, 128)  # those that MLX has kernels for
BITS = (4, 8)
DTYPES = ("float32", "bfloat16", "float16")

# What a model folder has beside config and weights. Copied, not saved anew: transformers rewrites what it saves.
COMPANIONS = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template*",
    "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip


def convert(source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
    """Write `source` as an MLX model folder with its tokenizer and chat template.

    Args:
        source: A model folder, Hugging Face's or MLX's, or a .gguf file.
        out: The folder to write; must not exist, or be empty.
        spec: Quantization and type. Without a type, a folder keeps what it stores; a GGUF stored in float32 or bfloat16
            keeps that, and any other becomes float16, the type its quantization scales have.

    Raises:
        ModelError: The source cannot be read, is quantized already, or a layer's width does not suit the group size.
    """
    _check_spec(spec)
    with model_folder(out) as folder:
        if source.is_file():
            written = _convert_gguf(source, folder, spec)
        else:
            written = _convert_folder(source, folder, spec, name=str(source))
    return WrittenModel(out, written.n_bytes, written.n_parameters, written.bits_per_weight, written.notes)


def write_network(network: nn.Module, config: dict[str, Any], folder: Path, companions: Path) -> WrittenModel:
    """Save a network, which is empty afterwards, with config and the files that lie beside the weights of `companions`.

    Weights are read, computed and written shard by shard and never pass through NumPy, which has no bfloat16.
    """
    bits = compute_bits_per_weight(network)
    save_model(folder, network, donate_model=True)
    save_config(config, folder / "config.json")
    for pattern in COMPANIONS:
        for file in companions.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    return WrittenModel(folder, folder_bytes(folder), n_parameters(config), bits)


def set_type(network: nn.Module, config: dict[str, Any], dtype: str) -> None:
    """Cast all floating-point weights, and say so in the config."""
    network.set_dtype(getattr(mx, dtype))
    config.pop("dtype", None)  # transformers 5 writes this name
    config["torch_dtype"] = dtype


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _check_spec(spec: ConvertSpec) -> None:
    if spec.bits is not None and spec.bits not in BITS:
        raise ModelError(f"quantize: expected {' or '.join(map(str, BITS))} bits, got {spec.bits}")
    if spec.bits is not None and spec.group_size not in GROUP_SIZES:
        raise ModelError(
            f"group size: expected {', '.join(map(str, GROUP_SIZES))}, those MLX computes with, got {spec.group_size}"
        )
    if spec.dtype is not None and spec.dtype not in DTYPES:
        raise ModelError(f"dtype: expected {', '.join(DTYPES)}, got {spec.dtype!r}")


def _convert_gguf(source: Path, folder: Path, spec: ConvertSpec) -> WrittenModel:
    own = {"F32": "float32", "BF16": "bfloat16"}.get(gguf.stored_type(source), "float16")
    dtype = spec.dtype or own
    if spec.bits is None and dtype != "bfloat16":
        gguf.to_folder(source, folder, dtype)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        bits = 16 if dtype == "float16" else 32
        return WrittenModel(folder, folder_bytes(folder), n_parameters(config), bits)
    plain = folder.with_name(f"{folder.name}.gguf")
    try:
        gguf.to_folder(source, plain, "float16" if dtype == "float16" else "float32")
        return _convert_folder(plain, folder, ConvertSpec(spec.bits, spec.group_size, dtype), name=str(source))
    finally:
        shutil.rmtree(plain, ignore_errors=True)


def _convert_folder(source: Path, folder: Path, spec: ConvertSpec, name: str) -> WrittenModel:
    network, config = load_network(source)
    if "quantization" in config or "quantization_config" in config:
        asked = "--quantize" if spec.bits is not None else "--dtype" if spec.dtype is not None else None
        if asked:
            raise ModelError(
                f"{name}: is quantized already ({_describe(config)}), so {asked} cannot apply; "
                "take the unquantized model"
            )
    if spec.dtype is not None:
        set_type(network, config, spec.dtype)
    if spec.bits is not None:
        check_group_size(network, spec.group_size, name)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints; stdout is the command's
            network, config = quantize_model(network, config, spec.group_size, spec.bits)
    return write_network(network, config, folder, companions=source)


def check_group_size(network: nn.Module, group_size: int, name: str) -> None:
    """Raise ModelError if a layer would stay unquantized because the group size does not divide its width."""
    modules = tree_flatten(network.leaf_modules(), is_leaf=nn.Module.is_module)
    widths = {path: module.weight.shape[-1] for path, module in modules if hasattr(module, "to_quantized")}
    left = {path: width for path, width in widths.items() if width % group_size}
    if not left:
        return
    shown = ", ".join(f"{path} ({width})" for path, width in list(left.items())[:3])
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    fitting = [str(size) for size in GROUP_SIZES if not any(width % size for width in widths.values())]
    raise ModelError(
        f"{name}: a group size of {group_size} does not divide the width of {len(left)} of {len(widths)} layers, "
        f"which would stay unquantized: {shown}{more}; "
        + (f"use {' or '.join(fitting)}" if fitting else "no group size suits this model")
    )


def _describe(config: dict[str, Any]) -> str:
    quantization = config.get("quantization") or config["quantization_config"]
    if "bits" in quantization:
        return f"{quantization['bits']} bits, group size {quantization.get('group_size')}"
    return str(quantization.get("quant_method", "some kind"))
