"""Patterns of file names: they mean what a regular expression of theirs would, and a hostile one ends in a moment."""

from __future__ import annotations

import random
import re
import time
import warnings

import pytest

from mlxtune.data.globs import Glob


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("train.csv", ["train.csv"], ["a/train.csv", "trainXcsv", "train.csv2"]),
        ("*.csv", [".csv", "a.csv"], ["a/b.csv", "a.csv/"]),
        ("**/*.csv", ["a.csv", "a/b.csv", "a/b/c.csv"], ["a/bcsv"]),
        ("data/**", ["data/a", "data/a/b"], ["data", "datas/a"]),
        ("train**", ["train", "train/a", "trains/a"], ["atrain"]),
        ("a?[0-9][!0-9]", ["ab1c", "aa0/"], ["a/1c", "ab11", "abcc", "ab1"]),
        ("a.b+(c){d}[]", ["a.b+(c){d}[]"], ["aab+(c){d}[]"]),
        ("[z-a]", [], ["z", "a", "[z-a]"]),
    ],
)
def test_a_pattern_means_some_paths(pattern: str, fitting: list[str], others: list[str]) -> None:
    glob = Glob(pattern)
    assert [path for path in [*fitting, *others] if glob.fits(path)] == fitting


def test_patterns_mean_what_their_regular_expressions_do() -> None:
    expressions = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]", "[ab]": "[ab]", "[!a]": "[^a]"}
    generator = random.Random(0)
    n_fitting = 0
    for _ in range(400):
        pieces = generator.choices([*expressions, "a", "b", "/", "ab"], k=generator.randrange(7))
        pattern = "".join(pieces)
        tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", pattern)
        expression = re.compile("".join(expressions.get(token, token) for token in tokens))
        glob = Glob(pattern)
        for _ in range(60):
            path = "".join(generator.choices("aab/", k=generator.randrange(8)))
            assert glob.fits(path) == bool(expression.fullmatch(path)), (pattern, path)
            n_fitting += glob.fits(path)
    assert n_fitting > 2000


@pytest.mark.parametrize(
    "pattern", ["a*" * 49 + "b", "**/" * 49 + "b", "**a" * 49 + "b", "[ab]" * 49 + "c", "*" + "a" * 900 + "b"]
)
def test_a_hostile_pattern_ends_in_a_moment(pattern: str) -> None:
    glob = Glob(pattern)
    began = time.perf_counter()
    assert not glob.fits("a" * 250) and not glob.fits("a/" * 125)
    assert time.perf_counter() - began < 2, "some milliseconds"


@pytest.mark.parametrize(
    ("pattern", "message"), [("a*" * 60, "60 wildcards, at most 50"), ("a" * 1001, "1,001 characters")]
)
def test_a_pattern_that_nobody_means_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Glob(pattern)


def test_a_class_of_odd_characters_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Glob("[[a]").fits("[") and Glob("[a--]").fits("a") is False
