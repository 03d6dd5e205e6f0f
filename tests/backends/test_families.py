"""Families of decoders on both backends: transformers, plain, with PEFT or its weights updated by hand, computes the same. No code of ours names one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import Backend, ConvertSpec, Model, OptimizerSpec, in_order
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.data.examples import Example
from mlxtune.errors import ModelError
from tests.adapted import (
    BACKENDS,
    N_SEGMENTS,
    adapter_on,
    assert_close,
    backend_named,
    examples_of,
    gradient_of,
    loss_by_row,
    numpy_log_probability,
)
from tests.tiny import EXPERT_FAMILIES, MORE_FAMILIES, N_EXPERTS, TORCH_ALONE, WINDOW, tiny_config, tiny_model

pytest.importorskip("torch")
IDS = list(range(3, 33))
FAMILIES = ("qwen2", "qwen3", "llama", *MORE_FAMILIES, *EXPERT_FAMILIES)
CASES = [(family, name) for family in FAMILIES for name in BACKENDS if name == "torch" or family not in TORCH_ALONE]


@dataclass(frozen=True)
class Case:
    """A tiny model folder of a family, and a backend."""

    family: str
    folder: Path
    backend: Backend

    def adapted(self) -> Model:
        """The model with an adapter of all its linear layers that is not zero."""
        model = self.backend.load(self.folder)
        model.attach_lora(*adapter_on(model.architecture, rank=2))
        return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: tiny_model(root / family, family, hidden=64, layers=2) for family in FAMILIES}


@pytest.fixture(params=CASES, ids="-on-".join)
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Case:
    family, name = request.param
    return Case(family, folders[family], backend_named(name))


def theirs(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


def their_logits(network: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return network(torch.tensor([ids])).logits[0].numpy()


def peft_step(folder: Path, model: Model, examples: list[Example]) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradient of a step over some examples, row by row, as a user of PEFT would write it down."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    spec, _ = adapter_on(model.architecture, rank=2)
    config = LoraConfig(r=spec.rank, lora_alpha=spec.scale * spec.rank, target_modules=list(spec.layers))
    network = inject_adapter_in_model(config, theirs(folder), "default")
    values = dict(network.named_parameters())
    weights = model.adapter_weights()
    for name, value in weights.items():
        values[f"{name}.default.weight"].data = torch.tensor(value)
    loss = loss_by_row(network, examples)
    loss.backward()
    return loss.item(), {name: values[f"{name}.default.weight"].grad.numpy() for name in weights}


def step_by_hand(folder: Path, model: Model, examples: list[Example]) -> tuple[float, dict[str, np.ndarray]]:
    """The same, where PEFT knows no layer of a single expert: each weight of transformers' network is W + scale x B A of its own."""
    import torch

    spec, _ = adapter_on(model.architecture, rank=2)
    network = theirs(folder)
    factors = {name: torch.tensor(value, requires_grad=True) for name, value in model.adapter_weights().items()}
    update = {layer: spec.scale * factors[f"{layer}.lora_B"] @ factors[f"{layer}.lora_A"] for layer in spec.layers}
    parameters = dict(network.named_parameters())
    for name, weight in parameters.items():
        if name.endswith("experts.gate_up_proj"):
            at = name.removesuffix(".gate_up_proj")
            halves = [torch.cat([update[f"{at}.{n}.{half}_proj"] for half in ("gate", "up")]) for n in range(N_EXPERTS)]
            parameters[name] = weight + torch.stack(halves)
        elif name.endswith("experts.down_proj"):
            at = name.removesuffix(".down_proj")
            parameters[name] = weight + torch.stack([update[f"{at}.{n}.down_proj"] for n in range(N_EXPERTS)])
        elif (layer := name.removesuffix(".weight")) in update:
            parameters[name] = weight + update[layer]
    loss = loss_by_row(lambda ids: torch.func.functional_call(network, parameters, (ids,)), examples)
    loss.backward()
    return loss.item(), {name: value.grad.numpy() for name, value in factors.items() if value.grad is not None}


def test_logits_are_those_of_transformers(case: Case) -> None:
    expected = their_logits(theirs(case.folder), IDS)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(case.backend.load(case.folder).logits(IDS), expected, atol=1e-4)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_loss_and_gradient_are_those_of_peft(case: Case, tmp_path: Path, gradient_checkpointing: bool) -> None:
    examples, _ = examples_of(case.folder, tmp_path)
    prefix = shared_prefix(examples)
    assert len(prefix) > WINDOW
    model = case.adapted()
    step = step_by_hand if case.family in EXPERT_FAMILIES else peft_step
    loss, gradient = step(case.folder, model, examples)
    for order in (
        build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], prefix),
        build_batches(examples, [list(range(7))], prefix if gradient_checkpointing else prefix[:0]),
    ):
        found = gradient_of(model, order, gradient_checkpointing=gradient_checkpointing)
        assert_close(found, gradient, 1e-4)
        model.prepare_training(OptimizerSpec(0.0, None, 0), gradient_checkpointing)
        assert model.train_step(order, 0.0, 1, N_SEGMENTS).loss == pytest.approx(loss, abs=1e-4)


def test_probabilities_of_options_are_those_of_whole_sequences(case: Case) -> None:
    model = case.adapted()
    options = [[a, b][:length] for a in (7, 9) for b in (12, 13) for length in (1, 2)]
    prompts = [[*IDS, 5, 6, 7], [*IDS, 9, 11, 12, 13, 14], [*IDS, 9]]
    found = model.choose(prompts, options)
    for row, prompt in enumerate(prompts):
        expected = [numpy_log_probability(model, prompt, option) for option in options]
        np.testing.assert_allclose(found[row], expected, atol=1e-4)


def test_greedy_replies_are_those_of_transformers(case: Case) -> None:
    network = theirs(case.folder)
    prompts = [[*IDS, 5, 6, 7], [*IDS, 9, 11, 12, 13, 14], [*IDS, 9]]
    replies = in_order(case.backend.load(case.folder).generate(prompts, 2 * WINDOW, [], slots=2))
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = [*prompt, *reply.tokens]
        logits = their_logits(network, ids)[len(prompt) - 1 : -1]
        chosen = logits[np.arange(len(reply.tokens)), list(reply.tokens)]
        assert len(reply.tokens) == 2 * WINDOW and np.all(logits.max(-1) - chosen < 1e-4)


def test_a_converted_model_computes_the_same_in_transformers(case: Case, tmp_path: Path) -> None:
    written = case.backend.convert(case.folder, tmp_path / "out", ConvertSpec())
    network = theirs(case.folder)
    assert written.n_parameters == network.num_parameters()
    np.testing.assert_allclose(their_logits(theirs(written.folder), IDS), their_logits(network, IDS), atol=1e-5)


def test_a_fused_model_computes_the_same_in_transformers(case: Case, tmp_path: Path) -> None:
    model = case.adapted()
    spec, weights = adapter_on(model.architecture, rank=2)
    write_adapter(tmp_path / "adapter", Adapter(spec, weights, str(case.folder)), model.architecture.n_blocks)
    fused = case.backend.fuse(case.folder, tmp_path / "adapter", tmp_path / "fused", False).folder
    expected = model.logits(IDS)
    assert np.abs(expected - their_logits(theirs(case.folder), IDS)).max() > 1e-2
    np.testing.assert_allclose(their_logits(theirs(fused), IDS), expected, atol=1e-4)
    np.testing.assert_allclose(case.backend.load(case.folder, tmp_path / "adapter").logits(IDS), expected, atol=1e-5)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in TORCH_ALONE])
def test_both_backends_compute_a_quantized_model_alike(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    mlx, torch = map(backend_named, BACKENDS)
    packed = mlx.convert(folders[family], tmp_path / "packed", ConvertSpec(4, 32)).folder
    logits = [backend.load(packed).logits(IDS) for backend in (mlx, torch)]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-4)
    gradients = []
    examples, _ = examples_of(packed, tmp_path)
    for backend in (mlx, torch):
        model = Case(family, packed, backend).adapted()
        gradients.append(gradient_of(model, build_batches(examples, [[0, 1, 2, 3]], shared_prefix(examples))))
    assert_close(gradients[1], gradients[0], 1e-3)


def test_a_window_of_some_layers_that_mlx_lm_lacks_is_refused_there_by_name() -> None:
    with pytest.raises(ModelError, match=r"1 of 2 layers attend to the last 8 tokens only .* Use --backend torch"):
        backend_named("mlx").architecture(tiny_config("qwen3-window"))


def test_factors_of_longrope_that_mlx_lm_lacks_are_refused_there_by_name() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 6, "long_factor": [2.0] * 6}
    config = {**tiny_config("phi3"), "rope_scaling": scaling, "original_max_position_embeddings": 1024}
    assert backend_named("torch").architecture(config).n_blocks == 2
    with pytest.raises(ModelError, match=r"longrope.*use --backend torch"):
        backend_named("mlx").architecture(config)
