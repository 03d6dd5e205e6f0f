"""The head of a network, whose logits are float32 whatever its weights are and whoever calls it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlxtune.backends.torch.quantized_linear import QuantizedLinear, frozen_product


class Float32Head(nn.Module):
    """Takes the place of a network's `lm_head`, so that training, scoring and transformers' generation share its logits.

    Args:
        head: The network's own.
    """

    def __init__(self, head: nn.Linear | QuantizedLinear) -> None:
        super().__init__()
        self.own = head

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocabulary)."""
        with torch.autocast(hidden.device.type, enabled=False):
            if isinstance(self.own, QuantizedLinear):
                return frozen_product(hidden.float(), self.own.packed.rows, self.own.out_features)
            weight = self.own.weight
            if weight.dtype == torch.float32:
                return nn.functional.linear(hidden.float(), weight)
            rows = len(weight)
            return frozen_product(hidden.float(), lambda start, stop, dtype: weight[start:stop].to(dtype), rows)
