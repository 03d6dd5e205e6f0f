"""LoRA's layer: PEFT's; in float32 one product also adds the update."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

ADAPTER = "default"  # PEFT's name of the one adapter


class LoraLinear(Linear):  # type: ignore[misc]
    """A linear layer with a low-rank update, its values named as PEFT's: lora_A (r, in), lora_B (out, r)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) -> (..., out). In float32 this saves PEFT's two passes over (..., out), and one for the gradient."""
        if not self._is_float32(x):
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        narrow = nn.functional.linear(self.lora_dropout[ADAPTER](x), self.lora_A[ADAPTER].weight)
        b, layer = self.lora_B[ADAPTER].weight, self.base_layer
        return _FrozenAndUpdate.apply(x, layer.weight, layer.bias, narrow, b, self.scaling[ADAPTER])  # type: ignore[no-any-return]

    def _is_float32(self, x: Tensor) -> bool:
        layer = self.base_layer
        return (
            isinstance(layer, nn.Linear)
            and x.dtype == layer.weight.dtype == torch.float32
            and not torch.is_autocast_enabled(x.device.type)
        )


class _FrozenAndUpdate(torch.autograd.Function):
    """x W^T + b + scale (x A^T) B^T, of a frozen W and b, given x and x A^T."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, narrow: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = nn.functional.linear(rows, weight, bias)
        out.addmm_(narrow.reshape(-1, narrow.shape[-1]), b.T, alpha=scale)
        ctx.save_for_backward(weight, narrow, b)
        ctx.scale = scale
        return out.reshape(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        weight, narrow, b = ctx.saved_tensors
        of_out = gradient.reshape(-1, gradient.shape[-1])
        of_x = gradient @ weight if ctx.needs_input_grad[0] else None
        of_narrow = (of_out @ b).mul_(ctx.scale)
        of_b = (of_out.T @ narrow.reshape(-1, narrow.shape[-1])).mul_(ctx.scale)
        return of_x, None, None, of_narrow.reshape(narrow.shape), of_b, None
