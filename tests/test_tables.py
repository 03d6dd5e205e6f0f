"""Tables of scores: they fit, carry no escape codes when piped, and show labels as they are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from mlxtune.evaluation.metrics import label_scores, label_set_scores
from mlxtune.report.tables import MAX_LABELS, WIDTH, before_after, label_table, score_tables, to_text

LABELS = ["payment", "[bold]notification[/bold]", "库存查询"]


def make_scores(decoding: str = "constrained", right: bool = True) -> dict[str, Any]:
    expected = [(LABELS[0],), (LABELS[1], LABELS[2])]
    sets = label_set_scores(expected, expected if right else [None, None], [False] * 2, LABELS)
    single = label_scores(["high", "low"], ["high", "high"], [False] * 2, ["high", "low"])
    speed = {"seconds_per_row": 0.5, "rows_per_second": 2.0, "tokens_per_second": 9.0}
    fields = {"intents": asdict(sets), "priority": asdict(single)}
    return {"rows": 2, "decoding": decoding, "fields": fields, "speed": speed, "notes": ["a [note]"]}


def test_tables_fit_and_are_plain_text():
    text = to_text(score_tables(make_scores()))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text


def test_tables_have_color_only_when_asked():
    assert "\x1b" in to_text(score_tables(make_scores()), color=True)


def test_labels_and_notes_are_no_markup():
    text = to_text(score_tables(make_scores()))
    assert "[bold]notification[/bold]" in text
    assert "a [note]" in text


def test_labels_of_an_open_set_command_no_terminal():
    labels = {"\x1b[2Jgone": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}}
    assert "\x1b" not in to_text([label_table("tags", labels)])


def test_every_part_of_the_scores_is_shown():
    text = to_text(score_tables(make_scores()))
    for part in ("exact match", "macro F1", "intents: by label", "by number of expected labels", "accuracy", "across"):
        assert part in text, part
    assert "constrained: 0.500 s a row, 2.00 rows/s, 9.0 tokens/s" in text


def test_both_decodings_stand_side_by_side():
    scores = {**make_scores(), "decodings": {"free": make_scores("free", right=False), "constrained": make_scores()}}
    line = next(line for line in to_text(score_tables(scores)).splitlines() if "exact match" in line)
    figures = line.split("match")[1].split()
    assert figures[0] == "0.000" and figures[1] == "[0.000," and figures[3] == "1.000" and figures[5] == "1.000]"


def test_before_and_after_shows_the_change():
    text = to_text([before_after(make_scores(right=False), make_scores())])
    line = next(line for line in text.splitlines() if "exact match" in line)
    assert line.endswith("+1.000")
    assert "2 rows, constrained decoding" in text


def test_a_change_has_its_interval_where_the_rows_were_compared():
    compared = {"difference": 1.0, "low": 0.2, "high": 1.0, "p_value": 0.01, "sentence": "better"}
    changes = {"intents": {"exact_match": compared}}
    lines = to_text([before_after(make_scores(right=False), make_scores(), changes)]).splitlines()
    assert next(line for line in lines if "exact match" in line).endswith("+1.000 [+0.200, +1.000]")
    assert next(line for line in lines if "partial match" in line).endswith("+1.000")
    assert max(map(len, lines)) <= WIDTH


def test_baselines_stand_below_the_model_with_a_sentence_each():
    scores, worse = make_scores(), make_scores(right=False)
    sentence = "better than tfidf by 1.00 [0.20, 1.00]"
    compared = {"difference": 1.0, "low": 0.2, "high": 1.0, "p_value": 0.01, "sentence": sentence}
    scores["baselines"] = {"tfidf": worse["fields"]}
    scores["comparisons"] = {"tfidf": {"intents": {"exact_match": compared}, "priority": {"accuracy": compared}}}
    text = to_text(score_tables(scores))
    assert text.count(sentence) == 2
    assert "intents: the model against baselines on the same 2 rows" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_before_and_after_compares_a_decoding_that_both_have():
    base = make_scores("free", right=False)
    tuned = {**make_scores(), "decodings": {"free": make_scores("free"), "constrained": make_scores()}}
    assert "free decoding" in to_text([before_after(base, tuned)])


def test_different_decodings_are_said_to_be_different():
    assert "free against constrained" in to_text([before_after(make_scores("free"), make_scores("constrained"))])


def test_of_many_labels_the_commonest_are_shown():
    labels = {f"tag{n}": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": n} for n in range(500)}
    text = to_text([label_table("tags", labels)])
    assert f"the commonest {MAX_LABELS} of 500" in text
    assert "tag499" in text
    assert "tag0 " not in text


@pytest.mark.parametrize("width", [60, 100])
def test_long_labels_are_folded_into_the_width(width):
    labels = {"x" * 150: {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}}
    assert max(map(len, to_text([label_table("tags", labels)], width).splitlines())) <= width


def test_one_row_shows_no_interval():
    scores = make_scores()
    scores["fields"] = {"intents": asdict(label_set_scores([("payment",)], [("payment",)], [False], LABELS))}
    line = next(line for line in to_text(score_tables(scores)).splitlines() if "exact match" in line)
    assert line.endswith("1.000")
