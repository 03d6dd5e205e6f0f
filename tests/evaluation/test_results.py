"""An evaluation's result: a scores.json that is read and written again is the same, and a damaged one names its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import RunError
from mlxtune.evaluation.judge.ratings import STATUSES, Ratings
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.labels import LabelScores
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.results import Against, EvaluatedModel, EvaluationResult, GivenReplies
from mlxtune.evaluation.stored import read_result

GOLDEN = Path(__file__).parent / "golden"
SPEED = {"seconds_per_row": 0.5, "rows_per_second": 2.0, "tokens_per_second": 20.0, "peak_memory_gb": 1.5}
BASELINES = ("zero_shot", "few_shot")


def stored(name: str) -> dict[str, Any]:
    """A golden scores.json; its times, which the golden files leave out, are those of `SPEED`."""

    def timed(value: Any) -> Any:
        if isinstance(value, list):
            return [timed(one) for one in value]
        if not isinstance(value, dict):
            return value
        times = {"speed": SPEED, "baseline_speed": dict.fromkeys(BASELINES, SPEED)}
        return {key: times[key] if one == "..." and key in times else timed(one) for key, one in value.items()}

    content: dict[str, Any] = timed(json.loads((GOLDEN / name).read_text(encoding="utf-8")))
    return content


NAMES = sorted(str(file.relative_to(GOLDEN)) for file in GOLDEN.rglob("scores.json"))
ASKED, GIVEN = "en/expected/asked_model/tuned/scores.json", "en/expected/given_replies/base/scores.json"


def test_the_golden_files_are_of_both_languages_and_of_everything_that_is_evaluated():
    assert len(NAMES) == 8 and {ASKED, GIVEN} < {*NAMES}
    keys = {key for name in NAMES for key in stored(name)}
    assert keys >= {
        "decodings",
        "consistency",
        "baselines",
        "comparisons",
        "reply_comparisons",
        "baseline_speed",
        "limits",
    }
    assert keys >= {"model", "replies_of", "evaluated"}


@pytest.mark.parametrize("name", NAMES)
def test_a_scores_json_that_is_read_is_written_as_it_was(name):
    content = stored(name)
    once = EvaluationResult.from_json(content)
    assert once.to_json() == content
    assert EvaluationResult.from_json(once.to_json()) == once
    assert json.dumps(EvaluationResult.from_json(once.to_json()).to_json()) == json.dumps(once.to_json())  # order too


def test_what_is_read_has_the_classes_that_were_written():
    asked, given = (EvaluationResult.from_json(stored(name)) for name in (ASKED, GIVEN))
    assert isinstance(asked.evaluated, EvaluatedModel) and isinstance(given.evaluated, GivenReplies)
    assert isinstance(asked.top.fields["intents"], LabelScores)
    assert any(isinstance(one, TextScores) for one in given.top.fields.values())
    assert [*asked.by_decoding] == ["constrained", "free"] and asked.by_decoding["constrained"] is asked.top
    assert isinstance(asked.before, Against) and asked.before.replies.keys() == {"all_fields_correct"}
    compared = asked.before.fields["intents"]["exact_match"]
    written = stored(ASKED)["comparisons"]["before"]["intents"]["exact_match"]
    assert (compared.other, compared.sentence) == ("before", written["sentence"])


def test_a_judges_ratings_keep_the_version_of_the_question_they_answer():
    estimate = Estimate(4.0, 3.0, 5.0)
    counts = {status: position for position, status in enumerate(STATUSES)}
    ratings = Ratings(
        "m", "http://h/v1", 9, counts, {"r": {"tone": estimate, "none": None}}, {"r": {"rougeL": None}}, 7
    )
    judged = replace(EvaluationResult.from_json(stored(GIVEN)), judge=ratings)
    content = judged.to_json()
    assert content["judge"]["rubric"] == 7 and EvaluationResult.from_json(content) == judged
    assert {key: value for key, value in content.items() if key != "judge"} == stored(GIVEN)


def test_one_row_has_comparisons_without_intervals():
    content = stored(ASKED)
    one = content["comparisons"]["before"]["intents"]["exact_match"]
    one.update(low=None, high=None, p_value=None, sentence="too few rows to tell from before")
    assert EvaluationResult.from_json(content).to_json() == content


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def damage(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return damage


def with_value(value: object, *keys: str) -> Callable[[dict[str, Any]], None]:
    def damage(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (without("rows"), "rows: expected this key, it is missing"),
        (without("fields"), "fields: expected this key, it is missing"),
        (without("model"), "model: expected this key, it is missing"),
        (with_value([], "fields", "intents"), "fields.intents: expected an object, got []"),
        (with_value("high", "fields", "intents", "macro_f1", "value"),
         "fields.intents.macro_f1.value: expected a number, got 'high'"),
        (with_value(0.5, "fields", "intents", "micro_f1"), "fields.intents.micro_f1: expected an object, got 0.5"),
        (without("fields", "intents", "calibration", "rows"),
         "fields.intents.calibration.rows: expected this key, it is missing"),
        (with_value(1.5, "consistency", "repeats"), "consistency.repeats: expected a whole number, got 1.5"),
        (without("decodings", "free", "notes"), "decodings.free.notes: expected this key, it is missing"),
        (without("baselines", "majority", "intents", "labels"),
         "baselines.majority.intents.labels: expected this key, it is missing"),
        (without("comparisons", "before", "intents", "exact_match", "difference"),
         "comparisons.before.intents.exact_match.difference: expected this key, it is missing"),
        (with_value(None, "data", "sha256"), "data.sha256: expected text, got None"),
        (with_value({"path": 1}, "model"), "model.path: expected text, got 1"),
        (with_value({"model": "m"}, "judge"), "judge.judged: expected this key, it is missing"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_an_error_that_names_file_and_key(damage, problem, tmp_path):
    content = stored(ASKED)
    damage(content)
    (tmp_path / "scores.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunError) as error:
        read_result(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'scores.json'}: not the scores of an evaluation: {problem}; delete it and evaluate again"
    )
