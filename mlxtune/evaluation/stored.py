"""An evaluation as it lies on disk, found by the path that a user names: a run, a folder in it, a sweep, a recipe.
Compares nothing, asks no model.

    open_evaluation(Path("runs/demo-intent/a")).scores["rows"]  # 68
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import Misuse, Problem, RunError
from mlxtune.evaluation.run import read_scores
from mlxtune.files import heal
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import BASE, RUNS, TUNED, RunFolder, latest_run, open_run


@dataclass(frozen=True)
class Evaluated:
    """One evaluation, as it lies on disk.

    Attributes:
        folder: With scores.json and predictions.jsonl.
        run: The run folder that it belongs to; None where it lies elsewhere.
        recipe: The run's; None where there is no run.
        info: run.json; empty where there is no run.
        scores: scores.json; None where the run was not evaluated and that is not asked for.
    """

    folder: Path
    run: RunFolder | None
    recipe: Recipe | None
    info: Mapping[str, Any]
    scores: Mapping[str, Any] | None

    @property
    def before_tuning(self) -> bool:
        """Whether it is of the base model, or of replies that no run wrote: nothing was trained for it."""
        if self.run is None:
            return True
        if self.scores is None or "adapter" not in self.scores:
            return self.folder.name == BASE
        return self.scores["adapter"] is None

    @property
    def title(self) -> str:
        """Where it lies, as a user names it."""
        return str(self.run if self.run and self.folder.name == TUNED else self.folder)


def open_evaluation(path: Path, name: str = TUNED, evaluated: bool = True) -> Evaluated:
    """The evaluation that a path names.

    Args:
        path: A run folder, an evaluation folder (RUN/evaluation/base), or a recipe, which stands for its newest run.
        name: Which evaluation of a run: 'tuned', 'base', or another folder under its evaluation/.
        evaluated: Whether there must be one; a run that was not evaluated still has settings, losses and costs.

    Raises:
        RunError: There is none; names the command that makes it.
        RecipeError: A recipe cannot be read.
    """
    heal(path.parent, path.name)
    if (
        path.is_dir()
        and not (path / "run.json").is_file()
        and ((path / "scores.json").is_file() or lies_in_a_run(path))
    ):
        place = path if len(path.parts) > 1 else path.absolute()
        run = open_run(place.parent.parent) if lies_in_a_run(path) else None
        scores = read_scores(path)
        if scores is None:
            raise RunError(f"{path}: holds no scores.json; make it with `mlxtune evaluate {run}`")
        return Evaluated(path, run, run.recipe() if run else None, run.info() if run else {}, scores)
    if path.is_dir() or not path.exists():
        run = open_run(path)
    else:
        recipe = load_recipe(path)
        newest = latest_run(recipe.name)
        if newest is None:
            raise RunError(f"{path}: no run of {recipe.name!r} under {RUNS}/; train one with `mlxtune lora {path}`")
        run = newest
    folder = run.evaluation(name)
    scores = read_scores(folder)
    if scores is None and evaluated:
        raise RunError(f"{run}: {_not_evaluated(run, name)}")
    return Evaluated(folder, run, run.recipe(), run.info(), scores)


def open_evaluations(paths: Sequence[Path], name: str = TUNED, evaluated: bool = True) -> list[Evaluated]:
    """The evaluations to compare, the first the one that the others are compared with; arguments as `open_evaluation`.

    The folder of a sweep stands for its runs that finished, in their order. One run alone is compared with its base model, which then comes first.

    Raises:
        Misuse: None are named, or one is named twice.
        RunError: Some cannot be compared; all are named.
    """
    if not paths:
        raise Misuse("nothing to compare; name runs, as in `mlxtune compare RUN RUN`")
    found: list[Evaluated] = []
    refused: list[RunError] = []
    for run in [run for path in paths for run in _runs_of(path)]:
        try:
            found.append(open_evaluation(run, name, evaluated))
        except RunError as error:
            refused.append(error)
    if refused:
        if len(refused) == 1:
            raise refused[0]
        raise RunError("cannot compare", [Problem("", str(error)) for error in refused])
    twice = [path for path, times in Counter(os.path.realpath(one.folder) for one in found).items() if times > 1]
    if twice:
        named = next(one for one in found if os.path.realpath(one.folder) == twice[0])
        raise Misuse(f"{named.title}: named twice; a run is no different from itself")
    if len(found) == 1 and evaluated:
        found.insert(0, _before_tuning(found[0]))
    return found


def short_names(evaluations: Sequence[Evaluated]) -> list[str]:
    """What tells evaluations apart: their paths without the folders that all of them have in the same place."""
    paths = []
    for one in evaluations:
        place = one.run.path if one.run else one.folder
        parts = Path(os.path.abspath(place)).parts
        paths.append([*parts, one.folder.name] if one.run else list(parts))
    if len(paths) == 1:
        return [paths[0][-2] if evaluations[0].run else paths[0][-1]]
    for end in (-1, 0):
        while all(len(path) > 1 for path in paths) and len({path[end] for path in paths}) == 1:
            paths = [path[:-1] if end else path[1:] for path in paths]
    if len({len(path) for path in paths}) == 1:
        telling = [i for i in range(len(paths[0])) if len({path[i] for path in paths}) > 1]
        paths = [[path[i] for i in telling] for path in paths]
    return ["/".join(path) for path in paths]


def lies_in_a_run(path: Path) -> bool:
    """Whether a folder lies where a run keeps an evaluation."""
    place = path.absolute()
    return place.parent.name == "evaluation" and (place.parent.parent / "run.json").is_file()


def _runs_of(path: Path) -> list[Path]:
    """The path, or the finished runs of the sweep whose folder it is."""
    file = path / "sweep.json"
    if (path / "run.json").exists() or not file.is_file():
        return [path]
    try:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        runs = [path / cell["name"] for cell in cells if cell["status"] == "finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file}: cannot be read: {error}; name the runs in {path} instead") from error
    if not runs:
        raise RunError(f"{path}: no run of this sweep has finished; its log files say why")
    return runs


def _not_evaluated(run: RunFolder, name: str) -> str:
    there = sorted(file.parent.name for file in (run.path / "evaluation").glob("*/scores.json"))
    others = f"; it has {', '.join(there)}, which --name takes" if there else ""
    if name not in (TUNED, BASE):
        return f"has no evaluation named {name!r}{others}"
    flag = " --base" if name == BASE else ""
    return f"was not evaluated{' before tuning' if flag else ''}; run `mlxtune evaluate {run}{flag}`{others}"


def _before_tuning(one: Evaluated) -> Evaluated:
    """The evaluation of the base model that one run alone is compared with."""
    if one.run is not None and one.recipe is not None and not one.before_tuning:
        name = one.folder.name.replace(TUNED, BASE, 1)
        for folder in (one.run.evaluation(name), RunFolder(RUNS / one.recipe.name / BASE).evaluation(name)):
            scores = read_scores(folder)
            if scores is not None:
                return Evaluated(folder, one.run, one.recipe, one.info, scores)
        raise RunError(
            f"{one.run}: nothing to compare it with; name another run, or evaluate its base model first: "
            f"`mlxtune evaluate {one.run} --base`"
        )
    raise RunError(f"{one.title}: nothing to compare it with; name another run")
