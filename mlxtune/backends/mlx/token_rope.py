"""Rotary embeddings at a position a token: mlx-lm's take one a row, and count on from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class TokenRope(nn.Module):  # type: ignore[misc]
    """Takes the place of an attention layer's `rope`, which it calls, so that every kind of scaling stays the library's.

    Args:
        own: The layer's.
    """

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own = own

    def __call__(self, x: mx.array, offset: int | mx.array = 0, *args: Any, **kwargs: Any) -> mx.array:
        """(B, heads, T, head_dim), rotated.

        Args:
            x: Queries or keys.
            offset: Position of each token, (B, T); or of the first, for all rows or each, (B,).
            args: What else the layer's own takes.
            kwargs: Likewise.
        """
        if isinstance(offset, int) or offset.ndim < 2:
            return self.own(x, offset, *args, **kwargs)
        rows, heads, length, width = x.shape
        apart = x.transpose(0, 2, 1, 3).reshape(rows * length, heads, 1, width)  # a row a token
        rotated = self.own(apart, offset.reshape(-1), *args, **kwargs)
        return rotated.reshape(rows, length, heads, width).transpose(0, 2, 1, 3)


def rotate_by_token(blocks: Sequence[nn.Module]) -> None:
    """Let the attention layers of some blocks take a position a token."""
    for block in blocks:
        attention = getattr(block, "self_attn", None)  # blocks of another kind have no positions
        if attention is not None and not isinstance(attention.rope, TokenRope):
            attention.rope = TokenRope(attention.rope)
