"""A sweep: one recipe trained and evaluated with every combination of some settings, a process a combination.

    axes = [parse_axis("lora.rank=32,64"), parse_axis("train.learning_rate=1e-4,2e-4")]
    cells = plan_cells(Path("recipe.yaml"), axes)          # four recipes, all checked
    done = sweep(cells, default_folder("recipe", axes))    # four run folders

A cell is a run folder like any other, named after its settings, with its log beside it. What lies there says what is left
to do, so that the same command goes on where an interrupted one stopped, and a larger grid takes over what is finished.
A cell that fails, or that the system kills for its memory, takes no other with it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlxtune.errors import Misuse, MlxtuneError, Problem, RecipeError, RunError, listing
from mlxtune.files import write_json, write_text
from mlxtune.inventory import look_at
from mlxtune.recipe import Recipe, load_recipe
from mlxtune.recipe_file import Loader
from mlxtune.runs import RUNS, RunFolder, locked

SWEEP_FILE = "sweep.json"
TUNED = "tuned"
FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
MAX_VALUE_CHARS = 40  # of a value in a folder's name
MAX_NAME_BYTES = 200  # of a folder's name; file systems take 255
OPENING, CLOSING = "[{(", "]})"

Runner = Callable[[Sequence[str], Path], int]  # words after `mlxtune`, the log to add to -> exit code


@dataclass(frozen=True)
class Axis:
    """Keys that vary together, and their values as written, in YAML: (("32", "64"), ("64", "128")) of rank and alpha."""

    keys: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Cell:
    """One combination.

    Attributes:
        name: Of its run folder.
        settings: (key, value as written), in the order of the axes.
        overrides: "KEY=VALUE" of everything that the command line sets, these settings last.
        file: The recipe's file.
        recipe: The recipe with these settings, checked.
    """

    name: str
    settings: tuple[tuple[str, str], ...]
    overrides: tuple[str, ...]
    file: Path
    recipe: Recipe

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings)


@dataclass(frozen=True)
class Done:
    """How a cell ended.

    Attributes:
        cell: Which.
        folder: Its run folder.
        log: What it said.
        status: FINISHED, FAILED or INTERRUPTED.
        skipped: It was finished before.
        error: Why it failed: the last error that it wrote, or what ended it.
        seconds: That it took now.
    """

    cell: Cell
    folder: Path
    log: Path
    status: str
    skipped: bool
    error: str | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For sweep.json and --json."""
        return {
            "name": self.cell.name,
            "settings": dict(self.cell.settings),
            "run": str(self.folder),
            "log": str(self.log),
            "status": self.status,
            "skipped": self.skipped,
            "error": self.error,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Standing:
    """What lies in a cell's folder, and so what is left to do.

    Attributes:
        training: 'none', 'whole', or 'resume' where it has a checkpoint to go on from.
        evaluated: Whether there are scores.
        changed: What is not as the run was made with, one clause each; training anew is the only way.
        changed_evaluation: The same of what its evaluation alone depends on.
        failed: It ended with an error.
    """

    training: str
    evaluated: bool = False
    changed: tuple[str, ...] = ()
    changed_evaluation: tuple[str, ...] = ()
    failed: bool = False


def parse_axis(text: str) -> Axis:
    """What one --vary says: KEY=VALUE,VALUE,... or, for keys that vary together, KEY,KEY=VALUE:VALUE,VALUE:VALUE,...

    Values are YAML, so lists are written [q_proj, v_proj] and text with a comma in quotes. The list of values may itself
    stand in brackets.

    Raises:
        Misuse: It says something else.

    >>> parse_axis("lora.rank,lora.alpha=32:64,64:128").choices
    (('32', '64'), ('64', '128'))
    """
    keys_text, equals, values_text = text.partition("=")
    keys = tuple(key.strip() for key in keys_text.split(","))
    where = f"--vary {text}"
    if not equals or not all(part for key in keys for part in key.split(".")):
        raise Misuse(f"{where}: expected KEY=VALUE,VALUE, as in --vary lora.rank=32,64")
    if len(set(keys)) < len(keys):
        raise Misuse(f"{where}: a key stands in it twice")
    values = _split(values_text, ",")
    if len(values) == 1 and values[0].startswith("[") and values[0].endswith("]"):
        values = _split(values[0][1:-1], ",")
    choices = [tuple(_split(value, ":")) if len(keys) > 1 else (value,) for value in values]
    for value, choice in zip(values, choices, strict=True):
        if len(choice) != len(keys):
            raise Misuse(f"{where}: {value!r} holds {len(choice)} values for {len(keys)} keys; write them as 32:64")
        for one in choice:
            if not one:
                raise Misuse(f"{where}: a value is missing; none at all is written null")
            try:
                _parsed(one)
            except (yaml.YAMLError, ValueError):
                raise Misuse(f"{where}: {one!r} is not valid YAML; quote it") from None
    twice = [choice for choice, times in Counter(map(_same, choices)).items() if times > 1]
    if twice:
        raise Misuse(f"{where}: {twice[0]} stands in it twice")
    if len(choices) < 2:
        raise Misuse(f"{where}: one value does not vary; a fixed one is --set {text}")
    return Axis(keys, tuple(choices))


def plan_cells(file: Path, axes: Sequence[Axis], overrides: Sequence[str] = (), evaluate: bool = True) -> list[Cell]:
    """Every combination of the axes' values, the last axis changing fastest, with its recipe.

    Args:
        file: The recipe.
        axes: What varies.
        overrides: "KEY=VALUE" of what is the same in all of them.
        evaluate: Whether each will be evaluated, which needs test rows.

    Raises:
        Misuse: Nothing varies, or a key varies twice or is set as well.
        RecipeError: Some of the recipes say something wrong; every problem of every one of them is listed once.
    """
    if not axes:
        raise Misuse("nothing varies; say what does, as in --vary lora.rank=32,64")
    keys = [key for axis in axes for key in axis.keys]
    fixed = [override.partition("=")[0] for override in overrides]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise Misuse(f"--vary {key}: varies twice")
        if key in fixed:
            raise Misuse(f"--vary {key}: is fixed by --set as well")
        if key == "name":
            raise Misuse("--vary name: a name changes nothing")
    cells: list[Cell] = []
    problems: dict[str, None] = {}
    for combination in itertools.product(*(axis.choices for axis in axes)):
        values = [value for choice in combination for value in choice]
        settings = tuple(zip(keys, values, strict=True))
        words = (*overrides, *(f"{key}={value}" for key, value in settings))
        try:
            recipe = load_recipe(file, words)
            if evaluate and recipe.data.test is None:
                raise RecipeError(
                    f"{file}: 1 problem\n  data.test: missing; add it, or leave evaluation out: --no-evaluate"
                )
        except RecipeError as error:
            head, *lines = str(error).splitlines()
            for key, value in settings:
                lines = [line.replace(f"--set {key}={value}", f"--vary {key}={value}") for line in lines]
            problems |= dict.fromkeys(lines or [head])
        else:
            cells.append(Cell("", settings, words, file, recipe))
    if problems:
        if not any(line.startswith("  ") for line in problems):  # the file itself cannot be read
            raise RecipeError(next(iter(problems)))
        raise RecipeError(listing(str(file), [Problem(*line.strip().split(": ", 1)) for line in problems]))
    names = _names(cells)
    return [
        Cell(name, one.settings, one.overrides, one.file, one.recipe) for name, one in zip(names, cells, strict=True)
    ]


def default_folder(recipe_name: str, axes: Sequence[Axis], overrides: Sequence[str] = ()) -> Path:
    """Where a sweep lies if nobody says: a function of what varies and what is fixed, so that the same command finds it.

    The values are not in it: a grid that has grown finds the cells that it had.
    """
    keys = [key for axis in axes for key in axis.keys]
    name = "sweep-" + "-".join(_short(key, keys) for key in keys)
    if overrides:
        name += "-" + hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:8]
    return RUNS / recipe_name / name


def scale_note(cells: Sequence[Cell]) -> str | None:
    """A sentence where the rank varies alone: with it varies how much the adapter counts."""
    keys = {key for key, _ in cells[0].settings}
    if "lora.rank" not in keys or "lora.alpha" in keys:
        return None
    scales = {cell.recipe.lora.rank: cell.recipe.lora.scale for cell in cells}
    first = cells[0].recipe.lora
    power = 0.5 if first.rslora else 1.0
    kept = ",".join(f"{rank}:{first.alpha * (rank / first.rank) ** power:.4g}" for rank in scales)
    of_ranks = ", ".join(f"{scale:.3g} at rank {rank}" for rank, scale in scales.items())
    return (
        f"lora.alpha stays {first.alpha:g}, so the adapter's scale varies with the rank: {of_ranks}; "
        f"to keep it as it is at rank {first.rank}: --vary lora.rank,lora.alpha={kept}"
    )


def sweep(
    cells: Sequence[Cell],
    folder: Path,
    run: Runner | None = None,
    say: Callable[[str], None] = lambda text: None,
    *,
    evaluate: bool = True,
    force: bool = False,
    where: Sequence[str] = (),
) -> list[Done]:
    """Train and evaluate what is not finished yet, one cell after the other.

    Args:
        cells: Of `plan_cells`.
        folder: Holds their run folders, their logs, and sweep.json.
        run: Runs one command and waits for it; None is `run_process`.
        say: Told how it goes.
        evaluate: Evaluate each on the test rows.
        force: Train anew what was made under another recipe or of other data, and what failed.
        where: Options that say what computes: ("--backend", "mlx").

    Returns:
        How each cell ended, in their order.

    Raises:
        RunError: The folder is in use, or cells in it were made under another recipe, and `force` is not set: nothing
            was started then.
        KeyboardInterrupt: Interrupted; what was done is on disk, and the same call goes on.
    """
    run = run or run_process
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: expected a folder, this is a file; choose another --out")
    if (folder / "run.json").exists():
        raise RunError(f"{folder}: is a run of its own; choose another --out")
    standings = [standing(cell, folder / cell.name) for cell in cells]
    if not force:
        _refuse_changed(cells, standings, folder, evaluate)
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Done] = []
    with locked(folder):
        for number, (cell, found) in enumerate(zip(cells, standings, strict=True), start=1):
            place = f"[{number}/{len(cells)}] {cell}"
            log = folder / f"{cell.name}.log"
            commands = list(_commands(cell, folder / cell.name, found, evaluate, force, where))
            if not commands:
                say(f"{place}: finished before{_headline(folder / cell.name)}")
                done.append(Done(cell, folder / cell.name, log, FINISHED, True, None, 0.0))
                continue
            started = time.monotonic()
            error = None
            try:
                if found.training == "whole" and found.changed_evaluation:  # as training does when it goes on
                    write_text(folder / cell.name / "recipe.yaml", cell.recipe.to_yaml())
                if found.training == "none":
                    _clear_beginnings(folder / cell.name)
                for what, words in commands:
                    say(f"{place}: {what}; log: {log}")
                    begins = log.stat().st_size if log.exists() else 0
                    code = run(words, log)
                    if code != 0:
                        error = _why(code, log, begins)
                        break
            except KeyboardInterrupt:
                seconds = time.monotonic() - started
                done.append(Done(cell, folder / cell.name, log, INTERRUPTED, False, "interrupted", seconds))
                _note(folder, cells, done)
                raise
            seconds = time.monotonic() - started
            status = FAILED if error else FINISHED
            done.append(Done(cell, folder / cell.name, log, status, False, error, seconds))
            _note(folder, cells, done)
            say(
                f"{place}: "
                + (f"failed: {error}" if error else f"done in {seconds:.0f} s{_headline(folder / cell.name)}")
            )
        _note(folder, cells, done)
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
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
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


def standing(cell: Cell, folder: Path) -> Standing:
    """What lies in a cell's folder.

    Raises:
        RunError: Something that is no run, a run that cannot be read, or one that another process is writing to.
    """
    if not folder.exists() or not (folder / "run.json").exists():
        if folder.exists() and any(name not in _BEGINNINGS for name in _visible(folder)):
            raise RunError(f"{folder}: exists and is no run of mlxtune; choose another --out")
        return Standing("none")
    run = RunFolder(folder)
    if run.in_use():
        raise RunError(f"{folder}: another process is writing to it; wait for it")
    listed = look_at(folder)
    if listed.status == "damaged":
        raise RunError(f"{folder}: is damaged: {listed.problem}; delete it, or choose another --out")
    info = run.info()
    scores = _scores(run)
    changed = list(_changed_keys(run, cell.recipe))
    data = list(_changed_data(info, cell.recipe))
    of_evaluation = [text for key, text in changed if _of_evaluation(key)]
    if scores is not None and _other_test_rows(scores, cell.recipe):
        of_evaluation.append("data.test: its rows have changed since")
    training = "none"
    if listed.status == FINISHED and (run.adapter / "adapter_config.json").is_file():
        training = "whole"
    elif any(run.checkpoints.glob("step-*")):
        training = "resume"
    return Standing(
        training,
        scores is not None,
        tuple([text for key, text in changed if not _of_evaluation(key)] + data),
        tuple(of_evaluation),
        listed.status == FAILED,
    )


# What varies -----------------------------------------------------------------------------------------------------


def _split(text: str, separator: str) -> list[str]:
    """Pieces between separators that stand in no brackets or quotes, without outer spaces.

    >>> _split("all, [q_proj, v_proj]", ",")
    ['all', '[q_proj, v_proj]']
    """
    pieces, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not pieces[-1].strip(" [{,:"):
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
        elif character == separator and depth == 0:
            pieces.append("")
            continue
        pieces[-1] += character
    return [piece.strip() for piece in pieces]


def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader


def _same(choice: Sequence[str]) -> str:
    """The same text for the same values: 1e-4 and 0.0001, 'all' with and without quotes."""
    return ":".join(json.dumps(_parsed(one), sort_keys=True, default=str) for one in choice)


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key where no other ends in it."""
    last = key.rpartition(".")[2]
    return last if sum(one.rpartition(".")[2] == last for one in keys) == 1 else key


def _names(cells: Sequence[Cell]) -> list[str]:
    """A folder name for each, none twice: rank-32_learning_rate-1e-4."""
    names = []
    for cell in cells:
        keys = [key for key, _ in cell.settings]
        parts = []
        for key, value in cell.settings:
            plain = re.sub(r"[^\w.+-]+", "-", os.path.basename(value.rstrip("/"))).strip("-.") or "value"
            # What cannot be shown whole is told apart by a hash, which depends on this value alone.
            whole = plain == value and len(plain) <= MAX_VALUE_CHARS
            mark = "" if whole else "~" + hashlib.sha256(value.encode()).hexdigest()[:6]
            parts.append(f"{_short(key, keys)}-{plain[:MAX_VALUE_CHARS]}{mark}")
        name = "_".join(parts)
        if len(name.encode()) > MAX_NAME_BYTES:
            name = (
                name.encode()[:MAX_NAME_BYTES].decode(errors="ignore")
                + "~"
                + hashlib.sha256(name.encode()).hexdigest()[:6]
            )
        names.append(name)
    return names


# What is left to do ----------------------------------------------------------------------------------------------

_BEGINNINGS = ("recipe.yaml",)  # what a run that was killed at its very beginning leaves


def _visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else ["a file"]


def _clear_beginnings(folder: Path) -> None:
    if folder.is_dir() and not (folder / "run.json").exists():
        for path in folder.iterdir():
            path.unlink()


def _commands(
    cell: Cell, folder: Path, found: Standing, evaluate: bool, force: bool, where: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """What is still to be run: what to call it, and its words."""
    settings = [word for override in cell.overrides for word in ("--set", override)]
    anew = force and (bool(found.changed) or found.failed)
    replaces = ["--force"] if (folder / "run.json").exists() else []
    if found.training == "none" or anew:
        yield "training", ["lora", str(cell.file), "--out", str(folder), *settings, *where, *replaces]
    elif found.training == "resume":
        yield "going on with training", ["lora", str(cell.file), "--resume", str(folder), *settings, *where]
    trains = found.training != "whole" or anew
    if evaluate and (trains or not found.evaluated or (force and found.changed_evaluation)):
        kept = found.training != "none" and not anew  # training anew removes its evaluation
        stale = ["--force"] if kept and (RunFolder(folder).evaluation(TUNED) / "scores.json").exists() else []
        yield "evaluating", ["evaluate", str(folder), *where, *stale]


def _refuse_changed(cells: Sequence[Cell], standings: Sequence[Standing], folder: Path, evaluate: bool) -> None:
    """Raise RunError where cells were made with something that has changed since; all are listed."""
    problems = []
    for cell, found in zip(cells, standings, strict=True):
        what = [*found.changed, *(found.changed_evaluation if evaluate and found.evaluated else ())]
        if what:
            problems.append(Problem(cell.name, "; ".join(what)))
    if problems:
        raise RunError(
            f"{listing(f'{folder}: some cells were made with something else', problems)}\n"
            "--force makes these anew and leaves the others; --out puts this sweep elsewhere"
        )


def _of_evaluation(key: str) -> bool:
    return key == "data.test" or key.startswith("evaluate.")


def _changed_keys(run: RunFolder, recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys of the recipe that differ from the run's, each with a clause."""
    before, now = (one.flat() for one in (run.recipe(), recipe))
    for key in {**before, **now}:
        if before.get(key) != now.get(key) and key != "name" and not key.startswith("track"):
            yield key, f"{key} was {_shown(before.get(key))}, is {_shown(now.get(key))}"


def _changed_data(info: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """Training and validation files whose content is not what the run was made of."""
    for split, file in (("train", recipe.data.train), ("valid", recipe.data.valid)):
        began = ((info.get("data") or {}).get(split) or {}).get("sha256")
        if began is not None and file is not None and Path(file).is_file() and _sha256(file) != began:
            yield f"data.{split}: {file} has changed since"


def _other_test_rows(scores: Mapping[str, Any], recipe: Recipe) -> bool:
    evaluated, file = (scores.get("data") or {}).get("sha256"), recipe.data.test
    return bool(evaluated and file and Path(file).is_file() and _sha256(file) != evaluated)


def _sha256(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _scores(run: RunFolder) -> Mapping[str, Any] | None:
    """scores.json of the tuned model; None where there is none or it cannot be read."""
    try:
        content = json.loads((run.evaluation(TUNED) / "scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "fields" in content else None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 3]}..."


# How it ended ----------------------------------------------------------------------------------------------------


def _why(code: int, log: Path, begins: int) -> str:
    """Why a command failed: the last error in what it wrote, or what ended it."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        memory = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return f"killed by {name}{memory}"
    if code == 130:
        return "interrupted; the same command goes on with it"
    with log.open("rb") as stream:
        stream.seek(begins)
        lines = [line for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if line.startswith("Error: ")]
    if errors:
        return " ".join(line.strip() for line in lines[errors[-1] :][:3]).removeprefix("Error: ")
    return lines[-1].strip() if len(lines) > 1 else f"exit code {code}"


def _headline(folder: Path) -> str:
    """The figures that a cell is known by, as a clause; nothing where there are none."""
    run = RunFolder(folder)
    said = []
    try:
        info = run.info()
    except MlxtuneError:
        return ""
    if isinstance(loss := info.get("valid_loss"), float):
        said.append(f"validation loss {loss:.4f}")
    for name, figures in ((_scores(run) or {}).get("fields") or {}).items():
        figure = next((one for one in ("exact_match", "accuracy", "rougeL") if one in figures), None)
        if figure is not None:
            said.append(f"{name} {figure} {figures[figure]['value']:.3f}")
    return "; " + ", ".join(said) if said else ""


def _note(folder: Path, cells: Sequence[Cell], done: Sequence[Done]) -> None:
    """Write what is known so far into sweep.json."""
    ended = {one.cell.name: one.as_json() for one in done}
    waiting = [
        {"name": cell.name, "settings": dict(cell.settings), "run": str(folder / cell.name), "status": "waiting"}
        for cell in cells
        if cell.name not in ended
    ]
    write_json(folder / SWEEP_FILE, {"recipe": str(cells[0].file), "cells": [*ended.values(), *waiting]})
