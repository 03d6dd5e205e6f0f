"""Tiny models with an adapter on either backend, what they are trained on, and how results are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import MAGNITUDE, Backend, Batch, LoraSpec, Model, OptimizerSpec
from mlxtune.backends.state import read_state
from mlxtune.data.examples import Example
from mlxtune.data.prepare import RecipeRows, training_split
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.architectures import architecture_of
from tests.conftest import write_recipe

BACKENDS = ("mlx", "torch")
N_SEGMENTS = 2

Values = dict[str, NDArray[np.float32]]
Kind = Literal["lora", "dora"]


def backend_named(name: str) -> Backend:
    """The backend; the test is skipped where its library is not installed."""
    if name == "mlx":
        from mlxtune.backends.mlx.backend import MlxBackend

        return MlxBackend()
    pytest.importorskip("torch")
    from mlxtune.backends.torch.backend import TorchBackend

    return TorchBackend()


def adapter_of(
    config: Mapping[str, Any], dropout: float = 0.0, seed: int = 1, rank: int = 4, kind: Kind = "lora"
) -> tuple[LoraSpec, Values]:
    """An adapter of all layers whose B is not zero, so that every gradient and product counts."""
    return adapter_on(architecture_of(config), dropout, seed, rank, kind)


def adapter_on(
    architecture: Architecture, dropout: float = 0.0, seed: int = 1, rank: int = 4, kind: Kind = "lora"
) -> tuple[LoraSpec, Values]:
    """`adapter_of` a model whose architecture is known."""
    spec = LoraSpec(rank, 2.0, dropout, architecture.lora_layers(), kind)
    weights = initial_weights(spec, architecture.linear_layers, seed)
    random = np.random.default_rng(seed)
    for name in weights:
        if name.endswith("lora_B"):
            weights[name] = random.normal(0, 0.05, weights[name].shape).astype(np.float32)
    for layer in spec.layers if kind == "dora" else ():
        lengths = random.uniform(
            1.0, 2.0, architecture.linear_layers[layer][1]
        )  # those of tiny models' weights: about 1.5
        weights[f"{layer}.{MAGNITUDE}"] = lengths.astype(np.float32)
    return spec, weights


def adapted(backend: Backend, folder: Path, spec: LoraSpec, weights: Mapping[str, NDArray[Any]]) -> Model:
    """A model with an adapter of these values."""
    model = backend.load(folder)
    model.attach_lora(spec, {name: value.astype(np.float32) for name, value in weights.items()})
    return model


def loaded(
    backend: Backend, folder: Path, dropout: float = 0.0, seed: int = 1, rank: int = 4
) -> tuple[Model, LoraSpec]:
    """A model with the adapter of `adapter_of`."""
    model = backend.load(folder)
    spec, weights = adapter_of(model.config, dropout, seed, rank)
    model.attach_lora(spec, weights)
    return model, spec


def examples_of(folder: Path, tmp_path: Path, **sections: Any) -> tuple[list[Example], Recipe]:
    """The training examples of the small intent recipe for a model folder."""
    recipe = load_recipe(write_recipe(tmp_path, folder, **sections))
    return training_split(RecipeRows(recipe), load_tokenizer(folder)).examples, recipe


def gradient_of(
    model: Model, batches: Sequence[Batch], *, seed: int = 0, step: int = 1, gradient_checkpointing: bool = False
) -> dict[str, NDArray[np.float64]]:
    """The gradient of a step: AdamW's first moment after it, begun from zero, at a learning rate of zero."""
    spec = OptimizerSpec(0.0, None, seed)
    model.prepare_training(spec, gradient_checkpointing)
    model.train_step(batches, 0.0, step, N_SEGMENTS)
    with tempfile.TemporaryDirectory() as folder:
        model.save_state(Path(folder))
        moments = read_state(Path(folder), tuple(model.adapter_weights())).first_moments
    return {name: value.astype(np.float64) / (1 - spec.betas[0]) for name, value in moments.items()}


def norm_of(values: Mapping[str, NDArray[Any]]) -> float:
    """L2 norm over all of them."""
    return float(np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in values.values())))


def moved(after: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]) -> Values:
    """How far each value went."""
    assert after.keys() == before.keys()
    return {name: after[name] - before[name] for name in after}


def assert_close(got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]], tolerance: float) -> None:
    """The norm of the difference is less than `tolerance` x the norm of what is wanted."""
    assert got.keys() == wanted.keys() and got
    assert norm_of(wanted) > 0
    assert norm_of({name: got[name] - wanted[name] for name in got}) / norm_of(wanted) < tolerance


def assert_equal(got: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> None:
    """Bit for bit."""
    assert got.keys() == wanted.keys() and got
    assert all(np.array_equal(got[name], wanted[name], equal_nan=True) for name in got)


def numpy_log_probability(model: Any, prompt: Sequence[int], option: Sequence[int]) -> float:
    """log p of an option's tokens after a prompt, from whole logits of the whole sequence, in NumPy."""
    return -float(numpy_nats(model, prompt, option).sum())


def numpy_nats(model: Any, prompt: Sequence[int], reply: Sequence[int]) -> NDArray[np.float64]:
    """-log p of each token of a reply, from whole logits of the whole sequence, in NumPy."""
    tokens = [*map(int, prompt), *map(int, reply)]
    logits = model.logits(tokens).astype(np.float64)
    log_normal = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    places = np.arange(len(prompt) - 1, len(tokens) - 1)
    nats: NDArray[np.float64] = log_normal[places] - logits[places, tokens[len(prompt) :]]
    return nats


def numpy_correct(model: Any, prompt: Sequence[int], reply: Sequence[int]) -> NDArray[np.bool_]:
    """Whether each token of a reply has the largest logit where it is predicted, from whole logits, in NumPy."""
    tokens = [*map(int, prompt), *map(int, reply)]
    found: NDArray[np.bool_] = model.logits(tokens).argmax(-1)[len(prompt) - 1 : -1] == np.asarray(reply)
    return found


def loss_by_row(network: Any, examples: list[Example]) -> Any:
    """Loss of a step over some examples, row by row, as a user of transformers would write it down; `network` makes logits of ids."""
    import torch

    total = sum(float(np.sum(example.weights)) for example in examples)
    loss = torch.zeros(())
    for example in examples:
        ids = torch.tensor([[*example.prompt.tolist(), *example.reply.tolist()]])
        n_prompt = len(example.prompt)
        logits = network(ids).logits[0, n_prompt - 1 : -1]
        nats = torch.nn.functional.cross_entropy(logits, ids[0, n_prompt:], reduction="none")
        loss = loss + (nats * torch.tensor(example.weights)).sum() / total
    return loss
