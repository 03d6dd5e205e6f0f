"""Linear and embedding layers over a quantized weight, dequantized block by block; 16-bit heads in float32. Frozen.

No dequantized weight outlives the block it is used in, in the forward or the backward pass: the memory of a 4-bit model
stays that of its packed weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mlxtune.backends.shapes import BLOCK_ELEMENTS
from mlxtune.backends.torch.affine import Packed, dequantize

EMBEDDING = "model.embed_tokens"
SCALE = "embed_scale"  # transformers' name, of families that scale their embeddings

# Rows start to stop of a weight, (stop - start, in), in a type.
Rows = Callable[[int, int, torch.dtype], Tensor]


class QuantizedWeight(nn.Module):
    """A weight in MLX's affine groups, (out, in), as parameters of a network, which processes may hold parts of.

    Args:
        packed: The weight.
    """

    packed: Tensor
    scales: Tensor
    biases: Tensor

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self.packed, self.scales, self.biases = map(_frozen, (packed.weight, packed.scales, packed.biases))
        self.packing = packed.packing
        self.n_out, self.n_in = packed.scales.shape[0], packed.scales.shape[1] * packed.packing.group_size

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Rows start to stop, (stop - start, in)."""
        return self.dequantized(slice(start, stop), dtype)

    def dequantized(self, rows: slice | Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Some rows in a type, computed in it where it is wider than the scales' own; None is theirs."""
        group_size, bits = self.packing.group_size, self.packing.bits
        computed = self.scales.dtype if dtype is None else torch.promote_types(self.scales.dtype, dtype)
        scales, biases = self.scales[rows].to(computed), self.biases[rows].to(computed)
        return dequantize(self.packed[rows], scales, biases, group_size, bits, dtype)


class QuantizedLinear(nn.Module):
    """`nn.Linear` over a quantized weight."""

    bias: Tensor | None

    def __init__(self, packed: QuantizedWeight, bias: Tensor | None = None) -> None:
        super().__init__()
        self.packed = packed
        self.in_features, self.out_features = packed.n_in, packed.n_out
        self.register_buffer("bias", bias)

    @property
    def qweight(self) -> Tensor:
        """The packed weight under the name by which PEFT finds a quantized layer's device."""
        return self.packed.packed

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        outputs = frozen_product(inputs, self.packed.rows, self.out_features)
        return outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)


class QuantizedEmbedding(nn.Module):
    """`nn.Embedding` over a quantized weight.

    Args:
        packed: The weight.
        scale: What embeddings are multiplied by; None where the family does not scale them.
    """

    embed_scale: Tensor | None

    def __init__(self, packed: QuantizedWeight, scale: Tensor | None = None) -> None:
        super().__init__()
        self.packed = packed
        self.register_buffer(SCALE, scale, persistent=False)

    def forward(self, tokens: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(...) -> (..., hidden), in a type; None is that of the scales."""
        values = self.packed.dequantized(tokens.reshape(-1), dtype).reshape(*tokens.shape, self.packed.n_in)
        return _scaled(values, self.embed_scale)


class ScaledEmbedding(nn.Module):
    """A plain weight in the place of a quantized one, (vocabulary, hidden), frozen, with the scale of its family."""

    embed_scale: Tensor | None

    def __init__(self, weight: Tensor, scale: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer(SCALE, scale, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) -> (..., hidden)."""
        return _scaled(nn.functional.embedding(tokens, self.weight), self.embed_scale)


def put_packed(network: nn.Module, layer: str, weight: QuantizedWeight, bias: Tensor | None) -> None:
    """Put a packed layer in the place of a plain one."""
    place, _, name = layer.rpartition(".")
    own = network.get_submodule(layer)
    module = (
        QuantizedEmbedding(weight, getattr(own, SCALE, None)) if layer == EMBEDDING else QuantizedLinear(weight, bias)
    )
    setattr(network.get_submodule(place), name, module)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _scaled(values: Tensor, scale: Tensor | None) -> Tensor:
    return values if scale is None else values * scale.to(values.dtype)


def frozen_product(inputs: Tensor, rows: Rows, n_out: int) -> Tensor:
    """inputs @ weight.T without the whole weight: (..., in) -> (..., out), in the type of `inputs` or of autocast."""
    device = inputs.device.type
    if torch.is_autocast_enabled(device):
        inputs = inputs.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        product: Tensor = _FrozenProduct.apply(inputs, rows, n_out)
        return product


def frozen_gradient(gradient: Tensor, rows: Rows) -> Tensor:
    """gradient @ weight without the whole weight: of the outputs of `frozen_product`, (..., out), to its inputs, (..., in)."""
    n_out = gradient.shape[-1]
    flat = gradient.reshape(-1, n_out)
    # Summed in float32: in bfloat16 every block of a large layer would round the sum again.
    total = sum((flat[:, part] @ block).float() for block, part in _blocks(rows, n_out, flat))
    assert isinstance(total, Tensor)
    return total.to(gradient.dtype).reshape(*gradient.shape[:-1], total.shape[1])


class _FrozenProduct(torch.autograd.Function):
    """Keeps neither inputs nor weight: the gradient of the inputs needs the weight alone, dequantized again."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, rows: Rows, n_out: int) -> Tensor:
        ctx.rows = rows
        flat = inputs.reshape(-1, inputs.shape[-1])
        blocks = [flat @ block.T for block, _ in _blocks(rows, n_out, flat)]
        outputs = blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)
        return outputs.reshape(*inputs.shape[:-1], n_out)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return frozen_gradient(gradient, ctx.rows), None, None


def _blocks(rows: Rows, n_out: int, like: Tensor) -> Any:
    """The weight in blocks of rows, each with its place."""
    step = max(1, BLOCK_ELEMENTS // max(1, rows(0, 1, like.dtype).shape[1]))
    for start in range(0, n_out, step):
        stop = min(n_out, start + step)
        yield rows(start, stop, like.dtype), slice(start, stop)
