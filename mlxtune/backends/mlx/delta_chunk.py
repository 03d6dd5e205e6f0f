"""One chunk of tokens of the gated delta rule: outputs and the state after it, and the gradients by what they are computed from.

With Q, K and V, a row a token; b, the betas; D, the product of the decays from each token to each that comes after it and itself, else
0; c, the product of those up to each token, and e, of those after it; and the state S before the chunk, (Dk, Dv):

    E = (I + P diag(b))^-1 (V - diag(c) K S)    what each value is off from what the state gives for its key
    outputs = diag(c) Q S + (D * Q K^T) diag(b) E
    S <- c_last S + (diag(e) K)^T diag(b) E

where P is D * K K^T below the diagonal. A gradient by the exponent of a decay is the one by the decay times the decay.

Shapes: B rows, Hk heads of keys, each of which serves R heads of values, C tokens. What is the same for all R has 1 in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlxtune.backends.mlx.exponential import exp
from mlxtune.backends.mlx.triangular import unit_triangular_inverse


@dataclass(frozen=True)
class Inside:
    """What happens inside a chunk, or inside several, whatever the state before it; C x C for each head.

    Attributes:
        between: D of the formulas above.
        alike: K K^T, for each head of the keys.
        solve: (I + P diag(b))^-1.
        among: D * Q K^T.
    """

    between: mx.array
    alike: mx.array
    solve: mx.array
    among: mx.array

    @classmethod
    def of(cls, queries: mx.array, keys: mx.array, betas: mx.array, between: mx.array) -> Inside:
        """From (..., C, Dk), (..., C) and D."""
        alike = keys @ _turned(keys)
        system = alike * (betas[..., None, :] * (between * mx.tri(keys.shape[-2], k=-1)))
        return cls(between, alike, unit_triangular_inverse(system), (queries @ _turned(keys)) * between)

    @property
    def arrays(self) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """In the order of the attributes."""
        return self.between, self.alike, self.solve, self.among


@dataclass(frozen=True)
class TokenGradients:
    """Gradients by the tokens of a chunk.

    Attributes:
        queries: (B, Hk, 1, C, Dk).
        keys: Likewise.
        values: (B, Hk, R, C, Dv).
        log_decays: By the logarithm of each token's decay, (B, Hk, R, C).
        betas: Likewise.
    """

    queries: mx.array
    keys: mx.array
    values: mx.array
    log_decays: mx.array
    betas: mx.array

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        """In the order of the attributes."""
        return self.queries, self.keys, self.values, self.log_decays, self.betas


@dataclass(frozen=True)
class Chunk:
    """The tokens of a chunk, without their values.

    Attributes:
        queries: (B, Hk, 1, C, Dk).
        keys: Likewise.
        from_start: c, (B, Hk, R, C, 1).
        betas: Likewise.
        inside: What happens inside it.
    """

    queries: mx.array
    keys: mx.array
    from_start: mx.array
    betas: mx.array
    inside: Inside

    @property
    def _to_end(self) -> mx.array:
        """e, (B, Hk, R, C, 1)."""
        return self.inside.between[..., -1, :, None]

    @property
    def _whole(self) -> mx.array:
        """c_last, (B, Hk, R, 1, 1)."""
        return self.from_start[..., -1:, :]

    def errors(self, values: mx.array, state: mx.array) -> mx.array:
        """E, (B, Hk, R, C, Dv), of values likewise, after a state, (B, Hk, R, Dk, Dv)."""
        return self.inside.solve @ mx.addmm(values, self.from_start * self.keys, state, alpha=-1)

    def outputs(self, state: mx.array, errors: mx.array) -> mx.array:
        """(B, Hk, R, C, Dv), given E."""
        return mx.addmm((self.from_start * self.queries) @ state, self.inside.among, self.betas * errors)

    def next(self, state: mx.array, errors: mx.array) -> mx.array:
        """The state after the chunk."""
        return mx.addmm(self._whole * state, _turned(self._to_end * self.keys), self.betas * errors)

    def gradients(
        self, state: mx.array, errors: mx.array, by_outputs: mx.array, by_next: mx.array
    ) -> tuple[TokenGradients, mx.array]:
        """Those by the tokens and that by the state before them, from those by the outputs and the state after them."""
        new = self.betas * errors
        by_new = mx.addmm(_turned(self.inside.among) @ by_outputs, self._to_end * self.keys, by_next)
        by_values = _turned(self.inside.solve) @ (self.betas * by_new)
        # By diag(c) Q, and by diag(c) K with the other sign, in one product.
        by_reads = mx.concatenate([by_outputs, by_values], axis=-2) @ _turned(state)
        by_query_reads, by_key_reads = (self.from_start * part for part in mx.split(by_reads, 2, axis=-2))
        by_key_writes = self._to_end * (new @ _turned(by_next))
        by_among = by_outputs @ _turned(new)
        by_system = (by_values @ _turned(errors)) * _below(self.inside.between)  # by K K^T diag(b), with the other sign
        by_alike = by_system * _turned(self.betas)
        by_products, squares = _summed(by_among * self.inside.between), _summed(by_alike)
        by_keys = mx.addmm(_summed(by_key_writes - by_key_reads), squares + _turned(squares), self.keys, alpha=-1)
        by_from_start = (by_query_reads * self.queries - by_key_reads * self.keys).sum(-1)
        by_whole = self._whole[..., 0] * (by_next * state).sum((-2, -1))[..., None]
        tokens = TokenGradients(
            queries=mx.addmm(_summed(by_query_reads), by_products, self.keys),
            keys=mx.addmm(by_keys, _turned(by_products), self.queries),
            values=by_values,
            log_decays=_through_sums(by_among * self.inside.among - by_alike * self.inside.alike)
            + mx.cumsum(by_from_start, axis=-1, reverse=True)
            + mx.cumsum(
                (by_key_writes * self.keys).sum(-1), axis=-1, inclusive=False
            )  # e leaves out a token's own decay
            + by_whole,
            betas=(errors * by_new).sum(-1) - (by_system * self.inside.alike).sum(-2),
        )
        by_state = mx.addmm(self._whole * by_next, _turned(self.from_start * self.queries), by_outputs)
        by_state = mx.addmm(by_state, _turned(self.from_start * self.keys), by_values, alpha=-1)
        return tokens, by_state


def decays_between(log_decays: mx.array) -> mx.array:
    """Product of the decays after one token up to another, (..., to, from), 0 where that comes before.

    Summed for each pair: differences of running sums lose the small decays behind a large one.
    """
    summed = mx.cumsum(log_decays[..., None] * mx.tri(log_decays.shape[-1], k=-1), axis=-2)
    return exp(summed) * mx.tri(log_decays.shape[-1])


def _through_sums(by_summed: mx.array) -> mx.array:
    """Gradient by log decays, (..., C), from that by their sums for each pair of tokens, (..., C, C)."""
    return _below(mx.cumsum(by_summed, axis=-2, reverse=True)).sum(-1)


def _turned(matrices: mx.array) -> mx.array:
    return matrices.swapaxes(-1, -2)


def _below(matrices: mx.array) -> mx.array:
    """What stands below the diagonal."""
    return matrices * mx.tri(matrices.shape[-1], k=-1)


def _summed(by_heads: mx.array) -> mx.array:
    """Of each head of the keys, (B, Hk, 1, ...), given that of each of its heads of the values."""
    return by_heads if by_heads.shape[2] == 1 else by_heads.sum(2, keepdims=True)
