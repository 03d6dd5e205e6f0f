"""A judge's and people's ratings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from mlxtune.evaluation.judge.ratings import Ratings
from mlxtune.evaluation.review.human_evaluation import HumanEvaluation
from mlxtune.report.sections.judge import judge_section
from mlxtune.report.sections.people import people_section
from mlxtune.report.values import estimate_text
from mlxtune.report.words import Words
from tests.report.sections.made import GOLDEN, blocks_of, table, texts

EN, ZH = Words("en"), Words("zh")


def stored(language, name):
    file = GOLDEN / language / "expected" / "runs_side_by_side" / name
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_judges_means_are_those_of_the_ratings(language):
    ratings = Ratings.from_json(stored(language, "judge.json"))
    rows = table(judge_section(ratings, EN), "Mean ratings").rows
    means: Mapping[str, Any] = ratings.fields["response"]
    assert [cells[1].text for cells in rows] == list(means)
    for cells, mean in zip(rows, means.values(), strict=True):
        assert cells[2].text == f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]"
        assert cells[2].share == pytest.approx((mean.value - 1) / 4)
    assert f"{ratings.counts['judged']} given" in texts(judge_section(ratings, EN))
    assert "平均评分" in texts(judge_section(ratings, ZH))


def test_a_judge_that_rated_nothing_is_shown_without_numbers():
    ratings = Ratings.from_json(stored("en", "judge.json"))
    nothing = replace(
        ratings,
        rows=1,
        counts={**dict.fromkeys(ratings.counts, 0), "failed": 1},
        fields={"response": dict.fromkeys(ratings.fields["response"])},
        agreement={"response": {"rougeL": None}},
    )
    section = judge_section(nothing, EN)
    assert [cells[2].text for cells in table(section, "Mean ratings").rows] == ["nothing judged"] * 4
    assert "the replies to 1 row with" in texts(section) and "1 failed" in texts(section)
    assert judge_section(None, EN) is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_peoples_means_and_agreement_are_those_of_the_sheets(language):
    found = HumanEvaluation.from_json(stored(language, "human_eval.json"))
    section = people_section(found, EN)
    rows = {cells[0].text: cells for cells in table(section, "Mean ratings, 1 to 5").rows}
    assert set(rows) == {name for name, one in found.runs[0].dimensions.items() if one.scores}
    for name, cells in rows.items():
        for cell, run in zip(cells[1:], found.runs, strict=False):
            assert cell.text == estimate_text(run.dimensions[name].mean, 2)
    agreement = {cells[0].text: cells for cells in table(section, "Whether the raters agree").rows}
    for name, cells in agreement.items():
        assert cells[2].text == estimate_text((found.agreement or {})[name].alpha_ordinal)
    assert f"2 people rated {found.rated} of {found.cases} cases" in texts(section)


def test_of_one_run_each_score_is_counted_and_one_rater_cannot_agree():
    found = HumanEvaluation.from_json(stored("en", "human_eval.json"))
    alone = replace(found, runs=found.runs[:1], raters=found.raters[:1], agreement=None, differences=(), field=None)
    section = people_section(alone, EN)
    means = table(section, "Mean ratings, 1 to 5")
    assert [column.title for column in means.columns][-5:] == ["1", "2", "3", "4", "5"]
    overall = next(cells for cells in means.rows if cells[0].text == "overall")
    assert sum(int(cell.text) for cell in overall[-5:]) == found.runs[0].dimensions["overall"].scores
    assert "1 person rated" in texts(section) and "the whole reply" in texts(section)
    assert "two or more must rate the same cases" in texts(section)


def test_people_are_said_in_chinese():
    section = people_section(HumanEvaluation.from_json(stored("zh", "human_eval.json")), ZH)
    titles = [block.title for block in blocks_of(section) if hasattr(block, "title")]
    assert all(any("\u4e00" <= character <= "\u9fff" for character in title) for title in titles)
    assert people_section(None, ZH) is None
