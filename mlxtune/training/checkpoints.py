"""Checkpoints of a run: adapter, optimizer and how far training had come. Each is whole, checksummed and on the disk.

    checkpoints.save(model, progress)                    # written beside its place, flushed, renamed
    progress = checkpoints.restore(model)                   # the last one that is intact

Kept are the last, the one before it, in case the last is corrupt, and the best. Of a model that is trained whole, of which a checkpoint
takes three times the weights' float32, the one before the last is not kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.backends.base import FullSpec, Group, Model, TuningSpec
from mlxtune.backends.group import together
from mlxtune.errors import RunError, TrainingError
from mlxtune.files import whole_folder, write_json
from mlxtune.runs.layout import (
    CHECKPOINT_INDEX,
    CHECKPOINT_STATE,
    checkpoint_folders,
    checkpoint_name,
    checkpoint_step,
)
from mlxtune.runs.shared_folder import share_folder
from mlxtune.training.diagnosis import Point

log = logging.getLogger(__name__)

VALUE_BYTES = 4  # of a trained value, float32
CHECKPOINT_BYTES = 3 * VALUE_BYTES  # of one with AdamW's two moments
BLOCK_BYTES = 1 << 20  # read at a time
FORMAT = 1  # raise it when a state says something else than before


@dataclass(frozen=True)
class Best:
    """The best validation so far: of which metric, its value, after which step."""

    metric: str
    value: float
    step: int

    @property
    def checkpoint(self) -> str:
        """Name of its checkpoint."""
        return checkpoint_name(self.step)

    def as_json(self) -> dict[str, Any]:
        """For run.json."""
        return {**asdict(self), "checkpoint": self.checkpoint}


@dataclass(frozen=True)
class Progress:
    """How far a training has come. Everything else about it follows from the recipe, the data and the step.

    Attributes:
        step: Optimizer steps taken.
        tokens: Tokens trained on.
        seconds: Time that took.
        train_loss: Loss of the last step.
        valid_loss: Last validation loss.
        best: Best validation so far.
        since_best: Validations since then.
        validated: Step of the last validation.
        validations: What a diagnosis looks at.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    train_loss: float | None = None
    valid_loss: float | None = None
    best: Best | None = None
    since_best: int = 0
    validated: int = 0
    validations: tuple[Point, ...] = ()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Progress:
        """What `asdict` made of one."""
        best = content["best"]
        read = cls(**{**content, "best": Best(**best) if best else None})
        return replace(read, validations=tuple(Point(**one) for one in content["validations"]))


class Checkpoints:
    """The checkpoints under one folder.

    Args:
        folder: The run's checkpoints/.
        n_last: How many of the last are kept.
    """

    def __init__(self, folder: Path, n_last: int = 2) -> None:
        self._folder, self._n_last = folder, n_last

    def save(self, model: Model, progress: Progress) -> Path:
        """Save the state after a step, and remove all but the last ones, this among them, and the best.

        Raises:
            TrainingError: It cannot be written; those before it are as they were. Says how much room it takes.
        """
        from safetensors import SafetensorError

        name = checkpoint_name(progress.step)
        try:
            with whole_folder(self._folder / name, durable=True) as new:
                model.save_state(new)
                state = {"format": FORMAT, "files": _checksums(new), "progress": asdict(progress)}
                write_json(new / CHECKPOINT_STATE, {**state, "checksum": _checksum_of(state)})
        except (OSError, SafetensorError) as error:
            raise TrainingError(self._cannot_write(progress.step, model, error)) from error
        best = progress.best.checkpoint if progress.best else None
        write_json(self._folder / CHECKPOINT_INDEX, {"last": name, "best": best})
        kept = {*self._names()[: self._n_last], best}
        for other in self._names():
            if other not in kept:
                shutil.rmtree(self._folder / other)
        return self._folder / name

    def restore(self, model: Model) -> Progress:
        """Load the last intact state into a model that is prepared for training.

        Args:
            model: With the same adapter.

        Raises:
            RunError: There is none.
            AdapterError: It is of another adapter.
        """
        for folder, progress in self._intact():
            model.load_state(folder)
            self._forget_after(progress.step)
            return progress
        raise RunError(f"{self._folder}: has no intact checkpoint to resume from; train from scratch with --force")

    def last(self) -> Progress | None:
        """How far the last intact checkpoint had come; None if there is none."""
        return next((progress for _, progress in self._intact()), None)

    def folder_of(self, step: int) -> Path:
        """Where the checkpoint of a step lies, if there is one."""
        return self._folder / checkpoint_name(step)

    def path_of(self, best: Best) -> Path:
        """The folder of the best checkpoint.

        Raises:
            RunError: It is gone or corrupt.
        """
        folder = self._folder / best.checkpoint
        if _read_intact(folder) is None:
            raise RunError(f"{folder}: the best checkpoint, of step {best.step}, is missing or damaged")
        return folder

    def _names(self) -> list[str]:
        """Names of all checkpoints, the last first."""
        return [path.name for path in checkpoint_folders(self._folder)]

    def _intact(self) -> Iterator[tuple[Path, Progress]]:
        for name in self._names():
            progress = _read_intact(self._folder / name)
            if progress is None:
                log.warning("%s: is damaged; using the checkpoint before it", self._folder / name)
            else:
                yield self._folder / name, progress

    def _forget_after(self, step: int) -> None:
        """Remove the checkpoints after a step, which are corrupt; their steps are repeated."""
        for name in self._names():
            if checkpoint_step(name) > step:
                shutil.rmtree(self._folder / name)

    def _cannot_write(self, step: int, model: Model, error: Exception) -> str:
        n_values = sum(math.prod(value.shape) for value in model.trained_weights().values())
        needed = n_values * CHECKPOINT_BYTES
        reason = getattr(error, "strerror", None) or error
        try:
            free = f"{shutil.disk_usage(self._folder).free / 1e6:,.0f} MB are free"
        except OSError:
            free = "the free space is unknown"
        return (
            f"step {step}: the checkpoint cannot be written to {self._folder}: {reason}; it takes {needed / 1e6:,.1f} MB "
            f"and {free}. Last good checkpoint: {last_good(self._folder)}. Free some disk space, then continue with --resume"
        )


def share_state(group: Group, model: Model, folder: Path) -> None:
    """Load the checkpoint that rank 0's model has into those of all processes, which need not see its files.

    Args:
        group: The processes.
        model: Prepared for training; rank 0's has the state already.
        folder: Of the checkpoint; rank 0's counts. A process that does not see it needs room for a copy in its temporary folder.
    """
    if group.size == 1:
        return
    with tempfile.TemporaryDirectory() as place:
        state = share_folder(group, folder, Path(place) / folder.name)
        with together(group):
            if group.rank != 0:
                model.load_state(state)


def n_kept(spec: TuningSpec) -> int:
    """How many of the last checkpoints are kept, beside the best one."""
    return 1 if isinstance(spec, FullSpec) else 2


def disk_bytes(n_values: int, spec: TuningSpec) -> int:
    """What a run takes on the disk at most, bytes: its checkpoints, one more while it is written, and the adapter or model.

    A model shares the file of a checkpoint's weights; an adapter has its own.
    """
    n_checkpoints = n_kept(spec) + 1 + 1  # the best one, and the one that is being written
    result = 0 if isinstance(spec, FullSpec) else n_values * VALUE_BYTES
    return n_values * n_checkpoints * CHECKPOINT_BYTES + result


def last_good(folder: Path) -> str:
    """The last checkpoint's path, for messages; 'none' before the first."""
    try:
        return str(folder / json.loads((folder / CHECKPOINT_INDEX).read_text(encoding="utf-8"))["last"])
    except (OSError, ValueError, KeyError):
        return "none"


def _read_intact(folder: Path) -> Progress | None:
    """What a checkpoint says, if every file is as it was written."""
    try:
        content = json.loads((folder / CHECKPOINT_STATE).read_text(encoding="utf-8"))
        checksum = content.pop("checksum")
        if checksum != _checksum_of(content) or content["format"] != FORMAT or content["files"] != _checksums(folder):
            return None
        return Progress.from_json(content["progress"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint but its state."""
    files = sorted(path for path in folder.iterdir() if path.name != CHECKPOINT_STATE)
    return {path.name: _sha256(path) for path in files}


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _checksum_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
