"""A model's arithmetic on each backend, against NumPy and the plain computation; all through the seam."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.adapter import Adapter, initial_weights, read_adapter, write_adapter
from mlxtune.backends.base import UNSUPERVISED, Backend, Batch, Generation, LoraSpec, OptimizerSpec, in_order
from mlxtune.backends.option_tree import NODES_AT_ONCE, option_trees, row_groups
from mlxtune.backends.state import ADAPTER_FILE, OPTIMIZER_FILE
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import AdapterError, DataError
from mlxtune.models.tokenizer import load_tokenizer
from tests.adapted import (
    BACKENDS,
    N_SEGMENTS,
    Values,
    adapted,
    assert_close,
    assert_equal,
    backend_named,
    examples_of,
    gradient_of,
    loaded,
    moved,
    norm_of,
    numpy_correct,
    numpy_log_probability,
    numpy_nats,
)
from tests.architectures import linear_layers, lora_layers
from tests.tiny import tiny_model

VOCABULARY = 448  # of the tiny Qwen3
NO_PREFIX = np.zeros(0, np.int32)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


@pytest.fixture(scope="module")
def quantized_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "base"
    return tiny_model(folder, "qwen3", quantization={"bits": 4, "group_size": 32})


# The loss and its gradient


def test_scores_equal_numpy_over_whole_logits(backend: Backend, any_base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, any_base)
    examples, _ = examples_of(any_base, tmp_path)
    prefix = shared_prefix(examples)
    assert len(prefix) > 5
    (batch,) = build_batches(examples, [list(range(len(examples)))], prefix)
    scores = model.score(batch)
    assert not scores.nats[~batch.supervised].any()
    for b, example in enumerate(examples):
        wanted = numpy_nats(model, example.prompt.tolist(), example.reply.tolist())
        np.testing.assert_allclose(scores.nats[b][batch.supervised[b]], wanted, atol=1e-4)


def test_a_token_is_correct_where_no_logit_of_its_position_is_larger(
    backend: Backend, any_base: Path, tmp_path: Path
) -> None:
    model, _ = loaded(backend, any_base)
    examples, _ = examples_of(any_base, tmp_path)
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    for step in range(1, 9):  # so far that it is right about some tokens and wrong about others
        model.train_step(build_batches(examples, [[0, 1, 2]], NO_PREFIX), 1e-2, step, N_SEGMENTS)
    for prefix in (shared_prefix(examples), NO_PREFIX):
        (batch,) = build_batches(examples, [list(range(len(examples)))], prefix)
        correct = model.score(batch).correct
        assert correct.dtype == np.bool_ and not correct[~batch.supervised].any()
        wanted = [numpy_correct(model, example.prompt.tolist(), example.reply.tolist()) for example in examples]
        assert 3 < sum(one.sum() for one in wanted) < sum(map(len, wanted)) - 3
        for b, own in enumerate(wanted):
            assert np.array_equal(correct[b][batch.supervised[b]], own)


def test_the_shared_prefix_leaves_the_gradient_as_it_is(backend: Backend, any_base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, any_base)
    examples, _ = examples_of(any_base, tmp_path)
    order = [[0, 1, 2], [3, 4, 5, 6]]
    shared = gradient_of(model, build_batches(examples, order, shared_prefix(examples)))
    plain = gradient_of(model, build_batches(examples, order, NO_PREFIX))
    assert_close(shared, plain, 1e-5)


def test_accumulation_equals_the_whole_batch(backend: Backend, base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, base)
    examples, _ = examples_of(base, tmp_path)
    prefix = shared_prefix(examples)
    whole = gradient_of(model, build_batches(examples, [list(range(7))], prefix))
    parts = gradient_of(model, build_batches(examples, [[3], [0, 1, 2, 4], [5, 6]], prefix))
    assert_close(parts, whole, 1e-5)


ORDERS = {
    "one pass": [[3, 1, 0, 5, 2, 4, 6]],
    "few": [[3], [0, 1, 2, 4], [5, 6]],
    "one row each": [[row] for row in range(7)],
}


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("quantized", [False, True])
def test_passes_leave_loss_and_gradient_as_the_plain_computation_has_them(
    backend: Backend,
    base: Path,
    quantized_base: Path,
    tmp_path: Path,
    quantized: bool,
    order: str,
    gradient_checkpointing: bool,
) -> None:
    """Plain is each row by itself, its own prompt whole."""
    folder = quantized_base if quantized else base
    model, _ = loaded(backend, folder)
    examples, _ = examples_of(folder, tmp_path)
    plain = build_batches(examples, ORDERS["one row each"], NO_PREFIX)
    passes = build_batches(examples, ORDERS[order], shared_prefix(examples))
    wanted = gradient_of(model, plain)
    loss = model.train_step(plain, 0.0, 1, N_SEGMENTS).loss
    got = gradient_of(model, passes, gradient_checkpointing=gradient_checkpointing)
    assert_close(got, wanted, 1e-5)
    assert model.train_step(passes, 0.0, 1, N_SEGMENTS).loss == pytest.approx(loss, abs=1e-6)


def test_passes_of_different_prefixes_may_stand_in_one_step(backend: Backend, base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, base)
    examples, _ = examples_of(base, tmp_path)
    shared = shared_prefix(examples)
    mixed = [
        *build_batches(examples, [[0, 1], [2]], shared),
        *build_batches(examples, [[3]], NO_PREFIX),
        *build_batches(examples, [[4], [5]], shared[:7]),
        *build_batches(examples, [[6]], shared),
    ]
    plain = build_batches(examples, [list(range(7))], NO_PREFIX)
    assert_close(gradient_of(model, mixed), gradient_of(model, plain), 1e-5)


def test_the_loss_is_weighted_by_token_over_the_whole_step(backend: Backend, base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, base)
    fields = {"intents": {"kind": "labels", "labels": ["user_auth", "order_management", "payment", "none"],
                          "exclusive": "none", "class_weights": {"payment": 3.0}, "loss_weight": 0.5}}  # fmt: skip
    examples, _ = examples_of(base, tmp_path, output={"template": "{intents}", "fields": fields})
    assert {0.5, 1.0, 1.5} == {round(float(weight), 3) for example in examples for weight in example.weights}
    nats = [numpy_nats(model, example.prompt.tolist(), example.reply.tolist()) for example in examples]
    wanted = sum(float(own @ example.weights) for own, example in zip(nats, examples, strict=True))
    weight = sum(float(example.weights.sum()) for example in examples)
    model.prepare_training(OptimizerSpec(0.0, None, 0))
    result = model.train_step(
        build_batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples)), 0.0, 1, N_SEGMENTS
    )
    assert result.total_weight == pytest.approx(weight)
    assert result.loss == pytest.approx(wanted / weight, abs=1e-5)
    assert result.segment_tokens.sum() == sum(len(example.reply) for example in examples)
    assert result.segment_nats.sum() == pytest.approx(sum(own.sum() for own in nats), rel=1e-5)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_gradient_is_that_of_the_loss(
    backend: Backend, base: Path, tmp_path: Path, dropout: float, gradient_checkpointing: bool
) -> None:
    """Along its own direction the loss of the same step, with the same dropout, rises by its norm."""
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1, 2], [3, 4]], shared_prefix(examples))
    model, spec = loaded(backend, base, dropout)
    at = model.adapter_weights()
    gradient = gradient_of(model, batch_list, step=3, gradient_checkpointing=gradient_checkpointing)
    norm = norm_of(gradient)

    def loss(distance: float) -> float:
        there = {name: at[name] + distance * gradient[name] / norm for name in at}
        model = adapted(backend, base, spec, there)
        model.prepare_training(OptimizerSpec(0.0, None, 0))
        return model.train_step(batch_list, 0.0, 3, N_SEGMENTS).loss

    distance = 3e-3
    assert (loss(distance) - loss(-distance)) / (2 * distance) == pytest.approx(norm, rel=1e-2)


def test_steps_equal_adamw_and_clipping_written_out_in_numpy(backend: Backend, base: Path, tmp_path: Path) -> None:
    model, lora = loaded(backend, base)
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [list(range(7))], shared_prefix(examples))
    before = model.adapter_weights()
    spec = OptimizerSpec(weight_decay=0.1, max_grad_norm=0.05, seed=0)
    assert spec.max_grad_norm is not None
    rates = [1e-2, 5e-3]
    first = {name: np.zeros_like(value, np.float64) for name, value in before.items()}
    second = {name: np.zeros_like(value, np.float64) for name, value in before.items()}
    wanted = {name: value.astype(np.float64) for name, value in before.items()}
    for step, rate in enumerate(rates, 1):
        gradient = gradient_of(adapted(backend, base, lora, wanted), batch_list)
        norm = norm_of(gradient)
        assert norm > spec.max_grad_norm
        for name in wanted:
            g = gradient[name] * (spec.max_grad_norm / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            wanted[name] = wanted[name] * (1 - rate * spec.weight_decay) - rate * m / (np.sqrt(v) + 1e-8)
    model.prepare_training(spec)
    for step, rate in enumerate(rates, 1):
        result = model.train_step(batch_list, rate, step, N_SEGMENTS)
    assert result.grad_norm == pytest.approx(norm, rel=1e-2)  # before clipping
    assert_close(moved(model.adapter_weights(), before), moved(wanted, before), 2e-3)


def test_the_head_computes_in_float32_whatever_the_weights_are(backend: Backend, base: Path) -> None:
    """Tokens are told apart that bfloat16 logits would round together: 448 of them, at one position."""
    model = backend.load(base, dtype="bfloat16")
    tokens = np.array([[9, token] for token in range(VOCABULARY)], np.int32)
    segments = np.full(tokens.shape, UNSUPERVISED, np.int16)
    segments[:, 1] = 0
    weights = (segments == 0).astype(np.float32)
    lengths = np.full(VOCABULARY, 2, np.int32)
    prefix = np.array([3, 4, 5], np.int32)
    scores = model.score(Batch(prefix, tokens, lengths, weights, segments, tuple(range(VOCABULARY)))).nats[:, 1]
    chosen = model.choose([[3, 4, 5, 9]], [[token] for token in range(VOCABULARY)])[0]
    for nats in (scores, -chosen):
        assert nats.dtype == np.float32
        assert len(np.unique(nats)) > 0.98 * VOCABULARY
        assert np.exp(-nats.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)


# Dropout and what else is random


def test_dropout_is_a_function_of_seed_and_step(backend: Backend, base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))

    def losses(seed: int, steps: list[int]) -> list[float]:
        model, _ = loaded(backend, base, dropout=0.3)
        model.prepare_training(OptimizerSpec(0.0, 1.0, seed))
        return [model.train_step(batch_list, 0.0, step, N_SEGMENTS).loss for step in steps]

    assert losses(0, [1, 2]) == losses(0, [1, 2])
    assert losses(0, [2])[0] == losses(0, [1, 2])[1]
    assert losses(0, [1]) != losses(0, [2])
    assert losses(0, [1]) != losses(1, [1])


def test_each_pass_has_dropout_of_its_own(backend: Backend, base: Path, tmp_path: Path) -> None:
    """The same rows twice in a step: with one mask for both, the gradient would be that of having them once."""
    examples, _ = examples_of(base, tmp_path)
    prefix = shared_prefix(examples)
    model, _ = loaded(backend, base, dropout=0.3)
    twice = gradient_of(model, build_batches(examples, [[0, 1], [0, 1]], prefix))
    once = gradient_of(model, build_batches(examples, [[0, 1]], prefix))
    assert norm_of(moved(twice, once)) > 0.05 * norm_of(once)


def test_scoring_leaves_training_randomness_alone(backend: Backend, base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))

    def final(score_between: bool) -> Values:
        model, _ = loaded(backend, base, dropout=0.3)
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
        for step in (1, 2):
            model.train_step(batch_list, 1e-2, step, N_SEGMENTS)
            if score_between:
                model.score(batch_list[0])
                in_order(model.generate([[3, 4]], 2, [447], temperature=1.0, seed=step))
        return model.adapter_weights()

    assert_equal(final(True), final(False))


def test_dropout_is_off_but_in_training(backend: Backend, base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    plain, _ = loaded(backend, base)
    model, _ = loaded(backend, base, dropout=0.5)
    model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    model.train_step(batch_list, 0.0, 1, N_SEGMENTS)
    for wanted, got in [
        (plain.logits([3, 4, 5]), model.logits([3, 4, 5])),
        (plain.score(batch_list[0]).nats, model.score(batch_list[0]).nats),
        (plain.choose([[3, 4]], [[5], [6]]), model.choose([[3, 4]], [[5], [6]])),
    ]:
        np.testing.assert_allclose(got, wanted, atol=1e-6)


# Gradient checkpointing


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shares_prefix", [True, False])
def test_checkpointing_leaves_the_gradient_as_it_is(
    backend: Backend, any_base: Path, tmp_path: Path, shares_prefix: bool, dropout: float
) -> None:
    examples, _ = examples_of(any_base, tmp_path)
    batch_list = build_batches(examples, [[0, 1, 2], [3, 4]], shared_prefix(examples) if shares_prefix else NO_PREFIX)
    model, _ = loaded(backend, any_base, dropout)
    plain = gradient_of(model, batch_list)
    assert_close(gradient_of(model, batch_list, gradient_checkpointing=True), plain, 1e-6)
    assert_close(gradient_of(model, batch_list), plain, 1e-6)  # undone


def test_checkpointing_leaves_the_gradient_of_a_quantized_base_as_it_is(
    backend: Backend, quantized_base: Path, tmp_path: Path
) -> None:
    examples, _ = examples_of(quantized_base, tmp_path)
    batch_list = build_batches(examples, [[0, 1, 2], [3, 4]], shared_prefix(examples))
    model, _ = loaded(backend, quantized_base, 0.3)
    plain = gradient_of(model, batch_list)
    assert_close(gradient_of(model, batch_list, gradient_checkpointing=True), plain, 1e-6)


def test_checkpointing_changes_no_name_and_nothing_but_training(backend: Backend, base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    plain, _ = loaded(backend, base)
    model, _ = loaded(backend, base)
    for one, checkpointing in ((plain, False), (model, True)):
        one.prepare_training(OptimizerSpec(0.01, 1.0, 0), checkpointing)
        for step in (1, 2, 3):
            one.train_step(batch_list, 1e-2, step, N_SEGMENTS)
    assert_close(model.adapter_weights(), plain.adapter_weights(), 1e-5)
    prompts = [[3, 4, 5, 6], [3, 4, 9]]
    assert in_order(model.generate(prompts, 4, [447])) == in_order(plain.generate(prompts, 4, [447]))
    np.testing.assert_allclose(model.choose(prompts, OPTIONS), plain.choose(prompts, OPTIONS), atol=1e-4)
    np.testing.assert_allclose(model.score(batch_list[0]).nats, plain.score(batch_list[0]).nats, atol=1e-4)
    model.save_state(tmp_path)
    again, _ = loaded(backend, base, seed=9)
    again.prepare_training(OptimizerSpec(0.01, 1.0, 0))
    again.load_state(tmp_path)
    assert_equal(again.adapter_weights(), model.adapter_weights())


# State


def test_a_saved_state_continues_bit_for_bit(backend: Backend, any_base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(any_base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    spec = OptimizerSpec(0.01, 1.0, 0)
    through, _ = loaded(backend, any_base, dropout=0.2)
    through.prepare_training(spec)
    for step in (1, 2):
        through.train_step(batch_list, 1e-2, step, N_SEGMENTS)
    through.save_state(tmp_path)
    through.train_step(batch_list, 1e-2, 3, N_SEGMENTS)
    again, _ = loaded(backend, any_base, dropout=0.2, seed=9)
    again.prepare_training(spec)
    again.load_state(tmp_path)
    again.train_step(batch_list, 1e-2, 3, N_SEGMENTS)
    assert_equal(again.adapter_weights(), through.adapter_weights())


@pytest.mark.parametrize(("first", "second"), [BACKENDS, BACKENDS[::-1]])
def test_a_training_begun_on_one_backend_continues_on_the_other(
    base: Path, tmp_path: Path, first: str, second: str
) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    spec = OptimizerSpec(0.01, 1.0, 0)
    through, _ = loaded(backend_named(first), base)
    before = through.adapter_weights()
    through.prepare_training(spec)
    for step in (1, 2):
        through.train_step(batch_list, 1e-2, step, N_SEGMENTS)
    through.save_state(tmp_path)
    at_two = through.adapter_weights()
    other, _ = loaded(backend_named(second), base, seed=9)
    other.prepare_training(spec)
    other.load_state(tmp_path)
    assert_equal(other.adapter_weights(), at_two)
    for model in (through, other):
        model.train_step(batch_list, 1e-2, 3, N_SEGMENTS)
    wanted = through.adapter_weights()
    assert norm_of(moved(wanted, at_two)) > 0.05 * norm_of(moved(wanted, before))
    assert_close(moved(other.adapter_weights(), before), moved(wanted, before), 1e-5)


def test_a_state_that_is_damaged_or_of_another_adapter_is_refused(backend: Backend, base: Path, tmp_path: Path) -> None:
    spec = OptimizerSpec(0.0, 1.0, 0)

    def prepared(**how: Any) -> Any:
        model, _ = loaded(backend, base, **how)
        model.prepare_training(spec)
        return model

    model = prepared()
    model.save_state(tmp_path)
    before = model.adapter_weights()
    few = LoraSpec(4, 2.0, 0.0, lora_layers(model.config, "attention"))
    other = adapted(backend, base, few, initial_weights(few, linear_layers(model.config), 0))
    other.prepare_training(spec)
    for foreign in (other, prepared(rank=2)):
        with pytest.raises(AdapterError, match=str(tmp_path)):
            foreign.load_state(tmp_path)
    for file in (ADAPTER_FILE, OPTIMIZER_FILE):
        whole = (tmp_path / file).read_bytes()
        for content in (whole[: len(whole) // 2], b"", None):
            (tmp_path / file).unlink()
            if content is not None:
                (tmp_path / file).write_bytes(content)
            with pytest.raises(AdapterError, match=str(tmp_path)):
                model.load_state(tmp_path)
            (tmp_path / file).write_bytes(whole)
    assert_equal(model.adapter_weights(), before)


def test_a_step_that_is_not_finite_changes_nothing(backend: Backend, base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    model, spec = loaded(backend, base)
    weights = model.adapter_weights()
    name = f"{spec.layers[0]}.lora_A"
    weights[name] = np.full_like(weights[name], np.nan)
    broken = adapted(backend, base, spec, weights)
    broken.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    result = broken.train_step(build_batches(examples, [[0, 1]], shared_prefix(examples)), 1e-2, 1, N_SEGMENTS)
    assert not np.isfinite(result.grad_norm)
    assert_equal(broken.adapter_weights(), weights)


def test_an_adapter_folder_gives_the_logits_of_the_model_that_wrote_it(
    backend: Backend, any_base: Path, tmp_path: Path
) -> None:
    model, spec = loaded(backend, any_base)
    write_adapter(tmp_path / "adapter", Adapter(spec, model.adapter_weights(), str(any_base)), 2)
    tokens = list(range(5, 25))
    wanted = model.logits(tokens)
    assert np.abs(wanted - backend.load(any_base).logits(tokens)).max() > 1e-2
    np.testing.assert_allclose(backend.load(any_base, tmp_path / "adapter").logits(tokens), wanted, atol=1e-5)


# Generation


def test_batched_generation_equals_greedy_decoding_one_by_one(backend: Backend, any_base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, any_base)
    examples, _ = examples_of(any_base, tmp_path)
    tokenizer = load_tokenizer(any_base)
    prompts = [example.prompt.tolist() for example in examples]
    replies = in_order(model.generate(prompts, 8, tokenizer.stop_tokens))
    for prompt, reply in zip(prompts, replies, strict=True):
        tokens: list[int] = []
        while len(tokens) < 8:
            token = int(model.logits([*prompt, *tokens])[-1].argmax())
            if token in tokenizer.stop_tokens:
                break
            tokens.append(token)
        assert list(reply.tokens) == tokens
        assert reply.stop_reason == ("length" if len(tokens) == 8 else "stop")


def test_greedy_decoding_takes_the_likeliest_token_by_the_logits_that_score_it(
    backend: Backend, tmp_path: Path
) -> None:
    """The head's rows are alike in pairs but for last bits: of logits in bfloat16 the first of a pair is always taken."""
    base = tiny_model(tmp_path / "base", tied=False)
    weights = load_file(base / "model.safetensors")
    bits = weights["lm_head.weight"].view(np.uint32) & 0xFFFF0000  # as bfloat16 has it
    bits[1::2] = bits[::2]
    bits[1::2, ::3] += 1 << 16
    save_file(weights | {"lm_head.weight": bits.view(np.float32)}, base / "model.safetensors")
    model = backend.load(base, dtype="bfloat16")
    prompts = [[3, 4, 5, token] for token in range(20, 40)]
    tokens: list[int] = []
    correct: list[bool] = []
    for prompt, reply in zip(prompts, in_order(model.generate(prompts, 8, [])), strict=True):
        tokens += reply.tokens
        row = np.array([[*prompt, *reply.tokens]], np.int32)
        segments = np.full(row.shape, UNSUPERVISED, np.int16)
        segments[:, len(prompt) :] = 0
        batch = Batch(NO_PREFIX, row, np.array([12], np.int32), (segments == 0).astype(np.float32), segments, (0,))
        correct += model.score(batch).correct[segments == 0].tolist()
    assert np.mean(np.array(tokens) % 2) > 0.9  # the second is a little larger, so the likelier of a likely pair
    assert np.mean(correct) > 0.95  # hidden states are rounded too, and otherwise in a pass of another shape


def test_a_stop_token_ends_its_reply_and_no_other(backend: Backend, base: Path) -> None:
    """What each reply would write third, without a stop token, is made one for all of them."""
    model, _ = loaded(backend, base)
    prompts = [[3, 4, 5, 6], [3, 4, 7], [9], [20, 21, 22, 23, 24]]
    free = [reply.tokens for reply in in_order(model.generate(prompts, 8, []))]
    assert all(len(tokens) == 8 for tokens in free)
    stop = free[1][2]
    for tokens, reply in zip(free, in_order(model.generate(prompts, 8, [stop])), strict=True):
        cut = tokens.index(stop) if stop in tokens else 8
        assert reply == Generation(tokens[:cut], "stop" if stop in tokens else "length")


def test_sampling_is_a_function_of_the_seed_and_of_no_other_draw(backend: Backend, base: Path, tmp_path: Path) -> None:
    model, _ = loaded(backend, base, dropout=0.3)
    examples, _ = examples_of(base, tmp_path)
    prompts = [[3, 4, 5, 6], [3, 4, 7]] * 4

    def sampled(seed: int, temperature: float = 1.5) -> list[Generation]:
        return in_order(model.generate(prompts, 8, [447], temperature=temperature, seed=seed))

    first = sampled(1)
    model.prepare_training(OptimizerSpec(0.0, 1.0, 5))
    model.train_step(build_batches(examples, [[0, 1]], shared_prefix(examples)), 0.0, 1, N_SEGMENTS)
    assert sampled(1) == first
    assert sampled(2) != first
    assert sampled(1) == first
    assert len({reply.tokens for reply in first[::2]}) > 1  # equal prompts of one batch are drawn apart
    assert sampled(1, 1e-3) == in_order(model.generate(prompts, 8, [447]))


def test_samples_follow_the_distribution_at_their_temperature(backend: Backend, base: Path) -> None:
    model, _ = loaded(backend, base)
    prompt, temperature, n = [3, 4, 5, 6], 0.7, 2000
    replies = in_order(model.generate([prompt] * n, 1, [447], temperature=temperature, seed=3))
    counts = np.bincount([reply.tokens[0] for reply in replies if reply.tokens], minlength=VOCABULARY) / n
    logits = model.logits(prompt)[-1].astype(np.float64) / temperature
    wanted = np.exp(logits - logits.max())
    wanted /= wanted.sum()
    assert wanted.max() < 0.9
    assert np.abs(counts - wanted).max() < 0.05  # four standard deviations


class Only:
    """A constraint that lets tokens 10 to 19 be written, and knows what each reply wrote."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []

    def start(self) -> OnlyMatcher:
        self.written.append([])
        return OnlyMatcher(self.written[-1])


class OnlyMatcher:
    def __init__(self, written: list[int]) -> None:
        self._written = written

    def mask(self) -> Any:
        allowed = np.zeros(VOCABULARY, np.bool_)
        allowed[10:20] = True
        return allowed

    def advance(self, token: int) -> None:
        self._written.append(token)

    def forced(self) -> list[int]:
        return []

    def is_done(self) -> bool:
        return False


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_replies_stay_inside_a_constraint_that_is_told_of_them(
    backend: Backend, base: Path, temperature: float
) -> None:
    model, _ = loaded(backend, base)
    constraint = Only()
    prompts = [[3, 4, 5], [7, 8]] * 10
    replies = in_order(model.generate(prompts, 6, [447], constraint, temperature=temperature, seed=0))
    assert {token for reply in replies for token in reply.tokens} <= set(range(10, 20))
    assert all(len(reply.tokens) == 6 and reply.stop_reason == "length" for reply in replies)
    told = [tuple(tokens[:5]) for tokens in constraint.written]  # of the last one it need not be
    assert sorted(told) == sorted(reply.tokens[:5] for reply in replies)  # the longest prompts begin


def test_long_prompts_run_in_parts_with_the_same_replies(
    backend: Backend, any_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = loaded(backend, any_base)
    examples, _ = examples_of(any_base, tmp_path)
    prompts = [example.prompt.tolist() for example in examples]
    whole = in_order(model.generate(prompts, 8, []))
    monkeypatch.setattr(f"mlxtune.backends.{backend.name}.session.TOKENS_AT_ONCE", 3)
    assert in_order(model.generate(prompts, 8, [])) == whole


@pytest.mark.parametrize("prompts", [[[3, 4, 5]], [[3, 4, 5], [3, 4, 5]], [[3, 4, 5], [3, 4, 9], [20, 21]]])
def test_a_cache_grows_with_the_same_replies(
    backend: Backend, base: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = loaded(backend, base)
    roomy = in_order(model.generate(prompts, 8, []))
    monkeypatch.setattr(f"mlxtune.backends.{backend.name}.session.GROWTH", 1)
    assert in_order(model.generate(prompts, 8, [])) == roomy


class Spelling:
    """A constraint under which 11 is followed by 12 and 13, forced or not, and 14 ends a reply."""

    def __init__(self, forces: bool, vocabulary: int) -> None:
        self.forces, self.vocabulary = forces, vocabulary

    def start(self) -> SpellingMatcher:
        return SpellingMatcher(self.forces, self.vocabulary)


class SpellingMatcher:
    def __init__(self, forces: bool, vocabulary: int) -> None:
        self._forces, self._vocabulary, self._done = forces, vocabulary, False
        self._next: list[int] = []

    def mask(self) -> Any:
        allowed = np.zeros(self._vocabulary, np.bool_)
        allowed[-1 if self._done else self._next[0] if self._next else slice(10, 15)] = True
        return allowed

    def advance(self, token: int) -> None:
        self._next = self._next[1:] if self._next else [12, 13] if token == 11 else []
        self._done = token == 14

    def forced(self) -> list[int]:
        found, self._next = (self._next, []) if self._forces else ([], self._next)
        return found

    def is_done(self) -> bool:
        return self._forces and self._done


def test_what_is_forced_changes_no_reply(backend: Backend, any_base: Path) -> None:
    model, _ = loaded(backend, any_base)
    vocabulary = model.config["vocab_size"]
    prompts = [[3, 4, 5, 6], [3, 4, 7], [3, 4, 9, 30], [3, 4, 50], [3, 4, 60, 61, 62]] * 3
    forced, stepwise = (
        in_order(model.generate(prompts, 12, [vocabulary - 1], Spelling(forces, vocabulary), temperature=2.0, seed=1))
        for forces in (True, False)
    )
    assert any(11 in reply.tokens for reply in forced) and any(reply.stop_reason == "stop" for reply in forced)
    assert [reply.tokens for reply in forced] == [reply.tokens for reply in stepwise]


# Choosing

OPTIONS = [[7], [7, 8], [9, 10, 11, 12], [13, 7, 2], [9, 10]]


@pytest.mark.parametrize(
    "prompts",
    [
        [[3, 4, 5, 6, 7], [3, 4, 9, 11, 12, 13, 14], [3, 4, 9]],  # an opening that all share
        [[3, 4, 5], [3, 4, 5]],  # nothing of their own but the last token
        [[20, 21, 22], [30, 31, 32, 33]],  # nothing in common
        [[5, 6, 7, 8]],
        [[5]],
    ],
)
def test_choose_equals_numpy_over_whole_logits(
    backend: Backend, any_base: Path, prompts: Sequence[Sequence[int]]
) -> None:
    model, _ = loaded(backend, any_base)
    got = model.choose(prompts, OPTIONS)
    wanted = [[numpy_log_probability(model, prompt, option) for option in OPTIONS] for prompt in prompts]
    assert got.dtype == np.float32 and got.shape == (len(prompts), len(OPTIONS))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_many_options_are_scored_in_parts_with_the_same_result(backend: Backend, base: Path) -> None:
    model, _ = loaded(backend, base)
    prompts = [[3, 4, 5, 6], [3, 4, 7], [9]]
    options = [[a, b, c] for a in range(10, 24) for b in range(30, 70) for c in (50, 51)]
    assert len(list(option_trees(options))) > 1 and len({tuple(option[:2]) for option in options}) > NODES_AT_ONCE
    few = [model.choose(prompts, options[at : at + 160]) for at in range(0, len(options), 160)]
    np.testing.assert_allclose(model.choose(prompts, options), np.concatenate(few, axis=1), atol=1e-5)


def test_rows_of_all_lengths_are_scored_together_as_each_is_alone(backend: Backend, any_base: Path) -> None:
    model, _ = loaded(backend, any_base)
    random = np.random.default_rng(0)
    lengths = [3, 700, 90, 1, 650, 600, 40, 5]
    prompts = [[3, 4, *random.integers(5, 300, length).tolist()] for length in lengths]
    groups = list(row_groups(prompts, 2, 9))
    assert 1 < len(groups) < len(prompts)
    alone = [model.choose([prompt], OPTIONS)[0] for prompt in prompts]
    np.testing.assert_allclose(model.choose(prompts, OPTIONS), alone, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "linear", "factor": 2.0},
    ],
)  # fmt: skip
def test_choose_equals_numpy_where_positions_are_scaled(
    backend: Backend, tmp_path: Path, scaling: dict[str, Any]
) -> None:
    folder = tiny_model(tmp_path / "base", "llama" if scaling["rope_type"] == "llama3" else "qwen2")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rope_scaling": scaling}))
    model = backend.load(folder)
    prompts = [list(range(3, 103)), [3, 4, *range(200, 250)]]
    wanted = [[numpy_log_probability(model, prompt, option) for option in OPTIONS] for prompt in prompts]
    np.testing.assert_allclose(model.choose(prompts, OPTIONS), wanted, atol=1e-4)


def test_options_beyond_the_models_positions_are_refused_with_the_numbers(backend: Backend, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 24}))
    model = backend.load(folder)
    assert model.choose([list(range(3, 23)), [9]], OPTIONS).shape == (2, 5)
    with pytest.raises(
        DataError,
        match="a prompt of 21 tokens leaves no room for the longest option, 4 tokens: the model has 24 positions",
    ):
        model.choose([list(range(3, 24)), [9]], OPTIONS)


def test_choose_refuses_nothing_to_choose_from(backend: Backend, base: Path) -> None:
    model, _ = loaded(backend, base)
    cases: list[tuple[list[list[int]], list[list[int]]]] = [([], [[1]]), ([[1]], []), ([[]], [[1]]), ([[1]], [[]])]
    for prompts, options in cases:
        with pytest.raises(ValueError, match="at least one token"):
            model.choose(prompts, options)


# What both backends are given


def test_no_prompt_or_padding_is_supervised(base: Path, tmp_path: Path) -> None:
    examples, recipe = examples_of(base, tmp_path)
    tokenizer = load_tokenizer(base)
    template = ReplyTemplate(recipe.output)
    (batch,) = build_batches(examples, [list(range(len(examples)))], shared_prefix(examples))
    for b, example in enumerate(examples):
        supervised = batch.tokens[b][batch.supervised[b]]
        text, _ = template.format({"intents": template.parse(tokenizer.decode(supervised)).values["intents"] or ()})
        assert tokenizer.decode(supervised) == text
        assert supervised[-1] == tokenizer.end_of_turn
        assert int(batch.supervised[b].sum()) == len(example.reply)
        assert (batch.weights[b] > 0).sum() == len(example.reply)


def test_a_class_weight_lies_on_its_label_only(base: Path, tmp_path: Path) -> None:
    fields = {"intents": {"kind": "labels", "labels": ["user_auth", "order_management", "payment", "none"],
                          "class_weights": {"payment": 3.0}}}  # fmt: skip
    examples, _ = examples_of(base, tmp_path, output={"template": "{intents}", "fields": fields})
    tokenizer = load_tokenizer(base)
    first = examples[0]  # user_auth, payment
    weighted = [int(token) for token, weight in zip(first.reply, first.weights, strict=True) if weight == 3.0]
    assert tokenizer.decode(weighted).strip() == "payment"


def test_an_adapter_of_some_blocks_and_layers_reads_back_as_written(
    backend: Backend, base: Path, tmp_path: Path
) -> None:
    model = backend.load(base)
    spec = LoraSpec(2, 4.0, 0.1, lora_layers(model.config, ["q_proj", "down_proj"], 1))
    model.attach_lora(spec, initial_weights(spec, linear_layers(model.config), 0))
    weights = model.adapter_weights()
    write_adapter(tmp_path / "adapter", Adapter(spec, weights, "x"), 2)
    back = read_adapter(tmp_path / "adapter")
    assert set(back.spec.layers) == set(spec.layers)
    assert all(layer.startswith("model.layers.1.") for layer in spec.layers)
    assert (back.spec.rank, back.spec.scale, back.spec.dropout, back.base) == (2, 4.0, 0.1, "x")
    assert_equal(back.weights, weights)


def test_options_in_trees_hold_each_beginning_once_and_every_option() -> None:
    (whole,) = option_trees(OPTIONS)
    assert sorted(whole.options.tolist()) == list(range(len(OPTIONS)))
    assert len(whole.tokens) == len({tuple(option[:n]) for option in OPTIONS for n in range(len(option))})
    parts = list(option_trees(OPTIONS, 4))
    assert len(parts) > 1 and sorted(i for part in parts for i in part.options) == list(range(len(OPTIONS)))
    for part in parts:
        for place, index in enumerate(part.options):
            assert part.targets[part.owners == place].tolist() == OPTIONS[index]
