"""The text part of multimodal models: its config and the names of its weights, as the plain text family has them. Reads no file.

    text_config(config)                                              # of config.json; a text model's is returned as it is
    text_name("model.language_model.layers.0.mlp.up_proj.weight")    # 'model.layers.0.mlp.up_proj.weight'
    text_name("model.visual.merger.norm.weight")                     # None: it is not of the text part

Multimodal RoPE gives each token three positions (time, height, width). Of text all three are the same number, so that it rotates
as plain RoPE of the same frequencies: the text part of a Qwen-VL computes what a Qwen of its sizes computes.
`tests/backends/test_text_parts.py` compares each family with transformers' multimodal class.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxtune.errors import ModelError


@dataclass(frozen=True)
class TextFamily:
    """The plain text family that a multimodal family's text part is a model of.

    Attributes:
        model_type: As config.json names it.
        network: transformers' class of it.
        settings: What the multimodal class always does and the plain one has a key for.
    """

    model_type: str
    network: str
    settings: Mapping[str, Any] = field(default_factory=dict)


# Multimodal model_type -> its text part's family. transformers calls the nested config's own type MODEL_TYPE_text.
TEXT_FAMILIES = {
    "qwen2_vl": TextFamily("qwen2", "Qwen2ForCausalLM"),
    "qwen2_5_vl": TextFamily("qwen2", "Qwen2ForCausalLM"),
    "qwen3_vl": TextFamily("qwen3", "Qwen3ForCausalLM"),
    "qwen3_vl_moe": TextFamily("qwen3_moe", "Qwen3MoeForCausalLM", {"norm_topk_prob": True}),
    "qwen3_5": TextFamily("qwen3_5_text", "Qwen3_5ForCausalLM"),
    "gemma3": TextFamily("gemma3_text", "Gemma3ForCausalLM"),
}
TEXT_CONFIG = "text_config"
# Configs of the parts of a multimodal model: a family that is not in TEXT_FAMILIES is known by them.
PART_CONFIGS = (
    TEXT_CONFIG,
    "vision_config",
    "audio_config",
    "thinker_config",
    "talker_config",
    "language_config",
    "llm_config",
)
PARTS_ALONE = re.compile(r"_(vision|vision_model|audio|audio_encoder)$")  # model types of one part that is no text
SIZES = ("hidden_size", "num_hidden_layers")  # a text config without these would be filled with those of another model
# Of the whole model's config: they count before the text part's own, which transformers' older versions left at defaults.
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
DTYPES = ("dtype", "torch_dtype")
QUANTIZATIONS = ("quantization", "quantization_config")
OLDER_ROPE = ("rope_scaling", "rope_theta", "rope_local_base_freq")  # all of it is in rope_parameters, too

# Beginnings of names, as transformers 5 and as mlx-lm and older versions have the text part, and what they are in a text model.
TEXT_PREFIXES = {
    "model.language_model.": "model.",
    "language_model.model.": "model.",
    "language_model.lm_head": "lm_head",
}
IN_TRANSFORMERS, IN_MLX_LM = "model.language_model.", "language_model.model."
OTHER_PARTS = re.compile(
    r"(model\.)?(?P<part>visual|vision_tower|multi_modal_projector|mtp)\."
)  # mtp: draft tokens ahead


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a multimodal family whose text part is known."""
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in TEXT_FAMILIES


def text_name(name: str) -> str | None:
    """What a text model calls a weight or layer of a multimodal one; None for one of another part. A text model's own stay as they are.

    >>> text_name("language_model.model.norm.weight"), text_name("model.norm.weight"), text_name("visual.patch_embed.proj.weight")
    ('model.norm.weight', 'model.norm.weight', None)
    """
    if other_part(name):
        return None
    for prefix, plain in TEXT_PREFIXES.items():
        if name.startswith(prefix):
            return plain + name.removeprefix(prefix)
    return name


def other_part(name: str) -> str:
    """Which part of a multimodal model, other than its text part, a weight or layer is of; nothing where it is of the text part.

    >>> other_part("model.visual.merger.norm.weight"), other_part("mtp.fc.weight"), other_part("model.norm.weight")
    ('visual', 'mtp', '')
    """
    found = OTHER_PARTS.match(name)
    return found["part"] if found else ""


def nested_name(name: str, prefix: str) -> str:
    """What a multimodal model calls a layer or weight of its text part's blocks.

    Args:
        name: As a text model has it.
        prefix: IN_TRANSFORMERS or IN_MLX_LM: whose class.

    >>> nested_name("model.layers.0.mlp.up_proj", IN_TRANSFORMERS)
    'model.language_model.layers.0.mlp.up_proj'
    """
    return prefix + name.removeprefix("model.")


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model's text part, as a config.json of its plain family; a text model's is returned as it is.

    What a nested config leaves to the defaults of the multimodal family is filled in from transformers, where it knows the family.

    Args:
        config: config.json, with the text part's config nested under `text_config`, or flat as Qwen2-VL's first files have it.

    Raises:
        ModelError: The family is multimodal and its text part is not known, or the config has no text part.
    """
    model_type = config.get("model_type")
    if not is_multimodal(config):
        _refuse_other_parts(model_type, config)
        return dict(config)
    family = TEXT_FAMILIES[str(model_type)]
    own = _nested(config)
    filled = _as_transformers(f"{model_type}_text", own)
    whole = {**{key: value for key, value in own.items() if not (filled and key in OLDER_ROPE)}, **filled}
    if family.model_type != f"{model_type}_text":
        whole = _plain_rope(whole)
    for key in (*TOKENS, *DTYPES, *QUANTIZATIONS):
        if config.get(key) is not None:
            whole[key] = config[key]
    for key in QUANTIZATIONS:
        if isinstance(whole.get(key), Mapping):
            whole[key] = _renamed(whole[key])
    whole.pop("tie_word_embeddings", None)
    if (tied := _said_to_be_tied(config, own)) is not None:
        whole["tie_word_embeddings"] = tied
    return {**whole, **family.settings, "model_type": family.model_type, "architectures": [family.network]}


def require_text(names: Iterable[str], model: str) -> None:
    """Refuse weights of which none is of a text part.

    Args:
        names: Of all weights.
        model: What messages call it.

    Raises:
        ModelError: All are of other parts.
    """
    known = list(names)
    if known and all(text_name(name) is None for name in known):
        raise ModelError(
            f"{model}: its {len(known)} weights are of a vision part ({known[0]}) and none is of a text part, which is what is "
            "trained; give the whole model"
        )


def _refuse_other_parts(model_type: object, config: Mapping[str, Any]) -> None:
    """Refuse a multimodal model that is not known, and a part of one that is no text."""
    parts = [key for key in PART_CONFIGS if isinstance(config.get(key), Mapping)]
    if parts:
        raise ModelError(
            f"config.json: model_type {model_type!r} is a multimodal model ({', '.join(parts)}) whose text part is not supported; "
            f"supported are {', '.join(TEXT_FAMILIES)}. Give one of these, or a text model"
        )
    if isinstance(model_type, str) and PARTS_ALONE.search(model_type):
        raise ModelError(
            f"config.json: model_type {model_type!r} is one part of a multimodal model, without its text part; give the whole model"
        )


def _nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text part's own settings, or those of a flat config without what is of the whole model."""
    nested = config.get(TEXT_CONFIG)
    if nested is None:
        other = re.compile(r"(image|video|vision)_|text_config$|transformers_version$|architectures$")
        nested = {key: value for key, value in config.items() if not other.match(key)}
    missing = [key for key in SIZES if not isinstance(nested, Mapping) or key not in nested]
    if missing:
        raise ModelError(
            f"config.json: model_type {config['model_type']!r} has no text part: expected {' and '.join(missing)} under "
            f"'{TEXT_CONFIG}', got {', '.join(sorted(config))}; give the whole model"
        )
    return dict(nested)


def _as_transformers(model_type: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' config of a nested type declares, with its defaults and RoPE in one form; nothing where it lacks the type."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        kind = type(AutoConfig.for_model(model_type))
    except ValueError:
        return {}
    settings = {key: copy.deepcopy(value) for key, value in own.items() if key not in (*QUANTIZATIONS, "model_type")}
    try:
        said = kind.from_dict(settings).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        raise ModelError(f"config.json: transformers refuses its {TEXT_CONFIG}: {error}") from error
    declared = vars(kind).get("__annotations__", {})
    return {key: said[key] for key in declared if key in said and key not in (*TOKENS, "tie_word_embeddings")}


def _plain_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config whose RoPE has one position a token: the same frequencies, not divided among three."""
    plain = dict(config)
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(said := config.get(key), Mapping):
            plain[key] = {name: value for name, value in said.items() if not name.startswith("mrope")}
            kind = said.get("rope_type") or said.get("type")
            plain[key] |= {
                name: "default" if kind == "mrope" else kind for name in ("rope_type", "type") if name in said
            }
    return plain


def _renamed(quantization: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of quantized layers, by their names in a text model."""
    names = {key: text_name(key) for key in quantization}
    return {name: quantization[key] for key, name in names.items() if name is not None}


def _said_to_be_tied(config: Mapping[str, Any], own: Mapping[str, Any]) -> bool | None:
    """Whether the head is the embedding, by the whole model's config and the text part's; None where they disagree or are silent.

    Versions of transformers wrote it into one or the other and left the other at its default; the weights know.
    """
    said = {bool(one["tie_word_embeddings"]) for one in (config, own) if one.get("tie_word_embeddings") is not None}
    return said.pop() if len(said) == 1 else None
