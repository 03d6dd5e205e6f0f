"""Runs whose adapter is random and not zero, as exports start from them; and what they fold to, computed apart from our code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlxtune.backends.adapter import read_adapter
from mlxtune.export.source import ExportSource, open_source
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import new_run
from tests.conftest import chosen, write_recipe
from tests.export.test_fuse import random_adapter


def source_of(folder: Path, base: Path, *, base_only: bool = False, size: float = 0.1, **sections: Any) -> ExportSource:
    """A run on a model folder with a random adapter of all its layers, ready for export."""
    recipe = load_recipe(write_recipe(folder / "recipe", base, **sections))
    run = new_run(recipe, folder / "run", False)
    run.update_info(status="done")
    random_adapter(run.adapter, base, size=size)
    return open_source(run, chosen().backend, base_only=base_only)


def folded(source: ExportSource) -> dict[str, NDArray[np.float32]]:
    """The weights of a run's base, not quantized, with its adapter, in float64 and rounded once."""
    weights = load_file(source.base / "model.safetensors")
    adapter = read_adapter(source.run.adapter)
    for layer in adapter.spec.layers:
        a, b = (adapter.weights[f"{layer}.lora_{factor}"].astype(np.float64) for factor in "AB")
        weight = weights[f"{layer}.weight"].astype(np.float64) + adapter.spec.scale * b @ a
        weights[f"{layer}.weight"] = weight.astype(np.float32)
    return weights
