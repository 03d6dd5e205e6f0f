"""The gated delta rule over whole sequences, as matrix products over chunks of tokens.

Of each head a state S, (Dv, Dk), goes from token to token:

    S <- exp(g) S;   S <- S + beta (v - S k) k^T;   output = S q

A loop over tokens, which is what mlx-lm trains with, keeps every S for the backward pass. Here the tokens of a chunk are one
triangular system, and the state goes from chunk to chunk (`delta_chunk.py`). The backward pass
keeps the state before each chunk.

Source:
    Yang, Kautz, Hatamizadeh 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule", section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import mlx.core as mx

from mlxtune.backends.mlx.delta_chunk import Chunk, Inside, decays_between
from mlxtune.backends.mlx.exponential import exp

CHUNK = 32  # tokens, a power of two
Arrays = list[mx.array]


def gated_delta_rule(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    log_decays: mx.array,
    betas: mx.array,
    state: mx.array,
    differentiable: bool = True,
) -> tuple[mx.array, mx.array]:
    """Outputs, (B, T, Hv, Dv), in the type of the values, and the state after the last token, float32.

    A token whose log decay and beta are 0 leaves the state as it is, so that padding may stand anywhere. Computed in float32.

    Args:
        queries: Scaled, (B, T, Hk, Dk).
        keys: (B, T, Hk, Dk); each of these heads serves Hv / Hk neighbouring ones of the values.
        values: (B, T, Hv, Dv).
        log_decays: g, at most 0, (B, T, Hv).
        betas: (B, T, Hv).
        state: Before the first token, (B, Hv, Dv, Dk).
        differentiable: Once, by all six. Otherwise no more than one chunk's state exists at a time.
    """
    run = _differentiable() if differentiable else _run
    outputs, last, *_ = run(*(part.astype(mx.float32) for part in (queries, keys, values, log_decays, betas, state)))
    return outputs.astype(values.dtype), last


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
    n_nodes, n_key_heads = values.shape[1], keys.shape[2]
    size = _power_of_two(n_nodes)
    queries, keys, values_, log_decays, betas = (
        _chunked(part.astype(mx.float32), size, n_key_heads)[0] for part in (queries, keys, values, log_decays, betas)
    )
    reach = mx.pad(ancestors.astype(mx.float32), (0, size - n_nodes))
    between = mx.exp((reach * log_decays[..., None, :]) @ (reach * mx.tri(size, k=-1))) * reach
    from_start = mx.exp(log_decays @ reach.T)[..., None]
    tree = Chunk(queries, keys, from_start, betas[..., None], Inside.of(queries, keys, betas, between))
    first = _grouped(state, n_key_heads)
    return _in_order([tree.outputs(first, tree.errors(values_, first))])[:, :n_nodes].astype(values.dtype)


def _power_of_two(size: int) -> int:
    """The least power of two that is no smaller."""
    return 1 << (size - 1).bit_length()


def _grouped(state: mx.array, n_key_heads: int) -> mx.array:
    """(B, Hv, Dv, Dk) -> (B, Hk, Hv / Hk, Dk, Dv), float32.

    Turned, since OpenBLAS multiplies small matrices twice as fast by these.
    """
    state = state.astype(mx.float32).reshape(len(state), n_key_heads, -1, *state.shape[2:])
    return mx.contiguous(state.swapaxes(-1, -2))


def _ungrouped(state: mx.array) -> mx.array:
    """The way back."""
    rows, _, _, key_dim, value_dim = state.shape
    return state.swapaxes(-1, -2).reshape(rows, -1, value_dim, key_dim)


def _chunked(tokens: mx.array, size: int, n_key_heads: int) -> mx.array:
    """(B, T, heads, ...) with padding behind -> (N, B, Hk, heads / Hk, size, ...)."""
    rows, n_tokens, n_heads, *rest = tokens.shape
    n_chunks = -(-n_tokens // size)
    tokens = mx.pad(tokens, [(0, 0), (0, n_chunks * size - n_tokens), (0, 0), *[(0, 0)] * len(rest)])
    tokens = tokens.reshape(rows, n_chunks, size, n_heads, *rest)
    # Copied once, and not for every product; of at most five axes, for MLX copies more of them slowly on a CPU.
    chunks = mx.contiguous(tokens.transpose(1, 0, 3, 2, *range(4, 4 + len(rest))))
    return chunks.reshape(n_chunks, rows, n_key_heads, -1, size, *rest)


def _in_order(chunks: Iterable[mx.array]) -> mx.array:
    """Chunks of tokens, (B, Hk, heads / Hk, size, ...) each, as (B, T, heads, ...), the padding included."""
    return mx.concatenate([chunk.flatten(1, 2).swapaxes(1, 2) for chunk in chunks], axis=1)


@functools.cache
def _differentiable() -> mx.custom_function:
    function = mx.custom_function(_run)
    function.vjp(_gradients)
    return function


def _run(*inputs: mx.array) -> tuple[mx.array, mx.array, Arrays, Arrays, Arrays]:
    """Outputs, the last state, and what the gradient needs: the state before each chunk, its errors, what `_chunks` takes."""
    *tokens, state = inputs
    n_tokens, n_key_heads = tokens[0].shape[1:3]
    size = min(CHUNK, _power_of_two(n_tokens))
    queries, keys, values, log_decays, betas = (_chunked(part, size, n_key_heads) for part in tokens)
    inside = Inside.of(queries, keys, betas, decays_between(log_decays))
    from_start = exp(mx.cumsum(log_decays, axis=-1))[..., None]
    kept = [queries, keys, from_start, betas[..., None], *inside.arrays]
    state = _grouped(state, n_key_heads)
    outputs, states, errors = [], [], []
    for chunk, of_chunk in zip(_chunks(kept), values, strict=True):
        errors.append(chunk.errors(of_chunk, state))
        states.append(state)
        outputs.append(chunk.outputs(state, errors[-1]))
        # Outputs first, so that a state that is not kept is given back before the next but one exists.
        (state,) = mx.depends([chunk.next(state, errors[-1])], [outputs[-1]])
    return _in_order(outputs)[:, :n_tokens], _ungrouped(state), states, errors, kept


def _chunks(kept: Sequence[mx.array]) -> list[Chunk]:
    """One after the other, of arrays that hold all, (N, ...)."""
    return [
        Chunk(queries, keys, from_start, betas, Inside(*inside))
        for queries, keys, from_start, betas, *inside in zip(*kept, strict=True)
    ]


def _gradients(
    primals: Sequence[mx.array],
    cotangents: Sequence[mx.array],
    results: tuple[mx.array, mx.array, Arrays, Arrays, Arrays],
) -> tuple[mx.array, ...]:
    """Gradients by the inputs, from those by the outputs and the last state."""
    _, _, states, errors, kept = results
    n_tokens, n_key_heads = primals[0].shape[1:3]
    by_outputs = _chunked(cotangents[0], kept[0].shape[-2], n_key_heads)
    by_state = _grouped(cotangents[1], n_key_heads)
    found = []
    for chunk, *of_chunk in reversed(list(zip(_chunks(kept), states, errors, by_outputs, strict=True))):
        tokens, by_state = chunk.gradients(*of_chunk, by_state)
        # The chunk before waits for all of it, so that what is computed meanwhile exists for one chunk at a time.
        (by_state,) = mx.depends([by_state], list(tokens.arrays))
        found.append(tokens.arrays)
    of_tokens = (_in_order(reversed(parts))[:, :n_tokens] for parts in zip(*found, strict=True))
    return *of_tokens, _ungrouped(by_state)
