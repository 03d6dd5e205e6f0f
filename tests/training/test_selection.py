"""The best checkpoint and early stopping: by the loss or by a metric of replies, and the run's adapter is the one selected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.adapter import read_adapter
from mlxtune.errors import RecipeError
from mlxtune.evaluation.metrics.text_overlap import rouge_rows
from mlxtune.evaluation.subject import read_validation_rows
from mlxtune.evaluation.validation_metrics import reply_metrics, sample_rows
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import open_run
from mlxtune.training.loop import fixed_batches
from mlxtune.training.selection import Selection
from mlxtune.training.tune import Tuned, tune
from mlxtune.training.validation import validate
from tests.adapted import examples_of
from tests.conftest import ROWS, chosen, write_recipe, write_rows
from tests.fakes import FakeModel


def trained(folder: Path, base: Path, **train: Any) -> Tuned:
    """A recipe whose validation rows are not those trained on, so that it can over-fit."""
    file = write_recipe(folder, base, train={"batch_size": 4, "gradient_accumulation": 1, **train})
    write_rows(folder / "train.jsonl", ROWS[:4])
    write_rows(folder / "valid.jsonl", ROWS[4:])
    return tune(load_recipe(file), chosen(), folder / "run", measures=reply_metrics)


def validations(tuned: Tuned) -> list[dict[str, Any]]:
    lines = tuned.run.metrics_file.read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "validation"]


@pytest.mark.parametrize(
    ("metric", "value", "best", "improves"),
    [
        ("valid.loss", 0.9, 1.0, True),
        ("valid.loss", 1.0, 1.0, False),
        ("valid.loss", 0.95, 1.0, False),  # by less than min_delta
        ("intents.invalid_rate", 0.5, 0.9, True),
        ("intents.exact_match", 0.5, 0.9, False),
        ("intents.exact_match", 0.9, 0.5, True),
        ("priority.recall.low", 0.9, 0.5, True),
        ("valid.loss", float("nan"), 1.0, False),
        ("valid.loss", 7.0, None, True),
    ],
)
def test_the_direction_is_known_from_the_metric(metric: str, value: float, best: float | None, improves: bool) -> None:
    assert Selection(metric, min_delta=0.06).improves(value, best) is improves


def test_training_stops_when_nothing_improves(tmp_path: Path, base: Path) -> None:
    stopping = {"patience": 2, "min_delta": 0.001}
    tuned = trained(tmp_path, base, epochs=50, learning_rate=1e-12, early_stopping=stopping)
    found = validations(tuned)
    assert len(found) == 3 and tuned.outcome.progress.step == 3
    assert tuned.info["status"] == "finished" and tuned.info["best"]["step"] == 1
    assert tuned.info["stopped"].startswith("valid.loss was best at step 1 (")
    assert tuned.info["adapter_step"] == 3  # load_best is off


def test_the_best_checkpoint_becomes_the_adapter_and_gives_the_selected_loss(tmp_path: Path, base: Path) -> None:
    tuned = trained(tmp_path, base, epochs=30, learning_rate=0.05, schedule="constant", load_best=True)
    losses = [event["loss"] for event in validations(tuned)]
    best = tuned.info["best"]
    assert best["value"] == min(losses) and losses.index(min(losses)) + 1 == best["step"] < len(losses)
    assert tuned.info["adapter_step"] == best["step"]
    backend = chosen().backend
    examples, _ = examples_of(base, tmp_path / "again")
    held_out = [examples[index] for index in range(4, len(ROWS))]
    model = backend.load(base, tuned.run.adapter)
    found = validate(model, fixed_batches(held_out, 200), ["template", "intents"])
    assert found.loss == pytest.approx(best["value"], abs=1e-6)


def test_a_metric_of_replies_selects_and_is_reproduced_by_the_adapter(tmp_path: Path, base: Path) -> None:
    metric = "intents.partial_match"
    tuned = trained(
        tmp_path, base, epochs=12, learning_rate=0.03, load_best=True, early_stopping={"metric": metric, "patience": 4}
    )
    found = [event["metrics"][metric] for event in validations(tuned)]
    best = tuned.info["best"]
    assert best["metric"] == metric and best["value"] == max(found) == found[best["step"] - 1]
    assert best["step"] == found.index(max(found)) + 1  # the first of equals
    recipe = tuned.run.recipe()
    model = chosen().backend.load(base, tuned.run.adapter)
    assert reply_metrics(recipe, load_tokenizer(base))(model)[metric] == best["value"]


def test_a_texts_rouge_l_can_be_selected_by_and_is_that_of_its_replies(tmp_path: Path, base: Path) -> None:
    output = {"template": "{intents}\n{reply}", "fields": {"intents": {"kind": "labels"}, "reply": {"kind": "text"}}}
    recipe = load_recipe(write_recipe(tmp_path, base, output=output, train={"best_metric": "reply.rougeL"}))
    write_rows(tmp_path / "valid.jsonl", [{**row, "reply": row["text"]} for row in ROWS])
    tokenizer = load_tokenizer(base)
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"decoding": "free"})})
    found = reply_metrics(recipe, tokenizer)(FakeModel(tokenizer, lambda prompt: "payment\npay the bill"))
    wanted = rouge_rows([row["text"] for row in ROWS], ["pay the bill"] * len(ROWS))["rougeL"].mean()
    assert found["reply.rougeL"] == pytest.approx(wanted) and wanted > 0.05
    assert found.keys() >= {"reply.rouge1", "reply.rouge2", "reply.bleu", "reply.chrf", "intents.micro_f1"}
    assert Selection("reply.rougeL", min_delta=0.0).improves(0.5, 0.4)
    with pytest.raises(RecipeError, match=r"did you mean 'reply\.rougeL'"):
        load_recipe(write_recipe(tmp_path, base, output=output, train={"best_metric": "reply.rouge_L"}))


def test_where_no_metric_of_replies_is_asked_for_none_are_written(tmp_path: Path, base: Path) -> None:
    assert [event["metrics"] for event in validations(trained(tmp_path, base, epochs=2))] == [{}, {}]


def test_the_sample_is_fixed_and_in_order(tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base, train={"metric_rows": 3}))
    rows = read_validation_rows(recipe)
    assert rows is not None
    sample = sample_rows(rows, recipe)
    lines = [row.line for row in sample]
    assert len(lines) == 3 and lines == sorted(lines) and sample == sample_rows(rows, recipe)
    other = load_recipe(write_recipe(tmp_path, base, train={"metric_rows": 3, "seed": 2}))
    assert len(sample_rows(rows, load_recipe(write_recipe(tmp_path, base)))) == len(rows)
    assert [row.line for row in sample_rows(rows, other)] != lines


def test_stopping_survives_a_resume(tmp_path: Path, base: Path) -> None:
    settings = {"epochs": 50, "learning_rate": 1e-12, "early_stopping": {"patience": 3, "min_delta": 0.001}}
    whole = trained(tmp_path / "whole", base, **settings)

    class Killed(BaseException):
        pass

    def watch(event: Mapping[str, Any]) -> None:
        if event["event"] == "checkpoint" and event["step"] == 2:
            raise Killed

    recipe = load_recipe(tmp_path / "whole" / "recipe.yaml")
    with pytest.raises(Killed):
        tune(recipe, chosen(), tmp_path / "killed", on_event=watch)
    again = tune(recipe, chosen(), resume=open_run(tmp_path / "killed"))
    assert again.outcome.progress.step == whole.outcome.progress.step == 4
    one, other = (read_adapter(tuned.run.adapter).weights for tuned in (again, whole))
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"train": {"best_metric": "intents.exact"}},
            "'intents.exact' is no metric.*did you mean 'intents.exact_match'",
        ),
        (
            {"train": {"best_metric": "intents.recall.paymnt"}},
            r"is no metric .*did you mean 'intents\.recall\.payment'",
        ),
        ({"train": {"best_metric": "intents.paymnt.recall"}}, "is no metric of this recipe"),
        ({"train": {"early_stopping": {"metric": "valid.accuracy"}}}, "train.early_stopping.metric: .*is no metric"),
        (
            {"train": {"best_metric": "intents.micro_f1", "early_stopping": {"metric": "intents.macro_f1"}}},
            "train.best_metric is 'intents.micro_f1'; keep one of the two",
        ),
        ({"data": {"valid": None}, "train": {"load_best": True}}, "valid.loss is measured on validation rows; add"),
        ({"data": {"valid": None}, "train": {"best_metric": "intents.micro_f1"}}, "is measured on validation rows"),
        ({"train": {"early_stopping": {"patience": 0}}}, "train.early_stopping.patience"),
    ],
)
def test_what_cannot_be_selected_by_is_refused(
    tmp_path: Path, base: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=f"(?s){message}"):
        load_recipe(write_recipe(tmp_path, base, **sections))


@pytest.mark.parametrize("name", ["intents.recall.payment", "intents.payment.recall"])  # as it is, and as 0.1.0 had it
def test_a_labels_recall_can_be_selected_by(tmp_path: Path, base: Path, name: str) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base, train={"best_metric": name}))
    assert recipe.selection_metric == "intents.recall.payment"
    tokenizer = load_tokenizer(base)
    found = reply_metrics(recipe, tokenizer)(FakeModel(tokenizer, lambda prompt: "payment"))
    assert found[recipe.selection_metric] == 1.0 > found["intents.precision.payment"]


def test_a_label_that_is_called_as_a_metric_is_itself(tmp_path: Path, base: Path) -> None:
    labels = {"template": "{intents}", "fields": {"intents": {"kind": "label", "labels": ["recall", "invalid_rate"]}}}
    name = "intents.recall.invalid_rate"
    recipe = load_recipe(write_recipe(tmp_path, base, output=labels, train={"best_metric": name}))
    assert recipe.selection_metric == name and not Selection.of(recipe).lower_is_better
