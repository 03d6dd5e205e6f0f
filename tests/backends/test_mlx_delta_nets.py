"""Qwen3.5 on MLX: states go through prefixes, padding, parts of prompts and checkpoints; mlx-lm reads and computes the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import ConvertSpec, OptimizerSpec, in_order
from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.backends.shapes import BUCKETED
from mlxtune.backends.supervision import padded_batch
from mlxtune.data.batches import build_batches, shared_prefix
from tests.adapted import (
    N_SEGMENTS,
    adapter_on,
    assert_close,
    assert_equal,
    examples_of,
    gradient_of,
    numpy_log_probability,
)
from tests.tiny import tiny_model

IDS = list(range(3, 33))
PROMPTS = [[*IDS, 5, 6, 7], [*IDS, 9, 11, 12, 13, 14, 15, 16, 17], [*IDS, 9], [4, 5, 6]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four blocks: delta net, attention, delta net, attention."""
    return tiny_model(tmp_path_factory.mktemp("qwen3_5") / "base", "qwen3_5_text", layers=4)


def adapted(folder: Path, dropout: float = 0.0) -> Any:
    model = MlxBackend().load(folder)
    model.attach_lora(*adapter_on(model.architecture, dropout, rank=2))
    return model


def mlx_lms_logits(folder: Path, tokens: list[int]) -> Any:
    """Logits of mlx-lm's own network, which has no name for the text part alone and reads it as the whole family."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    network, _ = load_model(folder, model_config={"model_type": "qwen3_5"})
    return np.array(network(mx.array(tokens)[None])[0].astype(mx.float32))


@pytest.mark.parametrize("bits", [None, 4])
def test_mlx_lm_computes_the_same_from_what_is_converted(folder: Path, tmp_path: Path, bits: int | None) -> None:
    written = MlxBackend().convert(folder, tmp_path / "out", ConvertSpec(bits, 32)).folder
    found = MlxBackend().load(written).logits(IDS)
    np.testing.assert_allclose(found, mlx_lms_logits(written, IDS), atol=1e-3)
    assert (np.abs(found - MlxBackend().load(folder).logits(IDS)).max() > 1e-2) == (bits is not None)


def test_a_folder_in_mlx_lms_own_form_is_read(folder: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    network, _ = load_model(folder, model_config={"model_type": "qwen3_5"})
    own = dict(mx.load(str(folder / "model.safetensors")))
    shutil.copytree(folder, tmp_path / "theirs")
    weights = {name.removeprefix("language_model."): value for name, value in network_weights(network).items()}
    assert weights["model.norm.weight"].tolist() != own["model.norm.weight"].tolist()
    mx.save_safetensors(str(tmp_path / "theirs" / "model.safetensors"), weights, {"format": "mlx"})
    found, wanted = (MlxBackend().load(base).logits(IDS) for base in (tmp_path / "theirs", folder))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def network_weights(network: Any) -> dict[str, Any]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(network.parameters()))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_a_prefix_shared_by_several_passes_has_the_gradient_of_rows_that_share_nothing(
    folder: Path, tmp_path: Path, gradient_checkpointing: bool
) -> None:
    examples, _ = examples_of(folder, tmp_path)
    prefix, model = shared_prefix(examples), adapted(folder)
    assert len(prefix) > 3  # the kernel of the convolution
    wanted = gradient_of(model, build_batches(examples, [[row] for row in range(7)], prefix[:0]))
    for shared in (prefix, prefix[:2], prefix[:1]):
        order = build_batches(examples, [[0, 1, 2], [3, 4], [5, 6]], shared)
        found = gradient_of(model, order, gradient_checkpointing=gradient_checkpointing)
        assert_close(found, wanted, 1e-4)


def test_blocks_that_are_run_again_draw_the_dropout_that_they_drew(folder: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(folder, tmp_path)
    order = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))
    model = adapted(folder, dropout=0.3)
    plain = gradient_of(model, order)
    assert_close(gradient_of(model, order, gradient_checkpointing=True), plain, 1e-5)
    with pytest.raises(AssertionError):
        assert_close(gradient_of(model, order, step=2), plain, 1e-2)


def test_padding_to_buckets_changes_no_gradient(folder: Path, tmp_path: Path) -> None:
    """As compiled steps are padded: to more tokens a row, and with rows of padding alone."""
    examples, _ = examples_of(folder, tmp_path)
    examples += examples[:2]
    order = build_batches(examples, [list(range(9))], shared_prefix(examples))
    model = adapted(folder)
    wanted = gradient_of(model, order)
    model._padding = BUCKETED
    assert padded_batch(order[0], BUCKETED).tokens.size > order[0].tokens.size
    assert len(padded_batch(order[0], BUCKETED).tokens) > 9
    assert_close(gradient_of(model, order), wanted, 1e-5)


def test_a_resumed_step_is_bit_identical(folder: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(folder, tmp_path)
    order = build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples))
    (tmp_path / "state").mkdir()
    through, resumed = adapted(folder, dropout=0.3), adapted(folder, dropout=0.3)
    for model in (through, resumed):
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    for step in (1, 2):
        if step == 2:
            through.save_state(tmp_path / "state")
            resumed.load_state(tmp_path / "state")
            resumed.train_step(order, 1e-3, step, N_SEGMENTS)
        through.train_step(order, 1e-3, step, N_SEGMENTS)
    assert_equal(resumed.adapter_weights(), through.adapter_weights())


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_prompts_in_parts_and_rows_that_come_and_go_change_no_reply(
    folder: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """A row's state is that of its last own token, whatever stands behind it in a pass."""
    monkeypatch.setattr("mlxtune.backends.mlx.session.TOKENS_AT_ONCE", 4)
    model = adapted(folder)
    alone = [in_order(model.generate([prompt], 9, []))[0].tokens for prompt in PROMPTS]
    for prompts in (PROMPTS, PROMPTS[:3]):
        found = in_order(model.generate(prompts, 9, [], slots=slots))
        assert [reply.tokens for reply in found] == alone[: len(prompts)]
    for prompt, reply in zip(PROMPTS, alone, strict=True):
        logits = model.logits([*prompt, *reply])[len(prompt) - 1 : -1]
        assert np.all(logits.max(-1) - logits[np.arange(9), list(reply)] < 1e-4)


@pytest.mark.parametrize("nodes", [512, 4])
@pytest.mark.parametrize("n_prompts", [1, 4])
def test_options_branch_from_their_prompts_states(
    folder: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, n_prompts: int
) -> None:
    from mlxtune.backends.mlx import model as model_file
    from mlxtune.backends.option_tree import option_trees

    monkeypatch.setattr(model_file, "option_trees", lambda options: option_trees(options, nodes))
    model, prompts = adapted(folder), PROMPTS[:n_prompts]
    options = [[a, b, 3, 4, 5, 6][:length] for a in (7, 9) for b in (12, 13) for length in (1, 2, 6)]
    found = model.choose(prompts, options)
    wanted = [[numpy_log_probability(model, prompt, option) for option in options] for prompt in prompts]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_metals_kernel_would_be_given_what_the_rule_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Metal here; mlx-lm's loop takes the kernel's arguments and computes the same."""
    from mlx_lm.models.gated_delta import gated_delta_ops

    from mlxtune.backends.mlx import delta_net

    model = adapted(folder)
    wanted = in_order(model.generate(PROMPTS, 6, []))
    calls = []

    def kernel(*args: Any) -> Any:
        calls.append(args)
        return gated_delta_ops(*args)

    monkeypatch.setattr(delta_net, "_has_kernel", lambda key_dim: True)
    monkeypatch.setattr(delta_net, "gated_delta_kernel", kernel)
    assert in_order(model.generate(PROMPTS, 6, [])) == wanted
    assert len(calls) >= 2 * 5  # a delta net a token


def test_mlx_lms_class_and_layers_stay_as_they_are(folder: Path) -> None:
    from mlx_lm.models.qwen3_5 import GatedDeltaNet

    call = GatedDeltaNet.__call__
    network = MlxBackend().load(folder)._network  # type: ignore[attr-defined]
    assert GatedDeltaNet.__call__ is call
    nets = [block.linear_attn for block in network.layers if "linear_attn" in block]
    assert nets and not any(isinstance(net, GatedDeltaNet) for net in nets)
