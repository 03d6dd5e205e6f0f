"""What evaluation knows of each kind of field: when a value is right, and that every kind offers the same."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from mlxtune.evaluation.fields.kinds import KINDS, right_fields, scorer_of
from mlxtune.evaluation.fields.scorer import Column, Scorer
from mlxtune.recipe.sections import KINDS as RECIPE_KINDS
from mlxtune.recipe.sections import OutputSection, Recipe

FIELDS: dict[str, dict[str, Any]] = {
    "label": {"kind": "label", "labels": ["a", "b"]},
    "labels": {"kind": "labels", "labels": ["a", "b", "none"], "exclusive": "none"},
    "text": {"kind": "text"},
}


def field(kind: str) -> Any:
    return OutputSection.model_validate({"template": "{x}", "fields": {"x": FIELDS[kind]}}).fields["x"]


def with_field(recipe: Recipe, kind: str) -> Recipe:
    output = OutputSection.model_validate({"template": "{intents}", "fields": {"intents": FIELDS[kind]}})
    return recipe.model_copy(update={"output": output})


def test_every_kind_of_the_recipe_has_a_scorer():
    assert set(KINDS) == set(RECIPE_KINDS) == set(FIELDS)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_scorer_offers_all_that_evaluation_asks(kind):
    wanted = {name for name, _ in inspect.getmembers(Scorer, inspect.isfunction) if not name.startswith("_")}
    assert len(wanted) > 8 and all(callable(getattr(scorer_of(field(kind)), name)) for name in wanted)


@pytest.mark.parametrize("kind", FIELDS)
def test_a_kind_says_whether_it_has_labels_as_the_recipe_does(kind):
    assert scorer_of(field(kind)).has_labels == field(kind).has_labels


def test_a_set_is_right_in_any_order(recipe):
    sets = with_field(recipe, "labels")
    assert right_fields({"intents": ("a", "b")}, {"intents": ("b", "a")}, sets) == {"intents": True}
    assert right_fields({"intents": ("a", "b")}, {"intents": None}, sets) == {"intents": False}


def test_a_text_is_neither_right_nor_wrong(recipe):
    assert right_fields({"intents": "x"}, {"intents": "y"}, with_field(recipe, "text")) == {}


@pytest.mark.parametrize(
    ("hits", "answer"),
    [({"a": 1, "b": 2}, "b"), ({"a": 1, "b": 1}, "a"), ({"a": 0, "b": 0}, "usual")],
)
def test_words_choose_the_label_with_most_of_them(hits, answer):
    assert scorer_of(field("label")).from_words(hits, "usual") == answer


def test_a_table_of_a_text_has_no_labels_to_mistake():
    assert scorer_of(field("text")).mistakes(Column(["x"], ["y"], [False])) is None
