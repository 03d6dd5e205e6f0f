"""One evaluation, from the user's request to its files: asks the model, scores the replies, asks the judge.

outcome = run_evaluation(EvaluationRequest(find_subject(Path("runs/demo-intent/a"))), backend=lambda: choice.backend)
outcome.result.top.fields["intents"]["exact_match"]  # Estimate(value=0.81, low=0.71, high=0.90)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.backends.base import Backend
from mlxtune.chat.client import ChatServerError
from mlxtune.data.rows import Row
from mlxtune.errors import DataError, RecipeError
from mlxtune.evaluation.baselines import ASKED
from mlxtune.evaluation.check import check_expectations
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.error_analysis import find_errors
from mlxtune.evaluation.judge.ratings import (
    Judgement,
    JudgeRequest,
    judge_replies,
    n_judged,
    summarise_ratings,
    text_fields,
    write_judgements,
)
from mlxtune.evaluation.measure import (
    NOTHING_TO_TUNE_ON,
    Evaluation,
    EvaluationOptions,
    ask_baselines,
    evaluate,
    evaluate_replies,
    write_evaluation,
)
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.predict.given import read_replies
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import Against, EvaluatedModel, EvaluationResult, GivenReplies
from mlxtune.evaluation.stored import (
    common_decoding,
    comparable,
    finished_evaluation,
    identity,
    read_result,
    refuse_finished,
    stored_predictions,
    task_hash,
)
from mlxtune.evaluation.subject import Subject, load_subject, read_test_rows, read_validation_rows
from mlxtune.models.base_model import base_folder, fingerprint
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import locked
from mlxtune.runs.layout import ERRORS_FILE, JUDGE_FILE, SCORES_FILE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationRequest:
    """What a user asks for.

    Attributes:
        subject: What is evaluated.
        out: Folder to write; None is the subject's own; for replies from a file, None writes nothing.
        limit: Only the first so many rows; None is all.
        replies: File of replies to score; None asks the model.
        decoding: 'free', 'constrained', 'both' or 'best'; None is the recipe's.
        probabilities: Of every option of the first field.
        repeats: Samples of each row; None for none.
        temperature: Of the samples.
        bertscore: Scores texts as well.
        judge: A model that rates the written replies.
        overrides: The command's `--set`s.
        force: Replace an existing evaluation.
        tune_thresholds: Choose a threshold for each label of the first field on the validation rows.
        asks_judge: Of several processes one does.
    """

    subject: Subject
    out: Path | None = None
    limit: int | None = None
    replies: Path | None = None
    decoding: str | None = None
    probabilities: bool = False
    repeats: int | None = None
    temperature: float = 0.7
    bertscore: BertScore | None = None
    judge: JudgeRequest | None = None
    overrides: Sequence[str] = ()
    force: bool = False
    tune_thresholds: bool = False
    asks_judge: bool = True

    @property
    def folder(self) -> Path | None:
        """Where it is written."""
        return self.out or (self.subject.evaluation(self.limit) if self.replies is None else None)


@dataclass(frozen=True)
class BeforeAfter:
    """The evaluation of the model before tuning and that after it.

    Attributes:
        before: The result of the one.
        after: Of the other.
        changes: What is different after; empty where that is not known.
    """

    before: EvaluationResult
    after: EvaluationResult
    changes: Against


@dataclass(frozen=True)
class EvaluationOutcome:
    """What came of a request.

    Attributes:
        result: The content of scores.json.
        errors: Of errors.json.
        folder: Where they lie; None where nothing was written.
        run: The run, or the place kept for it; None for replies from a file.
        judgements: Of the judge, row by row.
        counterpart: The evaluation of the other of base and tuned model beside this one, if there is one.
        unjudged: Why the judge could not be asked; the evaluation does not need it.
    """

    result: EvaluationResult
    errors: Mapping[str, Any]
    folder: Path | None
    run: Path | None
    judgements: Sequence[Judgement] = ()
    counterpart: BeforeAfter | None = None
    unjudged: ChatServerError | None = None

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints."""
        files: dict[str, str] = {}
        if self.folder is not None:
            files = {
                "evaluation": str(self.folder),
                "scores": str(self.folder / SCORES_FILE),
                "predictions": str(self.folder / str(self.result.top.predictions)),
                "errors": str(self.folder / ERRORS_FILE),
            }
            if self.result.judge is not None:
                files["judge"] = str(self.folder / JUDGE_FILE)
        return {**self.result.to_json(), "run": self.run and str(self.run), "files": files}


def run_evaluation(
    request: EvaluationRequest,
    backend: Callable[[], Backend],
    progress: Progress = SILENT,
    judge_progress: Progress = SILENT,
) -> EvaluationOutcome:
    """Evaluate as requested, and write the files.

    Where the folder holds the same evaluation, finished, no model is asked about its rows again: the judge is asked, if there
    is one, and the recipe's conditions are checked as they now stand.

    Args:
        request: What to evaluate, and how.
        backend: Gives what computes; called only if a model is asked.
        progress: Told how far the rows are.
        judge_progress: Told how far the judge is.

    Raises:
        RunError: The folder holds another evaluation.
        DataError: Rows that the recipe cannot use.
    """
    subject, out = request.subject, request.folder
    if request.judge is not None:
        text_fields(subject.recipe)  # a recipe without any is said before anything is asked
    rows = read_test_rows(subject.recipe)
    rows = rows if request.limit is None else rows[: request.limit]
    if (done := _finished(request, rows)) is not None:
        assert out is not None
        evaluation = _checked_anew(done, subject.recipe, out)
        outcome = EvaluationOutcome(evaluation.result, evaluation.errors.to_json(), out, _run(request))
        if request.judge is not None:
            log.info("%s: this evaluation is finished already, so only the judge is asked", out)
            outcome = _judged(outcome, evaluation, request, judge_progress)
        else:
            log.info(
                "%s: this evaluation is finished already, so only its conditions are checked; --force asks the model again",
                out,
            )
        return _with_counterpart(outcome, request)
    if out is not None:
        refuse_finished(out, request.force)
    evaluation = _given(request, rows) if request.replies else _asked(request, rows, backend, progress)
    if out is not None:
        (out / JUDGE_FILE).unlink(missing_ok=True)  # of an evaluation that this one replaced
    outcome = EvaluationOutcome(evaluation.result, evaluation.errors.to_json(), out, _run(request))
    if request.judge is not None:
        outcome = _judged(outcome, evaluation, request, judge_progress)
    return _with_counterpart(outcome, request)


def _run(request: EvaluationRequest) -> Path | None:
    if request.subject.run is not None:
        return request.subject.run.path
    return request.subject.folder if request.replies is None else None


def _given(request: EvaluationRequest, rows: Sequence[Row]) -> Evaluation:
    """Scores of replies from a file."""
    assert request.replies is not None
    recipe = request.subject.recipe
    predictions = read_replies(request.replies, rows, recipe)
    evaluated = GivenReplies(identity(Path(str(recipe.data.test)), len(rows)), identity(request.replies))
    return evaluate_replies(recipe, predictions, rows, request.folder, evaluated, request.bertscore)


def _asked(
    request: EvaluationRequest, rows: Sequence[Row], get_backend: Callable[[], Backend], progress: Progress
) -> Evaluation:
    """Load the model and evaluate it."""
    subject, out = request.subject, request.folder
    assert out is not None
    recipe = subject.recipe
    validation = read_validation_rows(recipe) if request.probabilities or request.tune_thresholds else None
    if request.tune_thresholds and not validation:
        raise RecipeError(NOTHING_TO_TUNE_ON)
    validation = validation if request.limit is None or validation is None else validation[: request.limit]
    options = EvaluationOptions(
        request.decoding, request.probabilities, validation, request.repeats, request.temperature, request.bertscore,
        request.tune_thresholds,
    )  # fmt: skip
    backend = get_backend()
    # Before tuning, a model asked as the recipe asks is no baseline: it is what is evaluated.
    names = [name for name in recipe.evaluate.baselines if name in ASKED and not (subject.base and name == "zero_shot")]
    loaded = None if names else load_subject(subject, backend)
    evaluated = EvaluatedModel(
        recipe.model.path,
        recipe.model.revision,
        fingerprint(base_folder(recipe.model, backend, progress=False)),
        task_hash(recipe),
        None if subject.trained_file is None else identity(subject.trained_file),
        identity(Path(str(recipe.data.test)), len(rows)),
        backend.name,
        request.overrides,
    )
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out):
            baselines = None
            if names:  # before the tuned model is loaded, so that the two never share the memory
                untuned = load_subject(replace(subject, base=True), backend)
                baselines = ask_baselines(
                    recipe, *untuned, rows, out, names, request.decoding, evaluated, backend, progress
                )
                del untuned
            model, tokenizer = loaded or load_subject(subject, backend)
            return evaluate(
                recipe, model, tokenizer, rows, out, options, evaluated,
                asked_baselines=baselines,
                before=[] if subject.base else subject.counterparts(request.limit),
                backend=backend,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        log.info("Replies so far are kept in %s; run the same command again to continue.", out)
        raise


# What is finished --------------------------------------------------------------------------------------------------


def _finished(request: EvaluationRequest, rows: Sequence[Row]) -> tuple[EvaluationResult, list[Prediction]] | None:
    """The finished evaluation of which the judge or the conditions are all that is asked for; None where there is none, or
    everything is asked again."""
    out, subject = request.folder, request.subject
    if out is None or request.replies or request.bertscore or request.force:
        return None
    stored = read_result(out)
    has_conditions = stored is not None and bool(subject.recipe.evaluate.expect or stored.expectations)
    if request.judge is None and (subject.base or not has_conditions):
        return None
    return finished_evaluation(
        out, subject, rows, request.decoding, request.probabilities, request.repeats, request.tune_thresholds
    )


def _checked_anew(done: tuple[EvaluationResult, list[Prediction]], recipe: Recipe, out: Path) -> Evaluation:
    """A finished evaluation with the recipe's conditions as they now stand, written if they have changed."""
    stored, predictions = done
    result = replace(stored, expectations=check_expectations(stored, recipe))
    evaluation = Evaluation(result, find_errors(predictions, recipe), predictions)
    if result != stored:
        with locked(out):
            write_evaluation(evaluation, out)
    return evaluation


# Judging -----------------------------------------------------------------------------------------------------------


def _judged(
    outcome: EvaluationOutcome,
    evaluation: Evaluation,
    request: EvaluationRequest,
    progress: Progress,
) -> EvaluationOutcome:
    """The outcome with the judge's ratings, which are written as well; or why it could not be asked.

    Args:
        outcome: Without them.
        evaluation: That it is of, just made or read.
        request: Names the judge.
        progress: Told how far it is.
    """
    judge, out, recipe = request.judge, outcome.folder, request.subject.recipe
    predictions = evaluation.predictions
    assert judge is not None
    if not request.asks_judge:
        return outcome
    progress.begin("judging", n_judged(predictions, judge.sample) * len(text_fields(recipe)))
    with nullcontext() if out is None else locked(out):
        try:
            judgements = judge_replies(predictions, recipe, judge.server, judge.sample, progress.advance)
        except KeyboardInterrupt:
            log.info("The judge's answers so far are kept; %s.", _go_on(request))
            raise
        except ChatServerError as error:
            unjudged = ChatServerError(f"{error}\n  The evaluation itself is finished; {_go_on(request)}")
            unjudged.__cause__ = error
            return replace(outcome, unjudged=unjudged)
        ratings = summarise_ratings(judgements, predictions, judge.server, recipe.train.seed)
        result = replace(evaluation.result, judge=ratings)
        if out is not None:
            write_judgements(out / JUDGE_FILE, judgements)
            write_evaluation(replace(evaluation, result=result), out)
    return replace(outcome, result=result, judgements=judgements)


def _go_on(request: EvaluationRequest) -> str:
    """The advice where the judge could not be asked."""
    if request.replies is not None:
        how = f"run the same command again{'' if request.folder is None else ' with --force'}"
    else:
        leaving = "--force" if request.bertscore is None else "--force and --bertscore"
        how = f"run the same command again without {leaving}; then only the judge is asked"
    return f"{how}; replies that are judged already are not judged again"


# Before and after --------------------------------------------------------------------------------------------------


def _with_counterpart(outcome: EvaluationOutcome, request: EvaluationRequest) -> EvaluationOutcome:
    """The outcome with the evaluation of the other of base and tuned model, if there is a comparable one."""
    subject, result = request.subject, outcome.result
    for folder in [] if request.replies is not None else subject.counterparts(request.limit):
        other = read_result(folder)
        if other is None or not comparable(result.evaluated, other.evaluated):
            continue
        if not subject.base:
            return replace(outcome, counterpart=BeforeAfter(other, result, result.before or Against()))
        changes = Against()
        if outcome.folder is not None:
            mine, theirs = common_decoding(other, result)
            try:
                after, before = stored_predictions(folder, mine), stored_predictions(outcome.folder, theirs)
                changes = compare(after, before, subject.recipe, "before")
            except DataError:  # the other evaluation's predictions are gone or damaged: its metrics are still there
                changes = Against()
        return replace(outcome, counterpart=BeforeAfter(result, other, changes))
    return outcome
