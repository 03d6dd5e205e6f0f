"""The adapter folder, in mlx-lm's own layout: adapters.safetensors and adapter_config.json. NumPy only.

Both backends read and write adapters through this file, so an adapter trained on one loads on the other and in
`mlx_lm.load(..., adapter_path=...)`. On disk A is (in, r) and B (out, r) transposed to (r, out), as mlx-lm multiplies
x @ a @ b; in memory they are PEFT's shapes, A (r, in) and B (out, r). DoRA's magnitudes, `m` on disk, are vectors in both.
Factors of a layer of experts are one stack on disk, (experts, r, in) and (experts, out, r), as mlx-lm has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import MAGNITUDE, LoraSpec
from mlxtune.backends.experts import is_stack, stack_of, stacked, stacks, unstacked
from mlxtune.errors import AdapterError
from mlxtune.files import read_safetensors, whole_folder, write_json, write_safetensors
from mlxtune.models.text_part import IN_MLX_LM, nested_name, text_name

WEIGHTS_FILE = "adapters.safetensors"
CONFIG_FILE = "adapter_config.json"

Weights = Mapping[str, NDArray[np.float32]]

ON_DISK = {"lora_A": "lora_a", "lora_B": "lora_b", MAGNITUDE: "m"}  # parts of a layer at the seam -> in mlx-lm
IN_MEMORY = {disk: part for part, disk in ON_DISK.items()}
KINDS: tuple[Literal["lora", "dora"], ...] = ("lora", "dora")  # of LoraSpec, and so mlx-lm's fine_tune_type


@dataclass(frozen=True)
class Adapter:
    """An adapter: its spec, its values (named `spec.names`), and the base it was made for.

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
    """First values of an adapter's factors, the same on every backend: A uniform in +-1/sqrt(in), B zero.

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
        "fine_tune_type": spec.kind,
        "num_layers": n_blocks - blocks[0],
        "lora_parameters": {"rank": spec.rank, "scale": spec.scale, "dropout": spec.dropout, "keys": keys},
        "model": adapter.base,
    }
    on_disk = {
        _renamed(nested_name(name, IN_MLX_LM) if adapter.is_nested else name, ON_DISK): _turned(value)
        for name, value in stacked(adapter.weights).items()
    }
    with whole_folder(folder) as new:
        write_safetensors(new / WEIGHTS_FILE, on_disk, {"format": "mlx"})
        write_json(new / CONFIG_FILE, config)


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter folder.

    Raises:
        AdapterError: A file is missing or corrupt, or the adapter is of a kind other than LoRA and DoRA.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder}: not an adapter folder: {name} is missing")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        found = config.get("fine_tune_type", "lora")
        kind = next((one for one in KINDS if one == found), None)
        if kind is None:
            raise AdapterError(f"{folder / CONFIG_FILE}: expected a LoRA or DoRA adapter, got fine_tune_type {found!r}")
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
    parts = LoraSpec(rank, scale, dropout, (), kind).parts
    if others := sorted(name for name in on_disk if IN_MEMORY.get(name.rpartition(".")[2]) not in parts):
        expected = " and ".join(f"*.{ON_DISK[part]}" for part in parts)
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: expected tensors named {expected}, got {others[0]} and "
            f"{len(others) - 1} others; weights that are no update of type {kind} cannot be used here"
        )
    names = {name: text_name(name) for name in on_disk}
    if strange := [name for name, plain in names.items() if plain is None]:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: adapts {strange[0]}, which is not of the text part of a multimodal model; only an adapter of "
            "the text part can be used here"
        )
    if kind == "dora" and any(is_stack(str(name)) for name in names.values()):
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: expected DoRA of single layers, got one of experts, which is not known here"
        )
    weights = unstacked(
        {_renamed(str(names[name]), IN_MEMORY): _turned(value.astype(np.float32)) for name, value in on_disk.items()}
    )
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in weights))
    base = config.get("model")
    is_nested = any(name != plain for name, plain in names.items())
    return Adapter(
        LoraSpec(rank, scale, dropout, layers, kind), weights, base if isinstance(base, str) else None, is_nested
    )


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, int]], adapter_name: str, base_name: str) -> None:
    """Refuse an adapter whose layers or shapes are not those of a base model.

    Raises:
        AdapterError: Names both, and the first layer that does not fit.
    """
    spec = adapter.spec
    for layer in spec.layers:
        if layer not in shapes:
            raise AdapterError(f"{adapter_name} does not fit {base_name}: the model has no layer {layer}")
        for part, expected in part_shapes(spec, shapes[layer]).items():
            name = f"{layer}.{part}"
            got = adapter.weights[name].shape if name in adapter.weights else None
            if got != expected:
                shown = "nothing" if got is None else _shown(got)
                raise AdapterError(
                    f"{adapter_name} does not fit {base_name}: {name} should be {_shown(expected)}, got {shown}; "
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


def part_shapes(spec: LoraSpec, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape of each part of an adapted layer.

    Args:
        spec: Of the adapter.
        shape: The layer's (in, out).
    """
    n_in, n_out = shape
    shapes: dict[str, tuple[int, ...]] = {
        "lora_A": (spec.rank, n_in),
        "lora_B": (n_out, spec.rank),
        MAGNITUDE: (n_out,),
    }
    return {part: shapes[part] for part in spec.parts}


def _renamed(name: str, parts: Mapping[str, str]) -> str:
    """A value's name with its last part as another file or object calls it."""
    layer, _, part = name.rpartition(".")
    return f"{layer}.{parts[part]}"


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
