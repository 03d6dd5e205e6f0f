"""Gated delta nets on torch, against transformers' own layer and its recurrent rule, a row, a branch and a state at a time."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.base import ConvertSpec, in_order
from mlxtune.backends.option_tree import option_trees
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.errors import ModelError
from tests.adapted import examples_of, numpy_log_probability
from tests.tiny import stored_tensors, tiny_config, tiny_model

torch = pytest.importorskip("torch")

from mlxtune.backends.torch import model as model_module  # noqa: E402 - after the check that torch is there
from mlxtune.backends.torch.backend import TorchBackend  # noqa: E402
from mlxtune.backends.torch.delta_net import DeltaNet, delta_rule_of_branches, last_followed  # noqa: E402
from mlxtune.backends.torch.prefix_cache import PrefixCache  # noqa: E402

LONG = 150  # tokens: several chunks of the rule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("delta_net") / "qwen3.5", "qwen3_5_text", layers=4)


@pytest.fixture(scope="module")
def recurrent(folder: Path) -> Any:
    """transformers' network of the folder, which goes from token to token by its recurrent rule."""
    from transformers import AutoModelForCausalLM
    from transformers.models.qwen3_5 import modeling_qwen3_5 as modeling

    def rule(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return modeling.torch_recurrent_gated_delta_rule(*args, **kwargs)

    calls: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "torch_chunk_gated_delta_rule", rule)
        yield AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    assert calls


def logits_of(network: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return network(torch.tensor([ids])).logits[0]


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """Our model of the folder; made before `recurrent` changes what transformers' module has."""
    return TorchBackend().load(folder)


def random_ids(lengths: list[int]) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, 300, length).tolist() for length in lengths]


def test_logits_are_those_of_the_recurrent_rule(plain: Any, recurrent: Any) -> None:
    (ids,) = random_ids([LONG])
    np.testing.assert_allclose(plain.logits(ids), logits_of(recurrent, ids), atol=1e-4)


def test_rows_of_a_batch_are_scored_as_by_the_recurrent_rule_alone(
    plain: Any, recurrent: Any, folder: Path, tmp_path: Path
) -> None:
    examples, _ = examples_of(folder, tmp_path)
    for prefix in (shared_prefix(examples), np.zeros(0, np.int32)):
        (batch,) = build_batches(examples, [list(range(len(examples)))], prefix)
        assert len(set(batch.lengths)) > 2
        found = plain.score(batch).nats[batch.supervised]
        expected = []
        for row in batch.rows:
            ids = [*examples[row].prompt.tolist(), *examples[row].reply.tolist()]
            nats = -logits_of(recurrent, ids).log_softmax(-1)
            places = torch.arange(len(examples[row].prompt), len(ids))
            expected += nats[places - 1, torch.tensor(ids)[places]].tolist()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_options_in_several_trees_have_the_probabilities_of_whole_sequences(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "option_trees", functools.partial(option_trees, nodes_at_once=5))
    options = [[a, b, c][:length] for a in (7, 9) for b in (12, 13) for c in (14, 15) for length in (2, 3)]
    prompts = random_ids([3, LONG, 70, 1])
    assert len(list(option_trees(options, nodes_at_once=5))) > 1
    expected = [[numpy_log_probability(plain, prompt, option) for option in options] for prompt in prompts]
    np.testing.assert_allclose(plain.choose(prompts, options), expected, atol=1e-4)


def test_replies_in_slots_are_those_of_the_recurrent_rule(plain: Any, recurrent: Any) -> None:
    prompts = [[5, 6, *ids] for ids in random_ids([4, 2, 90, 3, 1, 66, 7])]
    replies = in_order(plain.generate(prompts, 12, [], slots=3))
    for prompt, reply in zip(prompts, replies, strict=True):
        logits = logits_of(recurrent, [*prompt, *reply.tokens])[len(prompt) - 1 : -1]
        chosen = logits[torch.arange(12), list(reply.tokens)]
        assert len(reply.tokens) == 12 and bool((logits.amax(-1) - chosen < 1e-4).all())


# The layer


@pytest.fixture
def layer(plain: Any) -> DeltaNet:
    found: DeltaNet = plain._network.model.layers[0].linear_attn
    return found


def test_a_padded_row_ends_in_the_state_of_its_last_token(layer: DeltaNet) -> None:
    hidden = torch.randn(3, 70, 64, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([70, 2, 66])
    first = PrefixCache()
    layer(hidden[:, :3], first)
    padded = PrefixCache(first.computed(3), counted=torch.arange(70) < counts[:, None])
    values = layer(hidden, padded)
    found = padded.computed(70).layers[0]
    for row, count in enumerate(counts.tolist()):
        alone = PrefixCache()
        whole = layer(torch.cat([hidden[row : row + 1, :3], hidden[row : row + 1, :count]], dim=1), alone)
        torch.testing.assert_close(values[row, :count], whole[0, 3:], atol=1e-5, rtol=1e-5)
        for state, wanted in zip(found, alone.computed(3 + count).layers[0], strict=True):
            torch.testing.assert_close(state[row], wanted[0], atol=1e-5, rtol=1e-5)


def test_the_tokens_that_each_follows_last_are_found_on_its_branch() -> None:
    #   0 - 1 - 3        2 and 4 are children of 0 and 2
    parents = [-1, 0, 0, 1, 2]
    visible = torch.zeros(1, 5, 5, dtype=torch.bool)
    for token in range(5):
        at = token
        while at >= 0:
            visible[0, token, at] = True
            at = parents[at]
    # Those before the pass are 0 and 1, so that token t has the number t + 2.
    assert last_followed(visible, 3)[0].tolist() == [[0, 1, 2], [1, 2, 3], [1, 2, 4], [2, 3, 5], [2, 4, 6]]


def test_branches_are_computed_as_each_alone_by_the_recurrent_rule() -> None:
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_recurrent_gated_delta_rule

    generator = torch.Generator().manual_seed(0)
    parents = [-1, 0, 1, 0, 3, 3, -1, 6, 2, 8]
    width, heads, key_dim, value_dim = len(parents), 3, 8, 12
    visible = torch.zeros(2, width, width, dtype=torch.bool)
    paths: list[list[int]] = []
    for token, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), token])
        visible[:, token, paths[token]] = True
    query, key = (torch.randn(2, width, heads, key_dim, generator=generator) for _ in range(2))
    value = torch.randn(2, width, heads, value_dim, generator=generator)
    decay = -torch.rand(2, width, heads, generator=generator)
    beta = torch.rand(2, width, heads, generator=generator)
    memory = torch.randn(1, heads, key_dim, value_dim, generator=generator)
    found = delta_rule_of_branches(query, key, value, decay, beta, visible, memory)
    for token, path in enumerate(paths):
        expected, _ = torch_recurrent_gated_delta_rule(
            query[:, path], key[:, path], value[:, path], g=decay[:, path], beta=beta[:, path],
            initial_state=memory.expand(2, -1, -1, -1), use_qk_l2norm_in_kernel=True, output_final_state=False,
        )  # fmt: skip
        torch.testing.assert_close(found[:, token], expected[:, -1], atol=1e-5, rtol=1e-5)


# Files


@pytest.fixture
def of_mlx_lm(folder: Path, tmp_path: Path) -> Path:
    """The folder as mlx-lm writes it, with a layer that predicts further tokens, which transformers has none of."""
    out = tmp_path / "of_mlx_lm"
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    for name, value in weights.items():
        if name.endswith("conv1d.weight"):
            weights[name] = np.ascontiguousarray(np.moveaxis(value, 2, 1))
        elif value.ndim == 1 and not name.endswith(("A_log", "dt_bias", "linear_attn.norm.weight")):
            weights[name] = value + 1
    save_file({**weights, "mtp.fc.weight": np.ones((4, 4), np.float32)}, out / "model.safetensors")
    return out


def test_a_folder_that_mlx_lm_wrote_computes_the_same(plain: Any, of_mlx_lm: Path) -> None:
    (ids,) = random_ids([20])
    np.testing.assert_allclose(TorchBackend().load(of_mlx_lm).logits(ids), plain.logits(ids), atol=1e-4)


def test_a_folder_that_mlx_lm_wrote_is_converted_to_hugging_faces_form(
    folder: Path, of_mlx_lm: Path, tmp_path: Path
) -> None:
    written = stored_tensors(TorchBackend().convert(of_mlx_lm, tmp_path / "out", ConvertSpec()).folder)
    expected = stored_tensors(folder)
    assert {name: shape for name, (_, shape, _) in written.items()} == {
        name: shape for name, (_, shape, _) in expected.items()
    }
    name = "model.layers.0.linear_attn.conv1d.weight"
    assert written[name] == expected[name]


# Other families


def test_a_delta_net_of_other_parts_is_refused_by_name() -> None:
    """OLMo's hybrid has q_proj and the like in its linear_attn."""
    config = {**tiny_config("qwen3"), "model_type": "olmo_hybrid", "pad_token_id": None}
    with pytest.raises(ModelError, match=r"'olmo_hybrid' is not supported: it has .*linear_attn"):
        TorchBackend().architecture(config)
