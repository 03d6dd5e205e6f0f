"""Errors worth reading: co-occurrence and confusion counted by hand, and the most wrong rows first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlxtune.evaluation.errors import find_errors, label_errors, label_set_errors, worst_rows
from mlxtune.evaluation.predictions import Prediction
from mlxtune.recipe import Recipe
from mlxtune.report.tables import WIDTH, error_tables, to_text

LABELS = ["user_auth", "order_management", "payment", "none"]


def prediction(row: int, expected: tuple[str, ...], predicted: tuple[str, ...] | None, **values: Any) -> Prediction:
    given: Mapping[str, Any] = {
        "file": "test.jsonl", "line": row + 1, "input": f"text {row}", "prediction": ", ".join(predicted or ["???"]),
        "valid": predicted is not None, "repeated": False, "loop": False, "problem": None, "stop": "stop", "tokens": 1,
        "decoding": "free",
    }  # fmt: skip
    return Prediction(row=row, expected={"intents": expected}, predicted={"intents": predicted}, **{**given, **values})


def test_a_missed_label_is_counted_beside_every_label_it_came_with() -> None:
    expected = [("a", "b"), ("a", "b", "c"), ("a", "b"), ("b",), ("b",)]
    predicted = [("a",), ("a", "c"), ("a", "b"), ("a",), ("b",)]
    found = label_set_errors(expected, predicted)
    assert found["missed"] == [
        {"label": "b", "beside": "a", "rows": 2, "of": 3},
        {"label": "b", "beside": "c", "rows": 1, "of": 1},
        {"label": "b", "beside": None, "rows": 1, "of": 2},
    ]
    assert found["added"] == [{"label": "a", "beside": "b", "rows": 1, "of": 2}]


def test_co_occurrence_errors_equal_a_count_over_all_pairs() -> None:
    rng = np.random.default_rng(0)

    def some() -> tuple[str, ...]:
        return tuple(str(label) for label in rng.choice(LABELS, size=rng.integers(1, 4), replace=False))

    expected = [some() for _ in range(200)]
    predicted = [None if rng.random() < 0.1 else some() for _ in range(200)]
    found = label_set_errors(expected, predicted)
    rows = [(set(right), set(said)) for right, said in zip(expected, predicted, strict=True) if said is not None]
    for one in found["missed"]:
        a, b = one["label"], one["beside"]
        both = [said for right, said in rows if (right == {a} if b is None else a in right and b in right)]
        assert (one["of"], one["rows"]) == (len(both), sum(a not in said for said in both)), one
    for one in found["added"]:
        a, b = one["label"], one["beside"]
        without = [said for right, said in rows if b in right and a not in right]
        assert (one["of"], one["rows"]) == (len(without), sum(a in said for said in without)), one
    assert len(found["missed"]) == len(LABELS) ** 2 and len(found["added"]) == len(LABELS) * (len(LABELS) - 1)


def test_single_labels_are_confused_with_one_another() -> None:
    found = label_errors(["low", "low", "high", "high", "mid"], ["high", "high", "low", "high", None])
    assert found == {
        "confused": [
            {"label": "low", "taken_for": "high", "rows": 2, "of": 2},
            {"label": "high", "taken_for": "low", "rows": 1, "of": 2},
        ]
    }


def test_the_most_wrong_rows_come_first_and_right_rows_not_at_all(recipe: Recipe) -> None:
    rows = [
        prediction(0, ("payment",), ("payment",)),
        prediction(1, ("user_auth", "payment"), ("payment",)),
        prediction(2, ("payment",), ("none",)),
        prediction(3, ("user_auth", "payment"), None),
        prediction(4, ("user_auth", "order_management"), ("payment",)),
    ]
    assert [one["row"] for one in worst_rows(rows, recipe)] == [4, 2, 3, 1]


def test_loops_and_unparseable_replies_are_listed(recipe: Recipe) -> None:
    rows = [
        prediction(0, ("payment",), ("payment",)),
        prediction(1, ("payment",), None, problem="does not follow the template"),
        prediction(2, ("none",), ("none",), loop=True, repeated=True),
    ]
    found = find_errors(rows, recipe)
    assert (found["rows"], found["wrong"], found["loops"], found["unparseable"]) == (3, 1, [2], [1])
    assert found["worst"][0]["problem"] == "does not follow the template"
    assert found["fields"]["intents"] == {"missed": [], "added": []}


def test_the_table_shows_as_many_rows_as_asked_and_commands_no_terminal(recipe: Recipe) -> None:
    rows = [prediction(row, ("user_auth", "payment"), ("payment",)) for row in range(4)]
    rows.append(prediction(4, ("none",), None, input="\x1b[2J[bold]" + "long " * 100, prediction="\x1b[31mred"))
    errors = find_errors(rows, recipe)
    text = to_text(error_tables(errors, 2))
    assert "user_auth missed beside payment" in text and "4 of 4" in text
    assert "5 of 5 rows are wrong, 1 unparseable; the 2 worst rows" in text
    assert "\x1b" not in text and "[bold]" in text and "(invalid)" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert error_tables(errors, 0) == []


def test_a_wrong_row_has_the_probability_of_what_it_said(recipe: Recipe) -> None:
    rows = [prediction(0, ("payment",), ("none",), probability={"intents": 0.625})]
    assert "none (0.62)" in to_text(error_tables(find_errors(rows, recipe), 5))


def test_nothing_is_shown_where_nothing_is_wrong(recipe: Recipe) -> None:
    assert error_tables(find_errors([prediction(0, ("none",), ("none",))], recipe), 5) == []
