"""Linear layers, parameters and LoRA layers from config.json alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import ModelError
from mlxtune.models.architecture import linear_layers, lora_layers, n_parameters
from tests.tiny import FAMILIES, tiny_config, tiny_weights

QWEN3_0_6B = {
    "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 3072, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
QWEN2_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip
QWEN25_05B = {
    "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
SMOLLM2_135M = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def lora_parameters(config: dict[str, Any], rank: int, layers: tuple[str, ...]) -> int:
    shapes = linear_layers(config)
    return sum(rank * sum(shapes[name]) for name in layers)


def test_rank_8_on_the_attention_of_qwen3_06b_has_the_known_number_of_parameters() -> None:
    assert lora_parameters(QWEN3_0_6B, 8, lora_layers(QWEN3_0_6B, "attention")) == 2_293_760


@pytest.mark.parametrize(
    ("config", "known"),
    [(QWEN3_0_6B, 596_049_920), (QWEN2_7B, 7_615_616_512), (QWEN25_05B, 494_032_768), (SMOLLM2_135M, 134_515_008)],
)
def test_parameters_of_real_models_are_the_published_ones(config: dict[str, Any], known: int) -> None:
    assert n_parameters(config) == known


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_weights(family: str, tied: bool) -> None:
    config = tiny_config(family, tied=tied)
    assert n_parameters(config) == sum(weight.size for weight in tiny_weights(config).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_those_of_the_weights(family: str) -> None:
    config = tiny_config(family)
    weights = tiny_weights(config)
    layers = linear_layers(config)
    assert len(layers) == 14
    for name, (n_in, n_out) in layers.items():
        assert weights[f"{name}.weight"].shape == (n_out, n_in)


def test_targets_all_are_seven_layers_a_block() -> None:
    assert len(lora_layers(QWEN3_0_6B)) == 28 * 7


def test_targets_by_name_keep_the_order_of_the_model() -> None:
    assert lora_layers({**QWEN3_0_6B, "num_hidden_layers": 1}, ["up_proj", "q_proj"]) == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
    )


def test_layers_count_from_the_end() -> None:
    assert lora_layers(QWEN3_0_6B, ["q_proj"], 2) == (
        "model.layers.26.self_attn.q_proj",
        "model.layers.27.self_attn.q_proj",
    )


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"no layer named 'query'; it has q_proj, k_proj"):
        lora_layers(QWEN3_0_6B, ["query"])


@pytest.mark.parametrize("layers", [0, -1, 29])
def test_layers_that_do_not_exist_are_refused(layers: int) -> None:
    with pytest.raises(ModelError, match="expected 1 to 28"):
        lora_layers(QWEN3_0_6B, "all", layers)


def test_an_unsupported_model_type_is_named() -> None:
    with pytest.raises(ModelError, match=r"'mamba' is not supported; supported: qwen2, qwen3, llama"):
        linear_layers({**QWEN3_0_6B, "model_type": "mamba"})


def test_a_config_that_lacks_a_key_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="hidden_size"):
        linear_layers({key: value for key, value in QWEN3_0_6B.items() if key != "hidden_size"})


def test_tiny_models_are_as_documented(tmp_path: Path) -> None:
    from tests.tiny import tiny_model

    folder = tiny_model(tmp_path / "base", "qwen2")
    assert {file.name for file in folder.iterdir()} >= {"config.json", "tokenizer.json", "model.safetensors"}
