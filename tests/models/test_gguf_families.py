"""Layouts of .gguf files that differ from Llama's: written as llama.cpp's converter writes them, read back as transformers' own model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlxtune.errors import ModelError
from mlxtune.models import gguf
from mlxtune.models.gguf_config import read_config
from tests.adapted import BACKENDS, backend_named
from tests.llama_cpp_files import llama_cpp_file
from tests.tiny import tiny_gguf_tokenizer, tiny_tokenizer

torch = pytest.importorskip("torch")

VOCABULARY = 448
COMMON: dict[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 128,
    "vocab_size": VOCABULARY, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    # What llama.cpp's class of it has without being told: five blocks with a window to one without, a local RoPE of 10,000.
    "gemma3_text": {
        **COMMON, "num_hidden_layers": 7, "num_key_value_heads": 1, "sliding_window": 8, "sliding_window_pattern": 6,
        "rope_theta": 30000.0, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 32,
    },
    "qwen3_moe": {
        **COMMON, "num_hidden_layers": 2, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "norm_topk_prob": True, "rope_theta": 30000.0, "tie_word_embeddings": False,
    },
    # Two value heads to a key head, so that their order counts, and the order of key heads among them.
    "qwen3_5_text": {
        **COMMON, "num_hidden_layers": 4, "full_attention_interval": 3, "linear_num_key_heads": 3, "linear_num_value_heads": 6,
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 30000.0, "partial_rotary_factor": 0.25,
                            "mrope_section": [2, 1, 1], "mrope_interleaved": True},
    },
}  # fmt: skip
IDS = list(range(3, 33))


@dataclass(frozen=True)
class Given:
    """transformers' own random model of a family, and what its files hold."""

    config: dict[str, Any]
    network: Any
    weights: dict[str, NDArray[np.float32]]
    tokenizer: dict[str, Any]

    def file(self, path: Path, **metadata: Any) -> Path:
        return llama_cpp_file(path, self.config, self.weights, self.tokenizer, metadata)


def given_model(folder: Path, family: str) -> Given:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {"model_type": family, **CONFIGS[family]}
    own = AutoConfig.for_model(family).from_dict(config)
    network = AutoModelForCausalLM.from_config(own, dtype=torch.float32).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim > 1:
                value.normal_(0, 1.5 * value.shape[-1] ** -0.5, generator=random)
            elif name.endswith("A_log"):
                value.uniform_(-4, 0, generator=random)
            else:
                value.add_(torch.randn(value.shape, generator=random), alpha=0.1)
    network.save_pretrained(folder / "theirs")
    tokenizer = tiny_gguf_tokenizer(tiny_tokenizer(folder / "tokenizer"), VOCABULARY, "qwen2")
    return Given(config, network, load_file(folder / "theirs" / "model.safetensors"), tokenizer)


@pytest.fixture(scope="module", params=CONFIGS)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Given:
    return given_model(tmp_path_factory.mktemp(request.param), request.param)


def logits(network: Any) -> NDArray[np.float32]:
    with torch.no_grad():
        found: NDArray[np.float32] = network(torch.tensor([IDS])).logits[0].numpy()
    return found


def test_the_weights_are_those_of_hugging_faces_files(given: Given, tmp_path: Path) -> None:
    got = dict(gguf.tensors(given.file(tmp_path / "model.gguf")))
    assert got.keys() == given.weights.keys() and len(got) > 20
    for name, weight in given.weights.items():
        np.testing.assert_allclose(got[name], weight, atol=1e-6, err_msg=name)


def test_transformers_computes_the_same_from_what_was_read(given: Given, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    gguf.to_folder(given.file(tmp_path / "model.gguf"), tmp_path / "out", "float32")
    expected = logits(given.network)
    assert np.ptp(expected) > 1
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    np.testing.assert_allclose(logits(read), expected, atol=1e-4)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return given_model(tmp_path_factory.mktemp("gemma"), "gemma3_text")


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Given:
    return given_model(tmp_path_factory.mktemp("hybrid"), "qwen3_5_text")


@pytest.mark.parametrize("name", BACKENDS)
def test_both_backends_compute_what_was_read(given: Given, tmp_path: Path, name: str) -> None:
    gguf.to_folder(given.file(tmp_path / "model.gguf"), tmp_path / "out", "float32")
    model = backend_named(name).load(tmp_path / "out")
    np.testing.assert_allclose(model.logits(IDS), logits(given.network), atol=1e-4)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"gemma3.attention.sliding_window_pattern": 3}, {"sliding_window_pattern": 3}),
        ({"gemma3.rope.freq_base_swa": 5000.0}, {"rope_local_base_freq": 5000.0}),
        ({"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0},
         {"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 8.0}}),
    ],
)  # fmt: skip
def test_what_a_gemma_says_counts_more_than_llama_cpps_defaults(
    gemma: Given, tmp_path: Path, metadata: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read_config(gemma.file(tmp_path / "model.gguf", **metadata)).items() >= expected.items()


def test_a_gemma_without_a_window_attends_to_all_tokens(gemma: Given, tmp_path: Path) -> None:
    config = read_config(gemma.file(tmp_path / "model.gguf", **{"gemma3.attention.sliding_window": None}))
    assert set(config["layer_types"]) == {"full_attention"}
    assert all(backend_named(name).architecture(config).windows == (None,) * 7 for name in BACKENDS)


def test_the_largest_gemma_scales_its_attention_otherwise(
    gemma: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gemma.file(tmp_path / "model.gguf")
    assert read_config(file)["query_pre_attn_scalar"] == 32
    monkeypatch.setattr("mlxtune.models.gguf_config.GEMMA3_27B_BLOCKS", 7)
    assert read_config(file)["query_pre_attn_scalar"] == 16


def test_capped_logits_are_refused_by_name(gemma: Given, tmp_path: Path) -> None:
    file = gemma.file(tmp_path / "model.gguf", **{"gemma3.final_logit_softcapping": 30.0})
    with pytest.raises(ModelError, match=r"gemma3\.final_logit_softcapping: its logits are capped"):
        read_config(file)


def test_blocks_that_guess_further_tokens_are_left_out(hybrid: Given, tmp_path: Path) -> None:
    guessing = {
        f"model.layers.4.{name.split('.', 3)[3]}": weight
        for name, weight in hybrid.weights.items()
        if name.startswith("model.layers.2.")
    }
    assert guessing.keys() & {"model.layers.4.self_attn.q_proj.weight"}
    file = llama_cpp_file(
        tmp_path / "model.gguf", hybrid.config, {**hybrid.weights, **guessing}, hybrid.tokenizer,
        {"qwen35.block_count": 5, "qwen35.nextn_predict_layers": 1},
    )  # fmt: skip
    assert read_config(file)["num_hidden_layers"] == 4
    assert dict(gguf.tensors(file)).keys() == hybrid.weights.keys()


def test_delta_nets_at_other_places_are_refused_by_name(hybrid: Given, tmp_path: Path) -> None:
    file = hybrid.file(tmp_path / "model.gguf", **{"qwen35.attention.recurrent_layers": [True, False, True, True]})
    with pytest.raises(ModelError, match=r"recurrent_layers: expected the last of every 3 blocks"):
        read_config(file)


def test_experts_of_a_dense_architecture_are_refused_by_name(hybrid: Given, tmp_path: Path) -> None:
    file = hybrid.file(tmp_path / "model.gguf", **{"qwen35.expert_count": 8})
    with pytest.raises(ModelError, match=r"a mixture of experts of architecture 'qwen35', .* that are: qwen3moe"):
        read_config(file)
