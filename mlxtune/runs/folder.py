"""The run folder: its files, how one is made, found and kept to one writer. Complete evidence of one training run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlxtune.errors import RunError
from mlxtune.files import heal, write_json, write_text
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import AUTO, Recipe
from mlxtune.runs.layout import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CHECKPOINTS,
    EVALUATIONS,
    EXPORTS,
    FUSED,
    LOCK_FILE,
    METRICS_FILE,
    MODEL,
    MODEL_CONFIG,
    MODEL_WEIGHTS,
    RECIPE_FILE,
    RUN_FILE,
    RUNS,
    VERIFY,
    VERIFY_FILE,
    checkpoint_folders,
)


class RunFolder:
    """Paths of a run folder; `layout.py` says what each file holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / RECIPE_FILE
        self.run_file = path / RUN_FILE
        self.metrics_file = path / METRICS_FILE
        self.checkpoints = path / CHECKPOINTS
        self.adapter = path / ADAPTER
        self.model = path / MODEL

    def __str__(self) -> str:
        return str(self.path)

    def evaluation(self, name: str) -> Path:
        """Folder of one evaluation: TUNED, BASE, or a name of the user's own."""
        return self.path / EVALUATIONS / name

    @property
    def fused(self) -> Path:
        """Where the base model with the adapter folded in goes, unless the user says another place."""
        return self.path / FUSED

    @property
    def exports(self) -> Path:
        """Where exports go, unless the user says another place."""
        return self.path / EXPORTS

    @property
    def verify(self) -> Path:
        """Where the replies of verified artifacts lie."""
        return self.path / VERIFY

    @property
    def verify_file(self) -> Path:
        """The scores of verified artifacts."""
        return self.path / VERIFY_FILE

    @property
    def is_full(self) -> bool:
        """Whether it holds a model that was trained whole, and so no adapter."""
        return (self.model / MODEL_CONFIG).is_file()

    @property
    def is_trained(self) -> bool:
        """Whether training came to an adapter, or to a model."""
        return self.is_full or (self.adapter / ADAPTER_CONFIG).is_file()

    @property
    def trained(self) -> Path:
        """The folder of what training made: the adapter, or the model."""
        return self.model if self.is_full else self.adapter

    @property
    def trained_file(self) -> Path:
        """The weights of what training made, by which it is known again."""
        return self.model / MODEL_WEIGHTS if self.is_full else self.adapter / ADAPTER_WEIGHTS

    def recipe(self) -> Recipe:
        """The recipe as resolved when the run was made."""
        return load_recipe(self.recipe_file)

    def with_its_passes(self, recipe: Recipe) -> Recipe:
        """A recipe that leaves to the machine how passes are computed, with what this run was started with.

        `train.tokens_per_pass`, since other passes would draw other dropout; it stays auto where the run has no number: 0.1.0 kept none.
        Gradient checkpointing, where `train.fit: auto` had turned it on.
        """
        began = self.recipe().train
        if recipe.train.tokens_per_pass == AUTO and began.tokens_per_pass != AUTO:
            recipe = recipe.with_tokens_per_pass(began.tokens_per_pass)
        chosen = self.info().get("memory", {}).get("checkpointing_chosen", False)
        if chosen and began.gradient_checkpointing and recipe.train.fit == AUTO:
            recipe = recipe.with_gradient_checkpointing()
        return recipe

    def info(self) -> dict[str, Any]:
        """run.json."""
        try:
            content = json.loads(self.run_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self}: not a run folder: {RUN_FILE} is missing") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.run_file}: cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise RunError(
                f"{self.run_file}: expected an object, as training writes it, got {json.dumps(content)[:40]}"
            )
        return content

    def update_info(self, **values: Any) -> None:
        """Change keys of run.json."""
        content = self.info() if self.run_file.exists() else {}
        write_json(self.run_file, {**content, **values})

    def heal(self) -> None:
        """Put right what a process left that was killed while it replaced a folder of this run."""
        for folder in (self.path, self.checkpoints, self.path / EVALUATIONS, self.exports):
            heal(folder)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder for writing; RunError if another process does."""
        return locked(self.path)

    def in_use(self) -> bool:
        """Whether another process is writing to it; also where that cannot be found out."""
        if not (self.path / LOCK_FILE).exists():
            return False
        try:
            with self.locked():
                return False
        except (RunError, OSError):
            return True


@contextmanager
def locked(folder: Path, advice: str = "wait for it or choose another --out") -> Iterator[None]:
    """Hold a folder for writing.

    Args:
        folder: It exists.
        advice: What to do where another process holds it.

    Raises:
        RunError: Another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(f"{folder}: another process is writing to it; {advice}") from None
    try:
        yield
    finally:
        lock.release()


def new_run(recipe: Recipe, out: Path | None, force: bool = False) -> RunFolder:
    """Make the folder of a new run.

    Args:
        recipe: Written into it as resolved.
        out: The folder; None is runs/NAME/UTC-TIME under the current folder.
        force: Replace a run that lies there.

    Raises:
        RunError: Something lies there, or it cannot be made.
    """
    out = free_run_path(recipe.name) if out is None else out
    run = RunFolder(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not out.is_dir() or not run.run_file.exists():
            raise RunError(f"{out}: exists and is not a run of mlxtune; choose another --out")
        if not force:
            raise RunError(f"{out}: holds a run already; choose another --out, or --force to replace it")
        with run.locked():
            shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(run.recipe_file, recipe.to_yaml())
    except OSError as error:
        raise RunError(f"{out}: the run folder cannot be written: {error.strerror}; choose another --out") from error
    return run


def free_run_path(recipe_name: str) -> Path:
    """Where a new run of a recipe goes unless the user says another place: runs/NAME/UTC-TIME under the current folder."""
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    parent = RUNS / recipe_name
    names = (stamp if number == 1 else f"{stamp}-{number}" for number in range(1, 1000))
    return next(path for name in names if not (path := parent / name).exists())


def open_run(path: Path) -> RunFolder:
    """An existing run folder.

    Raises:
        RunError: It is none; says what is missing.
    """
    run = RunFolder(path)
    if not path.exists():
        raise RunError(f"{path}: no such run folder; `mlxtune lora RECIPE` makes one under {RUNS}/")
    if not path.is_dir():
        raise RunError(f"{path}: expected a run folder, this is a file")
    for file in (run.recipe_file, run.run_file):
        if not file.is_file():
            raise RunError(
                f"{path}: not a run folder: {file.name} is missing; name a folder that `mlxtune lora` wrote, or list them with `mlxtune runs`"
            )
    run.heal()
    return run


def named_run(path: Path) -> RunFolder | None:
    """The run that a command's RECIPE|RUN names; None where that is a recipe: runs are folders, recipes files.

    Raises:
        RunError: It is a folder, and no run.
    """
    return open_run(path) if path.is_dir() else None


def latest_checkpointed_run(recipe_name: str, root: Path = RUNS) -> RunFolder | None:
    """The run of a recipe whose checkpoints were written last."""
    written = {
        run: max(step.stat().st_mtime for step in steps)
        for run in _runs_of(recipe_name, root)
        if (steps := checkpoint_folders(run.checkpoints))
    }
    return max(written, key=written.__getitem__) if written else None


def latest_run(recipe_name: str, root: Path = RUNS) -> RunFolder | None:
    """The newest run of a recipe that is trained, by the time its adapter or model was written."""
    found = [run for run in _runs_of(recipe_name, root) if run.is_trained]
    return max(found, key=lambda run: run.trained.stat().st_mtime) if found else None


def _runs_of(recipe_name: str, root: Path) -> Iterator[RunFolder]:
    """What lies where the runs of a recipe do, each healed."""
    for path in (root / recipe_name).glob("*"):
        run = RunFolder(path)
        run.heal()
        yield run
