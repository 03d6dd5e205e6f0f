"""The head of a network in float32, a chunk of positions at a time: logits of all positions never exist together.

At Qwen's vocabulary the float32 logits of 6,000 tokens are 3.6 GB, and a loss over them keeps three copies. Here a chunk's logits
become its nats and the gradient of each one by its hidden state, (hidden,), and are dropped. The backward pass then only
scales these gradients, so that nothing is computed twice.

Training gets a list, a chunk each, to be evaluated one after the other (`to_numpy`): MLX allocates up to a hundred operations
ahead of the one that runs, so a single evaluation would hold the logits of many chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.mlx.exponential import exp
from mlxtune.backends.mlx.splitting import split
from mlxtune.backends.shapes import LOGITS_BYTES, positions_at_once


class Head:
    """Hidden states to float32 logits, whatever the weights are, and what training and scoring make of them.

    A 16-bit weight is widened once and kept: chunk by chunk it would be widened many times a pass, and the copy adds nothing
    to the peak, which is where the head runs. A packed weight has no copy; its kernel widens what it reads.

    Args:
        network: mlx-lm's model, frozen; its head is `lm_head`, or the embedding.
        logits_bytes: Of one chunk's logits; None is what suits the device.
    """

    def __init__(self, network: nn.Module, logits_bytes: int | None = None) -> None:
        self._network = network
        on_gpu = mx.default_device().type == mx.DeviceType.gpu
        self._logits_bytes = logits_bytes or LOGITS_BYTES["gpu" if on_gpu else "cpu"]
        self._widened: mx.array | None = None
        self._nats = mx.custom_function(self._nats_and_gradient)
        self._nats.vjp(_scaled)

    def __call__(self, hidden: mx.array, tokens: mx.array | None = None) -> mx.array:
        """Logits, (..., vocabulary), of hidden states, (..., hidden); or those of some tokens alone, (..., n)."""
        hidden = hidden.astype(mx.float32)
        if tokens is not None:
            return self._logits_of(tokens, hidden)
        if self._widened is not None:
            logits = hidden @ self._widened.T
            return logits + self._layer.bias if "bias" in self._layer else logits
        if "lm_head" in self._network:
            return self._network.lm_head(hidden)
        return self._network.model.embed_tokens.as_linear(hidden)

    def _logits_of(self, tokens: mx.array, hidden: mx.array) -> mx.array:
        layer = self._layer
        if "scales" in layer:
            packed = {name: layer[name][tokens] for name in ("scales", "biases") if layer.get(name) is not None}
            settings = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
            logits = mx.quantized_matmul(hidden, layer.weight[tokens], **packed, transpose=True, **settings)
        else:
            weight = layer.weight if self._widened is None else self._widened
            logits = hidden @ weight[tokens].astype(mx.float32).T
        return logits + layer.bias[tokens] if "bias" in layer else logits

    def widen(self) -> Head:
        """Make the float32 copy of a 16-bit weight, if it has one; to be called before a compiled function uses the head."""
        weight = self._layer.weight
        if self._widened is None and weight.dtype in (mx.bfloat16, mx.float16):
            self._widened = weight.astype(mx.float32)
            mx.eval(self._widened)
        return self

    def nats(self, hidden: mx.array, targets: mx.array) -> list[mx.array]:
        """-log p of each target, from the hidden states that predict them, (N, hidden); float32, (n,) a chunk.

        Differentiable by the hidden states, once.
        """
        return [self._nats(*chunk)[0] for chunk in self.chunks(hidden, targets)]

    def scores(self, hidden: mx.array, targets: mx.array) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
        """-log p of each target, (N,), float32, and the token of the largest logit in its place, (N,)."""
        found = []
        for chunk, of_chunk in self.chunks(hidden, targets):
            logits = self.widen()(chunk)
            nats, argmax = mx.logsumexp(logits, axis=-1) - at_targets(logits, of_chunk), mx.argmax(logits, axis=-1)
            del logits
            mx.eval(nats, argmax)
            found.append((np.array(nats), np.array(argmax)))
        nats_of, argmax_of = zip(*found, strict=True)
        return np.concatenate(nats_of), np.concatenate(argmax_of)

    @property
    def weight(self) -> mx.array:
        """(vocabulary, hidden), as it lies in the network."""
        return self._layer.weight

    @property
    def _layer(self) -> Any:
        return self._network.lm_head if "lm_head" in self._network else self._network.model.embed_tokens

    def chunks(self, hidden: mx.array, targets: mx.array) -> list[tuple[mx.array, mx.array]]:
        """As few pairs of nearly equal size as hold `logits_bytes` of logits each, float32 hidden states with targets."""
        vocabulary, n_positions = self._layer.weight.shape[0], len(targets)
        most = positions_at_once(vocabulary, self._logits_bytes)
        size = math.ceil(n_positions / math.ceil(n_positions / most))
        starts = list(range(size, n_positions, size))
        return list(zip(split(hidden.astype(mx.float32), starts), mx.split(targets, starts), strict=True))

    def _nats_and_gradient(self, hidden: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        """Nats, (n,), and the gradient of each by its own hidden state, (n, hidden).

        With e = exp(logits - largest) and s = sum(e), nats are log s + largest - logit of the target, and their gradient by
        the logits is (e - s at the target) / s. Every logit is exponentiated once, and the division left to what is small.
        """
        logits = self(hidden)
        largest, of_targets = mx.max(logits, axis=-1), at_targets(logits, targets)
        exponentials = exp(logits - largest[:, None])
        total = mx.sum(exponentials, axis=-1)
        less = exponentials.at[mx.arange(len(targets)), targets].add(-total)
        _, (gradient,) = mx.vjp(self, [hidden], [less])
        return mx.log(total) + (largest - of_targets), gradient / total[:, None]


def to_numpy(chunks: Sequence[mx.array]) -> NDArray[Any]:
    """Evaluate chunks one after the other, so that the logits of one exist at a time; all of them end to end, (N,)."""
    return np.concatenate([np.array(chunk) for chunk in chunks])


def _scaled(
    primals: tuple[mx.array, mx.array], cotangents: tuple[mx.array, mx.array], outputs: tuple[mx.array, mx.array]
) -> tuple[mx.array, mx.array]:
    """Gradient by hidden states, from that by the nats: each depends on its own hidden state alone."""
    return cotangents[0][:, None] * outputs[1], mx.zeros_like(primals[1])


def at_targets(logits: mx.array, targets: mx.array) -> mx.array:
    """The logit of each target, (n,)."""
    return mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
