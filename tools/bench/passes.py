"""The rows of a step as the recipe's passes are planned, all in one pass, and each row a pass: seconds, padding, memory.

    python tools/bench/passes.py recipes/qwen3-intent.yaml --random Qwen3-0.6B --on mlx:cpu --steps 6
    python tools/bench/passes.py recipes/demo-intent.yaml --on torch:cpu --set train.tokens_per_pass=100

One model computes the same steps in each way, in turn, so that ratios hold on a machine with other work too. `--random FOLDER`
takes config and tokenizer from a folder and fills the model with random weights, as in training_speed.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import Batch, OptimizerSpec
from mlxtune.data.batches import build_batches, epoch_order, shared_prefix
from mlxtune.data.examples import Example
from mlxtune.data.prepare import RecipeRows, training_split
from mlxtune.models.base_model import base_folder
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.training.loop import BatchSampler
from mlxtune.training.memory import Workload, resolve_tokens_per_pass
from mlxtune.training.tune import lora_spec

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

WARM_UP = 1  # steps that are not timed


@dataclass
class Way:
    """One grouping, and what it took."""

    name: str
    passes: Callable[[int], list[Batch]]  # of a step
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    n_passes: int = 0
    own: int = 0  # tokens of the rows
    positions: int = 0  # computed for them
    peak_gb: float = 0.0


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--on", required=True, metavar="BACKEND:DEVICE", help="mlx:cpu, torch:cuda ...")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
    parser.add_argument("--random", type=Path, metavar="FOLDER", help="config and tokenizer; weights are made up")
    parser.add_argument("--without-rows", action="store_true", help="leave out a pass a row, which is slow")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sets = list(words.set)
        if words.random:
            from tools.bench.training_speed import random_model

            sets.append(f"model.path={random_model(words.random, Path(folder) / words.random.name)}")
        print(measured(words.recipe, sets, words.on, words.steps, words.without_rows))


def measured(recipe_file: str, sets: list[str], on: str, n_steps: int, without_rows: bool) -> str:
    """The table, in Markdown."""
    name, _, device = on.partition(":")
    backend = choose(name, device or "auto").backend
    recipe = load_recipe(Path(recipe_file), sets)
    settings = recipe.train
    folder = base_folder(recipe.model, backend)
    model = backend.load(folder, dtype=recipe.model.dtype)
    spec = lora_spec(recipe, model.architecture)
    model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, settings.seed))
    model.prepare_training(
        OptimizerSpec(settings.weight_decay, settings.max_grad_norm, settings.seed), settings.gradient_checkpointing
    )
    examples = training_split(RecipeRows(recipe), load_tokenizer(folder)).examples
    workload = Workload(recipe, model.config, model.architecture, spec, backend.device(), backend.name)
    size = resolve_tokens_per_pass(workload, examples)
    sampler = BatchSampler(
        examples, settings.rows_per_step, size, settings.seed, sequence_tokens=workload.sequence_tokens
    )
    steps = epoch_order(len(examples), settings.rows_per_step, settings.seed, 0)
    ways = [
        Way("one pass a step", lambda step: in_passes(examples, [steps[step - 1]])),
        Way(f"planned, up to {size:,} positions", sampler.step),
    ]
    if not without_rows:
        ways.append(Way("a pass a row", lambda step: in_passes(examples, [[row] for row in steps[step - 1]])))
    for step in range(1, WARM_UP + n_steps + 1):
        for way in ways:
            passes = way.passes(step)
            backend.peak_memory_bytes(reset=True)
            begun, cpu = time.perf_counter(), time.process_time()
            # At a rate of zero, so that each way starts from the same adapter.
            result = model.train_step(passes, 0.0, step, 8)
            seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
            if step > WARM_UP:
                way.seconds.append(seconds)
                way.cpu_seconds.append(cpu)
                way.losses.append(result.loss)
                way.n_passes += len(passes)
                way.own += sum(int(one.lengths.sum()) for one in passes)
                way.positions += sum(one.tokens.size for one in passes)
                way.peak_gb = max(way.peak_gb, backend.peak_memory_bytes() / 1e9)
    return table(ways, len(shared_prefix(examples)), backend.device().description)


def in_passes(examples: Sequence[Example], passes: Sequence[Sequence[int]]) -> list[Batch]:
    """Examples in given passes, behind the prefix that all share."""
    return build_batches(examples, passes, shared_prefix(examples))


def table(ways: Sequence[Way], prefix: int, device: str) -> str:
    """Markdown, a row a way; ratios are medians of each step's own, the first way being 1."""
    lines = [
        f"{device}; {prefix} tokens of prefix, {len(ways[0].seconds)} steps\n",
        "| way | passes a step | s a step | time, first way = 1 | CPU time, first way = 1 | padding | peak GB | loss, largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        n_steps = len(way.seconds)
        ratio, of_cpu = (
            statistics.median(own / first for own, first in zip(*both, strict=True))
            for both in ((way.seconds, ways[0].seconds), (way.cpu_seconds, ways[0].cpu_seconds))
        )
        padding = (way.positions - way.own) / (way.positions + prefix * n_steps)
        apart = max(abs(own - first) for own, first in zip(way.losses, ways[0].losses, strict=True))
        lines.append(
            f"| {way.name} | {way.n_passes / n_steps:.2f} | {statistics.median(way.seconds):.2f} | {ratio:.2f} | {of_cpu:.2f} | "
            f"{padding:.1%} | {way.peak_gb:.2f} | {apart:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
