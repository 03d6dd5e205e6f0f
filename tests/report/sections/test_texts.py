from __future__ import annotations

from dataclasses import replace

import pytest
from rouge_score.rouge_scorer import RougeScorer

from mlxtune.evaluation.metrics.texts import text_scores
from mlxtune.report.blocks import Facts, Folded, Paragraph
from mlxtune.report.charts import BarChart
from mlxtune.report.sections.field_results import FieldResults
from mlxtune.report.sections.fields import field_sections
from mlxtune.report.sections.texts import MAX_CASES, text_section
from mlxtune.report.words import Words
from tests.report.sections.made import blocks_of, column_of, contents_of, one, scores_of, section_of, table, texts

EN = Words("en")


def response(language="en", name="tuned", base=None, say=EN):
    return section_of(field_sections(contents_of(language, "given_replies", name), base, say), "response")


def written(expected, predicted, labels_right=None):
    """The section of some texts."""
    scores = text_scores(expected, predicted, labels_right)
    return text_section(FieldResults("response", len(expected), scores), None, EN)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_metrics_buckets_and_conditions_are_those_of_the_scores(language):
    scores = scores_of(contents_of(language, "given_replies", "tuned"), "response")
    section = response(language)
    shown = {row[0].text: row[1].text for row in table(section, "Metrics").rows}
    for name, title in (("rougeL", "ROUGE-L"), ("bleu", "BLEU"), ("chrf", "chrF"), ("length_ratio", "length ratio")):
        found = scores[name]
        assert shown[title] == f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    chart = one(section, BarChart)
    assert list(chart.groups[0].values) == [bucket.share.value for bucket in scores.buckets.values()]
    assert [text.split(" ")[0] for text in chart.texts] == [str(bucket.rows) for bucket in scores.buckets.values()]
    conditions = table(section, "Where the labels are right, and where they are not")
    assert [cell.text for cell in conditions.rows[0][1:]] == [str(scores.when_right.rows), str(scores.when_wrong.rows)]
    rouge = next(row for row in conditions.rows if row[0].text == "ROUGE-L")
    assert [cell.share for cell in rouge[1:]] == [scores.when_right["rougeL"].value, scores.when_wrong["rougeL"].value]


def test_before_tuning_stands_beside_it_in_the_same_chart():
    base = contents_of("en", "given_replies", "base")
    chart = one(response(base=base), BarChart)
    buckets = scores_of(base, "response").buckets
    assert [group.name for group in chart.groups] == ["after tuning", "before tuning"]
    assert list(chart.groups[1].values) == [bucket.share.value for bucket in buckets.values()]


def test_cases_are_the_best_middle_and_worst_by_rouge_l():
    contents = contents_of("en", "given_replies", "tuned")
    column = column_of(contents, "response")
    scorer = RougeScorer(["rougeL"])
    wanted = sorted(
        scorer.score(right, said or "")["rougeL"].fmeasure
        for right, said in zip(column.expected, column.predicted, strict=True)
    )
    folded = {block.title: block for block in response().blocks if isinstance(block, Folded)}
    found = {}
    for title in ("The best replies", "Average replies", "The worst replies"):
        said = [block.text for block in folded[title].blocks if isinstance(block, Paragraph)]
        found[title] = [float(text.split("ROUGE-L ")[1].split(". ")[0].rstrip(".")) for text in said]
        assert len(found[title]) == MAX_CASES
    assert found["The best replies"] == pytest.approx(wanted[::-1][:MAX_CASES], abs=5e-4)
    assert found["The worst replies"] == pytest.approx(wanted[:MAX_CASES], abs=5e-4)
    facts = [block for block in folded["The best replies"].blocks if isinstance(block, Facts)]
    assert all(list(one.facts) == ["input", "reference", "reply"] for one in facts)


def test_a_reply_that_could_not_be_read_is_shown_whole():
    said = texts(response())
    assert "reply, which could not be read" in said
    assert "Wrong: type (nothing, expected Incident)" in said


def test_lengths_and_placeholders_are_sentences_that_fit_the_numbers():
    longer = written(["Call us."], ["Please call us, <name>, as soon as you can."])
    assert "Replies are longer than their references: 4.50 times as many words." in texts(longer)
    assert "100.0% of the replies have a placeholder that their reference does not have." in texts(longer)
    shorter = written(["Dear <name>, please call us.", "Dear <name>, write."], ["Dear <name>", None])
    assert "Replies are shorter than their references" in texts(shorter)
    assert "Of the placeholders in the references, such as <name>, 50.0% are in the replies." in texts(shorter)
    assert "No reply has a placeholder" in texts(shorter)
    assert "50.0% of the replies have no text that can be read" in texts(shorter)
    same = written(["one two three"], ["one two four"])
    assert "about as long" in texts(same) and "placeholder" not in texts(same).split("Metrics")[0]


def test_empty_references_and_one_side_without_rows_are_shown():
    section = written(["", ""], ["", None], [True, True])
    conditions = table(section, "Where the labels are right, and where they are not")
    assert [cell.text for cell in conditions.rows[0]] == ["rows", "2", "0"]
    assert all(row[2].text == "" for row in conditions.rows[1:])


def test_a_section_without_predictions_has_no_cases():
    contents = contents_of("en", "given_replies", "tuned")
    section = section_of(field_sections(replace(contents, predictions=()), None, EN), "response")
    assert [block.title for block in section.blocks if isinstance(block, Folded)] == ["How these were computed"]
    assert [block for block in blocks_of(section) if isinstance(block, BarChart)]


def test_every_field_is_said_in_chinese():
    base = contents_of("zh", "given_replies", "base")
    for section in field_sections(contents_of("zh", "given_replies", "tuned"), base, Words("zh")):
        assert section.title == f"字段 {section.name.removeprefix('field-')}"
        titles = [block.title for block in blocks_of(section) if hasattr(block, "title")]
        assert titles and all(
            any("\u4e00" <= character <= "\u9fff" or title.startswith("ROUGE-L") for character in title)
            for title in titles
        )
