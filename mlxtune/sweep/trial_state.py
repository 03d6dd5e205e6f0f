"""What lies in the folder of a sweep's trial, and so what is left to do for it. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxtune.data.reading import rows_files, rows_hash
from mlxtune.data.rows import content_hash
from mlxtune.errors import RunError
from mlxtune.recipe.sections import EXPECT, Recipe
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import CORRUPT, FAILED, FINISHED, RECIPE_FILE, SCORES_FILE, TUNED, checkpoint_folders
from mlxtune.runs.listing import look_at
from mlxtune.sweep.grid import Trial

Training = Literal["none", "resume", "whole"]
MAX_SHOWN = 40  # characters of a setting's value
BEGINNINGS = (RECIPE_FILE,)  # what a run that was killed at its very beginning leaves


@dataclass(frozen=True)
class TrialState:
    """What lies in a trial's folder, and so what is left to do.

    Attributes:
        training: 'none', 'whole', or 'resume' where it has a checkpoint to resume from.
        evaluated: Whether there are scores.
        changed: What differs from when the run was made, one clause each; such a run can only be trained again.
        changed_evaluation: The same of what its evaluation alone depends on.
        failed: It ended with an error.
        changed_conditions: Whether it was evaluated under other conditions (evaluate.expect), which are only checked anew.
    """

    training: Training
    evaluated: bool = False
    changed: tuple[str, ...] = ()
    changed_evaluation: tuple[str, ...] = ()
    failed: bool = False
    changed_conditions: bool = False


def trial_state(trial: Trial, folder: Path) -> TrialState:
    """What lies in a trial's folder.

    Raises:
        RunError: Something that is no run, a run that cannot be read, or one that another process is writing to.
    """
    if not folder.exists() or not RunFolder(folder).run_file.exists():
        if folder.exists() and any(name not in BEGINNINGS for name in _visible(folder)):
            raise RunError(f"{folder}: exists and is not a run of mlxtune; choose another --out")
        return TrialState("none")
    run = RunFolder(folder)
    if run.in_use():
        raise RunError(f"{folder}: another process is writing to it; wait for it")
    listed = look_at(folder)
    if listed.status == CORRUPT:
        raise RunError(f"{folder}: is damaged: {listed.problem}; delete it, or choose another --out")
    info = run.info()
    scores = tuned_scores(run)
    changed = list(_changed_keys(run, trial.recipe))
    data = list(_changed_data(info, trial.recipe))
    of_evaluation = [text for key, text in changed if _of_evaluation(key)]
    if scores is not None and _other_test_rows(scores, trial.recipe):
        of_evaluation.append("data.test: its rows have changed since")
    training: Training = "none"
    if listed.status == FINISHED and run.is_trained:
        training = "whole"
    elif checkpoint_folders(run.checkpoints):
        training = "resume"
    return TrialState(
        training,
        scores is not None,
        tuple([text for key, text in changed if not _of_evaluation(key)] + data),
        tuple(of_evaluation),
        listed.status == FAILED,
        scores is not None and run.recipe().evaluate.expect != trial.recipe.evaluate.expect,
    )


def tuned_scores(run: RunFolder) -> Mapping[str, Any] | None:
    """scores.json of the tuned model; None where there is none or it cannot be read."""
    try:
        content = json.loads((run.evaluation(TUNED) / SCORES_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "fields" in content else None


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else ["a file"]


def _of_evaluation(key: str) -> bool:
    return key == "data.test" or key.startswith("evaluate.")


def _changed_keys(run: RunFolder, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys of the recipe that differ from the run's, each with a clause."""
    before, now = (one.flat() for one in (run.recipe(), run.with_its_passes(recipe)))
    for key in {**before, **now}:
        if before.get(key) != now.get(key) and key != "name" and not key.startswith(("track", EXPECT)):
            yield key, f"{key} was {_shown(before.get(key))}, is {_shown(now.get(key))}"


def _changed_data(info: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """Training and validation files whose content is not what the run was made of."""
    for split in ("train", "valid"):
        began = ((info.get("data") or {}).get(split) or {}).get("sha256")
        files = rows_files(recipe, split)
        if (
            began is not None
            and files
            and all(Path(file).is_file() for file in files)
            and rows_hash(recipe, split) != began
        ):
            yield f"data.{split}: {', '.join(files)} has changed since"


def _other_test_rows(scores: Mapping[str, Any], recipe: Recipe) -> bool:
    evaluated, file = (scores.get("data") or {}).get("sha256"), recipe.data.test
    return bool(evaluated and file and Path(file).is_file() and content_hash(Path(file)) != evaluated)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
