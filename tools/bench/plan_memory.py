"""How near the planned peak of memory is to the measured one, over a designed set of trainings on both backends.

    python tools/bench/plan_memory.py
    python tools/bench/plan_memory.py --backend torch --only 3 --only 17

Each training is of a random model, in a process of its own: loaded, adapted, two optimizer steps of random rows. The peak is what the
backend reports, as run.json has it; the plan is `estimated_memory` of the same passes. Three shapes, so that weights, activations and
logits each dominate somewhere; every setting that the plan knows is changed in some of them. On a CPU both compute in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends import choose
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import UNSUPERVISED, Batch, OptimizerSpec
from mlxtune.recipe.sections import Recipe
from mlxtune.training.memory import PROCESS, Workload, estimated_memory, pass_shapes
from mlxtune.training.tune import ready_model, tuning_spec

COMMON = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 4096, "hidden_act": "silu", "torch_dtype": "float32"}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {  # as deep as it is narrow: activations
        **COMMON, "model_type": "qwen3", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 14,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192, "tie_word_embeddings": True,
    },
    "qwen2": {  # a large vocabulary: logits
        **COMMON, "model_type": "qwen2", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
        "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 65536, "tie_word_embeddings": True,
    },
    "llama": {  # wide: weights
        **COMMON, "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 6,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 16384, "tie_word_embeddings": False,
    },
    "qwen3.5": {  # three of four blocks with a gated delta net
        **COMMON, "model_type": "qwen3_5_text", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192, "tie_word_embeddings": True,
        "linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "mrope_section": [3, 3, 2]},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """One training: a shape, the rows of a step, and the recipe's keys that count.

    Attributes:
        shape: Of SHAPES.
        rows: Rows of a pass.
        width: Tokens of each, without the prefix.
        reply: Supervised tokens of each.
        prefix: Tokens that open every row.
        passes: Forward passes of a step.
        rank: Of the adapter.
        targets: Its layers.
        layers: Blocks adapted; 'all', or that many from the end.
        bits: Of the base; None is not quantized.
        checkpointing: Gradient checkpointing.
        dropout: Of the adapter.
        kind: lora.type; of "full" there is no adapter.
    """

    shape: str
    rows: int = 4
    width: int = 256
    reply: int = 16
    prefix: int = 0
    passes: int = 1
    rank: int = 8
    targets: str = "all"
    layers: int | str = "all"
    bits: int | None = None
    checkpointing: bool = False
    dropout: float = 0.0
    kind: str = "lora"

    def __str__(self) -> str:
        changed = [
            f"{name} {value}" for name, value in asdict(self).items()
            if name not in ("shape", "rows", "width") and value != getattr(Training("qwen3"), name)
        ]  # fmt: skip
        return ", ".join([f"{self.shape} {self.rows} x {self.width}", *changed])


GRID = [
    Training("qwen3"),
    Training("qwen3", rows=8, width=128, dropout=0.1),
    Training("qwen3", rows=2, width=512, targets="attention"),
    Training("qwen3", rows=1, width=1024, dropout=0.05),
    Training("qwen3", rows=4, width=384, checkpointing=True),
    Training("qwen3", rows=8, width=192, checkpointing=True, dropout=0.1, rank=32),
    Training("qwen3", bits=4),
    Training("qwen3", rows=6, width=160, prefix=160),
    Training("qwen3", rows=4, width=96, prefix=256, passes=3, dropout=0.1),
    Training("qwen3", rows=4, width=256, layers=7),
    Training("qwen2"),
    Training("qwen2", rows=4, width=160, reply=120),
    Training("qwen2", rows=8, width=200, reply=150, checkpointing=True),
    Training("qwen2", rows=2, width=256, reply=200, targets="attention", dropout=0.1),
    Training("qwen2", rows=4, width=200, reply=60, bits=4, checkpointing=True),
    Training("qwen2", rows=6, width=256, dropout=0.1, bits=4),
    Training("qwen2", rows=2, width=640, targets="mlp"),
    Training("qwen2", rows=4, width=128, rank=128),
    Training("llama", rows=2, width=128),
    Training("llama", rows=4, width=192, dropout=0.1),
    Training("llama", rows=2, width=128, bits=4),
    Training("llama", rows=4, width=192, checkpointing=True, rank=64),
    Training("llama", rows=2, width=320, targets="attention", layers=3),
    Training("llama", rows=4, width=128, bits=4, dropout=0.1, targets="attention"),
    Training("qwen3", kind="dora"),
    Training("qwen2", rows=4, width=160, reply=120, dropout=0.1, kind="dora"),
    Training("llama", rows=4, width=128, bits=4, kind="dora"),
    Training("qwen3", kind="full"),
    Training("qwen3", rows=4, width=96, prefix=256, passes=3, kind="full"),
    Training("qwen2", rows=4, width=160, reply=120, kind="full"),
    Training("qwen2", rows=8, width=200, reply=150, checkpointing=True, kind="full"),
    Training("llama", rows=2, width=128, kind="full"),
    Training("llama", rows=4, width=192, passes=2, checkpointing=True, kind="full"),
    Training("qwen3.5"),
    Training("qwen3.5", rows=4, width=96, prefix=256, passes=3, dropout=0.1),
    Training("qwen3.5", rows=4, width=384, checkpointing=True),
    Training("qwen3.5", kind="dora"),
    Training("qwen3.5", rows=4, width=384, checkpointing=True, kind="dora"),
    Training("qwen3.5", kind="full"),
    Training("qwen3.5", rows=4, width=384, checkpointing=True, kind="full"),
]


def main() -> None:
    """Run the set, or in a child one of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", action="append", choices=["mlx", "torch"])
    parser.add_argument("--only", action="append", type=int, metavar="NUMBER", help="of the set, from 1")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.child:
        print(json.dumps(measure(words.backend[0], Training(**json.loads(words.child)))))
        return
    numbers = words.only or range(1, len(GRID) + 1)
    print(
        "| | backend | training | planned MB | measured MB | planned / measured | without the process |\n|---|---|---|---|---|---|---|"
    )
    ratios = []
    for number in numbers:
        for backend in words.backend or ["mlx", "torch"]:
            found = in_child(backend, GRID[number - 1])
            planned, measured, before = sum(found["parts"].values()), found["measured"], found["before"]
            own = (planned - found["parts"].get(PROCESS, 0)) / (measured - before)
            ratios.append((planned / measured, own, backend, number))
            print(
                f"| {number} | {backend} | {GRID[number - 1]} | {planned / 1e6:.0f} | {measured / 1e6:.0f} | {planned / measured:.2f} | {own:.2f} |",
                flush=True,
            )
            if words.only:
                print(f"before {before / 1e6:.0f}", end=", ")
                print(", ".join(f"{name} {value / 1e6:.0f}" for name, value in found["parts"].items()))
    for backend in sorted({backend for _, _, backend, _ in ratios}):
        for place, what in enumerate(("the peak", "the peak without the process")):
            by = sorted((one[place], one[3]) for one in ratios if one[2] == backend)
            print(
                f"{backend}, {what}: from {by[0][0]:.2f} (training {by[0][1]}) to {by[-1][0]:.2f} (training {by[-1][1]})"
            )


def in_child(backend: str, training: Training) -> dict[str, Any]:
    """What `measure` returns, in a process of its own: peaks of the process are its own then."""
    command = [sys.executable, __file__, "--backend", backend, "--child", json.dumps(asdict(training))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{backend}, {training}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(backend_name: str, training: Training) -> dict[str, Any]:
    """The planned peak by part and the measured one, bytes."""
    backend = choose(backend_name, "cpu").backend
    config = SHAPES[training.shape]
    before = resident_bytes() if backend_name == "torch" else 0  # MLX counts its arrays alone
    recipe = recipe_of(training)
    architecture = backend.architecture(config)
    spec = tuning_spec(recipe, architecture, config)
    steps = [step_batches(training, seed) for seed in range(2)]
    planned = estimated_memory(
        Workload(recipe, config, architecture, spec, backend.device(), backend_name),
        [shape for batches in steps for shape in pass_shapes(batches)],
    )
    with tempfile.TemporaryDirectory() as place:
        plain = write_model(Path(place) / "plain", config, architecture)
        folder = plain
        if training.bits:
            folder = Path(place) / "quantized"
            words = [
                "convert",
                str(plain),
                "--out",
                str(folder),
                "--quantize",
                str(training.bits),
                "--backend",
                backend_name,
            ]
            subprocess.run([sys.executable, "-m", "mlxtune", *words], check=True, capture_output=True)
        model = ready_model(backend, folder, recipe, spec, architecture)
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0), training.checkpointing)
    backend.peak_memory_bytes(reset=True)
    for number, batches in enumerate(steps, start=1):
        model.train_step(batches, 1e-4, number, 1)
    return {"parts": planned, "measured": backend.peak_memory_bytes(), "before": before}


def resident_bytes() -> int:
    """Memory of this process once what torch's model needs is imported."""
    import mlxtune.backends.torch.loading
    import mlxtune.backends.torch.model  # noqa: F401

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def recipe_of(training: Training) -> Recipe:
    """A recipe with the training's keys; nothing reads its data."""
    return Recipe.model_validate({
        "name": "memory",
        "model": {"path": "a/model", "quantize": training.bits and {"bits": training.bits, "group_size": 64}},
        "data": {"train": "train.jsonl"},
        "prompt": {"user": "{text}"},
        "output": {"template": "{reply}", "fields": {"reply": {"kind": "text"}}},
        "lora": {"type": "full"} if training.kind == "full" else {
            "type": training.kind, "rank": training.rank, "dropout": training.dropout, "targets": training.targets, "layers": training.layers,
        },
        "train": {"gradient_checkpointing": training.checkpointing},
    })  # fmt: skip


def step_batches(training: Training, seed: int) -> list[Batch]:
    """The passes of one step: rows of one width, of which the last tokens are supervised."""
    random = np.random.default_rng(seed)
    shape = (training.rows, training.width)
    prefix = np.arange(training.prefix, dtype=np.int32)
    own = np.broadcast_to(np.arange(training.width) >= training.width - training.reply, shape)
    segments = np.where(own, 0, UNSUPERVISED).astype(np.int16)
    lengths = np.full(training.rows, training.width, np.int32)
    return [
        Batch(prefix, random.integers(0, 5000, shape).astype(np.int32), lengths, own.astype(np.float32), segments, tuple(range(training.rows)))
        for _ in range(training.passes)
    ]  # fmt: skip


def write_model(folder: Path, config: dict[str, Any], architecture: Architecture) -> Path:
    """A random model in Hugging Face's layout, with the little that converting one reads beside its weights."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models

    folder.mkdir()
    random = np.random.default_rng(0)
    weights = {
        name: (0.02 * random.standard_normal(shape, np.float32) if len(shape) > 1 else np.ones(shape, np.float32))
        for name, shape in architecture.weights.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8"
    )
    return folder


if __name__ == "__main__":
    main()
