"""Values as text."""

from __future__ import annotations

from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.report.values import estimate_text, signed_text


def test_a_value_that_rounds_to_zero_has_no_minus() -> None:
    tiny = Estimate(-0.0004, -0.0006, 0.0004)
    assert estimate_text(tiny) == "0.000 [-0.001, 0.000]"
    assert signed_text(tiny) == "+0.000 [-0.001, +0.000]"
    assert estimate_text(Estimate(-0.004, None, None), digits=2) == "0.00"
