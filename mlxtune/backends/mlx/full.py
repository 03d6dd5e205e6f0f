"""Full fine-tuning on MLX: all weights of a network as what is trained, and the gradient of the head's own weight.

`head.py` has the gradient by hidden states alone. Here a chunk's logits give the gradient by the weight as well, which is added to that of
the chunks before it, so that one (vocabulary, hidden) array exists and not one for each chunk.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten

from mlxtune.backends.architecture import HEAD, Architecture, require_own_weights
from mlxtune.backends.mlx.architecture import file_shape
from mlxtune.backends.mlx.exponential import exp
from mlxtune.backends.mlx.head import Head, at_targets
from mlxtune.errors import ModelError


class MatrixDecay(optim.AdamW):  # type: ignore[misc]
    """AdamW whose weight decay is of matrices alone."""

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
        """The parameter after a step."""
        if parameter.ndim >= 2:
            return super().apply_single(gradient, parameter, state)
        return optim.Adam.apply_single(self, gradient, parameter, state)


def unfreeze_all(network: nn.Module, architecture: Architecture) -> None:
    """Widen all of a network's weights to float32, in place, and let them be trained.

    Raises:
        ModelError: It is quantized, or mlx-lm keeps its weights in another form than the model's files.
    """
    network.set_dtype(mx.float32)
    found = {name: file_shape(value) for name, value in tree_flatten(network.parameters())}
    require_own_weights(architecture, found)
    if f"{HEAD}.bias" in found:
        raise ModelError("lora.type: full: the model's head has a bias, which is not trained here; use lora.type: lora")
    network.unfreeze()
    network.eval()
    mx.eval(network.parameters())


def loss_through_head(
    head: Head, hidden: mx.array, targets: mx.array, weights: mx.array
) -> tuple[mx.array, list[mx.array]]:
    """sum(weights x nats), and the nats of each target in chunks; the gradient of the sum reaches the head's weight, too.

    Args:
        head: Whose weight is trained, float32.
        hidden: States that predict a target, (N, hidden).
        targets: Token ids, (N,).
        weights: Of each target, (N,), as shares of the step's total.
    """
    weight = head.weight
    gathered = mx.zeros(weight.shape)
    of_chunk = mx.custom_function(lambda *arguments: _nats_and_gradients(head.weight, *arguments))
    of_chunk.vjp(_by_hidden)
    nats, start = [], 0
    for states, ids in head.chunks(hidden, targets):
        shares = weights[start : start + len(ids)]
        found, _, gathered = of_chunk(states, ids, shares, gathered)
        nats.append(found)
        start += len(ids)
    return mx.sum(mx.concatenate(nats) * weights) + _with_gradient(weight, gathered), nats


def _nats_and_gradients(
    weight: mx.array, hidden: mx.array, targets: mx.array, shares: mx.array, gathered: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Nats, (n,), the gradient of each by its hidden state, (n, hidden), and that of their weighted sum by the weight, added to
    `gathered`; as in `head.py`, with e = exp(logits - largest) and s = sum(e), nats' gradient by the logits is (e - s at the target) / s.
    """
    logits = hidden @ weight.T
    largest, of_targets = mx.max(logits, axis=-1), at_targets(logits, targets)
    exponentials = exp(logits - largest[:, None])
    total = mx.sum(exponentials, axis=-1)
    by_logits = exponentials.at[mx.arange(len(targets)), targets].add(-total)
    by_hidden = (by_logits @ weight) / total[:, None]
    by_weight = by_logits.T @ (hidden * (shares / total)[:, None])
    return mx.log(total) + (largest - of_targets), by_hidden, gathered + by_weight


def _by_hidden(
    primals: tuple[mx.array, ...], cotangents: tuple[mx.array, ...], outputs: tuple[mx.array, ...]
) -> tuple[mx.array, ...]:
    """Gradient of a chunk's inputs: by hidden states from that by the nats; that by the weight is `gathered`, and goes its own way."""
    return cotangents[0][:, None] * outputs[1], *(mx.zeros_like(value) for value in primals[1:])


def _with_gradient(weight: mx.array, gradient: mx.array) -> mx.array:
    """Zero, whose gradient by the weight is the one given."""
    zero = mx.custom_function(lambda weight, gradient: mx.zeros(()))
    zero.vjp(lambda primals, cotangent, output: (cotangent * primals[1], mx.zeros_like(primals[1])))
    found: mx.array = zero(weight, gradient)
    return found
