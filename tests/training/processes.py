"""One of the processes that `test_processes.py` starts with a launcher; not a test.

It trains the recipes of a folder together with the others and writes what it saw to FOLDER/rank-N.json. One launch serves several claims: starting
Python and the libraries takes longer than training the tiny model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxtune.backends import choose
from mlxtune.backends.base import Batch
from mlxtune.backends.group import settle
from mlxtune.errors import MlxtuneError
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.copies import run_copies
from mlxtune.runs.folder import open_run
from mlxtune.training.loop import BatchSampler
from mlxtune.training.tune import tune

KINDS = ("dora", "full")  # beside LoRA, which the recipe trains


def short(kind: str) -> list[str]:
    """Overrides of a recipe for a few steps of another kind of training."""
    return [f"lora={{type: {kind}}}", "train.max_steps=4", "train.best_metric=valid.loss"]


def main(folder: Path) -> None:
    """Train, resume, and fail in several ways."""
    choice = choose("auto", "cpu")
    group = choice.backend.group()
    recipe = load_recipe(folder / "recipe.yaml")
    found: dict[str, Any] = {"rank": group.rank, "size": group.size, "events": 0}

    def count(event: Any) -> None:
        found["events"] += 1

    tune(recipe, choice, folder / "shared", on_event=count, measures=reply_metrics)
    with run_copies(group) as copies:
        begun = copies.find(lambda: open_run(folder / "begun"))
        tune(recipe, choice, resume=begun, measures=reply_metrics)
    for kind in KINDS:
        tune(load_recipe(folder / "recipe.yaml", short(kind)), choice, folder / f"{kind}-shared")
    found["differs"] = said(
        lambda: tune(
            load_recipe(folder / ("recipe.yaml" if group.rank == 0 else "other.yaml")), choice, folder / "differs"
        )
    )
    step = BatchSampler.step

    def broken(self: BatchSampler, number: int) -> list[Batch]:
        batches = step(self, number)
        if group.rank == 1 and number == 3:
            return [*batches, None]  # type: ignore[list-item]
        return batches

    setattr(BatchSampler, "step", broken)  # noqa: B010 - it is put in place of the method
    found["fails"] = said(
        lambda: tune(load_recipe(folder / "recipe.yaml", ["train.save_every=2"]), choice, folder / "fails")
    )
    (folder / f"rank-{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    settle(group)


def said(call: Callable[[], Any]) -> list[Any]:
    """The error that a call ends with: its name, message and exit code."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error), error.exit_code if isinstance(error, MlxtuneError) else None]
    return []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
