"""The conditions of evaluate.expect against results: met, missed and by how much, and what was not measured is not met."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.evaluation.check import check_expectations
from mlxtune.evaluation.expectations import Expectation
from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.labels import LabelScore, LabelScores
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.texts import text_scores
from mlxtune.evaluation.results import (
    Against,
    BaselineResult,
    DecodingResult,
    EvaluatedModel,
    EvaluationResult,
    FileIdentity,
    Speed,
)
from mlxtune.evaluation.stored import read_result
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.made_runs import ticket_recipe, tickets

ACCURACY = Estimate(0.8, 0.7, 0.9)
LABELS = {
    "high": LabelScore(0.5, 0.6, 0.55, 10, [0.3, 0.9]),
    "medium": LabelScore(1.0, 1.0, 1.0, 1, None),
    "low": LabelScore(0.0, 0.0, 0.0, 0, None),
}
FIELDS: dict[str, Scores] = {
    "priority": LabelScores({"accuracy": ACCURACY, "invalid_rate": Estimate(0.04, 0.0, 0.1)}, LABELS),
    "tags": LabelScores({"exact_match": Estimate(0.5, 0.4, 0.6)}, {}),
    "response": text_scores(["Dear you."], ["Dear you."]),
}
REPLIES = {"all_fields_correct": Estimate(0.5, 0.4, 0.6), "loop_rate": Estimate(0.0, 0.0, 0.05)}
BETTER = Comparison(0.2, 0.1, 0.3, 0.01, "better", "tfidf")
SAME = Comparison(0.1, -0.1, 0.3, 0.4, "no real difference", "before")
RESULT = EvaluationResult(
    DecodingResult(68, "constrained", REPLIES, FIELDS, speed=Speed(0.5, 2.0, 20.0)),
    baselines={"tfidf": BaselineResult({}, Against({"priority": {"accuracy": BETTER}}))},
    before=Against({"priority": {"accuracy": SAME}}, {"all_fields_correct": replace(BETTER, other="before")}),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return ticket_recipe(tmp_path, tickets(4, response=True), evaluate={"baselines": ["tfidf", "few_shot"]})


def recipe_of(file: Path, **expect: Any) -> Recipe:
    return load_recipe(
        file, [f"evaluate.expect={json.dumps({name.replace('__', '.'): one for name, one in expect.items()})}"]
    )


def checked(file: Path, name: str, condition: str, result: EvaluationResult = RESULT) -> Expectation:
    (one,) = check_expectations(result, recipe_of(file, **{name: condition}))
    assert (one.name, one.condition) == (name, condition)
    return one


@pytest.mark.parametrize(
    ("name", "condition", "met", "margin"),
    [
        ("priority.accuracy", ">= 0.8", True, 0.0),
        ("priority.accuracy", "> 0.8", False, 0.0),
        ("priority.accuracy", ">= 0.9", False, -0.1),
        ("priority.accuracy", "interval >= 0.7", True, 0.0),
        ("priority.accuracy", "interval >= 0.75", False, -0.05),
        ("priority.invalid_rate", "<= 0.05", True, 0.01),
        ("priority.invalid_rate", "<= 0.01", False, -0.03),
        ("priority.invalid_rate", "interval <= 0.05", False, -0.05),
        ("priority.recall.high", ">= 0.65", False, -0.05),
        ("priority.recall.high", "interval >= 0.3", True, 0.0),
        ("priority.precision.high", ">= 0.4", True, 0.1),
        ("priority.f1.medium", ">= 1", True, 0.0),
        ("response.rougeL", ">= 0.5", True, 0.5),
        ("reply.all_fields_correct", ">= 0.4", True, 0.1),
        ("reply.loop_rate", "interval <= 0.1", True, 0.05),
        ("speed.seconds_per_row", "<= 0.25", False, -0.25),
    ],
)
def test_a_metric_is_held_to_its_bound(file: Path, name: str, condition: str, met: bool, margin: float) -> None:
    one = checked(file, name, condition)
    assert (one.met, one.missing) == (met, None)
    assert one.margin == pytest.approx(margin, abs=1e-12)
    assert one.too is (None if met else "high" if "<" in condition else "low")


def test_the_metric_is_shown_with_its_interval(file: Path) -> None:
    assert checked(file, "priority.accuracy", ">= 0.5").value == ACCURACY
    assert checked(file, "priority.recall.high", ">= 0.5").value == Estimate(0.6, 0.3, 0.9)
    assert checked(file, "speed.tokens_per_second", ">= 5").value == Estimate(20.0, None, None)


def test_better_takes_a_real_difference(file: Path) -> None:
    better = checked(file, "priority.accuracy", "better than tfidf")
    assert better.met and better.difference == Estimate(0.2, 0.1, 0.3) and better.value == ACCURACY
    same = checked(file, "priority.accuracy", "better than before")
    assert not same.met and same.difference == Estimate(0.1, -0.1, 0.3) and same.missing is None
    assert checked(file, "reply.all_fields_correct", "better than before").met


@pytest.mark.parametrize(
    ("name", "condition", "missing"),
    [
        ("priority.recall.low", ">= 0", "label"),
        ("priority.precision.low", ">= 0", "label"),
        ("tags.f1.Bug", ">= 0", "label"),
        ("priority.recall.medium", "interval >= 0.1", "interval"),
        ("priority.expected_calibration_error", "<= 1", "probabilities"),
        ("response.bertscore", ">= 0.1", "bertscore"),
        ("response.placeholders_kept", ">= 0.1", "placeholders"),
        ("speed.peak_memory_gb", "<= 100", "memory"),
        ("tags.micro_f1", ">= 0", "metric"),
        ("priority.accuracy", "better than few_shot", "baseline"),
        ("tags.exact_match", "better than tfidf", "comparison"),
    ],
)
def test_what_was_not_measured_is_not_met_and_says_why(file: Path, name: str, condition: str, missing: str) -> None:
    one = checked(file, name, condition)
    assert (one.met, one.missing, one.margin) == (False, missing, None)


def test_replies_of_a_file_have_no_speed_and_nothing_before(file: Path) -> None:
    given = replace(RESULT, top=replace(RESULT.top, speed=None), before=None)
    assert checked(file, "speed.seconds_per_row", "<= 9", given).missing == "speed"
    assert checked(file, "priority.accuracy", "better than before", given).missing == "before"


def test_the_model_before_tuning_is_held_to_nothing(file: Path) -> None:
    base = EvaluatedModel("m", None, "b", "q", None, FileIdentity("t", "0", 68), "mlx")
    recipe = recipe_of(file, priority__accuracy=">= 0.9")
    assert check_expectations(replace(RESULT, evaluated=base), recipe) == ()
    tuned = replace(base, adapter=FileIdentity("a", "1"))
    assert len(check_expectations(replace(RESULT, evaluated=tuned), recipe)) == 1


def test_several_conditions_keep_their_order(file: Path) -> None:
    recipe = recipe_of(file, tags__exact_match=">= 0.1", priority__accuracy=[">= 0.5", "better than tfidf"])
    found = [(one.name, one.condition) for one in check_expectations(RESULT, recipe)]
    assert found == [
        ("tags.exact_match", ">= 0.1"),
        ("priority.accuracy", ">= 0.5"),
        ("priority.accuracy", "better than tfidf"),
    ]


def test_expectations_are_stored_in_the_scores_and_read_again(file: Path, tmp_path: Path) -> None:
    recipe = recipe_of(
        file, priority__accuracy=[">= 0.9", "better than tfidf"], priority__recall__low="interval >= 0.5"
    )
    result = replace(RESULT, expectations=check_expectations(RESULT, recipe))
    (tmp_path / "scores.json").write_text(json.dumps(result.to_json()))
    again = read_result(tmp_path)
    assert again is not None and again.expectations == result.expectations and len(again.expectations) == 3
    assert result.to_json()["expectations"][2] == {
        "name": "priority.recall.low",
        "condition": "interval >= 0.5",
        "met": False,
        "missing": "label",
    }
    assert "expectations" not in RESULT.to_json()
