"""LoRA's layer: mlx-lm's, with the scale applied to the narrow product; in float32 one product also adds the update."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRALinear


class LoraLinear(LoRALinear):  # type: ignore[misc]
    """A linear layer with a low-rank update, its values named as mlx-lm's: lora_a (in, r), lora_b (r, out)."""

    @staticmethod
    def from_base(linear: nn.Module, r: int = 8, dropout: float = 0.0, scale: float = 20.0) -> LoraLinear:
        """Of a layer, quantized or not, as mlx-lm's `from_base`."""
        layer: LoraLinear = LoRALinear.from_base(linear, r=r, dropout=dropout, scale=scale)
        layer.__class__ = LoraLinear  # mlx-lm's names its own class
        return layer

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out). In float32 this saves mlx-lm's two passes over (..., out), and two for the gradient."""
        frozen = self.linear(x)
        narrow = self.scale * (self.dropout(x) @ self.lora_a)
        if frozen.dtype == narrow.dtype:
            return mx.addmm(frozen, narrow, self.lora_b)
        return frozen + (narrow @ self.lora_b).astype(frozen.dtype)
