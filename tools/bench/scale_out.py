"""What several devices would make of a recipe's training: steps a second, speed-up and efficiency, by simulation.

    python tools/bench/scale_out.py recipes/qwen3-intent.yaml --cluster macs-ring
    python tools/bench/scale_out.py recipes/qwen2-ticket.yaml --cluster gpus --rows-per-process 16
    python tools/bench/scale_out.py RECIPE --cluster macs-jaccl --run RUN     # of `mlxtune lora RECIPE --profile` on one such Mac
    python tools/bench/scale_out.py RECIPE --cluster gpus --lengths 250:0.5 --adapter-parameters 2300000 --tokens-per-second 3500

The rows of each step of the first epoch are drawn as training draws them (`BatchSampler`, `share_rows`), the slowest process is waited for,
and the exchange of gradients added. How fast devices and links are is assumed: each number is printed with its reason, and is an
option. The recipe's data and the config.json and tokenizer of its model are read, no weights; with `--lengths` neither.
`scale_out_check.py` compares this with processes that train.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from mlxtune.backends import choose  # noqa: E402
from mlxtune.backends.adapter import part_shapes  # noqa: E402
from mlxtune.backends.base import BACKWARD, FORWARD, GRADIENTS, HEAD, OPTIMIZER, UNSUPERVISED, Backend, Batch, FullSpec  # noqa: E402
from mlxtune.backends.processes import buckets  # noqa: E402
from mlxtune.data.batches import shared_prefix  # noqa: E402
from mlxtune.data.examples import Example  # noqa: E402
from mlxtune.data.packing import step_rows  # noqa: E402
from mlxtune.data.passes import PASS_COST  # noqa: E402
from mlxtune.data.prepared_cache import cached_prepare  # noqa: E402
from mlxtune.errors import Misuse, MlxtuneError  # noqa: E402
from mlxtune.models.base_model import config_and_tokenizer  # noqa: E402
from mlxtune.models.tokenizer import load_tokenizer  # noqa: E402
from mlxtune.recipe.load import load_recipe  # noqa: E402
from mlxtune.recipe.sections import AUTO, Recipe  # noqa: E402
from mlxtune.runs.folder import open_run  # noqa: E402
from mlxtune.training.loop import BatchSampler  # noqa: E402
from mlxtune.training.memory import PASS_SIZES  # noqa: E402
from mlxtune.training.tune import tuning_spec  # noqa: E402
from tools.bench.clusters import CLUSTERS, HELP, Assumption, Cluster, Share, StepTime, cluster_of, step_time  # noqa: E402
from tools.bench.training_speed import flops_per_position  # noqa: E402

GRADIENT_BYTES = 4  # gradients are exchanged in float32
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
        group.add_argument(f"--{name}", type=positive_number, metavar="N", help=what)
    rows = parser.add_argument_group("rows that are made up, in the place of the recipe's data and model")
    rows.add_argument(
        "--lengths", type=distribution, metavar="MEDIAN:SIGMA", help="tokens of a row, log-normally distributed"
    )
    rows.add_argument("--rows", type=positive, default=1000, metavar="N")
    rows.add_argument("--prefix", type=int, default=0, metavar="N", help="tokens that open every row, beside its own")
    rows.add_argument(
        "--adapter-parameters",
        type=positive,
        metavar="N",
        help="that are trained, as `mlxtune lora RECIPE --plan` counts them",
    )
    words = parser.parse_args()
    if words.lengths and not (words.adapter_parameters and words.tokens_per_second):
        parser.error("--lengths reads no model: give --adapter-parameters and --tokens-per-second too")
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
class Training:
    """What is trained, as far as its time depends on it.

    Attributes:
        name: Of the recipe.
        examples: Training examples.
        gradients: Elements of each array that is trained.
        rows_per_step: Of the recipe.
        tokens_per_pass: Most positions of a pass.
        seed: Of the order of rows.
        pack_to: As `train.pack_to`.
        flops_per_position: Operations that a token needs; 0 where no model is known.
    """

    name: str
    examples: Sequence[Example]
    gradients: Sequence[int]
    rows_per_step: int
    tokens_per_pass: int
    seed: int
    pack_to: int | None
    flops_per_position: float

    @property
    def bucket_bytes(self) -> list[int]:
        """Bytes of each array of gradients that is exchanged."""
        return [GRADIENT_BYTES * sum(self.gradients[part]) for part in buckets(self.gradients)]

    def sampler(self, rows_per_step: int, rank: int, n_processes: int) -> BatchSampler:
        """The passes of one of the processes."""
        return BatchSampler(
            self.examples, rows_per_step, self.tokens_per_pass, self.seed, self.pack_to, rank=rank, size=n_processes
        )

    def epoch(self, rows_per_step: int, n_processes: int) -> Iterator[list[Share]]:
        """What each process computes of each step of the first epoch."""
        samplers = [self.sampler(rows_per_step, rank, n_processes) for rank in range(n_processes)]
        n_steps = math.ceil(len(step_rows(self.examples, self.pack_to)) / rows_per_step)
        for step in range(1, n_steps + 1):
            yield [share_of(sampler.step(step)) for sampler in samplers]


def share_of(batches: Sequence[Batch]) -> Share:
    """What the passes of a process compute; there may be none."""
    prefix = len(batches[0].prefix) if batches else 0
    return Share(prefix + sum(batch.tokens.size for batch in batches), len(batches))


def training_of(backend: Backend, recipe: Recipe, tokens_per_pass: int) -> Training:
    """A recipe's training, from its data and its model's config.json and tokenizer.

    Args:
        backend: Knows what the model is made of.
        recipe: What is trained.
        tokens_per_pass: Where the recipe leaves that to memory.
    """
    config, folder = config_and_tokenizer(recipe.model)
    architecture = backend.architecture(config)
    spec = tuning_spec(recipe, architecture, config)
    if isinstance(spec, FullSpec):
        gradients = [math.prod(architecture.weights[name]) for name in spec.names]
    else:
        shapes = [architecture.linear_layers[layer] for layer in spec.layers]
        gradients = [math.prod(part) for shape in shapes for part in part_shapes(spec, shape).values()]
    examples = cached_prepare(recipe, load_tokenizer(folder), ask=False).training.examples
    return _training(recipe, examples, gradients, tokens_per_pass, flops_per_position(architecture, spec))


def made_up_training(recipe: Recipe, examples: Sequence[Example], n_parameters: int, tokens_per_pass: int) -> Training:
    """A recipe's training on rows of given lengths, and with an adapter of a given size."""
    return _training(recipe, examples, [n_parameters], tokens_per_pass, 0.0)


def _training(
    recipe: Recipe, examples: Sequence[Example], gradients: Sequence[int], tokens_per_pass: int, flops: float
) -> Training:
    train = recipe.train
    size = tokens_per_pass if train.tokens_per_pass == AUTO else train.tokens_per_pass
    return Training(recipe.name, examples, gradients, train.rows_per_step, size, train.seed, train.pack_to, flops)


def made_up_rows(n_rows: int, median: float, sigma: float, prefix: int) -> list[Example]:
    """Rows whose own tokens are log-normally distributed, behind a prefix that all share; of each the last token is trained on."""
    lengths = np.random.default_rng(0).lognormal(math.log(median), sigma, n_rows)
    none, last = np.full(1, UNSUPERVISED + 1, np.int16), np.zeros(1, np.int32)
    return [
        Example(row, np.concatenate([np.zeros(prefix, np.int32), np.full(max(1, round(length) - 1), row + 1, np.int32)]), last, np.ones(1, np.float32), none)
        for row, length in enumerate(lengths)
    ]  # fmt: skip


# What is to be expected -------------------------------------------------------------------------------------------------


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
        rows = made_up_rows(words.rows, median, sigma, words.prefix)
        training = made_up_training(recipe, rows, words.adapter_parameters, words.tokens_per_pass)
    else:
        training = training_of(choose().backend, recipe, words.tokens_per_pass)
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
    own = replace(training, tokens_per_pass=info["tokens_per_pass"])
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
