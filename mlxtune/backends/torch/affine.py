"""MLX's affine quantization in torch, bit for bit: packing, unpacking, and what config.json says of it.

A weight (out, in) is cut into groups along its rows; each group has a scale and a bias of the weight's own type, and each
element is a whole number of 4 or 8 bits: w = scale x q + bias. Files hold the numbers as uint32, element k of a word at bit
k x bits; in memory they are that word's bytes, uint8, because torch hardly computes with uint32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlxtune.errors import ModelError

BITS = (4, 8)
ELEMENTS_AT_ONCE = 1 << 20  # a block whose float32 temporaries, 4 MiB each, stay in the cache


@dataclass(frozen=True)
class Packing:
    """How one layer is packed: elements that share a scale and a bias, and bits of an element."""

    group_size: int
    bits: int


@dataclass(frozen=True)
class Packed:
    """A packed weight.

    Attributes:
        weight: (out, in x bits / 8), uint8.
        scales: (out, in / group_size).
        biases: (out, in / group_size).
        packing: Group size and bits.
    """

    weight: Tensor
    scales: Tensor
    biases: Tensor
    packing: Packing


@dataclass(frozen=True)
class Quantization:
    """What a config says of a quantized model.

    Attributes:
        default: Of every layer that is not named.
        named: Layers that differ; None where a layer is not quantized.
    """

    default: Packing
    named: Mapping[str, Packing | None]

    def of(self, layer: str) -> Packing | None:
        """How a layer is packed, as the config says; None if it is not."""
        return self.named.get(layer, self.default)


def quantize(weight: Tensor, group_size: int, bits: int) -> Packed:
    """Pack a weight as `mx.quantize` does, to the same bits.

    Args:
        weight: (out, in), float32, float16 or bfloat16; the group size divides `in`.
        group_size: Elements that share a scale and a bias.
        bits: 4 or 8.
    """
    rows = max(1, ELEMENTS_AT_ONCE // weight.shape[1])
    blocks = [_quantize(block, group_size, bits) for block in torch.split(weight, rows)]
    packed, scales, biases = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return Packed(packed, scales, biases, Packing(group_size, bits))


def dequantize(
    packed: Tensor, scales: Tensor, biases: Tensor, group_size: int, bits: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Unpack a weight, or some of its rows, as `mx.dequantize` does on the CPU, to the same bits.

    It computes in the type of the scales, rounding after the product and after the sum, as MLX does. To compute in
    float32, give the scales and biases in float32.

    Args:
        packed: (out, in x bits / 8), uint8.
        scales: (out, in / group_size).
        biases: As `scales`.
        group_size: Elements that share a scale and a bias.
        bits: 4 or 8.
        dtype: Type of the result; None is that of the scales.

    Returns:
        (out, in).
    """
    n_out, n_groups = scales.shape
    if bits == 4:
        packed = torch.stack((packed & 15, packed >> 4), dim=-1)
    weight = packed.reshape(n_out, n_groups, group_size).to(scales.dtype)
    weight.mul_(scales[..., None]).add_(biases[..., None])  # two roundings: not addcmul, which may fuse them
    weight = weight.view(n_out, n_groups * group_size)
    return weight if dtype is None else weight.to(dtype)


def from_words(words: Tensor) -> Tensor:
    """The packed weight of a file, (out, in x bits / 32) uint32, as bytes (out, in x bits / 8); nothing is copied."""
    return words.contiguous().view(torch.uint8)


def to_words(packed: Tensor) -> Tensor:
    """Bytes (out, in x bits / 8) as a file holds them, (out, in x bits / 32) uint32; nothing is copied."""
    return packed.contiguous().view(torch.uint32)


def packing_of(packed: Tensor, scales: Tensor, n_in: int) -> Packing:
    """How a layer of width `n_in` is packed, as its shapes say; they count where the config does not name the layer.

    Args:
        packed: (out, in x bits / 8), uint8.
        scales: (out, in / group_size).
        n_in: Width of the layer.
    """
    return Packing(n_in // max(1, scales.shape[-1]), packed.shape[-1] * 8 // n_in)


def read_quantization(config: Mapping[str, Any], folder: Path) -> Quantization | None:
    """What config.json says of a model's quantization; None for a plain model.

    Args:
        config: config.json. As mlx-lm writes it, "quantization" holds group_size, bits and mode, and under the name of
            a layer its own, or false where it is not quantized.
        folder: The model's folder, for messages; one of NVIDIA's ModelOpt says it in a file of its own.

    Raises:
        ModelError: A quantization other than MLX's affine one of 4 or 8 bits.
    """
    if "quantization" in config:
        said = config["quantization"]
        default = _packing(said, folder)
        named = {
            name: None if value is False else default if value is True else _packing(value, folder, name)
            for name, value in said.items()
            if isinstance(value, bool | dict)
        }
        return Quantization(default, named)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "one without a name")
        raise _unreadable(folder, str(method))
    if (folder / "hf_quant_config.json").is_file():
        raise _unreadable(folder, "modelopt")
    return None


def _packing(said: Mapping[str, Any], folder: Path, layer: str | None = None) -> Packing:
    of = "" if layer is None else f" in {layer}"
    mode = said.get("mode", "affine")
    if mode != "affine":
        raise _unreadable(folder, f"{mode}{of}")
    bits, group_size = said.get("bits", 4), said.get("group_size", 64)  # mlx's defaults
    if bits not in BITS:
        raise _unreadable(folder, f"{bits} bits{of}")
    if not isinstance(group_size, int) or group_size < 1:
        raise ModelError(f"{folder / 'config.json'}: expected a whole group_size{of}, got {group_size!r}")
    return Packing(group_size, bits)


def _unreadable(folder: Path, found: str) -> ModelError:
    return ModelError(
        f"{folder}: its quantization is not supported by the PyTorch backend: {found}; it reads MLX's affine quantization of "
        "4 and 8 bits; convert the unquantized model with `mlxtune convert MODEL --quantize 4`, or use the MLX backend "
        "on a machine where it runs"
    )


def _quantize(weight: Tensor, group_size: int, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """One block of rows: bytes, scales and biases.

    Source:
        mlx/backend/cpu/quantized.cpp, quantize. The end of a group's range that is farther from zero is met exactly,
        and zero is (nearly always) one of the values.
    """
    n_out, n_in = weight.shape
    groups = weight.reshape(n_out, n_in // group_size, group_size).float()
    lowest, highest = groups.amin(-1), groups.amax(-1)
    n_steps = 2**bits - 1
    is_negative = lowest.abs() > highest.abs()
    scale = ((highest - lowest) / n_steps).clamp(min=1e-7)
    scale = torch.where(is_negative, scale, -scale)
    edge = torch.where(is_negative, lowest, highest)
    steps = (edge / scale).round()  # half to even, as MLX
    scale = torch.where(steps != 0, edge / steps, scale)
    bias = torch.where(steps != 0, edge, 0.0)
    numbers = (groups - bias[..., None]).div_(scale[..., None]).round_().clamp_(0, n_steps)
    numbers = numbers.to(torch.uint8).view(n_out, n_in)
    if bits == 4:
        numbers = numbers[:, 0::2] | (numbers[:, 1::2] << 4)
    return numbers, scale.to(weight.dtype), bias.to(weight.dtype)
