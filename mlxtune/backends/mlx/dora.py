"""DoRA's layer: a linear layer with a low-rank update, each row of whose weight has a trained length.

The weight is m x (W + scale x B A) / |W + scale x B A|, each row divided by its own length. That length depends on A and B alone, and
counts as a constant in the gradient (section 4.3 of the paper), so it is computed once after each change of these and not in
every forward pass.

Source:
    Liu et al., 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation"; with dropout as PEFT computes it, where the rest of the layer's change
    sees the inputs that the update sees.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.dropout import KeyedDropout


class DoraLinear(nn.Module):  # type: ignore[misc]
    """A linear layer with DoRA, its values named as mlx-lm's: lora_a (in, r), lora_b (r, out), m (out,).

    Args:
        linear: The layer, quantized or not.
        factors: lora_a and lora_b.
        magnitudes: m; None is the lengths of the weight's rows.
        scale: Factor on the update.
        dropout: On the inputs of the update.
    """

    def __init__(
        self,
        linear: nn.Module,
        factors: tuple[mx.array, mx.array],
        magnitudes: mx.array | None,
        scale: float,
        dropout: KeyedDropout,
    ) -> None:
        super().__init__()
        self.linear, self.scale, self.dropout = linear, scale, dropout
        self.lora_a, self.lora_b = factors
        self.squares = mx.sum(mx.square(exact_weight(linear)), axis=1)  # of the frozen weight, by row
        self.m = mx.sqrt(self.squares) if magnitudes is None else magnitudes
        self.lengths = self._lengths()
        mx.eval(self.squares, self.m, self.lengths)  # here, so that the float32 weight of one layer exists at a time

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        frozen, dropped = _product(self.linear, x), self.dropout(x)
        seen = frozen if dropped is x else _product(self.linear, dropped)
        updated = seen + self.scale * ((dropped @ self.lora_a) @ self.lora_b)  # float32, whatever x is
        out = (self.m / self.lengths) * updated
        if dropped is not x:
            out = frozen + (out - seen)
        out = out.astype(x.dtype)
        return out + self.linear.bias if "bias" in self.linear else out

    def refresh(self) -> None:
        """Compute the lengths of the rows anew, after A or B changed."""
        self.lengths = self._lengths()

    def _lengths(self) -> mx.array:
        """|W + scale x B A| by row, (out,), float32, without the whole matrix: its square is |W|^2 + 2 scale B . (W A^T) + scale^2 |B A|^2."""
        crossed = _product(self.linear, self.lora_a.T).T  # (out, r)
        b = self.lora_b.T  # (out, r)
        both = mx.sum(b * crossed, axis=1)
        own = mx.sum((b @ (self.lora_a.T @ self.lora_a)) * b, axis=1)
        return mx.stop_gradient(mx.sqrt(self.squares + 2 * self.scale * both + self.scale**2 * own))


def exact_weight(linear: Any) -> mx.array:
    """Weight of a linear layer, (out, in), float32."""
    if "scales" not in linear:
        return linear.weight.astype(mx.float32)
    scales, biases = linear.scales.astype(mx.float32), linear.biases.astype(mx.float32)
    return mx.dequantize(linear.weight, scales, biases, linear.group_size, linear.bits, linear.mode)


def _product(linear: Any, x: mx.array) -> mx.array:
    """x W^T without the layer's bias."""
    if "scales" not in linear:
        return x @ linear.weight.T
    settings = {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}
    return mx.quantized_matmul(x, linear.weight, linear.scales, linear.get("biases"), transpose=True, **settings)
