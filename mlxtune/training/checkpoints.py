"""Checkpoints of a run: the last and the best, each whole, older ones removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mlxtune.backends.base import Model
from mlxtune.files import whole_folder, write_json


class Checkpoints:
    """Writes checkpoints under one folder.

    Args:
        folder: The run's checkpoints/.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._best: tuple[float, str] | None = None

    def save(self, step: int, model: Model, epoch: float, valid_loss: float | None) -> Path:
        """Save the state after `step`, and remove all but this one and the best so far by validation loss.

        The checkpoint is there whole or not at all.
        """
        name = f"step-{step:06d}"
        with whole_folder(self._folder / name) as new:
            model.save_state(new)
            write_json(new / "state.json", {"step": step, "epoch": epoch, "valid_loss": valid_loss})
        if valid_loss is not None and (self._best is None or valid_loss < self._best[0]):
            self._best = (valid_loss, name)
        best = self._best[1] if self._best else None
        write_json(self._folder / "index.json", {"last": name, "best": best})
        for other in self._folder.glob("step-*"):
            if other.name not in (name, best):
                shutil.rmtree(other)
        return self._folder / name

    @property
    def best(self) -> tuple[float, str] | None:
        """Validation loss and name of the best checkpoint so far."""
        return self._best


def last_good(folder: Path) -> str:
    """The last checkpoint's path, for messages; 'none' before the first."""
    try:
        return str(folder / json.loads((folder / "index.json").read_text(encoding="utf-8"))["last"])
    except (OSError, ValueError, KeyError):
        return "none"
