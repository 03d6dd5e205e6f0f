"""DoRA's layer: a linear layer with a low-rank update, each row of whose weight has a trained length.

The weight is m x (W + scale x B A) / |W + scale x B A|, each row divided by its own length. That length depends on A and B alone, and
counts as a constant in the gradient (section 4.3 of the paper), so it is computed once after each change of these and not in
every forward pass, as PEFT's own layer does, which knows no weight in MLX's packing either.

Source:
    Liu et al., 2024, "DoRA: Weight-Decomposed Low-Rank Adaptation"; with dropout as PEFT computes it, where the rest of the layer's change
    sees the inputs that the update sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlxtune.backends.shapes import BLOCK_ELEMENTS
from mlxtune.backends.torch.quantized_linear import QuantizedLinear, frozen_product


class DoraLinear(nn.Module):
    """A linear layer with DoRA.

    Args:
        layer: The layer, quantized or not.
        factors: A (r, in) and B (out, r), float32.
        magnitudes: m, (out,), float32; None is the lengths of the weight's rows.
        scale: Factor on the update.
        dropout: Share of the update's inputs that is zeroed while training.
    """

    squares: Tensor
    lengths: Tensor

    def __init__(
        self,
        layer: nn.Linear | QuantizedLinear,
        factors: tuple[Tensor, Tensor],
        magnitudes: Tensor | None,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.base_layer, self.scale = layer, scale
        self.lora_A, self.lora_B = map(nn.Parameter, factors)
        self.lora_dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.register_buffer("squares", _squares(layer))  # of the frozen weight, by row
        self.magnitude = nn.Parameter(self.squares.sqrt() if magnitudes is None else magnitudes)
        self.register_buffer("lengths", torch.empty_like(self.squares))
        self.refresh()

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        frozen, dropped = _product(self.base_layer, inputs), self.lora_dropout(inputs)
        seen = frozen if dropped is inputs else _product(self.base_layer, dropped)
        update = nn.functional.linear(nn.functional.linear(dropped, self.lora_A), self.lora_B)
        out = (self.magnitude / self.lengths) * (seen + self.scale * update)  # float32, whatever the inputs are
        if dropped is not inputs:
            out = frozen + (out - seen)
        out = out.to(frozen.dtype)
        return out if self.base_layer.bias is None else out + self.base_layer.bias.to(out.dtype)

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the lengths of the rows anew, after A or B changed.

        Without the whole matrix: |W + scale x B A|^2 is |W|^2 + 2 scale B . (W A^T) + scale^2 |B A|^2.
        """
        a, b = self.lora_A, self.lora_B
        crossed = (b * _product(self.base_layer, a, torch.float32).T).sum(1)
        own = (b @ (a @ a.T) * b).sum(1)
        self.lengths.copy_((self.squares + 2 * self.scale * crossed + self.scale**2 * own).sqrt())


def _product(layer: nn.Linear | QuantizedLinear, inputs: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """inputs W^T without the layer's bias; in a type, where one is given."""
    if isinstance(layer, QuantizedLinear):
        return frozen_product(inputs, layer.packed.rows, layer.out_features)
    return nn.functional.linear(inputs, layer.weight if dtype is None else layer.weight.to(dtype))


@torch.no_grad()
def _squares(layer: nn.Linear | QuantizedLinear) -> Tensor:
    """Squared length of each row of a weight, (out,), float32; the weight is widened a block of rows at a time."""
    step = max(1, BLOCK_ELEMENTS // layer.in_features)
    blocks = []
    for start in range(0, layer.out_features, step):
        stop = min(start + step, layer.out_features)
        if isinstance(layer, QuantizedLinear):
            rows = layer.packed.rows(start, stop, torch.float32)
        else:
            rows = layer.weight[start:stop].float()
        blocks.append(rows.square().sum(1))
    return torch.cat(blocks)
