from __future__ import annotations

import pytest

from mlxtune.data.report import read_splits, report_data
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.report.charts import BarChart, HeatMap
from mlxtune.report.contents.data_account import DataAccount, account_of
from mlxtune.report.sections.data_account import MAX_LISTED, data_section
from mlxtune.report.words import Words
from tests.data.test_report import CLEAN, DIRTY, recipe_of, row
from tests.report.sections.made import blocks_of, one, paragraphs, table, texts
from tests.tiny import tiny_tokenizer

EN = Words("en")
TEST = [
    row("where is my parcel", "order_management"),
    row("pay the bill for me", "payment"),
    row("hello there", "none"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def made(folder, tokenizer, train, say=EN, **sections):
    """The section of some rows."""
    recipe = recipe_of(folder, train, **sections)
    account = account_of(report_data(recipe, read_splits(recipe), tokenizer))
    return account, data_section(account, recipe, say)


def test_lines_of_the_account_add_up(tmp_path, tokenizer):
    balance = {"field": "intents", "method": "oversample", "by": "labels"}
    account, section = made(tmp_path, tokenizer, DIRTY, data={"clean": CLEAN, "balance": balance}, rows={"test": TEST})
    rows = table(section, "What became of the rows").rows
    names = [cells[0].text for cells in rows]
    used = names.index("used")
    for column, split in enumerate(account.splits.values(), start=1):
        counts = [int(cells[column].text.replace(",", "") or 0) for cells in rows]
        assert sum(counts[:used]) == counts[used] == split.rows
    assert {
        "exact duplicates removed",
        "near-duplicates removed",
        "empty texts removed",
        "garbled texts removed",
    } <= set(names)
    assert "repeated or left out to balance" in names


def test_rows_held_out_are_those_that_validate(tmp_path, tokenizer):
    rows = [
        row(f"text number {i} of many, all {'different' * (i % 5)}", "payment" if i % 2 else "none") for i in range(40)
    ]
    account, section = made(tmp_path, tokenizer, rows, data={"valid_fraction": 0.2})
    found = {
        cells[0].text: [cell.text for cell in cells[1:]] for cells in table(section, "What became of the rows").rows
    }
    assert found["held out to validate with"][0] == f"-{account.splits['valid'].read}"


def test_bars_are_shares_of_each_split(tmp_path, tokenizer):
    account, section = made(tmp_path, tokenizer, DIRTY, data={"clean": CLEAN}, rows={"test": TEST})
    chart = one(section, BarChart)
    train, test = account.splits["train"], account.splits["test"]
    assert [group.name for group in chart.groups] == ["training rows", "test rows"]
    for label, ours, theirs in zip(chart.categories, *(group.values for group in chart.groups), strict=True):
        assert ours == train.labels["intents"][label] / train.rows and theirs == test.labels["intents"][label] / 3
    counts = table(section, "Rows by label of intents")
    assert counts.rows[0][0].text == chart.categories[0] and counts.rows[0][1].text == chart.texts[0]


def test_labels_that_stand_together_are_a_symmetric_grid(tmp_path, tokenizer):
    rows = [row(f"pay and log in, case {i}", "user_auth", "payment") for i in range(3)] + [
        row("only pay this", "payment")
    ]
    _, section = made(tmp_path, tokenizer, rows)
    chart = one(section, HeatMap)
    both = chart.rows.index("user_auth"), chart.columns.index("payment")
    assert chart.texts[both[0]][both[1]] == chart.texts[both[1]][both[0]] == "3"
    assert chart.values[both[0]][both[1]] == 1.0 and chart.values[0][0] is None
    assert "user_auth + payment: 3 rows" in chart.description
    assert "Rows with several labels in intents: 75.0% of the training rows." in texts(section)


def test_leaks_and_conflicts_are_counted_and_listed(tmp_path, tokenizer):
    account, section = made(tmp_path, tokenizer, DIRTY, data={"clean": CLEAN}, rows={"test": TEST})
    assert account.leaks and account.conflicts
    said = texts(section)
    assert "Leaks: 1 row is also in another split" in said and "1 pair of rows has the same text" in said
    leaks = table(section, f"Leaks between splits ({len(account.leaks)})")
    assert [cell.text for cell in leaks.rows[0]][:3] == [
        "test.jsonl:1 (test rows)",
        "train.jsonl:4 (training rows)",
        "the same",
    ]
    conflicts = table(section, "Same text, different labels (1)")
    assert {conflicts.rows[0][1].text, conflicts.rows[0][3].text} == {"order_management", "none"}


def test_many_leaks_are_limited_with_a_count(tmp_path, tokenizer):
    rows = [row(f"{word} the bill of {name} in {month}", "payment") for word in ("pay", "send", "cancel", "find", "print")
            for name in ("anna", "ben", "clara") for month in ("march", "june")]  # fmt: skip
    account, section = made(tmp_path, tokenizer, rows, rows={"test": rows})
    leaks = table(section, f"Leaks between splits ({len(account.leaks)})")
    assert len(leaks.rows) == MAX_LISTED and f"{len(account.leaks) - MAX_LISTED} more are not" in leaks.note
    assert "of them word for word" in texts(section)


def test_uneven_labels_unseen_labels_and_weights_are_said(tmp_path, tokenizer):
    rows = [row(f"pay bill {'number ' * i}{i}", "payment") for i in range(6)] + [row("log in now", "user_auth")]
    weights = {"kind": "labels", "labels": ["payment", "user_auth", "none"], "class_weights": {"user_auth": 3.0}}
    output = {"template": "{intents}", "fields": {"intents": weights}}
    _, section = made(tmp_path, tokenizer, rows, output=output, rows={"test": [row("what a day this is", "none")]})
    said = texts(section)
    assert (
        "intents is uneven: payment has 6 (85.7%) of the training rows, user_auth 1 (14.3%): 6.0 times as many." in said
    )
    assert "Labels without a training row: none of intents (in 1 of the test rows)." in said
    shown = {cells[0].text: cells[2].text for cells in table(section, "Class weights of intents").rows}
    assert shown["user_auth"] == "3" and shown["payment"] == "1"


def test_splits_that_are_gone_are_said_and_nothing_else(tmp_path, tokenizer):
    recipe = recipe_of(tmp_path, DIRTY)
    section = data_section(DataAccount(missing={"train": "gone", "test": "changed"}), recipe, EN)
    assert [paragraph.text for paragraph in paragraphs(section)] == [
        "The file of the training rows is gone, so they are not accounted for.",
        "The file of the test rows has changed since, so they are not accounted for.",
    ]
    assert data_section(DataAccount(), recipe, EN) is None


def test_data_is_said_in_chinese(tmp_path, tokenizer):
    _, section = made(tmp_path, tokenizer, DIRTY, Words("zh"), data={"clean": CLEAN}, rows={"test": TEST})
    titles = [block.title for block in blocks_of(section) if hasattr(block, "title")]
    assert titles and all(any("\u4e00" <= character <= "\u9fff" for character in title) for title in titles)
    assert "去除完全重复" in texts(section) and "数据泄漏" in texts(section)
