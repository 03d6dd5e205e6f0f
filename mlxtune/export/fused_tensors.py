"""The weights of a base model with an adapter folded in, some rows at a time, in float32. NumPy only; nothing is written.

    fused = FusedTensors(folder, config, architecture, adapter)
    for name, shape in fused.shapes.items():
        for rows in fused.chunks(name):          # float32
            ...

Each weight is read from its place in the safetensors files, as far as it is needed: beside the adapter, no more than
`CHUNK_VALUES` weights are in memory in float32, whatever the size of the model. Where MLX has packed a weight, it is unpacked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.adapter import Adapter
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import MAGNITUDE
from mlxtune.errors import ExportError, ModelError
from mlxtune.models.source import TensorPlace, text_weights

CHUNK_VALUES = 1 << 21  # weights in float32 at a time: 8 MB, and a few times that while they are quantized

_FLOATS: dict[str, Any] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_PACKED = "U32"
_WORD_BITS = 32


@dataclass(frozen=True)
class _Packing:
    """How MLX packed a weight: bits of each value, and values that share a scale and an offset."""

    bits: int
    group_size: int


class FusedTensors:
    """The weights of a model folder, folded with an adapter.

    Args:
        folder: Model folder, quantized (MLX's affine packing) or not.
        config: Its config.json, settled.
        architecture: Its architecture.
        adapter: What to fold in; None reads the base alone.

    Raises:
        ModelError: The folder lacks a weight, has one that the model type does not have, or one of another shape or type.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], architecture: Architecture, adapter: Adapter | None
    ) -> None:
        self.shapes = architecture.weights
        self._folder = folder
        self._adapter = adapter
        self._places: dict[str, tuple[Path, TensorPlace]] = {
            name: (stored.file, stored.place) for name, stored in text_weights(folder).items()
        }
        self._packings = {
            name: _packing(folder, config, name.removesuffix(".weight"))
            for name in self.shapes
            if name in self._places and self._places[name][1].dtype == _PACKED
        }
        self._check(architecture.is_tied)

    def chunks(self, name: str, unit: int = 1) -> Iterator[NDArray[np.float32]]:
        """Consecutive rows of a weight, all of them in turn.

        Args:
            name: As in `shapes`.
            unit: Rows that stay together; each chunk has a multiple of it.

        Yields:
            (rows, columns) of a matrix, (values,) of a vector.

        Raises:
            ModelError: The file ends before the weight does.
            ExportError: A value is not a number.
        """
        n_rows, *columns = self.shapes[name]
        fitting = CHUNK_VALUES // max(1, math.prod(columns)) // unit
        step = unit * max(1, fitting)
        for start in range(0, n_rows, step):
            rows = self._folded(name, start, min(start + step, n_rows))
            if not np.isfinite(rows).all():
                raise ExportError(
                    f"{name}: holds values that are no numbers, in {self._folder} or by the adapter; export another checkpoint"
                )
            yield rows

    def _folded(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows from `start` to `stop`: W + scale x B A, with DoRA each as long as its magnitude."""
        rows = self._unpacked(name, start, stop) if name in self._packings else self._floats(name, start, stop)
        layer = name.removesuffix(".weight")
        if self._adapter is None or not name.endswith(".weight") or layer not in self._adapter.spec.layers:
            return rows
        a, b = (self._adapter.weights[f"{layer}.lora_{factor}"] for factor in "AB")  # (r, in), (out, r)
        rows += np.float32(self._adapter.spec.scale) * (b[start:stop] @ a)
        if self._adapter.spec.has_magnitudes:
            magnitudes = self._adapter.weights[f"{layer}.{MAGNITUDE}"][start:stop]
            rows *= (magnitudes / np.linalg.norm(rows, axis=1))[:, None]
        return rows

    def _unpacked(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of a packed weight: scale x value + offset, each group of columns with its own."""
        packing = self._packings[name]
        layer = name.removesuffix(".weight")
        values = _values(self._raw(name, start, stop), packing.bits)
        groups = values.reshape(stop - start, -1, packing.group_size).astype(np.float32)
        groups *= self._floats(f"{layer}.scales", start, stop)[..., None]
        groups += self._floats(f"{layer}.biases", start, stop)[..., None]
        return groups.reshape(stop - start, -1)

    def _floats(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        stored = self._raw(name, start, stop)
        if stored.dtype == np.uint16:  # bfloat16 is the upper half of a float32
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32)

    def _raw(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows as they are stored."""
        file, place = self._places[name]
        columns = place.shape[1:]
        dtype = np.dtype("<u4") if place.dtype == _PACKED else _FLOATS[place.dtype]
        width = math.prod(columns)
        count = (stop - start) * width
        stored = np.fromfile(file, dtype, count, offset=place.start + start * width * dtype.itemsize)
        if stored.size < count:
            raise ModelError(f"{file}: ends within {name}; get the model from where it came from again")
        return stored.reshape(stop - start, *columns)

    def _check(self, tied: bool) -> None:
        """Every weight of the model type is there, in its shape and a type that can be read, and nothing else is."""
        used: set[str] = set()
        for name, shape in self.shapes.items():
            packing = self._packings.get(name)
            expected = {name: (shape, tuple(_FLOATS))} if packing is None else _packed_parts(name, shape, packing)
            for part, (part_shape, dtypes) in expected.items():
                if part not in self._places:
                    raise ModelError(
                        f"{self._folder}: lacks the weight {part}; get the model from where it came from again"
                    )
                place = self._places[part][1]
                if place.shape != part_shape or place.dtype not in dtypes:
                    raise ModelError(
                        f"{self._folder}: {part} is {' x '.join(map(str, place.shape))} of type {place.dtype}; expected "
                        f"{' x '.join(map(str, part_shape))} of type {' or '.join(dtypes)}"
                    )
            used |= expected.keys()
        for name in self._places.keys() - used:
            unused = name.endswith("rotary_emb.inv_freq") or (tied and name.startswith("lm_head."))
            if not unused:
                raise ModelError(f"{self._folder}: has the weight {name}, which no model of this type has")


def _packing(folder: Path, config: Mapping[str, Any], layer: str) -> _Packing:
    """How a layer is packed: as `quantization` of config.json says of it, or of all."""
    said = config.get("quantization") or config.get("quantization_config")
    if not isinstance(said, Mapping):
        raise ModelError(f"{folder}: {layer} is quantized, but config.json has no 'quantization' that says how")
    own = said.get(layer)
    settings = {**said, **own} if isinstance(own, Mapping) else said
    bits, group_size, mode = settings.get("bits"), settings.get("group_size"), settings.get("mode", "affine")
    if (
        mode != "affine"
        or not isinstance(bits, int)
        or not isinstance(group_size, int)
        or not 0 < bits <= 8
        or group_size < 1
    ):
        raise ModelError(
            f"{folder}: {layer} is quantized as {mode!r} with {bits} bits in groups of {group_size}; only MLX's affine "
            "quantization can be exported; train on, or name with --set model.path=..., a base that is not quantized so"
        )
    return _Packing(bits, group_size)


def _packed_parts(
    name: str, shape: tuple[int, ...], packing: _Packing
) -> dict[str, tuple[tuple[int, ...], tuple[str, ...]]]:
    """Names, shapes and possible types of what MLX stores of a packed weight."""
    layer = name.removesuffix(".weight")
    n_out, n_in = shape
    groups = (n_out, n_in // packing.group_size)
    floats = tuple(_FLOATS)
    return {
        name: ((n_out, n_in * packing.bits // _WORD_BITS), (_PACKED,)),
        f"{layer}.scales": (groups, floats),
        f"{layer}.biases": (groups, floats),
    }


def _values(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Values of some bits each, packed one behind the other from the lowest bit of the first word on, (rows, columns)."""
    if bits == 8:
        return words.view(np.uint8)
    if bits == 4:
        packed = words.view(np.uint8)
        return np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1).reshape(len(words), -1)
    flags = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little").reshape(len(words), -1, bits)
    return np.packbits(flags, axis=-1, bitorder="little")[..., 0]
