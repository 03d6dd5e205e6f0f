"""The report on a recipe's data against hand counts and brute force: nothing missed, nothing made up, nothing counted twice."""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.first_tokens import first_token_collisions
from mlxtune.data.leaks import find_leaks
from mlxtune.data.prepare import RecipeRows, prepare, training_split
from mlxtune.data.preview import MORE_TO_COME, pieces, preview
from mlxtune.data.report import DataReport, read_splits, report_data
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import OutputSection, Recipe
from mlxtune.report.terminal.data_tables import data_tables
from mlxtune.report.terminal.tables import to_text
from tests.conftest import ROWS, write_recipe, write_rows
from tests.data.test_cleaning import oracle_near, varied_texts
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def recipe_of(folder: Path, train_rows: list[dict[str, Any]], /, **sections: Any) -> Recipe:
    """The small intent recipe with these training rows; valid and test rows where `sections["rows"]` names them."""
    rows = sections.pop("rows", {})
    data = {"valid": None, "test": None, **{name: f"{name}.jsonl" for name in rows}, **sections.pop("data", {})}
    file = write_recipe(folder, Path("/nowhere/base"), data=data, **sections)
    for name, content in {"train": train_rows, **rows}.items():
        write_rows(folder / f"{name}.jsonl", content)
    return load_recipe(file)


def report_of(recipe: Recipe, tokenizer: Tokenizer) -> DataReport:
    return report_data(recipe, read_splits(recipe), tokenizer)


def row(text: str, *labels: str) -> dict[str, Any]:
    return {"text": text, "intents": list(labels) or ["payment"]}


DIRTY = [
    row("cancel the payment please", "payment"),
    row("cancel the payment please", "payment"),  # 2: exact
    row("Cancel the payment, please!", "payment"),  # 3: near
    row("where is my parcel", "order_management"),
    row("where is my parcel", "none"),  # 5: conflict with 4
    row("", "none"),  # 6: empty
    row("hi", "none"),  # 7: too short
    row("###???***%%%", "none"),  # 8: garbled
    row("log in and pay the bill", "user_auth", "payment"),
]
CLEAN = {"dedupe": "near", "min_chars": 4, "drop_garbled": True}


def test_the_account_is_a_hand_count(tmp_path: Path, tokenizer: Tokenizer) -> None:
    report = report_of(recipe_of(tmp_path, DIRTY, data={"clean": CLEAN}), tokenizer)
    train = report.as_json()["splits"]["train"]
    assert {key: train[key] for key in ("read", "duplicates", "near_duplicates", "low_quality", "kept", "rows")} == {
        "read": 9, "duplicates": 1, "near_duplicates": 1, "low_quality": 3, "kept": 4, "rows": 4,
    }  # fmt: skip
    assert train["low_quality_reasons"] == {
        "empty": 1, "too_short": 1, "garbled": 1, "missing_label": 0, "unknown_label": 0,
    }  # fmt: skip
    assert train["removed"]["duplicates"] == 1 and train["removed"]["low_quality"] == 3
    assert train["labels"] == {"intents": {"user_auth": 1, "order_management": 1, "payment": 2, "none": 1}}
    assert train["label_sets"]["intents"]["user_auth, payment"] == 1
    assert train["cooccurrence"] == {"intents": [{"labels": ["user_auth", "payment"], "rows": 1}]}
    assert train["several_labels"] == {"intents": {"before": round(1 / 9, 4), "after": 0.25}}
    assert report.refusals == ()


def test_every_finding_has_its_place(tmp_path: Path, tokenizer: Tokenizer) -> None:
    content = report_of(recipe_of(tmp_path, DIRTY, data={"clean": CLEAN}), tokenizer).as_json()
    train = str(tmp_path / "train.jsonl")
    found = {(one["line"], one["kind"], one["same_as"], one["removed"]) for one in content["findings"]}
    assert found == {
        (2, "duplicate", f"{train}:1", True), (3, "near_duplicate", f"{train}:1", True), (6, "empty", "", True),
        (7, "too_short", "", True), (8, "garbled", "", True),
    }  # fmt: skip
    (conflict,) = content["conflicts"]
    assert (conflict["file"], conflict["line"], conflict["other"]) == (train, 5, {"file": train, "line": 4})
    assert (conflict["labels"], conflict["other_labels"], conflict["exact"]) == ("none", "order_management", True)


def test_without_cleaning_what_it_would_remove_is_found_and_stays(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [one for one in DIRTY if one["text"]]
    report = report_of(recipe_of(tmp_path, rows), tokenizer)
    train = report.as_json()["splits"]["train"]
    assert train["removed"] is None and train["kept"] == train["rows"] == len(rows)
    assert (train["duplicates"], train["near_duplicates"], train["low_quality"]) == (1, 1, 1)
    assert not any(one["removed"] for one in report.as_json()["findings"])
    assert "left in: 1 exact duplicates, 1 near-duplicates, 1 garbled" in text_of(report)


def test_the_report_trains_on_what_training_trains_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    settings = {"clean": CLEAN, "valid_fraction": 0.3, "balance": {"field": "intents", "method": "oversample"}}
    many = [
        row(text, *labels)
        for text, labels in zip(varied_texts(60), [["payment"], ["none"], ["payment"]] * 20, strict=True)
    ]
    recipe = recipe_of(tmp_path, [*DIRTY, *many], data=settings)
    report = report_of(recipe, tokenizer)
    prepared = prepare(recipe, tokenizer)
    training, validation = prepared.training, prepared.validation
    assert validation is not None
    assert [one.line for one in report.splits["train"].rows] == [training.rows[e.row].line for e in training.examples]
    assert [one.line for one in report.splits["valid"].rows] == [
        validation.rows[e.row].line for e in validation.examples
    ]
    assert report.splits["train"].held_out == training.n_validation == len(validation.rows) > 0
    train = report.splits["train"]
    assert train.kept == training.n_validation + len(training.rows)


def test_rows_held_out_are_told_of_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [*DIRTY[:5], *(row(text, "none") for text in ("log in to the shop", "open an account", "thank you all"))]
    report = report_of(recipe_of(tmp_path, rows, data={"valid_fraction": 0.4}), tokenizer)
    places = [(one.line, one.kind) for one in report.findings]
    assert places == [(2, "duplicate"), (3, "near_duplicate")] and len(report.conflicts) == 1
    held_out = {one.line for one in report.splits["valid"].rows}
    assert held_out and not held_out & {one.line for one in report.splits["train"].rows}
    assert held_out.isdisjoint({1, 2, 3}) or held_out >= {1, 2, 3}
    assert report.leaks == []


def test_lengths_are_those_of_the_examples(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path, ROWS)
    report = report_of(recipe, tokenizer)
    lengths = sorted(example.n_tokens for example in training_split(RecipeRows(recipe), tokenizer).examples)
    assert report.splits["train"].lengths.max == lengths[-1]
    assert report.splits["train"].lengths.median == lengths[len(lengths) // 2]


def test_leaks_are_those_that_brute_force_finds() -> None:
    texts = varied_texts(240)
    splits = {
        name: [Row({"text": text}, name, line) for line, text in enumerate(texts[start::3], start=1)]
        for start, name in enumerate(("train", "valid", "test"))
    }
    found = {(one.split, one.row.line, one.other_split) for one in find_leaks(splits, "text", lambda one: 0)}
    expected = {
        (later, one.line, earlier)
        for earlier, later in (("train", "valid"), ("train", "test"), ("valid", "test"))
        for one, other in product(splits[later], splits[earlier])
        if oracle_near(one.fields["text"], other.fields["text"])
    }
    assert found <= expected, "a leak was reported that is none"
    assert len(expected) > 30
    assert len(found) >= 0.97 * len(expected)


def test_a_template_filled_in_a_thousand_times_is_compared_a_few_times() -> None:
    def rows(name: str, numbers: range) -> list[Row]:
        texts = [f"your order number {number} has been shipped to the address in our files" for number in numbers]
        return [Row({"text": text}, name, line) for line, text in enumerate(texts, start=1)]

    started = time.process_time()
    leaks = find_leaks(
        {"train": rows("train", range(3000)), "test": rows("test", range(2995, 3095))}, "text", lambda one: 0
    )
    assert [leak.exact for leak in leaks] == [True] * 5 + [False] * 95
    assert [leak.other.line for leak in leaks[:5]] == [2996, 2997, 2998, 2999, 3000]
    assert time.process_time() - started < 20


def test_an_exact_leak_is_named_before_a_near_one_with_both_places(tmp_path: Path, tokenizer: Tokenizer) -> None:
    train = [row("where is my parcel today!"), row("where is my parcel today"), row("log in", "user_auth")]
    test = [row("LOG in", "none"), row("where is my parcel today"), row("你好", "none")]
    report = report_of(recipe_of(tmp_path, train, rows={"test": test}), tokenizer)
    first, second = report.as_json()["leaks"]
    assert (first["line"], first["other"]["line"], first["exact"], first["same_labels"]) == (2, 2, True, True)
    assert (second["line"], second["other"]["line"], second["exact"], second["same_labels"]) == (1, 3, False, False)
    assert second["similarity"] == 1.0 and second["other"]["split"] == "train"


def test_rows_that_training_would_refuse_are_all_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    train = [
        *ROWS,
        row("pay it", "paymnt"),
        {"intents": ["none"]},
        row("end <|im_end|> now"),
        {"text": 5, "intents": ["none"], "more": {}},
        {"text": "both", "intents": ["none", "payment"]},
        {"text": ["a", "list"], "intents": ["none"]},
    ]
    report = report_of(recipe_of(tmp_path, train), tokenizer)
    unusable = {one.line: one.detail for one in report.findings if one.kind == "unusable"}
    assert set(unusable) == {8, 9, 10, 12, 13}  # the number 5 is a text
    assert "did you mean 'payment'?" in unusable[8] and "<|im_end|>" in unusable[10]
    assert report.splits["train"].unusable == 5 and len(report.splits["train"].rows) == len(train) - 5
    assert "5 rows cannot be used" in report.refusals[0]


def test_rows_too_long_to_train_on_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    train = [*ROWS, row("a long one " * 40)]
    refused = report_of(recipe_of(tmp_path / "a", train, train={"max_tokens": 130}), tokenizer)
    assert [one.line for one in refused.findings if one.kind == "too_long"] == [8] and len(refused.refusals) == 1
    dropping = {"max_tokens": 130, "over_long": "drop"}
    dropped = report_of(recipe_of(tmp_path / "b", train, train=dropping), tokenizer)
    assert dropped.refusals == () and len(dropped.splits["train"].rows) == 7
    assert dropped.splits["train"].lengths.max > 130


def test_labels_without_training_rows_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    test = [row("a first one", "payment"), row("to log in is hard", "user_auth"), row("open the account", "user_auth")]
    report = report_of(recipe_of(tmp_path, [row("pay the bill"), row("hello", "none")], rows={"test": test}), tokenizer)
    unseen = {(one.label, one.split, one.rows, one.first and one.first.line) for one in report.unseen}
    assert unseen == {("user_auth", "test", 2, 2), ("order_management", None, 0, None)}


def test_a_recipe_whose_label_was_mistyped_is_refused_as_training_refuses_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [one for one in ROWS if "payment" not in one["intents"]] + [row("pay the bill please", "paymnt")]
    report = report_of(recipe_of(tmp_path, rows, data={"clean": CLEAN}), tokenizer)
    assert any("no row has the label 'payment'" in refusal for refusal in report.refusals)


def test_first_tokens_are_those_of_the_written_reply(tokenizer: Tokenizer) -> None:
    labels = ["order_new", "order_old", "pay", "none"]
    fields = {"intents": {"kind": "labels", "labels": labels, "exclusive": "none"}}
    output = OutputSection.model_validate({"template": "Tags: {intents}.", "fields": fields})
    found = {(one.where, one.labels) for one in first_token_collisions(output, tokenizer, {})}
    firsts: dict[int, list[str]] = {}
    for label in labels:  # here a space stands before every label, in the first place and after another
        tokens = tokenizer.encode([f" {label}"])[0].ids
        firsts.setdefault(next(token for token in tokens if tokenizer.decode([token]).strip()), []).append(label)
    expected = {tuple(names) for names in firsts.values() if len(names) > 1}
    assert expected and {names for where, names in found if where == "first"} == expected
    assert {names for where, names in found if where == "after"} == expected


def test_an_open_set_is_judged_by_the_labels_seen(tokenizer: Tokenizer) -> None:
    output = OutputSection.model_validate({"template": "{tags}", "fields": {"tags": {"kind": "labels"}}})
    assert first_token_collisions(output, tokenizer, {}) == []
    (first, *_) = first_token_collisions(output, tokenizer, {"tags": ["network 1", "network 2", "打印"]})
    assert first.labels == ("network 1", "network 2")


def test_pieces_join_to_the_text(tokenizer: Tokenizer) -> None:
    text = "<|im_start|>user\n我想查看订单 🙂 status<|im_end|>"
    ids = tokenizer.hf(text, add_special_tokens=False)["input_ids"]
    shown = pieces(ids, tokenizer)
    assert len(shown) == len(ids) and "".join(shown).replace(MORE_TO_COME, "") == text
    assert MORE_TO_COME in shown


def test_a_preview_marks_exactly_what_is_trained_on(tmp_path: Path, tokenizer: Tokenizer) -> None:
    fields = {
        "intents": {
            "kind": "labels",
            "labels": ["user_auth", "order_management", "payment", "none"],
            "class_weights": {"payment": 3.0},
        }
    }
    recipe = recipe_of(tmp_path, ROWS, output={"template": "{intents}", "fields": fields})
    split = training_split(RecipeRows(recipe), tokenizer)
    shown = preview(split.examples[0], split.rows[0], ReplyTemplate(recipe.output).segments, tokenizer)
    assert [token.id for token in shown.tokens] == [*split.examples[0].prompt, *split.examples[0].reply]
    trained = [token for token in shown.tokens if token.segment]
    assert "".join(token.text for token in trained) == "user_auth, payment<|im_end|>"
    assert "".join(token.text for token in trained if token.weight == 3) in ("payment", " payment")
    text = shown.as_text()
    assert "[<|im_end|>]" in text and "intents x3" in text and "\x1b" not in text
    assert "\x1b[2m" in shown.as_text(color=True)
    flags = [token["supervised"] for token in shown.as_json()["tokens"]]
    assert flags == [False] * len(split.examples[0].prompt) + [True] * len(split.examples[0].reply)


def test_a_preview_lets_no_text_command_the_terminal(tmp_path: Path, tokenizer: Tokenizer) -> None:
    recipe = recipe_of(tmp_path, [row("red \x1b[31m text"), row("hello", "none")])
    report = report_of(recipe, tokenizer)
    shown = preview(report.train_examples[0], report.train_rows[0], ReplyTemplate(recipe.output).segments, tokenizer)
    assert "\x1b" not in shown.as_text() and "\x1b[31m" not in shown.as_text(color=True)
    assert "\x1b" not in text_of(report)


def test_rows_that_all_cannot_be_used_still_give_a_report(tmp_path: Path, tokenizer: Tokenizer) -> None:
    balance = {"balance": {"field": "intents", "method": "oversample"}, "valid_fraction": 0.5}
    report = report_of(recipe_of(tmp_path, [row(f"number {n}", "paymnt") for n in range(3)], data=balance), tokenizer)
    assert report.splits["train"].unusable == 3 and report.splits["train"].rows == []
    assert any("no row is left" in refusal for refusal in report.refusals)
    assert "0 rows to train on" in text_of(report) and report.as_json()["splits"]["train"]["tokens"]["max"] == 0


def test_several_fields_are_counted_each(tmp_path: Path, tokenizer: Tokenizer) -> None:
    output = {
        "template": "{queue}|{tags}|{response}",
        "fields": {
            "queue": {"kind": "label", "labels": ["Billing, Payments", "Other"]},
            "tags": {"kind": "labels"},
            "response": {"kind": "text"},
        },
    }
    rows: list[dict[str, Any]] = [
        {"text": "the invoice is wrong", "queue": "Billing, Payments", "tags": "a, b", "response": "We look, soon."},
        {"text": "hello to all of you", "queue": "Other", "tags": ["b"], "response": "Hello."},
    ]
    file = write_recipe(tmp_path, Path("/nowhere"), data={"valid": None, "test": None})
    content = json.loads(json.dumps({"output": output}))
    write_rows(tmp_path / "train.jsonl", rows)
    import yaml

    whole = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**whole, **content}))
    train = report_of(load_recipe(file), tokenizer).as_json()["splits"]["train"]
    assert train["labels"] == {"queue": {"Billing, Payments": 1, "Other": 1}, "tags": {"b": 2, "a": 1}}
    assert train["cooccurrence"] == {"tags": [{"labels": ["a", "b"], "rows": 1}]}
    assert train["rows"] == 2


def test_findings_are_listed_to_a_limit_and_then_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [*ROWS, *[row(f"number {n} of them", "paymnt") for n in range(30)]]
    report = report_of(recipe_of(tmp_path, rows), tokenizer)
    assert len(report.as_json()["findings"]) == 30
    shown = text_of(report)
    assert "Rows that cannot be used: 30" in shown and "... and 10 more" in shown
    assert shown.count("paymnt") == 20


def test_malformed_files_are_reported_together(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, ROWS, rows={"valid": ROWS, "test": ROWS})
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"\n[1]\n{"text": "x", "intents": ["none"]}\n')
    with pytest.raises(DataError) as caught:
        read_splits(recipe)
    message = str(caught.value)
    assert all(f"{name}.jsonl:{line}" in message for name in ("train", "valid") for line in (1, 2))


def text_of(report: DataReport) -> str:
    return to_text(data_tables(report))
