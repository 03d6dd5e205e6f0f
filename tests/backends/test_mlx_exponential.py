"""Exponentials, sigmoids and SiLU as powers of e are those of NumPy in double precision, and so is the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxtune.backends.mlx import exponential


@pytest.fixture(params=[False, True], ids=["powers", "own"])
def fast_exp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether MLX's own functions count as fast."""
    monkeypatch.setattr(exponential, "has_fast_exp", lambda: request.param)
    return bool(request.param)


def both(n: int = 10_001) -> tuple[Any, Any]:
    """Numbers from -30 to 30 for MLX, and the same in double precision."""
    import mlx.core as mx

    values = np.linspace(-30, 30, n, dtype=np.float32)
    return mx.array(values), values.astype(np.float64)


@pytest.mark.parametrize("name", ["exp", "sigmoid", "silu"])
def test_values_are_numpys(fast_exp: bool, name: str) -> None:
    values, exact = both()
    sigmoid = 1 / (1 + np.exp(-exact))
    wanted = {"exp": np.exp(exact), "sigmoid": sigmoid, "silu": exact * sigmoid}[name]
    np.testing.assert_allclose(np.array(getattr(exponential, name)(values)), wanted, rtol=3e-6, atol=0)


def test_they_end_in_0_1_and_infinity(fast_exp: bool) -> None:
    import mlx.core as mx

    ends = mx.array([-1e4, 1e4])
    assert exponential.exp(ends).tolist() == [0, float("inf")]
    assert exponential.sigmoid(ends).tolist() == [0, 1]
    assert exponential.silu(ends).tolist() == [0, 1e4]


def test_the_gradient_of_silu_is_that_of_its_formula(fast_exp: bool) -> None:
    import mlx.core as mx

    values, exact = both()
    found = mx.grad(lambda x: (3 * exponential.silu(x)).sum())(values)
    sigmoid = 1 / (1 + np.exp(-exact))
    np.testing.assert_allclose(np.array(found), 3 * sigmoid * (1 + exact * (1 - sigmoid)), rtol=1e-4, atol=1e-6)


def test_silu_of_16_bits_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.core as mx

    monkeypatch.setattr(exponential, "has_fast_exp", lambda: False)
    rounded = both()[0].astype(mx.bfloat16)
    found = exponential.silu(rounded)
    assert found.dtype == mx.bfloat16
    assert mx.array_equal(found, exponential.silu(rounded.astype(mx.float32)).astype(mx.bfloat16))
