"""A model folder or .gguf file -> an MLX model folder, optionally quantized, as the MLX backend writes it.

The tensors are the same to the last bit, quantized ones too, and so is config.json. It runs on the CPU, layer by layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlxtune.backends import conversion
from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.backends.torch.affine import Packing, quantize, to_words
from mlxtune.backends.torch.architecture import architecture
from mlxtune.backends.torch.checkpoint import Change, Checkpoint, Parts, open_checkpoint, write_checkpoint
from mlxtune.models.source import check_folder, read_config


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


def write_model(folder: Path, config: dict[str, Any], checkpoint: Checkpoint, change: Change) -> WrittenModel:
    """Write a checkpoint with each layer changed, with a config and the files that lie beside its weights."""
    n_bytes = write_checkpoint(folder, config, checkpoint, change)
    conversion.copy_companions(checkpoint.folder, folder)
    n_weights = architecture(config).n_parameters
    return WrittenModel(folder, conversion.folder_bytes(folder), n_weights, 8 * n_bytes / n_weights)


def cast(parts: Parts, dtype: torch.dtype | None) -> Parts:
    """The parts of a plain layer in a type; None is their own."""
    return parts if dtype is None else {part: tensor.to(dtype) for part, tensor in parts.items()}


def pack(parts: Parts, packing: Packing) -> Parts:
    """The parts of a plain linear layer or embedding with its weight packed, as a file holds it."""
    packed = quantize(parts["weight"], packing.group_size, packing.bits)
    rest = {part: tensor for part, tensor in parts.items() if part != "weight"}
    return {"weight": to_words(packed.weight), "scales": packed.scales, "biases": packed.biases, **rest}


def _convert_folder(source: Path, folder: Path, spec: ConvertSpec, name: str) -> WrittenModel:
    check_folder(source, str(source))
    conversion.check_unquantized(read_config(source), spec, name)
    dtype = None if spec.dtype is None else getattr(torch, spec.dtype)

    with open_checkpoint(source) as checkpoint:
        config = dict(checkpoint.config)
        widths = _widths(checkpoint)

        def change(layer: str, parts: Parts) -> Parts:
            parts = cast(parts, dtype)
            return pack(parts, Packing(spec.group_size, spec.bits)) if spec.bits and layer in widths else parts

        if spec.dtype is not None:
            conversion.state_dtype(config, spec.dtype)
        if spec.bits is not None:
            conversion.check_group_size(widths, spec.group_size, name)
            config["quantization"] = {"group_size": spec.group_size, "bits": spec.bits, "mode": "affine"}
        return write_model(folder, config, checkpoint, change)


def _widths(checkpoint: Checkpoint) -> dict[str, int]:
    """Layer -> width of the linear layers, embedding and head: whatever is a matrix and no router."""
    weights = {layer: parts["weight"] for layer, parts in checkpoint.layers.items() if "weight" in parts}
    routers = architecture(checkpoint.config).routers
    return {layer: weight.shape[1] for layer, weight in weights.items() if weight.dim() == 2 and layer not in routers}
