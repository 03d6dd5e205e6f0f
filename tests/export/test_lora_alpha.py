"""An alpha gives back the scale that it was made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlxtune.export.lora_alpha import Alpha, alpha_of


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_of_any_recipe_comes_back_to_the_last_bit(rslora: bool) -> None:
    random = np.random.default_rng(0)
    for rank in range(1, 257):
        for alpha in (float(random.integers(1, 513)), round(float(random.uniform(0.5, 99)), 2)):
            scale = alpha / (math.sqrt(rank) if rslora else rank)
            assert alpha_of(scale, rank).scale(rank) == scale, (alpha, rank)


def test_the_given_alpha_is_kept_where_it_is_right() -> None:
    assert alpha_of(8.0, 4, Alpha(16, rslora=True)) == Alpha(16, rslora=True)


def test_the_given_alpha_is_left_where_it_is_wrong() -> None:
    assert alpha_of(8.0, 4, Alpha(17, rslora=True)) == Alpha(32.0)


def test_a_whole_alpha_is_preferred() -> None:
    assert alpha_of(16 / 3, 3) == Alpha(16.0)
    assert alpha_of(20.0, 8) == Alpha(160.0)


def test_the_nearest_alpha_stands_in_where_none_is_right() -> None:
    scale, rank = 26.253867747211007, 41
    found = alpha_of(scale, rank)
    assert found.scale(rank) != scale
    assert found.scale(rank) == pytest.approx(scale, rel=1e-15)
