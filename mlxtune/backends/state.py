"""The state of a training that a backend saves and loads: adapter values and AdamW's moments. NumPy only.

Both backends read and write it through this file, so that a training begun on one continues on the other. All names
and shapes are the seam's: LAYER.lora_A (r, in), LAYER.lora_B (out, r), and with DoRA LAYER.magnitude (out,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import AdapterError
from mlxtune.files import write_safetensors

ADAPTER_FILE = "adapter.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TrainingState:
    """Adapter values, AdamW's first and second moments, named alike, and the optimizer steps taken."""

    weights: Arrays
    first_moments: Arrays
    second_moments: Arrays
    steps: int


def write_state(folder: Path, state: TrainingState) -> None:
    """Write a state into an existing folder."""
    moments = {f"{name}.first_moment": value for name, value in state.first_moments.items()}
    moments |= {f"{name}.second_moment": value for name, value in state.second_moments.items()}
    moments["steps"] = np.array([state.steps], np.int64)
    for file, arrays in ((ADAPTER_FILE, state.weights), (OPTIMIZER_FILE, moments)):
        write_safetensors(folder / file, {name: np.ascontiguousarray(value) for name, value in arrays.items()})


def read_state(folder: Path, names: tuple[str, ...]) -> TrainingState:
    """Read the state of an adapter whose values have these names.

    Raises:
        AdapterError: A file is missing or corrupt, or the state is of other layers, or of another kind of adapter.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights, moments = (load_file(folder / file) for file in (ADAPTER_FILE, OPTIMIZER_FILE))
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder}: its state cannot be read: {error}") from error
    expected = {f"{name}.{moment}" for name in names for moment in ("first_moment", "second_moment")} | {"steps"}
    if weights.keys() != set(names) or moments.keys() != expected:
        raise AdapterError(f"{folder}: its adapter adapts other layers than the one being trained")
    return TrainingState(
        {name: weights[name] for name in names},
        {name: moments[f"{name}.first_moment"] for name in names},
        {name: moments[f"{name}.second_moment"] for name in names},
        int(moments["steps"][0]),
    )


def require_shapes(folder: Path, state: TrainingState, own: Arrays) -> None:
    """Refuse a state whose values have other shapes than the adapter's own, as one of another rank or base has.

    Raises:
        AdapterError: Names the first that differs.
    """
    for arrays in (state.weights, state.first_moments, state.second_moments):
        for name, value in own.items():
            if arrays[name].shape != value.shape:
                expected, got = (" x ".join(map(str, array.shape)) for array in (value, arrays[name]))
                raise AdapterError(f"{folder}: {name}: expected {expected}, as in the adapter being trained, got {got}")
