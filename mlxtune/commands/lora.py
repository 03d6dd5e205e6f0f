"""`mlxtune lora`: train a recipe, or plan it."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from mlxtune.commands.options import (
    compute_options,
    connected,
    force_option,
    is_speaker,
    json_option,
    n_processes,
    on_terminal,
    print_json,
    recipe_or_run_argument,
    say,
    set_option,
)
from mlxtune.commands.reporting import report_option, write_report_of

if TYPE_CHECKING:
    from mlxtune.backends.base import Backend
    from mlxtune.data.rows import Row
    from mlxtune.models.tokenizer import Tokenizer
    from mlxtune.recipe.sections import Recipe
    from mlxtune.runs.folder import RunFolder
    from mlxtune.training.loop import Measure

LINES_PER_RUN = 20  # progress lines of a whole run where stderr is no terminal


@click.command()
@recipe_or_run_argument
@click.option("--out", type=click.Path(path_type=Path), help="Run folder. Default: runs/<recipe>/<UTC time>.")
@set_option
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[RUN]",
    help="Continue from the last checkpoint of RUN, or of the run that is given in place of the recipe, or else of the "
    "recipe's newest run.",
)
@click.option(
    "--from",
    "begin_from",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Start a new run from another run's adapter.",
)
@click.option("--segments", is_flag=True, help="Show the loss of each part of the reply in the progress lines.")
@click.option(
    "--plan", "plan_only", is_flag=True, help="Estimate parameters, tokens, steps and memory, without loading weights."
)
@click.option(
    "--profile",
    is_flag=True,
    help="Show where the time went: batches, the phases of the steps, validation, saving of checkpoints. PyTorch tells forward pass, "
    "head (the loss over the vocabulary), backward pass and optimizer apart; MLX computes the first three as one.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="With --plan: load the weights and run two steps, for the time of the run and the measured memory; nothing is kept.",
)
@report_option
@compute_options
@force_option
@json_option
def lora(
    subject: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    resume: str | None,
    begin_from: Path | None,
    segments: bool,
    plan_only: bool,
    profile: bool,
    probe: bool,
    reports: bool,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
) -> None:
    """Train RECIPE: an adapter (QLoRA if the base is quantized), or all weights. With --resume, continue a RUN.

    Example: mlxtune lora recipes/demo-intent.yaml --set train.max_steps=5
    """
    from mlxtune.backends import choose
    from mlxtune.backends.group import ALONE, together
    from mlxtune.recipe.load import load_recipe

    resumes = resume is not None
    if probe and not plan_only:
        raise click.UsageError("--probe measures what --plan estimates; give both: --plan --probe")
    if plan_only and (resumes or begin_from):
        raise click.UsageError("--plan estimates a whole training; it cannot be used with --resume or --from")
    if plan_only and profile:
        raise click.UsageError("--profile measures a training; it cannot be used with --plan, which does not train")
    if resumes:
        for option, given in (("--out", out), ("--force", force), ("--from", begin_from)):
            if given:
                raise click.UsageError(
                    f"{option} cannot be used with --resume, which continues in the run's own folder"
                )
    if plan_only:
        if probe and n_processes() > 1:
            raise click.UsageError("--probe measures a training of one process; start it without a launcher")
        planning = choose(backend, device).backend
        with together(planning.group(), patient=True):
            if is_speaker():
                named = _named(subject, resumes)
                _plan(load_recipe(named.recipe_file if named else subject, overrides), planning, probe, as_json)
        return

    from mlxtune.runs.copies import run_copies
    from mlxtune.runs.folder import open_run
    from mlxtune.runs.layout import INTERRUPTED
    from mlxtune.training.tune import tune

    joined = connected(backend, device)
    group = ALONE if joined is None else joined.backend.group()
    with run_copies(group) as copies:
        named = copies.find(lambda: _required_resuming(_named(subject, resumes), resume), with_model=False)
        with together(group):
            loaded = load_recipe(named.recipe_file if named else subject, overrides)
        choice = joined or choose(backend, device)
        resumed = None
        if resume is not None:
            resumed = named or copies.find(lambda: _run_to_resume(loaded.name, resume), with_model=False)
        begun_from = None if begin_from is None else copies.find(lambda: open_run(begin_from))
        say(f"backend: {choice.reason}")
        with _Progress(as_json, segments) as progress:
            tuned = tune(
                loaded, choice, out, force, progress.event,
                resume=resumed, begin_from=begun_from, measures=_reply_metrics, profile=profile,
            )  # fmt: skip
    if not is_speaker():
        sys.exit(130 if tuned.outcome.status == INTERRUPTED else 0)
    report = write_report_of(tuned.run.path) if reports and tuned.outcome.status != INTERRUPTED else None
    if as_json:
        written = {} if report is None else {"report": str(report)}
        print_json({"event": "run", "run": str(tuned.run), **tuned.info, **written}, indent=None)
    elif tuned.info["step"]:
        click.echo(_summary(tuned.info, str(tuned.run)))
        if report is not None:
            click.echo(f"report: {report}")
    if tuned.outcome.status == INTERRUPTED:
        if not tuned.info["step"]:
            say(f"Interrupted before the first step; {tuned.run} has no checkpoint to resume from.")
            sys.exit(130)
        say(
            f"Interrupted at step {tuned.outcome.progress.step}; adapter and checkpoint are saved in {tuned.run}. "
            f"Resume with: {_resuming(str(tuned.run), backend, device)}"
        )
        sys.exit(130)


def _plan(recipe: Recipe, backend: Backend, probe: bool, as_json: bool) -> None:
    """Print what a training takes."""
    from mlxtune.training.plan import plan
    from mlxtune.training.probe import probe_steps

    planned = plan(recipe, backend, probe=functools.partial(probe_steps, backend) if probe else None)
    if as_json:
        print_json(planned.as_json())
    else:
        click.echo(planned.as_text())


def _named(subject: Path, resumes: bool) -> RunFolder | None:
    """The run that stands in place of a recipe; without --resume, a folder that is no run is a mistake about the recipe."""
    from mlxtune.runs.folder import RunFolder, named_run

    return named_run(subject) if resumes or RunFolder(subject).run_file.exists() else None


def _reply_metrics(recipe: Recipe, tokenizer: Tokenizer, rows: Sequence[Row]) -> Measure:
    """What measures replies, imported by the recipes that select by it."""
    from mlxtune.evaluation.validation_metrics import reply_metrics

    return reply_metrics(recipe, tokenizer, rows)


def _resuming(run: str, backend: str, device: str) -> str:
    """The command line that resumes a run under the recipe in its folder, which holds the values of --set."""
    where = [
        word
        for option, given in (("--backend", backend), ("--device", device))
        if given != "auto"
        for word in (option, given)
    ]
    return shlex.join(["mlxtune", "lora", run, "--resume", *where])


def _required_resuming(run: RunFolder | None, resume: str | None) -> RunFolder | None:
    """The run that stands in place of a recipe, refused unless --resume is given and names no other run."""
    if run is None:
        return None
    if resume is None:
        recipe = str(run.recipe_file)
        raise click.UsageError(
            f"{run} is a run, not a recipe. To resume it: `{shlex.join(['mlxtune', 'lora', str(run), '--resume'])}`; to "
            f"start a new run from its adapter: `{shlex.join(['mlxtune', 'lora', recipe, '--from', str(run)])}`; to train "
            f"its recipe from scratch: `{shlex.join(['mlxtune', 'lora', recipe])}`"
        )
    if resume and Path(resume).resolve() != run.path.resolve():
        raise click.UsageError(
            f"{run} and {resume}: expected one run to resume, got two; name one of them: "
            f"`{shlex.join(['mlxtune', 'lora', resume, '--resume'])}`"
        )
    return run


def _run_to_resume(recipe_name: str, path: str) -> RunFolder:
    from mlxtune.errors import RunError
    from mlxtune.runs.folder import latest_checkpointed_run, open_run
    from mlxtune.runs.layout import RUNS

    if path:
        return open_run(Path(path))
    newest = latest_checkpointed_run(recipe_name)
    if newest is None:
        raise RunError(
            f"no run of {recipe_name!r} with a checkpoint under {RUNS}/; name the run to resume: --resume RUN"
        )
    return newest


def _summary(info: dict[str, Any], run: str) -> str:
    from mlxtune.report.terminal.loss_tables import loss_table
    from mlxtune.report.terminal.profile_table import profile_table
    from mlxtune.report.terminal.tables import to_text
    from mlxtune.training.diagnosis import Diagnosis

    valid = "" if info["valid_loss"] is None else f", validation loss {info['valid_loss']:.4f}"
    early = f" ({info['stopped']})" if info["stopped"] else ""
    best = info["best"]
    chosen = (
        f"; the adapter is from step {best['step']}, the best one"
        if best and info["adapter_step"] != info["step"]
        else ""
    )
    tables = to_text([loss_table(info["losses"]["train"], info["losses"]["valid"])])
    profile = f"{to_text([profile_table(info['profile'])])}\n\n" if info["profile"] else ""
    diagnosis = "" if info["diagnosis"] is None else f"{Diagnosis(**info['diagnosis']).as_text()}\n\n"
    return (
        f"{info['status']} after step {info['step']} of {info['steps']['total']}{early}: training loss {info['train_loss']:.4f}{valid}; "
        f"{info['seconds']:.0f} s, {info['tokens_per_second']:.0f} tokens/s (a shared prompt counted in each row), peak memory {info['peak_memory_gb']:.2f} GB{chosen}\n\n"
        f"{tables}\n\n{profile}{diagnosis}"
        f"run: {run}\n"
        f"next: mlxtune evaluate {run}"
    )


class _Progress:
    """Shows events: a bar on a terminal, lines elsewhere, objects on stdout with --json."""

    def __init__(self, as_json: bool, segments: bool) -> None:
        self._as_json, self._segments = as_json, segments
        self._bar: Any = None
        self._total = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def event(self, event: Any) -> None:
        if self._as_json:
            print_json(event, indent=None)
        if event["event"] == "begin":
            self._total = event["steps"]
            if on_terminal():
                from tqdm import tqdm

                self._bar = tqdm(
                    total=self._total, initial=event.get("step", 0), unit="step", file=sys.stderr, dynamic_ncols=True
                )
        elif event["event"] == "step":
            self._step(event)
        elif event["event"] == "validation":
            self._validation(event)

    def _validation(self, event: Any) -> None:
        from mlxtune.report.terminal.loss_tables import segment_line
        from mlxtune.training.diagnosis import HEALTHY, TOO_FEW

        selected = event["selected"]
        metric = f", {selected['metric']} {selected['value']:.3f}" if event["metrics"] else ""
        ratio = "" if event["ratio"] is None else f", valid/train {event['ratio']:.2f}"
        verdict = event["diagnosis"]["verdict"]
        so_far = "" if verdict in (HEALTHY, TOO_FEW) else f"; {verdict}: {event['diagnosis']['evidence']}"
        self._line(
            f"step {event['step']}: validation loss {event['loss']:.4f} ({segment_line(event['segments'])}){ratio}{metric}{so_far}"
        )

    def _step(self, event: Any) -> None:
        speed = event["tokens"] / event["seconds"] if event["seconds"] else 0.0
        facts = {
            "loss": f"{event['loss']:.4f}",
            "lr": f"{event['learning_rate']:.2e}",
            "tok/s": f"{speed:.0f}",
            "GB": f"{event['peak_memory_gb']:.2f}",
        }
        if self._segments:
            facts |= {name: f"{values['loss']:.3f}" for name, values in event["segments"].items()}
        if self._bar is not None:
            self._bar.set_postfix(facts, refresh=False)
            self._bar.update()
        elif event["step"] % max(1, self._total // LINES_PER_RUN) == 0 or event["step"] == 1:
            self._line(
                f"step {event['step']}/{self._total}: " + ", ".join(f"{name} {value}" for name, value in facts.items())
            )

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            say(text)
