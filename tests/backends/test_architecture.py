"""Weights, linear layers, parameters and LoRA layers from config.json alone, by either library's own classes."""

from __future__ import annotations

from typing import Any

import pytest

from mlxtune.backends.architecture import Architecture, DeltaNet
from mlxtune.backends.base import Backend
from mlxtune.errors import ModelError
from tests.adapted import BACKENDS, backend_named
from tests.tiny import EXPERT_FAMILIES, FAMILIES, MORE_FAMILIES, TORCH_ALONE, tiny_config, tiny_weights

ALL = (*FAMILIES, *MORE_FAMILIES, *EXPERT_FAMILIES)

QWEN3_0_6B = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 4096,
}  # fmt: skip
QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 4096,
}  # fmt: skip
QWEN25_05B = {
    "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 4096,
}  # fmt: skip
SMOLLM2_135M = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 4096,
}  # fmt: skip


QWEN3_30B_A3B = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
    "num_experts_per_tok": 8, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "vocab_size": 151936, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 40960,
}  # fmt: skip


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def described(backend: Backend, family: str, config: dict[str, Any]) -> Architecture:
    """The architecture; the test is skipped where the backend does not have the family."""
    if backend.name == "mlx" and family in TORCH_ALONE:
        pytest.skip("mlx-lm gives all its layers one mask")
    return backend.architecture(config)


def lora_parameters(architecture: Architecture, rank: int, layers: tuple[str, ...]) -> int:
    return sum(rank * sum(architecture.linear_layers[name]) for name in layers)


def test_rank_8_on_the_attention_of_qwen3_06b_has_the_known_number_of_parameters(backend: Backend) -> None:
    architecture = backend.architecture(QWEN3_0_6B)
    assert lora_parameters(architecture, 8, architecture.lora_layers("attention")) == 2_293_760


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (QWEN3_0_6B, 596_049_920), (QWEN2_7B, 7_615_616_512), (QWEN25_05B, 494_032_768), (SMOLLM2_135M, 134_515_008),
        (QWEN3_30B_A3B, 30_532_122_624),
    ],
)  # fmt: skip
def test_parameters_of_real_models_are_the_published_ones(backend: Backend, config: dict[str, Any], known: int) -> None:
    assert backend.architecture(config).n_parameters == known


def test_a_token_of_qwen3_30b_a3b_is_computed_with_3_billion_parameters(backend: Backend) -> None:
    architecture = backend.architecture(QWEN3_30B_A3B)
    of_experts = 48 * 128 * 3 * 2048 * 768
    assert architecture.n_active_parameters == 30_532_122_624 - of_experts * (128 - 8) // 128
    assert round(architecture.n_active_parameters / 1e9, 1) == 3.4  # "3.3B activated" of the model's card
    assert architecture.inner_size == 8 * 768
    assert backend.architecture(QWEN2_7B).n_active_parameters == 7_615_616_512


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_those_of_the_files(backend: Backend, family: str, tied: bool) -> None:
    config = tiny_config(family, tied=tied)
    architecture = described(backend, family, config)
    assert architecture.is_tied == tied
    assert architecture.weights == {name: weight.shape for name, weight in tiny_weights(config).items()}


@pytest.mark.parametrize("family", [family for family in ALL if family not in TORCH_ALONE])
@pytest.mark.parametrize("tied", [True, False])
def test_both_libraries_say_the_same(family: str, tied: bool) -> None:
    mlx, torch = (backend_named(name).architecture(tiny_config(family, tied=tied)) for name in BACKENDS)
    assert mlx == torch and list(mlx.linear_layers) == list(torch.linear_layers)


@pytest.mark.parametrize("family", ALL)
def test_the_linear_layers_are_all_matrices_but_embedding_and_head(backend: Backend, family: str) -> None:
    config = tiny_config(family, tied=False)
    expected = {
        name.removesuffix(".weight"): weight.shape[::-1]
        for name, weight in tiny_weights(config).items()
        if weight.ndim == 2 and ".layers." in name and not name.endswith("mlp.gate.weight")  # routers
    }
    assert described(backend, family, config).linear_layers == expected and len(expected) >= 8


@pytest.mark.parametrize("family", ALL)
def test_parameters_are_as_many_as_transformers_counts(backend: Backend, family: str) -> None:
    pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    config = tiny_config(family)
    own = AutoConfig.for_model(config["model_type"]).from_dict(config)
    counted = AutoModelForCausalLM.from_config(own).num_parameters()
    assert described(backend, family, config).n_parameters == counted


def test_where_the_config_is_silent_the_head_is_tied_as_in_transformers(backend: Backend) -> None:
    silent = {family: tiny_config(family) for family in ("llama", "qwen3", "gemma3_text", "smollm3")}
    for config in silent.values():
        del config["tie_word_embeddings"]
    tied = {family: backend.architecture(config).is_tied for family, config in silent.items()}
    assert tied == {"llama": False, "qwen3": False, "gemma3_text": True, "smollm3": True}


@pytest.mark.parametrize(
    ("family", "keys", "windows"),
    [
        ("gemma3_text", {}, (8, None)),
        (
            "gemma3_text",
            {"sliding_window_pattern": None, "layer_types": ["sliding_attention", "full_attention"]},
            (8, None),
        ),
        ("mistral-window", {}, (8, 8)),
        ("mistral-window", {"sliding_window": 4096}, (None, None)),  # all the positions that there are
        ("llama", {"sliding_window": 8}, (None, None)),  # a key that the family does not have
    ],
)
def test_windows_are_those_of_transformers(
    backend: Backend, family: str, keys: dict[str, Any], windows: tuple[int | None, ...]
) -> None:
    config = {key: value for key, value in {**tiny_config(family), **keys}.items() if value is not None}
    assert backend.architecture(config).windows == windows


def test_blocks_with_a_state_are_told_from_those_with_attention(backend: Backend) -> None:
    architecture = backend.architecture(tiny_config("qwen3_5_text", layers=4))
    net, *_ = architecture.delta_nets
    assert net == DeltaNet(n_key_heads=2, n_value_heads=4, key_dim=16, value_dim=32, kernel=4)
    assert architecture.delta_nets == (net, None, net, None) and architecture.windows == (None,) * 4
    channels = architecture.weights["model.layers.0.linear_attn.conv1d.weight"][0]
    assert net.channels == channels == 192
    assert architecture.state_bytes(2) == 2 * (4 * 4 * 16 * 32 + 2 * 3 * channels)
    assert architecture.is_recurrent and not backend.architecture(tiny_config("qwen3")).is_recurrent


def test_attention_means_the_layers_of_gated_delta_nets_too(backend: Backend) -> None:
    layers = backend.architecture(tiny_config("qwen3_5_text")).lora_layers("attention")
    of_delta_net = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")
    of_attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert layers == (
        *(f"model.layers.0.linear_attn.{name}" for name in of_delta_net),
        *(f"model.layers.1.self_attn.{name}" for name in of_attention),
    )


def test_gated_delta_nets_where_mlx_lm_has_attention_are_refused_there_by_name() -> None:
    kinds = ["full_attention", "linear_attention", "linear_attention"]
    config = {**tiny_config("qwen3_5_text", layers=3), "layer_types": kinds, "full_attention_interval": None}
    assert backend_named("torch").architecture(config).n_attention_blocks == 1
    with pytest.raises(ModelError, match=r"linear_attention in blocks \[1, 2\], and mlx-lm in .*use --backend torch"):
        backend_named("mlx").architecture(config)


def test_a_large_model_takes_no_memory(backend: Backend) -> None:
    peak = backend.peak_memory_bytes(reset=True)
    peak = backend.peak_memory_bytes(reset=True)
    config = {**QWEN2_7B, "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64}
    assert backend.architecture(config).n_parameters > 40e9
    assert backend.peak_memory_bytes() - peak < 1e9


def test_targets_all_are_seven_layers_a_block(backend: Backend) -> None:
    assert len(backend.architecture(QWEN3_0_6B).lora_layers()) == 28 * 7


def test_targets_by_name_keep_the_order_of_the_model(backend: Backend) -> None:
    architecture = backend.architecture({**QWEN3_0_6B, "num_hidden_layers": 1})
    assert architecture.lora_layers(["up_proj", "q_proj"]) == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
    )


def test_layers_count_from_the_end(backend: Backend) -> None:
    assert backend.architecture(QWEN3_0_6B).lora_layers(["q_proj"], 2) == (
        "model.layers.26.self_attn.q_proj",
        "model.layers.27.self_attn.q_proj",
    )


def test_an_unknown_target_is_refused_with_the_known_ones(backend: Backend) -> None:
    with pytest.raises(ModelError, match=r"no layer named 'query'; it has q_proj, k_proj, v_proj, o_proj, gate_proj"):
        backend.architecture(QWEN3_0_6B).lora_layers(["query"])


@pytest.mark.parametrize("layers", [0, -1, 29])
def test_layers_that_do_not_exist_are_refused(backend: Backend, layers: int) -> None:
    with pytest.raises(ModelError, match="expected 1 to 28"):
        backend.architecture(QWEN3_0_6B).lora_layers("all", layers)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "no_such_family"}, "model_type 'no_such_family'"),
        ({"model_type": None}, "expected the name of a model family under 'model_type', got None"),
        ({"model_type": "mamba", "state_size": 4, "conv_kernel": 4, "time_step_rank": 2}, "'mamba'"),
        ({"model_type": "granite", "logits_scaling": 8.0, "attention_multiplier": 1.0, "embedding_multiplier": 1.0,
          "residual_multiplier": 1.0, "mlp_bias": False},
         "'granite' is not supported: its logits are capped or scaled after the head"),
        ({"model_type": "qwen3_5_text", "layer_types": ["linear_attention"] * 2, "full_attention_interval": 3,
          "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 32,
          "linear_conv_kernel_dim": 4}, "'qwen3_5_text' is not supported: it has no blocks of attention"),
        ({"hidden_size": "wide"}, "'qwen3'|hidden_size"),
    ],
)  # fmt: skip
def test_what_is_no_dense_decoder_is_refused_by_name(backend: Backend, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        backend.architecture({**tiny_config("qwen3"), **changes})
