"""The adapter folder, in mlx-lm's own layout: adapters.safetensors and adapter_config.json. NumPy only.

Both backends read and write adapters through this file, so an adapter trained on one loads on the other and in
`mlx_lm.load(..., adapter_path=...)`. On disk A is (in, r) and B (out, r) transposed to (r, out), as mlx-lm multiplies
x @ a @ b; in memory they are PEFT's shapes, A (r, in) and B (out, r). Those of a layer of experts are one stack on disk,
(experts, r, in) and (experts, out, r), as mlx-lm has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import LoraSpec
from mlxtune.backends.experts import stack_of, stacked, stacks, unstacked
from mlxtune.errors import AdapterError
from mlxtune.files import read_safetensors, whole_folder, write_json, write_safetensors
from mlxtune.models.text_part import IN_MLX_LM, nested_name, text_name

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Adapter:
    """An adapter: its spec, its values (LAYER.lora_A (r, in), LAYER.lora_B (out, r)), and the base it was made for.

    Attributes:
        spec: Names its layers as a text model has them.
        weights: Likewise.
        base: The model.
        is_nested: Whether that is multimodal. mlx-lm has the layers of its text part under longer names, and so have the files.
    """

    spec: LoraSpec
    weights: Weights
    base: str | None = None
    is_nested: bool = False


def initial_weights(spec: LoraSpec, shapes: Mapping[str, tuple[int, int]], seed: int) -> dict[str, NDArray[np.float32]]:
    """First values of an adapter, the same on every backend: A uniform in +-1/sqrt(in), B zero.

    Args:
        spec: Names the adapted layers.
        shapes: Layer -> (in, out).
        seed: The run's seed; each layer draws from its own generator, so adding a layer changes no other.
    """
    weights: dict[str, NDArray[np.float32]] = {}
    for layer in spec.layers:
        n_in, n_out = shapes[layer]
        random = np.random.default_rng([seed, *layer.encode()])
        bound = 1 / np.sqrt(n_in)
        weights[f"{layer}.lora_A"] = random.uniform(-bound, bound, (spec.rank, n_in)).astype(np.float32)
        weights[f"{layer}.lora_B"] = np.zeros((n_out, spec.rank), np.float32)
    return weights


def write_adapter(folder: Path, adapter: Adapter, n_blocks: int) -> None:
    """Write an adapter folder, whole or not at all; an existing one is replaced.

    Args:
        folder: Where.
        adapter: What.
        n_blocks: Transformer blocks of the base model; mlx-lm counts adapted blocks from the end.
    """
    spec = adapter.spec
    blocks = sorted({int(layer.split(".")[2]) for layer in spec.layers})
    keys = sorted({stack_of(layer).split(".", 3)[3] for layer in spec.layers})
    config: dict[str, Any] = {
        "fine_tune_type": "lora",
        "num_layers": n_blocks - blocks[0],
        "lora_parameters": {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys},
        "model": adapter.base,
    }
    on_disk = {
        _disk_name(nested_name(name, IN_MLX_LM) if adapter.is_nested else name): _turned(value)
        for name, value in stacked(adapter.weights).items()
    }
    with whole_folder(folder) as new:
        write_safetensors(new / WEIGHTS_FILE, on_disk, {"format": "mlx"})
        write_json(new / CONFIG_FILE, config)


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        AdapterError: A file is missing or corrupt, or the adapter is of a kind other than LoRA.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder}: not an adapter folder: {name} is missing")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        kind = config.get("fine_tune_type", "lora")
        if kind != "lora":
            raise AdapterError(f"{folder / CONFIG_FILE}: expected a LoRA adapter, got fine_tune_type {kind!r}")
        parameters = config["lora_parameters"]
        rank, scale = int(parameters["rank"]), float(parameters["scale"])
        dropout = float(parameters.get("dropout") or 0.0)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise AdapterError(
            f"{folder / CONFIG_FILE}: expected mlx-lm's adapter configuration with lora_parameters.rank, .scale and .dropout; {error!r}"
        ) from error
    try:
        on_disk = read_safetensors(folder / WEIGHTS_FILE)
    except (ValueError, OSError) as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE}: damaged, not readable as safetensors: {error}") from error
    if others := sorted(name for name in on_disk if not name.endswith((".lora_a", ".lora_b"))):
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: expected tensors named *.lora_a and *.lora_b, got {others[0]} and "
            f"{len(others) - 1} others; weights that are no LoRA update cannot be used here"
        )
    names = {name: text_name(name) for name in on_disk}
    if strange := [name for name, plain in names.items() if plain is None]:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: adapts {strange[0]}, which is not of the text part of a multimodal model; only an adapter of "
            "the text part can be used here"
        )
    weights = unstacked(
        {_memory_name(str(names[name])): _turned(value.astype(np.float32)) for name, value in on_disk.items()}
    )
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in weights))
    base = config.get("model")
    is_nested = any(name != plain for name, plain in names.items())
    return Adapter(LoraSpec(rank, scale, dropout, layers), weights, base if isinstance(base, str) else None, is_nested)


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, int]], adapter_name: str, base_name: str) -> None:
    """Refuse an adapter whose layers or shapes are not those of a base model.

    Raises:
        AdapterError: Names both, and the first layer that does not fit.
    """
    rank = adapter.spec.rank
    for layer in adapter.spec.layers:
        if layer not in shapes:
            raise AdapterError(f"{adapter_name} does not fit {base_name}: the model has no layer {layer}")
        n_in, n_out = shapes[layer]
        for name, expected in ((f"{layer}.lora_A", (rank, n_in)), (f"{layer}.lora_B", (n_out, rank))):
            got = adapter.weights[name].shape if name in adapter.weights else None
            if got != expected:
                shown = "nothing" if got is None else " x ".join(map(str, got))
                raise AdapterError(
                    f"{adapter_name} does not fit {base_name}: {name} should be {expected[0]} x {expected[1]}, got {shown}; "
                    "give the base model that the adapter was trained on"
                )
    of_base = stacks(shapes)
    for stack, parts in stacks(adapter.spec.layers).items():
        if len(parts) != len(of_base[stack]):
            raise AdapterError(
                f"{adapter_name} does not fit {base_name}: it adapts {len(parts)} of {len(of_base[stack])} experts of {stack}; "
                "expected all of them or none"
            )


def _turned(value: NDArray[Any]) -> NDArray[Any]:
    """A factor as it is on disk, given that in memory, or the other way round; stacks are the same in both."""
    return np.ascontiguousarray(value.T if value.ndim == 2 else value)


def _disk_name(name: str) -> str:
    return name.replace(".lora_A", ".lora_a").replace(".lora_B", ".lora_b")


def _memory_name(name: str) -> str:
    return name.replace(".lora_a", ".lora_A").replace(".lora_b", ".lora_B")
