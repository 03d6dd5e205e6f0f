"""The MLX model's arithmetic against the plain computation, NumPy and mlx-lm's own code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import Adapter, initial_weights, read_adapter, write_adapter
from mlxtune.backends.base import Batch, LoraSpec, OptimizerSpec
from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.data.batches import batches, shared_prefix
from mlxtune.data.examples import Example
from mlxtune.data.prepare import training_split
from mlxtune.data.template import ReplyTemplate
from mlxtune.models.architecture import linear_layers, lora_layers
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe import Recipe, load_recipe
from tests.conftest import write_recipe

N_SEGMENTS = 2


def loaded(folder: Path, dropout: float = 0.0, seed: int = 1, rank: int = 4) -> Any:
    """The model with an adapter whose B is not zero, so that every gradient and product counts."""
    model = MlxBackend().load(folder)
    spec = LoraSpec(rank, 2.0, dropout, lora_layers(model.config))
    weights = initial_weights(spec, linear_layers(model.config), seed)
    random = np.random.default_rng(seed)
    for name in weights:
        if name.endswith("lora_B"):
            weights[name] = random.normal(0, 0.05, weights[name].shape).astype(np.float32)
    model.attach_lora(spec, weights)
    return model, spec


def examples_of(folder: Path, tmp_path: Path, **sections: Any) -> tuple[list[Example], Recipe]:
    recipe = load_recipe(write_recipe(tmp_path, folder, **sections))
    return training_split(recipe, load_tokenizer(folder)).examples, recipe


def plain_nats(model: Any, example: Example) -> np.ndarray:
    """-log p of the reply's tokens from whole logits of the whole row, in NumPy."""
    tokens = [*example.prompt.tolist(), *example.reply.tolist()]
    logits = model.logits(tokens).astype(np.float64)
    log_normal = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    places = np.arange(len(example.prompt) - 1, len(tokens) - 1)
    return log_normal[places] - logits[places, example.reply]


def adapter_gradient(model: Any, batch_list: list[Batch]) -> dict[str, np.ndarray]:
    """The gradient that a step would apply, read from AdamW's first moment after one step from zero."""
    from mlx.utils import tree_flatten

    model.prepare_training(OptimizerSpec(0.0, None, 0))
    model.train_step(batch_list, 0.0, 1, N_SEGMENTS)
    moments = dict(tree_flatten(model._optimizer.state))
    return {name: np.array(value) / (1 - 0.9) for name, value in moments.items() if name.endswith(".m")}


def assert_close(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], tolerance: float) -> None:
    assert got.keys() == wanted.keys() and got
    scale = np.sqrt(sum(float((value**2).sum()) for value in wanted.values()))
    assert scale > 0
    error = np.sqrt(sum(float(((got[name] - wanted[name]) ** 2).sum()) for name in got))
    assert error / scale < tolerance


def test_scores_equal_numpy_over_whole_logits(any_base: Path, tmp_path: Path) -> None:
    model, _ = loaded(any_base)
    examples, _ = examples_of(any_base, tmp_path)
    prefix = shared_prefix(examples)
    assert len(prefix) > 5
    (batch,) = batches(examples, [list(range(len(examples)))], prefix)
    scores = model.score(batch)
    for b, example in enumerate(examples):
        np.testing.assert_allclose(scores[b][batch.supervised[b]], plain_nats(model, example), atol=1e-4)


def test_no_prompt_or_padding_is_supervised(base: Path, tmp_path: Path) -> None:
    examples, recipe = examples_of(base, tmp_path)
    tokenizer = load_tokenizer(base)
    template = ReplyTemplate(recipe.output)
    (batch,) = batches(examples, [list(range(len(examples)))], shared_prefix(examples))
    for b, example in enumerate(examples):
        supervised = batch.tokens[b][batch.supervised[b]]
        text, _ = template.format({"intents": template.parse(tokenizer.decode(supervised)).values["intents"]})
        assert tokenizer.decode(supervised) == text
        assert supervised[-1] == tokenizer.end_of_turn
        assert int(batch.supervised[b].sum()) == len(example.reply)
        assert (batch.weights[b] > 0).sum() == len(example.reply)


def test_the_shared_prefix_leaves_the_gradient_as_it_is(any_base: Path, tmp_path: Path) -> None:
    model, _ = loaded(any_base)
    examples, _ = examples_of(any_base, tmp_path)
    order = [[0, 1, 2], [3, 4, 5, 6]]
    shared = adapter_gradient(model, batches(examples, order, shared_prefix(examples)))
    plain = adapter_gradient(model, batches(examples, order, np.zeros(0, np.int32)))
    assert_close(shared, plain, 1e-5)


def test_accumulation_equals_the_whole_batch(base: Path, tmp_path: Path) -> None:
    model, _ = loaded(base)
    examples, _ = examples_of(base, tmp_path)
    prefix = shared_prefix(examples)
    whole = adapter_gradient(model, batches(examples, [list(range(7))], prefix))
    parts = adapter_gradient(model, batches(examples, [[3], [0, 1, 2, 4], [5, 6]], prefix))
    assert_close(parts, whole, 1e-5)


def test_the_loss_is_weighted_by_token_over_the_whole_step(base: Path, tmp_path: Path) -> None:
    model, _ = loaded(base)
    fields = {"intents": {"kind": "labels", "labels": ["user_auth", "order_management", "payment", "none"],
                          "exclusive": "none", "class_weights": {"payment": 3.0}, "loss_weight": 0.5}}  # fmt: skip
    examples, _ = examples_of(base, tmp_path, output={"template": "{intents}", "fields": fields})
    assert {0.5, 1.0, 1.5} == {round(float(weight), 3) for example in examples for weight in example.weights}
    wanted = sum(float(plain_nats(model, example) @ example.weights) for example in examples)
    weight = sum(float(example.weights.sum()) for example in examples)
    model.prepare_training(OptimizerSpec(0.0, None, 0))
    result = model.train_step(batches(examples, [[0, 1, 2], [3, 4, 5, 6]], shared_prefix(examples)), 0.0, 1, N_SEGMENTS)
    assert result.total_weight == pytest.approx(weight)
    assert result.loss == pytest.approx(wanted / weight, abs=1e-5)
    assert result.segment_tokens.sum() == sum(len(example.reply) for example in examples)
    assert result.segment_nats.sum() == pytest.approx(sum(plain_nats(model, e).sum() for e in examples), rel=1e-5)


def test_a_class_weight_lies_on_its_label_only(base: Path, tmp_path: Path) -> None:
    fields = {"intents": {"kind": "labels", "labels": ["user_auth", "order_management", "payment", "none"],
                          "class_weights": {"payment": 3.0}}}  # fmt: skip
    examples, _ = examples_of(base, tmp_path, output={"template": "{intents}", "fields": fields})
    tokenizer = load_tokenizer(base)
    first = examples[0]  # user_auth, payment
    weighted = [int(token) for token, weight in zip(first.reply, first.weights, strict=True) if weight == 3.0]
    assert tokenizer.decode(weighted).strip() == "payment"


def test_steps_equal_adamw_and_clipping_written_out_in_numpy(base: Path, tmp_path: Path) -> None:
    model, lora = loaded(base)
    examples, _ = examples_of(base, tmp_path)
    batch_list = batches(examples, [list(range(7))], shared_prefix(examples))
    before = model.adapter_weights()
    spec = OptimizerSpec(weight_decay=0.1, max_grad_norm=0.05, seed=0)
    rates = [1e-2, 5e-3]
    first = {name: np.zeros_like(value, np.float64) for name, value in before.items()}
    second = {name: np.zeros_like(value, np.float64) for name, value in before.items()}
    wanted = {name: value.astype(np.float64) for name, value in before.items()}
    for step, rate in enumerate(rates, 1):
        gradient = _named(adapter_gradient(_with(base, lora, wanted), batch_list))
        norm = np.sqrt(sum(float((value**2).sum()) for value in gradient.values()))
        assert norm > spec.max_grad_norm
        for name in wanted:
            g = gradient[name] * (spec.max_grad_norm / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            m, v = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            wanted[name] = wanted[name] * (1 - rate * spec.weight_decay) - rate * m / (np.sqrt(v) + 1e-8)
    model.prepare_training(spec)
    for step, rate in enumerate(rates, 1):
        model.train_step(batch_list, rate, step, N_SEGMENTS)
    got = model.adapter_weights()
    moved = {name: got[name] - before[name] for name in got}
    assert_close(moved, {name: wanted[name] - before[name] for name in got}, 2e-3)


def _with(base: Path, spec: LoraSpec, weights: dict[str, np.ndarray]) -> Any:
    model = MlxBackend().load(base)
    model.attach_lora(spec, {name: value.astype(np.float32) for name, value in weights.items()})
    return model


def _named(moments: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    named = {}
    for name, value in moments.items():
        layer, part, _ = name.rsplit(".", 2)
        named[f"{layer}.{part.replace('lora_a', 'lora_A').replace('lora_b', 'lora_B')}"] = value.T
    return named


def test_dropout_is_a_function_of_seed_and_step(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))

    def losses(seed: int, steps: list[int]) -> list[float]:
        model, _ = loaded(base, dropout=0.3)
        model.prepare_training(OptimizerSpec(0.0, 1.0, seed))
        return [model.train_step(batch_list, 0.0, step, N_SEGMENTS).loss for step in steps]

    assert losses(0, [1, 2]) == losses(0, [1, 2])
    assert losses(0, [2])[0] == losses(0, [1, 2])[1]
    assert losses(0, [1]) != losses(0, [2])
    assert losses(0, [1]) != losses(1, [1])


def test_scoring_leaves_training_randomness_alone(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))

    def final(score_between: bool) -> dict[str, np.ndarray]:
        model, _ = loaded(base, dropout=0.3)
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
        for step in (1, 2):
            model.train_step(batch_list, 1e-2, step, N_SEGMENTS)
            if score_between:
                model.score(batch_list[0])
        return dict(model.adapter_weights())

    scored, plain = final(True), final(False)
    assert all(np.array_equal(scored[name], plain[name]) for name in plain)


def test_a_saved_state_continues_bit_for_bit(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    batch_list = batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))
    spec = OptimizerSpec(0.01, 1.0, 0)
    through, _ = loaded(base, dropout=0.2)
    through.prepare_training(spec)
    for step in (1, 2):
        through.train_step(batch_list, 1e-2, step, N_SEGMENTS)
    through.save_state(tmp_path)
    through.train_step(batch_list, 1e-2, 3, N_SEGMENTS)
    again, _ = loaded(base, dropout=0.2, seed=9)
    again.prepare_training(spec)
    again.load_state(tmp_path)
    again.train_step(batch_list, 1e-2, 3, N_SEGMENTS)
    wanted = through.adapter_weights()
    assert all(np.array_equal(value, wanted[name]) for name, value in again.adapter_weights().items())


def test_a_step_that_is_not_finite_changes_nothing(base: Path, tmp_path: Path) -> None:
    examples, _ = examples_of(base, tmp_path)
    model, spec = loaded(base)
    weights = model.adapter_weights()
    name = f"{spec.layers[0]}.lora_A"
    weights[name] = np.full_like(weights[name], np.nan)
    broken = MlxBackend().load(base)
    broken.attach_lora(spec, weights)
    broken.prepare_training(OptimizerSpec(0.0, 1.0, 0))
    result = broken.train_step(batches(examples, [[0, 1]], shared_prefix(examples)), 1e-2, 1, N_SEGMENTS)
    assert not np.isfinite(result.grad_norm)
    after = broken.adapter_weights()
    assert all(np.array_equal(after[key], weights[key], equal_nan=True) for key in weights)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX compiles CPU kernels with a C++ compiler")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_compiled_step_equals_the_plain_one(base: Path, tmp_path: Path, dropout: float) -> None:
    from mlxtune.backends.mlx.model import MlxModel

    examples, _ = examples_of(base, tmp_path)
    batch_list = batches(examples, [[0, 1], [2, 3]], shared_prefix(examples))

    def final(compiled: bool) -> dict[str, np.ndarray]:
        plain, spec = loaded(base, dropout=dropout)
        model = MlxModel(MlxBackend().load(base)._network, plain.config, compiled=compiled)  # type: ignore[attr-defined]
        model.attach_lora(spec, plain.adapter_weights())
        model.prepare_training(OptimizerSpec(0.0, 1.0, 0))
        before = model.adapter_weights()
        for step in (1, 2, 3):
            model.train_step(batch_list, 1e-2, step, N_SEGMENTS)
        return {name: value - before[name] for name, value in model.adapter_weights().items()}

    assert_close(final(True), final(False), 1e-4)


def test_the_head_computes_in_float32_whatever_the_weights_are(base: Path, tmp_path: Path) -> None:
    """Targets are told apart that bfloat16 logits would round together."""
    examples, _ = examples_of(base, tmp_path)
    (batch,) = batches(examples, [[0, 1, 2]], shared_prefix(examples))
    model = MlxBackend().load(base, dtype="bfloat16")
    scores = model.score(batch)[batch.supervised]
    hidden = model._hidden(*_arrays(batch)[:2])  # type: ignore[attr-defined]
    positions, targets = _arrays(batch)[2:4]
    import mlx.core as mx

    rows = np.array(hidden.reshape(-1, hidden.shape[-1])[positions].astype(mx.float32), np.float64)
    weight = np.array(model._network.model.embed_tokens.weight.astype(mx.float32), np.float64)  # type: ignore[attr-defined]
    logits = rows @ weight.T
    wanted = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(rows)), np.array(targets)]
    np.testing.assert_allclose(scores, wanted[: len(scores)], atol=1e-4)


def _arrays(batch: Batch) -> Any:
    from mlxtune.backends.mlx.model import _Inputs

    return _Inputs(batch).arrays


def test_batched_generation_equals_greedy_decoding_one_by_one(any_base: Path, tmp_path: Path) -> None:
    model, _ = loaded(any_base)
    examples, _ = examples_of(any_base, tmp_path)
    tokenizer = load_tokenizer(any_base)
    prompts = [example.prompt.tolist() for example in examples]
    replies = model.generate(prompts, 8, tokenizer.stop_tokens)
    for prompt, reply in zip(prompts, replies, strict=True):
        tokens: list[int] = []
        while len(tokens) < 8:
            token = int(model.logits([*prompt, *tokens])[-1].argmax())
            if token in tokenizer.stop_tokens:
                break
            tokens.append(token)
        assert list(reply.tokens) == tokens
        assert reply.stop_reason == ("length" if len(tokens) == 8 else "stop")


def test_our_adapter_gives_the_same_logits_in_mlx_lm(any_base: Path, tmp_path: Path) -> None:
    import mlx.core as mx
    import mlx_lm

    model, spec = loaded(any_base)
    write_adapter(tmp_path / "adapter", Adapter(spec, model.adapter_weights(), str(any_base)), 2)
    theirs, _ = mlx_lm.load(str(any_base), adapter_path=str(tmp_path / "adapter"))
    theirs.eval()
    tokens = list(range(5, 25))
    wanted = np.array(theirs(mx.array(tokens)[None])[0].astype(mx.float32))
    base_logits = MlxBackend().load(any_base).logits(tokens)
    got = MlxBackend().load(any_base, tmp_path / "adapter").logits(tokens)
    assert np.abs(got - base_logits).max() > 1e-2
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_an_adapter_of_some_blocks_and_layers_reads_back_as_written(base: Path, tmp_path: Path) -> None:
    model = MlxBackend().load(base)
    spec = LoraSpec(2, 4.0, 0.1, lora_layers(model.config, ["q_proj", "down_proj"], 1))
    weights = initial_weights(spec, linear_layers(model.config), 0)
    write_adapter(tmp_path / "adapter", Adapter(spec, weights, "x"), 2)
    back = read_adapter(tmp_path / "adapter")
    assert set(back.spec.layers) == set(spec.layers) and all(
        layer.startswith("model.layers.1.") for layer in spec.layers
    )
    assert (back.spec.rank, back.spec.scale, back.spec.dropout, back.base) == (2, 4.0, 0.1, "x")
    assert all(np.array_equal(back.weights[name], weights[name]) for name in weights)


def numpy_log_probability(model: Any, prompt: list[int], option: list[int]) -> float:
    """log p of an option's tokens after a prompt, from whole logits of the whole sequence, in NumPy."""
    tokens = [*prompt, *option]
    logits = model.logits(tokens).astype(np.float64)
    log_normal = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    places = np.arange(len(prompt) - 1, len(tokens) - 1)
    return float((logits[places, option] - log_normal[places]).sum())


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
def test_choose_equals_numpy_over_whole_logits(any_base: Path, prompts: list[list[int]]) -> None:
    model, _ = loaded(any_base)
    got = model.choose(prompts, OPTIONS)
    wanted = [[numpy_log_probability(model, prompt, option) for option in OPTIONS] for prompt in prompts]
    assert got.dtype == np.float32 and got.shape == (len(prompts), len(OPTIONS))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_many_options_are_scored_in_parts_with_the_same_result(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = loaded(base)
    prompts = [[3, 4, 5, 6], [3, 4, 7], [9]]
    at_once = model.choose(prompts, OPTIONS)
    from mlxtune.backends.mlx import model as module
    from mlxtune.backends.option_tree import option_trees

    monkeypatch.setattr(module, "option_trees", lambda options: option_trees(options, 3))
    np.testing.assert_allclose(model.choose(prompts, OPTIONS), at_once, atol=1e-5)


def test_choose_refuses_nothing_to_choose_from(base: Path) -> None:
    model, _ = loaded(base)
    for prompts, options in (([], [[1]]), ([[1]], []), ([[]], [[1]]), ([[1]], [[]])):
        with pytest.raises(ValueError, match="at least one token"):
            model.choose(prompts, options)


def test_sampling_is_a_function_of_the_seed_and_of_no_other_draw(base: Path) -> None:
    import mlx.core as mx

    model, _ = loaded(base)
    prompts = [[3, 4, 5, 6], [3, 4, 7]] * 4

    def sampled(seed: int, temperature: float = 1.5) -> list[Any]:
        return model.generate(prompts, 8, [447], temperature=temperature, seed=seed)

    first = sampled(1)
    mx.random.seed(5)
    mx.eval(mx.random.normal((3,)))
    assert sampled(1) == first
    assert sampled(2) != first
    assert len({reply.tokens for reply in first[::2]}) > 1  # equal prompts of one batch are drawn apart
    assert sampled(1, 1e-3) == model.generate(prompts, 8, [447])


def test_samples_follow_the_distribution_at_their_temperature(base: Path) -> None:
    model, _ = loaded(base)
    prompt, temperature, n = [3, 4, 5, 6], 0.7, 2000
    replies = model.generate([prompt] * n, 1, [447], temperature=temperature, seed=3)
    counts = np.bincount([reply.tokens[0] for reply in replies if reply.tokens], minlength=448) / n
    logits = model.logits(prompt)[-1].astype(np.float64) / temperature
    wanted = np.exp(logits - logits.max())
    wanted /= wanted.sum()
    assert wanted.max() < 0.9
    assert np.abs(counts - wanted).max() < 0.05  # four standard deviations


def test_sampled_replies_stay_inside_a_constraint(base: Path) -> None:
    class Only:
        """Lets tokens 10 to 19 be written."""

        def start(self) -> Only:
            return self

        def mask(self) -> Any:
            allowed = np.zeros(448, np.bool_)
            allowed[10:20] = True
            return allowed

        def advance(self, token: int) -> None:
            assert 10 <= token < 20

    model, _ = loaded(base)
    replies = model.generate([[3, 4, 5]] * 20, 6, [447], Only(), temperature=5.0, seed=0)
    assert {token for reply in replies for token in reply.tokens} <= set(range(10, 20))


def test_options_in_trees_hold_each_beginning_once_and_every_option() -> None:
    from mlxtune.backends.option_tree import option_trees

    (whole,) = option_trees(OPTIONS)
    assert sorted(whole.options.tolist()) == list(range(len(OPTIONS)))
    assert len(whole.tokens) == len({tuple(option[:n]) for option in OPTIONS for n in range(len(option))})
    parts = list(option_trees(OPTIONS, 4))
    assert len(parts) > 1 and sorted(i for part in parts for i in part.options) == list(range(len(OPTIONS)))
    for part in parts:
        for place, index in enumerate(part.options):
            assert part.targets[part.owners == place].tolist() == OPTIONS[index]
