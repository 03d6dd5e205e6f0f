"""Baselines: each does what its name says, learns from the recipe's own training rows only, and is compared row by row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer

from mlxtune.data.examples import prompt_ids
from mlxtune.data.prepare import training_rows
from mlxtune.data.rows import Row
from mlxtune.errors import RecipeError
from mlxtune.evaluation.baselines import WORD, _features, few_shot_rows, keywords, label_baselines, majority
from mlxtune.evaluation.fields.kinds import scorer_of
from mlxtune.evaluation.measure import ask_baselines
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.subject import read_test_rows
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe
from tests.conftest import LABELS, write_recipe, write_rows
from tests.fakes import FakeModel, right_answer, scores_of

WORDS = {"payment": ["pay", "Invoice"], "order_management": ["order"], "user_auth": ["log in", "账号"]}
SETS = scorer_of(LabelsField(kind="labels", labels=LABELS, exclusive="none"))
EVALUATE = {"max_new_tokens": 40, "batch_size": 4}


def recipe_with(folder: Path, base: Path, baselines: list[str], **keys: Any) -> Recipe:
    return load_recipe(write_recipe(folder, base, evaluate={"baselines": baselines, "keywords": WORDS, **keys}))


@pytest.fixture
def all_three(tmp_path: Path, base: Path) -> Recipe:
    return recipe_with(tmp_path / "recipe", base, ["majority", "keywords", "tfidf"])


@pytest.fixture
def tokenizer(base: Path) -> Tokenizer:
    return load_tokenizer(base)


def rows_of(*texts: str) -> list[Row]:
    return [Row({"text": text, "intents": ["none"]}, "test.jsonl", line) for line, text in enumerate(texts, 1)]


# What they answer ------------------------------------------------------------------------------------------------


def test_majority_is_the_most_frequent_set_and_not_the_most_frequent_labels() -> None:
    values = [("payment",), ("user_auth", "payment"), ("none",), ("user_auth", "payment"), ("payment", "none")]
    assert majority(values) == ("user_auth", "payment")


def test_keywords_are_found_in_either_case_and_without_spaces_between_words() -> None:
    assert keywords("PAY the invoice", WORDS, SETS, ("none",)) == ("payment",)
    assert keywords("我的账号打不开", WORDS, SETS, ("none",)) == ("user_auth",)


def test_a_text_without_keywords_has_the_exclusive_label_or_the_most_frequent_set() -> None:
    open_set = scorer_of(LabelsField(kind="labels"))
    assert keywords("hello", WORDS, SETS, ("payment",)) == ("none",)
    assert keywords("hello", WORDS, open_set, ("payment",)) == ("payment",)


def test_a_word_of_the_exclusive_label_counts_only_where_no_other_word_does() -> None:
    words = {**WORDS, "none": ["hello"]}
    assert keywords("hello, where is my order", words, SETS, ("payment",)) == ("order_management",)
    assert keywords("hello", words, SETS, ("payment",)) == ("none",)


def test_of_single_labels_the_one_with_most_words_is_taken() -> None:
    single = scorer_of(LabelField(kind="label", labels=["low", "high"]))
    words = {"low": ["maybe"], "high": ["urgent", "now"]}
    assert keywords("maybe urgent now", words, single, "low") == "high"
    assert keywords("maybe urgent", words, single, "high") == "low"
    assert keywords("hello", words, single, "high") == "high"


def separable(folder: Path, base: Path) -> Recipe:
    """Training rows in two languages from which a label's word can be learned, the label's own name never in the text."""
    recipe = recipe_with(folder, base, ["tfidf"])
    words = {"payment": ["付款", "money"], "order_management": ["快递", "parcel"], "none": ["天气", "weather"]}
    rows = []
    for number in range(12):
        for label, (chinese, english) in words.items():
            rows.append({"text": f"请问第{number}次{chinese}怎么了", "intents": [label]})
            rows.append({"text": f"case {number}: the {english} is late", "intents": [label]})
        rows.append({"text": f"第{number}次快递要付款吗", "intents": ["order_management", "payment"]})
    write_rows(folder / "train.jsonl", rows)
    return recipe


def test_tfidf_learns_words_of_both_languages_and_several_labels_at_once(tmp_path: Path, base: Path) -> None:
    recipe = separable(tmp_path / "recipe", base)
    asked = rows_of("我的付款怎么样", "my parcel never came", "今天天气不错", "快递没到还要付款")
    found = label_baselines(recipe, asked)["tfidf"]["intents"]
    assert found == [("payment",), ("order_management",), ("none",), ("order_management", "payment")]


def test_tfidf_takes_each_chinese_character_for_a_word() -> None:
    train, asked = ["付款失败了", "order 12 is late"], ["付款 order"]
    apart = [re.sub("([\u4e00-\u9fff])", r" \1 ", text) for text in (*train, *asked)]
    characters, words = (
        TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True),
        TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True),
    )
    characters.fit(train), words.fit(apart[:2])
    assert {"付", "付 款"} < set(words.get_feature_names_out())
    expected = hstack([characters.transform(asked), words.transform(apart[2:])])
    assert abs(_features(train, asked).asked - expected).max() == 0


def test_tfidf_reads_text_without_chinese_characters_as_scikit_learn_does() -> None:
    train, asked = ["Wo ist mein Päckchen?", "Where's my ORDER, please!", "где мой заказ"], ["mein order заказ!"]
    expected = hstack(
        [
            TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True).fit(train).transform(asked),
            TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2), sublinear_tf=True).fit(train).transform(asked),
        ]
    )
    assert abs(_features(train, asked).asked - expected).max() == 0


def test_tfidf_never_learns_from_the_rows_it_answers(tmp_path: Path, base: Path) -> None:
    recipe = separable(tmp_path / "recipe", base)
    asked = rows_of("我的付款怎么样", "zzz")
    other = [Row({**row.fields, "intents": ["payment"]}, row.file, row.line) for row in asked]
    assert label_baselines(recipe, asked) == label_baselines(recipe, other)
    assert (
        label_baselines(recipe, asked[:1])["tfidf"]["intents"] == label_baselines(recipe, asked)["tfidf"]["intents"][:1]
    )


def test_baselines_learn_from_cleaned_rows(tmp_path: Path, base: Path) -> None:
    rows = [{"text": f"hi {number}", "intents": ["none"]} for number in range(3)]
    rows += [{"text": "pay the bill please", "intents": ["payment"]}] * 5
    recipe = recipe_with(tmp_path / "recipe", base, ["majority"])
    write_rows(tmp_path / "recipe" / "train.jsonl", rows)
    assert label_baselines(recipe, rows_of("x"))["majority"]["intents"] == [("payment",)]
    cleaned = load_recipe(tmp_path / "recipe" / "recipe.yaml", ["data.clean.dedupe=exact"])
    assert label_baselines(cleaned, rows_of("x"))["majority"]["intents"] == [("none",)]


def test_every_label_field_gets_its_baseline_and_text_fields_get_none(tmp_path: Path, base: Path) -> None:
    output = {
        "template": "Type: {type}\nTags: {tags}\n\nResponse:\n{response}",
        "fields": {
            "type": {"kind": "label", "labels": ["Incident", "Request"]},
            "tags": {"kind": "labels"},
            "response": {"kind": "text"},
        },
    }
    words = {"Incident": ["down"], "network": ["wifi"]}
    recipe = load_recipe(
        write_recipe(
            tmp_path / "recipe", base, output=output,
            evaluate={"baselines": ["majority", "keywords", "tfidf"], "keywords": words},
        )
    )  # fmt: skip
    train = [
        {"text": text, "type": kind, "tags": tags, "response": "we will help"}
        for text, kind, tags in [
            ("the wifi is down", "Incident", ["network", "outage"]),
            ("the server is down", "Incident", ["outage"]),
            ("please add a user", "Request", ["access"]),
            ("please add a seat", "Request", ["access"]),
        ]
    ]
    write_rows(tmp_path / "recipe" / "train.jsonl", train)
    asked = [Row({**train[0], "text": "wifi down again"}, "test.jsonl", 1)]
    found = label_baselines(recipe, asked)
    assert found["majority"] == {"type": ["Incident"], "tags": [("access",)]}
    assert found["keywords"] == {"type": ["Incident"], "tags": [("network",)]}
    assert found["tfidf"]["type"] == ["Incident"] and "outage" in found["tfidf"]["tags"][0]


# What is made of them --------------------------------------------------------------------------------------------


def test_scores_hold_each_baseline_with_its_comparison(all_three: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = read_test_rows(all_three)
    model = FakeModel(tokenizer, right_answer(rows))
    scores = scores_of(all_three, model, tokenizer, rows, tmp_path / "out")
    assert list(scores["baselines"]) == list(scores["comparisons"]) == ["majority", "keywords", "tfidf"]
    assert scores["baselines"]["majority"]["intents"].keys() == scores["fields"]["intents"].keys()
    for name, fields in scores["baselines"].items():
        compared = scores["comparisons"][name]["intents"]
        for figure in ("exact_match", "micro_f1", "macro_f1"):
            wanted = scores["fields"]["intents"][figure]["value"] - fields["intents"][figure]["value"]
            assert compared[figure]["difference"] == pytest.approx(wanted), (name, figure)
        assert name in compared["exact_match"]["sentence"]
    assert json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8")) == scores


def test_few_shot_shows_training_rows_with_their_replies_as_earlier_turns(tmp_path: Path, base: Path) -> None:
    recipe = recipe_with(tmp_path / "recipe", base, ["few_shot"], few_shot=2)
    tokenizer, rows, shots = load_tokenizer(base), rows_of("hello"), few_shot_rows(recipe)
    text = tokenizer.hf.decode(prompt_ids(rows, recipe, tokenizer, shots)[0])
    zero = tokenizer.hf.decode(prompt_ids(rows, recipe, tokenizer)[0])
    places = [text.index(part) for shot in shots for part in (shot.fields["text"], ", ".join(shot.fields["intents"]))]
    assert text.index("system") < places[0] < places[1] < text.index("hello")
    assert text.count("<|im_start|>user") == 3 and text.count("<|im_start|>assistant") == 3
    assert text.endswith(zero[zero.index("<|im_start|>user") :])


def test_few_shot_rows_are_training_rows_and_the_same_every_time(tmp_path: Path, base: Path) -> None:
    recipe = recipe_with(tmp_path / "recipe", base, ["few_shot"], few_shot=3)
    shots = few_shot_rows(recipe)
    assert shots == few_shot_rows(recipe) and len(shots) == 3
    assert all(shot in training_rows(recipe) for shot in shots)
    more = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"few_shot": 999})})
    assert len(few_shot_rows(more)) == len(training_rows(recipe))


def test_the_model_before_tuning_is_asked_and_compared(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_with(tmp_path / "recipe", base, ["zero_shot", "few_shot"])
    rows, out = read_test_rows(recipe), tmp_path / "out"
    before = FakeModel(tokenizer, lambda prompt: "none")
    replies = ask_baselines(recipe, before, tokenizer, rows, out, ["zero_shot", "few_shot"])
    assert [one.decoding for one in replies["few_shot"].predictions] == ["constrained"] * len(rows)
    scores = scores_of(recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, rows, out, asked_baselines=replies)
    assert set(scores["baseline_speed"]["zero_shot"]) == {"seconds_per_row", "rows_per_second", "tokens_per_second"}
    assert scores["baselines"]["zero_shot"]["intents"]["exact_match"]["value"] == pytest.approx(2 / 7)
    assert scores["comparisons"]["few_shot"]["intents"]["exact_match"]["difference"] == pytest.approx(5 / 7)
    assert read_predictions(out / "predictions-few_shot.jsonl") == replies["few_shot"].predictions


def test_a_baseline_that_was_not_asked_is_noted(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_with(tmp_path / "recipe", base, ["zero_shot"])
    rows = read_test_rows(recipe)
    scores = scores_of(recipe, FakeModel(tokenizer, right_answer(rows)), tokenizer, rows, tmp_path / "out")
    assert scores["baselines"] == {} and any(note.startswith("zero_shot: ") for note in scores["notes"])


def test_an_evaluation_without_a_baseline_leaves_no_replies_of_an_earlier_one(recipe, tokenizer, tmp_path) -> None:
    rows = read_test_rows(recipe)
    model = FakeModel(tokenizer, right_answer(rows))
    ask_baselines(recipe, model, tokenizer, rows, tmp_path, ["zero_shot"])
    scores_of(recipe, model, tokenizer, rows, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["errors.json", "predictions.jsonl", "scores.json"]


# Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("evaluate_section", "said"),
    [
        ("{baselines: [keywords]}", "evaluate.baselines.0: 'keywords' needs words"),
        ("{baselines: [keyword]}", "did you mean 'keywords'?"),
        ("{baselines: [tfidf, tfidf]}", "evaluate.baselines.1: 'tfidf' is listed twice"),
        ("{keywords: {paymnt: [pay]}}", "evaluate.keywords.paymnt: not one of the labels; did you mean 'payment'?"),
        ("{keywords: {payment: []}}", "evaluate.keywords.payment: expected at least 1 entries"),
        ("{keywords: {payment: [1]}}", "put it in quotes"),
        ("{few_shot: 0}", "evaluate.few_shot: expected at least 1"),
    ],
)
def test_a_mistaken_baseline_is_told_with_its_line(
    evaluate_section: str, said: str, tmp_path: Path, base: Path
) -> None:
    file = write_recipe(tmp_path, base)
    lines = file.read_text(encoding="utf-8").split("\n")
    at = lines.index("evaluate:")
    lines[at : at + 3] = [f"evaluate: {evaluate_section}"]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(file)
    assert said in str(error.value) and f"line {at + 1}: " in str(error.value)


def test_label_baselines_need_a_field_with_labels(tmp_path: Path, base: Path) -> None:
    output = {"template": "{response}", "fields": {"response": {"kind": "text"}}}
    file = write_recipe(tmp_path, base, output=output, evaluate={"baselines": ["majority"]})
    with pytest.raises(RecipeError, match="'majority' needs an output field with labels"):
        load_recipe(file)
