"""Whether scale_out.py says what several processes do: steps of a recipe with one process and with several, in turn, on this machine.

    python tools/bench/scale_out_check.py recipes/demo-intent.yaml --backend torch
    python tools/bench/scale_out_check.py recipes/demo-intent.yaml --backend mlx --processes 2 --steps 12 --turns 3

Each process has one thread, and the launcher is torchrun or mlx.launch. The simulation is given how fast the one process trained in the same turn, a
pass costing PASS_COST positions as the plan of passes has it, and what the exchange of gradients took, and no more. Where other
programs share the cores, seconds say little: "CPU" compares the CPU time of the slowest process, waits left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from mlxtune.backends import choose  # noqa: E402
from mlxtune.backends.base import StepShare  # noqa: E402
from mlxtune.backends.group import settle  # noqa: E402
from mlxtune.backends.processes import Processes  # noqa: E402
from mlxtune.data.passes import PASS_COST  # noqa: E402
from mlxtune.models.base_model import base_folder  # noqa: E402
from mlxtune.recipe.load import load_recipe  # noqa: E402
from mlxtune.training.loop import optimizer_spec  # noqa: E402
from mlxtune.training.tune import ready_model, tuning_spec  # noqa: E402
from tools.bench.clusters import Cluster, Link, Share, computing_seconds  # noqa: E402
from tools.bench.scale_out import positive  # noqa: E402
from tools.bench.shares import training_of  # noqa: E402

WARM_UP = 2  # steps that are not counted
FILLS_PIPES = 300_000  # bytes
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Step:
    """What one process did in a step.

    Attributes:
        positions: It computed.
        passes: It computed them in.
        seconds: From beginning to end.
        cpu: CPU seconds outside of exchanges.
        told: Seconds of telling the others of the step: here they wait for the slowest.
        summed: Seconds of adding up gradients, which all begin together.
    """

    positions: int
    passes: int
    seconds: float
    cpu: float
    told: float
    summed: float


def main() -> None:
    """Compare and print a table, or train as one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--backend", choices=("torch", "mlx"), required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--processes", type=positive, default=2, metavar="N")
    parser.add_argument("--steps", type=positive, default=12, metavar="N", help="timed steps")
    parser.add_argument("--turns", type=positive, default=3, metavar="N", help="times that both train")
    parser.add_argument(
        "--tokens-per-pass", type=positive, default=4096, metavar="N", help="where the recipe leaves it to memory"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        train(words)
    else:
        print(compared(words))


# One of the processes ---------------------------------------------------------------------------------------------------


def train(words: argparse.Namespace) -> None:
    """Take the steps together with the others, and write what this process did to the folder."""
    backend = choose(words.backend, "cpu").backend
    group, recipe = backend.group(), load_recipe(Path(words.recipe), words.set)
    training = training_of(backend, recipe, words.tokens_per_pass, words.backend)
    folder = base_folder(recipe.model, backend)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = backend.architecture(config)
    model = ready_model(backend, folder, recipe, tuning_spec(recipe, architecture, config), architecture)
    model.prepare_training(optimizer_spec(recipe.train), recipe.train.gradient_checkpointing)
    clock = ExchangeClock(group) if isinstance(group, Processes) else None
    sampler = training.sampler(training.rows_per_step, group.rank, group.size)
    steps = []
    for number in range(1, WARM_UP + words.steps + 1):
        batches, whole = sampler.step(number), sampler.whole(number)
        begun, cpu = time.perf_counter(), time.process_time()
        model.train_step(batches, recipe.train.learning_rate, number, 8, StepShare(whole.total_weight))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
        exchanges, cpu_of_exchanges = clock.read() if clock else ([0.0], 0.0)
        share = training.share_of(batches)
        steps.append(
            Step(share.positions, share.passes, seconds, cpu - cpu_of_exchanges, exchanges[0], sum(exchanges[1:]))
        )
    done = json.dumps([asdict(step) for step in steps[WARM_UP:]])
    (words.child / f"rank-{group.rank}.json").write_text(done, encoding="utf-8")
    settle(group)


class ExchangeClock:
    """Times the exchanges of a group from now on."""

    def __init__(self, group: Processes) -> None:
        self._exchange = group.exchange
        self._seconds: list[float] = []
        self._cpu = 0.0
        setattr(group, "exchange", self._timed)  # noqa: B010 - it is put in place of the method

    def read(self) -> tuple[list[float], float]:
        """Seconds of each exchange since the last call, and CPU seconds of all."""
        found = self._seconds, self._cpu
        self._seconds, self._cpu = [], 0.0
        return found

    @contextlib.contextmanager
    def _timed(self, patient: bool = False) -> Iterator[None]:
        begun, cpu = time.perf_counter(), time.process_time()
        with self._exchange(patient):
            yield
        self._seconds.append(time.perf_counter() - begun)
        self._cpu += time.process_time() - cpu


# All of them ------------------------------------------------------------------------------------------------------------


def launched(words: argparse.Namespace, n_processes: int) -> list[list[Step]]:
    """What each process did in each step, by rank."""
    sets = [word for item in words.set for word in ("--set", item)]
    with tempfile.TemporaryDirectory() as folder:
        child = [
            __file__, words.recipe, "--backend", words.backend, "--steps", str(words.steps), "--tokens-per-pass", str(words.tokens_per_pass),
            "--child", folder, *sets,
        ]  # fmt: skip
        output = Path(folder) / "output"
        with output.open("wb") as stream:
            started = subprocess.Popen(
                launcher(words.backend, n_processes) + child,
                env={**os.environ, **THREADS}, stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT,
            )  # fmt: skip
            if words.backend == "mlx" and n_processes > 1:
                keep_quiet(started)
            started.wait()
        files = [Path(folder) / f"rank-{rank}.json" for rank in range(n_processes)]
        if not all(file.exists() for file in files):
            sys.exit(
                f"{n_processes} processes of {words.backend} did not train:\n{output.read_text(errors='replace')[-4000:]}"
            )
        return [[Step(**one) for one in json.loads(file.read_text(encoding="utf-8"))] for file in files]


def keep_quiet(mlx_launch: subprocess.Popen[bytes]) -> None:
    """Fill the stdin of mlx.launch's processes, which read none: as long as it could write to one, it asks for that without a pause, and a core is
    busy with it.
    """
    if mlx_launch.stdin is None:
        raise ValueError("started without a pipe for its stdin")
    with contextlib.suppress(BrokenPipeError):
        mlx_launch.stdin.write(bytes(FILLS_PIPES))
        mlx_launch.stdin.flush()


def launcher(backend: str, n_processes: int) -> list[str]:
    """The words before a program that start so many processes of it."""
    if n_processes == 1:
        return [sys.executable]
    if backend == "torch":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_processes)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = [word for name, value in THREADS.items() for word in ("--env", f"{name}={value}")]
    program = str(Path(sys.executable).with_name("mlx.launch"))
    return [
        program,
        "-n",
        str(n_processes),
        "--backend",
        "ring",
        "--starting-port",
        str(port),
        *threads,
        "--",
        sys.executable,
    ]


@dataclass(frozen=True)
class Turn:
    """One process and several, one after the other, and the simulation.

    Attributes:
        one: Seconds a step of one process.
        several: Of several.
        speed_up: Of several, in seconds.
        cpu_speed_up: In CPU seconds of the slowest process, the sum of gradients added.
        predicted: What the simulation says.
        summed: Seconds of a step's sum of gradients.
        told: Seconds of telling each other of a step, of the process that comes last.
    """

    one: float
    several: float
    speed_up: float
    cpu_speed_up: float
    predicted: float
    summed: float
    told: float


def compared(words: argparse.Namespace) -> str:
    """Train in turn; a table with a row a turn, and the medians."""
    recipe = load_recipe(Path(words.recipe), words.set)
    training = training_of(choose(words.backend, "cpu").backend, recipe, words.tokens_per_pass, words.backend)
    turns = []
    for number in range(1, words.turns + 1):
        one, several = launched(words, 1)[0], launched(words, words.processes)
        turns.append(turn_of(one, several))
        print(f"turn {number} of {words.turns}: load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    n_bytes = sum(training.bucket_bytes)
    lines = [
        "| turn | s a step, 1 process | s a step | speed-up, seconds | speed-up, CPU | simulated | sum of gradients ms | GB/s | rest of the exchange ms |",
        "|---|---|---|---|---|---|---|---|---|",
        *(line(str(number), turn, n_bytes, words.processes) for number, turn in enumerate(turns, start=1)),
        line("median", Turn(*(statistics.median(values) for values in zip(*(asdict(turn).values() for turn in turns), strict=True))), n_bytes, words.processes),
    ]  # fmt: skip
    return f"{words.backend}, {words.processes} processes; {n_bytes / 1e6:.1f} MB of gradients a step\n\n" + "\n".join(
        lines
    )


def turn_of(one: Sequence[Step], several: Sequence[Sequence[Step]]) -> Turn:
    """Compare the same steps of one process and of several.

    Args:
        one: Of one process.
        several: Of each of several, by rank.
    """
    by_step = list(zip(*several, strict=True))
    summed, told = (
        statistics.median(min(getattr(step, name) for step in ranks) for ranks in by_step)
        for name in ("summed", "told")
    )
    seconds, cpu = sum(step.seconds for step in one), sum(step.cpu for step in one)
    cpu_of_several = sum(max(step.cpu for step in ranks) for ranks in by_step) + len(one) * summed
    device = device_of(one)
    predicted = sum(
        max(computing_seconds(Share(step.positions, step.passes), device) for step in ranks) + summed
        for ranks in by_step
    )
    of_several = sum(max(step.seconds for step in ranks) for ranks in by_step)
    n_steps = len(one)
    return Turn(
        seconds / n_steps,
        of_several / n_steps,
        seconds / of_several,
        cpu / cpu_of_several,
        cpu / predicted,
        summed,
        told,
    )


def device_of(steps: Sequence[Step]) -> Cluster:
    """The device that took steps, in CPU seconds: a pass costs it as much as PASS_COST positions."""
    cost = sum(step.positions + PASS_COST * step.passes for step in steps)
    rate = cost / sum(step.cpu for step in steps)
    nowhere = Link(1.0, 0.0)
    return Cluster(rate, PASS_COST / rate, 0.0, nowhere, nowhere, 1, "ring", nowhere)


def line(name: str, turn: Turn, n_bytes: int, n_processes: int) -> str:
    """Of the table."""
    rate = 2 * (n_processes - 1) / n_processes * n_bytes / turn.summed / 1e9
    return (
        f"| {name} | {turn.one:.2f} | {turn.several:.2f} | {turn.speed_up:.2f} | {turn.cpu_speed_up:.2f} | {turn.predicted:.2f} | "
        f"{1e3 * turn.summed:.1f} | {rate:.2f} | {1e3 * turn.told:.1f} |"
    )


if __name__ == "__main__":
    main()
