"""Thresholds are chosen on validation rows alone, and what they change on the test rows is compared row by row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.errors import RecipeError
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.fields.kinds import scorer_of
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import EvaluationResult
from mlxtune.evaluation.subject import read_test_rows
from mlxtune.evaluation.thresholds import field_thresholds
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.report.terminal.tables import score_tables, to_text
from tests.conftest import LABELS, Run, write_recipe
from tests.fakes import Chooser, right_answer, scores_of


def prediction(row: int, expected: tuple[str, ...], predicted: tuple[str, ...], p: Mapping[str, float]) -> Prediction:
    """A row answered with one set, whose labels have these probabilities; the others have none."""
    return Prediction(
        row, "rows", row + 1, f"text {row}", {"intents": expected}, {"intents": predicted}, ", ".join(predicted), True,
        False, False, None, "stop", 3, "best", {"intents": 0.5}, {"intents": {label: p.get(label, 0.0) for label in LABELS}},
    )  # fmt: skip


def rows_with(n: int, payment: float) -> list[Prediction]:
    """Rows that expect two labels, of which the second is never said though it has some probability; and rows without it."""
    both = [
        prediction(i, ("user_auth", "payment"), ("user_auth",), {"user_auth": 0.9, "payment": payment})
        for i in range(n)
    ]
    return both + [
        prediction(n + i, ("user_auth",), ("user_auth",), {"user_auth": 0.9, "payment": 0.1}) for i in range(n)
    ]


def test_a_label_that_is_said_too_seldom_gets_a_lower_threshold_and_the_gain_is_paired(recipe: Recipe) -> None:
    test, validation = rows_with(10, 0.35), rows_with(5, 0.3)
    found = field_thresholds("intents", test, validation, recipe)
    assert found.labels["payment"].threshold == pytest.approx(0.2)  # halfway between 0.1 and 0.3
    assert (found.labels["payment"].f1, found.labels["payment"].default_f1, found.labels["payment"].support) == (
        1,
        0,
        5,
    )
    assert found.labels["order_management"].threshold == 0.5 and found.validation_rows == 10
    assert found.scores["exact_match"].value == 1.0
    assert found.gain["exact_match"].difference == 0.5 and found.gain["exact_match"].verdict == "better"
    assert found.gain["exact_match"].sentence.startswith("better than without thresholds by 0.50 [")
    by_hand = [prediction(one.row, tuple(one.expected["intents"]), tuple(one.expected["intents"]), {}) for one in test]
    assert found.gain == compare(by_hand, test, recipe, "without thresholds").fields["intents"]


def test_the_test_rows_do_not_choose(recipe: Recipe) -> None:
    validation = rows_with(5, 0.3)
    one, other = (field_thresholds("intents", rows_with(8, p), validation, recipe) for p in (0.05, 0.45))
    assert one.labels == other.labels and one.scores != other.scores


@pytest.mark.parametrize(
    ("p", "thresholds", "said"),
    [
        ([0.6, 0.3, 0.1, 0.0], None, ("user_auth",)),
        ([0.6, 0.3, 0.1, 0.0], [0.5, 0.25, 0.5, 0.5], ("user_auth", "order_management")),
        ([0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.5, 0.5], ("user_auth",)),  # none reaches its own: the most probable
        ([0.4, 0.0, 0.0, 0.45], [0.3, 0.5, 0.5, 0.5], ("user_auth",)),  # "none" does not reach its own
        ([0.4, 0.0, 0.0, 0.6], [0.3, 0.5, 0.5, 0.5], ("none",)),  # it stands alone
        ([0.6, 0.0, 0.0, 0.4], [0.3, 0.5, 0.5, 0.3], ("user_auth",)),  # it is left out beside a more probable one
    ],
)
def test_a_set_has_the_labels_that_reach_their_thresholds(
    recipe: Recipe, p: list[float], thresholds: list[float] | None, said: tuple[str, ...]
) -> None:
    scorer = scorer_of(recipe.output.fields["intents"])
    of_labels = None if thresholds is None else np.array(thresholds)
    assert scorer.from_probabilities(LABELS, np.array(p), of_labels) == said


def test_one_label_is_the_most_probable_that_reaches_its_threshold(tmp_path: Path, base: Path) -> None:
    output = {"template": "{type}", "fields": {"type": {"kind": "label", "labels": ["a", "b", "c"]}}}
    scorer = scorer_of(load_recipe(write_recipe(tmp_path, base, output=output)).output.fields["type"])
    p, labels = np.array([0.5, 0.3, 0.2]), ["a", "b", "c"]
    cases: list[tuple[list[float] | None, str]] = [
        (None, "a"),
        ([0.6, 0.2, 0.1], "b"),
        ([0.6, 0.4, 0.1], "c"),
        ([0.6, 0.4, 0.3], "a"),
    ]
    for thresholds, said in cases:
        assert scorer.from_probabilities(labels, p, None if thresholds is None else np.array(thresholds)) == said


# In an evaluation ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["constrained", "best"])
def tuned(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """scores.json of an evaluation with thresholds; one row is wrong."""
    folder = tmp_path_factory.mktemp("tuned")
    recipe = load_recipe(write_recipe(folder / "recipe", base))
    rows, tokenizer = read_test_rows(recipe), load_tokenizer(base)
    right = right_answer(rows)
    model = Chooser(
        tokenizer,
        lambda prompt: "payment" if "\n你好" in prompt else right(prompt),
        sure={str(row.fields["text"]): 0.9 for row in rows},
    )
    found = scores_of(
        recipe, model, tokenizer, rows, folder / "out", request.param, validation=rows[:5], tune_thresholds=True
    )
    assert found == json.loads((folder / "out" / "scores.json").read_text(encoding="utf-8"))
    return found


def test_scores_carry_thresholds_beside_the_plain_result(tuned: dict[str, Any]) -> None:
    field = tuned["fields"]["intents"]
    found = field["thresholds"]
    assert field["exact_match"]["value"] == pytest.approx(6 / 7) and "calibration" in field
    assert set(found) == {"labels", "scores", "gain", "validation_rows"} and found["validation_rows"] == 5
    assert list(found["labels"]) == LABELS
    assert set(found["labels"]["payment"]) == {"threshold", "f1", "default_f1", "support"}
    gain = found["gain"]["exact_match"]
    assert gain["difference"] == pytest.approx(found["scores"]["exact_match"]["value"] - 6 / 7)
    assert gain["low"] <= gain["difference"] <= gain["high"] and "without thresholds" in gain["sentence"]


def test_thresholds_are_read_as_they_were_written(tuned: dict[str, Any]) -> None:
    assert EvaluationResult.from_json(tuned).to_json() == tuned


def test_the_terminal_shows_what_thresholds_change(tuned: dict[str, Any]) -> None:
    text = to_text(score_tables(EvaluationResult.from_json(tuned)))
    assert "intents: with a threshold for each label; by exact match" in " ".join(text.split())
    assert "intents: thresholds, chosen on 5 validation rows" in text


def test_thresholds_need_validation_rows_and_options(recipe: Recipe, tmp_path: Path, base: Path) -> None:
    rows, tokenizer = read_test_rows(recipe), load_tokenizer(base)
    model = Chooser(tokenizer, right_answer(rows), sure={})
    with pytest.raises(RecipeError, match=r"--tune-thresholds: .*add data.valid or data.valid_fraction"):
        scores_of(recipe, model, tokenizer, rows, tmp_path / "out", "free", tune_thresholds=True)
    output = {"template": "{intents}", "fields": {"intents": {"kind": "labels"}}}
    other = load_recipe(write_recipe(tmp_path / "recipe", base, output=output))
    with pytest.raises(RecipeError, match=r"--tune-thresholds: thresholds are of probabilities; they need"):
        scores_of(other, model, tokenizer, rows, tmp_path / "out", "free", validation=rows, tune_thresholds=True)
    assert model.asked == [] and not (tmp_path / "out").exists()


def test_a_recipe_without_validation_rows_is_refused_before_a_model_is_loaded(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_recipe(tmp_path / "recipe", base)
    done = mlxtune("evaluate", file, "--base", "--tune-thresholds", "--set", "data.valid=null")
    assert (done.code, done.out) == (1, "") and "--tune-thresholds" in done.err and "backend" not in done.err
    done = mlxtune("evaluate", file, "--predictions", "replies.jsonl", "--tune-thresholds")
    assert (done.code, done.out) == (2, "") and "--tune-thresholds" in done.err
