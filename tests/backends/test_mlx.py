"""What is MLX's own: mlx-lm's logits, the compiled step, MLX's random numbers, blocks that are run again, their memory."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import UNSUPERVISED, Batch, ChosenBackend, OptimizerSpec, in_order
from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.backends.shapes import BUCKETED
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.errors import OutOfMemory
from mlxtune.recipe.load import load_recipe
from mlxtune.training.plan import plan
from mlxtune.training.tune import tune
from tests.adapted import N_SEGMENTS, Values, assert_close, assert_equal, examples_of, loaded, moved
from tests.conftest import write_recipe
from tests.tiny import tiny_model


def test_our_adapter_gives_the_same_logits_in_mlx_lm(any_base: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import mlx_lm

    if any_base.name == "qwen3_5_text":
        pytest.skip("mlx-lm has no class under the name of the text part of Qwen3.5")
    model, spec = loaded(MlxBackend(), any_base)
    write_adapter(tmp_path / "adapter", Adapter(spec, model.adapter_weights(), str(any_base)), 2)
    theirs, _ = mlx_lm.load(str(any_base), adapter_path=str(tmp_path / "adapter"))
    theirs.eval()
    tokens = list(range(5, 25))
    wanted = np.array(theirs(mx.array(tokens)[None])[0].astype(mx.float32))
    base_logits = MlxBackend().load(any_base).logits(tokens)
    got = MlxBackend().load(any_base, tmp_path / "adapter").logits(tokens)
    assert np.abs(got - base_logits).max() > 1e-2
    np.testing.assert_allclose(got, wanted, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles CPU kernels with a C++ compiler")
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("order", [[[0, 1, 2, 3]], [[0, 1], [2, 3]]])
def test_a_compiled_step_equals_the_plain_one(
    base: Path, tmp_path: Path, dropout: float, gradient_checkpointing: bool, order: list[list[int]]
) -> None:
    from mlxtune.backends.mlx.model import MlxModel

    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, order, shared_prefix(examples))

    def final(compiled: bool) -> Values:
        plain, spec = loaded(MlxBackend(), base, dropout)
        model = MlxModel(MlxBackend().load(base)._network, plain.config, compiled=compiled)  # type: ignore[attr-defined]
        model._padding = BUCKETED  # dropout's masks are drawn for a shape
        model.attach_lora(spec, plain.adapter_weights())
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0), compiled and gradient_checkpointing)
        before = model.adapter_weights()
        for step in (1, 2, 3):
            model.train_step(batch_list, 1e-2, step, N_SEGMENTS)
        return moved(model.adapter_weights(), before)

    assert_close(final(True), final(False), 1e-4)


def test_the_head_multiplies_in_float32_whatever_the_weights_are(base: Path, tmp_path: Path) -> None:
    """Its scores are those of float64 logits of the same hidden states."""
    import mlx.core as mx

    from mlxtune.backends.mlx.model import _Inputs

    examples, _ = examples_of(base, tmp_path)
    (batch,) = build_batches(examples, [[0, 1, 2]], shared_prefix(examples))
    model: Any = MlxBackend().load(base, dtype="bfloat16")
    scores = model.score(batch).nats[batch.supervised]
    prefix, tokens, positions, targets, _ = _Inputs(batch).arrays
    hidden = model._hidden(prefix, tokens)
    rows = np.array(hidden.reshape(-1, hidden.shape[-1])[positions].astype(mx.float32), np.float64)
    weight = np.array(model._network.model.embed_tokens.weight.astype(mx.float32), np.float64)
    logits = rows @ weight.T
    wanted = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(rows)), np.array(targets)]
    np.testing.assert_allclose(scores, wanted[: len(scores)], atol=1e-4)


def test_neither_training_nor_sampling_draws_from_mlxs_global_state(base: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))

    def drawn(seed: int) -> tuple[float, Any, float]:
        model, _ = loaded(MlxBackend(), base, 0.3)
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
        mx.random.seed(seed)
        loss = model.train_step(batch_list, 0.0, 1, N_SEGMENTS).loss
        replies = in_order(model.generate([[3, 4, 5]] * 8, 4, [447], temperature=1.5, seed=1))
        return loss, replies, mx.random.uniform().item()

    mx.random.seed(6)
    untouched = mx.random.uniform().item()
    assert drawn(6) == (*drawn(5)[:2], untouched)


def random_batch(rows: int, width: int) -> Batch:
    """Random rows, the last eight tokens of each supervised."""
    tokens = np.random.default_rng(0).integers(3, 400, (rows, width)).astype(np.int32)
    segments = np.full(tokens.shape, UNSUPERVISED, np.int16)
    segments[:, -8:] = 0
    weights = (segments == 0).astype(np.float32)
    return Batch(np.zeros(0, np.int32), tokens, np.full(rows, width, np.int32), weights, segments, tuple(range(rows)))


@pytest.fixture
def count_block_calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often blocks of Qwen3 were run since it was last asked."""
    from mlx_lm.models.qwen3 import TransformerBlock

    plain, calls = TransformerBlock.__call__, [0]

    def counted(self: Any, *args: Any) -> Any:
        calls[0] += 1
        return plain(self, *args)

    def since() -> int:
        found, calls[0] = calls[0], 0
        return found

    monkeypatch.setattr(TransformerBlock, "__call__", counted)
    return since


def test_checkpointed_blocks_are_run_again_until_it_is_undone(
    base: Path, tmp_path: Path, count_block_calls: Callable[[], int]
) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1]], shared_prefix(examples))
    model: Any = loaded(MlxBackend(), base)[0]
    other: Any = loaded(MlxBackend(), base)[0]
    names = [name for name, _ in model._network.named_modules()]
    own = type(model._network.layers[0])
    forward = 2 * 2  # blocks, each for the prefix and for the rows
    for checkpointing, calls in ((False, forward), (True, 2 * forward), (True, 2 * forward), (False, forward)):
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0), checkpointing)
        count_block_calls()
        model.train_step(batch_list, 1e-2, 1, N_SEGMENTS)
        assert count_block_calls() == calls
        model.score(batch_list[0])
        assert count_block_calls() == forward
        assert [name for name, _ in model._network.named_modules()] == names
        assert type(other._network.layers[0]) is own
    assert type(model._network.layers[0]) is own


@pytest.mark.parametrize("passes", [2, 4])
def test_a_prefix_runs_forward_twice_a_step_however_many_passes_there_are(
    base: Path, tmp_path: Path, count_block_calls: Callable[[], int], passes: int
) -> None:
    examples, _ = examples_of(base, tmp_path)
    model: Any = loaded(MlxBackend(), base)[0]
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    count_block_calls()
    model.train_step(
        build_batches(examples, [[row] for row in range(passes)], shared_prefix(examples)), 1e-2, 1, N_SEGMENTS
    )
    assert count_block_calls() == (2 + passes) * 2  # blocks


def test_no_passs_activations_outlive_it(tmp_path: Path) -> None:
    import mlx.core as mx

    folder = tiny_model(tmp_path / "base", "qwen3", layers=8)
    one = random_batch(rows=1, width=256)
    backend = MlxBackend()

    def peak(n_passes: int) -> int:
        model, _ = loaded(backend, folder, 0.1)
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
        gc.collect()
        held = mx.get_active_memory()
        backend.peak_memory_bytes(reset=True)
        model.train_step([replace(one, prefix=np.arange(3, 20, dtype=np.int32))] * n_passes, 0.0, 1, N_SEGMENTS)
        return backend.peak_memory_bytes() - int(held)

    assert peak(8) < 1.15 * peak(2)


def test_a_recipe_that_asks_for_checkpointing_has_blocks_run_again(
    base: Path, tmp_path: Path, count_block_calls: Callable[[], int]
) -> None:
    def calls(checkpointing: bool) -> int:
        train = {"gradient_checkpointing": checkpointing, "batch_size": 1, "gradient_accumulation": 1}  # a pass a step
        file = write_recipe(tmp_path, base, train=train)
        recipe = load_recipe(file, ["data.valid=null"])
        in_steps = 0

        def watch(event: Mapping[str, Any]) -> None:
            nonlocal in_steps
            found = count_block_calls()
            in_steps += found if event["event"] == "step" else 0

        tune(recipe, ChosenBackend(MlxBackend(), "asked for"), tmp_path / f"run-{checkpointing}", on_event=watch)
        return in_steps

    assert calls(True) == 2 * calls(False) > 0


@pytest.mark.parametrize("passes", [1, 2])
def test_checkpointing_takes_less_memory(tmp_path: Path, passes: int) -> None:
    import mlx.core as mx

    folder = tiny_model(tmp_path / "base", "qwen3", layers=8)
    batch = replace(random_batch(rows=1, width=512), prefix=np.arange(3, 20, dtype=np.int32))

    def peak(checkpointing: bool) -> int:
        backend = MlxBackend()
        model, _ = loaded(backend, folder, 0.1)
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0), checkpointing)
        gc.collect()
        held = mx.get_active_memory()
        backend.peak_memory_bytes(reset=True)
        model.train_step([batch] * passes, 0.0, 1, N_SEGMENTS)
        return backend.peak_memory_bytes() - int(held)

    assert peak(True) < 0.5 * peak(False)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("system", ["Name it.", "Name the intents. " * 40])
def test_the_plans_memory_is_what_training_takes(tmp_path: Path, gradient_checkpointing: bool, system: str) -> None:
    import mlx.core as mx

    backend = MlxBackend()
    if backend.device().kind != "cpu":
        pytest.skip("the plan's counts were measured on a CPU")
    folder = tiny_model(tmp_path / "base", "qwen3", hidden=128, layers=8)
    train = {"batch_size": 7, "gradient_checkpointing": gradient_checkpointing}
    recipe = load_recipe(write_recipe(tmp_path, folder, prompt={"system": system}, train=train))
    planned = plan(recipe, backend)
    gc.collect()  # what other tests left
    before = int(mx.get_active_memory())
    tuned = tune(recipe, ChosenBackend(backend, "asked for"), tmp_path / "run")
    taken = tuned.info["peak_memory_gb"] - before / 1e9
    assert planned.total_memory_bytes / 1e9 == pytest.approx(taken, rel=0.25)


def test_each_layers_dropout_draws_apart_and_again_the_same() -> None:
    import mlx.core as mx

    from mlxtune.backends.mlx.dropout import DropoutKeys, KeyedDropout

    keys = DropoutKeys()
    layers = [KeyedDropout(0.25, keys, place) for place in range(2)]
    ones = mx.ones((64, 64))

    def drawn(seed: int) -> list[Any]:
        with keys.used(mx.random.split(mx.random.key(seed), 2)):
            return [np.array(layer(ones)) for layer in layers]

    first, again, other = drawn(0), drawn(0), drawn(1)
    for layer in range(2):
        assert set(np.unique(first[layer])) == {np.float32(0), np.float32(1 / 0.75)}
        assert np.mean(first[layer] == 0) == pytest.approx(0.25, abs=0.03)
        assert np.array_equal(first[layer], again[layer]) and not np.array_equal(first[layer], other[layer])
    assert not np.array_equal(first[0], first[1])
    with pytest.raises(RuntimeError, match="keys"):
        layers[0](ones)
    layers[0].eval()
    assert np.array_equal(layers[0](ones), ones)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[metal::malloc] Attempting to allocate 9 bytes which is greater than the maximum allowed buffer size"
        ),
        RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_says_what_to_lower_and_changes_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model, _ = loaded(MlxBackend(), base)
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    model.prepare_training(OptimizerSpec(0.0, None, 0))
    before = model.adapter_weights()

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(model, "_step_gradient", fail)
    with pytest.raises(
        OutOfMemory, match=r"step 7 \(a batch of 2 rows of up to \d+ tokens\); lower train\.tokens_per_pass"
    ):
        model.train_step(batch_list, 1e-2, 7, N_SEGMENTS)
    assert_equal(model.adapter_weights(), before)
