"""Inverses of triangular matrices, many small ones at once."""

from __future__ import annotations

import mlx.core as mx


def unit_triangular_inverse(system: mx.array) -> mx.array:
    """(I + A)^-1 of strictly lower triangular matrices A, (..., C, C), C a power of two.

    Blocks of 1, 2, 4, ... on the diagonal are inverted, two at a time: [[a, 0], [b, c]]^-1 = [[a', 0], [-c' b a', c']]. As exact as
    forward substitution. The product of (I + A^2^k), which is fewer products, has terms of 10^18 that should cancel where a
    chunk repeats a key.
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
