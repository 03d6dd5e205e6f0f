"""`mlxtune evaluate`: score a run, or the model before tuning, on the test rows."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import backend_option, force_option, json_option, on_terminal, print_json, say, set_option

if TYPE_CHECKING:
    from mlxtune.data.rows import Row
    from mlxtune.evaluation.subject import Subject


@click.command()
@click.argument("subject", metavar="RECIPE|RUN", type=click.Path(path_type=Path))
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
    help="Score the replies in this file; only --out writes the scores.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows, for a trial.")
@backend_option
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
    limit: int | None,
    backend: str,
    force: bool,
    as_json: bool,
) -> None:
    """Score a RUN, or the newest run of a RECIPE, on the recipe's test rows.

    Example: mlxtune evaluate recipes/demo-intent.yaml --base --limit 20
    """
    from mlxtune.evaluation.scores import comparable, read_scores, refuse_finished
    from mlxtune.evaluation.subject import find_subject, read_test_rows

    if predictions is not None:
        for name in ("base", "decoding", "backend"):
            if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(f"--{name} does not go with --predictions, which are there already")
    # Replies that are there already need no run, as the base model needs none.
    found = find_subject(subject, overrides, base=base or predictions is not None)
    if predictions is None:
        out = out or found.evaluation(limit)
        say(f"evaluating {found.run or found.recipe.model.path}{', the model before tuning' if base else ''}")
    if out is not None:
        refuse_finished(out, force)
    rows = read_test_rows(found.recipe)
    rows = rows if limit is None else rows[:limit]
    if predictions is not None:
        scores = _score_file(predictions, rows, found, out)
    else:
        assert out is not None
        scores = _ask(found, rows, out, decoding, backend, overrides)
    if as_json:
        files = {} if out is None else {"evaluation": str(out), "scores": str(out / "scores.json")}
        if predictions is None:
            files["predictions"] = str(Path(files["evaluation"]) / scores["predictions"])
        run = found.run or (found.folder if predictions is None else None)
        print_json({**scores, "run": run and str(run), "files": files})
        return

    from mlxtune.report.tables import WIDTH, before_after, score_tables, to_text

    tables = score_tables(scores)
    others = [] if predictions is not None else map(read_scores, found.counterparts(limit))
    other = next((other for other in others if other and comparable(scores, other)), None)
    if other is not None:
        tables.append(before_after(scores, other) if base else before_after(other, scores))
    terminal = sys.stdout.isatty()
    width = min(WIDTH, shutil.get_terminal_size().columns) if terminal else WIDTH
    click.echo(to_text(tables, width, color=terminal))
    if out is not None:
        click.echo(f"\nscores: {out / 'scores.json'}")


def _ask(
    subject: Subject, rows: list[Row], out: Path, decoding: str | None, backend: str, overrides: tuple[str, ...]
) -> dict[str, Any]:
    """Load the model and evaluate it, with a bar on a terminal."""
    from mlxtune.backends import choose
    from mlxtune.evaluation.scores import Watch, asked, identity
    from mlxtune.evaluation.scores import evaluate as evaluate_model
    from mlxtune.evaluation.subject import load_subject
    from mlxtune.models.base_model import base_folder, fingerprint
    from mlxtune.runs import locked

    choice = choose(backend)
    say(f"backend: {choice.reason}")
    model, tokenizer = load_subject(subject, choice.backend, say, progress=on_terminal())
    recipe = subject.recipe
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
            say(f"asking {n_rows} rows, {name} decoding")

    def answered(n_rows: int) -> None:
        if bars:
            bars[-1].update(n_rows)

    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out):
            return evaluate_model(recipe, model, tokenizer, rows, out, decoding, about, Watch(begin, answered, say))
    except KeyboardInterrupt:
        say(f"Replies so far are in {out}/*.part; an evaluation that was finished there is untouched.")
        raise
    finally:
        for bar in bars:
            bar.close()


def _score_file(predictions: Path, rows: list[Row], subject: Subject, out: Path | None) -> dict[str, Any]:
    """Score replies that are there already."""
    from mlxtune.evaluation.predictions import read_replies
    from mlxtune.evaluation.scores import SCORES_FILE, identity, score
    from mlxtune.files import write_json

    scores = score(read_replies(predictions, rows, subject.recipe), subject.recipe)
    scores["data"] = {**identity(Path(str(subject.recipe.data.test))), "rows": len(rows)}
    scores["replies_of"] = identity(predictions)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / SCORES_FILE, scores)
    return scores
