"""Errors worth reading: co-occurrence and confusion counted by hand, and the most wrong rows first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxtune.evaluation.error_analysis import find_errors, worst_rows
from mlxtune.evaluation.metrics.mistakes import label_mistakes, label_set_mistakes
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.recipe.sections import LabelField, Recipe, TextField
from mlxtune.report.terminal.tables import WIDTH, error_tables, to_text
from mlxtune.report.terminal.text_tables import case_tables

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
    found = label_set_mistakes(expected, predicted).to_json()
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
    found = label_set_mistakes(expected, predicted).to_json()
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
    found = label_mistakes(["low", "low", "high", "high", "mid"], ["high", "high", "low", "high", None]).to_json()
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
    assert [one.row for one in worst_rows(rows, recipe)] == [4, 2, 3, 1]


def test_loops_and_unparseable_replies_are_listed(recipe: Recipe) -> None:
    rows = [
        prediction(0, ("payment",), ("payment",)),
        prediction(1, ("payment",), None, problem="does not follow the template"),
        prediction(2, ("none",), ("none",), loop=True, repeated=True),
    ]
    found = find_errors(rows, recipe).to_json()
    assert (found["rows"], found["wrong"], found["loops"], found["unparseable"]) == (3, 1, [2], [1])
    assert found["worst"][0]["problem"] == "does not follow the template"
    assert found["fields"]["intents"] == {"missed": [], "added": []}


def test_the_table_shows_as_many_rows_as_asked_and_commands_no_terminal(recipe: Recipe) -> None:
    rows = [prediction(row, ("user_auth", "payment"), ("payment",)) for row in range(4)]
    rows.append(prediction(4, ("none",), None, input="\x1b[2J[bold]" + "long " * 100, prediction="\x1b[31mred"))
    errors = find_errors(rows, recipe).to_json()
    text = to_text(error_tables(errors, 2))
    assert "user_auth missed beside payment" in text and "4 of 4" in text
    assert "5 of 5 rows are wrong, 1 unparseable; the 2 worst rows" in text
    assert "\x1b" not in text and "[bold]" in text and "(invalid)" in text
    assert max(map(len, text.splitlines())) <= WIDTH
    assert error_tables(errors, 0) == []


def test_labels_in_another_order_are_not_shown_as_wrong(recipe: Recipe) -> None:
    fields = {**recipe.output.fields, "type": LabelField(kind="label", labels=["low", "high"])}
    both = recipe.model_copy(update={"output": recipe.output.model_copy(update={"fields": fields})})
    one = prediction(0, ("payment", "user_auth"), ("user_auth", "payment"))
    one = replace(one, expected={**one.expected, "type": "low"}, predicted={**one.predicted, "type": "high"})
    shown = to_text(error_tables(find_errors([one], both).to_json(), 1)).splitlines()[-1]
    assert shown.split() == ["0", *one.input.split(), "low", "high"]


def test_a_wrong_row_has_the_probability_of_what_it_said(recipe: Recipe) -> None:
    rows = [prediction(0, ("payment",), ("none",), probability={"intents": 0.625})]
    assert "none (0.62)" in to_text(error_tables(find_errors(rows, recipe).to_json(), 5))


def text_rows(n_rows: int) -> list[Prediction]:
    """Row i says i of nine words of its reference, the labels of even rows are right, and the last row says nothing."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    found = []
    for i in range(n_rows):
        one = prediction(i, ("payment",), ("payment",) if i % 2 == 0 else ("none",))
        said = " ".join(words[: i % 10]) or "none at all"
        expected, predicted = {**one.expected, "response": " ".join(words)}, {**one.predicted, "response": said}
        found.append(replace(one, expected=expected, predicted=predicted))
    nothing = {"intents": None, "response": None}
    return [*found[:-1], replace(found[-1], predicted=nothing, prediction="\x1b[2J[b]I cannot", valid=False)]


@pytest.fixture
def with_text(recipe: Recipe) -> Recipe:
    fields = {**recipe.output.fields, "response": TextField(kind="text")}
    return recipe.model_copy(update={"output": recipe.output.model_copy(update={"fields": fields})})


def test_texts_are_ranked_by_rouge_l_and_no_row_is_shown_twice(with_text: Recipe) -> None:
    rows = text_rows(10)
    cases = find_errors(rows, with_text).to_json()["cases"]["response"]
    assert {kind: [case["row"] for case in cases[kind]] for kind in cases} == {
        "best": [8, 7, 6], "middle": [5, 4, 3], "worst": [9, 0, 1],
    }  # fmt: skip
    best, worst = cases["best"][0], cases["worst"][0]
    assert (
        best["rougeL"] == pytest.approx(2 * 8 / 17) and best["bucket"] == ">0.5" and best["right"] == {"intents": True}
    )
    assert (best["reference"], best["prediction"]) == (rows[8].expected["response"], rows[8].predicted["response"])
    assert (worst["rougeL"], worst["prediction"], worst["reply"]) == (0, None, rows[9].prediction)


@pytest.mark.parametrize(("n_rows", "counts"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (5, [1, 1, 1]), (900, [100] * 3)])
def test_a_third_of_the_rows_and_at_most_a_hundred_are_kept(with_text: Recipe, n_rows: int, counts: list[int]) -> None:
    cases = find_errors(text_rows(n_rows), with_text).to_json()["cases"]["response"]
    assert [len(cases[kind]) for kind in ("best", "middle", "worst")] == counts
    rows = [case["row"] for kind in cases for case in cases[kind]]
    assert len(rows) == len(set(rows))


def test_cases_show_their_texts_and_which_labels_were_right(with_text: Recipe) -> None:
    rows = [replace(row, input="long " * 200) for row in text_rows(10)]
    text = to_text(case_tables(find_errors(rows, with_text).to_json(), 2))
    assert "response: the 2 best texts by ROUGE-L" in text and "response: the 2 worst texts by ROUGE-L" in text
    assert "row 8" in text and "ROUGE-L 0.94; intents right" in text
    assert "ROUGE-L 0.88; intents: none, not payment" in text
    assert "(unreadable) \ufffd[2J[b]I cannot" in text and "\x1b" not in text
    assert max(map(len, text.splitlines())) <= WIDTH and "..." in text
    assert case_tables(find_errors(rows, with_text).to_json(), 0) == []


def test_recipes_without_texts_have_no_cases(recipe: Recipe) -> None:
    errors = find_errors([prediction(0, ("none",), ("none",))], recipe).to_json()
    assert errors["cases"] == {} and case_tables(errors, 5) == []


def test_an_unreadable_reply_is_shown_once_for_all_its_fields(with_text: Recipe) -> None:
    fields = {**with_text.output.fields, "more": with_text.output.fields["intents"]}
    recipe = with_text.model_copy(update={"output": with_text.output.model_copy(update={"fields": fields})})
    rows = [
        replace(row, expected={**row.expected, "more": ("none",)}, predicted={**row.predicted, "more": None})
        for row in text_rows(1)
    ]
    assert to_text(error_tables(find_errors(rows, recipe).to_json(), 1)).count("I cannot") == 1


def test_nothing_is_shown_where_nothing_is_wrong(recipe: Recipe) -> None:
    assert error_tables(find_errors([prediction(0, ("none",), ("none",))], recipe).to_json(), 5) == []
