"""`mlxtune evaluate`: score a run, or the model before tuning, on the test rows."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.judging import judge_evaluation, judge_options
from mlxtune.commands.options import (
    compute_options,
    force_option,
    json_option,
    on_terminal,
    print_json,
    recipe_or_run_argument,
    say,
    set_option,
    typed,
)
from mlxtune.errors import DataError

CASES_SHOWN = 1  # best, middle and worst text, where --errors does not say how many

if TYPE_CHECKING:
    from mlxtune.commands.judging import Judging
    from mlxtune.data.rows import Row
    from mlxtune.evaluation.metrics.bertscore import BertScore
    from mlxtune.evaluation.options import Further
    from mlxtune.evaluation.subject import Subject


@click.command()
@recipe_or_run_argument
@click.option("--base", is_flag=True, help="The model before tuning.")
@set_option
@click.option(
    "--decoding",
    type=click.Choice(["free", "constrained", "both"]),
    help="Let the model write anything, or only what the template allows; without it, as the recipe says.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write; without it RUN/evaluation/tuned or /base."
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help='Score the replies in this file, one {"prediction": "..."} a line, told apart by "id", "row" or their order; '
    "no model is needed, and only --out writes anything.",
)
@click.option("--probabilities", is_flag=True, help="Exact probabilities of every option, and whether they hold.")
@click.option("--repeats", type=click.IntRange(min=2), metavar="N", help="Sample each row N times more: does it agree?")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.7,
    show_default=True,
    help="Of the samples, with --repeats.",
)
@click.option(
    "--bertscore",
    metavar="MODEL",
    help="Score texts by this encoder, too: a folder or a name on the Hub; the extra bertscore.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows, for a trial.")
@click.option(
    "--errors",
    "n_errors",
    type=click.IntRange(min=0),
    default=5,
    metavar="N",
    help="Show the N worst rows, and of texts the N best, middle and worst; 5, of texts 1, without it.",
)
@judge_options
@compute_options
@force_option
@json_option
@click.pass_context
def evaluate(
    context: click.Context,
    subject: Path,
    base: bool,
    overrides: tuple[str, ...],
    decoding: str | None,
    out: Path | None,
    predictions: Path | None,
    probabilities: bool,
    repeats: int | None,
    temperature: float,
    bertscore: str | None,
    limit: int | None,
    n_errors: int,
    judging: Judging | None,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Score a RUN, or the newest run of a RECIPE, on the recipe's test rows.

    Example: mlxtune evaluate recipes/demo-intent.yaml --base --limit 20
    """
    from mlxtune.chat.client import ChatServerError
    from mlxtune.evaluation.error_analysis import ERRORS_FILE, find_errors
    from mlxtune.evaluation.finished import finished_evaluation
    from mlxtune.evaluation.judge.ratings import JUDGE_FILE, text_fields
    from mlxtune.evaluation.options import Further
    from mlxtune.evaluation.paired_predictions import compare_folders
    from mlxtune.evaluation.predict.predictions import read_predictions, read_replies
    from mlxtune.evaluation.run import comparable, read_scores, refuse_finished
    from mlxtune.evaluation.subject import find_subject, read_test_rows, read_validation_rows

    if predictions is not None:
        for name in ("base", "decoding", "backend", "device", "probabilities", "repeats", "temperature"):
            if typed(context, name):
                raise click.UsageError(f"--{name} does not go with --predictions, which are there already")
    if repeats is None and typed(context, "temperature"):
        raise click.UsageError("--temperature goes with --repeats; without it replies are greedy")
    # Replies that are there already need no run, as the base model needs none.
    found = find_subject(subject, overrides, base=base or predictions is not None)
    if predictions is None:
        out = out or found.evaluation(limit)
        say(f"evaluating {found.run or found.recipe.model.path}{', the model before tuning' if base else ''}")
    if judging is not None:
        text_fields(found.recipe)  # a recipe without any is said before anything is asked
    encoder = None if bertscore is None else _encoder(bertscore, found)
    rows = read_test_rows(found.recipe)
    rows = rows if limit is None else rows[:limit]
    finished = None
    if out is not None and judging is not None and predictions is None and encoder is None and not force:
        finished = finished_evaluation(out, found, rows, decoding, probabilities, repeats)
    if out is not None and finished is None:
        refuse_finished(out, force)
    if finished is not None:
        assert out is not None
        say(f"{out}: holds this evaluation already; it is only judged")
        scores, errors = finished.scores, find_errors(finished.predictions, found.recipe)
    elif predictions is not None:
        scores, errors = _score_file(predictions, rows, found, out, encoder)
    else:
        assert out is not None
        before = [] if base else found.counterparts(limit)
        validation = read_validation_rows(found.recipe) if probabilities else None
        validation = validation if limit is None or validation is None else validation[:limit]
        further = Further(probabilities, validation, repeats, temperature)
        scores = _ask(found, rows, out, decoding, backend, device, overrides, further, before, encoder)
        errors = json.loads((out / ERRORS_FILE).read_text(encoding="utf-8"))
    if out is not None and finished is None:
        (out / JUDGE_FILE).unlink(missing_ok=True)  # of an evaluation that this one replaced
    judgements: list[dict[str, Any]] = []
    unjudged: ChatServerError | None = None  # raised once the scores are shown, which do not need the judge
    if judging is not None:
        if predictions is not None:
            replies = read_replies(predictions, rows, found.recipe)
            go_on = f"run the same command again{'' if out is None else ' with --force'}"
        else:
            assert out is not None
            replies = finished.predictions if finished else read_predictions(out / scores["predictions"])
            leaving = "--force" if encoder is None else "--force and --bertscore"
            go_on = f"run the same command again without {leaving}, which then only judges"
        go_on += "; what is judged already is not asked again"
        try:
            scores, judgements = judge_evaluation(judging, scores, out, replies, found.recipe, go_on)
        except ChatServerError as error:
            unjudged = error
    if as_json:
        files = {} if out is None else {"evaluation": str(out), "scores": str(out / "scores.json")}
        if out is not None:
            files["predictions"] = str(out / scores["predictions"])
            files["errors"] = str(out / ERRORS_FILE)
            if "judge" in scores:
                files["judge"] = str(out / JUDGE_FILE)
        run = found.run or (found.folder if predictions is None else None)
        print_json({**scores, "run": run and str(run), "files": files})
        if unjudged is not None:
            raise unjudged
        return

    from mlxtune.report.judge_tables import judge_tables
    from mlxtune.report.tables import WIDTH, before_after, error_tables, score_tables, to_text
    from mlxtune.report.text_tables import case_tables

    n_cases = n_errors if typed(context, "n_errors") else CASES_SHOWN
    tables = [*score_tables(scores), *case_tables(errors, n_cases), *error_tables(errors, n_errors)]
    if "judge" in scores:
        tables += judge_tables(scores["judge"], judgements, n_errors)
    for folder in [] if predictions is not None else found.counterparts(limit):
        other = read_scores(folder)
        if other is None or not comparable(scores, other):
            continue
        if base:
            try:
                changes = compare_folders(other, folder, scores, out, found.recipe, "before") if out else {}
            except DataError:  # the other evaluation's predictions are gone or damaged: its figures are still there
                changes = {}
            tables.append(before_after(scores, other, changes.get("fields"), changes.get("replies")))
        else:
            kept = [scores.get(key, {}).get("before") for key in ("comparisons", "reply_comparisons")]
            tables.append(before_after(other, scores, *kept))
        break
    terminal = sys.stdout.isatty()
    width = min(WIDTH, shutil.get_terminal_size().columns) if terminal else WIDTH
    click.echo(to_text(tables, width, color=terminal))
    if out is not None:
        click.echo(f"\nscores: {out / 'scores.json'}")
    if unjudged is not None:
        raise unjudged


def _ask(
    subject: Subject,
    rows: list[Row],
    out: Path,
    decoding: str | None,
    backend: str,
    device: str,
    overrides: tuple[str, ...],
    further: Further,
    before: list[Path],
    encoder: BertScore | None,
) -> dict[str, Any]:
    """Load the model and evaluate it, with a bar on a terminal."""
    from mlxtune.backends import choose
    from mlxtune.evaluation.baselines import ASKED
    from mlxtune.evaluation.run import Watch, ask_recipe_baselines, asked, identity
    from mlxtune.evaluation.run import evaluate as evaluate_model
    from mlxtune.evaluation.subject import load_subject
    from mlxtune.models.base_model import base_folder, fingerprint
    from mlxtune.runs.folder import locked

    choice = choose(backend, device)
    say(f"backend: {choice.reason}")
    recipe = subject.recipe
    # Before tuning, a model asked as the recipe asks is no baseline: it is what is evaluated.
    names = [name for name in recipe.evaluate.baselines if name in ASKED and not (subject.base and name == "zero_shot")]
    loaded = None if names else load_subject(subject, choice.backend, say, progress=on_terminal())
    weights = subject.adapter and identity(subject.adapter / "adapters.safetensors")
    about = {
        "model": {"path": recipe.model.path, "revision": recipe.model.revision},
        "base": fingerprint(base_folder(recipe.model, choice.backend, progress=False)),
        "asked": asked(recipe),
        "adapter": weights,
        "data": {**identity(Path(str(recipe.data.test))), "rows": len(rows)},
        "backend": choice.backend.name,
        "overrides": list(overrides),
    }
    bars: list[Any] = []

    def begin(name: str, n_rows: int) -> None:
        if on_terminal():
            from tqdm import tqdm

            bars.append(tqdm(total=n_rows, unit="row", desc=name, file=sys.stderr, dynamic_ncols=True))
        else:
            say(f"asking {n_rows} rows, {name}{' decoding' if name in ('free', 'constrained') else ''}")

    def answered(n_rows: int) -> None:
        if bars:
            bars[-1].update(n_rows)

    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out):
            watch = Watch(begin, answered, say)
            replies = None
            if names:  # before the tuned model is loaded, so that the two never share the memory
                before_tuning = load_subject(replace(subject, base=True), choice.backend, say, progress=on_terminal())
                replies = ask_recipe_baselines(
                    recipe, *before_tuning, rows, out, names, decoding, about, watch, choice.backend
                )
                del before_tuning
            model, tokenizer = loaded or load_subject(subject, choice.backend, say, progress=on_terminal())
            asked_of = (recipe, model, tokenizer, rows, out, decoding, about, watch)
            return evaluate_model(
                *asked_of,
                further=further,
                backend=choice.backend,
                asked_baselines=replies,
                before=before,
                bertscore=encoder,
            )
    except KeyboardInterrupt:
        say(f"Replies so far are kept in {out}; the same command goes on from there.")
        raise
    finally:
        for bar in bars:
            bar.close()


def _encoder(model: str, subject: Subject) -> BertScore:
    """What --bertscore names, checked before anything is asked."""
    from mlxtune.evaluation.metrics.bertscore import BertScore

    if all(field.kind != "text" for field in subject.recipe.output.fields.values()):
        raise click.UsageError(
            f"--bertscore scores texts, and recipe {subject.recipe.name!r} has no field of kind text"
        )
    return BertScore(model)


def _score_file(
    predictions: Path, rows: list[Row], subject: Subject, out: Path | None, encoder: BertScore | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores and errors of replies that are there already."""
    from mlxtune.evaluation.predict.predictions import read_replies
    from mlxtune.evaluation.run import evaluate_replies, identity

    replies = read_replies(predictions, rows, subject.recipe)
    data = {**identity(Path(str(subject.recipe.data.test))), "rows": len(rows)}
    about = {"data": data, "replies_of": identity(predictions)}
    return evaluate_replies(subject.recipe, replies, rows, out, about, encoder)
