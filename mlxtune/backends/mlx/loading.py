"""A model folder as mlx-lm's network, weights lazy: the one place that calls mlx-lm's loader."""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU
from mlx_lm.utils import load_model

from mlxtune.backends.mlx.architecture import classes_of, text_network
from mlxtune.backends.mlx.stored_weights import as_network_has, keep_stored_norms, with_stacks
from mlxtune.errors import BackendError, ModelError
from mlxtune.models.source import check_folder, read_config, settled, stored_config, weight_files
from mlxtune.models.text_part import is_multimodal, text_name


def load_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """mlx-lm's network and config of a model folder, in Hugging Face's or MLX's layout, quantized or not; of its text part.

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
    config = read_config(folder)
    known = {**config, **settled(folder, config)}
    try:
        with _as_text_model(folder, known) as named:
            network, config = load_model(named, lazy=True, model_config=known, get_model_classes=_classes)
    except (ValueError, RuntimeError, FileNotFoundError, KeyError, TypeError) as error:
        raise ModelError(f"{folder}: MLX cannot load this model: {error}") from error
    return network, config


def require_float32_experts(network: nn.Module, dtype: str) -> None:
    """Refuse experts in another type than float32 on a CPU, where MLX multiplies them in no other.

    Raises:
        BackendError: The network has experts.
    """
    if any(isinstance(module, SwitchGLU) for module in network.modules()):
        raise BackendError(
            f"MLX computes experts on a CPU in float32 only, got {dtype}; leave out model.dtype, or use --backend torch"
        )


@contextlib.contextmanager
def _as_text_model(folder: Path, config: dict[str, Any]) -> Iterator[Path]:
    """The folder as mlx-lm may read it: it takes every model*.safetensors, also one that the index does not name.

    Where there are others, or config.json is of a multimodal model, it is a folder of links, which may be gone before the weights
    are read: mlx has the files open.
    """
    weights = weight_files(folder)
    is_text = not is_multimodal(stored_config(folder))
    if is_text and sorted(folder.glob("model*.safetensors")) == weights:
        yield folder
        return
    with tempfile.TemporaryDirectory() as links:
        for number, file in enumerate(weights):
            (Path(links) / f"model-{number:05}.safetensors").symlink_to(file.resolve())
        for file in folder.glob("*.json"):
            if is_text or file.name != "config.json":
                (Path(links) / file.name).symlink_to(file.resolve())
        if not is_text:
            (Path(links) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield Path(links)


def _classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """What makes the text part of mlx-lm's model, and its arguments, of a config."""
    model_class, arguments_class = classes_of(config)

    def network_of(arguments: Any) -> nn.Module:
        network = text_network(model_class(arguments))
        keep_stored_norms(network)
        network.__class__ = _reading(type(network), config["tie_word_embeddings"])
        return network

    class Arguments:
        """Leaves the config as it is; mlx-lm's own renames keys of its RoPE in place."""

        @staticmethod
        def from_dict(settings: dict[str, Any]) -> Any:
            return arguments_class.from_dict(copy.deepcopy(settings))

    return network_of, Arguments


def _reading(own: type[Any], is_tied: bool) -> type[Any]:
    """A subclass of a network's class that reads more folders."""

    class Model(own):  # type: ignore[misc]
        """mlx-lm's model, which drops only `lm_head.weight` of a tied checkpoint and then refuses its scales, and knows its own names alone."""

        def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
            weights = {plain: value for name, value in weights.items() if (plain := text_name(name)) is not None}
            if is_tied:
                weights = {name: value for name, value in weights.items() if not name.startswith("lm_head.")}
            weights = with_stacks(as_network_has(weights), self.model.norm.weight.shape[0])
            return dict(super().sanitize(weights)) if hasattr(own, "sanitize") else weights

    return Model
