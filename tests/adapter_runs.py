"""Runs with an adapter whose B is not zero, as training leaves them, without training: for what adapters are turned into.

run = adapter_run(tmp_path, base, lora={"rank": 8, "rslora": True})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import MAGNITUDE, Backend, LoraSpec
from mlxtune.models.base_model import fingerprint
from mlxtune.models.source import read_config
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import RunFolder, new_run
from tests.architectures import linear_layers, lora_layers
from tests.conftest import write_recipe

IDS = [5, 17, 256, 300, 41, 42, 43, 7, 380]


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; of a multimodal model, that of its text part."""
    return read_config(folder)


def random_weights(
    config: Mapping[str, Any], layers: tuple[str, ...], rank: Callable[[str], int] = lambda layer: 4, seed: int = 1
) -> dict[str, NDArray[np.float32]]:
    """Random A and B of layers; `rank` of each."""
    random, shapes = np.random.default_rng(seed), linear_layers(config)
    weights: dict[str, NDArray[np.float32]] = {}
    for layer in layers:
        n_in, n_out = shapes[layer]
        weights[f"{layer}.lora_A"] = (n_in**-0.5 * random.standard_normal((rank(layer), n_in))).astype(np.float32)
        weights[f"{layer}.lora_B"] = (0.1 * random.standard_normal((n_out, rank(layer)))).astype(np.float32)
    return weights


def random_magnitudes(config: Mapping[str, Any], layers: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
    """Random magnitudes of DoRA's layers, about as long as the rows of a tiny model's weights."""
    random, shapes = np.random.default_rng(2), linear_layers(config)
    return {f"{layer}.{MAGNITUDE}": random.uniform(1.0, 2.0, shapes[layer][1]).astype(np.float32) for layer in layers}


def adapter_run(folder: Path, base: Path, layers: tuple[str, ...] | None = None, **sections: Any) -> RunFolder:
    """A finished run of the small intent recipe; `layers` are adapted in place of those that its recipe says."""
    recipe = load_recipe(write_recipe(folder / "recipe", base, **sections))
    config, lora = config_of(base), recipe.lora
    run = new_run(recipe, folder / "run")
    names = layers or lora_layers(config, lora.targets, lora.layers)
    assert lora.type != "full"
    spec = LoraSpec(lora.rank, lora.scale, lora.dropout, names, lora.type)
    weights = random_weights(config, names, lambda layer: lora.rank)
    if spec.has_magnitudes:
        weights |= random_magnitudes(config, names)
    write_adapter(run.adapter, Adapter(spec, weights, recipe.model.path), config["num_hidden_layers"])
    run.update_info(status="finished", base={"path": recipe.model.path, "fingerprint": fingerprint(base)})
    return run


def our_logits(backend: Backend, base: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    """Logits after each of IDS, (T, vocabulary)."""
    return backend.load(base, adapter).logits(IDS)


def hugging_face_model(base: Path) -> Any:
    """A tiny model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def torch_logits(model: Any) -> NDArray[np.float32]:
    """Logits after each of IDS by a transformers model, (T, vocabulary)."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()
