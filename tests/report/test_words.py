from __future__ import annotations

from string import Formatter

import pytest

from mlxtune.report.words import LANGUAGES, PHRASES, Words


def placeholders(text):
    """Names and formats of a phrase's placeholders."""
    return {(name, form) for _, name, form, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", PHRASES)
def test_a_phrase_says_the_same_values_in_every_language(key):
    phrase = PHRASES[key]
    names = {language: {name for name, _ in placeholders(getattr(phrase, language))} for language in LANGUAGES}
    assert names["en"] == names["zh"]
    assert {name for name, _ in placeholders(phrase.one)} <= names["en"] - {"n"} if phrase.one else True
    assert all(getattr(phrase, language).strip() or key == "list.sentences" for language in LANGUAGES)


def test_one_is_said_in_the_singular():
    assert (Words("en")("count.rows", n=1), Words("en")("count.rows", n=2)) == ("1 row", "2 rows")
    assert Words("zh")("count.rows", n=1) == "1 行"


def test_what_a_value_holds_is_no_placeholder():
    assert Words("en")("labels.error.confused", label="{x}", taken_for="{0}") == "{x} is taken for {0}"
