"""Optimizer steps of ours on MLX beside mlx_lm.lora's on the same rows, in turn in one process: ratio of seconds, peak memory.

    python tools/bench/mlx_peer.py recipes/demo-ticket.yaml --batch 4 --rounds 6

mlx-lm's step is its own: `default_loss`, padding to 32 tokens, `mx.compile`, Adam. Model, rows, adapted layers, rank and type are those of
the recipe for both. A round is one step of each on the same rows, so that what else the machine does slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import Batch, OptimizerSpec
from mlxtune.data.prepare import RecipeRows, training_split
from mlxtune.models.base_model import base_folder
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.training.loop import BatchSampler
from mlxtune.training.tune import lora_spec

WARM_UP = 1  # rounds that are not timed: compiling, first allocations
PAD_TO = 32  # mlx-lm's


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--rounds", type=int, default=6)
    words = parser.parse_args()
    sets = [*words.set, f"train.batch_size={words.batch}", "train.gradient_accumulation=1"]
    backend = choose("mlx", "auto").backend
    recipe = load_recipe(Path(words.recipe), sets)
    folder = base_folder(recipe.model, backend)
    examples = training_split(RecipeRows(recipe), load_tokenizer(folder)).examples
    order = BatchSampler(examples, words.batch, 1, recipe.train.seed)

    import mlx.core as mx

    def built(make: Any) -> tuple[Any, int]:
        before = mx.get_active_memory()
        step = make()
        return step, mx.get_active_memory() - before

    ways = {
        "mlxtune": built(lambda: our_step(recipe, folder, backend)),
        "mlx_lm.lora": built(lambda: their_step(recipe, folder, backend)),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    peaks = dict.fromkeys(ways, 0)
    for number in range(1, WARM_UP + words.rounds + 1):
        batches = order.step(number)
        for way, (step, _) in ways.items():
            others = sum(other for name, (_, other) in ways.items() if name != way)
            mx.clear_cache()
            mx.reset_peak_memory()
            begun = time.perf_counter()
            step(batches[0], number)
            taken = time.perf_counter() - begun
            if number > WARM_UP:
                seconds[way].append(taken)
                peaks[way] = max(peaks[way], mx.get_peak_memory() - others)
    ratios = [theirs / ours for ours, theirs in zip(seconds["mlxtune"], seconds["mlx_lm.lora"], strict=True)]
    print(f"{backend.device().description}; rounds {words.rounds}, rows a step {words.batch}")
    print("| way | s a step, median | fastest | peak GB |\n|---|---|---|---|")
    for way in ways:
        print(f"| {way} | {statistics.median(seconds[way]):.2f} | {min(seconds[way]):.2f} | {peaks[way] / 1e9:.2f} |")
    fastest = min(seconds["mlx_lm.lora"]) / min(seconds["mlxtune"])
    print(f"speed {statistics.median(ratios):.2f} times mlx_lm.lora's (median of rounds; of the fastest {fastest:.2f}), "
          f"peak {peaks['mlxtune'] / peaks['mlx_lm.lora']:.2f} of its own")  # fmt: skip


def our_step(recipe: Any, folder: Path, backend: Any) -> Any:
    """A step of ours: batch and number of the step."""
    model = backend.load(folder, dtype=recipe.model.dtype)
    spec = lora_spec(recipe, model.architecture)
    model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, recipe.train.seed))
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0), recipe.train.gradient_checkpointing)
    return lambda batch, number: model.train_step([batch], 1e-3, number, 8)


def their_step(recipe: Any, folder: Path, backend: Any) -> Any:
    """A step as `mlx_lm.tuner.trainer.train` does it."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    model, config = load_model(folder)
    if backend.device().kind == "cpu":
        model.set_dtype(mx.float32)
    spec = lora_spec(recipe, backend.architecture(config))
    blocks = {int(layer.split(".")[2]) for layer in spec.layers}
    keys = sorted({layer.split(".", 3)[3] for layer in spec.layers})
    model.freeze()
    linear_to_lora_layers(
        model, len(blocks), {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys}
    )
    model.train()
    optimizer = optim.Adam(learning_rate=1e-3)
    value_and_grad = nn.value_and_grad(model, default_loss)
    state = [model.state, optimizer.state, mx.random.state]
    mx.eval(model.parameters())

    @partial(mx.compile, inputs=state, outputs=state)
    def step(tokens: mx.array, lengths: mx.array) -> Any:
        (loss, n_tokens), gradient = value_and_grad(model, tokens, lengths)
        optimizer.update(model, gradient)
        return loss, n_tokens

    def run(batch: Batch, number: int) -> None:
        mx.eval(state, *step(*map(mx.array, as_theirs(batch))))

    return run


def as_theirs(batch: Batch) -> tuple[Any, Any]:
    """Rows with their prefix, padded as mlx-lm pads them, (B, T), and where each reply begins and ends, (B, 2)."""
    prefix = len(batch.prefix)
    ends = [prefix + int(length) for length in batch.lengths]
    tokens = np.zeros((len(ends), 1 + PAD_TO * -(-max(ends) // PAD_TO)), np.int32)
    bounds = []
    for row, end in enumerate(ends):
        tokens[row, :prefix] = batch.prefix
        tokens[row, prefix:end] = batch.tokens[row, : end - prefix]
        bounds.append((prefix + int(np.argmax(batch.supervised[row])), end))
    return tokens, np.array(bounds)


if __name__ == "__main__":
    main()
