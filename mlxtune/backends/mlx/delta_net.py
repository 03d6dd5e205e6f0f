"""Gated delta nets, as Qwen3.5 has them in most blocks, with the rule in chunks and with caches of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.architecture import DELTA_NET, DeltaNet
from mlxtune.backends.mlx.delta_rule import gated_delta_rule
from mlxtune.backends.mlx.state_cache import Carried, StateCache

NORM_EPS = 1e-6  # of queries and keys, added to the sum of their squares


def chunk_delta_nets(blocks: Sequence[nn.Module]) -> None:
    """Put layers of ours, with the same parameters under the same names, in the place of the delta nets of some blocks."""
    for block in blocks:
        own = getattr(block, DELTA_NET, None)
        if own is not None and not isinstance(own, ChunkedDeltaNet):
            setattr(block, DELTA_NET, ChunkedDeltaNet(own))


class ChunkedDeltaNet(nn.Module):  # type: ignore[misc]
    """Computes what mlx-lm's layer does, which trains by a loop over tokens that keeps the state after every one.

    Args:
        own: mlx-lm's layer, whose parameters and layers it takes.
    """

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self._sizes = DeltaNet.of(own)
        for name, part in own.items():
            setattr(self, name, part)

    def __call__(self, x: mx.array, mask: mx.array | None = None, cache: StateCache | None = None) -> mx.array:
        """(B, T, hidden) of (B, T, hidden).

        Args:
            x: The layer's input.
            mask: Nothing: the cache knows which tokens are padding.
            cache: What is carried over from earlier tokens; None is nothing, and then padding may stand on the right.
        """
        sizes, (rows, n_tokens, _) = self._sizes, x.shape
        mixed = self.in_proj_qkv(x)
        before = None if cache is None else cache.before(rows)
        if before is None:
            before = self._nothing(rows, mixed.dtype)
        counts = None if cache is None else cache.counts
        seen = mx.concatenate([before.inputs, mixed], axis=1)
        queries, keys, values = self._heads(nn.silu(self._convolved(seen)))
        outputs, state = self._rule(queries, keys, values, self.in_proj_a(x), self.in_proj_b(x), before.state, counts)
        if cache is not None:
            cache.carry(Carried(_last(seen, n_tokens, sizes.kernel - 1, counts), state))
        gates = self.in_proj_z(x).reshape(rows, n_tokens, sizes.n_value_heads, sizes.value_dim)
        return self.out_proj(self.norm(outputs, gates).reshape(rows, n_tokens, -1))

    def _nothing(self, rows: int, dtype: mx.Dtype) -> Carried:
        """What is carried over at the beginning."""
        sizes = self._sizes
        inputs = mx.zeros((rows, sizes.kernel - 1, sizes.channels), dtype)
        return Carried(inputs, mx.zeros((rows, sizes.n_value_heads, sizes.value_dim, sizes.key_dim)))

    def _convolved(self, seen: mx.array) -> mx.array:
        """Each channel's weighted sum over a token and those before it, (B, T, channels), of the T + kernel - 1 that are seen.

        MLX's own grouped convolution takes twice the time on a CPU.
        """
        kernel = self._sizes.kernel
        weights, n_tokens = self.conv1d.weight[..., 0], seen.shape[1] - kernel + 1
        return sum(seen[:, place : place + n_tokens] * weights[:, place] for place in range(kernel))

    def _heads(self, mixed: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Queries and keys of length 1, float32, the queries scaled, and values, (B, T, heads, width) each."""
        sizes, (rows, n_tokens, _) = self._sizes, mixed.shape
        width = sizes.n_key_heads * sizes.key_dim
        queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
        queries, keys = (
            _unit(part.reshape(rows, n_tokens, sizes.n_key_heads, sizes.key_dim)) for part in (queries, keys)
        )
        return queries * sizes.key_dim**-0.5, keys, values.reshape(rows, n_tokens, sizes.n_value_heads, sizes.value_dim)

    def _rule(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        a: mx.array,
        b: mx.array,
        state: mx.array,
        counts: mx.array | None,
    ) -> tuple[mx.array, mx.array]:
        """Outputs and the state after each row's tokens; padding has no decay and no beta, and so changes nothing."""
        log_decays = -mx.exp(self.A_log.astype(mx.float32)) * nn.softplus(a.astype(mx.float32) + self.dt_bias)
        betas = mx.sigmoid(b)
        if counts is not None:
            own = (mx.arange(values.shape[1]) < counts[:, None])[..., None]
            log_decays, betas = mx.where(own, log_decays, 0), mx.where(own, betas, 0)
        return gated_delta_rule(queries, keys, values, log_decays, betas, state)


def _unit(heads: mx.array) -> mx.array:
    """Vectors divided by their length, float32."""
    width = heads.shape[-1]
    return mx.fast.rms_norm(heads.astype(mx.float32), None, NORM_EPS / width) * width**-0.5


def _last(seen: mx.array, n_tokens: int, n_last: int, counts: mx.array | None) -> mx.array:
    """The last of each row's inputs that count, (B, n_last, channels); the first `n_last` are from before."""
    if counts is None:
        return seen[:, n_tokens:]
    return mx.take_along_axis(seen, (counts[:, None] + mx.arange(n_last))[..., None], axis=1)
