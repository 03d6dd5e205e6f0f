"""What several devices would make of a recipe's training: steps a second, speed-up and efficiency, by simulation.

    python tools/bench/scale_out.py recipes/qwen3-intent.yaml --cluster macs-ring
    python tools/bench/scale_out.py recipes/qwen2-ticket.yaml --cluster gpus --rows-per-process 16
    python tools/bench/scale_out.py RECIPE --cluster macs-jaccl --run RUN     # of `mlxtune lora RECIPE --profile` on one such Mac
    python tools/bench/scale_out.py RECIPE --cluster gpus --lengths 250:0.5 --adapter-parameters 2300000 --tokens-per-second 3500

The rows of each step of the first epoch are drawn as training draws them (`BatchSampler`, `share_rows`), the slowest process is waited for,
and the exchange of gradients added. How fast devices and links are is assumed: each number is printed with its reason, and is an
option. The recipe's data and the config.json and tokenizer of its model are read, no weights; with `--lengths` neither.
Left out are the padding to a few sizes on MLX's GPUs, and that MLX runs a shared prefix again where a process has several passes.
`scale_out_check.py` compares this with processes that train.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from mlxtune.backends import choose  # noqa: E402
from mlxtune.backends.base import BACKWARD, FORWARD, GRADIENTS, HEAD, OPTIMIZER  # noqa: E402
from mlxtune.data.batches import shared_prefix  # noqa: E402
from mlxtune.data.packing import step_rows  # noqa: E402
from mlxtune.data.passes import PASS_COST  # noqa: E402
from mlxtune.errors import Misuse, MlxtuneError  # noqa: E402
from mlxtune.recipe.load import load_recipe  # noqa: E402
from mlxtune.runs.folder import open_run  # noqa: E402
from mlxtune.training.memory import PASS_SIZES  # noqa: E402
from tools.bench.clusters import CLUSTERS, HELP, Assumption, Cluster, StepTime, cluster_of, step_time  # noqa: E402
from tools.bench.shares import Training, made_up_rows, made_up_training, training_of  # noqa: E402

SPEED, TERAFLOPS = "tokens-per-second", "teraflops"  # options
COMPUTING = (GRADIENTS, FORWARD, HEAD, BACKWARD)  # phases of a step, as the backends tell them apart


def main() -> None:
    """Simulate and print the tables."""
    words = arguments()
    try:
        print(predict(words))
    except MlxtuneError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def arguments() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--cluster", choices=list(CLUSTERS), required=True, help="what the usual assumptions are of")
    parser.add_argument(
        "--processes",
        type=positive,
        nargs="+",
        metavar="N",
        help="numbers of processes; without it those usual of the cluster",
    )
    parser.add_argument("--rows-per-process", type=positive, default=16, metavar="N", help="of the second table")
    parser.add_argument(
        "--tokens-per-pass",
        type=positive,
        default=PASS_SIZES[0],
        metavar="N",
        help="where the recipe leaves it to memory",
    )
    speeds = parser.add_argument_group("assumptions, in the place of the usual ones")
    speeds.add_argument("--all-reduce", choices=("ring", "nccl"), help="one ring of all, or machine by machine")
    of_device = speeds.add_mutually_exclusive_group()
    of_device.add_argument("--run", type=Path, help="of one process, with --profile: how fast its device was")
    for name, what in HELP.items():
        group = of_device if name in (SPEED, TERAFLOPS) else speeds
        group.add_argument(
            f"--{name}", type=positive if name == "per-machine" else positive_number, metavar="N", help=what
        )
    rows = parser.add_argument_group("rows that are made up, in the place of the recipe's data and model")
    rows.add_argument(
        "--lengths", type=distribution, metavar="MEDIAN:SIGMA", help="tokens of a row, log-normally distributed"
    )
    rows.add_argument("--rows", type=positive, metavar="N", help="how many; 1,000 without it")
    rows.add_argument(
        "--prefix", type=positive, metavar="N", help="tokens that open every row, beside its own; none without it"
    )
    rows.add_argument(
        "--adapter-parameters",
        type=positive,
        metavar="N",
        help="that are trained, as `mlxtune lora RECIPE --plan` counts them",
    )
    words = parser.parse_args()
    if words.lengths and not (words.adapter_parameters and words.tokens_per_second):
        parser.error("--lengths reads no model: give --adapter-parameters and --tokens-per-second too")
    if not words.lengths and (words.rows or words.prefix or words.adapter_parameters):
        parser.error("--rows, --prefix and --adapter-parameters are of rows that are made up: give --lengths too")
    return words


def positive(text: str) -> int:
    """A whole number above zero."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def positive_number(text: str) -> float:
    """A number above zero."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def distribution(text: str) -> tuple[float, float]:
    """Median and sigma of a log-normal distribution."""
    median, _, sigma = text.partition(":")
    return positive_number(median), positive_number(sigma)


@dataclass(frozen=True)
class Forecast:
    """The first epoch of a training on some processes.

    Attributes:
        n_processes: How many.
        rows_per_step: Rows of a step over all of them.
        n_rows: Rows of the epoch.
        steps: Time of each step.
        idle: Mean share of the processes that have no rows in a step.
        alone: Seconds of the same epoch on one process.
    """

    n_processes: int
    rows_per_step: int
    n_rows: int
    steps: Sequence[StepTime]
    idle: float
    alone: float

    @property
    def seconds(self) -> float:
        """Of the epoch."""
        return float(sum(step.total for step in self.steps))

    @property
    def speed_up(self) -> float:
        """Against one process with as many rows a step."""
        return self.alone / self.seconds

    def line(self) -> str:
        """Of the table."""
        computing, exchange = (
            1e3 * statistics.mean(times)
            for times in zip(*((one.computing, one.exchange) for one in self.steps), strict=True)
        )
        return (
            f"| {self.n_processes} | {self.rows_per_step} | {computing:,.0f} | {exchange:,.1f} | {len(self.steps) / self.seconds:.2f} | "
            f"{self.n_rows / self.seconds:,.1f} | {self.speed_up:.2f} | {self.speed_up / self.n_processes:.0%} | {self.idle:.0%} |"
        )


HEADER = (
    "| processes | rows a step | computing ms | exchange ms | steps/s | rows/s | speed-up | efficiency | idle |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def forecast(training: Training, cluster: Cluster, n_processes: int, rows_per_step: int) -> Forecast:
    """The first epoch of a training, simulated."""
    epoch = list(training.epoch(rows_per_step, n_processes))
    sizes = training.bucket_bytes
    return Forecast(
        n_processes,
        rows_per_step,
        len(step_rows(training.examples, training.pack_to)),
        [step_time(shares, sizes, cluster) for shares in epoch],
        statistics.mean(share.passes == 0 for shares in epoch for share in shares),
        sum(step_time(shares, sizes, cluster).total for shares in training.epoch(rows_per_step, 1)),
    )


def predict(words: argparse.Namespace) -> str:
    """The assumptions, and a table for the recipe's rows a step and one for more rows."""
    recipe = load_recipe(Path(words.recipe), words.set)
    usual = CLUSTERS[words.cluster]
    numbers = words.processes or usual.processes
    if words.lengths:
        median, sigma = words.lengths
        rows = made_up_rows(words.rows or 1000, median, sigma, words.prefix or 0)
        training = made_up_training(recipe, rows, words.adapter_parameters, words.tokens_per_pass, usual.backend)
    else:
        training = training_of(choose().backend, recipe, words.tokens_per_pass, usual.backend)
    assumed = assumptions(words, training)
    cluster = cluster_of(words.all_reduce or usual.all_reduce, assumed)
    more = [max(training.rows_per_step, n * words.rows_per_process) for n in numbers]
    parts = [
        described(training),
        f"Assumed of {words.cluster}, all-reduce {cluster.all_reduce}:\n",
        "| option | value | why |\n|---|---|---|",
        *(f"| --{name} | {one.value:.6g} | {one.why} |" for name, one in assumed.items()),
        f"\nAs the recipe says, {training.rows_per_step} rows a step:\n\n{HEADER}",
        *(forecast(training, cluster, n, training.rows_per_step).line() for n in numbers),
        f"\nWith {words.rows_per_process} rows a process:\n\n{HEADER}",
        *(forecast(training, cluster, n, rows).line() for n, rows in zip(numbers, more, strict=True)),
    ]
    return "\n".join(parts)


def assumptions(words: argparse.Namespace, training: Training) -> dict[str, Assumption]:
    """Each number by its option: given, measured in a run, or the usual one."""
    usual = {**CLUSTERS[words.cluster].assumed, **(measured(words.run, training) if words.run else {})}
    found = {}
    for name in HELP:
        value = getattr(words, name.replace("-", "_"))
        if value is not None:
            found[name] = Assumption(value, "given")
        elif name in usual:
            found[name] = usual[name]
    if SPEED not in found:
        flops = training.flops_per_position
        speed = 1e12 * found[TERAFLOPS].value / flops
        why = f"--{TERAFLOPS} over the {flops / 1e9:.2f} x 10^9 operations that the linear layers need of a token"
        return {SPEED: Assumption(speed, why), **found}
    return {name: one for name, one in found.items() if name != TERAFLOPS}


def measured(folder: Path, training: Training) -> dict[str, Assumption]:
    """How fast a run's device was, a pass costing as many positions as the plan of passes has it.

    Raises:
        Misuse: The run has no profile, was one of several processes, or trained something else.
    """
    info = open_run(folder).info()
    profile = info.get("profile")
    if not profile or info["processes"] != 1:
        raise Misuse(
            f"{folder}: expected a run of one process with a profile; train one with `mlxtune lora RECIPE --profile`"
        )
    if info["trainable_parameters"] != sum(training.gradients):
        raise Misuse(
            f"{folder}: trained {info['trainable_parameters']:,} parameters, and the recipe has {sum(training.gradients):,}; give the "
            "recipe, and the --set, that it was trained with"
        )
    seconds = sum(profile["seconds"].get(phase, 0.0) for phase in COMPUTING)
    own = replace(training, tokens_per_pass=info["tokens_per_pass"], backend=info["backend"])
    shares = [share for (share,) in itertools.islice(own.epoch(own.rows_per_step, 1), profile["steps"])]
    rate = (
        sum(share.positions + PASS_COST * share.passes for share in shares) / seconds * (profile["steps"] / len(shares))
    )
    why = f"measured in {folder}"
    return {
        SPEED: Assumption(rate, why),
        "pass-ms": Assumption(1e3 * PASS_COST / rate, f"{why}: {PASS_COST} positions, as the plan of passes has it"),
        "step-ms": Assumption(1e3 * profile["seconds"][OPTIMIZER] / profile["steps"], why),
    }


def described(training: Training) -> str:
    """What is trained, in a line."""
    lengths = [example.n_tokens for example in training.examples]
    sizes = training.bucket_bytes
    return (
        f"{training.name}: {len(lengths):,} rows of {statistics.median(lengths):,.0f} tokens (median) and {max(lengths):,} at most, the first "
        f"{len(shared_prefix(training.examples))} shared by all; {sum(training.gradients):,} trained parameters, {sum(sizes) / 1e6:,.1f} MB of "
        f"gradients a step in {len(sizes)} array{'s' * (len(sizes) > 1)}; passes of up to {training.tokens_per_pass:,} positions.\n"
    )


if __name__ == "__main__":
    main()
