"""Gated delta nets, as Qwen3.5 has them in most blocks, with the rule in chunks and with caches of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.gated_delta import gated_delta_kernel

from mlxtune.backends.architecture import DELTA_NET, DeltaNet
from mlxtune.backends.mlx.convolution import convolved, weighted
from mlxtune.backends.mlx.delta_rule import gated_delta_rule, gated_delta_tree
from mlxtune.backends.mlx.exponential import has_fast_exp, silu
from mlxtune.backends.mlx.state_cache import Carried, StateCache, TreeStateCache

NORM_EPS = 1e-6  # of queries and keys, added to the sum of their squares
KERNEL_WIDTH = 32  # Metal's kernel of mlx-lm reads keys in vectors of this width


def chunk_delta_nets(blocks: Sequence[nn.Module]) -> None:
    """Put layers of ours, with the same parameters under the same names, in the place of the delta nets of some blocks."""
    for block in blocks:
        own = getattr(block, DELTA_NET, None)
        if own is not None and not isinstance(own, ChunkedDeltaNet):
            setattr(block, DELTA_NET, ChunkedDeltaNet(own))


@dataclass(frozen=True)
class _Tokens:
    """What the delta rule takes of each token, as `gated_delta_rule` names it."""

    queries: mx.array
    keys: mx.array
    values: mx.array
    log_decays: mx.array
    betas: mx.array

    @property
    def all(self) -> tuple[mx.array, mx.array, mx.array, mx.array, mx.array]:
        """In that order."""
        return self.queries, self.keys, self.values, self.log_decays, self.betas

    def counted(self, counts: mx.array | None) -> _Tokens:
        """The same, but the first so many of each row alone change the state: padding has no decay and no beta."""
        if counts is None:
            return self
        own = (mx.arange(self.betas.shape[1]) < counts[:, None])[..., None]
        return replace(self, log_decays=mx.where(own, self.log_decays, 0), betas=mx.where(own, self.betas, 0))


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

    def __call__(
        self, inputs: mx.array, mask: mx.array | None = None, cache: StateCache | TreeStateCache | None = None
    ) -> mx.array:
        """(B, T, hidden) of (B, T, hidden).

        Args:
            inputs: The layer's.
            mask: Always None: the cache knows which tokens are padding.
            cache: What is carried over from earlier tokens; None is nothing, and then padding may stand on the right.
        """
        rows, n_tokens, _ = inputs.shape
        mixed = self.in_proj_qkv(inputs)
        before = None if cache is None else cache.before(rows)
        if before is None:
            before = self._nothing(rows, mixed.dtype)
        seen = mx.concatenate([before.inputs, mixed], axis=1)
        weights = self.conv1d.weight[..., 0]  # (channels, kernel)
        if isinstance(cache, TreeStateCache):
            taps = [seen[:, places] for places in cache.paths.taps(self._sizes.kernel)]
            tokens = self._tokens(inputs, weighted(taps, weights))
            outputs = gated_delta_tree(*tokens.all, before.state, cache.paths.ancestors)
        else:
            counts = None if cache is None else cache.counts
            tokens = self._tokens(inputs, convolved(seen, weights)).counted(counts)
            outputs, state = self._rule(tokens, before.state)
            if cache is not None:
                cache.carry(Carried(_last(seen, self._sizes.kernel - 1, counts), state))
        gates = self.in_proj_z(inputs).reshape(outputs.shape)
        return self.out_proj(self._gated_norm(outputs, gates).reshape(rows, n_tokens, -1))

    def _nothing(self, rows: int, dtype: mx.Dtype) -> Carried:
        """What is carried over at the beginning."""
        sizes = self._sizes
        inputs = mx.zeros((rows, sizes.kernel - 1, sizes.channels), dtype)
        return Carried(inputs, mx.zeros((rows, sizes.n_value_heads, sizes.value_dim, sizes.key_dim)))

    def _tokens(self, inputs: mx.array, mixed: mx.array) -> _Tokens:
        """What the rule takes of tokens, given the layer's inputs, (B, T, hidden), and what the convolution makes of them."""
        sizes, (rows, n_tokens, _) = self._sizes, inputs.shape
        mixed = silu(mixed)
        width = sizes.n_key_heads * sizes.key_dim
        queries, keys, values = mx.split(mixed, [width, 2 * width], axis=-1)
        heads = (rows, n_tokens, sizes.n_key_heads, sizes.key_dim)
        decays = nn.softplus(self.in_proj_a(inputs).astype(mx.float32) + self.dt_bias)
        return _Tokens(
            queries=_of_length(sizes.key_dim**-0.5, queries.reshape(heads)),
            keys=_of_length(1, keys.reshape(heads)),
            values=values.reshape(rows, n_tokens, sizes.n_value_heads, sizes.value_dim),
            log_decays=-mx.exp(self.A_log.astype(mx.float32)) * decays,
            betas=mx.sigmoid(self.in_proj_b(inputs)),
        )

    def _gated_norm(self, outputs: mx.array, gates: mx.array) -> mx.array:
        """Outputs, normalized, times the SiLU of their gates, (B, T, Hv, Dv)."""
        if has_fast_exp():
            return self.norm(outputs, gates)
        return (silu(gates.astype(mx.float32)) * self.norm(outputs).astype(mx.float32)).astype(outputs.dtype)

    def _rule(self, tokens: _Tokens, state: mx.array) -> tuple[mx.array, mx.array]:
        """Outputs, (B, T, Hv, Dv), and the state after the tokens."""
        if tokens.betas.shape[1] > 1 or self.training or not _has_kernel(self._sizes.key_dim):
            return gated_delta_rule(*tokens.all, state, differentiable=self.training)
        exact = [part.astype(mx.float32) for part in (*tokens.all, state)]
        exact[3] = mx.exp(exact[3])
        outputs, state = gated_delta_kernel(*exact)
        return outputs.astype(tokens.values.dtype), state


def _has_kernel(key_dim: int) -> bool:
    """Whether mlx-lm's kernel computes a token here, in one call and without a gradient."""
    on_gpu: bool = mx.default_device().type == mx.DeviceType.gpu
    return on_gpu and mx.metal.is_available() and key_dim % KERNEL_WIDTH == 0


def _of_length(length: float, heads: mx.array) -> mx.array:
    """Vectors brought to this length, float32."""
    width = heads.shape[-1]
    return mx.fast.rms_norm(heads.astype(mx.float32), None, NORM_EPS / width) * (length * width**-0.5)


def _last(seen: mx.array, n_last: int, counts: mx.array | None) -> mx.array:
    """The last of each row's inputs that count, (B, n_last, channels); the first `n_last` of them are from before."""
    if counts is None:
        return seen[:, seen.shape[1] - n_last :]
    return mx.take_along_axis(seen, (counts[:, None] + mx.arange(n_last))[..., None], axis=1)
