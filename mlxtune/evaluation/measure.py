"""A model asked about rows, or replies that are there already: predictions, results and errors, and their files. No backend's
code, no printing.

predictions.jsonl, errors.json and scores.json are written in this order, so that a folder with scores.json is whole.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from mlxtune.backends.base import Backend, Model
from mlxtune.data.rows import Row
from mlxtune.errors import DataError, RecipeError
from mlxtune.evaluation.baselines import (
    ASKED,
    AskedBaseline,
    ask_baseline,
    baseline_results,
    label_baselines,
    predictions_file,
)
from mlxtune.evaluation.check import check_expectations
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.error_analysis import ErrorAnalysis, find_errors
from mlxtune.evaluation.limits import limit_warnings, position_warnings
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.predict import unfinished
from mlxtune.evaluation.predict.consistency import consistency
from mlxtune.evaluation.predict.predictions import BOTH, CONSTRAINED, FREE, Prediction, replace_predictions
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.probabilities import Distribution, field_calibration, with_probabilities
from mlxtune.evaluation.predict.recording import Recorded, record_predictions
from mlxtune.evaluation.results import Against, DecodingResult, Evaluated, EvaluatedModel, EvaluationResult, Speed
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import comparable, read_result, stored_predictions
from mlxtune.evaluation.thresholds import field_thresholds
from mlxtune.files import write_json
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.layout import ERRORS_FILE, FREE_PREDICTIONS_FILE, PREDICTIONS_FILE, SCORES_FILE
from mlxtune.version import __version__

NEEDS_OPTIONS = (
    "they need prompt.thinking: false, and a list of labels in the first output field (if it has several labels a row, "
    "at most 64 allowed combinations)"
)
NO_OPTIONS = f"probabilities: none; {NEEDS_OPTIONS}"
NO_VALIDATION = (
    "coverage at 95% precision: none; its threshold is chosen on validation rows, and the recipe has neither data.valid nor "
    "data.valid_fraction"
)
NOTHING_TO_TUNE_ON = "--tune-thresholds: thresholds are chosen on validation rows, and the recipe has none; add data.valid or data.valid_fraction"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationOptions:
    """How a model is asked, and what beyond one reply a row.

    Attributes:
        decoding: 'constrained', 'free', 'both' or 'best'; None is the recipe's. With 'both' the constrained result counts.
        probabilities: Of every option of the first field, under best decoding of every scored field, and whether they hold.
        validation: Rows that choose the thresholds of coverage and of labels; None if there are none.
        repeats: Samples of each row; None for none.
        temperature: Of the samples.
        bertscore: Scores texts as well.
        tune_thresholds: Choose a threshold for each label of the first field; needs validation rows, and implies probabilities.
    """

    decoding: str | None = None
    probabilities: bool = False
    validation: Sequence[Row] | None = None
    repeats: int | None = None
    temperature: float = 0.7
    bertscore: BertScore | None = None
    tune_thresholds: bool = False


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its result, its errors, and the predictions that both are of."""

    result: EvaluationResult
    errors: ErrorAnalysis
    predictions: Sequence[Prediction]


@dataclass(frozen=True)
class _Asked:
    """One decoding: who was asked, its predictions, where they lie, and their scores."""

    predictor: Predictor
    path: Path
    predictions: list[Prediction]
    result: DecodingResult


def evaluate(
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    out: Path,
    options: EvaluationOptions | None = None,
    evaluated: EvaluatedModel | None = None,
    *,
    asked_baselines: Mapping[str, AskedBaseline] | None = None,
    before: Sequence[Path] = (),
    backend: Backend | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Ask a model about rows, score its replies, and write predictions.jsonl, errors.json and scores.json.

    Args:
        recipe: Prompt, output, limits and seed.
        model: With its adapter, if any.
        tokenizer: The model's.
        rows: With their references.
        out: Folder to write into; existing files are replaced, each once the new one is complete.
        options: How it is asked; None is as the recipe says.
        evaluated: What is evaluated; None leaves that out of scores.json, and an interrupted evaluation then starts again.
        asked_baselines: Of `ask_baselines`, about the same rows.
        before: Folders in which the model before tuning may have been evaluated; the first comparable one is compared.
        backend: Whose peak memory is reported; None leaves that out.
        progress: Told how far it is.

    Raises:
        DataError: Rows that the recipe cannot use.
        RecipeError: The template cannot be followed in constrained decoding, or scored in best; or there is nothing to tune
            thresholds on.
    """
    options = options or EvaluationOptions()
    decoding = options.decoding or recipe.evaluate.decoding
    for line in [*limit_warnings(rows, recipe, tokenizer), *position_warnings(rows, recipe, tokenizer, model.config)]:
        log.warning(line)
    answers = label_baselines(recipe, rows)
    identity = model_hash(recipe, evaluated)
    asked = []
    for one in (FREE, CONSTRAINED) if decoding == BOTH else (decoding,):
        predictor = Predictor(recipe, model, tokenizer, one)
        if options.tune_thresholds:
            _require_thresholds(predictor, options.validation)
        path = out / (FREE_PREDICTIONS_FILE if decoding == BOTH and one == FREE else PREDICTIONS_FILE)
        progress.begin(one, len(rows))
        if backend is not None:
            backend.peak_memory_bytes(reset=True)
        recorded = record_predictions(path, rows, predictor, progress, model_hash=identity)
        scored = score(recorded.predictions, recipe, options.bertscore)
        result = replace(scored, speed=speed_of(recorded, backend), predictions=path.name)
        if predictor.best is not None and predictor.best.fields.note is not None:
            result = result.noting(predictor.best.fields.note)
        asked.append(_Asked(predictor, path, recorded.predictions, result))
    if options.repeats:
        asked[-1] = _with_samples(asked[-1], rows, options.repeats, options.temperature, progress)
    has_probabilities = options.probabilities or options.tune_thresholds
    if has_probabilities:
        asked = _with_probabilities(asked, rows, options, progress)
    top = asked[-1]  # the constrained one of two
    results, left_out = baseline_results(recipe, top.predictions, answers, asked_baselines or {}, options.bertscore)
    compared, why_not = _compare_before(recipe, asked, evaluated, before)
    whole = EvaluationResult(
        top.result.noting(*left_out, *why_not),
        evaluated,
        {one.result.decoding: one.result for one in asked} if decoding == BOTH else None,
        {"max_new_tokens": recipe.evaluate.max_new_tokens, "batch_size": recipe.evaluate.batch_size},
        results,
        compared,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    whole = replace(whole, expectations=check_expectations(whole, recipe))
    evaluation = Evaluation(whole, find_errors(top.predictions, recipe), top.predictions)
    write_evaluation(evaluation, out)
    _forget_others(out, asked, has_probabilities, asked_baselines or {})
    return evaluation


def evaluate_replies(
    recipe: Recipe,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    out: Path | None = None,
    evaluated: Evaluated | None = None,
    bertscore: BertScore | None = None,
) -> Evaluation:
    """Score replies from a file; no model is asked.

    Args:
        recipe: Of the rows; says what the fields and the baselines are.
        predictions: Of `read_replies`.
        rows: What they answer.
        out: Folder to write predictions.jsonl, errors.json and scores.json into, as `evaluate` does; None writes nothing.
        evaluated: What is evaluated, for scores.json.
        bertscore: Scores text fields as well; None leaves that out.
    """
    results, left_out = baseline_results(recipe, predictions, label_baselines(recipe, rows), {}, bertscore)
    top = score(predictions, recipe, bertscore).noting(*left_out)
    if out is not None:
        top = replace(top, predictions=PREDICTIONS_FILE)
    result = EvaluationResult(top, evaluated, baselines=results)
    result = replace(result, expectations=check_expectations(result, recipe))
    evaluation = Evaluation(result, find_errors(predictions, recipe), predictions)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        replace_predictions(out / PREDICTIONS_FILE, predictions)
        write_evaluation(evaluation, out)
        _forget_others(out, (), False, {})
    return evaluation


def ask_baselines(
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    out: Path,
    names: Sequence[str],
    decoding: str | None = None,
    evaluated: EvaluatedModel | None = None,
    backend: Backend | None = None,
    progress: Progress = SILENT,
) -> dict[str, AskedBaseline]:
    """The replies of the model before tuning, decoded as those are that stand at the top of scores.json.

    Args:
        model: Without adapter.
        names: 'zero_shot', 'few_shot' or both.
        evaluated: As for `evaluate`.
        backend: Whose peak memory is reported; None leaves that out.
        progress: Told how far it is.
    """
    predictor = Predictor(recipe, model, tokenizer, decoding)
    identity = model_hash(recipe, evaluated and replace(evaluated, adapter=None))
    found = {}
    for name in names:
        if backend is not None:
            backend.peak_memory_bytes(reset=True)
        recorded = ask_baseline(name, predictor, rows, out, identity, progress)
        found[name] = AskedBaseline(recorded.predictions, speed_of(recorded, backend))
    return found


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write errors.json and scores.json."""
    write_json(out / ERRORS_FILE, evaluation.errors.to_json())
    write_json(out / SCORES_FILE, evaluation.result.to_json())


def model_hash(recipe: Recipe, evaluated: EvaluatedModel | None) -> str | None:
    """What tells one model with its adapter from another; None where it is not known which it is."""
    if evaluated is None:
        return None
    adapter = evaluated.adapter and evaluated.adapter.sha256
    return unfinished.json_hash(__version__, evaluated.base, adapter, evaluated.backend, recipe.model.model_dump())


def speed_of(recorded: Recorded, backend: Backend | None = None) -> Speed:
    """Time per row and rate; with a backend also the most memory it has used since it was last reset."""
    memory = None if backend is None else round(backend.peak_memory_bytes() / 1e9, 3)
    n_rows, seconds = len(recorded.predictions), max(recorded.seconds, 1e-9)
    n_tokens = sum(prediction.tokens for prediction in recorded.predictions)
    return Speed(seconds / n_rows, n_rows / seconds, n_tokens / seconds, memory)


# What is asked beyond one reply a row ------------------------------------------------------------------------------


def _with_samples(asked: _Asked, rows: Sequence[Row], repeats: int, temperature: float, progress: Progress) -> _Asked:
    progress.begin(f"{repeats} samples of each row", repeats * len(rows))
    samples = asked.predictor.samples(rows, repeats, temperature, progress)
    found = consistency(samples, rows, asked.predictor.recipe, temperature)
    return replace(asked, result=replace(asked.result, consistency=found))


def _require_thresholds(predictor: Predictor, validation: Sequence[Row] | None) -> None:
    """Refuse to tune thresholds where there is nothing to tune, or nothing to tune them on."""
    if not validation:
        raise RecipeError(NOTHING_TO_TUNE_ON)
    if not predictor.scored:
        raise RecipeError(f"--tune-thresholds: thresholds are of probabilities; {NEEDS_OPTIONS}")


def _with_probabilities(
    asked: Sequence[_Asked], rows: Sequence[Row], options: EvaluationOptions, progress: Progress
) -> list[_Asked]:
    """Each decoding with the probabilities of its predictions, whether they hold, and thresholds where these are tuned.

    Predictions of best decoding came with them. Others are rewritten once all answers are there, so that an interruption
    leaves the file unchanged.
    """
    predictor, validation = asked[0].predictor, options.validation
    if not predictor.scored:
        return [replace(one, result=one.result.noting(NO_OPTIONS)) for one in asked]
    found = _distributions("probabilities", predictor, rows, progress)
    of_validation = _distributions("validation probabilities", predictor, validation or (), progress)
    done = []
    for one in asked:
        valid: list[Prediction] | None = None
        result = one.result
        if validation:
            path = validation_file(one.path)
            progress.begin(f"{one.result.decoding}, validation rows", len(validation))
            recorded = record_predictions(path, validation, one.predictor, progress)
            valid = _carrying(recorded.predictions, of_validation)
            replace_predictions(path, valid)
        else:
            result = result.noting(NO_VALIDATION)
        predictions = _carrying(one.predictions, found)
        calibrated = {name: field_calibration(name, predictions, valid) for name in predictor.scored}
        result = replace(result, calibration=calibrated)
        if options.tune_thresholds:
            assert valid is not None, "there are validation rows"
            first, recipe = predictor.scored[0], predictor.recipe
            result = replace(result, thresholds={first: field_thresholds(first, predictions, valid, recipe)})
        replace_predictions(one.path, predictions)
        done.append(replace(one, predictions=predictions, result=result))
    return done


def _carrying(predictions: Sequence[Prediction], found: Sequence[Distribution] | None) -> list[Prediction]:
    """Predictions with the probabilities of what they say; None where they have them already."""
    if found is None:
        return list(predictions)
    return [with_probabilities(prediction, [one]) for prediction, one in zip(predictions, found, strict=True)]


def _distributions(
    what: str, predictor: Predictor, rows: Sequence[Row], progress: Progress
) -> list[Distribution] | None:
    """Of the first field at each row; None under best decoding, whose replies come with them."""
    if predictor.best is not None:
        return None
    if not rows:
        return []
    progress.begin(what, len(rows))
    found = predictor.probabilities(rows, progress)
    assert found is not None, "the first field has options"
    return found


def _compare_before(
    recipe: Recipe, asked: Sequence[_Asked], evaluated: EvaluatedModel | None, folders: Sequence[Path]
) -> tuple[Against | None, list[str]]:
    """What changed since the first comparable evaluation in `folders`; and why nothing could be compared."""
    for folder in folders:
        others = read_result(folder)
        if others is None or not comparable(evaluated, others.evaluated):
            continue
        theirs = others.by_decoding
        mine = next((one for one in (asked[-1], *asked) if one.result.decoding in theirs), asked[-1])
        try:
            predictions = stored_predictions(folder, theirs.get(mine.result.decoding, others.top))
            return compare(mine.predictions, predictions, recipe, "before"), []
        except DataError as error:
            return None, [f"before: not compared: {error}"]
    return None, []


def validation_file(path: Path) -> Path:
    """Where the predictions of validation rows lie, beside those of the test rows."""
    return path.with_name(path.name.replace("predictions", "predictions-valid", 1))


def _forget_others(
    out: Path, asked: Sequence[_Asked], probabilities: bool, baselines: Mapping[str, AskedBaseline]
) -> None:
    """Delete what an earlier evaluation left in the folder and this one did not make, and what a later one would resume from."""
    now = {validation_file(one.path) for one in asked} if probabilities else set()
    for file in out.glob("predictions-valid*.jsonl"):
        if file not in now:
            file.unlink()
    files = [out / PREDICTIONS_FILE, out / FREE_PREDICTIONS_FILE, *(predictions_file(out, name) for name in ASKED)]
    made = {out / PREDICTIONS_FILE, *(one.path for one in asked), *(predictions_file(out, name) for name in baselines)}
    for file in files:
        if file not in made:
            file.unlink(missing_ok=True)
        unfinished.delete_header(file)
