"""The experts of a block in the place of transformers' own: each of their three layers a stack, plain or packed, adapted or not. Frozen.

Tokens are sorted by the expert that they go to, so that each expert multiplies its own in one piece, and no other: a gradient reaches
the factors of an expert through the tokens that were routed to it alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mlxtune.backends.experts import EXPERTS, STACKED, stack_of
from mlxtune.backends.torch.affine import Packed
from mlxtune.backends.torch.quantized_linear import QuantizedWeight, Rows, frozen_product


def stack_under(network: nn.Module, name: str) -> ExpertStack:
    """The stack of a network under its own name, or that of an expert's layer in it."""
    found = network.get_submodule(stack_of(name).replace(f".{STACKED}.", f".{EXPERTS}."))
    assert isinstance(found, ExpertStack)
    return found


def take_experts(network: nn.Module) -> None:
    """Put modules of our own, still without weights, in the place of a network's experts."""
    for name, module in list(network.named_modules()):
        if name.endswith(f".mlp.{EXPERTS}"):
            setattr(network.get_submodule(name.rpartition(".")[0]), EXPERTS, Experts(module))


class Experts(nn.Module):
    """Answers the call that transformers' block makes of its experts.

    Args:
        own: transformers' module, of the kind that `architecture.is_plain` says.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.act_fn = own.act_fn
        n_experts, n_hidden, n_inner = own.down_proj.shape
        self.gate_proj = ExpertStack(n_experts, n_inner, n_hidden)
        self.up_proj = ExpertStack(n_experts, n_inner, n_hidden)
        self.down_proj = ExpertStack(n_experts, n_hidden, n_inner)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """What the experts of each token say of it, weighed and summed, (tokens, hidden).

        Args:
            hidden_states: (tokens, hidden).
            top_k_index: The experts that each goes to, (tokens, k).
            top_k_weights: How much each counts, (tokens, k).
        """
        n_tokens, per_token = top_k_index.shape
        experts = top_k_index.reshape(-1)
        order = torch.argsort(experts, stable=True)
        counts = torch.bincount(
            experts, minlength=self.gate_proj.n_experts
        ).tolist()  # the host waits here, once a block
        inputs = hidden_states[order // per_token]
        inner = self.act_fn(self.gate_proj(inputs, counts)) * self.up_proj(inputs, counts)
        weighed = self.down_proj(inner, counts) * top_k_weights.reshape(-1)[order, None]
        in_place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        summed: Tensor = weighed[in_place].view(n_tokens, per_token, -1).sum(1)
        return summed.to(hidden_states.dtype)


class ExpertStack(nn.Module):
    """The same linear layer of all experts of a block, without bias.

    Args:
        n_experts: How many.
        n_out: Width of what each gives.
        n_in: Width of what each takes.
    """

    def __init__(self, n_experts: int, n_out: int, n_in: int) -> None:
        super().__init__()
        self.n_experts, self.n_out, self.n_in = n_experts, n_out, n_in
        self.weight: nn.Parameter | None = None  # (experts, out, in)
        self.packed: QuantizedWeight | None = None  # (experts x out, in)
        self.lora_A: nn.Parameter | None = None  # (experts, r, in)
        self.lora_B: nn.Parameter | None = None  # (experts, out, r)
        self.lora_dropout = nn.Dropout(0.0)
        self.scale = 0.0

    def make_empty(self) -> None:
        """Have a plain weight on no device."""
        self.weight = _frozen(torch.empty(self.n_experts, self.n_out, self.n_in, device="meta"))

    def put(self, number: int, weight: Tensor) -> None:
        """Take the plain weight of an expert, (out, in)."""
        if self.weight is None:
            self.weight = _frozen(weight.new_empty(self.n_experts, self.n_out, self.n_in))
        self.weight.data[number] = weight

    def put_packed(self, number: int, packed: Packed) -> None:
        """Take the packed weight of an expert, (out, in); all are packed alike."""
        if self.packed is None:
            weight, scales, biases = (self._of_all(part) for part in (packed.weight, packed.scales, packed.biases))
            self.packed = QuantizedWeight(Packed(weight, scales, biases, packed.packing))
        rows = slice(number * self.n_out, (number + 1) * self.n_out)
        self.packed.packed[rows] = packed.weight
        self.packed.scales[rows], self.packed.biases[rows] = packed.scales, packed.biases

    def adapt(self, a: Tensor, b: Tensor, scale: float, dropout: float) -> None:
        """Add an update to each expert: B A x scale, with dropout on its input; A is (experts, r, in), B (experts, out, r)."""
        self.lora_A, self.lora_B, self.scale = nn.Parameter(a), nn.Parameter(b), scale
        self.lora_dropout = nn.Dropout(dropout).eval()

    def forward(self, inputs: Tensor, counts: Sequence[int]) -> Tensor:
        """(positions, in) sorted by expert -> (positions, out).

        Args:
            inputs: Of all experts.
            counts: Positions of each expert.
        """
        parts = inputs.split(list(counts))
        outputs = torch.cat([self._product(number, part) for number, part in enumerate(parts) if len(part)])
        if self.lora_A is None or self.lora_B is None:
            return outputs
        # Not lora_A[number]: the gradient of each such part would be as large as that of all.
        factors = zip(self.lora_A.unbind(), self.lora_B.unbind(), strict=True)
        dropped = self.lora_dropout(inputs.to(self.lora_A.dtype)).split(list(counts))
        update = [linear(linear(part, a), b) for part, (a, b) in zip(dropped, factors, strict=True) if len(part)]
        return outputs + (self.scale * torch.cat(update)).to(outputs.dtype)

    def plain(self, number: int) -> Tensor:
        """Weight of an expert, (out, in), float32, a copy; packed ones are unpacked in float32."""
        if self.packed is not None:
            return self._rows(number)(0, self.n_out, torch.float32)
        assert self.weight is not None
        return self.weight[number].to(torch.float32, copy=True)

    def _product(self, number: int, inputs: Tensor) -> Tensor:
        if self.packed is not None:
            return frozen_product(inputs, self._rows(number), self.n_out)
        assert self.weight is not None
        return linear(inputs, self.weight[number])

    def _rows(self, number: int) -> Rows:
        """Rows start to stop of an expert's packed weight."""
        assert self.packed is not None
        packed, first = self.packed, number * self.n_out
        return lambda start, stop, dtype: packed.rows(first + start, first + stop, dtype)

    def _of_all(self, part: Tensor) -> Tensor:
        return part.new_empty(self.n_experts * self.n_out, part.shape[1])


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
