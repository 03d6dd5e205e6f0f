"""Tables of scores: they fit, carry no escape codes when piped, and show labels as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.labels import LabelScore, label_scores, label_set_scores
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.texts import TextScores, text_scores
from mlxtune.evaluation.results import Against, BaselineResult, DecodingResult, EvaluationResult, Speed
from mlxtune.report.terminal.tables import (
    MAX_LABELS,
    WIDTH,
    before_after,
    confusion_tables,
    label_table,
    score_tables,
    to_text,
)

LABELS = ["payment", "[bold]notification[/bold]", "库存查询"]


BETTER = Comparison(1.0, 0.2, 1.0, 0.01, "better", "tfidf")


def decoded(decoding: str = "constrained", right: bool = True) -> DecodingResult:
    expected = [(LABELS[0],), (LABELS[1], LABELS[2])]
    sets = label_set_scores(expected, expected if right else [None, None], [False] * 2, LABELS)
    single = label_scores(["high", "low"], ["high", "high"], [False] * 2, ["high", "low"])
    fields: dict[str, Scores] = {"intents": sets, "priority": single}
    return DecodingResult(2, decoding, {}, fields, ("a [note]",), speed=Speed(0.5, 2.0, 9.0))


def make_result(decoding: str = "constrained", right: bool = True) -> EvaluationResult:
    return EvaluationResult(decoded(decoding, right))


def of_replies(result: DecodingResult, value: float) -> DecodingResult:
    """The same with this share of replies that are all right."""
    return replace(result, replies={"all_fields_correct": Estimate(value, 0.0, 1.0)})


def test_tables_fit_and_are_plain_text():
    text = to_text(score_tables(make_result()))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text


def test_tables_have_color_only_when_asked():
    assert "\x1b" in to_text(score_tables(make_result()), color=True)


def test_labels_and_notes_are_no_markup():
    text = to_text(score_tables(make_result()))
    assert "[bold]notification[/bold]" in text
    assert "a [note]" in text


def test_labels_of_an_open_set_command_no_terminal():
    labels = {"\x1b[2Jgone": LabelScore(0.0, 0.0, 0.0, 1)}
    assert "\x1b" not in to_text([label_table("tags", labels)])


def without_rules(text: str) -> str:
    return "".join(line + "\n" for line in text.splitlines() if not line.startswith(" \u2500"))


def test_every_part_of_the_scores_is_shown():
    assert without_rules(to_text(score_tables(make_result()))) == OF_LABELS


OF_LABELS = """\
2 rows; 95% intervals over rows in brackets

 field      metric                   constrained
 intents    exact match     1.000 [0.342, 1.000]
            partial match   1.000 [0.342, 1.000]
            micro F1        1.000 [0.342, 1.000]
            macro F1        1.000 [0.342, 1.000]
            sample F1       1.000 [0.342, 1.000]
            invalid         0.000 [0.000, 0.658]
            repeated        0.000 [0.000, 0.658]

 priority   accuracy        0.500 [0.000, 1.000]
            macro F1        0.333 [0.000, 1.000]
            invalid         0.000 [0.000, 0.658]
            repeated        0.000 [0.000, 0.658]

intents: by label

 label                       precision   recall      F1   support
 payment                         1.000    1.000   1.000         1
 [bold]notification[/bold]       1.000    1.000   1.000         1
 库存查询                        1.000    1.000   1.000         1

intents: by number of expected labels

 labels   rows   exact match
 1           1         1.000
 2           1         1.000

priority: by label

 label   precision   recall      F1   support
 high        0.500    1.000   0.667         1
 low         0.000    0.000   0.000         1

priority: rows by expected (down) and predicted (across) label

        high   low   invalid
 high      1     0         0
 low       1     0         0

priority: the same in percent of the rows that expect each label

          high    low   invalid
 high   100.0%   0.0%      0.0%
 low    100.0%   0.0%      0.0%

a [note]

constrained: 0.500 s a row, 2.00 rows/s, 9.0 tokens/s
"""


QUEUES = [
    "Technical Support", "Product Support", "Customer Service", "IT Support", "Billing and Payments",
    "Returns and Exchanges", "Service Outages and Maintenance", "Sales and Pre-Sales",
]  # fmt: skip


def test_confusion_is_shown_in_rows_and_in_percent_of_each_label() -> None:
    expected = ["high"] * 82 + ["low"]
    predicted = ["high"] * 51 + ["medium"] * 24 + ["low"] * 6 + [None] + ["low"]
    confusion = label_scores(expected, predicted, [False] * 83, ["high", "medium", "low"]).confusion
    assert confusion is not None
    counts, percents = (to_text([table]) for table in confusion_tables("priority", confusion))
    assert "high       51       24     6         1" in counts and "priority: rows by expected" in counts
    assert "high     62.2%    29.3%     7.3%      1.2%" in percents and "percent" in percents
    assert "medium    0.0%     0.0%     0.0%      0.0%" in percents


def test_eight_queues_with_long_names_are_numbered_and_fit() -> None:
    confusion = label_scores(QUEUES, QUEUES, [False] * 8, QUEUES).confusion
    assert confusion is not None
    confusion = replace(confusion, counts=[[1000 * n for n in row] for row in confusion.counts])
    counts, percents = (to_text([table]) for table in confusion_tables("queue", confusion))
    for text, cell in ((counts, "1000"), (percents, "100.0")):
        line = next(line for line in text.splitlines() if "Maintenance" in line)
        assert line.split()[:5] == ["7", "Service", "Outages", "and", "Maintenance"] and line.count(cell) == 1
        assert max(map(len, text.splitlines())) <= WIDTH and len(text.splitlines()) == 12  # no line is folded


def test_recalls_have_their_intervals() -> None:
    single = label_scores(["high", "high", "high", "low"], ["high", "low", "high", "low"], [False] * 4, ["high", "low"])
    low, high = single.labels["high"].recall_interval or (0, 0)
    text = to_text([label_table("priority", single.labels)])
    assert f"0.667 [{low:.3f}, {high:.3f}]" in text


def text_field(labels_right: list[bool] | None = None) -> TextScores:
    expected = ["Dear <name>, we will help you today."] * 3
    return text_scores(expected, ["Dear <name>, we will help you.", "Call [Name].", None], labels_right)


def test_every_metric_of_a_text_is_shown() -> None:
    result = EvaluationResult(DecodingResult(3, "free", {}, {"response": text_field([True, False, False])}))
    assert without_rules(to_text(score_tables(result))) == OF_A_TEXT


OF_A_TEXT = """\
3 rows; 95% intervals over rows in brackets

 field      metric                                  free
 response   ROUGE-1                 0.382 [0.000, 0.923]
            ROUGE-2                 0.303 [0.000, 0.909]
            ROUGE-L                 0.382 [0.000, 0.923]
            BLEU                    0.199 [0.000, 0.818]
            chrF                    0.323 [0.000, 0.816]
            length ratio            0.381 [0.000, 0.857]
            placeholders kept       0.333 [0.000, 1.000]
            placeholders invented   0.333 [0.000, 1.000]
            invalid                 0.333 [0.000, 1.000]

response: rows by ROUGE-L

 ROUGE-L   rows                  share
 >0.5         1   0.333 [0.000, 1.000]
 0.3-0.5      0   0.000 [0.000, 0.561]
 <0.3         2   0.667 [0.000, 1.000]

response: with every label of a closed list right, and without

 metric    labels right: 1 rows   labels wrong: 2 rows
 ROUGE-1                  0.923   0.111 [0.000, 0.222]
 ROUGE-2                  0.909   0.000 [0.000, 0.658]
 ROUGE-L                  0.923   0.111 [0.000, 0.222]
 BLEU                     0.818   0.004 [0.000, 0.019]
 chrF                     0.816   0.037 [0.000, 0.071]
"""


def test_whole_replies_are_shown_last_and_beside_texts_everything_fits() -> None:
    fields = {**decoded().fields, "response": text_field([True, False, False])}
    replies = {"all_fields_correct": Estimate(0.25, 0.0, 0.5)}
    text = to_text(score_tables(EvaluationResult(replace(decoded(), fields=fields, replies=replies))))
    (table, _) = text.split("intents: by label")
    assert table.rstrip().splitlines()[-1].split() == [
        "(reply)",
        "all",
        "fields",
        "right",
        "0.250",
        "[0.000,",
        "0.500]",
    ]
    assert max(map(len, text.splitlines())) <= WIDTH


def test_texts_stand_beside_their_baselines_by_rouge_l() -> None:
    compared = Comparison(0.1, -0.1, 0.2, 0.4, "no real difference", "zero_shot")
    baseline = BaselineResult({"response": text_field()}, Against({"response": {"rougeL": compared}}))
    top = DecodingResult(3, "constrained", {}, {"response": text_field()})
    text = to_text(score_tables(EvaluationResult(top, baselines={"zero_shot": baseline})))
    assert "the model, by ROUGE-L" in text and "BLEU" in text and "no real difference from zero_shot" in text


def test_before_and_after_shows_whole_replies_with_the_interval_of_their_change() -> None:
    before = EvaluationResult(of_replies(decoded(right=False), 0.25))
    after = EvaluationResult(of_replies(decoded(), 0.75))
    change = Against(replies={"all_fields_correct": Comparison(0.5, 0.125, 0.625, 0.01, "better", "before")})
    assert "+0.500 [+0.125, +0.625]" in to_text([before_after(before, after, change)])


def test_both_decodings_stand_side_by_side():
    both = {"free": decoded("free", right=False), "constrained": decoded()}
    result = EvaluationResult(decoded(), decodings=both)
    line = next(line for line in to_text(score_tables(result)).splitlines() if "exact match" in line)
    figures = line.split("match")[1].split()
    assert figures[0] == "0.000" and figures[1] == "[0.000," and figures[3] == "1.000" and figures[5] == "1.000]"


def test_before_and_after_shows_the_change():
    text = to_text([before_after(make_result(right=False), make_result())])
    line = next(line for line in text.splitlines() if "exact match" in line)
    assert line.endswith("+1.000")
    assert "2 rows, constrained decoding" in text


def test_a_change_has_its_interval_where_the_rows_were_compared():
    changes = Against({"intents": {"exact_match": BETTER}})
    lines = to_text([before_after(make_result(right=False), make_result(), changes)]).splitlines()
    assert next(line for line in lines if "exact match" in line).endswith("+1.000 [+0.200, +1.000]")
    assert next(line for line in lines if "partial match" in line).endswith("+1.000")
    assert max(map(len, lines)) <= WIDTH


def test_baselines_stand_below_the_model_with_a_sentence_each():
    against = Against({"intents": {"exact_match": BETTER}, "priority": {"accuracy": BETTER}})
    baselines = {"tfidf": BaselineResult(decoded(right=False).fields, against)}
    text = to_text(score_tables(EvaluationResult(decoded(), baselines=baselines)))
    assert text.count("better than tfidf by 1.00 [0.20, 1.00]") == 2
    assert "intents: the model against baselines on the same 2 rows" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_before_and_after_compares_a_decoding_that_both_have():
    tuned = EvaluationResult(decoded(), decodings={"free": decoded("free"), "constrained": decoded()})
    assert "free decoding" in to_text([before_after(make_result("free", right=False), tuned)])


def test_different_decodings_are_said_to_be_different():
    assert "free against constrained" in to_text([before_after(make_result("free"), make_result("constrained"))])


def test_of_many_labels_the_commonest_are_shown():
    labels = {f"tag{n}": LabelScore(0.0, 0.0, 0.0, n) for n in range(500)}
    text = to_text([label_table("tags", labels)])
    assert f"the commonest {MAX_LABELS} of 500" in text
    assert "tag499" in text
    assert "tag0 " not in text


@pytest.mark.parametrize("width", [60, 100])
def test_long_labels_are_folded_into_the_width(width):
    labels = {"x" * 150: LabelScore(0.0, 0.0, 0.0, 1)}
    assert max(map(len, to_text([label_table("tags", labels)], width).splitlines())) <= width


def test_one_row_shows_no_interval():
    fields = {"intents": label_set_scores([("payment",)], [("payment",)], [False], LABELS)}
    result = EvaluationResult(DecodingResult(1, "free", {}, fields))
    line = next(line for line in to_text(score_tables(result)).splitlines() if "exact match" in line)
    assert line.endswith("1.000")
