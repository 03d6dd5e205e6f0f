"""An adapter folded into its base model: W + scale x B A, with DoRA's lengths, computed in float32, as a model folder of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mlxtune.backends import conversion
from mlxtune.backends.adapter import Adapter, read_adapter
from mlxtune.backends.base import MAGNITUDE, WrittenModel
from mlxtune.backends.torch.affine import Packing, dequantize, from_words
from mlxtune.backends.torch.architecture import architecture
from mlxtune.backends.torch.checkpoint import Checkpoint, Parts, open_checkpoint
from mlxtune.backends.torch.convert import cast, pack, write_model
from mlxtune.models.writing import model_folder


def fuse(base: Path, adapter: Path, out: Path, requantize: bool, dtype: str | None = None) -> WrittenModel:
    """Write the base model with an adapter folded in.

    Args:
        base: The model folder that the adapter was trained on.
        adapter: The adapter folder.
        out: The folder to write; must not exist, or be empty.
        requantize: Pack the adapted layers of a quantized base again, with their own bits and group size. Without it,
            a quantized base comes out unquantized in 16 bits: rounding to 4 bits can erase a small adapter.
        dtype: Type of the fused weights; None is the base's own, and for a quantized base that of its scales, float16
            where they are float32.

    Returns:
        What was written; its notes say what requantizing cost.

    Raises:
        ModelError: The base cannot be read, or cannot be requantized.
        AdapterError: The adapter cannot be read, or does not fit the base.
    """
    conversion.check_dtype(dtype)
    with open_checkpoint(base) as checkpoint:
        found = read_adapter(adapter)
        config = dict(checkpoint.config)
        conversion.check_fuse(found, config, architecture(config), (adapter, base), requantize, dtype)
        if "quantization" in config and not requantize:
            if dtype is None and _scale_types(checkpoint) == {torch.float32}:
                dtype = "float16"
            config.pop("quantization", None)
            config.pop("quantization_config", None)
        if dtype is not None:
            conversion.state_dtype(config, dtype)
        kind = None if dtype is None else getattr(torch, dtype)
        adapted = set(found.spec.layers)
        losses: dict[str, tuple[Tensor, Tensor]] = {}

        def change(layer: str, parts: Parts) -> Parts:
            packing = checkpoint.packings.get(layer)
            if layer not in adapted and (packing is None or requantize):
                return parts if requantize else cast(parts, kind)
            exact = _exact(parts, packing)
            weight = _updated(exact, found, layer) if layer in adapted else exact
            own = parts["weight" if packing is None else "scales"].dtype
            rest = {part: tensor for part, tensor in parts.items() if part not in ("weight", "scales", "biases")}
            fused = {"weight": weight.to(kind or own), **cast(rest, kind)}
            if packing is None or not requantize:
                return fused
            packed = pack(fused, packing)
            moved = _exact(packed, packing) - weight
            losses[layer] = (moved.square().sum(), (weight - exact).square().sum())
            return packed

        with model_folder(out) as folder:
            written = write_model(folder, config, checkpoint, change)
    notes = conversion.fuse_notes(base, ((lost.item(), update.item()) for lost, update in losses.values()))
    return WrittenModel(out, written.n_bytes, written.n_parameters, written.bits_per_weight, notes)


def _scale_types(checkpoint: Checkpoint) -> set[torch.dtype]:
    return {checkpoint.layers[layer]["scales"].dtype for layer in checkpoint.packings}


def _updated(weight: Tensor, adapter: Adapter, layer: str) -> Tensor:
    """W + scale x B A, (out, in), float32; with DoRA each row as long as its magnitude."""
    own = {part: torch.from_numpy(adapter.weights[f"{layer}.{part}"]).to(weight.device) for part in adapter.spec.parts}
    weight = weight + adapter.spec.scale * (own["lora_B"] @ own["lora_A"])
    if not adapter.spec.has_magnitudes:
        return weight
    return weight * (own[MAGNITUDE] / weight.square().sum(1).sqrt())[:, None]


def _exact(parts: Parts, packing: Packing | None) -> Tensor:
    """A layer's weight, (out, in), float32; packed ones are unpacked in float32, so that they are rounded once."""
    if packing is None:
        return parts["weight"].float()
    scales, biases = parts["scales"].float(), parts["biases"].float()
    return dequantize(from_words(parts["weight"]), scales, biases, packing.group_size, packing.bits)
