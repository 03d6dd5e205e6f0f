from __future__ import annotations

import math
from dataclasses import replace

import pytest
from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

from mlxtune.evaluation.fields.scorer import Column
from mlxtune.evaluation.metrics.labels import label_scores, label_set_scores
from mlxtune.evaluation.metrics.mistakes import label_mistakes, label_set_mistakes, set_confusion
from mlxtune.report.blocks import Table
from mlxtune.report.charts import BarChart, HeatMap
from mlxtune.report.sections.field_results import FieldResults, OtherSystem, field_results
from mlxtune.report.sections.fields import field_sections
from mlxtune.report.sections.labels import MAX_CONFUSED, MAX_LABELS, LabelErrors, label_section
from mlxtune.report.words import Words
from tests.report.sections.made import (
    blocks_of,
    column_of,
    contents_of,
    one,
    paragraphs,
    scores_of,
    section_of,
    table,
    texts,
)

PRIORITIES = ["high", "medium", "low"]
EN = Words("en")


def priorities(rows):
    """A section of (expected, predicted, how many rows)."""
    expected = [right for right, _, n in rows for _ in range(n)]
    predicted = [said for _, said, n in rows for _ in range(n)]
    scores = label_scores(expected, predicted, [False] * len(expected), PRIORITIES)
    errors = LabelErrors(label_mistakes(expected, predicted))
    return label_section(FieldResults("priority", len(expected), scores), errors, EN)


# Of the tickets whose confusion matrix a person once worked out by hand: low is taken for medium in 40.6% of its rows.
TICKETS = [
    ("high", "high", 622), ("high", "medium", 293), ("high", "low", 85),
    ("medium", "high", 269), ("medium", "medium", 585), ("medium", "low", 146),
    ("low", "high", 72), ("low", "medium", 203), ("low", "low", 225),
]  # fmt: skip


def test_what_a_person_found_in_a_confusion_matrix_is_said():
    said = texts(priorities(TICKETS))
    assert "low is taken for medium in 203 of 500 rows (40.6%)" in said
    assert "Labels with a recall below 0.5: low (recall 0.450 over 500 rows, 20.0% of all)." in said
    assert "Rare among these: low." in said
    assert "medium is predicted too often: 1,081 times, expected 1,000 times." in said


def test_cells_of_a_confusion_matrix_hold_counts_and_shares_of_their_row():
    section = priorities([*TICKETS[:-1], ("low", "low", 224), ("low", None, 1)])
    chart = one(section, HeatMap)
    assert (list(chart.rows), list(chart.columns)) == (PRIORITIES, [*PRIORITIES, "invalid reply"])
    assert chart.texts[2] == ["72 (14.4%)", "203 (40.6%)", "224 (44.8%)", "1 (0.2%)"]
    assert chart.values[2] == pytest.approx([0.144, 0.406, 0.448, 0.002])
    assert "low: 44.8% of 500 rows right, 40.6% medium." in chart.description


def test_a_field_without_an_error_says_nothing_of_errors():
    section = priorities([("high", "high", 3), ("medium", "medium", 3), ("low", "low", 3)])
    assert [block for block in blocks_of(section) if isinstance(block, Table) and "error" in block.title] == []
    assert "recall below" not in texts(section) and "too often" not in texts(section)


def test_a_label_that_no_row_has_gets_no_scores():
    section = priorities([("high", "high", 3), ("medium", "high", 1)])
    found = table(section, "By label")
    assert [cell.text for cell in found.rows[2]] == ["low", "0 (0.0%)", "0", "–", "–", "–"]
    assert found.rows[1][3].text == "–" and found.rows[1][4].text == "0.000"
    assert "macro F1 counts it as 0" in found.note
    chart = one(section, HeatMap)
    assert chart.values[2] == [None, None, None] and chart.texts[2] == ["", "", ""]
    assert "low" not in chart.description


def test_a_single_row_has_no_interval_and_is_one_row():
    section = priorities([("low", "high", 1)])
    assert "The accuracy is 0.000 over 1 row." in texts(section)


def test_many_labels_show_the_most_frequent_first_and_say_what_is_left_out():
    labels = [f"label {i}" for i in range(60)]
    expected = [label for i, label in enumerate(labels) for _ in range(1 + i % 7)]
    predicted = [labels[(labels.index(label) + (place % 2)) % 60] for place, label in enumerate(expected)]
    scores = label_scores(expected, predicted, [False] * len(expected), labels)
    errors = LabelErrors(label_mistakes(expected, predicted))
    section = label_section(FieldResults("queue", len(expected), scores), errors, EN)
    found = table(section, "By label")
    assert len(found.rows) == MAX_LABELS and "20 more are not" in found.note
    named = [row[0].text for row in (*found.rows, *table(section, "Further labels").rows)]
    assert sorted(named) == sorted(labels)
    chart = one(section, HeatMap)
    assert len(chart.rows) == MAX_CONFUSED and chart.columns[-1] == "other labels"
    for label, row in zip(chart.rows, chart.texts, strict=True):
        assert sum(int(text.split(" ")[0].replace(",", "")) for text in row) == expected.count(label)


def test_the_map_of_sets_says_what_stands_in_the_place_of_what():
    labels = ["pay", "tell", "ask"]
    expected = [("pay",), ("pay", "tell"), ("tell",), ("ask",), ("ask",), ("pay",)]
    predicted = [("tell",), ("pay",), ("tell", "ask"), ("pay", "tell"), None, ("pay",)]
    scores = label_set_scores(expected, predicted, [False] * 6, labels)
    errors = LabelErrors(label_set_mistakes(expected, predicted), set_confusion(expected, predicted, labels))
    chart = one(label_section(FieldResults("intents", 6, scores), errors, EN), HeatMap)
    assert list(chart.columns) == [*labels, "nothing instead", "invalid reply"]
    assert [[text.split(" ")[0] for text in row] for row in chart.texts] == [
        ["2", "1", "0", "0", "0"],  # pay: two right, one row said tell instead
        ["0", "1", "0", "1", "0"],  # tell: missed once beside pay, with nothing else said
        ["1", "1", "0", "0", "1"],  # ask: one row said both others, one reply could not be read
    ]
    section = label_section(FieldResults("intents", 6, scores), errors, EN)
    assert "Labels added to replies that have every expected label: ask in 1 row." in texts(section)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_numbers_of_every_field_with_labels_are_those_of_its_scores(language):
    tuned, base = contents_of(language, "given_replies", "tuned"), contents_of(language, "given_replies", "base")
    for name in ("type", "priority", "intents", "tags"):
        section = section_of(field_sections(tuned, base, Words("en")), name)
        scores = scores_of(tuned, name)
        before = scores_of(base, name)
        found = table(section, "By label")
        assert len(found.rows) == len(scores.labels)
        said = [
            cell
            for row in found.rows
            for cell in row
            if cell.share is not None and not math.isclose(cell.share, float(cell.text.split(" ")[0]), abs_tol=5e-4)
        ]
        assert said == []
        for row, (label, one_of) in zip(found.rows, scores.labels.items(), strict=True):
            assert row[0].text == label and row[1].text.split(" ")[0] == str(one_of.support)
            if one_of.support:
                assert row[4].share == one_of.recall and row[6].share == before.labels[label].f1
        predicted = [value for value in column_of(tuned, name).predicted if value is not None]
        for row in found.rows:
            assert int(row[2].text) == sum(
                row[0].text in ((one,) if isinstance(one, str) else one) for one in predicted
            )


def test_a_matrix_is_that_of_scikit_learn():
    tuned = contents_of("en", "given_replies", "tuned")
    column: Column = column_of(tuned, "priority")
    chart = one(section_of(field_sections(tuned, None, EN), "priority"), HeatMap)
    parsed = [(right, said) for right, said in zip(column.expected, column.predicted, strict=True) if said is not None]
    wanted = confusion_matrix(*zip(*parsed, strict=True), labels=list(chart.rows))
    assert [[int(text.split(" ")[0]) for text in row[: len(chart.rows)]] for row in chart.texts] == wanted.tolist()


def test_counts_of_sets_are_those_of_scikit_learn():
    tuned = contents_of("zh", "given_replies", "base")
    scores, column = scores_of(tuned, "intents"), column_of(tuned, "intents")
    labels = list(scores.labels)
    found = set_confusion(column.expected, column.predicted, labels)
    gold = [[label in row for label in labels] for row in column.expected]
    said = [[label in (row or ()) for label in labels] for row in column.predicted]
    for label, ((_, extra), (missed, hits)) in zip(labels, multilabel_confusion_matrix(gold, said), strict=True):
        assert (found.hits[label], found.expected[label], found.said[label]) == (hits, hits + missed, hits + extra)


def test_what_tuning_changed_is_said_with_its_verdict():
    tuned, base = contents_of("zh", "asked_model", "tuned"), contents_of("zh", "asked_model", "base")
    for say, wanted in (
        (EN, "Tuning made it better: +0.292 [+0.125, +0.458]."),
        (Words("zh"), "微调后更好：+0.292 [+0.125, +0.458]。"),
    ):
        section = section_of(field_sections(tuned, base, say), "intents")
        first = paragraphs(section)[0]
        assert wanted in first.text and first.tone == "good"
    chart = one(section_of(field_sections(tuned, base, EN), "intents"), BarChart)
    before = scores_of(base, "intents").labels
    assert list(chart.groups[1].values) == [before[label].recall for label in chart.categories]


def test_without_the_base_model_no_column_speaks_of_before():
    tuned = contents_of("zh", "asked_model", "tuned")
    assert tuned.result.before is not None
    before = tuned.result.before.fields
    results = field_results(replace(tuned.result, before=None))["intents"]
    section = label_section(results, None, EN)
    assert "before" not in texts(section)
    results = replace(results, before=OtherSystem("before", None, before["intents"]))
    assert "Before tuning it was 0.708. Tuning made it better" in texts(label_section(results, None, EN))
