"""A model folder as mlx-lm's network, weights lazy: the one place that calls mlx-lm's loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx_lm.utils import _get_classes, load_model

from mlxtune.errors import ModelError
from mlxtune.models.source import check_folder, read_config, settled


def load_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """mlx-lm's network and config of a model folder, in Hugging Face's or MLX's layout, quantized or not.

    Beyond mlx-lm's own loader: a tied model may carry `lm_head.*`, also quantized, which is dropped; where the config
    does not say whether embeddings are tied, the weights do; and RoPE as transformers 5 writes it is read for every
    model type (mlx-lm's qwen2 and llama know only the older keys, and compute with their defaults without a word).

    Args:
        folder: The model.

    Returns:
        The network, its weights not yet read, and the config, with `eos_token_id` from generation_config.json.

    Raises:
        ModelError: The folder is not whole, or mlx-lm cannot load it.
    """
    check_folder(folder, str(folder))
    known = settled(folder, read_config(folder))
    try:
        network, config = load_model(folder, lazy=True, model_config=known, get_model_classes=_classes)
    except (ValueError, RuntimeError, FileNotFoundError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: MLX cannot load this model: {error}") from error
    return network, config


def _classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    model_class, arguments_class = _get_classes(config)

    class Model(model_class):  # type: ignore[misc, valid-type]
        """mlx-lm's model, which drops only `lm_head.weight` of a tied checkpoint and then refuses its scales."""

        def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
            weights = dict(super().sanitize(weights))
            if not self.args.tie_word_embeddings:
                return weights
            return {name: value for name, value in weights.items() if not name.startswith("lm_head.")}

    return Model, arguments_class
