"""A model folder or .gguf file -> an MLX model folder, optionally quantized. Nothing is trained or downloaded here.

The layout is mlx-lm's own: Hugging Face's files, plus "quantization" in config.json where weights are packed. Plain
folders are Hugging Face folders still, so transformers and PEFT read them as well.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Container
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import compute_bits_per_weight, quantize_model, save_config, save_model

from mlxtune.backends import conversion
from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.backends.mlx.architecture import architecture
from mlxtune.backends.mlx.loading import load_network
from mlxtune.backends.mlx.stored_weights import store_as_files_have


def convert(source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
    """Write `source` as an MLX model folder with its tokenizer and chat template.

    Args:
        source: A model folder, Hugging Face's or MLX's, or a .gguf file.
        out: The folder to write; must not exist, or be empty.
        spec: Quantization and type, as `conversion.convert` reads it.

    Raises:
        ModelError: The source cannot be read, is quantized already, or a layer's width does not suit the group size.
    """
    return conversion.convert(source, out, spec, _convert_folder, architecture)


def write_network(network: nn.Module, config: dict[str, Any], folder: Path, companions: Path) -> WrittenModel:
    """Save a network, which is empty afterwards, with config and the files that lie beside the weights of `companions`.

    Weights are read, computed and written shard by shard and never pass through NumPy, which has no bfloat16.

    Raises:
        OSError: They cannot be written.
    """
    bits = compute_bits_per_weight(network)
    store_as_files_have(network)
    try:
        save_model(folder, network, donate_model=True)
    except RuntimeError as error:  # MLX's of a full disk, without its number; other computations fail here, too
        if not str(error).startswith(("[write]", "[save_safetensors]")):
            raise
        raise OSError(str(error).rstrip(".")) from error
    save_config(config, folder / "config.json")
    conversion.copy_companions(companions, folder)
    return WrittenModel(folder, conversion.folder_bytes(folder), architecture(config).n_parameters, bits)


def set_type(network: nn.Module, config: dict[str, Any], dtype: str) -> None:
    """Cast all floating-point weights, and say so in the config."""
    network.set_dtype(getattr(mx, dtype))
    conversion.state_dtype(config, dtype)


def _convert_folder(source: Path, folder: Path, spec: ConvertSpec, name: str) -> WrittenModel:
    network, config = load_network(source)
    conversion.check_unquantized(config, spec, name)
    if spec.dtype is not None:
        set_type(network, config, spec.dtype)
    if spec.bits is not None:
        routers = architecture(config).routers
        conversion.check_group_size(_widths(network, routers), spec.group_size, name)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints; stdout is the command's
            network, config = quantize_model(
                network, config, spec.group_size, spec.bits, quant_predicate=lambda path, _: path not in routers
            )
    return write_network(network, config, folder, companions=source)


def _widths(network: nn.Module, routers: Container[str]) -> dict[str, int]:
    """Layer -> width of those that are quantized: all that mlx-lm can, but routers, which are small and choose."""
    modules = tree_flatten(network.leaf_modules(), is_leaf=nn.Module.is_module)
    found = {path: module.weight.shape[-1] for path, module in modules if hasattr(module, "to_quantized")}
    return {path: width for path, width in found.items() if path not in routers}
