"""Splits of arrays whose gradient is one concatenation; MLX's own pads the gradient of every part to the whole and adds them up."""

from __future__ import annotations

import mlx.core as mx


def split(whole: mx.array, starts: list[int]) -> list[mx.array]:
    """`mx.split` along the first axis, at these places."""
    if not starts:
        return [whole]
    function = mx.custom_function(lambda whole: mx.split(whole, starts))
    function.vjp(lambda whole, cotangents, outputs: mx.concatenate(cotangents))
    parts: list[mx.array] = function(whole)
    return parts


def split_first(whole: mx.array) -> list[mx.array]:
    """Each of (N, ...), without its first axis."""
    return [part.squeeze(0) for part in split(whole, list(range(1, len(whole))))]
