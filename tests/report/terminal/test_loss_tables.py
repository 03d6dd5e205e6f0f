"""The table of where the loss comes from: its shares add up, its ratios are of one segment, and it fits a terminal."""

from __future__ import annotations

import pytest

from mlxtune.report.terminal.loss_tables import loss_table, segment_line
from mlxtune.report.terminal.tables import WIDTH, to_text

TRAIN: dict[str, dict[str, float]] = {
    "template": {"loss": 0.002, "tokens": 100, "accuracy": 1.0},
    "priority": {"loss": 0.2, "tokens": 50, "accuracy": 0.96, "label_accuracy": 0.92},
    "response": {"loss": 0.4, "tokens": 350, "accuracy": 0.9},
}
VALID: dict[str, dict[str, float]] = {
    "template": {"loss": 0.01, "tokens": 200, "accuracy": 0.995},
    "priority": {"loss": 0.9, "tokens": 100, "accuracy": 0.7, "label_accuracy": 0.571},
    "response": {"loss": 1.2, "tokens": 700, "accuracy": 0.62},
}


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of the lines that end in figures."""
    cells = [line.split() for line in text.splitlines()]
    return {line[0]: line[1:] for line in cells if len(line) > 2 and line[1].endswith("%")}


def test_each_segment_has_its_share_of_tokens_and_loss_its_ratio_and_its_accuracies() -> None:
    text = to_text([loss_table(TRAIN, VALID)])
    assert rows_of(text) == {
        "template": ["20.0%", "0.0020", "0.0100", "5.00", "0.2%", "99.5%"],
        "priority": ["10.0%", "0.2000", "0.9000", "4.50", "9.7%", "70.0%", "57.1%"],
        "response": ["70.0%", "0.4000", "1.2000", "3.00", "90.1%", "62.0%"],
        "all": ["100.0%", "0.3004", "0.9320", "3.10", "100.0%", "70.3%"],
    }
    assert text.startswith("Where the loss of validation rows comes from; losses in nats a token\n")
    assert "teacher-forced" in text and "\x1b" not in text


def test_the_columns_say_what_they_are() -> None:
    header = to_text([loss_table(TRAIN, VALID)], width=160).splitlines()[2]
    assert [one.strip() for one in header.split("  ") if one.strip()] == [
        "segment", "tokens", "train loss", "valid loss", "valid/train",
        "share of loss", "token accuracy", "label accuracy",
    ]  # fmt: skip


def test_without_validation_the_shares_are_those_of_training_rows() -> None:
    text = to_text([loss_table(TRAIN, None)])
    assert rows_of(text)["priority"] == ["10.0%", "0.2000", "6.7%", "96.0%", "92.0%"]
    assert "of training rows" in text and "valid" not in text


def test_a_segment_of_one_side_only_leaves_the_other_empty() -> None:
    text = to_text([loss_table({"template": TRAIN["template"]}, VALID)])
    assert rows_of(text)["priority"] == ["10.0%", "0.9000", "9.7%", "70.0%", "57.1%"]


def test_segments_of_steps_without_accuracies_make_a_table_without_them() -> None:
    plain = {name: {"loss": figures["loss"], "tokens": figures["tokens"]} for name, figures in TRAIN.items()}
    plain["zero"] = {"loss": 0.0, "tokens": 1}
    text = to_text([loss_table(plain, plain)])
    assert rows_of(text)["priority"] == ["10.0%", "0.2000", "0.2000", "1.00", "6.7%"]
    assert rows_of(text)["zero"] == ["0.2%", "0.0000", "0.0000", "0.0%"]
    assert "teacher-forced" not in text


def test_long_names_and_markup_fit_and_show_as_they_are() -> None:
    name = "[bold]the_reason_why_the_customer_wrote_in_the_first_place[/bold]"
    text = to_text([loss_table({name: TRAIN["priority"]}, {name: VALID["priority"]})])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "[bold]" in text


def test_no_segments_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the segments"):
        loss_table({}, None)


def test_a_line_of_progress_names_labels_where_there_are_some_and_tokens_elsewhere() -> None:
    assert segment_line(VALID) == (
        "template 0.010 (99.5% of tokens), priority 0.900 (57.1% of labels), response 1.200 (62.0% of tokens)"
    )
    assert segment_line({"template": {"loss": 0.01, "tokens": 3}}) == "template 0.010"
