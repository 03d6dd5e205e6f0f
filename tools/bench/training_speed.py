"""Speed of a recipe's optimizer steps on one backend or several in turn: tokens a second, peak memory, FLOP utilisation.

    python tools/bench/training_speed.py recipes/demo-intent.yaml --on mlx:cpu --on torch:cpu
    python tools/bench/training_speed.py recipes/qwen3-intent.yaml --random Qwen3-0.6B --on torch:cuda

Each way runs in a process of its own, so that its peak memory and libraries are its own; ways take turns, round by round,
and the table shows the median over all rounds. `--random FOLDER` takes config and tokenizer from a folder and fills the
model with random weights: what a step costs does not depend on their values.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.architecture import Architecture, block_of
from mlxtune.backends.base import Batch, FullSpec, LoraSpec, OptimizerSpec, TuningSpec
from mlxtune.data.prepare import RecipeRows, training_split
from mlxtune.models.base_model import base_folder
from mlxtune.models.source import read_config
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.training.loop import BatchSampler, count_tokens
from mlxtune.training.memory import Workload, resolve_tokens_per_pass
from mlxtune.training.tune import lora_spec

WARM_UP = 2  # steps that are not timed: compiling, first allocations


def main() -> None:
    """Measure and print a table, or one way's figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument(
        "--on", action="append", required=True, metavar="BACKEND:DEVICE", help="mlx:cpu, torch:cuda ..."
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--steps", type=int, default=5, help="timed steps a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--random", type=Path, metavar="FOLDER", help="config and tokenizer; weights are made up")
    parser.add_argument(
        "--peak-tflops", type=float, help="the device's own peak; without it, a measured float32 product's"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        print(json.dumps(measured(words.recipe, words.set, words.on[0], words.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sets = list(words.set)
        if words.random:
            sets.append(f"model.path={random_model(words.random, Path(folder) / words.random.name)}")
        rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in words.on}
        for _ in range(words.rounds):
            for way in words.on:
                rounds[way].append(run(words.recipe, sets, way, words.steps))
    print(table(rounds, words.peak_tflops))


def run(recipe: str, sets: list[str], way: str, steps: int) -> dict[str, Any]:
    """One way's figures, from a process of its own."""
    settings = [word for item in sets for word in ("--set", item)]
    command = [sys.executable, __file__, recipe, "--one", "--on", way, "--steps", str(steps), *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def measured(recipe_file: str, sets: list[str], way: str, n_steps: int) -> dict[str, Any]:
    """Seconds of each timed step, and what it computed."""
    name, _, device = way.partition(":")
    backend = choose(name, device or "auto").backend
    recipe = load_recipe(Path(recipe_file), sets)
    folder = base_folder(recipe.model, backend)
    model = backend.load(folder, dtype=recipe.model.dtype)
    spec = lora_spec(recipe, model.architecture)
    model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, recipe.train.seed))
    settings = recipe.train
    model.prepare_training(
        OptimizerSpec(settings.weight_decay, settings.max_grad_norm, settings.seed), settings.gradient_checkpointing
    )
    examples = training_split(RecipeRows(recipe), load_tokenizer(folder)).examples
    workload = Workload(recipe, model.config, model.architecture, spec, backend.device(), backend.name)
    size = resolve_tokens_per_pass(workload, examples)
    order = BatchSampler(
        examples, settings.rows_per_step, size, settings.seed, settings.pack_to,
        sequence_tokens=workload.sequence_tokens,
    )  # fmt: skip
    seconds, tokens, flops = [], [], []
    for step in range(1, WARM_UP + n_steps + 1):
        batches = order.step(step)
        if step == WARM_UP + 1:
            backend.peak_memory_bytes(reset=True)
        begun = time.perf_counter()
        model.train_step(batches, settings.learning_rate, step, 8)
        seconds.append(time.perf_counter() - begun)
        tokens.append(sum(map(count_tokens, batches)))
        flops.append(step_flops(batches, model.architecture, spec))
    return {
        "device": backend.device().description,
        "seconds": seconds[WARM_UP:],
        "tokens": tokens[WARM_UP:],
        "flops": flops[WARM_UP:],
        "peak_memory_gb": backend.peak_memory_bytes() / 1e9,
        "gflops_of_a_product": backend.matmul_speed().gflops,
    }


def step_flops(batches: list[Batch], architecture: Architecture, spec: LoraSpec) -> float:
    """Floating-point operations that the linear layers of a step need, whatever way they are computed in.

    The prefix counts once a step, padding not at all; the head counts supervised tokens.
    """
    tokens = len(batches[0].prefix) + sum(int(batch.lengths.sum()) for batch in batches)
    supervised = sum(int(batch.supervised.sum()) for batch in batches)
    head = architecture.vocabulary * architecture.hidden_size
    return flops_per_position(architecture, spec) * tokens + 4.0 * head * supervised


def flops_per_position(architecture: Architecture, spec: TuningSpec) -> float:
    """Those that the linear layers of the blocks need of a token.

    Two a weight forward; two more backward in blocks from the first adapted one on, for the gradient of the inputs. The weights'
    own gradient, where all are trained, is two more.
    """
    blocks = architecture.n_blocks
    first = 0 if isinstance(spec, FullSpec) else min(map(block_of, spec.layers))
    idle = architecture.n_parameters - architecture.n_active_parameters  # experts that a token does not go to
    weights = sum(n_in * n_out for n_in, n_out in architecture.linear_layers.values()) - idle
    return 2.0 * weights * (1 + (blocks - first) / blocks + isinstance(spec, FullSpec))


def random_model(source: Path, folder: Path) -> Path:
    """A model folder with the config and tokenizer of another, and random float16 weights of a plausible size."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    random = np.random.default_rng(0)
    shapes = choose().backend.architecture(read_config(folder)).weights
    weights = {
        name: np.ones(shape, np.float16) if len(shape) == 1 else _normal(random, shape)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return (0.02 * random.standard_normal(shape, np.float32)).astype(np.float16)


def table(rounds: dict[str, list[dict[str, Any]]], peak_tflops: float | None) -> str:
    """Markdown, a row a way; the first is what the others are compared with."""
    lines = [
        "| way | s a step | tokens/s | peak GB | FLOP utilisation | time, first way = 1 |",
        "|---|---|---|---|---|---|",
    ]
    first = None
    for way, results in rounds.items():
        seconds = [second for result in results for second in result["seconds"]]
        middle = statistics.median(seconds)
        first = first or middle
        rate = sum(sum(result["tokens"]) for result in results) / sum(seconds)
        peak = peak_tflops * 1e12 if peak_tflops else max(result["gflops_of_a_product"] for result in results) * 1e9
        used = sum(sum(result["flops"]) for result in results) / sum(seconds) / peak
        memory = max(result["peak_memory_gb"] for result in results)
        lines.append(
            f"| {way} ({results[0]['device']}) | {middle:.2f} | {rate:,.0f} | {memory:.2f} | {used:.0%} | {middle / first:.2f} |"
        )
    peak_text = f"{peak_tflops} TFLOP/s" if peak_tflops else "the fastest float32 product measured beside it"
    lines.append(
        f"\nUtilisation is of {peak_text}. Tokens shared by all rows count in each row for tokens/s, once for utilisation."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
