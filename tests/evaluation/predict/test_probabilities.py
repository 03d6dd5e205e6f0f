"""Probabilities are exact, whole and of the reply that training writes; what they are worth is counted by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.data.examples import build_examples, prompt_ids
from mlxtune.data.rows import Row, read_rows
from mlxtune.data.template import ReplyTemplate
from mlxtune.evaluation.fields.label_set import MAX_SETS
from mlxtune.evaluation.metrics.calibration import N_BINS, calibration, coverage_at, threshold_for
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.predict.probabilities import Distribution, distributions, options_of
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.adapted import numpy_log_probability
from tests.conftest import LABELS, Run, write_recipe, write_rows
from tests.fakes import Chooser, FakeModel, right_answer, scores_of

TICKET = {
    "template": "Type: {type}\nPriority: {priority}\n\nResponse:\n{response}",
    "fields": {
        "type": {"kind": "label", "labels": ["Incident", "Request", "Request Change"]},
        "priority": {"kind": "label", "labels": ["high", "low"]},
        "response": {"kind": "text"},
    },
}


def with_output(tmp_path: Path, base: Path, **sections: Any) -> Recipe:
    return load_recipe(write_recipe(tmp_path / "recipe", base, **sections))


# Options ---------------------------------------------------------------------------------------------------------


def test_a_label_set_has_every_allowed_set_in_canonical_order_as_training_spells_it(recipe: Recipe) -> None:
    tokenizer = load_tokenizer(Path(recipe.model.path))
    options = options_of(recipe, tokenizer)
    assert options is not None and options.field == "intents"
    assert len(options.values) == len(set(options.values)) == 2**3 - 1 + 1
    assert ("user_auth", "order_management", "payment") in options.values and ("none",) in options.values
    rows = [Row({"text": "hi", "intents": list(value)}, "rows", 1) for value in options.values]
    for example, tokens in zip(build_examples(rows, recipe, tokenizer), options.tokens, strict=True):
        assert tuple(example.reply.tolist()) == tokens


def test_probabilities_equal_numpy_over_whole_logits_and_options_exclude_each_other(recipe: Recipe) -> None:
    tokenizer = load_tokenizer(Path(recipe.model.path))
    model = MlxBackend().load(Path(recipe.model.path))
    options = options_of(recipe, tokenizer)
    assert options is not None
    prompts = prompt_ids(read_rows(Path(str(recipe.data.test))), recipe, tokenizer)[:3]
    for prompt, found in zip(prompts, distributions(model, prompts, options), strict=True):
        logs = np.array([numpy_log_probability(model, prompt, list(option)) for option in options.tokens])
        assert np.exp(logs).sum() <= 1
        wanted = np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum()
        np.testing.assert_allclose(list(found.probabilities.values()), wanted, rtol=1e-3, atol=1e-6)
        for label in LABELS:
            brute = sum(p for value, p in found.probabilities.items() if label in value)
            assert found.by_label()[label] == pytest.approx(brute, abs=1e-12)


def test_the_first_of_several_fields_is_scored_up_to_where_every_reply_agrees(tmp_path: Path, base: Path) -> None:
    recipe = with_output(tmp_path, base, output=TICKET)
    tokenizer = load_tokenizer(base)
    options = options_of(recipe, tokenizer)
    assert options is not None and options.field == "type"
    template = ReplyTemplate(recipe.output)
    for value, tokens in zip(options.values, options.tokens, strict=True):
        # Past the field, so that Request is no beginning of Request Change.
        assert tokenizer.decode(tokens).startswith(f"Type: {value}\nP")
        for priority in ("high", "low"):
            for response in ("we will help", "你好", "- no"):
                text, _ = template.format({"type": value, "priority": priority, "response": response})
                assert tokenizer.encode([text])[0].ids[: len(tokens)] == tokens


def test_probabilities_of_the_first_field_are_those_of_all_replies_that_say_it(tmp_path: Path, base: Path) -> None:
    fields: Any = TICKET["fields"]
    output = {"template": "{type}: {priority}", "fields": {name: fields[name] for name in ("type", "priority")}}
    recipe = with_output(tmp_path, base, output=output)
    tokenizer = load_tokenizer(base)
    model = MlxBackend().load(base)
    options = options_of(recipe, tokenizer)
    assert options is not None
    prompt = tokenizer.prompt([{"role": "user", "content": "pay the bill"}])
    logs = model.choose([prompt], options.tokens)[0]
    for value, log in zip(options.values, logs, strict=True):
        assert isinstance(value, str)
        wholes = [[*tokenizer.encode([f"{value}: {p}"])[0].ids, tokenizer.end_of_turn] for p in ("high", "low")]
        assert np.exp(log) >= sum(np.exp(numpy_log_probability(model, prompt, whole)) for whole in wholes)


@pytest.mark.parametrize(
    "output",
    [
        {"template": "{tags}", "fields": {"tags": {"kind": "labels"}}},
        {"template": "{reply}", "fields": {"reply": {"kind": "text"}}},
        {"template": "{x}", "fields": {"x": {"kind": "labels", "labels": [f"l{i}" for i in range(7)]}}},
    ],
)
def test_a_field_without_a_short_closed_list_has_no_probabilities(
    output: dict[str, Any], tmp_path: Path, base: Path
) -> None:
    assert MAX_SETS < 2**7 - 1
    assert options_of(with_output(tmp_path, base, output=output), load_tokenizer(base)) is None


def test_a_reply_that_begins_with_thinking_has_no_probabilities(tmp_path: Path, base: Path) -> None:
    assert options_of(with_output(tmp_path, base, prompt={"thinking": True}), load_tokenizer(base)) is None


def test_what_was_not_predicted_has_no_probability() -> None:
    found = Distribution("x", {("a",): 0.75, ("a", "b"): 0.25})
    assert found.of(("a",)) == 0.75 and found.of(None) is None and found.of(("c",)) is None
    assert found.by_label() == {"a": 1.0, "b": 0.25}


# Calibration -----------------------------------------------------------------------------------------------------


def test_calibration_equals_the_count_by_hand() -> None:
    found = calibration([1.0, 0.95, 0.72, 0.78, 0.1, None], [True, False, True, True, False, True])
    assert found.rows == 5
    # bins: [0.9, 1]: mean 0.975, right 1/2; [0.7, 0.8): mean 0.75, right 2/2; [0.1, 0.2): mean 0.1, right 0/1
    assert found.expected_calibration_error == pytest.approx((2 * 0.475 + 2 * 0.25 + 1 * 0.1) / 5)
    assert [one.rows for one in found.reliability] == [0, 1, 0, 0, 0, 0, 0, 2, 0, 2]
    assert len(found.reliability) == N_BINS and found.reliability[0].accuracy is None
    assert calibration([None], [True]).expected_calibration_error is None


def test_the_threshold_covers_most_among_all_that_are_precise_enough() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        n = int(random.integers(1, 30))
        p = [float(x) for x in random.integers(0, 8, n) / 8]  # many ties
        right = [bool(random.random() < 0.3 + 0.7 * x) for x in p]
        wanted = None
        for threshold in sorted(set(p), reverse=True):  # brute force; the last that holds answers most
            answered = [hit for x, hit in zip(p, right, strict=True) if x >= threshold]
            if sum(answered) / len(answered) >= 0.95:
                wanted = threshold
        assert threshold_for(p, right) == wanted


def test_coverage_counts_rows_without_a_prediction_among_those_for_a_person() -> None:
    found = coverage_at([0.9, 0.8, 0.2, None], [True, False, True, False], 0.8)
    assert (found.coverage, found.precision) == (0.5, 0.5)
    nothing = coverage_at([0.9], [True], None)
    assert (nothing.coverage, nothing.precision) == (0.0, None)


# In an evaluation ------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(recipe: Recipe) -> list[Row]:
    return read_rows(Path(str(recipe.data.test)))


def make_chooser(recipe: Recipe, rows: list[Row], wrong: dict[str, str]) -> Chooser:
    """Sure of every row but the wrong ones, which it answers otherwise with little confidence."""
    right = right_answer(rows)

    def answer(prompt: str) -> str:
        return next((reply for text, reply in wrong.items() if f"\n{text}" in prompt), None) or right(prompt)

    sure = {str(row.fields["text"]): 0.6 if row.fields["text"] in wrong else 0.9 for row in rows}
    return Chooser(load_tokenizer(Path(recipe.model.path)), answer, sure=sure)


@dataclass(frozen=True)
class Asked:
    """An evaluation with probabilities: 6 of 7 rows are right with probability 0.9, the seventh wrong with 0.6."""

    rows: list[Row]
    scores: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def asked(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    recipe = load_recipe(write_recipe(folder / "recipe", base))
    rows, out = read_rows(Path(str(recipe.data.test))), folder / "out"
    model = make_chooser(recipe, rows, {"你好": "payment"})
    scores = scores_of(recipe, model, model.tokenizer, rows, out, "free", probabilities=True, validation=rows[:5])
    return Asked(rows, scores, out)


def test_a_prediction_carries_the_probability_of_its_own_reply(asked: Asked) -> None:
    found = read_predictions(asked.folder / "predictions.jsonl")
    wanted = [0.6 if row.fields["text"] == "你好" else 0.9 for row in asked.rows]
    assert [(one.probability or {})["intents"] for one in found] == pytest.approx(wanted, abs=1e-5)


def test_a_labels_probability_sums_the_sets_that_hold_it(asked: Asked) -> None:
    first = read_predictions(asked.folder / "predictions.jsonl")[0].probabilities
    assert first is not None and first["intents"]["payment"] == pytest.approx(0.9 + 3 * 0.1 / 7, abs=1e-5)


def test_scores_carry_the_calibration_of_the_test_rows(asked: Asked) -> None:
    got = asked.scores["fields"]["intents"]["calibration"]
    assert got["expected_calibration_error"] == pytest.approx((6 * 0.1 + 1 * 0.6) / 7, abs=1e-5)
    assert sum(one["rows"] for one in got["reliability"]) == 7


def test_coverage_is_at_the_threshold_of_the_validation_rows(asked: Asked) -> None:
    got = asked.scores["fields"]["intents"]["calibration"]
    assert got["threshold"] == pytest.approx(0.9, abs=1e-5) and got["validation_rows"] == 5
    assert (got["coverage_at_95_precision"], got["precision"]) == (6 / 7, 1.0)


def test_what_an_evaluation_with_probabilities_returns_is_on_disk(asked: Asked) -> None:
    assert json.loads((asked.folder / "scores.json").read_text(encoding="utf-8")) == asked.scores
    assert len(read_predictions(asked.folder / "predictions-valid.jsonl")) == 5


def test_an_evaluation_without_probabilities_removes_those_of_the_one_before(
    recipe: Recipe, rows: list[Row], tmp_path: Path
) -> None:
    model = make_chooser(recipe, rows, {})
    (tmp_path / "predictions-valid.jsonl").write_text("of an evaluation before this one", encoding="utf-8")
    scores_of(recipe, model, model.tokenizer, rows, tmp_path, "free")
    assert not (tmp_path / "predictions-valid.jsonl").exists()
    assert all(one.probability is None for one in read_predictions(tmp_path / "predictions.jsonl"))


def test_without_validation_rows_coverage_is_null_and_a_note_says_why(
    recipe: Recipe, rows: list[Row], tmp_path: Path
) -> None:
    model = make_chooser(recipe, rows, {})
    scores = scores_of(recipe, model, model.tokenizer, rows, tmp_path, "free", probabilities=True)
    assert scores["fields"]["intents"]["calibration"]["coverage_at_95_precision"] is None
    assert any("data.valid" in note for note in scores["notes"])


def test_an_interruption_while_probabilities_are_asked_leaves_the_predictions(
    recipe: Recipe, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_chooser(recipe, rows, {})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "choose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scores_of(recipe, model, model.tokenizer, rows, tmp_path, "free", probabilities=True)
    assert all(one.probability is None for one in read_predictions(tmp_path / "predictions.jsonl"))
    assert not (tmp_path / "scores.json").exists()


def test_a_recipe_without_options_is_evaluated_with_a_note(tmp_path: Path, base: Path) -> None:
    recipe = with_output(tmp_path, base, output={"template": "{tags}", "fields": {"tags": {"kind": "labels"}}})
    tokenizer = load_tokenizer(base)
    rows = [Row({"text": "pay the bill", "tags": ["bill"]}, "rows", 1)]
    model = FakeModel(tokenizer, lambda prompt: "bill")
    scores = scores_of(recipe, model, tokenizer, rows, tmp_path / "out", "free", probabilities=True, validation=rows)
    assert "calibration" not in scores["fields"]["tags"]
    assert any(note.startswith("probabilities: none") for note in scores["notes"])


# The command line ------------------------------------------------------------------------------------------------


def test_evaluate_prints_the_reliability_table_and_predict_the_probability(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_recipe(tmp_path / "recipe", base)
    done = mlxtune("evaluate", file, "--base", "--probabilities")
    assert done.code == 0, done.err
    assert "expected calibration error" in done.out and "of the rows here" in done.out
    assert "asking 7 rows, probabilities" in done.err and "calibration" not in done.err
    asked = mlxtune("predict", file, "--base", "hi", "--json")
    assert asked.code == 0, asked.err
    record = json.loads(asked.out)
    assert 0 < record["probability"]["intents"] <= 1
    assert set(record["probabilities"]["intents"]) == set(LABELS)
    shown = mlxtune("predict", file, "--base", "hi")
    assert f"({record['probability']['intents']:.2f})" in shown.out
    lines = (tmp_path / "runs/tiny/base/evaluation/base/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert all("probability" in json.loads(line) for line in lines)


def test_probabilities_of_replies_that_are_there_already_are_misuse(tmp_path: Path, base: Path, mlxtune: Run) -> None:
    file = write_recipe(tmp_path / "recipe", base)
    done = mlxtune("evaluate", file, "--predictions", "replies.jsonl", "--probabilities")
    assert (done.code, done.out) == (2, "") and "--probabilities" in done.err


def test_validation_rows_that_the_recipe_does_not_allow_are_told_before_a_model_is_loaded(
    tmp_path: Path,
    base: Path,
    mlxtune: Run,
) -> None:
    file = write_recipe(tmp_path / "recipe", base)
    write_rows(tmp_path / "recipe" / "valid.jsonl", [{"text": "hi", "intents": ["paymant"]}])
    done = mlxtune("evaluate", file, "--base", "--probabilities", "--out", tmp_path / "out")
    assert (done.code, done.out) == (1, "") and "valid.jsonl:1" in done.err and "payment" in done.err
    assert "backend" not in done.err
