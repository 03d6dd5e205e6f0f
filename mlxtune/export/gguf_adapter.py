"""A run's adapter as a .gguf file of its own, which llama.cpp puts beside the base model's GGUF; and the way back.

    export_gguf_lora(source, Path("intent-lora.gguf"))       # llama-cli -m BASE.gguf --lora intent-lora.gguf
    adapter = read_gguf_lora(Path("intent-lora.gguf"), architecture)

Written in float32, it comes back bit for bit. The factors have PEFT's shapes, A (r, in) and B (out, r). llama.cpp scales
B A by alpha / r, so alpha is our scale x rank, however the adapter was scaled in training.

Source:
    convert_lora_to_gguf.py and src/llama-adapter.cpp of llama.cpp.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.adapter import Adapter, check_fits
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import LoraSpec
from mlxtune.errors import AdapterError, ExportError
from mlxtune.export.exported import Exported, check_file_free, new_file, size_on_disk
from mlxtune.export.gguf_family import family_to_write
from mlxtune.export.gguf_writing import FILE_TYPES, GgufTensor, provenance, write_gguf
from mlxtune.export.source import ExportSource
from mlxtune.models.gguf_file import open_gguf, read_number, read_tensor, read_value, shortest
from mlxtune.models.gguf_tensors import FAMILIES, Family, deinterleaved, family_of, interleaved

_FACTOR = re.compile(r"(?P<weight>.+\.weight)\.lora_(?P<factor>[ab])")


def export_gguf_lora(source: ExportSource, out: Path, *, force: bool = False) -> Exported:
    """Write a run's adapter as a GGUF.

    Args:
        source: The run, with its adapter.
        out: The .gguf file to write.
        force: Replace a file that lies there.

    Raises:
        ExportError: There is no adapter, or it is DoRA; `out` is taken or cannot be written; or llama.cpp has no such model type.
    """
    adapter = source.trained
    check_file_free(out, force=force)
    architecture = source.architecture
    if adapter.spec.has_magnitudes:
        raise ExportError(
            f"{source.run}: its adapter is DoRA, whose magnitudes no LoRA file of llama.cpp holds; write the fused model with --to gguf"
        )
    remedy = "For others write --to peft, and convert that folder with llama.cpp's convert_lora_to_gguf.py"
    family = family_to_write(architecture.model_type, "an adapter of a model", remedy)
    metadata: dict[str, Any] = {
        "general.type": "adapter",
        "general.name": source.recipe.name,
        **provenance(source.recipe.model),
        "general.file_type": FILE_TYPES["F32"],
        "adapter.type": "lora",
        "adapter.lora.alpha": float(adapter.spec.scale * adapter.spec.rank),
    }
    tensors = list(_tensors(adapter, family, architecture.head_dim))
    with new_file(out, force=force) as new:
        write_gguf(new, family.architecture, metadata, tensors)
    load = f"llama-cli -m BASE.gguf --lora {shlex.quote(str(out))}"
    own = "`mlxtune export RUN --to gguf --base`"
    notes = (
        f"BASE.gguf is written by {own}: a GGUF of the whole multimodal model is of another architecture, which takes no adapter of "
        f"{architecture.model_type!r}"
        if source.is_nested
        else f"BASE.gguf is the base model's own GGUF, or {own}",
    )
    return Exported("gguf-lora", out, size_on_disk(out), load, notes)


def read_gguf_lora(path: Path, architecture: Architecture) -> Adapter:
    """Read a LoRA adapter from a GGUF, ours or another program's.

    Args:
        path: The .gguf file.
        architecture: Of the base model.

    Returns:
        The adapter, in float32; its dropout, which a GGUF does not know, is 0.

    Raises:
        AdapterError: It is no LoRA adapter, or one of another architecture, or does not fit the base model.
        ModelError: It is no GGUF, truncated or damaged.
    """
    family = _family(path, architecture)
    weights: dict[str, NDArray[np.float32]] = {}
    for tensor in open_gguf(path).tensors:
        layer, factor = _layer(path, family, str(tensor.name))
        weights[f"{layer}.lora_{factor}"] = read_tensor(path, tensor)
    alpha = read_number(path, "adapter.lora.alpha")
    if not weights or alpha is None:
        missing = "adapter.lora.alpha" if weights else "tensors"
        raise AdapterError(
            f"{path}: holds no {missing}; expected a LoRA adapter that llama.cpp's converter or `export` wrote"
        )
    layers = _layers(path, weights, architecture.linear_layers)
    ranks = {len(weights[f"{layer}.lora_A"]) for layer in layers}
    if len(ranks) > 1:
        raise AdapterError(
            f"{path}: its layers have different ranks ({', '.join(map(str, sorted(ranks)))}); expected one"
        )
    rank = ranks.pop()
    scale = shortest(alpha) / rank if alpha else 1.0  # as llama.cpp takes it
    ordered = {name: weights[name] for layer in layers for name in _factors(layer)}
    adapter = Adapter(LoraSpec(rank, scale, 0.0, layers), ordered)
    check_fits(adapter, architecture.linear_layers, str(path), "the base model")
    for layer in layers:
        if _is_interleaved(layer, family):
            name = f"{layer}.lora_B"
            ordered[name] = deinterleaved(ordered[name], len(ordered[name]) // architecture.head_dim)
    return adapter


def _layers(path: Path, weights: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[str, ...]:
    """The adapted layers, in model order; each has both factors and is a linear layer of the model."""
    layers = {name.rpartition(".")[0] for name in weights}
    for layer in sorted(layers):
        if layer not in known:
            raise AdapterError(f"{path}: adapts {layer}, which is no linear layer of the base model's blocks")
        for name in _factors(layer):
            if name not in weights:
                raise AdapterError(f"{path}: lacks {name}; get it from where it came from again")
    return tuple(layer for layer in known if layer in layers)


def _factors(layer: str) -> tuple[str, str]:
    return f"{layer}.lora_A", f"{layer}.lora_B"


def _family(path: Path, architecture: Architecture) -> Family:
    """The family of the base model; what is no LoRA adapter of it is refused."""
    kind, adapter_kind = read_value(path, "general.type"), read_value(path, "adapter.type")
    if kind != "adapter" or adapter_kind != "lora":
        what = repr(kind or "model") if kind != "adapter" else f"an adapter of kind {adapter_kind!r}"
        raise AdapterError(f"{path}: is {what}; expected a LoRA adapter (general.type 'adapter', adapter.type 'lora')")
    own, family = read_value(path, "general.architecture"), family_of(architecture.model_type)
    if family is None or own != family.architecture:
        raise AdapterError(
            f"{path}: is an adapter of a {own} model; the base model is of type {architecture.model_type}; give the "
            "base model that the adapter was trained on"
        )
    if read_value(path, "adapter.alora.invocation_tokens"):
        raise AdapterError(f"{path}: is active after certain tokens only (aLoRA), which is not supported")
    return family


def _layer(path: Path, family: Family, name: str) -> tuple[str, str]:
    """Layer and factor, "A" or "B", of a tensor."""
    match = _FACTOR.fullmatch(name)
    weight = family.hugging_face_name(match["weight"]) if match else None
    if match is None or weight is None:
        raise AdapterError(f"{path}: the tensor {name} belongs to no LoRA adapter of {', '.join(FAMILIES)} models")
    return weight.removesuffix(".weight"), match["factor"].upper()


def _tensors(adapter: Adapter, family: Family, width: int) -> Iterator[GgufTensor]:
    """A and B of each layer, in float32; `width` is a head's."""
    for layer in adapter.spec.layers:
        name = family.gguf_name(f"{layer}.weight")
        for own in _factors(layer):
            factor = own[-1]
            value = np.ascontiguousarray(adapter.weights[own], np.float32)
            if factor == "B" and _is_interleaved(layer, family):
                value = interleaved(value, len(value) // width)
            yield GgufTensor(f"{name}.lora_{factor.lower()}", value.shape, "F32", _whole(value))


def _whole(value: NDArray[np.float32]) -> Any:
    return lambda: iter([value])


def _is_interleaved(layer: str, family: Family) -> bool:
    """Whether a GGUF has the rows of a layer in another order, and so those of its B."""
    return family.is_interleaved and layer.rpartition(".")[2] in ("q_proj", "k_proj")
