"""Full fine-tuning on both backends: transformers computes the same loss, gradients and steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import Backend, Model, OptimizerSpec
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.errors import AdapterError, ModelError
from tests.adapted import (
    BACKENDS,
    N_SEGMENTS,
    adapter_of,
    assert_close,
    assert_equal,
    backend_named,
    examples_of,
    gradient_of,
    loss_by_row,
    moved,
)
from tests.adapter_runs import hugging_face_model
from tests.tiny import tiny_model

torch = pytest.importorskip("torch")
IDS = list(range(3, 33))
# Family, and whether its head is the embedding.
BASES = [("qwen2", True), ("qwen3", False), ("llama", True), ("gemma3_text", True), ("qwen3_5_text", True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    root = tmp_path_factory.mktemp("full")
    return {(family, tied): tiny_model(root / family, family, tied=tied) for family, tied in BASES}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def whole(backend: Backend, folder: Path) -> Model:
    model = backend.load(folder)
    model.train_all()
    return model


def by_name(network: Any) -> dict[str, np.ndarray]:
    return {name: value.grad.numpy().copy() for name, value in network.named_parameters()}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(("family", "tied"), BASES)
def test_loss_and_gradient_are_those_of_transformers(
    folders: dict[tuple[str, bool], Path],
    backend: Backend,
    tmp_path: Path,
    family: str,
    tied: bool,
    gradient_checkpointing: bool,
) -> None:
    folder = folders[family, tied]
    examples, _ = examples_of(folder, tmp_path)
    network = hugging_face_model(folder)
    loss = loss_by_row(network, examples)
    loss.backward()
    wanted = by_name(network)
    assert ("lm_head.weight" in wanted) != tied
    prefix = shared_prefix(examples)
    for order in (
        build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], prefix),
        build_batches(examples, [list(range(7))], prefix),
        build_batches(examples, [list(range(4)), [4, 5, 6]], prefix[:0]),
    ):
        model = whole(backend, folder)
        found = gradient_of(model, order, gradient_checkpointing=gradient_checkpointing)
        assert_close(found, wanted, 1e-4)
        for kind in ("embed_tokens", "lm_head", "norm", "q_proj", "down_proj"):
            ours, theirs = ({name: one[name] for name in one if kind in name} for one in (found, wanted))
            if theirs:
                assert_close(ours, theirs, 1e-3)
        model.prepare_training(OptimizerSpec(0.0, None, 0), gradient_checkpointing)
        assert model.train_step(order, 0.0, 1, N_SEGMENTS).loss == pytest.approx(loss.item(), abs=1e-4)


def test_the_heads_gradient_gathers_over_chunks(
    folders: dict[tuple[str, bool], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a few positions at a time, on either backend."""
    from mlxtune.backends.mlx import head as mlx_head
    from mlxtune.backends.torch import head as torch_head

    folder = folders["llama", True]
    examples, _ = examples_of(folder, tmp_path)
    batches = build_batches(examples, [list(range(7))], shared_prefix(examples))
    plain = [gradient_of(whole(backend_named(name), folder), batches) for name in BACKENDS]
    monkeypatch.setattr(torch_head, "POSITIONS_AT_ONCE", 3)
    monkeypatch.setattr(mlx_head, "positions_at_once", lambda vocabulary, n_bytes: 3)
    assert int(batches[0].supervised.sum()) > 9
    for name, wanted in zip(BACKENDS, plain, strict=True):
        assert_close(gradient_of(whole(backend_named(name), folder), batches), wanted, 1e-5)


def test_steps_are_those_of_torchs_own_adamw_which_decays_matrices_alone(
    folders: dict[tuple[str, bool], Path], backend: Backend, tmp_path: Path
) -> None:
    folder = folders["qwen2", True]
    examples, _ = examples_of(folder, tmp_path)
    network = hugging_face_model(folder)
    before = {name: value.detach().numpy().copy() for name, value in network.named_parameters()}
    matrices = [value for value in network.parameters() if value.ndim >= 2]
    vectors = [value for value in network.parameters() if value.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1e-2)
    model = whole(backend, folder)
    model.prepare_training(OptimizerSpec(0.1, 1.0, 0))
    batches = build_batches(examples, [[0, 1, 2], [3, 4]], shared_prefix(examples))
    for step in range(1, 4):
        theirs.zero_grad()
        loss_by_row(network, examples[:5]).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        theirs.step()
        model.train_step(batches, 1e-2, step, N_SEGMENTS)
    after = {name: value.detach().numpy() for name, value in network.named_parameters()}
    assert_close(moved(dict(model.trained_weights()), before), moved(after, before), 2e-3)
    np.testing.assert_allclose(model.logits(IDS), network(torch.tensor([IDS])).logits[0].detach(), atol=2e-3)


def test_a_resumed_training_is_bit_identical_on_one_backend_and_goes_on_on_the_other(
    folders: dict[tuple[str, bool], Path], tmp_path: Path
) -> None:
    folder = folders["llama", True]
    examples, _ = examples_of(folder, tmp_path)
    batches = build_batches(examples, [[0, 1, 2], [3, 4]], shared_prefix(examples))
    spec = OptimizerSpec(0.01, 1.0, 0)
    ends = {}
    for name in BACKENDS:
        through = whole(backend_named(name), folder)
        through.prepare_training(spec)
        for step in range(1, 5):
            if step == 3:
                (tmp_path / name).mkdir()
                through.save_state(tmp_path / name)
            through.train_step(batches, 1e-3, step, N_SEGMENTS)
        ends[name] = dict(through.trained_weights())
    for name in BACKENDS:
        for saved in BACKENDS:
            again = whole(backend_named(name), folder)
            again.prepare_training(spec)
            again.load_state(tmp_path / saved)
            for step in (3, 4):
                again.train_step(batches, 1e-3, step, N_SEGMENTS)
            if name == saved:
                assert_equal(dict(again.trained_weights()), ends[name])
            else:
                assert_close(dict(again.trained_weights()), ends[name], 1e-4)
    lora = backend_named("mlx").load(folder)
    lora.attach_lora(*adapter_of(lora.config))
    lora.prepare_training(spec)
    with pytest.raises(AdapterError, match="other layers than the one being trained"):
        lora.load_state(tmp_path / "mlx")


def test_a_bfloat16_base_is_trained_in_float32(
    folders: dict[tuple[str, bool], Path], backend: Backend, tmp_path: Path
) -> None:
    from mlxtune.backends.base import ConvertSpec

    base = backend.convert(folders["qwen3", False], tmp_path / "bf16", ConvertSpec(dtype="bfloat16")).folder
    examples, _ = examples_of(base, tmp_path)
    batches = build_batches(examples, [[0, 1, 2]], shared_prefix(examples))
    model = backend.load(base, dtype="bfloat16")
    model.train_all()
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    before = {name: value.copy() for name, value in model.trained_weights().items()}
    model.train_step(batches, 1e-6, 1, N_SEGMENTS)  # less than a bfloat16 weight can change by
    changed = moved(dict(model.trained_weights()), before)
    assert all(0 < np.abs(value).max() < 1.1e-6 for name, value in changed.items() if "proj" in name)


def test_weights_of_a_delta_net_take_the_same_steps_in_the_form_of_the_files(
    folders: dict[tuple[str, bool], Path], backend: Backend, tmp_path: Path
) -> None:
    """Convolutions, which MLX holds turned; norms, whose weights lack the 1 that both add; and what is no layer's weight."""
    folder = folders["qwen3_5_text", True]
    examples, _ = examples_of(folder, tmp_path)
    network = hugging_face_model(folder)
    before = {name: value.detach().numpy().copy() for name, value in network.named_parameters()}
    model = whole(backend, folder)
    assert_equal(dict(model.trained_weights()), before)
    model.prepare_training(OptimizerSpec(0.0, None, 0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.0)
    batches = build_batches(examples, [[0, 1, 2], [3, 4]], shared_prefix(examples))
    for step in (1, 2):
        optimizer.zero_grad()
        loss_by_row(network, examples[:5]).backward()
        optimizer.step()
        model.train_step(batches, 1e-2, step, N_SEGMENTS)
    after = {name: value.detach().numpy() for name, value in network.named_parameters()}
    found, wanted = moved(dict(model.trained_weights()), before), moved(after, before)
    for kind in ("conv1d", "A_log", "dt_bias", "linear_attn.norm", "input_layernorm"):
        ours, theirs = ({name: one[name] for name in one if kind in name} for one in (found, wanted))
        assert theirs
        assert_close(ours, theirs, 1e-2)
    (tmp_path / "state").mkdir()
    model.save_state(tmp_path / "state")
    again = whole(backend, folder)
    again.prepare_training(OptimizerSpec(0.0, None, 0))
    again.load_state(tmp_path / "state")
    assert_equal(dict(again.trained_weights()), dict(model.trained_weights()))


def test_a_model_with_experts_is_refused(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lora\.type: full .* another layout in memory"):
        backend.load(tiny_model(tmp_path / "experts", "qwen3_moe")).train_all()


def test_a_quantized_base_is_refused(backend: Backend, tmp_path: Path) -> None:
    packed = tiny_model(tmp_path / "packed", "qwen2", quantization={"bits": 4, "group_size": 32})
    with pytest.raises(ModelError, match=r"lora\.type: full .* the model is quantized"):
        backend.load(packed).train_all()
