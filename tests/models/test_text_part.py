"""What a multimodal config's text part is: against transformers' own multimodal classes, built without memory, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import ModelError
from mlxtune.models.source import find, left_out, read_config, settled, text_weights
from mlxtune.models.text_part import (
    IN_MLX_LM,
    IN_TRANSFORMERS,
    TEXT_FAMILIES,
    TOKENS,
    nested_name,
    text_config,
    text_name,
)
from tests.adapted import BACKENDS, backend_named
from tests.multimodal import CASES, PLAIN, multimodal_config, tiny_multimodal
from tests.tiny import stored_tensors, tiny_config, tiny_model

VISION_OF_QWEN3 = {"depth": 1, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 32,
                   "patch_size": 4, "num_position_embeddings": 16}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
# Of files on the Hub, as far as they are about text.
PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen2_vl": {  # Qwen2-VL-2B-Instruct
        "model_type": "qwen2_vl", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 32768, "use_sliding_window": False,
        "tie_word_embeddings": True, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "torch_dtype": "bfloat16",
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 1536, "num_heads": 2, "patch_size": 4},
    },
    "qwen2_5_vl": {  # Qwen2.5-VL-3B-Instruct
        "model_type": "qwen2_5_vl", "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "max_position_embeddings": 128000, "max_window_layers": 70, "sliding_window": 32768, "use_sliding_window": False,
        "tie_word_embeddings": True, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "torch_dtype": "bfloat16",
        "vision_config": {"depth": 1, "hidden_size": 32, "out_hidden_size": 2048, "num_heads": 2, "patch_size": 4},
    },
    "qwen3_vl": {  # Qwen3-VL-2B-Instruct
        "model_type": "qwen3_vl", "tie_word_embeddings": True, "vision_config": {**VISION_OF_QWEN3, "deepstack_visual_indexes": [0]},
        "text_config": {
            "model_type": "qwen3_vl_text", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "head_dim": 128,
            "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 5000000,
            "max_position_embeddings": 262144, "rope_scaling": MROPE, "tie_word_embeddings": True, "dtype": "bfloat16",
        },
    },
    "qwen3_vl_moe": {  # Qwen3-VL-30B-A3B-Instruct, of fewer blocks
        "model_type": "qwen3_vl_moe", "tie_word_embeddings": False,
        "vision_config": {**VISION_OF_QWEN3, "deepstack_visual_indexes": [0]},
        "text_config": {
            "model_type": "qwen3_vl_moe_text", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 4,
            "head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936, "rms_norm_eps": 1e-6,
            "rope_theta": 5000000, "max_position_embeddings": 262144, "rope_scaling": MROPE, "decoder_sparse_step": 1,
            "mlp_only_layers": [], "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        },
    },
    "qwen3_5": {  # as the family's sizes go, of one period of blocks
        "model_type": "qwen3_5", "tie_word_embeddings": False, "vision_config": VISION_OF_QWEN3,
        "text_config": {
            "model_type": "qwen3_5_text", "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 4, "head_dim": 256,
            "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 248320, "linear_num_key_heads": 16,
            "linear_num_value_heads": 16, "full_attention_interval": 4,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "partial_rotary_factor": 0.25,
                                "mrope_section": [11, 11, 10], "mrope_interleaved": True},
        },
    },
    "gemma3": {  # gemma-3-4b-it, which leaves most to defaults
        "model_type": "gemma3", "eos_token_id": [1, 106], "mm_tokens_per_image": 256, "torch_dtype": "bfloat16",
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "image_size": 896, "patch_size": 14},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
    },
}  # fmt: skip


def empty(config: dict[str, Any], auto: str) -> Any:
    """transformers' network of a config, without memory."""
    import torch
    import transformers

    own = transformers.AutoConfig.for_model(config["model_type"]).from_dict(json.loads(json.dumps(config)))
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(own)


def shapes_of(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.named_parameters()}


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_text_part_has_the_weights_that_transformers_multimodal_class_has(family: str) -> None:
    pytest.importorskip("torch")
    whole = empty(PUBLISHED[family], "AutoModelForImageTextToText")
    config = text_config(PUBLISHED[family])
    plain = empty(config, "AutoModelForCausalLM")
    named = {text_name(name): shape for name, shape in shapes_of(whole).items()}
    assert None in named  # the vision part
    assert {name: shape for name, shape in named.items() if name is not None} == shapes_of(plain)
    assert [type(plain).__name__] == config["architectures"]
    assert whole.config.tie_word_embeddings == plain.config.tie_word_embeddings


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_text_part_has_the_settings_that_transformers_multimodal_class_has(family: str) -> None:
    pytest.importorskip("torch")
    text = empty(PUBLISHED[family], "AutoModelForImageTextToText").config.get_text_config().to_dict()
    plain = empty(text_config(PUBLISHED[family]), "AutoModelForCausalLM").config.to_dict()
    rope = [{key: value for key, value in one["rope_parameters"].items() if key != "type"} for one in (text, plain)]
    for key in ("mrope_section", "mrope_interleaved"):
        if TEXT_FAMILIES[family].model_type != f"{family}_text":
            rope[0].pop(key, None)
    assert rope[0] == rope[1]
    named = {
        *TOKENS,
        "model_type",
        "architectures",
        "rope_parameters",
        "tie_word_embeddings",
        "dtype",
        "transformers_version",
    }
    shared = (text.keys() & plain.keys()) - named
    assert {key: text[key] for key in shared} == {key: plain[key] for key in shared} and len(shared) > 12


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize(
    ("family", "n_parameters"), [("qwen2_vl", 1_543_714_304), ("qwen2_5_vl", 3_085_938_688), ("gemma3", 3_880_263_168)]
)
def test_parameters_are_those_of_the_text_model_of_that_size(name: str, family: str, n_parameters: int) -> None:
    assert backend_named(name).architecture(text_config(PUBLISHED[family])).n_parameters == n_parameters


@pytest.mark.parametrize(("family", "layout"), CASES)
@pytest.mark.parametrize("name", BACKENDS)
def test_every_layout_of_a_config_is_that_of_the_plain_family(name: str, family: str, layout: str) -> None:
    backend = backend_named(name)
    for tied in (True, False):
        plain = tiny_config(PLAIN[family], tied=tied)
        assert backend.architecture(text_config(multimodal_config(family, layout, tied=tied))) == backend.architecture(
            plain
        )


def test_rope_scaling_of_text_stays(tmp_path: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "mrope_section": [4, 2, 2]}
    config = text_config({**multimodal_config("qwen2_vl", "older"), "rope_scaling": yarn})
    known = settled(tiny_multimodal(tmp_path / "base", "qwen2_vl", "older"), config)
    assert (known["rope_theta"], known["rope_scaling"]["rope_type"], known["rope_scaling"]["factor"]) == (
        30000.0,
        "yarn",
        4.0,
    )
    assert not any(key.startswith("mrope") for key in known["rope_scaling"])


def test_what_counts_for_the_whole_model_counts_for_its_text_part() -> None:
    config = {**multimodal_config("gemma3"), "torch_dtype": "bfloat16", "eos_token_id": [1, 106]}
    config["quantization"] = {"bits": 4, "group_size": 64, "language_model.model.layers.0.mlp.up_proj": {"bits": 8},
                              "vision_tower.encoder.layers.0.mlp.fc1": False}  # fmt: skip
    found = text_config(config)
    assert (found["torch_dtype"], found["eos_token_id"]) == ("bfloat16", [1, 106])
    assert found["quantization"] == {"bits": 4, "group_size": 64, "model.layers.0.mlp.up_proj": {"bits": 8}}


@pytest.mark.parametrize("tied", [True, False])
def test_where_whole_and_text_part_disagree_the_weights_say_whether_the_head_is_tied(
    tmp_path: Path, tied: bool
) -> None:
    folder = tiny_multimodal(tmp_path / "base", "gemma3", tied=tied)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["tie_word_embeddings"] = not tied
    (folder / "config.json").write_text(json.dumps(config))
    assert settled(folder, read_config(folder))["tie_word_embeddings"] == tied


@pytest.mark.parametrize("model_type", [None, 3, ["qwen3_vl"]])
def test_a_model_type_that_is_no_name_is_refused_as_such(model_type: Any) -> None:
    with pytest.raises(ModelError, match="expected the name of a model family under 'model_type'"):
        backend_named("mlx").architecture({"model_type": model_type})


def test_a_text_model_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "base")
    assert text_config(tiny_config("qwen3")) == tiny_config("qwen3")
    assert list(text_weights(folder)) == list(stored_tensors(folder)) and left_out(folder) is None


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("model.language_model.embed_tokens.weight", "model.embed_tokens.weight"),
        ("language_model.model.layers.3.mlp.up_proj.scales", "model.layers.3.mlp.up_proj.scales"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("language_model.lm_head", "lm_head"),
        ("lm_head.weight", "lm_head.weight"),
        ("model.visual.merger.norm.bias", None),
        ("visual.blocks.0.attn.qkv.weight", None),
        ("vision_tower.vision_model.embeddings.position_embedding.weight", None),
        ("multi_modal_projector.mm_input_projection_weight", None),
        ("mtp.layers.0.mlp.up_proj.weight", None),
        ("model.layers.0.self_attn.visual.weight", "model.layers.0.self_attn.visual.weight"),
    ],
)
def test_names_of_weights_are_those_of_a_text_model(name: str, plain: str | None) -> None:
    assert text_name(name) == plain


@pytest.mark.parametrize("prefix", [IN_TRANSFORMERS, IN_MLX_LM])
def test_names_go_there_and_back(prefix: str) -> None:
    layer = "model.layers.10.self_attn.q_proj.lora_A"
    assert nested_name(layer, prefix) == f"{prefix}layers.10.self_attn.q_proj.lora_A"
    assert text_name(nested_name(layer, prefix)) == layer


# Refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llava", "text_config": {"model_type": "llama"}, "vision_config": {"model_type": "clip"}},
         r"'llava' is a multimodal model \(text_config, vision_config\) whose text part is not supported; supported are qwen2_vl, "),
        ({"model_type": "qwen3_5_moe", "text_config": {"model_type": "qwen3_5_moe_text"}, "vision_config": {"depth": 2}},
         r"'qwen3_5_moe' is a multimodal model .* whose text part is not supported; supported are .*qwen3_5, gemma3\. Give one"),
        ({"model_type": "qwen2_5_omni", "thinker_config": {"model_type": "qwen2_5_omni_thinker"}},
         r"'qwen2_5_omni' is a multimodal model \(thinker_config\)"),
        ({"model_type": "qwen3_vl_vision", "hidden_size": 32}, "'qwen3_vl_vision' is one part .* give the whole model"),
        ({"model_type": "siglip_vision_model", "hidden_size": 32}, "'siglip_vision_model' is one part"),
        ({"model_type": "qwen3_vl", "vision_config": {"depth": 2}},
         "'qwen3_vl' has no text part: expected hidden_size and num_hidden_layers under 'text_config', got model_type, vision_config"),
        ({"model_type": "qwen3_vl", "text_config": {}}, "has no text part"),
        ({"model_type": "gemma3", "text_config": ["hidden_size"]}, "has no text part"),
        ({**multimodal_config("qwen3_vl"), "text_config": {"hidden_size": "wide", "num_hidden_layers": 2}},
         "transformers refuses its text_config: .*hidden_size"),
    ],
)  # fmt: skip
def test_what_has_no_text_part_that_is_known_is_refused_before_weights_are_asked_for(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    folder = tiny_model(tmp_path / "base")
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"(?s){said}"):
        read_config(folder)
    with pytest.raises(ModelError, match=f"(?s){said}"):
        find(str(folder), need="config", check=backend_named("mlx").architecture)


def test_weights_of_a_vision_part_alone_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tiny_multimodal(tmp_path / "base", "qwen3_vl")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "visual" in name}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"its 2 weights are of a vision part \(model\.visual\..*give the whole model"):
        find(str(folder))
    index = {"weight_map": {name: "model-00001-of-00001.safetensors" for name in weights if "visual" in name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ModelError, match=r"its 2 weights are of a vision part"
    ):  # of the index, before any is downloaded
        find(str(folder), need="config")
