"""What the plan says a block keeps for the backward pass, beside what the backends keep of random models."""

from __future__ import annotations

import gc
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

from mlxtune.backends import choose
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import UNSUPERVISED, Batch, FullSpec, LoraSpec, Model, OptimizerSpec, TuningSpec
from mlxtune.training.activations import Activations
from mlxtune.training.memory import pass_shapes
from tests.tiny import tiny_model

ROWS, WIDTH, HIDDEN, RANK = 2, 65, 128, 2


def batch(n_prefix: int = 0) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 300, (ROWS, WIDTH)).astype(np.int32)
    segments = np.full((ROWS, WIDTH), UNSUPERVISED, np.int16)
    segments[:, -2:] = 0
    weights = (segments == 0).astype(np.float32)
    return Batch(np.arange(n_prefix, dtype=np.int32), tokens, np.full(ROWS, WIDTH, np.int32), weights, segments, (0, 1))


def adapted(
    folder: Path,
    backend: str,
    family: str,
    layers: int,
    dtype: str,
    targets: Any,
    dropout: float,
    checkpointing: bool,
    kind: Any,
) -> tuple[Model, TuningSpec]:
    """A random model that is ready to train."""
    base = tiny_model(folder / f"{layers}", family, hidden=HIDDEN, layers=layers)
    model = choose(backend, "cpu").backend.load(base, dtype=dtype)
    spec: TuningSpec
    if kind == "full":
        spec = FullSpec(tuple(model.architecture.weights), model.architecture.lora_layers())
        model.train_all()
    else:
        spec = LoraSpec(RANK, 1.0, dropout, model.architecture.lora_layers(targets), kind)
        model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, 0))
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0), checkpointing)
    return model, spec


def planned(model: Model, spec: TuningSpec, backend: str, dtype: str, checkpointing: bool, one: Batch) -> int:
    device = choose(backend, "cpu").backend.device()
    width = {"float32": 4, "bfloat16": 2}[dtype]
    activation = "gelu" if "gemma" in model.config["model_type"] else "silu"
    return Activations(model.architecture, spec, backend, device, width, checkpointing, activation).kept(
        pass_shapes([one])[0]
    )


@pytest.mark.parametrize(
    ("family", "dtype", "targets", "dropout", "kind"),
    [
        ("qwen3", "float32", "attention", 0.0, "lora"),
        ("qwen3", "bfloat16", "all", 0.1, "lora"),
        ("qwen3", "float32", "all", 0.0, "dora"),
        ("qwen3_5_text", "float32", "all", 0.0, "lora"),
        ("qwen3_5_text", "float32", "all", 0.0, "dora"),
        ("qwen3_moe", "float32", "all", 0.0, "lora"),
        ("gemma3_text", "float32", "all", 0.0, "lora"),
    ],
)
def test_mlx_keeps_what_is_planned_of_each_block(
    tmp_path: Path, family: str, dtype: str, targets: str, dropout: float, kind: str
) -> None:
    import mlx.core as mx

    peaks, plans = [], []
    for layers in (6, 10):  # of which the difference is that of whole blocks
        model, spec = adapted(tmp_path, "mlx", family, layers, dtype, targets, dropout, False, kind)
        model.train_step([batch()], 1e-4, 1, 1)
        gc.collect()  # what other tests left would be freed in the middle of the measurement
        held = mx.get_active_memory()
        mx.reset_peak_memory()
        model.train_step([batch()], 1e-4, 2, 1)
        peaks.append(mx.get_peak_memory() - held)
        plans.append(planned(model, spec, "mlx", dtype, False, batch()))
        del model
    assert plans[1] - plans[0] == pytest.approx(peaks[1] - peaks[0], rel=0.2)


@pytest.mark.parametrize(
    ("family", "targets", "dropout", "checkpointing", "n_prefix", "kind"),
    [
        ("qwen3", "all", 0.1, False, 40, "lora"),
        ("qwen2", "attention", 0.1, False, 0, "lora"),
        ("llama", "mlp", 0.0, False, 40, "lora"),
        ("qwen3", "all", 0.1, True, 0, "lora"),
        ("qwen3_moe", "all", 0.0, False, 40, "lora"),
        ("qwen3_5_text", "all", 0.1, False, 40, "lora"),
        ("qwen3_5_text", "attention", 0.0, True, 0, "lora"),
        ("qwen3", "all", 0.1, False, 40, "dora"),
        ("llama", "mlp", 0.0, False, 0, "dora"),
        ("qwen3_5_text", "all", 0.0, False, 40, "dora"),
        ("qwen3", "all", 0.0, False, 40, "full"),
        ("qwen3_5_text", "all", 0.0, False, 40, "full"),
        ("gemma3_text", "all", 0.0, False, 40, "lora"),
    ],
)
def test_torch_keeps_what_is_planned(
    tmp_path: Path, family: str, targets: str, dropout: float, checkpointing: bool, n_prefix: int, kind: str
) -> None:
    torch = pytest.importorskip("torch")
    if family == "qwen3_5_text" and Version(importlib.metadata.version("transformers")) < Version("5.24"):
        pytest.skip("delta nets are counted as transformers 5.24 has them; 5.7's keep less")
    kept, plans = [], []
    for layers in (2, 4):  # of which the difference is that of whole blocks, one of each kind
        model, spec = adapted(tmp_path, "torch", family, layers, "float32", targets, dropout, checkpointing, kind)
        network = model._network  # type: ignore[attr-defined]
        weights = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}
        found: dict[int, int] = {}

        def keep(tensor: Any, found: dict[int, int] = found, weights: set[int] = weights) -> Any:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.train_step([batch(n_prefix)], 1e-4, 1, 1)
        kept.append(sum(found.values()))
        plans.append(planned(model, spec, "torch", "float32", checkpointing, batch(n_prefix)))
    assert plans[1] - plans[0] == pytest.approx(kept[1] - kept[0], rel=0.03)
