"""The two backends against each other: the same numbers from the same folder, the same adapter from the same training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends.adapter import Adapter, initial_weights, write_adapter
from mlxtune.backends.base import Backend, Model, OptimizerSpec, in_order
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.data.template import ReplyTemplate
from mlxtune.evaluation.predict.constraint import TemplateConstraint
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.training.loop import BatchSampler
from tests.adapted import BACKENDS, adapted, adapter_of, assert_close, backend_named, examples_of, loaded, moved
from tests.architectures import linear_layers
from tests.tiny import tiny_model

TOKENS = list(range(5, 45))
BASES = {
    "qwen2": ("qwen2", None),
    "qwen3": ("qwen3", None),
    "llama": ("llama", None),
    "qwen3.5": ("qwen3_5_text", None),
    "qwen2-4bit": ("qwen2", 4),
    "llama-8bit": ("llama", 8),
}
UNTIED = "llama-8bit"  # the others' embedding is their head


@dataclass(frozen=True)
class Pair:
    """A model folder, and a model of it with an adapter on each backend."""

    folder: Path
    backends: tuple[Backend, Backend]
    models: tuple[Model, Model]


@pytest.fixture(scope="module", params=BASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    mlx, torch = map(backend_named, BACKENDS)
    family, bits = BASES[request.param]
    quantization = {"bits": bits, "group_size": 32} if bits else None
    folder = tmp_path_factory.mktemp("parity") / request.param
    tiny_model(folder, family, tied=request.param != UNTIED, quantization=quantization)
    return Pair(folder, (mlx, torch), (loaded(mlx, folder)[0], loaded(torch, folder)[0]))


def test_both_count_the_same_parameters(pair: Pair) -> None:
    mlx, torch = (backend.load(pair.folder) for backend in pair.backends)
    assert mlx.architecture == torch.architecture
    assert mlx.config["num_hidden_layers"] == torch.config["num_hidden_layers"] == 2


def test_logits_agree_with_and_without_an_adapter(pair: Pair) -> None:
    mlx, torch = (backend.load(pair.folder).logits(TOKENS) for backend in pair.backends)
    np.testing.assert_allclose(torch, mlx, atol=1e-4)
    of_adapted = [model.logits(TOKENS) for model in pair.models]
    assert np.abs(of_adapted[0] - mlx).max() > 1e-2
    np.testing.assert_allclose(of_adapted[1], of_adapted[0], atol=1e-4)


def test_scores_agree(pair: Pair, tmp_path: Path) -> None:
    examples, _ = examples_of(pair.folder, tmp_path)
    for prefix in (shared_prefix(examples), np.zeros(0, np.int32)):
        (batch,) = build_batches(examples, [list(range(len(examples)))], prefix)
        mlx, torch = (model.score(batch) for model in pair.models)
        assert (mlx.nats > 0).sum() == batch.supervised.sum()
        np.testing.assert_allclose(torch.nats, mlx.nats, atol=1e-4)
        assert np.array_equal(torch.correct, mlx.correct)


def test_probabilities_of_options_agree(pair: Pair) -> None:
    options = [[a, b, c][:length] for a in (7, 9, 11) for b in (12, 13) for c in (14, 15) for length in (1, 2, 3)]
    prompts = [[3, 4, 5, 6, 7], [3, 4, 9, 11, 12, 13, 14], [3, 4, 9]]
    mlx, torch = (model.choose(prompts, options) for model in pair.models)
    np.testing.assert_allclose(torch, mlx, atol=1e-4)


def test_both_write_the_same_greedy_text_free_and_constrained(pair: Pair, tmp_path: Path) -> None:
    examples, recipe = examples_of(pair.folder, tmp_path)
    tokenizer = load_tokenizer(pair.folder)
    prompts = [example.prompt.tolist() for example in examples]
    template = ReplyTemplate(recipe.output)
    constraint = TemplateConstraint(template, tokenizer, pair.models[0].config["vocab_size"])
    for held in (None, constraint):
        mlx, torch = (in_order(model.generate(prompts, 24, tokenizer.stop_tokens, held)) for model in pair.models)
        assert torch == mlx
    assert all(template.parse(tokenizer.decode(reply.tokens)).values["intents"] for reply in torch)


@pytest.mark.parametrize("writer", [0, 1])
def test_an_adapter_that_one_wrote_has_the_same_logits_on_the_other(pair: Pair, tmp_path: Path, writer: int) -> None:
    model = pair.models[writer]
    spec, _ = adapter_of(model.config)
    write_adapter(tmp_path / "adapter", Adapter(spec, model.adapter_weights(), str(pair.folder)), 2)
    read = pair.backends[1 - writer].load(pair.folder, tmp_path / "adapter")
    np.testing.assert_allclose(read.logits(TOKENS), model.logits(TOKENS), atol=1e-4)


def test_twenty_steps_end_at_the_same_adapter(pair: Pair, tmp_path: Path) -> None:
    fields = {"intents": {"kind": "labels", "labels": ["user_auth", "order_management", "payment", "none"],
                          "class_weights": {"payment": 3.0}}}  # fmt: skip
    examples, recipe = examples_of(pair.folder, tmp_path, output={"template": "{intents}", "fields": fields})
    order = BatchSampler(examples, rows_per_step=4, tokens_per_pass=80, seed=0)
    steps = [order.step(step) for step in range(1, 21)]
    assert {2, 3} <= set(map(len, steps)) and {1.0, 3.0} <= {
        float(w) for one in steps for batch in one for w in batch.weights.flat
    }
    rates = [5e-3 * min(1, step / 5) for step in range(1, 21)]
    limit = 4.0
    spec, _ = adapter_of(pair.models[0].config)
    start = initial_weights(spec, linear_layers(dict(pair.models[0].config)), recipe.train.seed)
    n_segments = len(ReplyTemplate(recipe.output).segments)
    results, ends = [], []
    for backend in pair.backends:
        model = adapted(backend, pair.folder, spec, start)
        model.prepare_training(OptimizerSpec(weight_decay=0.01, max_grad_norm=limit, seed=0))
        run = [model.train_step(one, rate, step, n_segments) for step, (one, rate) in enumerate(zip(steps, rates, strict=True), 1)]  # fmt: skip
        results.append(run)
        ends.append(model.adapter_weights())
    mlx, torch = results
    assert min(one.grad_norm for one in mlx) < limit < max(one.grad_norm for one in mlx)
    assert mlx[-1].loss < 0.7 * mlx[0].loss
    np.testing.assert_allclose([one.loss for one in torch], [one.loss for one in mlx], atol=1e-4)
    np.testing.assert_allclose([one.grad_norm for one in torch], [one.grad_norm for one in mlx], rtol=1e-3)
    np.testing.assert_allclose(
        [one.segment_nats for one in torch], [one.segment_nats for one in mlx], rtol=1e-4, atol=1e-4
    )
    assert [one.total_weight for one in torch] == [one.total_weight for one in mlx]
    assert_close(moved(ends[1], start), moved(ends[0], start), 1e-3)
