"""The ticket data set in `data/tickets` and its generator: what the data card promises, checked on rows."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from mlxtune.data.cleaning import is_garbled
from mlxtune.data.examples import expected_values
from mlxtune.data.near import NEAR_JACCARD
from mlxtune.data.prepare import training_rows
from mlxtune.recipe.load import load_recipe
from tests.conftest import ROOT

CARD = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
FIELDS = ("type", "queue", "priority")
ROWS = {"train": 1200, "valid": 200, "test": 300}
PERCENT = {
    "type": {"Incident": 39.5, "Request": 29.2, "Problem": 20.7, "Change": 10.5},
    "priority": {"medium": 40.6, "high": 38.9, "low": 20.4},
    "queue": {"Technical Support": 28.8, "Product Support": 18.8}
    | dict.fromkeys(
        [
            "Customer Service", "IT Support", "Billing and Payments", "Returns and Exchanges", "Service Outages and Maintenance",
            "Sales and Pre-Sales",
        ],
        52.4 / 6,
    ),
}  # fmt: skip


@lru_cache
def rows_of(name: str) -> list[dict[str, Any]]:
    with (ROOT / "data" / "tickets" / f"{name}.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@lru_cache
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tickets", ROOT / "tools" / "make_tickets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_tickets"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@lru_cache
def sample() -> Any:
    return generator().make()


@lru_cache
def drawn() -> list[Any]:
    """Rows enough for rates to show."""
    tickets: list[Any] = generator().make_rows(3000)
    return tickets


def highest_similarity(texts: list[str]) -> NDArray[np.float64]:
    """Jaccard similarity of three-character shingles of each text to the most similar other one, every pair compared."""
    letters = [re.sub(r"[^a-z0-9]", "", text.lower()) + "  " for text in texts]
    counter = CountVectorizer(analyzer="char", ngram_range=(3, 3), binary=True, lowercase=False, dtype=np.float32)
    sets = counter.fit_transform(letters).toarray()
    sizes = sets.sum(axis=1)
    shared = sets @ sets.T
    similarity = shared / (sizes[:, None] + sizes[None, :] - shared)
    np.fill_diagonal(similarity, 0)
    found: NDArray[np.float64] = similarity.max(axis=1)
    return found


def test_the_sample_has_the_rows_promised_and_every_row_the_same_keys() -> None:
    found = sorted(path.stem for path in (ROOT / "data" / "tickets").glob("*"))
    assert found == sorted(ROWS)
    for name, number in ROWS.items():
        assert len(rows_of(name)) == number
        assert {tuple(row) for row in rows_of(name)} == {("id", *("text", *FIELDS, "tags", "response"))}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", ROWS)
def test_the_sample_has_the_label_distribution_to_rounding(name: str, field: str) -> None:
    counts = Counter(row[field] for row in rows_of(name))
    assert set(counts) == set(PERCENT[field])
    total = sum(PERCENT[field].values())  # 99.9 where the percentages are rounded
    for label, percent in PERCENT[field].items():
        assert abs(counts[label] - ROWS[name] * percent / total) < 1, label


def test_the_whole_set_has_19782_and_4240_rows_and_exact_quotas() -> None:
    make = generator()
    assert (make.WHOLE.train + make.WHOLE.valid, make.WHOLE.valid, make.WHOLE.test) == (19_782, 1_000, 4_240)
    for number in (19_782, 4_240):
        quota = make.Counts.of(number)
        for field in FIELDS:
            counts, percents = getattr(quota, field), PERCENT[field]
            assert sum(counts.values()) == number
            assert all(abs(counts[label] - number * p / sum(percents.values())) < 1 for label, p in percents.items())


def test_rows_on_top_of_the_sample_make_the_whole_exact_and_leave_the_sample_as_it_was() -> None:
    make = generator()
    files = make.make(sample=make.Sizes(60, 20, 30), whole=make.Sizes(400, 100, 150))
    alone = make.make(sample=make.Sizes(60, 20, 30))
    for name, tickets in alone.items():
        assert files[name][: len(tickets)] == tickets
    for names, number in ((("train", "valid"), 500), (("test",), 150)):
        tickets = [ticket for name in names for ticket in files[f"{name}.jsonl"]]
        for field in FIELDS:
            assert Counter(getattr(ticket, field) for ticket in tickets) == getattr(make.Counts.of(number), field)
    ids = [ticket.id for tickets in files.values() for ticket in tickets]
    assert len(set(ids)) == len(ids) == 650


def test_ids_are_unique_and_of_one_form() -> None:
    ids = [row["id"] for name in ROWS for row in rows_of(name)]
    assert len(set(ids)) == len(ids) == 1700
    assert all(re.fullmatch(r"T\d{6}", value) for value in ids)


def test_no_two_texts_are_near_duplicates_in_or_across_files() -> None:
    texts = [row["text"] for name in ROWS for row in rows_of(name)]
    assert len(texts) == 1700
    assert highest_similarity(texts).max() < NEAR_JACCARD
    assert highest_similarity([*texts, texts[7].replace("the", "this")]).max() > NEAR_JACCARD  # it would have been seen


def test_texts_and_replies_are_short_and_readable() -> None:
    rows = [row for name in ROWS for row in rows_of(name)]
    for row in rows:
        assert 15 <= len(row["text"].split()) <= 50, row
        assert 20 <= len(row["response"].split()) <= 50, row
        assert row["text"] == row["text"].strip() and not is_garbled(row["text"]), row
        assert "{" not in row["text"] + row["response"], row
    for field, low, high in (("text", 24, 32), ("response", 28, 36)):
        assert low <= np.median([len(row[field].split()) for row in rows]) <= high


def test_the_two_placeholders_are_the_only_ones_and_stand_in_replies_alone() -> None:
    rows = [row for name in ROWS for row in rows_of(name)]
    assert not any("<" in row["text"] or ">" in row["text"] for row in rows)
    found = [tuple(sorted(re.findall(r"<.*?>", row["response"]))) for row in rows]
    shares = {kind: number / len(rows) for kind, number in Counter(found).items()}
    assert set(shares) == {(), ("<name>",), ("<tel_num>",), ("<name>", "<tel_num>")}
    assert min(shares.values()) > 0.15


def test_no_row_holds_an_address_or_a_telephone_number() -> None:
    for name in ROWS:
        for row in rows_of(name):
            assert not re.search(r"@|www\.|https?:|\+\d|\d{7}|\d{3}[ -]\d{3}", row["text"] + row["response"]), row


def test_rows_have_two_to_four_distinct_tags_of_an_open_vocabulary() -> None:
    rows = [row for name in ROWS for row in rows_of(name)]
    assert all(2 <= len(row["tags"]) == len(set(row["tags"])) <= 4 for row in rows)
    vocabulary = {tag for row in rows for tag in row["tags"]}
    assert 60 <= len(vocabulary) <= 80
    assert not any(mark in tag for tag in vocabulary for mark in ",;|/")  # they can be written as separated strings


def test_labels_differ_from_what_texts_were_written_for_at_the_rates_named() -> None:
    make = generator()
    rates = {"type": make.TYPE_NOISE, "queue": make.QUEUE_NOISE, "priority": make.PRIORITY_NOISE}
    assert rates["type"] < rates["queue"] < rates["priority"]
    for place, (field, rate) in enumerate(rates.items()):
        differ = np.mean([getattr(ticket, field) != ticket.meant[place] for ticket in drawn()])
        assert abs(differ - rate) < 4 * np.sqrt(rate * (1 - rate) / len(drawn())), field
        assert f"`{field}` " in CARD and f"{round(100 * rate)}%" in CARD


def test_priority_errs_mostly_by_one_step() -> None:
    wrong = [(ticket.meant[2], ticket.priority) for ticket in drawn() if ticket.meant[2] != ticket.priority]
    assert np.mean(["medium" in pair for pair in wrong]) > 0.7


def test_replies_vary_in_order_and_wording_and_name_what_the_ticket_is_about() -> None:
    replies = [row["response"] for row in rows_of("train")]
    assert len(set(replies)) > 0.95 * len(replies)
    asks = [re.search(r"(please (send|provide|let)|would you kindly|we need)", reply, re.I) for reply in replies]
    sorry = [re.search(r"sorry|apolog|regret", reply) for reply in replies]
    both = [(a.start(), b.start()) for a, b in zip(asks, sorry, strict=True) if a and b]
    assert 0.1 < np.mean([a < b for a, b in both]) < 0.9  # now one comes first, now the other
    about = [ticket for ticket in drawn() if re.search(r"(about|concerning|with|by) the ", ticket.response)]
    named = [
        match and match[1].lower().rstrip(".") in ticket.text.lower()
        for ticket in about
        if (match := re.search(r"(?:about|concerning|with|by) the ([\w -]+\.)", ticket.response))
    ]
    assert np.mean([bool(one) for one in named]) > 0.9


@pytest.mark.parametrize(("field", "more"), [("type", 0.25), ("queue", 0.1), ("priority", 0.12)])
def test_labels_can_be_learned_from_the_text(field: str, more: float) -> None:
    train, test = rows_of("train"), rows_of("test")
    features = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    known = features.fit_transform([row["text"] for row in train])
    with threadpool_limits(1):  # threads cost more than they save at this size
        model = LogisticRegression(C=2, max_iter=300).fit(known, [row[field] for row in train])
    expected = np.array([row[field] for row in test])
    right = np.mean(model.predict(features.transform([row["text"] for row in test])) == expected)
    majority = max(Counter(expected.tolist()).values()) / len(test)
    assert majority + more < right < 0.95
    figure = re.search(rf"\| sample, 1,200 rows \|{' [^|]*[|]' * FIELDS.index(field)} ([\d.]+) \|", CARD)
    assert figure is not None and abs(float(figure[1]) - right) < 0.01


def test_the_committed_sample_is_what_the_generator_writes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sample()
    monkeypatch.setattr(generator(), "make", lambda: made)
    assert generator().main(["--sample", "--check"]) == 0
    assert "test.jsonl: 300 rows" in capsys.readouterr().out


def test_check_fails_on_a_changed_file_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sample()
    monkeypatch.setattr(generator(), "make", lambda: made)
    arguments = ["--sample", "--out", str(tmp_path)]
    assert generator().main([*arguments, "--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert generator().main(arguments) == 0
    assert generator().main([*arguments, "--check"]) == 0
    for name in ROWS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (ROOT / "data" / "tickets" / f"{name}.jsonl").read_bytes()
    with (tmp_path / "valid.jsonl").open("a", encoding="utf-8") as file:
        file.write("{}\n")
    capsys.readouterr()
    assert generator().main([*arguments, "--check"]) == 1
    assert "valid.jsonl" in capsys.readouterr().err


def test_the_same_seed_makes_the_same_rows() -> None:
    assert generator().make() == sample()


def test_the_whole_set_needs_a_folder_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        generator().main([])
    assert stopped.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_misuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        generator().main(["--sample", "--out", str(tmp_path / "file")])
    assert stopped.value.code == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert generator().main(["--sample", "--out", str(tmp_path / "file" / "inner")]) == 1
    assert "inner: cannot be written: Not a directory" in capsys.readouterr().err


def test_a_bank_that_is_too_small_is_said_and_not_papered_over() -> None:
    make = generator()
    writer = make.Writer("one")
    tickets = writer.tickets("train", make.labels(40, seed="one"))
    assert not writer._is_new(tickets[-1])
    writer._is_new = lambda ticket: False
    with pytest.raises(SystemExit, match="too small"):
        writer.tickets("train", make.labels(1, seed="two"))


def test_any_number_of_rows_can_be_drawn_for_trials_of_speed() -> None:
    again = generator().make_rows(3000)
    assert [ticket.line() for ticket in again] == [ticket.line() for ticket in drawn()]
    assert generator().make_rows(5, seed=1) != generator().make_rows(5, seed=2)


def test_the_cards_recipe_reads_a_csv_with_other_column_names(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", CARD, re.S)
    assert len(blocks) == 1
    (tmp_path / "recipe.yaml").write_text(blocks[0].replace("recipes/", f"{ROOT}/recipes/"), encoding="utf-8")
    rows = [row for row in rows_of("train") if row["queue"] == "Billing and Payments"][:40]
    assert len(rows) == 40
    for name in ("tickets", "tickets-test"):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(["body", "answer", "type", "queue", "priority", "labels"])
            for number, row in enumerate(rows):
                queue = ("Billing", "Delivery", "Other")[number % 3]
                out.writerow(
                    [row["text"], row["response"], row["type"], queue, row["priority"], "; ".join(row["tags"])]
                )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    found = training_rows(recipe)
    by_text = {row["text"]: row for row in rows}
    assert 0 < len(found) < 40
    for one, value in zip(found, expected_values(found, recipe), strict=True):
        assert list(value["tags"]) == by_text[one.fields["text"]]["tags"]
        assert value["response"] == by_text[one.fields["text"]]["response"]
