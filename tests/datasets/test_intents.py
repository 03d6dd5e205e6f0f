"""The intent data set in `data/intent`: what its card promises, checked on the files themselves."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union
from sklearn.preprocessing import MultiLabelBinarizer

from mlxtune.data.cleaning import is_garbled
from mlxtune.data.near import NEAR_JACCARD
from tests.conftest import ROOT

INTENTS = ["user_auth", "order_management", "payment", "inventory", "notification", "none"]
LANGUAGES = ["en", "zh"]
ROWS = {"raw": 1864, "train": 1300, "several": 446, "valid": 160, "test": 68}

in_both_languages = pytest.mark.parametrize("language", LANGUAGES)


@lru_cache
def rows_of(language: str, name: str) -> list[dict[str, Any]]:
    with (ROOT / "data" / "intent" / language / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@lru_cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_intents", ROOT / "tools" / "make_intents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_intents"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@lru_cache
def made(language: str) -> Any:
    return generator().make(language)


def letters(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(character for character in text if unicodedata.category(character)[0] in "LMN")


def opening(text: str, language: str) -> str:
    if language == "zh":
        return letters(text)[:8]
    return " ".join(re.sub(r"[^\w\s']", " ", text.casefold()).split()[:5])


def shingles(text: str) -> frozenset[str]:
    text = letters(text)
    return frozenset(
        (text + "\0\0")[at : at + (2 if "\u4e00" <= text[at] <= "\u9fff" else 3)] for at in range(len(text))
    )


def near_pairs(some: list[str], others: list[str]) -> list[tuple[str, str]]:
    sets = [(text, shingles(text)) for text in others]
    return [
        (text, other)
        for text in some
        for mine in [shingles(text)]
        for other, theirs in sets
        if len(mine & theirs) >= NEAR_JACCARD * len(mine | theirs)
    ]


def test_every_file_is_there_with_the_rows_promised() -> None:
    found = sorted((ROOT / "data" / "intent").glob("*/*.jsonl"))
    assert len(found) == len(LANGUAGES) * len(ROWS)
    assert {path.parent.name for path in found} == set(LANGUAGES)
    for path in found:
        assert len(rows_of(path.parent.name, path.stem)) == ROWS[path.stem], path


@in_both_languages
def test_files_are_what_the_generator_writes(language: str) -> None:
    files = made(language).files()
    assert len(files) == 3
    for name, content in files.items():
        assert (ROOT / "data" / "intent" / language / name).read_bytes() == content.encode(), name


@in_both_languages
def test_check_fails_on_a_changed_file(language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator(), "make", made)
    arguments = ["--lang", language, "--out", str(tmp_path)]
    assert generator().main([*arguments, "--check"]) == 1
    assert generator().main(arguments) == 0
    assert generator().main([*arguments, "--check"]) == 0
    with (tmp_path / "valid.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    assert generator().main([*arguments, "--check"]) == 1


@in_both_languages
def test_cleaning_the_raw_rows_gives_the_training_rows_and_accounts_for_the_rest(language: str) -> None:
    samples = [generator().Sample(row["text"], tuple(row["intents"])) for row in rows_of(language, "raw")]
    cleaned = generator().clean(samples, language)
    assert [dict(row.fields) for row in cleaned.rows] == rows_of(language, "train")
    report = cleaned.report
    assert (report.read, report.kept, report.low_quality) == (1864, 1300, 137)
    assert report.duplicates == 171
    assert report.duplicates + report.near_duplicates == 427
    assert report.low_quality_reasons == {
        "empty": 24, "too_short": 35, "garbled": 40, "missing_label": 0, "unknown_label": 38,
    }  # fmt: skip
    assert not report.conflicts
    assert report.multi_before["intents"] < report.multi_after["intents"] == 386 / 1300


@in_both_languages
@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_labels_are_known_in_canonical_order_and_none_stands_alone(language: str, name: str) -> None:
    for row in rows_of(language, name):
        assert set(row) == {"text", "intents"}
        assert row["text"] == row["text"].strip()
        assert row["intents"], row
        assert row["intents"] == [intent for intent in INTENTS if intent in row["intents"]], row
        assert "none" not in row["intents"] or row["intents"] == ["none"], row
        assert not is_garbled(row["text"]), row


@in_both_languages
def test_training_rows_have_several_intents_in_297_of_a_thousand_and_every_pair_appears(language: str) -> None:
    rows = rows_of(language, "train")
    sizes = Counter(len(row["intents"]) for row in rows)
    assert len(rows) - sizes[1] == 386
    assert sizes[2] > sizes[3] > sizes[4] > 0
    pairs = Counter(pair for row in rows for pair in combinations(row["intents"], 2))
    assert set(pairs) == set(combinations(INTENTS[:-1], 2))
    assert min(pairs.values()) >= 40
    counts = Counter(intent for row in rows for intent in row["intents"])
    assert 0.12 <= counts["none"] / len(rows) <= 0.15
    assert min(counts[intent] for intent in INTENTS[:-1]) >= 300


@in_both_languages
def test_test_rows_cover_every_intent(language: str) -> None:
    rows = rows_of(language, "test")
    counts = Counter(intent for row in rows for intent in row["intents"])
    assert counts["none"] == 12
    assert min(counts[intent] for intent in INTENTS) >= 10
    assert sum(len(row["intents"]) > 1 for row in rows) == 20


def test_rows_written_by_hand_have_the_same_several_intents_in_both_languages() -> None:
    english, chinese = ([row["intents"] for row in rows_of(language, "several")] for language in LANGUAGES)
    assert english == chinese
    assert Counter(map(len, english)) == {2: 300, 3: 100, 4: 46}
    assert Counter(tuple(intents) for intents in english if len(intents) == 2) == dict.fromkeys(
        combinations(INTENTS[:-1], 2), 30
    )


@in_both_languages
def test_no_more_than_three_rows_open_alike(language: str) -> None:
    rows = [*rows_of(language, "train"), *rows_of(language, "valid")]
    openings = Counter(opening(row["text"], language) for row in rows)
    assert openings.most_common(1)[0][1] <= 3


@in_both_languages
def test_nothing_leaks_between_the_parts(language: str) -> None:
    names = ("train", "several", "valid", "test")
    train, several, valid, test = ([row["text"] for row in rows_of(language, name)] for name in names)
    assert near_pairs(several, train) == []
    assert near_pairs(valid, [*train, *several]) == []
    assert near_pairs(test, [*train, *several, *valid]) == []
    seen = {opening(text, language) for text in [*train, *valid]}
    assert not seen.intersection(opening(text, language) for text in test)
    assert [pair for pair in near_pairs(test, test) if pair[0] != pair[1]] == []


@in_both_languages
def test_a_linear_model_learns_it_far_beyond_the_majority(language: str) -> None:
    train, test = rows_of(language, "train"), rows_of(language, "test")
    binarizer = MultiLabelBinarizer(classes=INTENTS)
    truth = binarizer.fit_transform([row["intents"] for row in test])
    if language == "zh":
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True, min_df=2)
    else:
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2)
        features = make_union(characters, TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2))
    model = OneVsRestClassifier(LogisticRegression(C=20, solver="liblinear"))
    model.fit(
        features.fit_transform([row["text"] for row in train]),
        binarizer.transform([row["intents"] for row in train]),
    )
    likely = model.predict_proba(features.transform([row["text"] for row in test]))
    predicted = likely > 0.5
    predicted[np.arange(len(test)), likely.argmax(axis=1)] = True  # at least one label
    exact_match = (predicted == truth).all(axis=1).mean()
    majority = Counter(tuple(row["intents"]) for row in train).most_common(1)[0][0]
    majority_match = sum(tuple(row["intents"]) == majority for row in test) / len(test)
    assert majority_match < 0.2
    assert exact_match >= {"en": 0.78, "zh": 0.66}[language]
