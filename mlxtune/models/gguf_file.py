"""A .gguf file opened by the gguf package, and single values of its metadata, with errors that name the file."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import ModelError
from mlxtune.models.gguf_layout import UnknownVersion, check_layout


def check(path: Path) -> None:
    """Raise ModelError unless the file begins as a GGUF does; whether it is whole shows when it is read, in seconds."""
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic != b"GGUF":
        raise ModelError(f"{path}: not a GGUF file: it begins with {magic!r}, a GGUF with b'GGUF'")


def open_gguf(path: Path) -> Any:
    """The gguf package's reader of a file: `fields` by key, and `tensors`; the last file stays open.

    Raises:
        ModelError: Not a GGUF, of an unknown version, truncated or damaged.
    """
    status = path.stat()
    return _open_version(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _open_version(path: Path, n_bytes: int, modified_ns: int) -> Any:
    """The gguf package's reader; parsing a vocabulary takes it seconds, so the last file stays open."""
    check(path)
    from gguf import GGUFReader

    class Reader(GGUFReader):  # type: ignore[misc]
        """Slices the file as a plain array: np.memmap's own slicing takes most of the time that a vocabulary does."""

        @property
        def data(self) -> Any:
            return self._bytes

        @data.setter
        def data(self, memory_map: Any) -> None:
            self._bytes = np.asarray(memory_map)

    try:
        check_layout(path)
        return Reader(path)
    except UnknownVersion as error:
        raise ModelError(f"{path}: a GGUF of {error}; take a newer file, or the model's own folder or Hub id") from None
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise ModelError(
            f"{path}: the GGUF is truncated or damaged ({n_bytes:,} bytes; {error}); download it again"
        ) from error


def read_value(path: Path, key: str) -> Any:
    """A value of the metadata; None where there is none."""
    field = open_gguf(path).fields.get(key)
    try:
        return None if field is None else field.contents()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: the GGUF is damaged: {key} is not UTF-8 ({error}); download it again") from error


def read_number(path: Path, key: str, default: float | None = None) -> float | None:
    """A number of the metadata, whole or not."""
    value = read_value(path, key)
    if value is None:
        return default
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"{path}: {key}: expected a number, got {str(value)[:40]}")
    return value


def read_list(path: Path, key: str, kind: type) -> list[Any]:
    """A list of the metadata; empty where there is none."""
    value = read_value(path, key)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, kind) for one in value)):
        raise ModelError(f"{path}: {key}: expected a list of {kind.__name__}, got {str(value)[:40]}")
    return value or []


def read_tensor(path: Path, tensor: Any) -> NDArray[np.float32]:
    """Values of a tensor of the reader, dequantized, (rows, columns) as Hugging Face has them.

    Raises:
        ModelError: In a quantization that the gguf package cannot read.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    quantization = GGMLQuantizationType(tensor.tensor_type)
    try:
        value = dequantize(tensor.data, quantization)
    except NotImplementedError:
        raise ModelError(
            f"{path}: {tensor.name} is quantized as {quantization.name}, which the gguf package cannot read; "
            "take a GGUF of another quantization, such as Q8_0 or Q4_K_M"
        ) from None
    return np.ascontiguousarray(value.reshape(tuple(reversed(tensor.shape.tolist()))), dtype=np.float32)


def shortest(value: float) -> float:
    """The shortest decimal number that is this float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
