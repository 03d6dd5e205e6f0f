"""The head of a network, whose logits are float32 whatever its weights are and whoever calls it, and the loss over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mlxtune.backends.shapes import POSITIONS_AT_ONCE, SCORED_LOGITS_BYTES, positions_at_once
from mlxtune.backends.torch.quantized_linear import QuantizedLinear, frozen_gradient, frozen_product


class Float32Head(nn.Module):
    """Takes the place of a network's `lm_head`, so that training, scoring and transformers' generation share its logits.

    Args:
        head: The network's own, frozen; or its embedding, where that is sharded and the head is tied to it.
    """

    def __init__(self, head: nn.Linear | nn.Embedding | QuantizedLinear) -> None:
        super().__init__()
        self.own: Any = head

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocabulary)."""
        with torch.autocast(hidden.device.type, enabled=False):
            if self._is_float32:
                return nn.functional.linear(hidden.float(), self.own.weight)
            return frozen_product(hidden.float(), self._rows, self.vocabulary)

    def gradient(self, of_logits: Tensor) -> Tensor:
        """Gradient of the hidden states from that of the logits: (..., vocabulary) -> (..., hidden), float32."""
        if self._is_float32:
            return of_logits @ self.own.weight  # type: ignore[no-any-return]
        return frozen_gradient(of_logits, self._rows)

    def add_weight_gradient(self, of_logits: Tensor, hidden: Tensor) -> None:
        """Add to the weight's gradient, where the weight is trained, what logits have of it.

        Args:
            of_logits: Gradient by the logits, (N, vocabulary).
            hidden: What the logits are of, (N, hidden).
        """
        if isinstance(self.own, QuantizedLinear) or not self.own.weight.requires_grad:
            return
        weight = self.own.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.addmm_(of_logits.T, hidden.float())

    def logits_of(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Those of some tokens, (n,), alone: (..., hidden) -> (..., n)."""
        with torch.autocast(hidden.device.type, enabled=False):
            if isinstance(self.own, QuantizedLinear):
                rows = self.own.packed.dequantized(tokens, torch.float32)
            else:
                rows = self.own.weight[tokens].float()
            return nn.functional.linear(hidden.float(), rows)

    @property
    def vocabulary(self) -> int:
        """Tokens that there are logits of."""
        return self.own.out_features if isinstance(self.own, QuantizedLinear) else len(self.own.weight)

    @property
    def _is_float32(self) -> bool:
        return not isinstance(self.own, QuantizedLinear) and bool(self.own.weight.dtype == torch.float32)

    def _rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        if isinstance(self.own, QuantizedLinear):
            return self.own.packed.rows(start, stop, dtype)
        return self.own.weight[start:stop].to(dtype)  # type: ignore[no-any-return]


@torch.no_grad()
def nats_and_gradient(head: Float32Head, hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of each target, (N,), and the gradient of sum(weights x nats) by the hidden states, (N, hidden).

    The gradient by the head's weight, where that is trained, is added to what the weight has.

    Each part of the positions goes forward and back before the next, and its gradient by the logits,
    weight x (softmax(logits) - onehot(target)), is written over them: few logits exist at a time, once.

    Args:
        head: The network's.
        hidden: States that predict a target, (N, hidden).
        targets: Token ids, (N,).
        weights: Of each target, (N,), float32.
    """
    nats, gradients = [], []
    for states, ids, weight in _parts(POSITIONS_AT_ONCE, hidden, targets[:, None], weights[:, None]):
        logits = head(states)
        largest = logits.amax(-1, keepdim=True)
        of_targets = logits.gather(-1, ids) - largest
        total = logits.sub_(largest).exp_().sum(-1, keepdim=True)
        nats.append((total.log() - of_targets)[:, 0])
        logits.mul_(weight / total).scatter_add_(-1, ids, -weight)
        gradients.append(head.gradient(logits).to(hidden.dtype))
        head.add_weight_gradient(logits, states)
    return torch.cat(nats), torch.cat(gradients)


def nats_and_argmax(head: Float32Head, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of each target and the most probable token in its place, (N,) each.

    A pass that scores has more targets than one that trains, and its logits exist twice: so few at a time that validation stays
    below the peak of training.
    """
    nats, argmax = [], []
    at_once = min(POSITIONS_AT_ONCE, positions_at_once(head.vocabulary, SCORED_LOGITS_BYTES))
    for states, ids in _parts(at_once, hidden, targets):
        logits = head(states)
        nats.append(nn.functional.cross_entropy(logits, ids, reduction="none"))
        argmax.append(logits.argmax(-1))
    return torch.cat(nats), torch.cat(argmax)


def _parts(at_once: int, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """So many of each at a time."""
    return zip(*(value.split(at_once) for value in values), strict=True)
