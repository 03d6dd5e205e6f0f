"""A GGUF written one tensor at a time: metadata, then weights that are made while they are written. Knows no model.

At most one tensor is in memory, in the type in which it is stored, and some of its rows in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import ExportError
from mlxtune.models.source import HUB_ID
from mlxtune.recipe.sections import ModelSection, is_local_model

# What the gguf package can write -> number of general.file_type. K-quants it can only read.
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q5_1": 9, "Q5_0": 8, "Q4_1": 3, "Q4_0": 2}
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_WIDE = ("F32", "BF16")  # types with float32's range; the others hold float16, as values or as scales


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to be written.

    Attributes:
        name: A GGUF's.
        shape: (rows, columns) of a matrix, (values,) of a vector.
        kind: Key of FILE_TYPES.
        chunks: Called once: its rows in float32, one part after the other.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    chunks: Callable[[], Iterator[NDArray[np.float32]]]


def block_size(kind: str) -> int:
    """Values of a row that are quantized together; the row's width has to be a multiple of it."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return int(GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0])


def write_gguf(file: Path, architecture: str, metadata: Mapping[str, Any], tensors: Sequence[GgufTensor]) -> None:
    """Write a GGUF.

    Args:
        file: Where; what is there is overwritten.
        architecture: Of general.architecture.
        metadata: Key -> text, truth value, whole number (uint32), other number (float32), or a sequence of one of these.
        tensors: In this order.

    Raises:
        ExportError: A value is too large for the type in which it is stored.
        OSError: The disk is full, or the file cannot be written.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(file, architecture)
    for key, value in metadata.items():
        _add(writer, key, value)
    for tensor in tensors:
        kind = _type(tensor.kind)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), _n_bytes(tensor), raw_dtype=kind)
    with contextlib.closing(writer):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_stored(tensor).view(_Bytes))


class _Bytes(np.ndarray[Any, np.dtype[np.uint8]]):
    """An array that writes itself by Python: NumPy's own `tofile` loses what a full disk does not take of its last 4 KB, and
    raises nothing."""

    def tofile(self, stream: Any, sep: str = "", format: str = "%s") -> None:
        """Write the bytes; OSError where the disk is full."""
        stream.write(self.data)


def provenance(model: ModelSection) -> dict[str, Any]:
    """Metadata about the base model of what is written: its name, and its owner and address where it is on the Hub."""
    path = model.path
    keys: dict[str, Any] = {"general.base_model.count": 1, "general.base_model.0.name": base_name(model)}
    if HUB_ID.fullmatch(path) and not is_local_model(path) and not Path(path).exists():
        keys["general.base_model.0.organization"] = path.partition("/")[0]
        keys["general.base_model.0.repo_url"] = f"https://huggingface.co/{path}"
    return keys


def base_name(model: ModelSection) -> str:
    """What the base model is called: the last part of its path."""
    return Path(model.path).name


def _type(kind: str) -> Any:
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind]


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)


def _n_bytes(tensor: GgufTensor) -> int:
    from gguf import GGML_QUANT_SIZES

    values, size = GGML_QUANT_SIZES[_type(tensor.kind)]
    return prod(tensor.shape) // int(values) * int(size)


def _stored(tensor: GgufTensor) -> NDArray[np.uint8]:
    """A tensor's bytes."""
    from gguf.quants import quantize

    stored = np.empty(_n_bytes(tensor), np.uint8)
    at = 0
    for rows in tensor.chunks():
        largest = max(-float(rows.min(initial=0)), float(rows.max(initial=0)))
        if largest > LARGEST_FLOAT16 and tensor.kind not in _WIDE:
            raise ExportError(
                f"{tensor.name}: holds values up to {largest:,.0f}, {tensor.kind} holds up to {LARGEST_FLOAT16:,.0f}; write "
                "bf16 or f32 instead"
            )
        part = np.ascontiguousarray(quantize(rows, _type(tensor.kind))).reshape(-1).view(np.uint8)
        stored[at : at + part.size] = part
        at += part.size
    if at != stored.size:
        raise AssertionError(f"{tensor.name}: {at} of {stored.size} bytes were made")
    return stored
