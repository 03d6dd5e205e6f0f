"""The state of a training that a backend saves and loads: values of what is trained and AdamW's moments. NumPy only.

Both backends read and write it through this file, so that a training begun on one continues on the other. All names
and shapes are the seam's: LAYER.lora_A (r, in), LAYER.lora_B (out, r), and with DoRA LAYER.magnitude (out,); of a network that is
trained whole, those of the model's files. Arrays are written and read one after the other: a whole network's would
not fit in memory a second time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import AdapterError

ADAPTER_FILE = "adapter.safetensors"
WEIGHTS_FILE = "weights.safetensors"  # in its place where a network is trained whole
OPTIMIZER_FILE = "optimizer.safetensors"
STEPS = "steps"  # of the optimizer file

Arrays = Mapping[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]


class LazyArrays(Mapping[str, NDArray[np.float32]]):
    """Arrays that are made each time they are asked for, so that one at a time is in memory.

    Args:
        shapes: Of each, in order.
        make: Name -> the array.
    """

    def __init__(self, shapes: Shapes, make: Callable[[str], NDArray[np.float32]]) -> None:
        self.shapes, self._make = shapes, make

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if name not in self.shapes:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class TrainingState:
    """Values of what is trained, AdamW's first and second moments, named alike, and the optimizer steps taken."""

    weights: LazyArrays
    first_moments: LazyArrays
    second_moments: LazyArrays
    steps: int


def write_state(folder: Path, state: TrainingState, is_adapter: bool = True) -> None:
    """Write a state into an existing folder.

    Args:
        folder: Where.
        state: What.
        is_adapter: Of an adapter; otherwise of a network that is trained whole.

    Raises:
        OSError: It cannot be written.
    """
    _write(folder / (ADAPTER_FILE if is_adapter else WEIGHTS_FILE), state.weights)
    moments = {"first_moment": state.first_moments, "second_moment": state.second_moments}
    shapes = {f"{name}.{kind}": shape for kind, one in moments.items() for name, shape in one.shapes.items()}

    def moment(name: str) -> NDArray[np.float32]:
        own, _, kind = name.rpartition(".")
        return moments[kind][own]

    _write(folder / OPTIMIZER_FILE, LazyArrays(shapes, moment), np.array([state.steps], np.int64))


def trained_file(folder: Path) -> Path:
    """The file of a state that holds the values of what is trained."""
    weights = folder / WEIGHTS_FILE
    return weights if weights.is_file() else folder / ADAPTER_FILE


def read_state(folder: Path, names: tuple[str, ...]) -> TrainingState:
    """Read the state of a training whose trained values have these names.

    Raises:
        AdapterError: A file is missing or corrupt, or the state is of other layers, or of another kind of training.
    """
    from safetensors import SafetensorError

    try:
        weights, moments = _read(trained_file(folder)), _read(folder / OPTIMIZER_FILE)
        steps = int(moments[STEPS][0]) if STEPS in moments else 0
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder}: its state cannot be read: {error}") from error
    expected = {f"{name}.{moment}" for name in names for moment in ("first_moment", "second_moment")} | {STEPS}
    if set(weights) != set(names) or set(moments) != expected:
        raise AdapterError(f"{folder}: its adapter adapts other layers than the one being trained")

    def of(arrays: LazyArrays, suffix: str = "") -> LazyArrays:
        shapes = {name: arrays.shapes[f"{name}{suffix}"] for name in names}
        return LazyArrays(shapes, lambda name: arrays[f"{name}{suffix}"])

    return TrainingState(of(weights), of(moments, ".first_moment"), of(moments, ".second_moment"), steps)


def require_shapes(folder: Path, state: TrainingState, own: Shapes) -> None:
    """Refuse a state whose values have other shapes than what is trained, as one of another rank or base has.

    Raises:
        AdapterError: Names the first that differs.
    """
    for arrays in (state.weights, state.first_moments, state.second_moments):
        for name, shape in own.items():
            if arrays.shapes[name] != shape:
                expected, got = (" x ".join(map(str, one)) for one in (shape, arrays.shapes[name]))
                raise AdapterError(f"{folder}: {name}: expected {expected}, as in the adapter being trained, got {got}")


def _write(file: Path, arrays: LazyArrays, steps: NDArray[np.int64] | None = None) -> None:
    """A safetensors file, array by array; the library's own writer wants all of them at once."""
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in arrays.shapes.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # as transformers wants it of a model's weights
    end = 0
    if steps is not None:
        header[STEPS] = {"dtype": "I64", "shape": [1], "data_offsets": [0, steps.nbytes]}
        end = steps.nbytes
    for name, shape in arrays.shapes.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + sizes[name]]}
        end += sizes[name]
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        if steps is not None:
            stream.write(steps.tobytes())
        for name in arrays:
            _append(stream, arrays[name])


def _append(stream: BinaryIO, array: NDArray[np.float32]) -> None:
    stream.write(np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data)


def _read(file: Path) -> LazyArrays:
    """The arrays of a safetensors file, each read when it is asked for."""
    from safetensors import safe_open

    opened: Any = safe_open(file, framework="numpy")
    shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - no mapping
    return LazyArrays(shapes, opened.get_tensor)
