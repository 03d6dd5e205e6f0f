"""The section of conditions: one row each, a sentence that names what is missed, in both languages."""

from __future__ import annotations

from typing import get_args

import pytest

from mlxtune.evaluation.expectations import Expectation, Missing
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.report.blocks import Paragraph, Table
from mlxtune.report.sections.conditions import condition_section, conditions_sentence
from mlxtune.report.words import LANGUAGES, PHRASES, Words

VALUE = Estimate(0.809, 0.706, 0.897)
MET = Expectation("intents.exact_match", ">= 0.7", True, VALUE, 0.109)
MISSED = Expectation("intents.exact_match", "interval >= 0.75", False, VALUE, -0.044)
SAME = Expectation("intents.exact_match", "better than tfidf", False, VALUE, difference=Estimate(-0.03, -0.13, 0.07))
NO_ROW = Expectation("priority.recall.low", ">= 0.65", False, missing="label")


def test_each_condition_is_a_row_with_what_was_measured_and_by_how_much():
    section = condition_section([MET, MISSED, SAME, NO_ROW], Words("en"))
    assert section is not None and section.name == "conditions"
    sentence, table = section.blocks
    assert isinstance(sentence, Paragraph) and sentence.tone == "bad" and isinstance(table, Table)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["intents.exact_match", ">= 0.7", "0.809 [0.706, 0.897]", "met", "0.109 to spare"],
        ["intents.exact_match", "interval >= 0.75", "0.809 [0.706, 0.897]", "not met", "0.044 too low"],
        ["intents.exact_match", "better than tfidf", "0.809 [0.706, 0.897]", "not met", "difference -0.030 [-0.130, +0.070]"],
        ["priority.recall.low", ">= 0.65", "", "not met", "no test row expects this label"],
    ]  # fmt: skip
    assert [row[3].tone for row in table.rows] == ["good", "bad", "bad", "bad"]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_a_sentence_counts_and_names_what_is_missed():
    english, chinese = Words("en"), Words("zh")
    assert conditions_sentence([MET, MET], english) == "All 2 conditions of the recipe are met."
    assert conditions_sentence([MET], english) == "The recipe's condition is met."
    assert (
        conditions_sentence([MET, MISSED, NO_ROW], english)
        == "1 of the recipe's 3 conditions are met. Not met: intents.exact_match interval >= 0.75 (0.044 too low), "
        "priority.recall.low >= 0.65 (no test row expects this label)."
    )
    assert conditions_sentence([MET, MISSED], chinese) == (
        "配方中的 2 项条件有 1 项达标。未达标：intents.exact_match interval >= 0.75（低 0.044）。"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_without_conditions_there_is_no_section_and_no_sentence(language: str):
    assert condition_section([], Words(language)) is None and conditions_sentence([], Words(language)) == ""


def test_every_reason_has_words():
    assert {f"conditions.missing.{one}" for one in get_args(Missing)} <= set(PHRASES)
