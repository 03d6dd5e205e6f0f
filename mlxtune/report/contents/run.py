"""Everything that a report says of one run, read from its folder.

contents = read_contents(open_run(Path("runs/demo-intent/a")))
contents.tuned.result.top.fields["intents"].metrics["exact_match"]  # Estimate(value=0.81, low=0.71, high=0.90)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlxtune.errors import RunError
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.documents import DocumentScores, read_scores
from mlxtune.evaluation.error_analysis import ErrorAnalysis, find_errors
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import DecodingResult, EvaluatedModel, EvaluationResult
from mlxtune.evaluation.review.draw import RESULT_FILE
from mlxtune.evaluation.review.human_evaluation import HumanEvaluation
from mlxtune.evaluation.stored import (
    StoredEvaluation,
    common_decoding,
    comparable,
    is_of_adapter,
    open_evaluation,
    read_result,
    stored_predictions,
)
from mlxtune.evaluation.subject import Subject
from mlxtune.export.verification import Verification, read_verification
from mlxtune.json_values import JsonError
from mlxtune.recipe.conditions import BEFORE
from mlxtune.recipe.sections import Recipe
from mlxtune.report.contents.data_account import DataAccount, data_account
from mlxtune.report.contents.events import StepEvent, ValidationEvent, step_events, validation_events
from mlxtune.report.contents.facts import RunFacts, run_facts
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import BASE, PREDICTIONS_FILE, TUNED


@dataclass(frozen=True)
class EvaluationContents:
    """One evaluation of the run's adapter or of its base model.

    Attributes:
        folder: Where it lies.
        result: What scores.json says.
        predictions: In row order; empty where their file is gone.
        recipe: The run's.
        decoding: Of the predictions; None is the one that counts.
    """

    folder: Path
    result: EvaluationResult
    predictions: Sequence[Prediction]
    recipe: Recipe
    decoding: str | None = None

    @property
    def shown(self) -> DecodingResult:
        """The result that the predictions are of."""
        return self.result.top if self.decoding is None else self.result.by_decoding[self.decoding]

    @cached_property
    def errors(self) -> ErrorAnalysis:
        """Which labels are taken for which, the worst rows, the best and worst texts; found once it is asked for."""
        return find_errors(self.predictions, self.recipe)


@dataclass(frozen=True)
class RunContents:
    """One run.

    Attributes:
        stored: The run with its recipe, run.json and the result of the named evaluation, as comparisons take it.
        run: Its folder.
        name: Which of its evaluations is shown.
        recipe: As resolved when it was trained.
        facts: run.json.
        steps: Of its training, in their order.
        validations: Likewise; empty where there were no validation rows.
        tuned: The named evaluation, compared with `base` if there is one; None where there is none.
        base: That of the base model on the same questions; None where there is none.
        data: What its rows were.
        verification: Its exports beside its adapter; None where they were not verified.
        human: What people said of its replies; None where they were not asked.
        adapter_bytes: Size of the adapter's weights; None where there are none.
        documents: The perplexity of test documents, where the rows are documents; None where they are not, or it was not measured.
        documents_before: Likewise of the base model.
        outdated: Whether `tuned` is of an adapter that the run had before it was trained further.
    """

    stored: StoredEvaluation
    run: RunFolder
    name: str
    recipe: Recipe
    facts: RunFacts
    steps: Sequence[StepEvent]
    validations: Sequence[ValidationEvent]
    tuned: EvaluationContents | None
    base: EvaluationContents | None
    data: DataAccount
    verification: Verification | None
    human: HumanEvaluation | None
    adapter_bytes: int | None
    documents: DocumentScores | None
    documents_before: DocumentScores | None
    outdated: bool = False


def read_contents(run: RunFolder, name: str = TUNED) -> RunContents:
    """Everything that a report says of a run.

    Args:
        run: The run; evaluated or not, finished or not.
        name: Which of its evaluations.

    Raises:
        RunError: A file of it is corrupt, or there is no evaluation of that name; the tuned one may be missing.
        DataError: Predictions are corrupt.
        RecipeError: Its recipe cannot be read.
    """
    stored = open_evaluation(run.path, name, evaluated=name != TUNED)
    recipe = run.recipe() if stored.recipe is None else stored.recipe
    facts = run_facts(run)
    result = stored.result
    tuned = None if result is None else _evaluation(stored.folder, result, recipe)
    base = _base(run, name, recipe, result)
    if tuned is not None and base is not None:
        tuned = _with_before(tuned, base)
    evaluated = None if result is None else result.evaluated
    tested = recipe if evaluated is None else _tested_on(recipe, evaluated.data.file)
    return RunContents(
        stored,
        run,
        name,
        recipe,
        facts,
        step_events(run),
        validation_events(run),
        tuned,
        base,
        data_account(run, tested, facts, None if evaluated is None else evaluated.data.sha256),
        read_verification(run),
        _human_evaluation(stored.folder),
        _adapter_bytes(run),
        read_scores(run.evaluation(name)),
        None if name == BASE else read_scores(run.evaluation(BASE)),
        result is not None and _has_adapter(result) and not is_of_adapter(result, run),
    )


def _has_adapter(result: EvaluationResult) -> bool:
    """Whether what was evaluated is a model with an adapter."""
    return isinstance(result.evaluated, EvaluatedModel) and result.evaluated.adapter is not None


def _evaluation(
    folder: Path, result: EvaluationResult, recipe: Recipe, decoding: str | None = None
) -> EvaluationContents:
    """An evaluation with its predictions in a decoding, if it has that one."""
    shown = result.by_decoding.get(decoding or "", result.top)
    file = folder / (shown.predictions or PREDICTIONS_FILE)
    predictions = stored_predictions(folder, shown) if file.is_file() else []
    return EvaluationContents(folder, result, predictions, recipe, shown.decoding)


def _base(run: RunFolder, name: str, recipe: Recipe, result: EvaluationResult | None) -> EvaluationContents | None:
    """The base model's evaluation beside the named one; where that is missing, any of the whole test rows."""
    if BASE in name.split("-"):
        return None
    own = name.replace(TUNED, BASE, 1)
    shared = RunFolder(Subject(recipe, None, base=True).folder)
    for folder in dict.fromkeys((run.evaluation(own), shared.evaluation(own))):
        found = read_result(folder)
        if found is not None and (result is None or comparable(result.evaluated, found.evaluated)):
            return _evaluation(folder, found, recipe, None if result is None else result.top.decoding)
    return None


def _with_before(tuned: EvaluationContents, base: EvaluationContents) -> EvaluationContents:
    """With the model compared with its base, where that was evaluated after it."""
    if tuned.result.before is not None or not tuned.predictions or not base.predictions:
        return tuned
    ours, theirs = common_decoding(tuned.result, base.result)
    if ours.decoding != tuned.shown.decoding or theirs.decoding != base.shown.decoding:
        return tuned
    before = compare(tuned.predictions, base.predictions, tuned.recipe, BEFORE)
    return replace(tuned, result=replace(tuned.result, before=before))


def _tested_on(recipe: Recipe, file: str) -> Recipe:
    """The recipe with the test rows of an evaluation, which `--set` may have changed."""
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": file})})


def _human_evaluation(folder: Path) -> HumanEvaluation | None:
    file = folder / RESULT_FILE
    try:
        return HumanEvaluation.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except JsonError as error:
        raise RunError(f"{file}: not what review writes: {error}; read the sheets again with --scores") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; read the sheets again with --scores") from error


def _adapter_bytes(run: RunFolder) -> int | None:
    file = run.trained_file
    return file.stat().st_size if file.is_file() else None
