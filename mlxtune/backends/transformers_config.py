"""A config.json as transformers reads it, defaults filled in: no model class, so that neither torch nor MLX is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlxtune.backends.architecture import BUILD_ERRORS
from mlxtune.errors import ModelError
from mlxtune.models.positions import max_positions

QUANTIZATION_KEYS = ("quantization", "quantization_config")
FULL, SLIDING = "full_attention", "sliding_attention"
LINEAR = "linear_attention"  # a layer with a state; which one, its weights say


def read_as_transformers(config: Mapping[str, Any]) -> Any | None:
    """transformers' own config of a model; None where the installed transformers does not know the family.

    Raises:
        ModelError: A value that transformers refuses.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        family = AutoConfig.for_model(config["model_type"])
    except ValueError:
        return None
    settings = {key: value for key, value in config.items() if key not in QUANTIZATION_KEYS}
    try:
        return family.from_dict(settings)
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        raise ModelError(f"config.json: transformers refuses it: {error}") from error


def windows_of(own: Any, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Of each block, how many tokens its attention sees; None where it sees all that there can be, or has no attention.

    Source:
        transformers' masking_utils.create_masks_for_generate, the rule by which it makes masks for any family.

    Args:
        own: transformers' config.
        config: config.json.

    Raises:
        ModelError: A block of another kind.
    """
    knows_windows = any("sliding_window" in vars(kind).get("__annotations__", ()) for kind in type(own).__mro__)
    window = own.sliding_window if knows_windows else None
    kinds = getattr(own, "layer_types", None) or [FULL if window is None else SLIDING] * own.num_hidden_layers
    if strange := sorted(set(kinds) - {FULL, SLIDING, LINEAR}):
        raise ModelError(
            f"config.json: model_type {own.model_type!r} has blocks of the kind {strange[0]!r}, which is not supported; "
            f"supported are {FULL}, {SLIDING} and {LINEAR}"
        )
    return reachable([window if kind == SLIDING else None for kind in kinds], config)


def reachable(windows: Iterable[int | None], config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The windows, None for those that hold all positions of the model."""
    longest = max_positions(config)
    return tuple(None if size is None or (longest is not None and size >= longest) else size for size in windows)
