"""An evaluation as it lies on disk: found by the path that a user names (a run, a folder in it, a sweep, a recipe), and
whether it is the one that is asked for. Computes no metric, asks no model.

    open_evaluation(Path("runs/demo-intent/a")).scores["rows"]  # 68
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.backends.adapter import WEIGHTS_FILE
from mlxtune.data.examples import expected_values
from mlxtune.data.rows import Row, content_hash
from mlxtune.errors import Misuse, Problem, RunError
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions
from mlxtune.evaluation.results import FileIdentity
from mlxtune.evaluation.subject import Subject
from mlxtune.files import heal
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder, latest_run, open_run
from mlxtune.runs.layout import BASE, EVALUATIONS, PREDICTIONS_FILE, RUN_FILE, RUNS, SCORES_FILE, TUNED

StoredScores = Mapping[str, Any]  # the content of a scores.json, of this version or an earlier one


@dataclass(frozen=True)
class StoredEvaluation:
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


def open_evaluation(path: Path, name: str = TUNED, evaluated: bool = True) -> StoredEvaluation:
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
    if path.is_dir() and not (path / RUN_FILE).is_file() and ((path / SCORES_FILE).is_file() or lies_in_a_run(path)):
        place = path if len(path.parts) > 1 else path.absolute()
        run = open_run(place.parent.parent) if lies_in_a_run(path) else None
        scores = read_scores(path)
        if scores is None:
            raise RunError(f"{path}: holds no scores.json; make it with `mlxtune evaluate {run}`")
        return StoredEvaluation(path, run, run.recipe() if run else None, run.info() if run else {}, scores)
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
    return StoredEvaluation(folder, run, run.recipe(), run.info(), scores)


def open_evaluations(paths: Sequence[Path], name: str = TUNED, evaluated: bool = True) -> list[StoredEvaluation]:
    """The evaluations to compare, the first the one that the others are compared with; arguments as `open_evaluation`.

    The folder of a sweep stands for its runs that finished, in their order. One run alone is compared with its base model, which then comes first.

    Raises:
        Misuse: None are named, or one is named twice.
        RunError: Some cannot be compared; all are named.
    """
    if not paths:
        raise Misuse("nothing to compare; name runs, as in `mlxtune compare RUN RUN`")
    found: list[StoredEvaluation] = []
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
        raise Misuse(f"{named.title}: named twice; name different runs")
    if len(found) == 1 and evaluated:
        found.insert(0, _before_tuning(found[0]))
    return found


def short_names(evaluations: Sequence[StoredEvaluation]) -> list[str]:
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
    return place.parent.name == EVALUATIONS and (place.parent.parent / RUN_FILE).is_file()


def refuse_finished(out: Path, force: bool) -> None:
    """Refuse to replace a finished evaluation, unless told to.

    Raises:
        RunError: The folder holds one.
    """
    if (out / SCORES_FILE).exists() and not force:
        raise RunError(
            f"{out}: holds an evaluation already; replace it with --force, or choose another folder with --out"
        )


def read_scores(out: Path) -> dict[str, Any] | None:
    """The scores in an evaluation folder; None if it holds none.

    Raises:
        RunError: scores.json is there and cannot be read.
    """
    file = out / SCORES_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; delete it and evaluate again") from error
    if not isinstance(content, dict) or "fields" not in content:
        raise RunError(f"{file}: not the scores of an evaluation; delete it and evaluate again")
    return content


def comparable(scores: StoredScores, others: StoredScores) -> bool:
    """Whether two evaluations put the same questions about the same rows to the same base model."""
    keys = ("sha256", "rows")
    ours, theirs = scores.get("data", {}), others.get("data", {})
    same_rows = "sha256" in ours and all(ours[key] == theirs.get(key) for key in keys)
    return bool(same_rows and all(scores.get(key) == others.get(key) for key in ("asked", "base")))


def task_hash(recipe: Recipe) -> str:
    """SHA-256 of what decides how rows are asked and replies are read: prompt, output and the reply's limit."""
    content = [recipe.prompt.model_dump(), recipe.output.model_dump(), recipe.evaluate.max_new_tokens]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def identity(file: Path, rows: int | None = None) -> FileIdentity:
    """A file, or rows on the Hub, by name and content."""
    return FileIdentity(str(file), content_hash(file), rows)


def decodings_of(scores: StoredScores) -> dict[str, StoredScores]:
    """The parts of a scores.json by decoding, its top first."""
    parts = {scores["decoding"]: scores}
    for part in scores.get("decodings", {}).values():
        parts.setdefault(part["decoding"], part)
    return parts


def common_decoding(scores: StoredScores, others: StoredScores) -> tuple[StoredScores, StoredScores]:
    """Of two scores.json, the parts in a decoding that both have; where they share none, their tops."""
    ours, theirs = decodings_of(scores), decodings_of(others)
    if scores["decoding"] == others["decoding"]:
        return scores, others
    common = next((name for name in ours if name in theirs), None)
    return (ours[common], theirs[common]) if common else (scores, others)


def stored_predictions(folder: Path, part: StoredScores) -> list[Prediction]:
    """The predictions that a part of a scores.json is of.

    Args:
        folder: Of the evaluation.
        part: The scores, or one of their decodings.

    Raises:
        DataError: They are missing or damaged.
    """
    return read_predictions(folder / str(part.get("predictions", PREDICTIONS_FILE)))


def finished_evaluation(
    out: Path,
    subject: Subject,
    rows: Sequence[Row],
    decoding: str | None = None,
    probabilities: bool = False,
    repeats: int | None = None,
) -> tuple[dict[str, Any], list[Prediction]] | None:
    """The evaluation in a folder, if it says what evaluating the subject now would say.

    Args:
        out: The folder.
        subject: Whose evaluation it should be.
        rows: The rows that should be answered.
        decoding: The requested one; None accepts any.
        probabilities: Whether they are required.
        repeats: Required samples of each row.

    Returns:
        Its scores.json and predictions; None where there is none.

    Raises:
        RunError: It is another one; says in what.
        DataError: Its predictions are missing or damaged.
    """
    scores = read_scores(out)
    if scores is None:
        return None
    predictions = stored_predictions(out, scores)
    recipe = subject.recipe
    adapter = subject.adapter and identity(subject.adapter / WEIGHTS_FILE).sha256
    other = []
    if not _same_rows(predictions, rows, expected_values(rows, recipe)):
        other.append("other rows")
    if scores.get("asked") != task_hash(recipe):
        other.append("another prompt, output or evaluate.max_new_tokens")
    if scores.get("model") != {"path": recipe.model.path, "revision": recipe.model.revision}:
        other.append("another base model")
    if (scores.get("adapter") or {}).get("sha256") != adapter:
        other.append("another adapter")
    if decoding is not None and decoding != ("both" if "decodings" in scores else scores.get("decoding")):
        other.append("another decoding")
    if probabilities and any(one.probabilities is None for one in predictions):
        other.append("no probabilities")
    if repeats is not None and scores.get("consistency", {}).get("repeats") != repeats:
        other.append(f"no {repeats} samples of each row")
    if other:
        raise RunError(
            f"{out}: holds another evaluation ({', '.join(other)}); replace it with --force, or choose another folder with --out"
        )
    return scores, predictions


# Details -----------------------------------------------------------------------------------------------------------


def _same_rows(predictions: Sequence[Prediction], rows: Sequence[Row], expected: Sequence[object]) -> bool:
    return len(predictions) == len(rows) and all(
        prediction.expected == values and prediction.input in map(str, row.fields.values())
        for prediction, row, values in zip(predictions, rows, expected, strict=True)
    )


def _runs_of(path: Path) -> list[Path]:
    """The path, or the finished runs of the sweep whose folder it is."""
    file = path / "sweep.json"
    if (path / RUN_FILE).exists() or not file.is_file():
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
    there = sorted(file.parent.name for file in (run.path / EVALUATIONS).glob(f"*/{SCORES_FILE}"))
    others = f"; choose one that exists with --name: {', '.join(there)}" if there else ""
    if name not in (TUNED, BASE):
        return f"has no evaluation named {name!r}{others}"
    flag = " --base" if name == BASE else ""
    return f"was not evaluated{' before tuning' if flag else ''}; run `mlxtune evaluate {run}{flag}`{others}"


def _before_tuning(one: StoredEvaluation) -> StoredEvaluation:
    """The evaluation of the base model that one run alone is compared with."""
    if one.run is not None and one.recipe is not None and not one.before_tuning:
        name = one.folder.name.replace(TUNED, BASE, 1)
        for folder in (one.run.evaluation(name), RunFolder(RUNS / one.recipe.name / BASE).evaluation(name)):
            scores = read_scores(folder)
            if scores is not None:
                return StoredEvaluation(folder, one.run, one.recipe, one.info, scores)
        raise RunError(
            f"{one.run}: nothing to compare it with; name another run, or evaluate its base model first: "
            f"`mlxtune evaluate {one.run} --base`"
        )
    raise RunError(f"{one.title}: nothing to compare it with; name another run")
