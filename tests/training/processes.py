"""One of the processes that `test_processes.py` starts with a launcher; not a test.

It trains the recipes of a folder together with the others, evaluates what came of them and writes what it saw to FOLDER/rank-N.json. One launch serves
several claims: starting Python and the libraries takes longer than training the tiny model.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlxtune.backends import choose
from mlxtune.backends.base import Backend, Batch, Group
from mlxtune.backends.group import settle
from mlxtune.errors import MlxtuneError
from mlxtune.evaluation.run import EvaluationOutcome, EvaluationRequest, run_evaluation
from mlxtune.evaluation.subject import find_subject
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.runs import shared_folder
from mlxtune.runs.copies import RunCopies, run_copies
from mlxtune.runs.folder import open_run
from mlxtune.training.loop import BatchSampler
from mlxtune.training.tune import tune

KINDS = ("dora", "full", "experts")  # beside LoRA of a model without experts, which the recipe trains
SHORT = 4  # steps that these take
# Evaluations of runs by several processes: the run and how it is asked. Several batches each, some of which are shorter.
EVALUATIONS = {"constrained": "shared", "best": "full-begun"}


def short(folder: Path, kind: str, steps: int = SHORT) -> list[str]:
    """Overrides of a recipe for a few steps of another kind of training."""
    kinds = {
        "dora": ["lora={type: dora}"],
        "full": ["lora={type: full}"],
        "experts": ["lora={rank: 4, alpha: 8}", f"model.path={folder / 'experts'}"],
    }
    return [*kinds[kind], f"train.max_steps={steps}", "train.best_metric=valid.loss"]


def evaluated(
    folder: Path, decoding: str, out: Path, backend: Backend, copies: RunCopies | None = None
) -> EvaluationOutcome:
    """An evaluation of `EVALUATIONS`, with probabilities, in batches of two rows."""
    run = folder / EVALUATIONS[decoding]
    subject = find_subject(
        run, ["evaluate.batch_size=2"], find=(lambda look: look()) if copies is None else copies.find
    )
    place = out if copies is None else copies.folder(out)
    request = EvaluationRequest(subject, place, decoding=decoding, probabilities=True)
    return run_evaluation(request, lambda: backend)


def main(folder: Path) -> None:
    """Train, resume, evaluate, and fail in several ways."""
    choice = choose("auto", "cpu")
    group = choice.backend.group()
    recipe_file = folder / "recipe.yaml"
    recipe = load_recipe(recipe_file)
    found: dict[str, Any] = {"rank": group.rank, "size": group.size, "events": 0}

    def count(event: Any) -> None:
        found["events"] += 1

    tune(recipe, choice, folder / "shared", on_event=count, measures=reply_metrics)
    with run_copies(group) as copies:
        begun = copies.find(lambda: open_run(folder / "begun"))
        with unseen(group):  # as on another machine
            tune(recipe, choice, resume=begun, measures=reply_metrics)
        full = copies.find(lambda: open_run(folder / "full-begun"))
        tune(load_recipe(recipe_file, short(folder, "full")), choice, resume=full)
    for kind in KINDS:
        steps = SHORT - 1 if kind == "full" else SHORT  # one process takes the last one
        tune(load_recipe(recipe_file, short(folder, kind, steps)), choice, folder / f"{kind}-shared")
    with run_copies(group) as copies:
        for decoding in EVALUATIONS:
            evaluated(folder, decoding, folder / f"{decoding}-shared", choice.backend, copies)
    found["differs"] = said(
        lambda: tune(load_recipe(recipe_file if group.rank == 0 else folder / "other.yaml"), choice, folder / "differs")
    )
    step = BatchSampler.step

    def broken(self: BatchSampler, number: int) -> list[Batch]:
        batches = step(self, number)
        if group.rank == 1 and number == 3:
            return [*batches, None]  # type: ignore[list-item]
        return batches

    setattr(BatchSampler, "step", broken)  # noqa: B010 - it is put in place of the method
    found["fails"] = said(lambda: tune(load_recipe(recipe_file, ["train.save_every=2"]), choice, folder / "fails"))
    (folder / f"rank-{group.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    settle(group)


@contextlib.contextmanager
def unseen(group: Group) -> Iterator[None]:
    """Let all processes but rank 0 see no file of its folders."""
    files_of = shared_folder.files_of
    if group.rank != 0:
        setattr(shared_folder, "files_of", lambda *args: [])  # noqa: B010
    yield
    setattr(shared_folder, "files_of", files_of)  # noqa: B010


def said(call: Callable[[], Any]) -> list[Any]:
    """The error that a call ends with: its name, message and exit code."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error), error.exit_code if isinstance(error, MlxtuneError) else None]
    return []


if __name__ == "__main__":
    main(Path(sys.argv[1]))
