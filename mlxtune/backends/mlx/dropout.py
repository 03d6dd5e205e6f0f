"""Dropout whose masks come from keys that are given, so that a block that is run again draws what it drew before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn


class DropoutKeys:
    """The keys of one forward pass, one an adapted layer, (layers, 2); shared by all dropouts of a network.

    MLX's global random state would advance when a block is run again in the backward pass, and the gradient would be
    that of other masks.
    """

    def __init__(self) -> None:
        self.of_layers: mx.array | None = None

    @contextlib.contextmanager
    def used(self, of_layers: mx.array | None) -> Iterator[None]:
        """Draw from these keys meanwhile."""
        before, self.of_layers = self.of_layers, of_layers
        try:
            yield
        finally:
            self.of_layers = before


class KeyedDropout(nn.Module):  # type: ignore[misc]
    """Zeroes a share of the input while training, and scales up the rest.

    Args:
        share: Of the input that is zeroed.
        keys: Where the keys of the forward pass are.
        place: Which of them is this layer's.
    """

    def __init__(self, share: float, keys: DropoutKeys, place: int) -> None:
        super().__init__()
        self._share, self._keys, self._place = share, keys, place
        self._width: int | None = None
        self._own: slice | None = None

    def draw_for(self, width: int, own: slice | None) -> None:
        """Draw the mask of inputs of a width, of which the layer's are a part; None is all."""
        self._width, self._own = (None, None) if own is None else (width, own)

    def __call__(self, x: mx.array) -> mx.array:
        """The input with some of it zeroed."""
        if self._share == 0 or not self.training:
            return x
        if self._keys.of_layers is None:
            raise RuntimeError("a forward pass with dropout needs keys")
        shape = x.shape if self._width is None else (*x.shape[:-1], self._width)
        kept = mx.random.bernoulli(1 - self._share, shape, key=self._keys.of_layers[self._place])
        if self._own is not None:
            kept = kept[..., self._own]
        return (kept * x) * (1 / (1 - self._share))
