"""Attention masks by window, and the form in which a transformers model takes them. Nothing here knows a cache or a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mlxtune.backends.transformers_config import FULL, LINEAR, SLIDING

# Window -> mask of the layers with that window, (B, 1, T, K); None is the window of those that see all.
Masks = Mapping[int | None, Tensor]


def window_masks(visible: Tensor, queries: Tensor, keys: Tensor, windows: Sequence[int | None]) -> Masks:
    """The mask of each kind of layer.

    Args:
        visible: Which keys each token may attend to where nothing limits how far back they are, (B, T, K).
        queries: Position of each token, (B, T).
        keys: Position of each key, (B, K).
        windows: Of the layers.
    """
    distance = queries[:, :, None] - keys[:, None]
    return {
        size: (visible if size is None else visible & (distance < size))[:, None] for size in dict.fromkeys(windows)
    }


def as_argument(masks: Masks) -> Any:
    """What a model takes as `attention_mask`: one for all layers, or one for each kind that its config tells apart.

    A delta net has no use for either.
    """
    if len(masks) == 1:
        return next(iter(masks.values()))
    return {LINEAR: None, **{FULL if window is None else SLIDING: mask for window, mask in masks.items()}}
