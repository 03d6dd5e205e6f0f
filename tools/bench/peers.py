"""mlxtune beside mlx_lm.lora, a PEFT loop, TRL, mlx_lm's and transformers' generate: the same weights, rows and adapter's shape, in turn.

    python tools/bench/peers.py start                        # seconds from command to the end of the first optimizer step
    python tools/bench/peers.py train                        # seconds a step and peak memory
    python tools/bench/peers.py train --recipe recipes/demo-ticket.yaml --batch 4
    python tools/bench/peers.py generate --run RUN           # seconds a reply of a run's adapter to its test rows
    python tools/bench/peers.py generate --run TICKET_RUN --rows 24     # the run's recipe says how long replies are, and how many together

Each way is a process of its own (`peers_child.py`). `train` and `generate` keep all of them open and let one compute at a time, step by step, so
that what else the machine does meets them alike: "time" is the median of each step's ratio to the same step of the first way. `start`
starts them anew in turn, round by round. On a busy machine "CPU time" says more, with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1. Every way
trains LoRA on the same linear layers, without dropout, loss on the reply only, in float32.

TRL takes part where it is installed, or lies in a folder: `pip install --target DIR --no-deps trl datasets dill xxhash multiprocess`, then `--trl DIR`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("peers_child.py")
MODULES = {  # way -> what it needs
    "mlxtune-mlx": "mlx_lm", "mlx_lm.lora": "mlx_lm", "mlxtune-torch": "peft", "PEFT loop": "peft", "TRL": "trl",
    "mlx_lm.batch_generate": "mlx_lm", "mlx_lm.generate": "mlx_lm", "transformers": "peft",
}  # fmt: skip
TABLES = {
    "start": ("mlxtune-mlx", "mlxtune-mlx second start", "mlx_lm.lora", "mlxtune-torch", "PEFT loop", "TRL"),
    "train": ("mlxtune-mlx", "mlx_lm.lora", "mlxtune-torch", "PEFT loop", "TRL"),
    "generate": ("mlxtune-mlx", "mlx_lm.batch_generate", "mlx_lm.generate", "mlxtune-torch", "transformers"),
}
SECOND = " second start"  # of a way whose rows were prepared before
WARM_UP = 2  # turns that are not timed: compiling, first allocations


@dataclass(frozen=True)
class Figures:
    """What was measured of one way.

    Attributes:
        way: Its name.
        seconds: Of each turn, in order; ways have as many, taken side by side.
        peak_gb: Most memory that its library's arrays took; None where it does not count them.
        process_gb: Most memory that its process took; None where nothing said it.
        same: Share of the replies that are the first way's; None where there are none.
        cpu_seconds: Of each turn, the seconds that its process computed, all threads together; empty where nothing said it.
    """

    way: str
    seconds: tuple[float, ...]
    peak_gb: float | None = None
    process_gb: float | None = None
    same: float | None = None
    cpu_seconds: tuple[float, ...] = ()


class Child:
    """A way in its own process, which prints a line of JSON when a turn ends and then waits for a line."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=dict(environment),
        )  # fmt: skip

    def ended(self, event: str) -> dict[str, Any]:
        """The line that ends a turn."""
        assert self.process.stdout is not None and self.process.stderr is not None
        for line in self.process.stdout:
            if line.startswith("{") and (found := json.loads(line)).get("event") == event:
                return dict(found)
        raise SystemExit(f"a way ended early: {' '.join(self.process.args)}\n{self.process.stderr.read()[-3000:]}")  # type: ignore[arg-type]

    def turn(self, event: str) -> tuple[float, dict[str, Any]]:
        """Seconds of a turn, and the line that ends it."""
        assert self.process.stdin is not None
        begun = time.perf_counter()
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.ended(event)
        return time.perf_counter() - begun, line

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "demo-intent.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--run", type=Path, help="whose adapter replies, for generate")
    parser.add_argument(
        "--ways", type=lambda text: text.split(","), metavar="WAY,...", help="these, the first compared with"
    )
    parser.add_argument("--batch", type=int, default=8, help="rows a step")
    parser.add_argument("--turns", type=int, help="timed steps, starts, or passes over the rows; 6, 3 and 2 without it")
    parser.add_argument("--rows", type=int, default=34, help="test rows that are replied to")
    parser.add_argument("--trl", type=Path, metavar="DIR", help="a folder with TRL")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keeps the float32 model between calls")
    words = parser.parse_args()
    if words.table == "generate" and words.run is None:
        parser.error("generate needs --run")
    ways = words.ways or [way for way in TABLES[words.table] if installed(way, words.trl)]
    if unknown := [way for way in ways if way not in TABLES[words.table]]:
        parser.error(f"--ways: expected some of {', '.join(TABLES[words.table])}; got {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        work = words.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        print(measure(words, ways, work.resolve()))


def installed(way: str, trl: Path | None) -> bool:
    """Whether a way's library is there."""
    module = MODULES[way.removesuffix(SECOND)]
    return importlib.util.find_spec(module) is not None or (module == "trl" and trl is not None)


def measure(words: argparse.Namespace, ways: Sequence[str], work: Path) -> str:
    """The table of what was asked."""
    environment = environment_with(words.trl, work)
    if words.table == "generate":
        job = {"run": str(words.run.resolve()), "rows": words.rows, "work": str(work)}
        figures = in_turn(ways, job, "replies", words.turns or 2, 1, environment)
        return table([replace_rows(one, words.rows) for one in figures], "s a reply")
    job = training_job(words, work)
    if words.table == "train":
        return table(in_turn(ways, job, "step", words.turns or 6, WARM_UP, environment), "s a step")
    return table(starts(ways, job, words.turns or 3, environment), "s to the first step")


def environment_with(trl: Path | None, work: Path) -> dict[str, str]:
    """The environment of every way: compiled modules and a cache are kept, there is no network, and a thread that waits sleeps.

    Threads that spin, as PyTorch's do unless told otherwise, would take the cores from the way whose turn it is.
    """
    environment = {
        **os.environ, "MLXTUNE_CACHE": str(work / "cache"), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    paths = [str(ROOT), *([str(trl.resolve())] if trl else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def training_job(words: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What every way trains: a float32 model folder, and the recipe's rows as tokens and as chats."""
    from mlxtune.backends.mlx.architecture import architecture
    from mlxtune.data.examples import expected_values, messages
    from mlxtune.data.prepare import RecipeRows, training_split
    from mlxtune.data.template import ReplyTemplate
    from mlxtune.models.source import read_config
    from mlxtune.models.tokenizer import load_tokenizer
    from mlxtune.recipe.load import load_recipe
    from mlxtune.training.tune import lora_spec

    model = work / "model"
    sets = [*words.set, "data.valid=null", "data.valid_fraction=null", "data.balance=null", "data.augment=null"]
    recipe = load_recipe(words.recipe, sets)
    if not model.exists():
        command = [
            sys.executable,
            "-m",
            "mlxtune",
            "convert",
            recipe.model.path,
            "--out",
            str(model),
            "--dtype",
            "float32",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    sets += [
        f"model.path={model}", "model.quantize=null", "lora.dropout=0", "train.gradient_accumulation=1", f"train.batch_size={words.batch}",
        "train.early_stopping=null", "train.load_best=false", "train.best_metric=valid.loss", "track=[]",
    ]  # fmt: skip
    recipe = load_recipe(words.recipe, sets)
    rows = RecipeRows(recipe)
    examples = training_split(rows, load_tokenizer(model)).examples
    template, values = ReplyTemplate(recipe.output), expected_values(rows.training, recipe)
    chats = work / "chats"
    chats.mkdir(exist_ok=True)
    with (chats / "train.jsonl").open("w") as file, (work / "tokens.jsonl").open("w") as tokens:
        for example in examples:
            reply = {"role": "assistant", "content": template.format(values[example.row])[0]}
            file.write(json.dumps({"messages": [*messages(rows.training[example.row], recipe), reply]}) + "\n")
            ids = {"prompt": example.prompt.tolist(), "reply": example.reply.tolist()}
            tokens.write(json.dumps(ids) + "\n")
    config = read_config(model)
    spec = lora_spec(recipe, architecture(config))
    places = [layer.split(".", 3) for layer in spec.layers]  # model.layers.N.REST
    return {
        "recipe": str(words.recipe.resolve()), "sets": sets, "work": str(work), "model": str(model), "batch": words.batch,
        "learning_rate": recipe.train.learning_rate, "rank": spec.rank, "scale": spec.scale,
        "keys": sorted({place[3] for place in places}), "blocks": sorted({int(place[2]) for place in places}),
        "n_blocks": int(config["num_hidden_layers"]),
    }  # fmt: skip


def command_of(way: str, job: Mapping[str, Any]) -> list[str]:
    """The command line of a way."""
    return [sys.executable, str(CHILD), way, json.dumps(job)]


def in_turn(
    ways: Sequence[str], job: Mapping[str, Any], event: str, n_turns: int, warm_up: int, environment: Mapping[str, str]
) -> list[Figures]:
    """Figures of ways that are all open, each computing while the others wait."""
    children: dict[str, Child] = {}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for way in ways:
            children[way] = Child(command_of(way, job), environment)
            cpu[way].append(children[way].ended("ready" if event == "replies" else event)["cpu_s"])
            log(f"{way} is ready")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        lines: dict[str, dict[str, Any]] = {}
        for turn in range(warm_up + n_turns):
            for way in ways:
                taken, lines[way] = children[way].turn(event)
                seconds[way].append(taken)
                cpu[way].append(lines[way]["cpu_s"])
            log(f"turn {turn + 1}: " + ", ".join(f"{way} {seconds[way][-1]:.2f} s" for way in ways))
    finally:
        for child in children.values():
            child.stop()
    first = lines[ways[0]].get("replies")
    return [
        Figures(
            way, tuple(seconds[way][warm_up:]), lines[way].get("peak_gb"), lines[way]["process_gb"],
            None if first is None else share_of_same(lines[way]["replies"], first),
            tuple(later - earlier for earlier, later in pairwise(cpu[way]))[warm_up:],
        )
        for way in ways
    ]  # fmt: skip


def starts(ways: Sequence[str], job: Mapping[str, Any], n_turns: int, environment: Mapping[str, str]) -> list[Figures]:
    """Figures of ways that are started again and again; an untimed round first fills the disk's cache and writes compiled modules."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    prepared = Path(environment["MLXTUNE_CACHE"]) / "prepared"
    for turn in range(1 + n_turns):
        for way in ways:
            name, second = way.removesuffix(SECOND), way.endswith(SECOND)
            if not second:
                shutil.rmtree(prepared, ignore_errors=True)
            command = command_of(way, job)
            if name.startswith("mlxtune"):  # the command itself
                out = str(Path(job["work"]) / "run")
                sets = [word for item in (*job["sets"], "train.max_steps=1") for word in ("--set", item)]
                backend = name.partition("-")[2]
                command = [sys.executable, "-m", "mlxtune", "lora", job["recipe"], "--backend", backend, "--out", out, "--force", "--json", *sets]  # fmt: skip
            child = Child(command, environment)
            child.ended("step")
            seconds[way].append(time.perf_counter() - child.begun)
            child.stop()
        log(f"turn {turn}: " + ", ".join(f"{way} {seconds[way][-1]:.2f} s" for way in ways))
    return [Figures(way, tuple(seconds[way][1:])) for way in ways]


def share_of_same(replies: Sequence[str], first: Sequence[str]) -> float:
    """Share of replies that are the same text, white space at the ends aside."""
    return sum(one.strip() == other.strip() for one, other in zip(replies, first, strict=True)) / len(first)


def replace_rows(figures: Figures, n_rows: int) -> Figures:
    """Seconds of a pass over rows as seconds a row."""
    seconds = tuple(second / n_rows for second in figures.seconds)
    return replace(figures, seconds=seconds, cpu_seconds=tuple(second / n_rows for second in figures.cpu_seconds))


def table(figures: Sequence[Figures], unit: str) -> str:
    """Markdown, a row a way; the first is what the others are compared with.

    >>> print(table([Figures("a", (1.0, 2.0)), Figures("b", (3.0, 4.0))], "s a step"))
    | way | s a step | time, a = 1 |
    |---|---|---|
    | a | 1.50 | 1.00 |
    | b | 3.50 | 2.50 |
    """
    first = figures[0]

    def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
        return f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.2f}" if ours and theirs else ""

    columns = {
        "way": [one.way for one in figures],
        unit: [f"{statistics.median(one.seconds):.{3 if unit == 's a reply' else 2}f}" for one in figures],
        f"time, {first.way} = 1": [ratio(one.seconds, first.seconds) for one in figures],
        f"CPU time, {first.way} = 1": [ratio(one.cpu_seconds, first.cpu_seconds) for one in figures],
        "peak GB of arrays": [text(one.peak_gb, ".2f") for one in figures],
        "peak GB of the process": [text(one.process_gb, ".2f") for one in figures],
        f"replies as {first.way}": [text(one.same, ".0%") for one in figures],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in zip(*shown.values(), strict=True))])


def text(value: float | None, form: str) -> str:
    """A cell; empty where there is nothing."""
    return "" if value is None else format(value, form)


def log(line: str) -> None:
    """Say on stderr how far it is."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
