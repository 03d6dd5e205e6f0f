"""A training step on a random Qwen3.5 beside mlx-lm's own, in turn: seconds, CPU seconds, peak memory.

    python tools/bench/delta_net.py --rounds 3
    python tools/bench/delta_net.py --hidden 256 --tokens 1024 --rounds 2

mlx-lm's step is its network in training mode, whose gated delta nets are a loop over tokens (`gated_delta_ops`), its LoRA layers and its
`default_loss`. Weights, rows, adapted layers and rank are the same, every token but the first is supervised, and nothing is compiled:
on a CPU mlx-lm's loop alone would take a C++ compiler minutes. Each way runs in a process of its own. mlx-lm's
gets OpenBLAS as well, which it does not load by itself. A round is one step of each way, so that what else the machine does slows all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import Batch, LoraSpec, OptimizerSpec

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

RANK, SCALE = 8, 2.0
OURS, CHECKPOINTED, THEIRS = "mlxtune", "mlxtune, gradient checkpointing", "mlx-lm"


@dataclass(frozen=True)
class Took:
    """What a step took."""

    seconds: float
    cpu_seconds: float
    loss: float
    peak_bytes: int


@dataclass
class Way:
    """One way to compute a step, in a process of its own that answers each batch by what its step took."""

    asks: Connection
    steps: list[Took] = field(default_factory=list)

    @classmethod
    def start(cls, name: str, config: dict[str, Any]) -> Way:
        """The way of this name."""
        context = multiprocessing.get_context("spawn")  # MLX's threads do not outlive a fork
        ours, its = context.Pipe()
        context.Process(target=serve, args=(name, config, its), daemon=True).start()
        its.close()  # so that its end is seen here
        return cls(ours)

    def step(self, batch: Batch) -> None:
        """Compute one, and keep what it took."""
        self.asks.send(batch)
        self.steps.append(self.asks.recv())

    def median(self, of: Callable[[Took], float]) -> float:
        """Of all steps but the first, which allocates."""
        return statistics.median(of(step) for step in self.steps[1:])


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="rows a step")
    parser.add_argument("--tokens", type=int, default=512, help="of each row")
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    backend = choose("mlx", "auto").backend

    from tools.bench.mlx_memory import batch_of

    config = qwen3_5(words.hidden, words.layers)
    random = np.random.default_rng(0)
    lengths = np.full(words.batch, words.tokens)
    ways = {name: Way.start(name, config) for name in (OURS, CHECKPOINTED, THEIRS)}
    for _ in range(1 + words.rounds):
        batch = batch_of(lengths, lengths - 1, random)
        for way in ways.values():
            way.step(batch)
    print(f"{backend.device().description}; {words.layers} blocks of {words.hidden}, {words.batch} x {words.tokens} tokens, {words.rounds} rounds")  # fmt: skip
    print(table(ways))


def serve(name: str, config: dict[str, Any], asked: Connection) -> None:
    """Compute a step of each batch that is asked, until nothing more is."""
    from tools.bench.peers_child import mlx

    # Before anything else imports MLX. mlx-lm's process loads OpenBLAS alone; mlxtune's start also changes how glibc keeps freed memory.
    if name == THEIRS:
        mlx()
    else:
        choose("mlx", "auto")
    weights = random_weights(config)
    step = their_step(config, weights) if name == THEIRS else our_step(config, weights, name == CHECKPOINTED)
    import mlx.core as mx

    number = 0
    while True:
        try:
            batch = asked.recv()
        except EOFError:
            return
        number += 1
        mx.clear_cache()
        mx.reset_peak_memory()
        begun, cpu = time.perf_counter(), time.process_time()
        loss = step(batch, number)
        asked.send(Took(time.perf_counter() - begun, time.process_time() - cpu, loss, mx.get_peak_memory()))


def table(ways: dict[str, Way]) -> str:
    """What the ways took, in Markdown."""
    theirs = ways[THEIRS]
    lines = ["| way | s a step | CPU s a step | mlx-lm's CPU time is | peak GB | of mlx-lm's | loss of the first step |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, way in ways.items():
        ratios = [other.cpu_seconds / own.cpu_seconds for own, other in zip(way.steps, theirs.steps, strict=True)]
        peak, their_peak = (max(step.peak_bytes for step in of.steps[1:]) for of in (way, theirs))
        lines.append(
            f"| {name} | {way.median(lambda step: step.seconds):.2f} | {way.median(lambda step: step.cpu_seconds):.2f} | "
            f"{statistics.median(ratios[1:]):.1f} times | {peak / 1e9:.2f} | {peak / their_peak:.2f} | {way.steps[0].loss:.5f} |"
        )
    return "\n".join(lines)


def qwen3_5(hidden: int, layers: int) -> dict[str, Any]:
    """config.json: heads as wide as those of the real models, fewer of them, and a small vocabulary, which no part of this is about."""
    heads = max(2, hidden // 64)
    return {
        "model_type": "qwen3_5_text", "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 3 * hidden,
        "num_attention_heads": max(2, hidden // 128), "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 2048,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "full_attention_interval": 4,
        "linear_num_key_heads": heads, "linear_num_value_heads": heads, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
    }  # fmt: skip


def their_network(config: dict[str, Any]) -> Any:
    """mlx-lm's network of a config, randomly initialized."""
    import copy

    from mlxtune.backends.mlx.architecture import classes_of, text_network

    model_class, arguments_class = classes_of(config)
    return text_network(model_class(arguments_class.from_dict(copy.deepcopy(config))))


def random_weights(config: dict[str, Any]) -> dict[str, Any]:
    """Weights as mlx-lm holds them, computed."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    mx.random.seed(0)
    weights = dict(tree_flatten(their_network(config).parameters()))
    mx.eval(weights)
    return weights


def our_step(config: dict[str, Any], weights: dict[str, Any], gradient_checkpointing: bool) -> Callable[[Batch, int], float]:  # fmt: skip
    """A step of ours."""
    from mlxtune.backends.mlx.model import MlxModel
    from mlxtune.backends.mlx.stored_weights import as_network_has, keep_stored_norms

    network = their_network(config)
    keep_stored_norms(network)
    network.load_weights(list(as_network_has(weights).items()))
    model = MlxModel(network, config)
    layers = model.architecture.lora_layers()
    spec = LoraSpec(RANK, SCALE, 0.0, layers)
    model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, 0))
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0), gradient_checkpointing)
    return lambda batch, number: model.train_step([batch], 0.0, number, 1).loss


def their_step(config: dict[str, Any], weights: dict[str, Any]) -> Callable[[Batch, int], float]:
    """A step as `mlx_lm.tuner.trainer.train` computes it, but for `mx.compile`."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    from mlx_lm.tuner.trainer import default_loss
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from tools.bench.mlx_peer import as_theirs

    network = their_network(config)
    network.load_weights(list(weights.items()))
    network.freeze()
    linear_to_lora_layers(network, len(network.layers), {"rank": RANK, "scale": SCALE, "dropout": 0.0})
    network.train()
    optimizer = optim.Adam(learning_rate=0.0)
    value_and_grad = nn.value_and_grad(network, default_loss)
    mx.eval(network.parameters())

    def step(batch: Batch, number: int) -> float:
        tokens, bounds = as_theirs(batch)
        (loss, _), gradient = value_and_grad(
            network, mx.array(tokens), mx.array(bounds - [0, 1])
        )  # without a token of padding
        optimizer.update(network, gradient)
        mx.eval(loss, network.trainable_parameters(), optimizer.state)
        return float(loss.item())

    return step


if __name__ == "__main__":
    main()
