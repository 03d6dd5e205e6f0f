"""Predictions to scores.json: metrics by field, speed, and what was evaluated. No backend's code, no printing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune import __version__
from mlxtune.backends.base import Backend, Model
from mlxtune.data.examples import expected_values, prompt_ids
from mlxtune.data.rows import Row, content_hash
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError, Problem, RunError
from mlxtune.evaluation.baselines import ASKED, LabelAnswers, ask_baselines, label_baselines, measure, predictions_file
from mlxtune.evaluation.error_analysis import ERRORS_FILE, Errors, find_errors
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import mean_estimate
from mlxtune.evaluation.metrics.labels import label_scores, label_set_scores
from mlxtune.evaluation.metrics.texts import text_scores
from mlxtune.evaluation.options import Answered, Asking, Further, forget_validation
from mlxtune.evaluation.paired_predictions import all_right, compare_folders, compare_replies
from mlxtune.evaluation.predict import partial as resume
from mlxtune.evaluation.predict.constraint import constraint_of
from mlxtune.evaluation.predict.predictions import (
    CONSTRAINED,
    FREE,
    Answers,
    Prediction,
    read_predictions,
    replace_predictions,
    right_fields,
    write_predictions,
)
from mlxtune.files import write_json
from mlxtune.models.architecture import max_positions
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe

BOTH = "both"
SCORES_FILE = "scores.json"
PREDICTIONS_FILE = "predictions.jsonl"
FREE_PREDICTIONS_FILE = "predictions-free.jsonl"

Scores = dict[str, Any]  # the content of scores.json


@dataclass(frozen=True)
class Watch:
    """Who is told how an evaluation goes.

    Args:
        begin: Called with a decoding and its number of rows before they are asked.
        rows: Called with the number of rows just answered.
        say: Called with a sentence that a user should read.
    """

    begin: Callable[[str, int], None] = lambda decoding, n_rows: None
    rows: Callable[[int], None] = lambda n_rows: None
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class AskedBaselines:
    """The model before tuning, asked in the same run: replies by baseline, and how fast each came."""

    replies: Mapping[str, Sequence[Prediction]]
    speeds: Mapping[str, Mapping[str, float]]


def evaluate(
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    out: Path,
    decoding: str | None = None,
    about: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    further: Further | None = None,
    backend: Backend | None = None,
    asked_baselines: AskedBaselines | None = None,
    before: Sequence[Path] = (),
    bertscore: BertScore | None = None,
) -> Scores:
    """Ask a model about rows, score its replies, and write predictions.jsonl, scores.json and errors.json.

    Args:
        recipe: Prompt, output, limits and seed.
        model: With its adapter, if any.
        tokenizer: The model's.
        rows: With their right values.
        out: Folder to write into; files that lie there are replaced, each when its successor is complete.
        decoding: 'constrained', 'free' or 'both'; None is the recipe's. With 'both' the constrained scores stand at
            the top, and both under "decodings".
        about: What is evaluated, put into scores.json as it is.
        watch: Told how it goes.
        further: What else to ask: probabilities, repeated samples.
        backend: Whose peak memory is reported; None leaves that out.
        asked_baselines: Of `ask_recipe_baselines`, about the same rows.
        before: Folders in which the model before tuning may have been evaluated; the first comparable one is compared.
        bertscore: Scores text fields as well; None leaves that out.

    Returns:
        The content of scores.json.

    Raises:
        DataError: Rows that the recipe cannot use.
        RecipeError: The template cannot be followed in constrained decoding.
    """
    watch = watch or Watch()
    decoding = decoding or recipe.evaluate.decoding
    for line in [*limit_warnings(rows, recipe, tokenizer), *position_warnings(rows, recipe, tokenizer, model.config)]:
        watch.say(line)
    answers_of_baselines = label_baselines(recipe, rows)
    identity_of_model = model_identity(recipe, about or {})
    by_decoding: dict[str, Scores] = {}
    answered: list[Answered] = []
    for one in (FREE, CONSTRAINED) if decoding == BOTH else (decoding,):
        constraint = None
        if one == CONSTRAINED:
            constraint = constraint_of(recipe, tokenizer, model)
        path = out / (FREE_PREDICTIONS_FILE if decoding == BOTH and one == FREE else PREDICTIONS_FILE)
        watch.begin(one, len(rows))
        if backend is not None:
            backend.peak_memory_bytes(reset=True)
        answers = write_predictions(
            path, rows, recipe, model, tokenizer, constraint, watch.rows, identity=identity_of_model, say=watch.say
        )
        by_decoding[one] = {
            **score(answers.predictions, recipe, bertscore),
            "speed": speed(answers, backend),
            "predictions": path.name,
        }
        answered.append(Answered(one, path, constraint, answers.predictions))
    if further is not None:
        Asking(recipe, model, tokenizer, rows, watch.begin, watch.rows).add(further, answered, by_decoding)
    top = by_decoding[CONSTRAINED] if decoding == BOTH else by_decoding[decoding]
    scores: Scores = {**top, **(about or {})}
    if decoding == BOTH:
        scores["decodings"] = by_decoding
    scores["limits"] = {"max_new_tokens": recipe.evaluate.max_new_tokens, "batch_size": recipe.evaluate.batch_size}
    predictions = read_predictions(out / str(scores["predictions"]))  # with their probabilities, if asked for
    replies = asked_baselines.replies if asked_baselines else {}
    add_comparisons(scores, recipe, predictions, answers_of_baselines, replies, bertscore)
    if asked_baselines:
        scores["baseline_speed"] = dict(asked_baselines.speeds)
    add_before(scores, recipe, out, before)
    scores["evaluated"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(out / ERRORS_FILE, find_errors(predictions, recipe))
    write_json(out / SCORES_FILE, scores)
    if decoding != BOTH:  # of an evaluation that this one replaced
        (out / FREE_PREDICTIONS_FILE).unlink(missing_ok=True)
    forget_validation(out, answered if further is not None and further.probabilities else ())
    for name in ASKED:
        if name not in replies:
            predictions_file(out, name).unlink(missing_ok=True)
    for path in (*(out / name for name in (PREDICTIONS_FILE, FREE_PREDICTIONS_FILE)),
                 *(predictions_file(out, name) for name in ASKED)):  # fmt: skip
        resume.forget(path)
    return scores


def evaluate_replies(
    recipe: Recipe,
    predictions: Sequence[Prediction],
    rows: Sequence[Row],
    out: Path | None = None,
    about: Mapping[str, Any] | None = None,
    bertscore: BertScore | None = None,
) -> tuple[Scores, Errors]:
    """Score replies that are there already; no model is asked.

    Args:
        recipe: Of the rows; says what the fields and the baselines are.
        predictions: Of `read_replies`.
        rows: What they answer.
        out: Folder to write predictions.jsonl, scores.json and errors.json into, as `evaluate` does; None writes nothing.
        about: What is evaluated, put into scores.json as it is.
        bertscore: Scores text fields as well; None leaves that out.

    Returns:
        The content of scores.json and of errors.json.
    """
    scores, errors = score(predictions, recipe, bertscore), find_errors(predictions, recipe)
    add_comparisons(scores, recipe, predictions, label_baselines(recipe, rows), {}, bertscore)
    scores.update(about or {})
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        scores["predictions"] = PREDICTIONS_FILE
        replace_predictions(out / PREDICTIONS_FILE, predictions)
        write_json(out / ERRORS_FILE, errors)
        write_json(out / SCORES_FILE, scores)
        forget_validation(out, ())  # of an evaluation that this one replaced
        for file in (out / FREE_PREDICTIONS_FILE, *(predictions_file(out, name) for name in ASKED)):
            file.unlink(missing_ok=True)
    return scores, errors


def ask_recipe_baselines(
    recipe: Recipe,
    model: Model,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    out: Path,
    names: Sequence[str],
    decoding: str | None = None,
    about: Mapping[str, Any] | None = None,
    watch: Watch | None = None,
    backend: Backend | None = None,
) -> AskedBaselines:
    """The replies of the model before tuning, decoded as those are that stand at the top of scores.json.

    Args:
        model: Without adapter.
        names: Of the baselines, as `ask_baselines` takes them.
        about: As for `evaluate`.
        backend: Whose peak memory is reported; None leaves that out.
    """
    watch = watch or Watch()
    constraint = None
    if (decoding or recipe.evaluate.decoding) != FREE:
        constraint = constraint_of(recipe, tokenizer, model)
    identity = model_identity(recipe, {**(about or {}), "adapter": None})
    replies: dict[str, list[Prediction]] = {}
    speeds: dict[str, dict[str, float]] = {}
    for name in names:
        if backend is not None:
            backend.peak_memory_bytes(reset=True)
        asked = ask_baselines(
            recipe, model, tokenizer, rows, out, [name], constraint, identity, watch.begin, watch.rows, watch.say
        )
        replies[name], speeds[name] = asked[name].predictions, speed(asked[name], backend)
    return AskedBaselines(replies, speeds)


def add_comparisons(
    scores: Scores,
    recipe: Recipe,
    predictions: Sequence[Prediction],
    answers: Mapping[str, LabelAnswers],
    asked: Mapping[str, Sequence[Prediction]],
    bertscore: BertScore | None = None,
) -> None:
    """Put the recipe's baselines, and what the predictions are beside them, into scores; arguments as for `measure`."""
    if recipe.evaluate.baselines:
        measured = measure(recipe, predictions, answers, asked, partial(score, bertscore=bertscore))
        scores["baselines"], scores["comparisons"] = measured.scores, measured.comparisons
        scores["notes"] = [*scores["notes"], *measured.notes]
    for name, replies in asked.items():
        if compared := compare_replies(predictions, replies, recipe, name):
            plain = {figure: asdict(one) for figure, one in compared.items()}
            scores["reply_comparisons"] = {**scores.get("reply_comparisons", {}), name: plain}


def add_before(scores: Scores, recipe: Recipe, out: Path, folders: Sequence[Path]) -> None:
    """Put what changed since the first comparable evaluation in `folders` into scores, whose predictions lie in `out`."""
    for folder in folders:
        others = read_scores(folder)
        if others is not None and comparable(scores, others):
            try:
                compared = compare_folders(scores, out, others, folder, recipe, "before")
            except DataError as error:
                scores["notes"] = [*scores["notes"], f"before: not compared: {error}"]
            else:
                for key, found in (("comparisons", "fields"), ("reply_comparisons", "replies")):
                    if compared[found]:
                        scores[key] = {**scores.get(key, {}), "before": compared[found]}
            return


def model_identity(recipe: Recipe, about: Mapping[str, Any]) -> str | None:
    """What tells one model with its adapter from another; None where `about` does not say which it is."""
    if "base" not in about:
        return None
    adapter = (about.get("adapter") or {}).get("sha256")
    return resume.identify(__version__, about["base"], adapter, about.get("backend"), recipe.model.model_dump())


def score(predictions: Sequence[Prediction], recipe: Recipe, bertscore: BertScore | None = None) -> Scores:
    """Metrics of every field over one decoding's predictions.

    Args:
        predictions: In row order.
        recipe: Says what the fields are; its training seed seeds the resampling.
        bertscore: Scores text fields as well; None leaves that out.

    Returns:
        {"rows", "decoding", "replies", "fields", "notes"}.

    Raises:
        DataError: There are no predictions.
    """
    if not predictions:
        raise DataError("no rows to score")
    seed = recipe.train.seed
    fields: dict[str, Any] = {}
    notes: list[str] = []
    repeated = [prediction.repeated for prediction in predictions]
    labels_right = _labels_right(predictions, recipe)
    for name, field in ReplyTemplate(recipe.output).fields.items():
        expected: list[Any] = [prediction.expected[name] for prediction in predictions]
        predicted: list[Any] = [prediction.predicted[name] for prediction in predictions]
        if isinstance(field, LabelsField):
            fields[name] = asdict(label_set_scores(expected, predicted, repeated, field.labels, seed))
        elif isinstance(field, LabelField):
            fields[name] = asdict(label_scores(expected, predicted, repeated, field.labels, seed))
        else:
            found = asdict(text_scores(expected, predicted, labels_right, seed))
            fields[name] = {key: value for key, value in found.items() if value is not None}
            if bertscore is not None:
                fields[name]["bertscore"] = asdict(mean_estimate(bertscore.rows(expected, predicted), seed))
                fields[name]["signatures"] = {**found["signatures"], "bertscore": bertscore.signature}
    cut = [prediction.stop == "length" for prediction in predictions]
    replies: dict[str, Sequence[float] | NDArray[np.generic]] = {
        "invalid_rate": [not prediction.valid for prediction in predictions],
        "repeated_rate": repeated,
        "loop_rate": [prediction.loop for prediction in predictions],
        "cut_rate": cut,
    }
    if (of_fields := all_right(predictions, recipe)) is not None:
        replies["all_fields_correct"] = of_fields.rows["all_fields_correct"]
    if any(cut):
        notes.append(f"{sum(cut)} of {len(cut)} replies were cut at evaluate.max_new_tokens")
    if len(predictions) < 2:
        notes.append("one row is too few for intervals and comparisons; give more")
    return {
        "rows": len(predictions),
        "decoding": predictions[0].decoding,
        "replies": {name: asdict(mean_estimate(flags, seed)) for name, flags in replies.items()},
        "fields": fields,
        "notes": notes,
    }


def _labels_right(predictions: Sequence[Prediction], recipe: Recipe) -> list[bool] | None:
    """Whether every field with a closed list of labels is right, at each row; None where the recipe has no such field.

    Open lists are left out: hardly a reply has every one of a handful of free tags.
    """
    closed = [name for name, field in recipe.output.fields.items() if getattr(field, "labels", None)]
    if not closed:
        return None
    found = (right_fields(prediction, recipe) for prediction in predictions)
    return [all(right[name] for name in closed) for right in found]


def speed(answers: Answers, backend: Backend | None = None) -> dict[str, float]:
    """Time per row and rate, over the model's own seconds: reading, judging and loading are not in it.

    With a backend, also the most memory it has used since it was last reset, weights included.
    """
    memory = {} if backend is None else {"peak_memory_gb": round(backend.peak_memory_bytes() / 1e9, 3)}
    n_rows, seconds = len(answers.predictions), max(answers.seconds, 1e-9)
    n_tokens = sum(prediction.tokens for prediction in answers.predictions)
    return {
        "seconds_per_row": seconds / n_rows,
        "rows_per_second": n_rows / seconds,
        "tokens_per_second": n_tokens / seconds,
        **memory,
    }


def limit_warnings(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    """A sentence if right replies would be cut by `evaluate.max_new_tokens`, their end-of-turn token counted."""
    template = ReplyTemplate(recipe.output)
    texts = [template.format(values)[0] for values in expected_values(rows, recipe)]
    needed = [len(reply.ids) + 1 for reply in tokenizer.encode(texts)]
    limit = recipe.evaluate.max_new_tokens
    n_long = sum(n > limit for n in needed)
    if not n_long:
        return []
    advice = f"the longest needs {max(needed)}: --set evaluate.max_new_tokens={max(needed)}"
    long = f"{n_long} of {len(rows)} expected replies are longer and can only be wrong"
    return [f"evaluate.max_new_tokens is {limit}, but {long}; {advice}"]


def position_warnings(
    rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, config: Mapping[str, Any]
) -> list[str]:
    """A sentence if prompts leave less than `evaluate.max_new_tokens` of the model's positions, where replies end.

    Raises:
        DataError: Prompts that leave none; names the rows.
    """
    positions, limit = max_positions(config), recipe.evaluate.max_new_tokens
    if positions is None:
        return []
    lengths = list(map(len, prompt_ids(rows, recipe, tokenizer)))
    full = [
        Problem(f"{row.file}:{row.line}", f"a prompt of {length} tokens")
        for row, length in zip(rows, lengths, strict=True)
        if length >= positions
    ]
    if full:
        what = f"no room for a reply: the model has {positions} positions (max_position_embeddings); shorten these rows"
        raise DataError(what, full)
    n_short = sum(length + limit > positions for length in lengths)
    if not n_short:
        return []
    return [
        f"{n_short} of {len(rows)} prompts leave fewer than evaluate.max_new_tokens = {limit} of the model's {positions} "
        "positions (max_position_embeddings); their replies end at the last one"
    ]


def refuse_finished(out: Path, force: bool) -> None:
    """Refuse to replace a finished evaluation, unless told to.

    Raises:
        RunError: One lies there.
    """
    if (out / SCORES_FILE).exists() and not force:
        raise RunError(f"{out}: holds an evaluation already; --force replaces it, --out puts this one elsewhere")


def read_scores(out: Path) -> Scores | None:
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


def comparable(scores: Scores, others: Scores) -> bool:
    """Whether two evaluations put the same questions about the same rows to the same base model."""
    keys = ("sha256", "rows")
    ours, theirs = scores.get("data", {}), others.get("data", {})
    same_rows = "sha256" in ours and all(ours[key] == theirs.get(key) for key in keys)
    return bool(same_rows and all(scores.get(key) == others.get(key) for key in ("asked", "base")))


def asked(recipe: Recipe) -> str:
    """SHA-256 of what decides how rows are asked and replies are read: prompt, output and the reply's limit."""
    content = [recipe.prompt.model_dump(), recipe.output.model_dump(), recipe.evaluate.max_new_tokens]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def identity(file: Path) -> dict[str, Any]:
    """A file, or rows on the Hub, by name and content: {"file", "sha256"}."""
    return {"file": str(file), "sha256": content_hash(file)}
