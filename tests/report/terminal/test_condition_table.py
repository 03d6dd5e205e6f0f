"""The table of conditions: what was expected, what was measured, by how much; and the sentence of one that is not met."""

from __future__ import annotations

from typing import get_args

import pytest

from mlxtune.evaluation.expectations import Expectation, Missing
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.report.terminal.condition_table import MISSING, condition_sentence, condition_table
from mlxtune.report.terminal.tables import WIDTH, to_text

VALUE = Estimate(0.809, 0.706, 0.897)
MISSED = Expectation("intents.exact_match", ">= 0.9", False, VALUE, -0.091)
SAME = Expectation("intents.exact_match", "better than tfidf", False, VALUE, difference=Estimate(-0.03, -0.13, 0.07))
NO_ROW = Expectation("priority.recall.low", "interval >= 0.65", False, missing="label")
CLOSE = Expectation("speed.seconds_per_row", "<= 0.1", False, Estimate(0.1002, None, None), -0.0002)


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (MISSED, "expected >= 0.9, got 0.809 [0.706, 0.897], 0.091 too low"),
        (SAME, "expected better than tfidf, got 0.809 [0.706, 0.897], a difference of -0.030 [-0.130, +0.070]"),
        (NO_ROW, "expected interval >= 0.65, got no value: no test row expects this label"),
        (CLOSE, "expected <= 0.1, got 0.100, 0.0002 too high"),
    ],
)
def test_a_sentence_says_what_was_expected_what_arrived_and_by_how_much(one: Expectation, sentence: str) -> None:
    assert condition_sentence(one) == sentence


def test_the_table_counts_what_is_met_and_fits() -> None:
    met = Expectation("a [label]", "<= 0.05", True, Estimate(0.0, 0.0, 0.02), 0.05)
    text = to_text([condition_table([met, MISSED, SAME, NO_ROW])])
    lines = text.splitlines()
    assert lines[0] == "Conditions of evaluate.expect: 1 of 4 met" and max(map(len, lines)) <= WIDTH
    assert "a [label]" in text and text.count("NOT MET") == 3


def test_every_reason_has_a_sentence() -> None:
    assert set(MISSING) == set(get_args(Missing))
