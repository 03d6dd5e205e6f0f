"""`mlxtune evaluate`: score a run, or the model before tuning, on the test rows."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxtune.backends import choose
from mlxtune.commands.judging import judge_options, judge_progress
from mlxtune.commands.options import (
    RowsProgress,
    compute_options,
    connected,
    force_option,
    is_speaker,
    json_option,
    n_processes,
    print_json,
    recipe_or_run_argument,
    say,
    set_option,
    typed,
)
from mlxtune.commands.reporting import report_option, write_report_of

CASES_SHOWN = 1  # best, middle and worst text, where --errors does not say how many

if TYPE_CHECKING:
    from mlxtune.backends.base import Backend
    from mlxtune.evaluation.judge.ratings import JudgeRequest
    from mlxtune.evaluation.metrics.bertscore import BertScore
    from mlxtune.evaluation.run import EvaluationOutcome
    from mlxtune.evaluation.subject import Subject
    from mlxtune.runs.folder import RunFolder


@click.command()
@recipe_or_run_argument
@click.option("--base", is_flag=True, help="Evaluate the model before tuning.")
@set_option
@click.option(
    "--decoding",
    type=click.Choice(["free", "constrained", "both", "best"]),
    help="free lets the model write anything, constrained only what the template allows; both does one after the other; best finds "
    "the most probable allowed reply by scoring. Default: as the recipe says.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write. Default: RUN/evaluation/tuned or RUN/evaluation/base.",
)
@click.option(
    "--predictions",
    type=click.Path(path_type=Path),
    help='Score the replies in this file, one {"prediction": "..."} per line, matched to rows by "id", "row" or their order; '
    "no model is needed, and only --out writes anything.",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="Compute the exact probability of every option of the first field, and how well it is calibrated.",
)
@click.option(
    "--tune-thresholds",
    is_flag=True,
    help="Choose a threshold for each label of the first field on the validation rows, and report what they change on the test "
    "rows. Includes --probabilities.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=2),
    metavar="N",
    help="Also sample each row N times, and report how often the samples agree.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=0.7,
    show_default=True,
    help="With --repeats: temperature of the samples.",
)
@click.option(
    "--bertscore",
    metavar="MODEL",
    help="Also score texts with this encoder: a folder or a name on the Hub. Needs the extra bertscore.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Evaluate only the first N rows, for a trial.")
@click.option(
    "--errors",
    "n_errors",
    type=click.IntRange(min=0),
    default=5,
    metavar="N",
    help="Show the N worst rows, and the N best, middle and worst texts. Default: 5 rows and 1 text of each.",
)
@click.option(
    "--allow-unmet", is_flag=True, help="Exit with 0 even if a condition of the recipe's evaluate.expect is not met."
)
@judge_options
@report_option
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
    tune_thresholds: bool,
    repeats: int | None,
    temperature: float,
    bertscore: str | None,
    limit: int | None,
    n_errors: int,
    allow_unmet: bool,
    judge_request: JudgeRequest | None,
    reports: bool,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Score a RUN, or the newest run of a RECIPE, on the recipe's test rows; of documents, measure the perplexity.

    Where the recipe has conditions (evaluate.expect) and one is not met, the exit status is 1, once all is written. Running
    the same command again checks changed conditions without asking the model.

    Example: mlxtune evaluate recipes/demo-intent.yaml --base --limit 20
    """
    from mlxtune.backends.group import ALONE, together
    from mlxtune.evaluation.documents import measure_documents, read_documents
    from mlxtune.evaluation.run import EvaluationRequest, run_evaluation
    from mlxtune.evaluation.subject import find_subject, require_same_base
    from mlxtune.runs.copies import run_copies

    _refuse_mixed(context, predictions is not None, repeats is not None)
    if predictions is not None and n_processes() > 1:
        raise click.UsageError("--predictions asks no model; start it as one process")
    joined = connected(backend, device)
    group = ALONE if joined is None else joined.backend.group()
    with run_copies(group) as copies:
        with together(group):
            # Replies that are there already need no run, as the base model needs none.
            found = find_subject(subject, overrides, base=base or predictions is not None, find=copies.find)
        if predictions is None:
            say(f"evaluating {found.run or found.recipe.model.path}{', the model before tuning' if base else ''}")

        def chosen() -> Backend:
            choice = joined or choose(backend, device)
            say(f"backend: {choice.reason}")
            require_same_base(found.recipe, choice.backend)
            return choice.backend

        with together(group):
            documents = read_documents(found, limit)
        if documents is not None:
            _refuse_of_documents(context, judge_request is not None)
            with RowsProgress("piece", lambda n, _: f"scoring {n} pieces of documents") as progress:
                place = copies.folder(out or found.evaluation(limit))
                scores = measure_documents(found, documents, chosen(), place, force, progress)
            if not is_speaker():
                return
            print_json(scores.to_json()) if as_json else click.echo(scores.sentence)
            if reports and found.run and out is None and limit is None:
                report = write_report_of(found.run.path)
                if report is not None and not as_json:
                    click.echo(f"report: {report}")
            return
        request = EvaluationRequest(
            found, out, limit, predictions, decoding, probabilities, repeats, temperature,
            None if bertscore is None else _encoder(bertscore, found), judge_request, overrides, force, tune_thresholds,
            asks_judge=is_speaker(),
        )  # fmt: skip
        if group.size > 1 and request.folder is not None:
            request = replace(request, out=copies.folder(request.folder))
        with RowsProgress() as progress, judge_progress(judge_request) as judging:
            outcome = run_evaluation(request, chosen, progress, judging)
    if not is_speaker():
        return
    report = write_report_of(found.run.path) if reports and found.run and _is_reported(outcome, found.run) else None
    if as_json:
        content = outcome.to_json()
        print_json({**content, "files": {**content["files"], **({"report": str(report)} if report else {})}})
    else:
        _show(outcome, n_errors, n_errors if typed(context, "n_errors") else CASES_SHOWN)
        if report is not None:
            click.echo(f"report: {report}")
    if outcome.unjudged is not None:
        raise outcome.unjudged
    if not allow_unmet:
        _refuse_unmet(outcome, predictions or outcome.run)


def _refuse_mixed(context: click.Context, given: bool, sampled: bool) -> None:
    """Options that do not go together."""
    asking = ("base", "decoding", "backend", "device", "probabilities", "tune_thresholds", "repeats", "temperature")
    for name in asking if given else ():
        if typed(context, name):
            raise click.UsageError(
                f"--{name.replace('_', '-')} cannot be used with --predictions, where no model is asked"
            )
    if not sampled and typed(context, "temperature"):
        raise click.UsageError("--temperature needs --repeats; without --repeats, replies are greedy")


def _refuse_of_documents(context: click.Context, judged: bool) -> None:
    """Options that are about replies, which documents have none of."""
    of_replies = ("decoding", "predictions", "probabilities", "tune_thresholds", "repeats", "bertscore", "n_errors")
    wrong = [f"--{name.replace('_', '-').removeprefix('n-')}" for name in of_replies if typed(context, name)]
    wrong += ["--judge"] if judged else []
    if wrong:
        raise click.UsageError(
            f"{', '.join(wrong)}: the test rows are documents, which ask for no reply; their perplexity is measured instead"
        )


def _refuse_unmet(outcome: EvaluationOutcome, evaluated: Path | None) -> None:
    """Raise where a condition is not met; each is a problem of what was evaluated."""
    from mlxtune.errors import ExpectationError, Problem
    from mlxtune.report.terminal.condition_table import condition_sentence

    unmet = [one for one in outcome.result.expectations if not one.met]
    if unmet:
        problems = [Problem(one.name, condition_sentence(one)) for one in unmet]
        raise ExpectationError(f"{evaluated}: evaluate.expect is not met", problems)


def _is_reported(outcome: EvaluationOutcome, run: RunFolder) -> bool:
    """Whether the run's report shows this evaluation: of all test rows, with or without the adapter, in the run's own folder."""
    from mlxtune.runs.layout import BASE, TUNED

    return outcome.folder is not None and outcome.folder in (run.evaluation(TUNED), run.evaluation(BASE))


def _encoder(model: str, subject: Subject) -> BertScore:
    """What --bertscore names, checked before anything is asked."""
    from mlxtune.evaluation.metrics.bertscore import BertScore

    if not subject.recipe.output.text_fields:
        raise click.UsageError(
            f"--bertscore scores texts, and recipe {subject.recipe.name!r} has no field of kind text"
        )
    return BertScore(model)


def _show(outcome: EvaluationOutcome, n_errors: int, n_cases: int) -> None:
    """The tables of an evaluation on stdout."""
    from mlxtune.report.terminal.condition_table import condition_table
    from mlxtune.report.terminal.judge_tables import judge_tables
    from mlxtune.report.terminal.tables import WIDTH, before_after, error_tables, score_tables, to_text
    from mlxtune.report.terminal.text_tables import case_tables

    result, errors, pair = outcome.result, outcome.errors, outcome.counterpart
    tables = [*score_tables(result), *case_tables(errors, n_cases), *error_tables(errors, n_errors)]
    if result.judge is not None:
        tables += judge_tables(result.judge, outcome.judgements, n_errors)
    if pair is not None:
        tables.append(before_after(pair.before, pair.after, pair.changes))
    if result.expectations:
        tables.append(condition_table(result.expectations))
    terminal = sys.stdout.isatty()
    width = min(WIDTH, shutil.get_terminal_size().columns) if terminal else WIDTH
    click.echo(to_text(tables, width, color=terminal))
    if outcome.folder is not None:
        click.echo(f"\nscores: {outcome.folder / 'scores.json'}")
