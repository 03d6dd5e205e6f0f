"""The words of a report: in both languages, with the same placeholders, each of them used."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

import mlxtune.report
import mlxtune.report.words as words
from mlxtune.report.words import LANGUAGES, PHRASES, Phrase, Words

REPORT = Path(str(mlxtune.report.__file__)).parent
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Names that both languages have from the formulas, and what punctuation alone is.
ALIKE = {"list.separator", "list.sentences"}


def placeholders(text: str) -> dict[str, str]:
    """Name -> format of each placeholder."""
    return {name: spec or "" for _, name, spec, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("key", PHRASES)
def test_a_phrase_has_both_languages_with_the_same_placeholders(key: str) -> None:
    phrase = PHRASES[key]
    assert phrase.en and (phrase.zh or key in ALIKE)
    assert set(placeholders(phrase.en)) == set(placeholders(phrase.zh)), key
    assert set(placeholders(phrase.one)) <= set(placeholders(phrase.en)), key
    assert not CHINESE.search(phrase.en + phrase.one), key


def sources() -> str:
    files = [file for kind in ("*.py", "*.js", "*.html") for file in REPORT.rglob(kind) if file.name != "words.py"]
    assert len(files) > 20
    return "\n".join(file.read_text(encoding="utf-8") for file in sorted(files))


def test_every_phrase_is_used() -> None:
    text = sources()
    literal = set(re.findall(r"""["'`]([a-z_]+(?:\.[A-Za-z0-9_ -]+)+)["'`]""", text))
    made = {  # f"verify.{one}" stands for every key of that form
        re.compile(re.sub(r"\\\{.*?\\\}", ".+", re.escape(key)))
        for key in re.findall(r"""f["']([a-z_]+\.[^"'\n]*\{[^"'\n]*)["']""", text)
    }
    # "page_script." stands for a whole group, and in templates 'page.colors_' ~ name for some of one.
    beginnings = tuple(re.findall(r"""["']([a-z_]+\.(?:[a-z_]*_)?)["']""", text))
    unused = [
        key
        for key in PHRASES
        if key not in literal and not key.startswith(beginnings) and not any(one.fullmatch(key) for one in made)
    ]
    assert not unused


def test_a_key_that_is_no_phrase_is_an_error() -> None:
    with pytest.raises(KeyError):
        Words("en")("no.such")


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_has_words_of_its_own_in_english_alone(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "PHRASES", {"a.rows": Phrase("{n} rows", "{n} 行", one="1 row")})
    assert Words(language)("a.rows", n=1) == {"en": "1 row", "zh": "1 行"}[language]
    assert Words(language)("a.rows", n=2) == {"en": "2 rows", "zh": "2 行"}[language]


def test_what_a_value_holds_is_no_placeholder() -> None:
    assert Words("en")("labels.error.confused", label="{x}", taken_for="{0}") == "{x} is taken for {0}"
