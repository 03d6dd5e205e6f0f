"""JSON content as typed values: what is read is what was written, and what is wrong is named by its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest

from mlxtune.json_values import JsonError, each, inside, optional, read_dataclass, required, typed


@dataclass(frozen=True)
class Point:
    x: float
    label: str | None = None


@dataclass(frozen=True)
class Shape:
    kind: Literal["open", "closed"]
    points: Sequence[Point]
    sides: tuple[int, ...]
    by_name: Mapping[str, Point]


@dataclass(frozen=True)
class Metrics:
    rows: int
    values: Mapping[str, float]


CONTENT: dict[str, Any] = {
    "kind": "open",
    "points": [{"x": 1.5, "label": "a"}, {"x": 2, "label": None}],
    "sides": [3, 4],
    "by_name": {"top": {"x": 0.0, "label": "b"}},
}


def test_a_dataclass_is_read_from_what_asdict_wrote():
    found = read_dataclass(Shape, CONTENT)
    assert found == Shape("open", [Point(1.5, "a"), Point(2, None)], (3, 4), {"top": Point(0.0, "b")})
    assert (
        read_dataclass(Shape, {**asdict(found), "points": [asdict(one) for one in found.points], "sides": [3, 4]})
        == found
    )


def test_a_missing_field_has_its_default_and_unknown_keys_are_left_out():
    assert read_dataclass(Point, {"x": 1.0, "of a later version": 2}) == Point(1.0)


def test_keys_beside_the_fields_are_read_into_the_one_that_takes_the_rest():
    assert read_dataclass(Metrics, {"rows": 2, "f1": 0.5, "recall": 1.0}, rest="values") == Metrics(
        2, {"f1": 0.5, "recall": 1.0}
    )
    with pytest.raises(JsonError, match=r"^f1: expected a number, got None$"):
        read_dataclass(Metrics, {"rows": 2, "f1": None}, rest="values")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"kind": "round"}, "kind: expected one of 'open', 'closed', got 'round'"),
        ({"points": {}}, "points: expected a list, got {}"),
        ({"points": [{"x": 1.0}, {"x": "far"}]}, "points.1.x: expected a number, got 'far'"),
        ({"points": [{}]}, "points.0.x: expected this key, it is missing"),
        ({"sides": [3.5]}, "sides.0: expected a whole number, got 3.5"),
        ({"sides": [True]}, "sides.0: expected a whole number, got True"),
        ({"by_name": []}, "by_name: expected an object, got []"),
        ({"by_name": {"top": {"x": 0.0, "label": 1}}}, "by_name.top.label: expected text, got 1"),
        ({"by_name": "y" * 99}, "by_name: expected an object, got '" + "y" * 56 + "..."),
    ],
)
def test_what_is_wrong_is_named_with_its_key(changed, problem):
    with pytest.raises(JsonError) as error:
        read_dataclass(Shape, {**CONTENT, **changed})
    assert str(error.value) == problem


def test_a_key_that_may_be_missing_is_none_where_it_is_or_is_null():
    number = typed(float)
    assert [optional(content, "x", number) for content in ({}, {"x": None}, {"x": 1.0})] == [None, None, 1.0]
    with pytest.raises(JsonError, match=r"^x: expected a number"):
        optional({"x": "1"}, "x", number)


def test_an_error_is_told_with_every_key_above_it():
    with pytest.raises(JsonError) as error, inside("fields", "tags"):
        required({"labels": {"a": {"x": []}}}, "labels", each(typed(Point)))
    assert error.value.keys == ("fields", "tags", "labels", "a", "x")
