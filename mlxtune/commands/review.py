"""`mlxtune review`: sheets for people to rate replies with, out and back in."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from mlxtune.commands.options import force_option, json_option, print_json, say, typed


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--sample", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="How many cases to rate."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the draw and of the order."
)
@click.option(
    "--field",
    metavar="NAME",
    help="The text field to rate, if there are several. Without a text field the whole reply is rated.",
)
@click.option(
    "--scores",
    multiple=True,
    metavar="FILE...",
    type=click.Path(path_type=Path),
    help="Read filled sheets back, one per rater.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the sheet and its key. Default: RUN/evaluation/tuned, or RUN/evaluation/with-OTHERS for several runs.",
)
@force_option
@json_option
@click.pass_context
def review(
    context: click.Context,
    runs: tuple[Path, ...],
    sample: int,
    seed: int,
    field: str | None,
    scores: tuple[Path, ...],
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write a sheet on which people rate a RUN's replies from 1 to 5, or read filled ones back with --scores.

    With several runs, the lines are shuffled and do not tell which run wrote a reply. Give each rater a copy of the sheet,
    and keep the key file that is written beside it. A filled sheet may be partly empty, and come back as any CSV that a spreadsheet
    saves. RUN may be an evaluation folder, as RUN/evaluation/base.

    Example: mlxtune review runs/demo-ticket/demo --sample 20
    """
    if scores:
        for name in ("sample", "seed", "field"):
            if typed(context, name):
                raise click.UsageError(
                    f"--{name} is for writing a sheet and cannot be used with --scores, which reads filled sheets"
                )
        # An option takes one file, a shell's `*.csv` gives several: the rest arrive among the runs.
        more = tuple(path for path in runs if not path.is_dir() and (path.is_file() or path.suffix))
        _read_back([path for path in runs if path not in more], [*scores, *more], out, force, as_json)
        return
    if not runs:
        raise click.UsageError("which run's replies? name a run folder: mlxtune review RUN")
    _write(runs, sample, seed, field, out, force, as_json)


def _write(
    runs: Sequence[Path], sample: int, seed: int, field: str | None, out: Path | None, force: bool, as_json: bool
) -> None:
    from mlxtune.evaluation.review.draw import KEY_FILE, SHEET_FILE, default_folder, make_review, write_review

    made = make_review(runs, sample, seed, field)
    words = [*map(str, runs), *(["--out", str(out)] if out else [])]
    out = out or default_folder(made.evaluations)
    write_review(made, out, force)
    sheet, key = out / SHEET_FILE, out / KEY_FILE
    if made.n_cases < sample:
        say(f"there are {made.n_cases} rows, fewer than --sample {sample}: all of them are on the sheet")
    if made.n_long:
        say(f"{made.n_long} texts are longer than an Excel cell can hold; Excel shows only their beginning")
    if as_json:
        print_json(
            {
                "run": made.key.runs[0]["run"],
                "runs": [run["run"] for run in made.key.runs],
                "sheet": str(sheet),
                "key": str(key),
                "field": made.key.field,
                "cases": made.n_cases,
                "lines": len(made.lines),
                "buckets": made.key.buckets,
            }
        )
        return
    shown = "; ".join(f"{name}: {one['cases']} of {one['rows']} rows" for name, one in made.key.buckets.items())
    what = "the whole reply" if made.key.field is None else made.key.field
    several = f", {len(made.lines)} lines shuffled" if len(runs) > 1 else ""
    click.echo(f"{made.n_cases} cases{several}, to rate: {what}; ROUGE-L {shown}")
    click.echo(f"sheet: {sheet}\nkey: {key} (not for the raters)")
    click.echo(f"next: give each rater a copy, then run mlxtune review {shlex.join(words)} --scores FILE...")


def _read_back(runs: Sequence[Path], sheets: Sequence[Path], out: Path | None, force: bool, as_json: bool) -> None:
    from mlxtune.evaluation.review.draw import changed_predictions, find_key, read_key
    from mlxtune.evaluation.review.results import summarise, write_result
    from mlxtune.evaluation.review.sheet import read_sheets

    file = find_key(runs, out, sheets)
    key = read_key(file)
    filled, warnings = read_sheets(sheets, key.fingerprints())
    for name in changed_predictions(key, file.parent):
        warnings.append(
            f"{name}: was evaluated again since the sheet was written; the scores are of the earlier replies"
        )
    result = summarise(key, filled)
    written = write_result(result, file.parent, force)
    for sentence in warnings:
        say(sentence)
    for sheet in filled:
        if not sheet.n_scores:
            say(f"{sheet.path}: contains no score, so it is left out")
    if as_json:
        print_json({"run": key.runs[0]["run"], **result.to_json(), "files": {"result": str(written), "key": str(file)}})
        return

    from mlxtune.report.terminal.review_tables import review_tables
    from mlxtune.report.terminal.tables import WIDTH, to_text

    terminal = sys.stdout.isatty()
    width = min(WIDTH, shutil.get_terminal_size().columns) if terminal else WIDTH
    click.echo(to_text(review_tables(result), width, color=terminal))
    click.echo(f"\nresult: {written}")
