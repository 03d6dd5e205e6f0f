"""A cache through which rows attend to a prefix that was computed once, and through which gradients flow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import create_attention_mask


class PrefixCache:
    """Keys and values of one layer: those of the first call are kept in the graph and shared by all rows of the second.

    It answers the calls that mlx-lm's attention layers make of a cache, with all the arguments of mlx-lm's own. Nothing is copied or detached, so the gradient
    of the rows' loss reaches the prefix as if each row had computed it alone.

    Args:
        keys: Of the prefix, (1, heads, P, head_dim), where it was computed already.
        values: Likewise.
        window: Tokens that each attends to, itself included, where mlx-lm's own class of the model knows no window; None is all.
    """

    def __init__(self, keys: mx.array | None = None, values: mx.array | None = None, window: int | None = None) -> None:
        self.offset = 0  # position of the next token, for RoPE
        self._keys: mx.array | None = None
        self._values: mx.array | None = None
        self._grows = False
        self.window = window
        if keys is not None and values is not None:
            self.hold(keys, values)

    def hold(self, keys: mx.array, values: mx.array) -> None:
        """Take these as the prefix; the next call adds nothing to it."""
        self.offset, self._keys, self._values, self._grows = keys.shape[2], keys, values, False

    def growing(self) -> PrefixCache:
        """A cache whose next call adds to this one's prefix, which stays as it is; both share what they have in common."""
        grown = PrefixCache(self._keys, self._values, self.window)
        grown._grows = True
        return grown

    def held(self) -> tuple[mx.array, mx.array] | None:
        """Keys and values of the prefix, (1, heads, P, head_dim), or of each row; None where there is none."""
        return None if self._keys is None or self._values is None else (self._keys, self._values)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values to attend to, (B, heads, prefix + T, head_dim), given those of the present tokens."""
        is_first = self._keys is None
        keys, values = self.joined(keys, values)
        if is_first or self._grows:
            self.hold(keys, values)
        return keys, values

    def joined(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values of present tokens behind those of the prefix, for all rows, which stays as it is."""
        if self._keys is None or self._values is None:
            return keys, values
        rows = keys.shape[0]
        shared_keys = mx.broadcast_to(self._keys, (rows, *self._keys.shape[1:]))
        shared_values = mx.broadcast_to(self._values, (rows, *self._values.shape[1:]))
        return mx.concatenate([shared_keys, keys], axis=2), mx.concatenate([shared_values, values], axis=2)

    def make_mask(self, *args: Any, window_size: int | None = None, **kwargs: Any) -> mx.array | str | None:
        """Causal mask after the prefix, of what mlx-lm's own caches are asked for."""
        return create_attention_mask(*args, offset=self.offset, window_size=window_size or self.window, **kwargs)


def tokens_held(caches: Iterable[Any]) -> int:
    """Tokens that the caches of a model's layers hold; those of attention know it, a state does not."""
    return next(cache.offset for cache in caches if isinstance(cache, PrefixCache))
