from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from mlxtune.report.blocks import Predictions
from mlxtune.report.sections.fields import all_predictions
from mlxtune.report.sections.predictions import predictions_section
from mlxtune.report.words import Words
from tests.report.sections.made import contents_of, one, scores_of, texts

EN = Words("en")
BEFORE, AFTER = "before tuning", "after tuning"


def predictions(language="en", case="given_replies"):
    return all_predictions(contents_of(language, case, "tuned"), contents_of(language, case, "base"), EN)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_right_labels_add_up_to_the_scores(language):
    found = one(predictions(language), Predictions)
    assert list(found.systems) == [BEFORE, AFTER]
    for system, name in ((BEFORE, "base"), (AFTER, "tuned")):
        fields = contents_of(language, "given_replies", name).result.top.fields
        for field, metric in (
            ("type", "accuracy"),
            ("priority", "accuracy"),
            ("intents", "exact_match"),
            ("tags", "exact_match"),
        ):
            right = [row.answers[system][field].right is True for row in found.rows]
            assert sum(right) / len(right) == pytest.approx(fields[field][metric].value)


def test_replies_of_another_decoding_are_said_to_be_so():
    tuned, base = (contents_of("en", "given_replies", name) for name in ("tuned", "base"))
    other = replace(base, result=replace(base.result, top=replace(base.result.top, decoding="greedy")))
    note = EN("field.other_decoding", decoding="greedy")
    assert note in texts(all_predictions(tuned, other, EN)) and note not in texts(all_predictions(tuned, base, EN))


def test_buckets_add_up_to_the_scores_and_closeness_is_rouge_l():
    found = one(predictions(), Predictions)
    scores = scores_of(contents_of("en", "given_replies", "tuned"), "response")
    answers = [row.answers[AFTER]["response"] for row in found.rows]
    assert {bucket: sum(one.bucket == bucket for one in answers) for bucket in scores.buckets} == {
        bucket: inside.rows for bucket, inside in scores.buckets.items()
    }
    scorer = RougeScorer(["rougeL"])
    for answer in answers:
        wanted = scorer.score(answer.expected, answer.predicted or "")["rougeL"].fmeasure
        assert answer.closeness == pytest.approx(wanted) and answer.right is None


def test_a_reply_that_could_not_be_read_keeps_its_text_and_problem():
    contents = contents_of("en", "given_replies", "tuned")
    found = one(predictions(), Predictions)
    unreadable = [prediction for prediction in contents.predictions if prediction.problem is not None]
    assert unreadable
    for prediction in unreadable:
        row = found.rows[prediction.row]
        assert (row.problems[AFTER], row.replies[AFTER]) == (prediction.problem, prediction.prediction)
    assert f"Replies that could not be read: {len(unreadable)} (12.5%)." in texts(predictions())


def test_probabilities_stand_beside_what_they_are_of():
    found = one(predictions(case="asked_model"), Predictions)
    for row, prediction in zip(found.rows, contents_of("en", "asked_model", "tuned").predictions, strict=True):
        assert row.answers[AFTER]["intents"].probability == (prediction.probability or {})["intents"]


def test_labels_to_filter_by_are_the_lists_of_the_recipe_or_what_occurs():
    found = one(predictions(), Predictions)
    queue: Any = contents_of("en", "given_replies", "tuned").recipe.output.fields["queue"]
    assert list(found.labels["queue"]) == queue.labels and "response" not in found.labels
    expected = {tag for row in found.rows for tag in row.answers[AFTER]["tags"].expected}
    assert expected <= set(found.labels["tags"])


def test_rows_that_the_base_model_was_not_asked_have_no_reply_of_it():
    tuned, base = contents_of("en", "given_replies", "tuned"), contents_of("en", "given_replies", "base")
    other = replace(base.predictions[0], input="another text")
    few = replace(base, predictions=[other, *base.predictions[1:10]])
    rows = one(all_predictions(tuned, few, EN), Predictions).rows
    assert [BEFORE in row.replies for row in rows] == [False, *[True] * 9, *[False] * 14]
    assert all(AFTER in row.replies for row in rows)


def test_without_predictions_there_is_no_section():
    tuned, base = contents_of("en", "given_replies", "tuned"), contents_of("en", "given_replies", "base")
    assert all_predictions(replace(tuned, predictions=()), base, EN) is None
    alone = one(all_predictions(tuned, replace(base, predictions=()), EN), Predictions)
    assert list(alone.systems) == [AFTER]


def test_one_row_is_one_row():
    tuned = contents_of("en", "given_replies", "tuned")
    section = predictions_section({"model": tuned.predictions[:1]}, tuned.recipe, EN)
    assert "1 test row. Every label is right in 1 (100.0%)." in texts(section)
