"""`mlxtune sweep`: a grid of settings, trained, evaluated and compared."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxtune.commands.compare import show
from mlxtune.commands.options import (
    compute_options,
    force_option,
    json_option,
    print_json,
    recipe_argument,
    say,
    set_option,
)
from mlxtune.errors import DataError

if TYPE_CHECKING:
    from mlxtune.evaluation.compare.runs import RunComparison
    from mlxtune.sweep.run import TrialResult


@click.command()
@recipe_argument
@click.option(
    "--vary",
    "varied",
    metavar="KEY=V1,V2",
    multiple=True,
    required=True,
    help="Values to try; several of these make a grid. KEY,KEY=V:W,V:W varies keys together.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder to write. Default: runs/<recipe>/sweep-<what varies>."
)
@set_option
@click.option("--no-evaluate", is_flag=True, help="Train only; the table then shows losses and no metrics.")
@compute_options
@force_option
@json_option
def sweep(
    recipe: Path,
    varied: tuple[str, ...],
    out: Path | None,
    overrides: tuple[str, ...],
    no_evaluate: bool,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Train and evaluate RECIPE with every combination of settings, and compare them. The same command continues an interrupted sweep.

    Each combination is a run in a process of its own, so that one that fails does not stop the others. Finished runs are
    skipped, interrupted ones continue. With --force, runs of an earlier recipe or of other data, and failed ones, are
    made again.

    Example: mlxtune sweep recipes/demo-intent.yaml --vary lora.rank,lora.alpha=4:8,8:16 --set train.max_steps=5
    """
    from mlxtune.backends import choose
    from mlxtune.runs.layout import FAILED
    from mlxtune.sweep.grid import default_folder, parse_axis, plan_trials, scale_note
    from mlxtune.sweep.run import sweep as run_sweep

    axes = [parse_axis(text) for text in varied]
    cells = plan_trials(recipe, axes, overrides, evaluate=not no_evaluate)
    folder = out or default_folder(cells[0].recipe.name, axes, overrides)
    say(f"backend: {choose(backend, device).reason}")
    if (note := scale_note(cells)) is not None:
        say(f"note: {note}")
    say(f"{len(cells)} combinations in {folder}")
    where = ["--backend", backend, "--device", device]
    try:
        done = run_sweep(cells, folder, evaluate=not no_evaluate, force=force, where=where)
    except KeyboardInterrupt:
        say("Finished trials are kept; run the same command again to continue.")
        raise
    try:
        compared = _compare(done, not no_evaluate)
    except DataError as error:  # cells with test rows, labels or fields of their own
        say(
            f"the trials were not compared: {error}; to compare some of them: {shlex.join(['mlxtune', 'compare', str(folder)])}"
        )
        compared = None
    if as_json:
        content = None if compared is None else compared.to_json()
        print_json({"folder": str(folder), "cells": [one.as_json() for one in done], "comparison": content})
    elif compared is not None:
        show(compared)
        if not no_evaluate:
            click.echo(f"\nto see this again: {shlex.join(['mlxtune', 'compare', str(folder)])}")
    failed = [one for one in done if one.status == FAILED]
    if failed:
        say(f"{len(failed)} of {len(done)} trials failed; run the same command again to retry them:")
        for one in failed:
            say(f"  {one.trial}: {one.error} (log: {one.log})")
        sys.exit(1)


def _compare(done: list[TrialResult], evaluated: bool) -> RunComparison | None:
    """The finished ones beside one another; None where there are none."""
    from mlxtune.evaluation.compare.runs import compare_runs
    from mlxtune.evaluation.stored import open_evaluation
    from mlxtune.runs.layout import FAILED

    found = [open_evaluation(one.folder, evaluated=evaluated) for one in done if one.status != FAILED]
    return compare_runs(found) if found else None
