"""One of the processes that `test_sharded_mlx.py` starts with mlx.launch; not a test, and the test takes its reference numbers with it.

It computes with the models of a folder together with the other, trains and evaluates a recipe, writes what it saw to FOLDER/rank-N.json, and then
trains until it is ended.
"""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import Batch, LoraSpec, Model, OptimizerSpec, StepShare, in_order
from mlxtune.backends.supervision import total_weight
from mlxtune.cli import main as command_line
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.files import write_json
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.copies import run_copies
from mlxtune.runs.folder import open_run
from mlxtune.training.tune import tune

PREFIX = 5  # tokens that open all rows
STOP = 2
PROMPTS = ([5, 6, 7, 8], [5, 6, 9], [5, 6, 10, 11, 12, 13])
OPTIONS = ([4, 5, STOP], [4, 6, STOP], [9, STOP])
DEEP = "deep"  # a model of many blocks
TEXTS = ("pay the bill", "hi")
SHARDED = "model.shard=true"


@dataclass(frozen=True)
class Case:
    """How a tiny model is trained.

    Attributes:
        name: Of its folder.
        steps: Optimizer steps.
        dropout: Of the adapter's inputs.
        checkpointing: Compute activations again.
    """

    name: str
    steps: int = 2
    dropout: float = 0.0
    checkpointing: bool = False


# Each family for itself, and what differs between blocks, types of weights and ways to train among them.
CASES = (
    Case("qwen3", steps=20),
    Case("qwen2", steps=3),
    Case("llama", steps=3),
    Case("mistral", dropout=0.2),
    Case("qwen3_moe", dropout=0.2, checkpointing=True),
    Case("qwen3_5_text", dropout=0.2, checkpointing=True),
    Case("qwen3-4bit"),
)


def numbers(model: Model, case: Case) -> dict[str, Any]:
    """What a model computes: losses and norms of its steps, how far these moved the adapter, scores, probabilities and replies."""
    spec = LoraSpec(4, 2.0, case.dropout, model.architecture.lora_layers())
    first = initial_weights(spec, model.architecture.linear_layers, seed=1)
    model.attach_lora(spec, first)
    model.prepare_training(OptimizerSpec(0.01, 1.0, 0), case.checkpointing)
    steps = []
    for step in range(1, case.steps + 1):
        batches = some_batches(step)
        result = model.train_step(batches, 1e-3, step, 1, StepShare(total_weight(batches)))
        steps.append([result.loss, result.grad_norm])
    replies = in_order(model.generate(PROMPTS, 8, [STOP]))
    return {
        "steps": steps,
        "moved": {name: (value - first[name]).tolist() for name, value in model.adapter_weights().items()},
        "scores": model.score(some_batches(0)[0]).nats.tolist(),
        "chosen": model.choose(PROMPTS, OPTIONS).tolist(),
        "logits": model.logits(PROMPTS[0]).tolist(),
        "replies": [list(reply.tokens) for reply in replies],
    }


def some_batches(step: int) -> list[Batch]:
    """Two passes of random rows with a prefix in common."""
    return [_batch(np.random.default_rng([step, width]), n_rows, width) for n_rows, width in ((3, 11), (2, 7))]


def _batch(random: np.random.Generator, n_rows: int, width: int) -> Batch:
    lengths = np.array([width, *[width - 2] * (n_rows - 1)], np.int32)
    is_reply = (np.arange(width) >= 3) & (np.arange(width) < lengths[:, None])
    return Batch(
        prefix=np.arange(10, 10 + PREFIX, dtype=np.int32),
        tokens=random.integers(3, 300, (n_rows, width)).astype(np.int32),
        lengths=lengths,
        weights=is_reply.astype(np.float32),
        segments=np.where(is_reply, 0, -1).astype(np.int16),
        rows=tuple(range(n_rows)),
    )


def main(folder: Path) -> None:
    """Compute, train, resume and evaluate, and train until this process is ended."""
    import mlx.core as mx

    choice = choose("auto", "cpu")
    group = choice.backend.group()
    model = choice.backend.load(folder / DEEP, shard=True)
    found: dict[str, Any] = {"held": mx.get_active_memory(), "peak": mx.get_peak_memory(), "cases": {}}
    del model
    for case in CASES:
        found["cases"][case.name] = numbers(choice.backend.load(folder / case.name, shard=True), case)
    recipe = load_recipe(folder / "recipe.yaml", [SHARDED])
    tune(recipe, choice, folder / "sharded", measures=reply_metrics)
    with run_copies(group) as copies:
        begun = copies.find(lambda: open_run(folder / "begun"))
        tune(recipe, choice, resume=begun, measures=reply_metrics)
    run = str(folder / "sharded")
    found["evaluated"] = ask("evaluate", run, "--probabilities", "--repeats", "2", "--device", "cpu")
    found["predicted"] = ask("predict", run, *TEXTS, "--device", "cpu", "--json")
    found["refused"] = ask("predict", run, "--device", "cpu")
    write_json(folder / f"rank-{group.rank}.json", found)
    choice = choose("auto", "cpu")  # each command has a watchdog of its own, and the last that began hears signals
    endless = ["train.epochs=2000", "train.max_steps=null", "train.save_every=2", "train.best_metric=valid.loss"]
    tune(load_recipe(folder / "recipe.yaml", [SHARDED, *endless]), choice, folder / "endless")


def ask(*words: str) -> dict[str, Any]:
    """The exit code of a command, and what it printed."""
    sys.argv = ["mlxtune", *words]
    code = 0
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            command_line()
        except SystemExit as left:
            code = int(left.code or 0)
    return {"code": code, "out": printed.getvalue()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
