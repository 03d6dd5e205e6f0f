"""A report as Markdown: every block is there, and no text can leave its place."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlxtune.report.blocks import (
    Block,
    Cell,
    Choice,
    Code,
    Column,
    Facts,
    FieldAnswer,
    Folded,
    Paragraph,
    PredictionRow,
    Predictions,
    Report,
    Section,
    Table,
    Tile,
    Tiles,
)
from mlxtune.report.charts import Axis, LineChart, Series
from mlxtune.report.markdown_page import WORST, markdown_report
from mlxtune.report.words import LANGUAGES, Words

HOSTILE = "a|b\n\n# c <script>`x`</script> [d](http://e) *f* _g_"
LOSSES = LineChart("losses", "Losses", "From 2 to 1.", Axis("step"), Axis("loss"), [Series("train", [1], [2.0])])


def markdown(*blocks: Block, **options: object) -> str:
    return markdown_report(Report("R", "en", [Section("s", "S", blocks)]), **options)  # type: ignore[arg-type]


def body(*blocks: Block, **options: object) -> str:
    return markdown(*blocks, **options).removeprefix("# R\n\n## S\n\n").removesuffix("\n")


def answer(right: bool | None, closeness: float | None = None) -> FieldAnswer:
    return FieldAnswer("pay", ("pay", "none") if right is not None else None, right, closeness=closeness)


def predictions(answers: Sequence[FieldAnswer]) -> Predictions:
    rows = [
        PredictionRow(n, f"test.jsonl:{n + 1}", f"text {n}", {"tuned": "reply"}, {"tuned": {"intents": one}}, {})
        for n, one in enumerate(answers)
    ]
    return Predictions(["tuned"], {"intents": ["pay"]}, rows)


def test_a_table_is_one_of_github() -> None:
    table = Table(
        "Scores",
        [Column("metric"), Column("value", numeric=True)],
        [[Cell("accuracy"), Cell("0.809 [0.706, 0.897]")], [Cell("a|b"), Cell("")]],
        "Of 68 rows.",
    )
    assert body(table).splitlines() == [
        "**Scores**",
        "",
        "| metric | value |",
        "| --- | ---: |",
        "| accuracy | 0.809 [0.706, 0.897] |",
        "| a\\|b |  |",
        "",
        "Of 68 rows.",
    ]


@pytest.mark.parametrize(
    "block",
    [
        Paragraph(HOSTILE),
        Facts({HOSTILE: HOSTILE}),
        Tiles([Tile(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]),
        Table(HOSTILE, [Column(HOSTILE)], [[Cell(HOSTILE)]], HOSTILE),
        Folded(HOSTILE, [Paragraph(HOSTILE)]),
        Choice(HOSTILE, {HOSTILE: [Paragraph(HOSTILE)]}),
        LineChart("a", HOSTILE, HOSTILE, Axis(HOSTILE), Axis(HOSTILE), []),
        Predictions(
            [HOSTILE],
            {},
            [PredictionRow(0, HOSTILE, HOSTILE, {}, {HOSTILE: {HOSTILE: FieldAnswer(HOSTILE, HOSTILE, False)}}, {})],
        ),
    ],
    ids=lambda block: type(block).__name__,
)
def test_no_text_ends_its_line_its_cell_or_its_block(block: Block) -> None:
    found = body(block)
    if isinstance(block, Folded):  # a line of HTML, in which Markdown is not read
        summary, found = found.split("\n", 1)
        assert summary.count("<") == 3 and "&lt;script&gt;" in summary
    assert "<script" not in found.replace("\\<script", "") and "](http" not in found.replace("\\](http", "")
    widths = [line.replace("\\|", "").count("|") for line in found.splitlines() if line.startswith("|")]
    assert len(set(widths)) <= 1
    assert not any(line.startswith("# ") for line in found.splitlines())


@pytest.mark.parametrize("text", ["- a", "+ b", "1. c", "12) d", "---", "=== e"])
def test_a_paragraph_begins_no_list_and_no_rule(text: str) -> None:
    found = body(Paragraph(text))
    assert "\\" in found and found.replace("\\", "") == text


def test_code_stands_as_it_is() -> None:
    assert body(Code("a\n```\nb", "yaml")) == "````yaml\na\n```\nb\n````"


def test_what_is_folded_is_between_details() -> None:
    assert body(Folded("more & more", [Paragraph("inside")])) == (
        "<details><summary>more &amp; more</summary>\n\ninside\n\n</details>"
    )


def test_a_chart_is_its_image_or_its_words() -> None:
    assert body(LOSSES) == "**Losses**\n\nFrom 2 to 1."
    assert body(LOSSES, images=lambda chart: f"my figures/{chart.name}.svg") == (
        "**Losses**\n\n![From 2 to 1.](my%20figures/losses.svg)"
    )


def test_the_most_wrong_predictions_are_shown_and_the_others_counted() -> None:
    right, wrong = answer(True), answer(False)
    found = body(predictions([right] * 10 + [wrong, right, wrong])).splitlines()
    assert found[0].startswith(f"The {WORST} most wrong of 13 predictions")
    assert [line.split(" | ")[0] for line in found if line.startswith("| test")][:3] == [
        "| test.jsonl:11", "| test.jsonl:13", "| test.jsonl:1",
    ]  # fmt: skip
    assert sum(line.startswith("| test") for line in found) == WORST
    assert found[4] == "| test.jsonl:11 | text 10 | pay | pay, none |"


def test_of_texts_the_farthest_from_their_references_come_first() -> None:
    found = body(predictions([answer(None, 0.9), answer(None, 0.1)])).splitlines()
    assert [line.split(" | ")[0] for line in found if line.startswith("| test")] == ["| test.jsonl:2", "| test.jsonl:1"]


def test_each_version_of_a_choice_is_there() -> None:
    found = body(Choice("compared with", {"a": [Paragraph("one")], "b": [Paragraph("two")]}))
    assert found == "**compared with: a**\n\none\n\n**compared with: b**\n\ntwo"


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_has_its_title_its_sections_and_when_it_was_made(language: str) -> None:
    say = Words(language)
    tiles = Tiles([Tile("accuracy", "0.8", "0.5", "better")])
    report = Report("微调 *1*", language, [Section("a", "One", [tiles]), Section("b", "Two", [])], "today")
    assert markdown_report(report).splitlines() == [
        "# 微调 \\*1\\*", "",
        "## One", "",
        f"| {say('markdown.metric')} | {say('markdown.after')} | {say('markdown.before')} | {say('markdown.change')} |",
        "| --- | ---: | ---: | --- |",
        "| accuracy | 0.8 | 0.5 | better |", "",
        "## Two", "",
        "*today*",
    ]  # fmt: skip
