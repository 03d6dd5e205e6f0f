"""What every export starts from: a run's recipe, its base model as a folder, and its adapter, which fits that base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.backends.adapter import Adapter, check_fits, read_adapter
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import Backend
from mlxtune.errors import ExportError, RunError
from mlxtune.models.base_model import base_folder, is_nested, require_base
from mlxtune.models.source import read_config, settled
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder


@dataclass(frozen=True)
class ExportSource:
    """A run that can be exported.

    Attributes:
        run: The run.
        recipe: As resolved when the run was made.
        base: Folder of the model that is exported: its base model, quantized (MLX's packing) or not, or the one that was trained whole.
        config: config.json of the base, with what it leaves open filled in (`models.source.settled`).
        architecture: Of the base.
        adapter: Its adapter; None where the base model alone is exported, or a model that was trained whole.
        is_nested: Whether the recipe's model is multimodal; all of the above is of its text part.
        trained_base: Folder of the base model that `base` was trained from; None where it was not.
    """

    run: RunFolder
    recipe: Recipe
    base: Path
    config: Mapping[str, Any]
    architecture: Architecture
    adapter: Adapter | None
    is_nested: bool = False
    trained_base: Path | None = None

    @property
    def is_trained(self) -> bool:
        """Whether it is more than a base model."""
        return self.adapter is not None or self.trained_base is not None

    @property
    def trained(self) -> Adapter:
        """The adapter of a format that is nothing without one."""
        if self.trained_base is not None:
            raise ExportError(
                f"{self.run}: was trained whole (lora.type: full), so it has no adapter, which is all that this format holds; "
                "write the model with --to hf, mlx, gguf or ollama"
            )
        if self.adapter is None:
            raise ExportError(
                f"{self.run}: expected a run with its adapter, which is all that this format holds; leave out --base"
            )
        return self.adapter


def open_source(run: RunFolder, backend: Backend, *, base_only: bool = False) -> ExportSource:
    """A run's parts, checked: it has an adapter, its base model is the one it was trained on, and they fit.

    Args:
        run: The run.
        backend: Converts the base model, where it is not a folder that can be read as it is.
        base_only: Leave the adapter out.

    Raises:
        RunError: The run has no adapter.
        AdapterError: The adapter cannot be read or does not fit the base model, or the base model is another one.
        ModelError: The base model cannot be found or read.
    """
    if not base_only and not run.is_trained:
        raise RunError(f"{run}: has no adapter yet; its training did not reach a checkpoint")
    recipe = run.recipe()
    base = base_folder(recipe.model, backend)
    require_base(base, run.info().get("base", {}).get("fingerprint"), str(run))
    trained_base = base if run.is_full and not base_only else None
    if trained_base is not None:
        base = run.model
    own = read_config(base)
    config = {**own, **settled(base, own)}
    architecture = backend.architecture(config)
    nested = is_nested(recipe.model)
    if base_only or trained_base is not None:
        return ExportSource(run, recipe, base, config, architecture, None, nested, trained_base)
    adapter = read_adapter(run.adapter)
    check_fits(adapter, architecture.linear_layers, str(run.adapter), str(base))
    return ExportSource(run, recipe, base, config, architecture, adapter, nested)
