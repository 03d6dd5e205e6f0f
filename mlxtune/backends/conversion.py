"""What converting and fusing are on every backend: what may be asked, what is copied, what is said. No weight is read here.

A backend brings the function that turns one model folder into another; the rest of `convert` is the same for all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlxtune.backends.adapter import Adapter, check_fits
from mlxtune.backends.architecture import Architecture, ArchitectureOf
from mlxtune.backends.base import ConvertSpec, WrittenModel
from mlxtune.errors import AdapterError, ModelError
from mlxtune.models import gguf
from mlxtune.models.companions import copy_companions as copy_companions
from mlxtune.models.companions import state_dtype as state_dtype
from mlxtune.models.source import left_out
from mlxtune.models.writing import model_folder

GROUP_SIZES = (32, 64, 128)  # those that MLX has kernels for
BITS = (4, 8)
DTYPES = ("float32", "bfloat16", "float16")

TEXT_ALONE = "what is written is the text part of a multimodal model alone, which reads no images"

# Above this share of the adapter's own size, what requantizing moves is told to the user.
NOTABLE_LOSS = 0.1

# Turns a model folder (first) into one that exists and is empty (second); the last is what messages call the first.
ConvertFolder = Callable[[Path, Path, ConvertSpec, str], WrittenModel]


def convert(
    source: Path, out: Path, spec: ConvertSpec, convert_folder: ConvertFolder, architecture: ArchitectureOf
) -> WrittenModel:
    """Write a model folder or a .gguf file as an MLX model folder, whole or not at all.

    Args:
        source: A model folder, Hugging Face's or MLX's, or a .gguf file.
        out: The folder to write; must not exist, or be empty.
        spec: Quantization and type. Without a type, a folder keeps what it stores; a GGUF stored in float32 or bfloat16
            keeps that, and any other becomes float16, the type its quantization scales have, or bfloat16 of a Gemma.
        convert_folder: How the backend does it with a folder.
        architecture: The backend's.

    Raises:
        ModelError: The spec is impossible, or `convert_folder` refuses the source.
    """
    _check_spec(spec)
    with model_folder(out) as folder:
        if source.is_file():
            written = _convert_gguf(source, folder, spec, convert_folder, architecture)
        else:
            written = convert_folder(source, folder, spec, str(source))
    others = left_out(source) if source.is_dir() else None
    notes = (f"{others.as_text()}; {TEXT_ALONE}", *written.notes) if others else written.notes
    return WrittenModel(out, written.n_bytes, written.n_parameters, written.bits_per_weight, notes)


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def check_dtype(dtype: str | None) -> None:
    """Raise ModelError unless a model can be written in a type; None is its own."""
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"dtype: expected {', '.join(DTYPES)}, got {dtype!r}")


def check_unquantized(config: Mapping[str, Any], spec: ConvertSpec, name: str) -> None:
    """Raise ModelError where a quantized model is to be quantized or cast; copying it is fine."""
    asked = "--quantize" if spec.bits is not None else "--dtype" if spec.dtype is not None else None
    if asked and ("quantization" in config or "quantization_config" in config):
        raise ModelError(
            f"{name}: is already quantized ({_describe(config)}), so {asked} cannot be used; give the unquantized model"
        )


def check_group_size(widths: Mapping[str, int], group_size: int, name: str) -> None:
    """Raise ModelError if a layer would stay unquantized because the group size does not divide its width.

    Args:
        widths: Layer -> width of the layers that are quantized: linear ones, embedding and head.
        group_size: Elements that share a scale and a bias.
        name: What messages call the model.
    """
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


def check_fuse(
    adapter: Adapter,
    config: Mapping[str, Any],
    architecture: Architecture,
    names: tuple[Path, Path],
    requantize: bool,
    dtype: str | None,
) -> None:
    """Refuse to fuse what cannot be.

    Args:
        adapter: The adapter.
        config: The base's config.json.
        architecture: Of the base.
        names: The folders of adapter and base, for messages.
        requantize: Whether adapted layers are to be packed again.
        dtype: Type of the fused weights.

    Raises:
        AdapterError: The adapter does not fit the base, or is empty.
        ModelError: There is nothing to requantize, or a type asked for as well.
    """
    adapter_name, base_name = map(str, names)
    check_fits(adapter, architecture.linear_layers, adapter_name, base_name)
    if not adapter.spec.layers:
        raise AdapterError(f"{adapter_name}: adapts no layer, so there is nothing to fuse")
    if requantize and "quantization" not in config:
        raise ModelError(f"{base_name}: is not quantized, so there is nothing to requantize; leave out --requantize")
    if requantize and dtype is not None:
        raise ModelError(
            "--requantize and --dtype exclude each other: requantized weights are integers; give one of the two"
        )


def fuse_notes(base: Path, losses: Iterable[tuple[float, float]]) -> tuple[str, ...]:
    """That a multimodal base's text part is written alone, and what requantizing cost where it is worth saying.

    Args:
        base: The model folder.
        losses: Of each requantized layer, the squared norm of what packing moved, and that of the update.
    """
    of_base = (TEXT_ALONE,) if left_out(base) else ()
    moved, size = (sum(values) ** 0.5 for values in zip((0.0, 0.0), *losses, strict=True))
    if size == 0 or moved / size < NOTABLE_LOSS:
        return of_base
    return (
        *of_base,
        f"requantizing changed the adapted weights by {moved / size:.0%} of what the adapter changes; evaluate the result, "
        "or fuse without requantizing",
    )


def _check_spec(spec: ConvertSpec) -> None:
    if spec.bits is not None and spec.bits not in BITS:
        raise ModelError(f"quantize: expected {' or '.join(map(str, BITS))} bits, got {spec.bits}")
    if spec.bits is not None and spec.group_size not in GROUP_SIZES:
        raise ModelError(
            f"group size: expected {', '.join(map(str, GROUP_SIZES))} (the sizes that MLX supports), got {spec.group_size}"
        )
    check_dtype(spec.dtype)


def _convert_gguf(
    source: Path, folder: Path, spec: ConvertSpec, convert_folder: ConvertFolder, architecture: ArchitectureOf
) -> WrittenModel:
    dtype = spec.dtype or gguf.own_dtype(source)
    if spec.bits is None and dtype != "bfloat16":
        gguf.to_folder(source, folder, dtype)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        bits = 16 if dtype == "float16" else 32
        return WrittenModel(folder, folder_bytes(folder), architecture(config).n_parameters, bits)
    plain = folder.with_name(f"{folder.name}.gguf")
    try:
        gguf.to_folder(source, plain, "float16" if dtype == "float16" else "float32")
        return convert_folder(plain, folder, ConvertSpec(spec.bits, spec.group_size, dtype), str(source))
    finally:
        shutil.rmtree(plain, ignore_errors=True)


def _describe(config: Mapping[str, Any]) -> str:
    quantization = config.get("quantization") or config["quantization_config"]
    if "bits" in quantization:
        return f"{quantization['bits']} bits, group size {quantization.get('group_size')}"
    return str(quantization.get("quant_method", "some kind"))
