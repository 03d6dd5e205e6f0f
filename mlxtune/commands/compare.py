"""`mlxtune compare`: runs side by side, and which differences are real."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxtune.commands.judging import judge_options, judge_progress
from mlxtune.commands.options import json_option, print_json

if TYPE_CHECKING:
    from mlxtune.evaluation.compare.runs import RunComparison
    from mlxtune.evaluation.judge.pairs import JudgedRuns
    from mlxtune.evaluation.judge.ratings import JudgeRequest

MIN_WIDTH = 60
FILE_WIDTH = 400  # where no terminal folds it, a line stays one line


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--name", default="tuned", show_default=True, metavar="NAME", help="Which evaluation of each run to compare."
)
@click.option(
    "--intersection", is_flag=True, help="Compare on the rows that all runs answered, if they answered different ones."
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    help="Recipe that defines the fields, for evaluations outside of a run folder.",
)
@click.option("--markdown", is_flag=True, help="Print one Markdown table.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per metric and run.")
@judge_options
@json_option
def compare(
    runs: tuple[Path, ...],
    name: str,
    intersection: bool,
    recipe: Path | None,
    markdown: bool,
    as_csv: bool,
    judge_request: JudgeRequest | None,
    as_json: bool,
) -> None:
    """Compare evaluated runs with the first RUN: settings, losses, every metric with its interval, time and memory.

    A RUN is a run folder, an evaluation folder such as RUN/evaluation/base, the folder of a sweep for all its runs, or a
    recipe for its newest run. One run alone is compared with its base model.

    Example: mlxtune compare runs/demo-intent/a runs/demo-intent/b --markdown
    """
    if markdown + as_csv + as_json > 1:
        raise click.UsageError("--json, --markdown and --csv are three ways to print; choose one")
    from mlxtune.chat.client import ChatServerError
    from mlxtune.evaluation.compare.rows import same_rows
    from mlxtune.evaluation.compare.runs import compare_runs
    from mlxtune.evaluation.judge.pairs import judge_runs
    from mlxtune.evaluation.stored import open_evaluations
    from mlxtune.recipe.load import load_recipe

    known = None if recipe is None else load_recipe(recipe)
    evaluations = open_evaluations(runs, name)
    compared = compare_runs(evaluations, intersection, known)
    judged: JudgedRuns | None = None
    unjudged: ChatServerError | None = None  # raised once the figures are shown, which do not need the judge
    if judge_request is not None:
        same = same_rows(evaluations, intersection, known)
        try:
            with judge_progress(judge_request) as progress:
                judged = judge_runs(judge_request, compared.names, same.predictions, same.recipe, progress)
        except ChatServerError as error:
            unjudged = error
    show(compared, markdown, as_csv, as_json, judged)
    if unjudged is not None:
        raise unjudged


def show(
    compared: RunComparison,
    markdown: bool = False,
    as_csv: bool = False,
    as_json: bool = False,
    judged: JudgedRuns | None = None,
) -> None:
    """A comparison on stdout, and what a judge chose if there was one."""
    from mlxtune.report.terminal import comparison_tables, judge_tables
    from mlxtune.report.terminal.tables import to_text

    if as_json:
        print_json({**compared.to_json(), **({"judge": judged.to_json()} if judged else {})})
    elif markdown:
        click.echo(comparison_tables.as_markdown(compared))
        if judged:
            click.echo("\n" + judge_tables.pair_markdown(judged))
    elif as_csv:
        click.echo(comparison_tables.as_csv(compared))
        if judged:
            click.echo(judge_tables.pair_csv(judged, comparison_tables.CSV_COLUMNS), nl=False)
    else:
        terminal = sys.stdout.isatty()
        width = max(MIN_WIDTH, shutil.get_terminal_size().columns) if terminal else FILE_WIDTH
        tables = [*comparison_tables.comparison_tables(compared), *(judge_tables.pair_tables(judged) if judged else [])]
        click.echo(to_text(tables, width, color=terminal))
