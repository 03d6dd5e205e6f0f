"""scores.json: the shape that other programs read, what is warned about, and what stands beside the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.data.rows import Row
from mlxtune.evaluation.baselines import AskedBaseline, baseline_results
from mlxtune.evaluation.limits import limit_warnings
from mlxtune.evaluation.measure import evaluate_replies
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.texts import OVERLAP
from mlxtune.evaluation.predict.given import read_replies
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions
from mlxtune.evaluation.results import EvaluationResult, FileIdentity, GivenReplies, Speed
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import read_result
from mlxtune.evaluation.subject import read_test_rows
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.report.terminal.tables import score_tables, to_text
from tests.conftest import write_recipe, write_rows
from tests.fakes import EVALUATED, FakeModel, right_answer, scores_of

HEADLINES = ("exact_match", "partial_match", "micro_f1", "macro_f1", "sample_f1", "invalid_rate", "repeated_rate")


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_test_rows(recipe)


@pytest.fixture
def tokenizer(recipe: Recipe) -> Tokenizer:
    return load_tokenizer(Path(recipe.model.path))


def with_evaluate(recipe: Recipe, **keys: Any) -> Recipe:
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=keys)})


@pytest.fixture(scope="module")
def perfect(tmp_path_factory, base):
    """The folder of an evaluation in which every reply is right; its scores are those that `evaluate` returned."""
    folder = tmp_path_factory.mktemp("perfect")
    recipe = load_recipe(write_recipe(folder / "recipe", base))
    rows, tokenizer = read_test_rows(recipe), load_tokenizer(base)
    scores = scores_of(recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, rows, folder / "out")
    assert json.loads((folder / "out" / "scores.json").read_text(encoding="utf-8")) == scores
    return folder / "out"


@pytest.fixture(scope="module")
def perfect_scores(perfect):
    return json.loads((perfect / "scores.json").read_text())


def test_scores_say_how_many_rows_were_asked_in_which_decoding(perfect_scores):
    assert (perfect_scores["rows"], perfect_scores["decoding"]) == (7, "constrained")


@pytest.mark.parametrize("name", HEADLINES)
def test_a_metric_has_its_value_within_its_interval(perfect_scores, name):
    metric, wanted = (
        perfect_scores["fields"]["intents"][name],
        0.0 if name in ("invalid_rate", "repeated_rate") else 1.0,
    )
    assert metric["value"] == wanted and metric["low"] <= wanted <= metric["high"]


def test_a_label_has_its_own_scores_and_wilsons_interval(perfect_scores):
    payment = perfect_scores["fields"]["intents"]["labels"]["payment"]
    assert {key: payment[key] for key in ("precision", "recall", "f1", "support")} == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 3
    }  # fmt: skip
    assert payment["recall_interval"] == pytest.approx([1 - 1.96**2 / (3 + 1.96**2), 1.0], abs=1e-3)


def test_with_one_field_all_fields_correct_is_its_exact_match(perfect_scores):
    assert perfect_scores["replies"]["all_fields_correct"] == perfect_scores["fields"]["intents"]["exact_match"]


def test_scores_group_the_rows_by_number_of_expected_labels(perfect_scores):
    by_count = perfect_scores["fields"]["intents"]["by_count"]
    assert {count: group["rows"] for count, group in by_count.items()} == {"1": 5, "2": 2}


def test_scores_carry_the_speed_of_the_replies(perfect_scores):
    assert set(perfect_scores["speed"]) == {"seconds_per_row", "rows_per_second", "tokens_per_second"}


def test_an_evaluation_writes_scores_predictions_and_errors(perfect):
    assert sorted(file.name for file in perfect.iterdir()) == ["errors.json", "predictions.jsonl", "scores.json"]


def test_both_decodings_stand_side_by_side_with_the_constrained_one_on_top(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows))
    scores = scores_of(recipe, model, tokenizer, rows, tmp_path, "both")
    assert scores["decoding"] == "constrained"
    assert list(scores["decodings"]) == ["free", "constrained"]
    assert scores["fields"] == scores["decodings"]["constrained"]["fields"]
    assert all("speed" in one and "fields" in one for one in scores["decodings"].values())
    for name in ("predictions.jsonl", "predictions-free.jsonl"):
        assert len((tmp_path / name).read_text(encoding="utf-8").splitlines()) == 7


def test_a_second_evaluation_leaves_nothing_of_the_first(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, right_answer(rows))
    scores_of(recipe, model, tokenizer, rows, tmp_path, "both")
    scores_of(recipe, model, tokenizer, rows, tmp_path, "constrained")
    assert not (tmp_path / "predictions-free.jsonl").exists()


def test_replies_cut_by_the_limit_are_counted_and_noted(rows, recipe, tokenizer, tmp_path):
    model = FakeModel(tokenizer, lambda prompt: "none, none, none, none, none, none")
    scores = scores_of(with_evaluate(recipe, max_new_tokens=10), model, tokenizer, rows, tmp_path, "free")
    assert scores["replies"]["cut_rate"]["value"] == scores["replies"]["loop_rate"]["value"] == 1.0
    assert scores["fields"]["intents"]["repeated_rate"]["value"] == 1.0
    assert "7 of 7 replies were cut at evaluate.max_new_tokens" in scores["notes"]


def test_a_limit_too_short_for_expected_replies_is_told_before_anything_is_asked(
    rows, recipe, tokenizer, tmp_path, caplog
):
    longest = max(len(e.ids) + 1 for e in tokenizer.encode(["user_auth, payment", "order_management, payment"]))
    assert limit_warnings(rows, with_evaluate(recipe, max_new_tokens=longest), tokenizer) == []
    short = with_evaluate(recipe, max_new_tokens=longest - 1)
    model = FakeModel(tokenizer, lambda prompt: "none", fail_after=0)
    with pytest.raises(KeyboardInterrupt):
        scores_of(short, model, tokenizer, rows, tmp_path)
    assert f"--set evaluate.max_new_tokens={longest}" in caplog.text


@pytest.fixture(scope="module")
def of_every_kind(tmp_path_factory, base):
    """The folder of an evaluation of two rows with a label, an open set of labels and a text."""
    folder = tmp_path_factory.mktemp("every_kind")
    output = {
        "template": "Type: {type}\nTags: {tags}\n\nResponse:\n{response}",
        "fields": {
            "type": {"kind": "label", "labels": ["Incident", "Request"]},
            "tags": {"kind": "labels"},
            "response": {"kind": "text"},
        },
    }
    recipe = load_recipe(write_recipe(folder / "recipe", base, output=output))
    values = {"type": "Request", "tags": ["bill", "card"], "response": "we will help you"}
    rows = [Row({"text": text, **values}, "test.jsonl", 1) for text in ("pay the bill", "a lost card")]
    tokenizer = load_tokenizer(base)
    model = FakeModel(tokenizer, lambda prompt: "Type: Request\nTags: bill, help\n\nResponse:\nwe will help")
    scores = scores_of(recipe, model, tokenizer, rows, folder / "out", "free")
    assert scores == json.loads((folder / "out" / "scores.json").read_text(encoding="utf-8"))
    return folder / "out"


@pytest.fixture(scope="module")
def every_kind(of_every_kind):
    return json.loads((of_every_kind / "scores.json").read_text())


def test_a_label_is_scored_by_accuracy_and_confusion(every_kind):
    assert every_kind["fields"]["type"]["accuracy"]["value"] == 1.0
    assert every_kind["fields"]["type"]["confusion"]["counts"] == [[0, 0], [0, 2]]


def test_a_set_with_one_label_in_common_matches_partly_and_not_exactly(every_kind):
    tags = every_kind["fields"]["tags"]
    assert (tags["partial_match"]["value"], tags["exact_match"]["value"]) == (1.0, 0.0)


def test_a_text_is_scored_by_rouge_length_and_buckets(every_kind):
    response = every_kind["fields"]["response"]
    assert response["rougeL"]["value"] == pytest.approx(6 / 7)  # 3 of 4 words, all 3 right
    assert response["length_ratio"]["value"] == 3 / 4 and response["buckets"][">0.5"]["rows"] == 2
    assert "placeholders_kept" not in response and "tok:13a" in response["signatures"]["bleu"]


def test_labels_of_an_open_list_do_not_decide_when_a_text_counts_as_right(every_kind):
    response = every_kind["fields"]["response"]
    assert (response["when_right"]["rows"], response["when_wrong"]) == (2, {"rows": 0})


def test_labels_of_an_open_list_have_to_be_right_for_all_fields_to_be_correct(every_kind):
    assert every_kind["replies"]["all_fields_correct"]["value"] == 0


def test_texts_have_best_middle_and_worst_cases(of_every_kind):
    cases = json.loads((of_every_kind / "errors.json").read_text(encoding="utf-8"))["cases"]["response"]
    assert [len(cases[kind]) for kind in ("best", "middle", "worst")] == [1, 0, 1]


TICKET = {
    "template": "Type: {type}\n\nResponse:\n{response}",
    "fields": {"type": {"kind": "label", "labels": ["Incident", "Request"]}, "response": {"kind": "text"}},
}


def ticket_rows(n_rows: int = 6) -> list[Row]:
    return [
        Row(
            {"id": f"T{i}", "text": f"text {i}", "type": "Request", "response": f"we will help {i}"},
            "test.jsonl",
            i + 1,
        )
        for i in range(n_rows)
    ]


def replies_to(rows: list[Row], folder: Path, recipe: Recipe, n_right: int) -> list[Prediction]:
    """Replies as a file of another program has them; the first `n_right` are right."""
    said = [
        f"Type: Request\n\nResponse:\n{row.fields['response']}" if i < n_right else "Type: Incident\n\nResponse:\nno"
        for i, row in enumerate(rows)
    ]
    lines = [{"id": row.fields["id"], "prediction": text} for row, text in zip(rows, said, strict=True)]
    return read_replies(write_rows(folder / "replies.jsonl", lines), rows, recipe)


def test_replies_of_another_program_are_kept_as_ours_are(tmp_path, base):
    recipe = load_recipe(write_recipe(tmp_path / "recipe", base, output=TICKET))
    rows, out = ticket_rows(), tmp_path / "out"
    out.mkdir()
    for stale in ("predictions-free.jsonl", "predictions-zero_shot.jsonl"):
        (out / stale).write_text("of an evaluation before this one")
    replies = replies_to(rows, tmp_path, recipe, 4)
    done = evaluate_replies(recipe, replies, rows, out, GivenReplies(FileIdentity("a", "1", 6), FileIdentity("b", "2")))
    scores, errors = done.result.to_json(), done.errors.to_json()
    assert read_result(out) == done.result and scores["replies_of"] == {"file": "b", "sha256": "2"}
    assert read_predictions(out / scores["predictions"]) == replies
    assert json.loads((out / "errors.json").read_text(encoding="utf-8")) == errors
    assert sorted(file.name for file in out.iterdir()) == ["errors.json", "predictions.jsonl", "scores.json"]
    assert scores["fields"]["response"]["when_right"] == {
        "rows": 4,
        **{name: {"value": 1.0, "low": pytest.approx(0.51, abs=0.01), "high": 1.0} for name in OVERLAP},
    }


def test_an_encoder_scores_texts_and_only_texts(tmp_path, base):
    class HalfOfThem(BertScore):
        signature = "model:half|layer:1"

        def __init__(self) -> None:
            """Without an encoder, and without the package for one."""

        def rows(self, expected: Sequence[str], predicted: Sequence[str | None]) -> np.ndarray:
            return np.array([float(right == said) / 2 for right, said in zip(expected, predicted, strict=True)])

    recipe = load_recipe(write_recipe(tmp_path / "recipe", base, output=TICKET))
    replies = replies_to(ticket_rows(), tmp_path, recipe, 3)
    result = evaluate_replies(recipe, replies, ticket_rows(), bertscore=HalfOfThem()).result
    scores = result.to_json()
    assert EvaluationResult.from_json(scores) == result
    assert scores["fields"]["response"]["bertscore"]["value"] == 0.25 and "bertscore" not in scores["fields"]["type"]
    assert scores["fields"]["response"]["signatures"]["bertscore"] == "model:half|layer:1"
    assert "BERTScore" in to_text(score_tables(result))


def test_replies_are_compared_as_a_whole(tmp_path, base):
    recipe = load_recipe(write_recipe(tmp_path / "recipe", base, output=TICKET))
    rows = ticket_rows(20)
    ours, theirs = (replies_to(rows, tmp_path, recipe, n_right) for n_right in (18, 6))
    asked = AskedBaseline(theirs, Speed(1.0, 1.0, 1.0))
    results, _ = baseline_results(with_evaluate(recipe, baselines=["zero_shot"]), ours, {}, {"zero_shot": asked})
    result = EvaluationResult(score(ours, recipe), baselines=results)
    scores = result.to_json()
    compared = scores["reply_comparisons"]["zero_shot"]["all_fields_correct"]
    assert compared["difference"] == pytest.approx(0.6) and compared["p_value"] == 2.0**-11  # 12 rows, all one way
    assert scores["baselines"]["zero_shot"]["response"]["rougeL"]["value"] == pytest.approx(6 / 20)
    assert scores["comparisons"]["zero_shot"]["response"]["rougeL"]["sentence"].startswith("better than zero_shot")
    text = to_text(score_tables(result))
    assert "response: the model against baselines on the same 20 rows" in text and "all fields right" not in text


def test_what_changed_since_before_tuning_is_in_the_scores(rows, recipe, tokenizer, tmp_path):
    before, after, again = tmp_path / "before", tmp_path / "after", tmp_path / "again"
    untuned = replace(EVALUATED, adapter=None)
    scores_of(recipe, FakeModel(tokenizer, lambda prompt: "none"), tokenizer, rows, before, None, untuned)
    asked = (recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, rows)
    folders = [tmp_path / "nowhere", before]
    scores = scores_of(*asked, after, None, EVALUATED, before=folders)
    change = scores["comparisons"]["before"]["intents"]["exact_match"]
    assert change["difference"] == pytest.approx(5 / 7) and change["sentence"].startswith("too few rows to tell from")
    other = replace(EVALUATED, task_hash="something else")
    assert "comparisons" not in scores_of(*asked, again, None, other, before=folders)
    (before / "predictions.jsonl").unlink()
    scores = scores_of(*asked, again, None, EVALUATED, before=folders)
    assert any(note.startswith("before: not compared: ") for note in scores["notes"])


def test_one_row_is_scored_with_a_note_that_it_is_too_few(rows, recipe, tokenizer, tmp_path):
    scores = scores_of(recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, rows[:1], tmp_path)
    assert scores["fields"]["intents"]["exact_match"] == {"value": 1.0, "low": None, "high": None}
    assert any("too few for intervals" in note for note in scores["notes"])
