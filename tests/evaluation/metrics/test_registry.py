"""The registry knows every metric that is computed, and what it says of each holds for the formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from mlxtune.data.rows import read_rows
from mlxtune.errors import RecipeError
from mlxtune.evaluation.fields.kinds import KINDS, scorers
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import Means, MetricTable
from mlxtune.evaluation.metrics.metric import Metric
from mlxtune.evaluation.metrics.registry import METRICS, headline, metric, selectable, title
from mlxtune.evaluation.metrics.texts import bucket_table
from mlxtune.evaluation.predict.given import read_replies
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.score import all_right, column, faults, score
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.conftest import write_rows
from tests.made_runs import replies_of, ticket_recipe, tickets

ROWS = tickets(40, response=True)
FIELDS = {"label": "priority", "labels": "tags", "text": "response"}  # kind -> the tickets' field of it
GOOD, MIDDLE, POOR = (f"buckets.{bucket}.share" for bucket in (">0.5", "0.3-0.5", "<0.3"))
# In the order in which tables show them.
TITLES = {
    "exact_match": "exact match", "accuracy": "accuracy", "partial_match": "partial match", "micro_f1": "micro F1",
    "macro_f1": "macro F1", "sample_f1": "sample F1", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L",
    "bleu": "BLEU", "chrf": "chrF", "bertscore": "BERTScore", "length_ratio": "length ratio",
    "placeholders_kept": "placeholders kept", "placeholders_invented": "placeholders invented",
    GOOD: "rows with ROUGE-L >0.5", MIDDLE: "rows with ROUGE-L 0.3-0.5", POOR: "rows with ROUGE-L <0.3",
    "invalid_rate": "invalid", "repeated_rate": "repeated", "loop_rate": "loop rate", "cut_rate": "cut rate",
    "all_fields_correct": "all fields right",
}  # fmt: skip
LOWER = {"placeholders_invented", POOR, "invalid_rate", "repeated_rate", "loop_rate", "cut_rate"}
NEITHER = {"length_ratio", MIDDLE}
SELECTABLE = {
    "label": ("accuracy", "macro_f1", "invalid_rate"),
    "labels": ("exact_match", "partial_match", "micro_f1", "macro_f1", "sample_f1", "invalid_rate"),
    "text": ("rouge1", "rouge2", "rougeL", "bleu", "chrf"),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe with a field of each kind, and rows to select a checkpoint on."""
    return ticket_recipe(tmp_path / "recipe", ROWS, data={"valid_fraction": 0.2})


class Encoder:
    """Stands for BERTScore: every text is worth a half."""

    signature = "none"

    def rows(self, expected: Sequence[str], predicted: Sequence[str | None]) -> np.ndarray:
        return np.full(len(expected), 0.5)


def predictions_of(recipe: Recipe, replies: Sequence[str]) -> list[Prediction]:
    test = Path(str(recipe.data.test))
    given = write_rows(test.parent / "replies.jsonl", [{"prediction": reply} for reply in replies])
    return read_replies(given, read_rows(test, recipe.data.columns), recipe)


def estimates_in(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted name of every metric with an interval in a part of scores.json."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            if value.keys() == {"value", "low", "high"}:
                yield prefix + name
            else:
                yield from estimates_in(value, f"{prefix}{name}.")


def tables(predictions: Sequence[Prediction], recipe: Recipe) -> list[MetricTable]:
    """Everything that is computed row by row."""
    fields = [scorer.table(column(predictions, name)) for name, scorer in scorers(recipe).items()]
    (text,) = [table for table in fields if "rougeL" in table.rows]
    rouge_l = np.asarray(text.rows["rougeL"], dtype=np.float64)
    whole = all_right(predictions, recipe)
    assert whole is not None
    return [*fields, bucket_table(rouge_l), Means(faults(predictions)), whole]


def test_every_metric_of_scores_json_is_declared_and_every_declared_one_is_computed(file: Path) -> None:
    recipe = load_recipe(file)
    predictions = predictions_of(recipe, replies_of(ROWS, 0.6))
    result = score(predictions, recipe, cast(BertScore, Encoder())).to_json()
    found = set(estimates_in(result["replies"]))
    for field in result["fields"].values():
        found |= set(estimates_in(field))
    # Of parts of the rows the same metrics again: exact_match of by_count.2.exact_match.
    parts = {name for name in found if name.startswith(("by_count.", "when_right.", "when_wrong."))}
    assert len(parts) == 2 + 2 * 5 and {name.rpartition(".")[2] for name in parts} < METRICS.keys()
    assert found - parts == METRICS.keys()


def test_a_metric_names_the_kinds_of_field_that_have_it(file: Path) -> None:
    recipe = load_recipe(file)
    result = score(predictions_of(recipe, replies_of(ROWS, 0.6)), recipe, cast(BertScore, Encoder())).to_json()
    assert FIELDS.keys() == KINDS.keys()
    for kind, field in FIELDS.items():
        declared = {one.name for one in METRICS.values() if kind in one.kinds}
        found = {name for name in estimates_in(result["fields"][field]) if name in METRICS}
        assert found == declared, kind


def selects(file: Path, name: str) -> bool:
    """Whether a recipe takes a metric to select a checkpoint by."""
    try:
        return load_recipe(file, [f"train.best_metric={name}"]).selection_metric == name
    except RecipeError as error:
        return "is no metric of this recipe" not in str(error)


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_selects_a_checkpoint_is_what_the_recipe_accepts(kind: str, file: Path) -> None:
    assert selectable(kind) == SELECTABLE[kind]
    assert {name for name in METRICS if selects(file, f"{FIELDS[kind]}.{name}")} == {*SELECTABLE[kind]}


def test_no_metric_of_what_is_no_kind_selects() -> None:
    assert selectable("number") == ()


def test_each_metric_has_its_title_in_the_order_of_tables() -> None:
    assert [(one.name, one.title) for one in METRICS.values()] == list(TITLES.items())
    assert {name: title(name) for name in METRICS} == TITLES


def test_which_way_is_better() -> None:
    directions = {name: one.direction for name, one in METRICS.items()}
    assert {name for name, direction in directions.items() if direction == "lower"} == LOWER
    assert {name for name, direction in directions.items() if direction == "neither"} == NEITHER
    assert set(directions.values()) == {"higher", "lower", "neither"}


def test_right_replies_are_better_by_every_metric_that_has_a_direction(file: Path) -> None:
    recipe = load_recipe(file)
    poor = [*["[Tel Number] no idea"] * 30, *replies_of(ROWS, 0.0)[30:]]
    poor[30:] = [reply.replace("We do not know.", "Call [Tel Number].") for reply in poor[30:]]
    sides = [tables(predictions_of(recipe, replies), recipe) for replies in (replies_of(ROWS, 1.0), poor)]
    seen, unchanged = set(), ("repeated_rate", "loop_rate", "cut_rate")  # neither side has any
    for right, wrong in zip(*sides, strict=True):
        everyone = np.ones((1, len(ROWS)), dtype=np.float32)
        values = [{name: float(value[0]) for name, value in table.of(everyone).items()} for table in (right, wrong)]
        for name in values[0].keys() & values[1].keys():
            ahead = values[0][name] - values[1][name]
            direction = metric(name).direction
            if direction == "higher":
                assert ahead > 0, name
            elif direction == "lower":
                assert ahead == 0 if name in unchanged else ahead < 0, name
            seen.add(name)
    assert seen == METRICS.keys() - {"bertscore"}


def test_mcnemars_test_is_for_the_metrics_that_are_right_or_wrong_at_each_row(file: Path) -> None:
    recipe = load_recipe(file)
    predictions = predictions_of(recipe, [*["no idea"] * 3, *replies_of(ROWS, 0.6)[3:]])
    seen = set()
    for table in tables(predictions, recipe):
        for name in table.of(np.ones((1, len(ROWS)), dtype=np.float32)):
            at_rows = table.rows.get(name)
            binary = at_rows is not None and set(np.unique(at_rows).tolist()) <= {0.0, 1.0}
            assert (metric(name).test == "mcnemar") == binary, name
            seen.add(name)
    assert seen == METRICS.keys() - {"bertscore"}
    assert [one.name for one in METRICS.values() if one.test is None] == ["length_ratio"]
    assert [one.name for one in METRICS.values() if one.may_exceed_one] == ["length_ratio"]


def test_a_field_is_called_better_or_worse_by_one_metric() -> None:
    for kind, wanted in (("label", "accuracy"), ("labels", "exact_match"), ("text", "rougeL")):
        names = [one.name for one in METRICS.values() if kind in one.kinds]
        assert headline(names) == headline(reversed(names)) == wanted
        assert sum(METRICS[name].headline for name in names) == 1
    assert headline(["all_fields_correct", "loop_rate"]) == "all_fields_correct"
    assert headline(["loop_rate", "when_asked"]) is None


def test_a_headline_stands_beside_a_second_metric_of_the_same_field() -> None:
    shown = {one.name: one.beside for one in METRICS.values() if one.beside}
    assert shown == {"exact_match": "macro_f1", "accuracy": "macro_f1", "rougeL": "bleu"}
    assert all(set(METRICS[name].kinds) <= set(METRICS[beside].kinds) for name, beside in shown.items())


def test_a_metric_that_nobody_declared_is_a_mean_that_is_better_the_higher_it_is() -> None:
    assert metric("when_asked") == Metric("when_asked", "when asked", "higher", "bootstrap")
    assert metric("accuracy") is METRICS["accuracy"]
