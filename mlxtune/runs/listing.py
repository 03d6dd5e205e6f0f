"""The runs that lie under a folder: what each is and takes on disk, and which checkpoints may go. Reads no weights.

for run in list_runs(Path("runs")): ...
plan = plan_cleaning([])            # the finished runs under runs/
removed = clean(plan)               # their checkpoints/, nothing else
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlxtune.errors import MlxtuneError, RunError
from mlxtune.recipe.yaml_text import YamlError, read_yaml
from mlxtune.runs.events import last_step
from mlxtune.runs.folder import RunFolder, open_run
from mlxtune.runs.layout import (
    ADAPTER,
    CHECKPOINTS,
    CORRUPT,
    CRASHED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    LOCK_FILE,
    METRICS_FILE,
    RECIPE_FILE,
    RUN_FILE,
    RUNS,
    TRAINING,
)

PARTS_OF_A_RUN = (RUN_FILE, METRICS_FILE, CHECKPOINTS, ADAPTER, LOCK_FILE)
CLEANABLE = FINISHED


@dataclass(frozen=True)
class Listed:
    """One run.

    Attributes:
        path: Its folder.
        recipe: Name of its recipe.
        backend: What computed.
        status: A `RunStatus`, as run.json has it; CRASHED where that says training and nobody holds the folder; CORRUPT
            where run.json cannot be read.
        step: Optimizer steps taken.
        steps: Optimizer steps planned.
        best: Best validation, {"metric", "value"}.
        created: When it began, or when its folder was last changed if that is not known.
        n_bytes: All its files.
        checkpoint_bytes: Those under checkpoints/.
        problem: What is wrong with it.
    """

    path: Path
    recipe: str | None
    backend: str | None
    status: str
    step: int | None
    steps: int | None
    best: dict[str, Any] | None
    created: datetime
    n_bytes: int
    checkpoint_bytes: int
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        content = asdict(self)
        content.pop("path")
        return {"run": str(self.path), **content, "created": self.created.isoformat(timespec="seconds")}


@dataclass(frozen=True)
class Cleaning:
    """What cleaning would remove, and which runs keep their checkpoints, and why."""

    remove: tuple[Listed, ...]
    kept: tuple[tuple[Path, str], ...]
    named: bool

    @property
    def n_bytes(self) -> int:
        """What it would free."""
        return sum(run.checkpoint_bytes for run in self.remove)


def list_runs(root: Path) -> list[Listed]:
    """Every run at or below a folder, the newest first.

    Raises:
        RunError: It is no folder.
    """
    if not root.is_dir():
        raise RunError(f"{root}: " + ("expected a folder, this is a file" if root.exists() else "no such folder"))
    return sorted((look_at(folder) for folder in _run_folders(root)), key=lambda run: run.created, reverse=True)


def look_at(folder: Path) -> Listed:
    """What a run folder says of itself; what is corrupt in it is said and not raised."""
    run = RunFolder(folder)
    run.heal()
    n_bytes, checkpoint_bytes = _size(folder), _size(run.checkpoints)
    recipe = _recipe_name(run.recipe_file)
    try:
        info = run.info()
    except (MlxtuneError, TypeError, ValueError) as error:
        wrong = str(error) if isinstance(error, MlxtuneError) else f"{run.run_file}: holds no keys with values"
        return Listed(
            folder, recipe, None, CORRUPT, None, None, None, _changed(folder), n_bytes, checkpoint_bytes, wrong
        )
    status = _text(info.get("status")) or CORRUPT
    problem = info.get("error") if status == FAILED else None
    if status == CORRUPT:
        problem = f"{run.run_file}: says no status"
    if status == TRAINING and not run.in_use():
        status = CRASHED
    # run.json has the step of a training that ended normally; otherwise metrics.jsonl has it.
    step = _whole(info.get("step")) if status in (FINISHED, INTERRUPTED) else last_step(run.metrics_file)
    steps = info.get("steps")
    return Listed(
        path=folder,
        recipe=recipe,
        backend=_text(info.get("backend")),
        status=status,
        step=step,
        steps=_whole(steps.get("total")) if isinstance(steps, dict) else None,
        best=_best(info),
        created=_time(info.get("created")) or _changed(folder),
        n_bytes=n_bytes,
        checkpoint_bytes=checkpoint_bytes,
        problem=_text(problem),
    )


def plan_cleaning(named: Sequence[Path], root: Path = RUNS) -> Cleaning:
    """Which runs' checkpoints may be removed.

    Args:
        named: Runs that the user named: they may have ended in any way. None named: the finished ones under `root`.
        root: Where runs lie.

    Raises:
        RunError: What was named is no run, is corrupt, or is being written to.
    """
    if named:
        runs = [look_at(open_run(path).path) for path in {os.path.realpath(path): path for path in named}.values()]
    else:
        runs = list_runs(root) if root.is_dir() else []
    remove, kept = [], []
    for run in runs:
        if (why := _why_not(run, bool(named))) is None:
            remove.append(run)
        elif named and why != NOTHING:
            raise RunError(f"{run.path}: {why}; nothing was removed")
        else:
            kept.append((run.path, why))
    return Cleaning(tuple(remove), tuple(kept), bool(named))


def clean(plan: Cleaning) -> Iterator[tuple[Path, int]]:
    """Remove the checkpoints that were planned, one run after the other.

    Yields:
        Each run and the bytes that it took, once they are gone.

    Raises:
        RunError: A run began to be written to since.
    """
    for planned in plan.remove:
        folder = RunFolder(planned.path)
        with folder.locked():
            now = look_at(planned.path)
            if now.status != planned.status and not (planned.status == CRASHED and now.status == TRAINING):
                raise RunError(
                    f"{planned.path}: its status changed from {planned.status} to {now.status} in the meantime; check the run, and clean again"
                )
            shutil.rmtree(folder.checkpoints)
        yield planned.path, planned.checkpoint_bytes


NOTHING = "has no checkpoints"


def _why_not(run: Listed, named: bool) -> str | None:
    """Why a run's checkpoints stay; None if they may go."""
    folder = RunFolder(run.path)
    if run.status == CORRUPT:
        return f"is damaged: {run.problem}"
    if folder.in_use():
        return "another process is writing to it"
    if folder.checkpoints.is_symlink():
        return "checkpoints is a link to another place"
    if not folder.checkpoints.is_dir():
        return NOTHING
    if run.status != CLEANABLE and not named:
        return f"{run.status}: its checkpoints are needed to resume it"
    return None


def _run_folders(root: Path) -> Iterator[Path]:
    """Folders that are runs, or were to be; nothing inside a run, hidden or behind a link is looked at."""
    for place, folders, files in os.walk(root):
        if RECIPE_FILE in files and any(part in files or part in folders for part in PARTS_OF_A_RUN):
            folders.clear()
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; a link counts as a link."""
    total = 0
    if folder.is_symlink():
        return total
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # removed meanwhile: training keeps few checkpoints
                continue
    return total


def _recipe_name(file: Path) -> str | None:
    """The name that a run's recipe begins with, without checking the rest: an old run's recipe still has one."""
    try:
        found = re.search(r"^name:.*$", file.read_text(encoding="utf-8"), re.MULTILINE)
        return _text(read_yaml(found[0])["name"]) if found else None
    except (OSError, ValueError, YamlError):
        return None


def _best(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """The best validation of run.json; one of an older run has the loss alone."""
    best = info.get("best")
    best = best if isinstance(best, dict) else {}
    if isinstance(best.get("metric"), str) and _is_number(best.get("value")):
        return {"metric": best["metric"], "value": best["value"]}
    loss = best.get("valid_loss", info.get("valid_loss"))
    return {"metric": "valid.loss", "value": loss} if _is_number(loss) else None


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _changed(folder: Path) -> datetime:
    return datetime.fromtimestamp(folder.stat().st_mtime, timezone.utc)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
