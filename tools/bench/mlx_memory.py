"""Memory that training on MLX takes beside weights and activations: the head's logits, and the host's for compiled shapes.

    python tools/bench/mlx_memory.py head --positions 6000 --layers 2
    python tools/bench/mlx_memory.py shapes --steps 1000
    python tools/bench/mlx_memory.py shapes --steps 300 --every-shape

`head` takes a random Qwen3 of true width and vocabulary and scores, then trains on, one row of that many supervised tokens; it prints
MLX's own peak above what is held before the head runs. `shapes` trains a tiny model on batches of ticket-like lengths with a
compiled step (on a CPU that takes a C++ compiler) and prints the resident memory of the process; with `--every-shape`, padded
without buckets, to multiples of 4 tokens and 32 positions, each shape kept.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import UNSUPERVISED, Batch, LoraSpec, OptimizerSpec

QWEN3 = {
    "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40960, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {**QWEN3, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 512}  # fmt: skip


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["head", "shapes"])
    parser.add_argument("--positions", type=int, default=6000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every-shape", action="store_true")
    words = parser.parse_args()
    choose("mlx", "auto")
    if words.what == "head":
        head(words.positions, words.layers)
    else:
        shapes(words.steps, words.layers, words.every_shape)


def random_model(config: dict[str, Any], compiled: bool) -> Any:
    """A model of random weights with an adapter on all layers, ready to train."""
    import mlx.core as mx
    from mlx_lm.models.qwen3 import Model, ModelArgs

    from mlxtune.backends.mlx.model import MlxModel

    network = Model(ModelArgs.from_dict(config))
    mx.eval(network.parameters())
    model = MlxModel(network, config, compiled)
    spec = LoraSpec(8, 2.0, 0.0, model.architecture.lora_layers())
    model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, 0))
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0), gradient_checkpointing=not compiled)
    return model


def batch_of(lengths: NDArray[np.int64], replies: NDArray[np.int64], random: np.random.Generator) -> Batch:
    """Rows of these lengths, whose last tokens are supervised."""
    width = int(lengths.max())
    tokens = random.integers(0, 500, (len(lengths), width)).astype(np.int32)
    columns = np.arange(width)[None]
    ends = lengths[:, None]
    own = (columns < ends) & (columns >= ends - replies[:, None])
    segments = np.where(own, 0, UNSUPERVISED).astype(np.int16)
    prefix = np.zeros(0, np.int32)
    return Batch(prefix, tokens, lengths.astype(np.int32), own.astype(np.float32), segments, tuple(range(len(lengths))))


def head(positions: int, layers: int) -> None:
    """Peak of scoring and of a training step, above what was held when the head began."""
    import mlx.core as mx

    from mlxtune.backends.mlx import head as head_file

    model = random_model({**QWEN3, "num_hidden_layers": layers}, compiled=False)
    batch = batch_of(np.array([positions + 8]), np.array([positions]), np.random.default_rng(0))
    logits_gb = positions * QWEN3["vocab_size"] * 4 / 1e9  # type: ignore[operator]
    held: dict[str, int] = {}
    chunks = head_file.Head.chunks

    def watched(self: Any, hidden: Any, targets: Any) -> Any:
        mx.eval(hidden)
        mx.clear_cache()
        mx.reset_peak_memory()
        held["before"] = mx.get_active_memory()
        return chunks(self, hidden, targets)

    head_file.Head.chunks = watched  # type: ignore[method-assign]
    begun = time.perf_counter()
    model.score(batch)
    scored = (mx.get_peak_memory() - held["before"]) / 1e9
    print(
        f"{positions:,} positions, float32 logits of all {logits_gb:.2f} GB; weights {model.architecture.n_parameters * 4 / 1e9:.2f} GB"
    )
    print(f"score: {scored:.2f} GB above what is held when the head begins ({time.perf_counter() - begun:.0f} s)")
    found = mx.random.normal((positions, QWEN3["hidden_size"]))
    targets, weights = mx.array(batch.tokens[0, -positions:]), mx.ones(positions)
    mx.eval(found, targets, weights)

    def loss(hidden: Any) -> Any:
        nats = model._head.nats(hidden, targets)
        return mx.sum(mx.concatenate(nats) * weights), nats

    (_, nats), gradient = mx.value_and_grad(loss)(found)
    head_file.to_numpy(nats)
    mx.eval(gradient)
    print(f"loss and gradient: {(mx.get_peak_memory() - held['before']) / 1e9:.2f} GB above")


def shapes(steps: int, layers: int, every_shape: bool) -> None:
    """Resident memory over the steps, and how many shapes were compiled."""
    import mlx.core as mx

    from mlxtune.backends.mlx import compiled, step_gradient
    from mlxtune.backends.mlx import model as model_file

    if every_shape:
        model_file.BUCKETED = _Multiples()  # type: ignore[assignment, attr-defined]
        compiled.MAX_SHAPES = 10**9
        vars(step_gradient)["CompiledByShape"] = functools.partial(compiled.CompiledByShape, max_shapes=10**9)
    model = random_model({**TINY, "num_hidden_layers": layers}, compiled=True)
    random = np.random.default_rng(0)
    print("| steps | shapes compiled | resident MB | MLX's own active MB |\n|---|---|---|---|")
    for step in range(1, steps + 1):
        replies = np.clip(random.lognormal(np.log(140), 0.6, 4), 20, 900).astype(int)
        lengths = replies + np.clip(random.lognormal(np.log(90), 0.7, 4), 12, 1500).astype(int)
        model.train_step([batch_of(lengths, replies, random)], 1e-3, step, 1)
        if step in (1, 50) or step % 100 == 0:
            print(
                f"| {step} | {model._step_gradient.n_compiled} | {resident() / 1e6:.0f} | {mx.get_active_memory() / 1e6:.0f} |",
                flush=True,
            )


class _Multiples:
    """Padding to multiples, without buckets."""

    def rows(self, n_rows: int) -> int:
        return n_rows

    def width(self, n_tokens: int) -> int:
        return -(-n_tokens // 4) * 4

    def positions(self, n_positions: int) -> int:
        return -(-n_positions // 32) * 32


def resident() -> int:
    """Bytes of the process that are in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
