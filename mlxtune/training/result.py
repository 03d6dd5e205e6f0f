"""What a training leaves in its run: adapter/, or model/ where all weights were trained. Made of a checkpoint; no backend."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import FullSpec, TuningSpec
from mlxtune.backends.state import read_state, trained_file
from mlxtune.files import whole_folder, write_json
from mlxtune.models.companions import copy_companions, state_dtype
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import MODEL_CONFIG, MODEL_WEIGHTS


@dataclass(frozen=True)
class TrainedBase:
    """The base model of a training.

    Attributes:
        name: As the recipe has it.
        folder: Its files; a model that is trained whole gets its tokenizer.
        is_nested: Whether it is multimodal; what is trained is its text part.
    """

    name: str
    folder: Path
    is_nested: bool


def write_result(
    run: RunFolder, checkpoint: Path, spec: TuningSpec, base: TrainedBase, config: Mapping[str, Any]
) -> None:
    """Write the adapter or the model of a checkpoint into its run, whole or not at all; an earlier one is replaced.

    Args:
        run: The run.
        checkpoint: Folder of its state.
        spec: What is trained.
        base: What it is trained on.
        config: The base's config.json.

    Raises:
        OSError: It cannot be written.
        AdapterError: The checkpoint cannot be read.
    """
    if isinstance(spec, FullSpec):
        _write_model(run.model, trained_file(checkpoint), base.folder, config)
        return
    weights = dict(read_state(checkpoint, spec.names).weights)
    write_adapter(run.adapter, Adapter(spec, weights, base.name, base.is_nested), int(config["num_hidden_layers"]))


def _write_model(out: Path, weights: Path, base: Path, config: Mapping[str, Any]) -> None:
    """A model folder of a checkpoint's weights, which take no room of their own: both names are of one file."""
    told = dict(config)
    state_dtype(told, "float32")
    with whole_folder(out) as new:
        copy_companions(base, new)
        write_json(new / MODEL_CONFIG, told)
        _share(weights, new / MODEL_WEIGHTS)


def _share(file: Path, name: Path) -> None:
    """A second name of a file, or a copy where the disk's format has no such names."""
    with contextlib.suppress(OSError):
        os.link(file, name)
        return
    shutil.copyfile(file, name)
