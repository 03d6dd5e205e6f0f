"""An evaluation as it lies on disk: found by the path that a user names (a run, a folder in it, a sweep, a recipe), and
whether it is the one that is asked for. Computes no metric, asks no model.

    open_evaluation(Path("runs/demo-intent/a")).result.top.rows  # 68
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

from mlxtune.data.examples import expected_values
from mlxtune.data.rows import Row, content_hash
from mlxtune.errors import DataError, Misuse, Problem, RunError
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions
from mlxtune.evaluation.results import DecodingResult, Evaluated, EvaluatedModel, EvaluationResult, FileIdentity
from mlxtune.evaluation.subject import Subject
from mlxtune.files import heal
from mlxtune.json_values import JsonError
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder, latest_run, open_run
from mlxtune.runs.layout import BASE, EVALUATIONS, PREDICTIONS_FILE, RUN_FILE, RUNS, SCORES_FILE, TUNED


@dataclass(frozen=True)
class StoredEvaluation:
    """One evaluation, as it lies on disk.

    Attributes:
        folder: With scores.json and predictions.jsonl.
        run: The run folder that it belongs to; None where it lies elsewhere.
        recipe: The run's; None where there is no run.
        info: run.json; empty where there is no run.
        result: What scores.json says; None where the run was not evaluated and that is not asked for.
    """

    folder: Path
    run: RunFolder | None
    recipe: Recipe | None
    info: Mapping[str, Any]
    result: EvaluationResult | None

    @property
    def model(self) -> EvaluatedModel | None:
        """The model that was evaluated; None where nothing was, or replies that were there already."""
        evaluated = None if self.result is None else self.result.evaluated
        return evaluated if isinstance(evaluated, EvaluatedModel) else None

    @property
    def before_tuning(self) -> bool:
        """Whether it is of the base model, or of replies that no run wrote: nothing was trained for it."""
        if self.run is None:
            return True
        return self.folder.name == BASE if self.model is None else self.model.adapter is None

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
        result = read_result(path)
        if result is None:
            raise RunError(f"{path}: holds no scores.json; make it with `mlxtune evaluate {run}`")
        return StoredEvaluation(path, run, run.recipe() if run else None, run.info() if run else {}, result)
    if path.is_dir() or not path.exists():
        run = open_run(path)
    else:
        recipe = load_recipe(path)
        newest = latest_run(recipe.name)
        if newest is None:
            raise RunError(f"{path}: no run of {recipe.name!r} under {RUNS}/; train one with `mlxtune lora {path}`")
        run = newest
    folder = run.evaluation(name)
    result = read_result(folder)
    if result is None and evaluated:
        raise RunError(f"{run}: {_not_evaluated(run, name)}")
    return StoredEvaluation(folder, run, run.recipe(), run.info(), result)


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


def read_result(out: Path) -> EvaluationResult | None:
    """What the scores.json in an evaluation folder says; None if it holds none.

    Raises:
        RunError: It is there and cannot be read, or is damaged; names the key.
    """
    file = out / SCORES_FILE
    try:
        return EvaluationResult.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except JsonError as error:
        raise RunError(f"{file}: not the scores of an evaluation: {error}; delete it and evaluate again") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; delete it and evaluate again") from error


def comparable(ours: Evaluated | None, theirs: Evaluated | None) -> bool:
    """Whether the same questions about the same rows were put to the same base model, both times."""
    if not isinstance(ours, EvaluatedModel) or not isinstance(theirs, EvaluatedModel):
        return False
    same_rows = (ours.data.sha256, ours.data.rows) == (theirs.data.sha256, theirs.data.rows)
    return same_rows and (ours.task_hash, ours.base) == (theirs.task_hash, theirs.base)


def is_of_adapter(result: EvaluationResult, run: RunFolder) -> bool:
    """Whether an evaluation is of the adapter or model that a run has now, not of one before it was trained further."""
    model, weights = result.evaluated, run.trained_file
    if not isinstance(model, EvaluatedModel) or model.adapter is None or not weights.is_file():
        return False
    return model.adapter.sha256 == identity(weights).sha256


def task_hash(recipe: Recipe) -> str:
    """SHA-256 of what decides how rows are asked and replies are read: prompt, output and the reply's limit."""
    content = [recipe.prompt.model_dump(), recipe.output.model_dump(), recipe.evaluate.max_new_tokens]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def identity(file: Path, rows: int | None = None) -> FileIdentity:
    """A file, or rows on the Hub, by name and content."""
    return FileIdentity(str(file), content_hash(file), rows)


def common_decoding(ours: EvaluationResult, theirs: EvaluationResult) -> tuple[DecodingResult, DecodingResult]:
    """Of two evaluations, the results in a decoding that both have, the one that counts before others; else those that count."""
    if ours.top.decoding != theirs.top.decoding:
        for name, one in ours.by_decoding.items():
            if name in theirs.by_decoding:
                return one, theirs.by_decoding[name]
    return ours.top, theirs.top


def stored_predictions(folder: Path, result: DecodingResult) -> list[Prediction]:
    """The predictions that a result is of.

    Args:
        folder: Of the evaluation.
        result: Of one of its decodings.

    Raises:
        DataError: They are missing or damaged, or not as many as were scored.
    """
    file = folder / (result.predictions or PREDICTIONS_FILE)
    predictions = read_predictions(file)
    if len(predictions) != result.rows:
        raise DataError(
            f"{file}: expected the {result.rows:,} predictions that {SCORES_FILE} counts, got {len(predictions):,}; "
            "evaluate again with --force"
        )
    return predictions


@dataclass(frozen=True)
class FoundEvaluation:
    """The evaluation in a folder, and in what it differs from one that is asked for.

    Attributes:
        result: What scores.json says.
        predictions: Of its first decoding, in row order.
        other: What is another: "other rows", "another adapter"; empty where it is the one that is asked for.
    """

    result: EvaluationResult
    predictions: list[Prediction]
    other: tuple[str, ...]


def find_evaluation(out: Path, subject: Subject, rows: Sequence[Row]) -> FoundEvaluation | None:
    """The evaluation in a folder, beside what evaluating the subject now would ask; None where there is none.

    Args:
        out: The folder.
        subject: Whose evaluation it should be.
        rows: The rows that should be answered.

    Raises:
        RunError: Its scores cannot be read.
        DataError: Its predictions are missing or damaged.
    """
    result = read_result(out)
    if result is None:
        return None
    predictions = stored_predictions(out, result.top)
    recipe = subject.recipe
    model = result.evaluated if isinstance(result.evaluated, EvaluatedModel) else None
    adapter = subject.trained_file and identity(subject.trained_file).sha256
    other = []
    if not _same_rows(predictions, rows, expected_values(rows, recipe)):
        other.append("other rows")
    if model is None or model.task_hash != task_hash(recipe):
        other.append("another prompt, output or evaluate.max_new_tokens")
    if model is None or (model.path, model.revision) != (recipe.model.path, recipe.model.revision):
        other.append("another base model")
    if (None if model is None or model.adapter is None else model.adapter.sha256) != adapter:
        other.append("another adapter")
    return FoundEvaluation(result, predictions, tuple(other))


def finished_evaluation(
    out: Path,
    subject: Subject,
    rows: Sequence[Row],
    decoding: str | None = None,
    probabilities: bool = False,
    repeats: int | None = None,
    thresholds: bool = False,
) -> tuple[EvaluationResult, list[Prediction]] | None:
    """The evaluation in a folder, if it says what evaluating the subject now would say.

    Args:
        out: The folder.
        subject: Whose evaluation it should be.
        rows: The rows that should be answered.
        decoding: The requested one; None accepts any.
        probabilities: Whether they are required.
        repeats: Required samples of each row.
        thresholds: Whether tuned ones are required.

    Returns:
        Its result and predictions; None where there is none.

    Raises:
        RunError: It is another one; says in what.
        DataError: Its predictions are missing or damaged.
    """
    found = find_evaluation(out, subject, rows)
    if found is None:
        return None
    result, other = found.result, list(found.other)
    if decoding is not None and decoding != (result.top.decoding if result.decodings is None else "both"):
        other.append("another decoding")
    if probabilities and any(one.probabilities is None for one in found.predictions):
        other.append("no probabilities")
    samples = result.top.consistency
    if repeats is not None and (samples is None or samples.repeats != repeats):
        other.append(f"no {repeats} samples of each row")
    if thresholds and not result.top.thresholds:
        other.append("no tuned thresholds")
    if other:
        raise RunError(
            f"{out}: holds another evaluation ({', '.join(other)}); replace it with --force, or choose another folder with --out"
        )
    return result, found.predictions


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
            result = read_result(folder)
            if result is not None:
                return StoredEvaluation(folder, one.run, one.recipe, one.info, result)
        raise RunError(
            f"{one.run}: nothing to compare it with; name another run, or evaluate its base model first: "
            f"`mlxtune evaluate {one.run} --base`"
        )
    raise RunError(f"{one.title}: nothing to compare it with; name another run")
