"""DoRA on both backends: PEFT's layer, model and merged weights compute the same, and mlx-lm reads the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import Adapter, initial_weights, read_adapter, write_adapter
from mlxtune.backends.base import MAGNITUDE, Backend, LoraSpec, Model, OptimizerSpec, in_order
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.models.source import tensor_places, weight_files
from tests.adapted import (
    BACKENDS,
    N_SEGMENTS,
    Values,
    adapter_of,
    assert_close,
    assert_equal,
    backend_named,
    examples_of,
    gradient_of,
    loss_by_row,
    moved,
    numpy_log_probability,
)
from tests.adapter_runs import hugging_face_model
from tests.tiny import tiny_model

torch = pytest.importorskip("torch")
IDS = list(range(3, 33))
FAMILIES = ("qwen2", "qwen3", "llama", "qwen3_5_text")  # of which the first has biases, the last a gated delta net


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("dora")
    return {family: tiny_model(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 4 bits."""
    return tiny_model(tmp_path_factory.mktemp("dora") / "packed", "qwen2", quantization={"bits": 4, "group_size": 32})


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def loaded(backend: Backend, folder: Path, dropout: float = 0.0) -> tuple[Model, LoraSpec, Values]:
    """A model with a DoRA adapter none of whose values is what it begins with."""
    model = backend.load(folder)
    spec, weights = adapter_of(model.config, dropout, rank=2, kind="dora")
    model.attach_lora(spec, weights)
    return model, spec, weights


def peft_model(network: Any, spec: LoraSpec, weights: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A transformers model with PEFT's DoRA, and its parameters under our names."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.scale * spec.rank,
        lora_dropout=spec.dropout,
        target_modules=list(spec.layers),
        use_dora=True,
    )
    network = inject_adapter_in_model(config, network, "default")
    theirs = dict(network.named_parameters())
    names = {name: name.replace(MAGNITUDE, "lora_magnitude_vector") + ".default.weight" for name in spec.names}
    for name, value in weights.items():
        theirs[names[name]].data = torch.tensor(value)
    return network, {name: theirs[own] for name, own in names.items()}


def their_logits(network: Any) -> np.ndarray:
    with torch.no_grad():
        return network(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_loss_and_gradient_are_those_of_peft(
    folders: dict[str, Path], backend: Backend, tmp_path: Path, family: str, gradient_checkpointing: bool
) -> None:
    examples, _ = examples_of(folders[family], tmp_path)
    model, spec, weights = loaded(backend, folders[family])
    network, parameters = peft_model(hugging_face_model(folders[family]), spec, weights)
    loss = loss_by_row(network, examples)
    loss.backward()
    wanted = {name: value.grad.numpy() for name, value in parameters.items()}
    assert {name.rpartition(".")[2] for name in wanted} == {"lora_A", "lora_B", MAGNITUDE}
    prefix = shared_prefix(examples)
    for order in (
        build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], prefix),
        build_batches(examples, [list(range(7))], prefix[:0]),
    ):
        found = gradient_of(model, order, gradient_checkpointing=gradient_checkpointing)
        for part in spec.parts:  # magnitudes' gradients are much larger than those of the factors
            ours, theirs = ({name: one[name] for name in one if name.endswith(part)} for one in (found, wanted))
            assert_close(ours, theirs, 1e-4)
        model.prepare_training(OptimizerSpec(0.0, None, 0), gradient_checkpointing)
        assert model.train_step(order, 0.0, 1, N_SEGMENTS).loss == pytest.approx(loss.item(), abs=1e-4)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_layer_with_dropout_computes_what_pefts_does(name: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    random = np.random.default_rng(0)
    shapes = {"x": (5, 6), "weight": (4, 6), "bias": (4,), "A": (2, 6), "B": (4, 2), "m": (4,), "out": (5, 4)}
    value = {part: random.standard_normal(shape).astype(np.float32) for part, shape in shapes.items()}
    mask = (random.random((5, 6)) > 0.4) / np.float32(0.6)

    plain = torch.nn.Linear(6, 4)
    plain.weight.data, plain.bias.data = torch.tensor(value["weight"]), torch.tensor(value["bias"])
    config = LoraConfig(r=2, lora_alpha=6, use_dora=True, lora_dropout=0.4, target_modules=["0"])
    theirs: Any = inject_adapter_in_model(config, torch.nn.Sequential(plain))[0]
    theirs.lora_A["default"].weight.data = torch.tensor(value["A"])
    theirs.lora_B["default"].weight.data = torch.tensor(value["B"])
    theirs.lora_magnitude_vector["default"].weight.data = torch.tensor(value["m"])

    theirs.lora_dropout["default"] = _masked(mask)
    x = torch.tensor(value["x"], requires_grad=True)
    out = theirs(x)
    out.backward(torch.tensor(value["out"]))
    wanted = [
        out.detach(), x.grad, theirs.lora_A["default"].weight.grad, theirs.lora_B["default"].weight.grad,
        theirs.lora_magnitude_vector["default"].weight.grad,
    ]  # fmt: skip
    for ours, right in zip(_layer(name, value, mask), wanted, strict=True):
        np.testing.assert_allclose(ours, right.numpy(), atol=1e-5)


def _masked(mask: np.ndarray) -> Any:
    """A dropout of torch that always draws the same mask."""
    dropout: Any = torch.nn.Dropout(0.4)
    dropout.forward = lambda x: x * torch.tensor(mask)
    return dropout


def _layer(name: str, value: Values, mask: np.ndarray) -> list[Any]:
    """Output of our layer under a dropout mask, and its gradients by input, A, B and magnitudes."""
    if name == "torch":
        from mlxtune.backends.torch.dora import DoraLinear as TorchDora

        plain = torch.nn.Linear(6, 4).requires_grad_(False)
        plain.weight.data, plain.bias.data = torch.tensor(value["weight"]), torch.tensor(value["bias"])
        module = TorchDora(
            plain, (torch.tensor(value["A"]), torch.tensor(value["B"])), torch.tensor(value["m"]), 3.0, 0.4
        )
        module.lora_dropout = _masked(mask)
        x = torch.tensor(value["x"], requires_grad=True)
        out = module(x)
        out.backward(torch.tensor(value["out"]))
        grads = (x.grad, module.lora_A.grad, module.lora_B.grad, module.magnitude.grad)
        return [one.numpy() for one in (out.detach(), *grads) if one is not None]
    import mlx.core as mx
    import mlx.nn as nn

    from mlxtune.backends.mlx.dora import DoraLinear as MlxDora

    linear = nn.Linear(6, 4)
    linear.weight, linear.bias = mx.array(value["weight"]), mx.array(value["bias"])
    factors = mx.array(value["A"].T), mx.array(value["B"].T)
    layer = MlxDora(linear, factors, mx.array(value["m"]), 3.0, lambda x: x * mx.array(mask))  # type: ignore[arg-type]

    def run(x: mx.array, a: mx.array, b: mx.array, m: mx.array) -> mx.array:
        layer.lora_a, layer.lora_b, layer.m = a, b, m
        return layer(x)

    primals = [mx.array(value["x"]), *factors, mx.array(value["m"])]
    (out,), (of_x, of_a, of_b, of_m) = mx.vjp(run, primals, [mx.array(value["out"])])
    return [np.array(one) for one in (out, of_x, of_a.T, of_b.T, of_m)]


def test_nothing_changes_before_the_first_step(folders: dict[str, Path], packed: Path, backend: Backend) -> None:
    for folder in (folders["qwen2"], packed):
        plain = backend.load(folder).logits(IDS)
        model = backend.load(folder)
        spec, _ = adapter_of(model.config, kind="dora")
        model.attach_lora(spec, initial_weights(spec, model.architecture.linear_layers, 0))
        np.testing.assert_allclose(model.logits(IDS), plain, atol=1e-5)
        assert set(model.adapter_weights()) == set(spec.names)


def test_a_step_moves_magnitudes_and_the_next_one_divides_by_the_new_lengths(
    folders: dict[str, Path], backend: Backend, tmp_path: Path
) -> None:
    """After steps the model computes what one computes that is made anew of its values."""
    examples, _ = examples_of(folders["qwen3"], tmp_path)
    batches = build_batches(examples, [[0, 1, 2, 3]], shared_prefix(examples))
    model, spec, before = loaded(backend, folders["qwen3"], dropout=0.2)
    model.prepare_training(OptimizerSpec(0.01, 1.0, 0))
    for step in range(1, 4):
        model.train_step(batches, 1e-2, step, N_SEGMENTS)
    after = model.adapter_weights()
    for part in spec.parts:
        assert all(np.abs(value).max() > 1e-3 for name, value in moved(after, before).items() if name.endswith(part))
    anew = backend.load(folders["qwen3"])
    anew.attach_lora(spec, after)
    np.testing.assert_array_equal(model.logits(IDS), anew.logits(IDS))


def test_a_resumed_training_is_bit_identical_on_one_backend_and_close_on_the_other(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    examples, _ = examples_of(folders["qwen2"], tmp_path)
    batches = build_batches(examples, [[0, 1, 2], [3, 4, 5]], shared_prefix(examples))
    ends = []
    for name in BACKENDS:
        through, _, _ = loaded(backend_named(name), folders["qwen2"], dropout=0.1)
        through.prepare_training(OptimizerSpec(0.01, 1.0, 0))
        for step in range(1, 5):
            if step == 3:
                (tmp_path / name).mkdir()
                through.save_state(tmp_path / name)
            through.train_step(batches, 1e-2, step, N_SEGMENTS)
        again, _, _ = loaded(backend_named(name), folders["qwen2"], dropout=0.1)
        again.prepare_training(OptimizerSpec(0.01, 1.0, 0))
        again.load_state(tmp_path / name)
        for step in (3, 4):
            again.train_step(batches, 1e-2, step, N_SEGMENTS)
        assert_equal(again.adapter_weights(), through.adapter_weights())
        plain, _, start = loaded(backend_named(name), folders["qwen2"])  # masks differ between backends
        plain.prepare_training(OptimizerSpec(0.01, 1.0, 0))
        for step in range(1, 5):
            plain.train_step(batches, 1e-3, step, N_SEGMENTS)
        ends.append(moved(plain.adapter_weights(), start))
    assert_close(ends[1], ends[0], 2e-3)


def test_a_quantized_base_trains_as_its_unpacked_weights_do_in_peft(
    packed: Path, backend: Backend, tmp_path: Path
) -> None:
    model, spec, weights = loaded(backend, packed)
    zero = LoraSpec(1, 1.0, 0.0, spec.layers[:1])
    first = initial_weights(zero, model.architecture.linear_layers, 0)
    write_adapter(tmp_path / "zero", Adapter(zero, first, None), 2)
    unpacked = backend.fuse(packed, tmp_path / "zero", tmp_path / "plain", False, "float32").folder
    network, parameters = peft_model(hugging_face_model(unpacked), spec, weights)
    examples, _ = examples_of(packed, tmp_path)
    loss_by_row(network, examples).backward()
    found = gradient_of(model, build_batches(examples, [list(range(7))], shared_prefix(examples)))
    assert_close(found, {name: value.grad.numpy() for name, value in parameters.items()}, 1e-4)


def test_options_and_replies_are_those_of_whole_sequences(folders: dict[str, Path], backend: Backend) -> None:
    model, _, _ = loaded(backend, folders["qwen3"], dropout=0.3)
    options = [[a, b][:length] for a in (7, 9) for b in (12, 13) for length in (1, 2)]
    prompts = [[*IDS, 5, 6, 7], [*IDS, 9, 11, 12, 13, 14], [*IDS, 9]]
    found = model.choose(prompts, options)
    for row, prompt in enumerate(prompts):
        expected = [numpy_log_probability(model, prompt, option) for option in options]
        np.testing.assert_allclose(found[row], expected, atol=1e-4)
    for prompt, reply in zip(prompts, in_order(model.generate(prompts, 8, [], slots=2)), strict=True):
        logits = model.logits([*prompt, *reply.tokens])[len(prompt) - 1 : -1]
        chosen = logits[np.arange(8), list(reply.tokens)]
        assert np.all(logits.max(-1) - chosen < 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_is_the_one_that_peft_merges(
    folders: dict[str, Path], backend: Backend, tmp_path: Path, family: str
) -> None:
    model, spec, weights = loaded(backend, folders[family])
    write_adapter(tmp_path / "adapter", Adapter(spec, weights, None), 2)
    fused = backend.fuse(folders[family], tmp_path / "adapter", tmp_path / "fused", False).folder
    network, _ = peft_model(hugging_face_model(folders[family]), spec, weights)
    layers = [network.get_submodule(layer) for layer in spec.layers]
    for layer in layers:
        layer.merge()
    ours = hugging_face_model(fused)
    for name, layer in zip(spec.layers, layers, strict=True):
        np.testing.assert_allclose(
            ours.get_submodule(name).weight.detach(), layer.get_base_layer().weight.detach(), atol=1e-6
        )
    np.testing.assert_allclose(their_logits(ours), model.logits(IDS), atol=1e-4)


def test_folding_in_memory_is_what_fusing_writes(
    folders: dict[str, Path], packed: Path, backend: Backend, tmp_path: Path
) -> None:
    for folder in (folders["qwen2"], packed):
        model, spec, weights = loaded(backend, folder)
        write_adapter(tmp_path / "adapter", Adapter(spec, weights, None), 2)
        out = tmp_path / folder.name
        requantize = folder is packed
        backend.fuse(folder, tmp_path / "adapter", out, requantize)
        model.fold({name: place.dtype for file in weight_files(out) for name, place in tensor_places(file).items()})
        np.testing.assert_allclose(model.logits(IDS), backend.load(out).logits(IDS), atol=1e-4)


def test_an_adapter_is_read_back_and_mlx_lm_reads_it(folders: dict[str, Path], tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, spec, weights = loaded(backend_named("mlx"), folders["llama"])
    write_adapter(tmp_path / "adapter", Adapter(spec, weights, "base"), 2)
    read = read_adapter(tmp_path / "adapter")
    assert read.spec.kind == "dora" and set(read.spec.layers) == set(spec.layers)
    assert_equal({name: read.weights[name] for name in spec.names}, {name: weights[name] for name in spec.names})
    network, _ = load_model(folders["llama"])
    theirs = load_adapters(network, str(tmp_path / "adapter"))(mx.array([IDS]))[0]
    np.testing.assert_allclose(np.array(theirs), model.logits(IDS), atol=1e-4)
