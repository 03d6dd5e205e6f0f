"""A sweep: one recipe trained and evaluated with every combination of some settings, a process a combination.

    axes = [parse_axis("lora.rank=32,64"), parse_axis("train.learning_rate=1e-4,2e-4")]
    trials = plan_trials(Path("recipe.yaml"), axes)          # four recipes, all checked
    done = sweep(trials, default_folder("recipe", axes))    # four run folders

A trial is a run folder like any other, named after its settings, with its log beside it. The files in the
folder decide what is left to do: the same command continues an interrupted sweep, and a larger grid keeps finished trials.
A trial that fails, or that the system kills for its memory, takes no other with it.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import MlxtuneError, Problem, RunError
from mlxtune.evaluation.metrics.registry import headline
from mlxtune.files import write_json, write_text
from mlxtune.runs.folder import RunFolder, locked
from mlxtune.runs.layout import FAILED, FINISHED, INTERRUPTED, SCORES_FILE, TUNED
from mlxtune.sweep.grid import Trial
from mlxtune.sweep.trial_state import TrialState, trial_state, tuned_scores

SWEEP_FILE = "sweep.json"

log = logging.getLogger(__name__)

Runner = Callable[[Sequence[str], Path], int]  # words after `mlxtune`, the log to add to -> exit code


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        trial: Which.
        folder: Its run folder.
        log: What it said.
        status: FINISHED, FAILED or INTERRUPTED.
        skipped: It was finished before.
        error: Why it failed: the last error that it wrote, or what ended it.
        seconds: That it took now.
    """

    trial: Trial
    folder: Path
    log: Path
    status: str
    skipped: bool
    error: str | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For sweep.json and --json."""
        return {
            "name": self.trial.name,
            "settings": dict(self.trial.settings),
            "run": str(self.folder),
            "log": str(self.log),
            "status": self.status,
            "skipped": self.skipped,
            "error": self.error,
            "seconds": round(self.seconds, 3),
        }


def sweep(
    trials: Sequence[Trial],
    folder: Path,
    run: Runner | None = None,
    *,
    evaluate: bool = True,
    force: bool = False,
    where: Sequence[str] = (),
) -> list[TrialResult]:
    """Train and evaluate what is not finished yet, one trial after the other.

    Args:
        trials: Of `plan_trials`.
        folder: Holds their run folders, their logs, and sweep.json.
        run: Runs one command and waits for it; None is `run_process`.
        evaluate: Evaluate each on the test rows.
        force: Train again the trials that were made under another recipe or with other data, and those that failed.
        where: Options that say what computes: ("--backend", "mlx").

    Returns:
        How each trial ended, in their order.

    Raises:
        RunError: The folder is in use, or trials in it were made under another recipe, and `force` is not set: nothing
            was started then.
        KeyboardInterrupt: Interrupted; finished trials are on disk, and the same call continues.
    """
    run = run or run_process
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: expected a folder, this is a file; choose another --out")
    if RunFolder(folder).run_file.exists():
        raise RunError(f"{folder}: is a run folder, not the folder of a sweep; choose another --out")
    states = [trial_state(trial, folder / trial.name) for trial in trials]
    if not force:
        _refuse_changed(trials, states, folder, evaluate)
    folder.mkdir(parents=True, exist_ok=True)
    done: list[TrialResult] = []
    with locked(folder):
        for number, (trial, found) in enumerate(zip(trials, states, strict=True), start=1):
            place = f"[{number}/{len(trials)}] {trial}"
            log_file = folder / f"{trial.name}.log"
            commands = list(_commands(trial, folder / trial.name, found, evaluate, force, where))
            if not commands:
                log.info("%s: already finished%s", place, _headline(folder / trial.name))
                done.append(TrialResult(trial, folder / trial.name, log_file, FINISHED, True, None, 0.0))
                continue
            started = time.monotonic()
            error = None
            try:
                if found.training == "whole" and (
                    found.changed_evaluation or found.changed_conditions
                ):  # as training does when it goes on
                    write_text(RunFolder(folder / trial.name).recipe_file, trial.recipe.to_yaml())
                if found.training == "none":
                    _clear_beginnings(folder / trial.name)
                for what, words in commands:
                    log.info("%s: %s; log: %s", place, what, log_file)
                    begins = log_file.stat().st_size if log_file.exists() else 0
                    code = run(words, log_file)
                    if code != 0:
                        error = _why(code, log_file, begins)
                        break
            except KeyboardInterrupt:
                seconds = time.monotonic() - started
                done.append(
                    TrialResult(trial, folder / trial.name, log_file, INTERRUPTED, False, "interrupted", seconds)
                )
                _note(folder, trials, done)
                raise
            seconds = time.monotonic() - started
            status = FAILED if error else FINISHED
            done.append(TrialResult(trial, folder / trial.name, log_file, status, False, error, seconds))
            _note(folder, trials, done)
            ended = f"failed: {error}" if error else f"done in {seconds:.0f} s{_headline(folder / trial.name)}"
            log.info("%s: %s", place, ended)
        _note(folder, trials, done)
    return done


def run_process(words: Sequence[str], log: Path) -> int:
    """Run `mlxtune WORDS` in a process of its own, what it says added to a log.

    Signals that ask this process to end are passed on, so that training saves a checkpoint first.

    Returns:
        Its exit code; minus the signal's number where one ended it.

    Raises:
        KeyboardInterrupt: This process was asked to end; the other one has ended.
    """
    asked: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
        for process in processes:
            process.send_signal(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                before[number] = signal.signal(number, pass_on)
    try:
        with log.open("ab") as stream:
            stream.write(f"$ {shlex.join(['mlxtune', *words])}\n".encode())
            stream.flush()
            # In a session of its own: a Ctrl-C in the terminal would reach it twice, and the second means "at once".
            process = subprocess.Popen(
                [sys.executable, "-m", "mlxtune", *words],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
                # A report a trial would take longer than many a trial; `mlxtune report FOLDER` writes one of them all.
                env={**os.environ, "PYTHONUNBUFFERED": "1", "MLXTUNE_REPORT": "0"},
            )  # fmt: skip
            processes.append(process)
            if asked:  # between setting the handlers and now
                process.send_signal(asked[-1])
            code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise KeyboardInterrupt
    return code


def _clear_beginnings(folder: Path) -> None:
    if folder.is_dir() and not RunFolder(folder).run_file.exists():
        for path in folder.iterdir():
            path.unlink()


def _commands(
    trial: Trial, folder: Path, found: TrialState, evaluate: bool, force: bool, where: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """What is still to be run: what to call it, and its words."""
    settings = [word for override in trial.overrides for word in ("--set", override)]
    anew = force and (bool(found.changed) or found.failed)
    replaces = ["--force"] if RunFolder(folder).run_file.exists() else []
    if found.training == "none" or anew:
        yield "training", ["lora", str(trial.file), "--out", str(folder), *settings, *where, *replaces]
    elif found.training == "resume":
        yield "resuming training", ["lora", str(trial.file), "--resume", str(folder), *settings, *where]
    trains = found.training != "whole" or anew
    if evaluate and (trains or not found.evaluated or (force and found.changed_evaluation)):
        kept = found.training != "none" and not anew  # training anew removes its evaluation
        stale = ["--force"] if kept and (RunFolder(folder).evaluation(TUNED) / SCORES_FILE).exists() else []
        # A trial that misses the recipe's conditions is a result of the sweep, and no failure of the trial.
        yield "evaluating", ["evaluate", str(folder), "--allow-unmet", *where, *stale]
    elif evaluate and found.changed_conditions:
        yield "checking conditions", ["evaluate", str(folder), "--allow-unmet", *where]


def _refuse_changed(trials: Sequence[Trial], states: Sequence[TrialState], folder: Path, evaluate: bool) -> None:
    """Raise RunError where trials were made with something that has changed since; all are listed."""
    problems = []
    for trial, found in zip(trials, states, strict=True):
        what = [*found.changed, *(found.changed_evaluation if evaluate and found.evaluated else ())]
        if what:
            problems.append(Problem(trial.name, "; ".join(what)))
    if problems:
        raise RunError(
            f"{folder}: some trials were made under other settings",
            problems,
            "--force runs these again and keeps the others; --out writes this sweep to another folder",
        )


def _why(code: int, log: Path, begins: int) -> str:
    """Why a command failed: the last error in what it wrote, or what ended it."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"killed by {name}{memory}"
    if code == 130:
        return "interrupted; run the same command again to continue"
    with log.open("rb") as stream:
        stream.seek(begins)
        lines = [line for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if line.startswith("Error: ")]
    if errors:
        return " ".join(line.strip() for line in lines[errors[-1] :][:3]).removeprefix("Error: ")
    return lines[-1].strip() if len(lines) > 1 else f"exit code {code}"


def _headline(folder: Path) -> str:
    """The main metrics of a trial, as a clause; empty where there are none."""
    run = RunFolder(folder)
    said = []
    try:
        info = run.info()
    except MlxtuneError:
        return ""
    if isinstance(loss := info.get("valid_loss"), float):
        said.append(f"validation loss {loss:.4f}")
    for name, metrics in ((tuned_scores(run) or {}).get("fields") or {}).items():
        metric = headline(metrics)
        if metric is not None:
            said.append(f"{name} {metric} {metrics[metric]['value']:.3f}")
    return "; " + ", ".join(said) if said else ""


def _note(folder: Path, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
    """Write what is known so far into sweep.json."""
    ended = {one.trial.name: one.as_json() for one in done}
    waiting = [
        {"name": trial.name, "settings": dict(trial.settings), "run": str(folder / trial.name), "status": "waiting"}
        for trial in trials
        if trial.name not in ended
    ]
    write_json(folder / SWEEP_FILE, {"recipe": str(trials[0].file), "cells": [*ended.values(), *waiting]})
