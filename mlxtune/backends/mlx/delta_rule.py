"""The gated delta rule over whole sequences, as matrix products over chunks of tokens; gradients keep one state a block of chunks.

Of each head a state S, (Dv, Dk), goes from token to token:

    S <- exp(g) S;   S <- S + beta (v - S k) k^T;   output = S q

A loop over tokens, which is what mlx-lm trains with, keeps every S for the backward pass. Here the tokens of a chunk are one
triangular system, and the state goes from chunk to chunk.

Source:
    Yang, Kautz, Hatamizadeh 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule", section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlxtune.backends.mlx.splitting import split_first

CHUNK = 32  # tokens, a power of two
CHUNKS_AT_ONCE = 8  # of each head: what the backward pass computes again at a time


def gated_delta_rule(
    queries: mx.array, keys: mx.array, values: mx.array, log_decays: mx.array, betas: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Outputs, (B, T, Hv, Dv), in the type of the values, and the state after the last token, float32.

    A token whose log decay and beta are 0 leaves the state as it is, so that padding may stand anywhere. Computed in float32;
    differentiable once, by all six.

    Args:
        queries: Scaled, (B, T, Hk, Dk).
        keys: (B, T, Hk, Dk); each of these heads serves Hv / Hk neighbouring ones of the values.
        values: (B, T, Hv, Dv).
        log_decays: g, at most 0, (B, T, Hv).
        betas: (B, T, Hv).
        state: Before the first token, (B, Hv, Dv, Dk).
    """
    n_tokens, n_heads, n_key_heads = values.shape[1], values.shape[2], keys.shape[2]
    size = min(CHUNK, _power_of_two(n_tokens))
    chunked = [
        _chunked(part.astype(mx.float32), size, n_key_heads) for part in (queries, keys, values, log_decays, betas)
    ]
    outputs, last, _ = _blocks()(*chunked, _grouped(state, n_key_heads))
    outputs = outputs.transpose(1, 0, 4, 2, 3, 5)  # (N, B, Hk, R, C, Dv) -> (B, N, C, Hk, R, Dv)
    outputs = outputs.reshape(len(state), -1, n_heads, values.shape[-1])[:, :n_tokens]
    return outputs.astype(values.dtype), last.reshape(state.shape)


def gated_delta_tree(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    log_decays: mx.array,
    betas: mx.array,
    state: mx.array,
    ancestors: mx.array,
) -> mx.array:
    """`gated_delta_rule` of the nodes of a tree, each of which comes after its ancestors alone; outputs, (B, N, Hv, Dv).

    No state but the first exists: a tree is one chunk whose tokens are ordered in part.

    Args:
        queries: As of `gated_delta_rule`, N in the place of T.
        keys: Likewise.
        values: Likewise.
        log_decays: Likewise.
        betas: Likewise.
        state: Before the tree.
        ancestors: Which nodes lie between the root and each node, both included, (N, N); none comes before its own.
    """
    n_nodes, n_heads, n_key_heads = values.shape[1], values.shape[2], keys.shape[2]
    size = _power_of_two(n_nodes)
    queries, keys, values_, log_decays, betas = (
        _chunked(part.astype(mx.float32), size, n_key_heads)[0] for part in (queries, keys, values, log_decays, betas)
    )
    reach = mx.pad(ancestors.astype(mx.float32), (0, size - n_nodes))
    between = mx.exp((reach * log_decays[..., None, :]) @ (reach * mx.tri(size, k=-1))) * reach
    inside = _inside(queries, keys, values_, betas, between, mx.exp(log_decays @ reach.T))
    outputs, _ = inside.after(_grouped(state, n_key_heads))
    outputs = outputs.transpose(0, 3, 1, 2, 4)  # (B, Hk, R, N, Dv) -> (B, N, Hk, R, Dv)
    return outputs.reshape(len(state), -1, n_heads, values.shape[-1])[:, :n_nodes].astype(values.dtype)


def _power_of_two(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << (size - 1).bit_length()


def _grouped(state: mx.array, n_key_heads: int) -> mx.array:
    """(B, Hv, Dv, Dk) -> (B, Hk, Hv / Hk, Dv, Dk), float32."""
    return state.astype(mx.float32).reshape(len(state), n_key_heads, -1, *state.shape[2:])


def _chunked(tokens: mx.array, size: int, n_key_heads: int) -> mx.array:
    """(B, T, heads, ...) with padding behind -> (N, B, Hk, heads / Hk, size, ...)."""
    rows, n_tokens, _, *rest = tokens.shape
    n_chunks = -(-n_tokens // size)
    tokens = mx.pad(tokens, [(0, 0), (0, n_chunks * size - n_tokens), (0, 0), *[(0, 0)] * len(rest)])
    tokens = tokens.reshape(rows, n_chunks, size, n_key_heads, -1, *rest)
    return tokens.transpose(1, 0, 3, 4, 2, *range(5, 5 + len(rest)))


@functools.cache
def _blocks() -> mx.custom_function:
    """`_run_blocks` with a gradient that computes each block of chunks again from the state before it."""
    function = mx.custom_function(_run_blocks)
    function.vjp(_gradients)
    return function


def _run_blocks(*inputs: mx.array) -> tuple[mx.array, mx.array, list[mx.array]]:
    """Outputs of all chunks, the last state, and the state before each block."""
    *tokens, state = inputs
    outputs, states = [], []
    for block in _in_blocks(tokens):
        states.append(state)
        found, state = _block(*[*block, state])
        outputs.append(found)
    return mx.concatenate(outputs), state, states


def _gradients(
    primals: Sequence[mx.array],
    cotangents: tuple[mx.array, mx.array, list[mx.array]],
    outputs: tuple[mx.array, mx.array, list[mx.array]],
) -> tuple[mx.array, ...]:
    """Gradients by the inputs, from those by the outputs and the last state, from the last block to the first."""
    blocks, states = _in_blocks(primals[:-1]), outputs[2]
    by_outputs, by_state, _ = cotangents
    found = []
    for block, state, by_output in reversed(list(zip(blocks, states, _in_blocks([by_outputs]), strict=True))):
        # Only when the later block is done: MLX would begin all of them at once.
        inputs = mx.depends([*block, state], [by_state])
        _, gradients = mx.vjp(_block, inputs, [*by_output, by_state])
        *of_tokens, by_state = gradients
        found.append(of_tokens)
    found.reverse()
    return *(mx.concatenate(list(parts)) for parts in zip(*found, strict=True)), by_state


def _in_blocks(tokens: Sequence[mx.array]) -> list[list[mx.array]]:
    """Chunks of each input, (N, ...), in blocks that are computed at once."""
    starts = range(CHUNKS_AT_ONCE, len(tokens[0]), CHUNKS_AT_ONCE)
    return [list(block) for block in zip(*(mx.split(part, list(starts)) for part in tokens), strict=True)]


def _block(
    queries: mx.array, keys: mx.array, values: mx.array, log_decays: mx.array, betas: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Outputs of some chunks, (n, B, Hk, R, C, Dv), and the state after them.

    Args:
        queries: (n, B, Hk, 1, C, Dk).
        keys: Likewise.
        values: (n, B, Hk, R, C, Dv).
        log_decays: (n, B, Hk, R, C).
        betas: Likewise.
        state: Before them, (B, Hk, R, Dv, Dk).
    """
    queries, keys, values = map(mx.contiguous, (queries, keys, values))  # once, and not for every product
    between = _decays_between(log_decays)
    from_start = mx.exp(mx.cumsum(log_decays, axis=-1))
    inside = _inside(queries, keys, values, betas, between, from_start)
    to_end = between[..., -1, :, None] * keys
    outputs = []
    for chunk, keys, decays in zip(inside.chunks(), split_first(to_end), split_first(from_start), strict=True):
        found, new = chunk.after(state)
        outputs.append(found)
        state = mx.addmm(decays[..., -1:, None] * state, new.swapaxes(-1, -2), keys)
    return mx.stack(outputs), state


@dataclass(frozen=True)
class _Inside:
    """What happens inside a chunk, or several, whatever the state before it.

    Attributes:
        written: What each token adds to the state along its key if that was zero before the chunk, (..., C, Dv).
        read: What it takes the less from, of the state before the chunk, (..., C, Dk).
        among: How much of what each token adds each later one and itself reads, (..., C, C).
        queries: What each token reads of the state before the chunk, (..., C, Dk).
    """

    written: mx.array
    read: mx.array
    among: mx.array
    queries: mx.array

    def after(self, state: mx.array) -> tuple[mx.array, mx.array]:
        """Outputs after a state, (..., C, Dv), and what each token adds to it along its key, likewise."""
        transposed = state.swapaxes(-1, -2)
        new = mx.addmm(self.written, self.read, transposed, alpha=-1)
        return mx.addmm(self.queries @ transposed, self.among, new), new

    def chunks(self) -> list[_Inside]:
        """Each of several, which lie along the first axis."""
        parts = (self.written, self.read, self.among, self.queries)
        return [_Inside(*chunk) for chunk in zip(*map(split_first, parts), strict=True)]


def _inside(
    queries: mx.array, keys: mx.array, values: mx.array, betas: mx.array, between: mx.array, from_start: mx.array
) -> _Inside:
    """What happens inside chunks.

    Args:
        queries: (..., C, Dk), as the following.
        keys: (..., C, Dk).
        values: (..., C, Dv).
        betas: (..., C).
        between: Product of the decays from each token, a column, to each that comes after it, a row, and itself; else 0.
        from_start: Product of those up to each token, its own included, (..., C).
    """
    transposed = keys.swapaxes(-1, -2)
    solved = _inverse()(betas[..., None] * (keys @ transposed) * (between * mx.tri(keys.shape[-2], k=-1)))
    written = solved * betas[..., None, :]  # not keys and values, which are wider than a chunk is long
    return _Inside(
        written=written @ values,
        read=(written * from_start[..., None, :]) @ keys,
        among=(queries @ transposed) * between,
        queries=from_start[..., None] * queries,
    )


def _decays_between(log_decays: mx.array) -> mx.array:
    """Product of the decays after one token up to another, (..., to, from), 0 where that comes before.

    Summed for each pair: differences of running sums lose the small decays behind a large one.
    """
    size = log_decays.shape[-1]
    summed = mx.cumsum(log_decays[..., None] * mx.tri(size, k=-1), axis=-2)
    return mx.exp(summed) * mx.tri(size)


@functools.cache
def _inverse() -> mx.custom_function:
    """(I + A)^-1 of strictly lower triangular matrices A, (..., C, C), with its gradient in two products."""
    function = mx.custom_function(_unit_triangular_inverse)
    function.vjp(_inverse_gradient)
    return function


def _unit_triangular_inverse(system: mx.array) -> mx.array:
    """Blocks of 1, 2, 4, ... on the diagonal are inverted, two at a time: [[a, 0], [b, c]]^-1 = [[a', 0], [-c' b a', c']].

    As exact as forward substitution. The product of (I + A^2^k), which is fewer products, has terms of 10^18 that should
    cancel where a chunk repeats a key.
    """
    *lead, size, _ = system.shape
    inverse = mx.ones((*lead, size, 1, 1))
    width = 1
    while width < size:
        n_pairs = size // (2 * width)
        pairs = inverse.reshape(*lead, n_pairs, 2, width, width)
        upper, lower = pairs[..., 0, :, :], pairs[..., 1, :, :]
        corner = -(lower @ _below_diagonal(system, width) @ upper)
        inverse = mx.concatenate(
            [mx.concatenate([upper, mx.zeros_like(upper)], -1), mx.concatenate([corner, lower], -1)], -2
        )
        width *= 2
    return inverse.reshape(*lead, size, size)


def _below_diagonal(system: mx.array, width: int) -> mx.array:
    """The blocks of this width below those on the diagonal with even numbers, (..., pairs, width, width)."""
    *lead, size, _ = system.shape
    n_pairs = size // (2 * width)
    blocks = system.reshape(*lead, n_pairs, 2, width, n_pairs, 2, width)[..., 1, :, :, 0, :]
    return mx.moveaxis(mx.diagonal(blocks, axis1=-4, axis2=-2), -1, -3)


def _inverse_gradient(primals: mx.array, cotangent: mx.array, inverse: mx.array) -> mx.array:
    """-X^T dX X^T below the diagonal."""
    transposed = inverse.swapaxes(-1, -2)
    return -(transposed @ cotangent @ transposed) * mx.tri(inverse.shape[-1], k=-1)
