"""evaluate.expect: conditions are read as they are written, and what cannot hold is refused with its line before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mlxtune.errors import RecipeError
from mlxtune.evaluation.metrics.texts import BUCKET_SHARES
from mlxtune.recipe.conditions import BetterThan, Bound, parse_condition
from mlxtune.recipe.load import load_recipe

FIELDS = {
    "queue": {"kind": "label", "labels": ["Technical Support", "v1.0", "low"]},
    "tags": {"kind": "labels"},
    "reply": {"kind": "text"},
}
GOOD: dict[str, Any] = {
    "model": {"path": "Some/Model"},
    "data": {"train": "train.jsonl"},
    "output": {"template": "{queue} {tags} {reply}", "fields": FIELDS},
    "evaluate": {"baselines": ["tfidf", "few_shot"]},
}


def write(folder: Path, expect: Any) -> Path:
    file = folder / "some.yaml"
    content = {**GOOD, "evaluate": {**GOOD["evaluate"], "expect": expect}}
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def problems(folder: Path, expect: Any, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, expect), overrides)
    return [str(one) for one in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (">= 0.8", Bound(">=", 0.8)),
        (">0.8", Bound(">", 0.8)),
        (" <= 5e-2 ", Bound("<=", 0.05)),
        ("< .5", Bound("<", 0.5)),
        ("interval >= 1", Bound(">=", 1.0, interval=True)),
        ("better than tfidf", BetterThan("tfidf")),
        ("better  than before", BetterThan("before")),
    ],
)
def test_conditions_are_read_as_they_are_written(text: str, condition: object) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize(
    "text",
    ["0.8", "=> 0.8", "== 0.8", ">= 80%", ">= 0.8 or so", "interval 0.8", "interval better than tfidf", "better", ""],
)
def test_anything_else_is_no_condition(text: str) -> None:
    assert parse_condition(text) is None


def test_a_bound_says_how_far_a_value_is_on_the_right_side() -> None:
    assert Bound(">=", 0.8).holds(0.8) and not Bound(">", 0.8).holds(0.8)
    assert Bound("<=", 0.05).holds(0.05) and not Bound("<", 0.05).holds(0.05)
    assert Bound(">=", 0.5).margin(0.75) == 0.25 and Bound("<=", 0.5).margin(0.75) == -0.25


def test_every_place_can_be_held_to_a_condition(tmp_path: Path) -> None:
    expect = {
        "queue.accuracy": [">= 0.8", "interval >= 0.7", "better than tfidf", "better than before"],
        "queue.recall.Technical Support": "interval >= 0.65",
        "queue.precision.v1.0": ">= 0.5",
        "queue.f1.low": "> 0.5",
        "queue.expected_calibration_error": "<= 0.1",
        "tags.recall.any label: even this": ">= 0.5",
        "reply.rougeL": "better than few_shot",
        "reply.length_ratio": ["<= 1.5", ">= 0.7"],
        f"reply.{BUCKET_SHARES[-1]}": "<= 0.2",
        "reply.all_fields_correct": ">= 0.5",
        "reply.cut_rate": "<= 0",
        "speed.seconds_per_row": "<= 2",
        "speed.tokens_per_second": ">= 10",
    }
    recipe = load_recipe(write(tmp_path, expect))
    assert recipe.evaluate.expect == expect
    assert recipe.evaluate.conditions["queue.f1.low"] == ["> 0.5"]
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert load_recipe(copy).evaluate.expect == expect


def test_all_wrong_conditions_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    wrong = {
        "queu.accuracy": (">= 0.8", "'queu' is no field of this recipe; did you mean 'queue'?"),
        "accuracy": (">= 0.8", "expected FIELD.METRIC, got 'accuracy'"),
        "queue.acuracy": (">= 0.8", "'acuracy' is no metric of a field of kind 'label'; did you mean 'accuracy'?"),
        "queue.exact_match": (">= 0.8", "'exact_match' is no metric of a field of kind 'label'; known: accuracy, "),
        "queue.recall.Technical Suport": (">= 0.8", "is no label of queue; did you mean 'Technical Support'?"),
        "queue.low.recall": (">= 0.8", "the label comes last: write queue.recall.low"),
        "queue.macro_f1": ("about 0.8", "expected '>= 0.8', '<= 0.05', "),
        "queue.accuracy": (">= 80", "expected a number from 0 to 1, got 80; for 80% write 0.8"),
        "queue.f1.low": (">= -0.5", "expected a number from 0 to 1, got -0.5"),
        "reply.length_ratio": ("<= -1", "expected a number of 0 or more, got -1"),
        "queue.recall.low": ("> 1", "> 1 never holds; write >= 1"),
        "reply.bleu": ("<= 0.5", "higher is better, so '<= 0.5' would hold a good model back; write '>= 0.5'"),
        "reply.loop_rate": ("> 0.1", "lower is better, so '> 0.1' would hold a good model back; write '< 0.1'"),
        "queue.precision.low": ("interval >= 0.5", "it is measured without an interval"),
        "speed.seconds_per_row": ("interval <= 5", "it is measured without an interval"),
        "speed.seconds": ("<= 5", "'seconds' is no metric of speed; "),
        "queue.invalid_rate": ("better than tfdif", "'tfdif' is not among evaluate.baselines; did you mean 'tfidf'?"),
        "queue.recall.v1.0": ("better than tfidf", "its difference to other systems is not tested"),
        "reply.rougeL": ("better than tfidf", "'tfidf' answers fields with labels only"),
        "reply.all_fields_correct": ("better than tfidf", "'tfidf' answers fields with labels only"),
    }  # fmt: skip
    found = problems(tmp_path, {name: condition for name, (condition, _) in wrong.items()})
    lines = (tmp_path / "some.yaml").read_text().splitlines()
    assert len(found) == len(wrong)
    for one, (name, (_, message)) in zip(found, wrong.items(), strict=True):
        line = next(number for number, text in enumerate(lines, start=1) if text.strip().startswith(f"{name}: "))
        assert one.startswith(f"line {line}: evaluate.expect.{name}: ") and message in one


def test_two_problems_of_one_metric_are_both_reported(tmp_path: Path) -> None:
    found = problems(tmp_path, {"queue.accuracy": [">= 80", "better than chance"]})
    assert len(found) == 2 and "from 0 to 1" in found[0] and "'chance' is not among" in found[1]


@pytest.mark.parametrize("value", [0.8, True, None, [], [0.8], {"low": ">= 0.8"}])
def test_what_is_no_text_is_refused_once(tmp_path: Path, value: Any) -> None:
    (found,) = problems(tmp_path, {"queue.accuracy": value})
    assert (
        "evaluate.expect.queue.accuracy: expected '>= 0.8', '<= 0.05', 'interval >= 0.8' or 'better than tfidf'"
        in found
    )


def test_a_sign_without_quotes_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("evaluate:\n  expect:\n    queue.accuracy: >= 0.8\n")
    with pytest.raises(
        RecipeError, match=r"line 3: not valid YAML: .*; put a value that begins with > or \| in quotes"
    ):
        load_recipe(file)


def test_a_condition_is_set_on_the_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, {"queue.accuracy": ">= 0.8"})
    settings = ["evaluate.expect.queue.accuracy=>= 0.9", "evaluate.expect.queue.recall.Technical Support='>= 0.5'"]
    assert load_recipe(file, settings).evaluate.expect == {
        "queue.accuracy": ">= 0.9",
        "queue.recall.Technical Support": ">= 0.5",
    }
    assert load_recipe(file, ["evaluate.expect={}"]).evaluate.expect == {}
    (found,) = problems(tmp_path, {}, "evaluate.expect.queue.recall.Low=>= 0.9")
    assert found.startswith("--set evaluate.expect.queue.recall.Low=>= 0.9: ") and "did you mean 'low'?" in found


def test_null_takes_an_inherited_condition_away(tmp_path: Path) -> None:
    write(tmp_path, {"queue.accuracy": ">= 0.8", "queue.macro_f1": ">= 0.8"})
    child = tmp_path / "child.yaml"
    child.write_text("extends: some.yaml\nevaluate: {expect: {queue.accuracy: null, tags.exact_match: '>= 0.1'}}\n")
    assert load_recipe(child).evaluate.expect == {"queue.macro_f1": ">= 0.8", "tags.exact_match": ">= 0.1"}
