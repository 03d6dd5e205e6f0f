"""The blocks of a report as Markdown that reads well on GitHub: whole reports, and parts of a model card. Knows no run.

markdown_report(report, images=lambda chart: f"figures/{chart.name}.png")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from urllib.parse import quote

from mlxtune.markdown import html_text, markdown_block, markdown_row, markdown_text
from mlxtune.report.blocks import (
    Block,
    Choice,
    Code,
    Facts,
    FieldAnswer,
    Folded,
    Paragraph,
    PredictionRow,
    Predictions,
    Report,
    Table,
    Tiles,
)
from mlxtune.report.charts import Chart
from mlxtune.report.values import clipped, value_text
from mlxtune.report.words import Words

WORST = 10  # predictions that are shown; the page has all
MAX_TEXT = 200  # characters of a cell of predictions
METRIC = re.compile(r"[-+]?\d+\.\d+ \[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]")
Images = Callable[[Chart], str | None]  # a chart -> where its image is, as seen from the Markdown file


def no_images(chart: Chart) -> None:
    """Charts are described in words."""


def markdown_report(report: Report, images: Images = no_images) -> str:
    """A whole report.

    Args:
        report: Its text is anybody's; none of it can end a table or a block.
        images: Where the image of a chart is; one without is described in words.
    """
    parts = [f"# {markdown_text(report.title)}"]
    for section in report.sections:
        parts += [
            f"## {markdown_text(section.title)}",
            *markdown_blocks(section.blocks, Words(report.language), images),
        ]
    return "\n\n".join([*parts, *([f"*{markdown_text(report.made)}*"] if report.made else [])]) + "\n"


def markdown_blocks(blocks: Sequence[Block], say: Words, images: Images = no_images) -> list[str]:
    """Each block as one or several paragraphs of Markdown, between which an empty line belongs."""
    return [part for block in blocks for part in _parts(block, say, images)]


def _parts(block: Block, say: Words, images: Images) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield _line(block.text)
    elif isinstance(block, Code):
        yield markdown_block(block.text, block.language)
    elif isinstance(block, Tiles):
        yield _tiles(block, say)
    elif isinstance(block, Facts):
        yield _table(("", ""), (False, False), block.facts.items())
    elif isinstance(block, Table):
        yield from _titled_table(block)
    elif isinstance(block, Chart):
        yield from _chart(block, images)
    elif isinstance(block, Folded):
        yield f"<details><summary>{html_text(block.title)}</summary>"
        yield from markdown_blocks(block.blocks, say, images)
        yield "</details>"
    elif isinstance(block, Choice):
        for name, option in block.options.items():
            yield f"**{markdown_text(say('list.of', title=block.title, name=name))}**"
            yield from markdown_blocks(option, say, images)
    else:
        yield from _predictions(block, say)


def _line(text: str) -> str:
    """Text as a paragraph: what begins as a list, a heading or a rule begins as text."""
    escaped = markdown_text(text)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escaped)


def _tiles(block: Tiles, say: Words) -> str:
    head = [say(f"markdown.{name}") for name in ("metric", "after", "before", "change")]
    rows = [(tile.title, tile.value, tile.before or "", tile.note) for tile in block.tiles]
    if not any(tile.before or tile.note for tile in block.tiles):
        return _table([head[0], say("markdown.value")], (False, True), [row[:2] for row in rows])
    return _table(head, (False, True, True, False), rows)


def _titled_table(block: Table) -> Iterator[str]:
    if block.title:
        yield f"**{markdown_text(block.title)}**"
    rows = [[cell.text for cell in row] for row in block.rows]
    yield _table([one.title for one in block.columns], [one.numeric for one in block.columns], rows)
    if block.note:
        yield _line(block.note)


def _table(head: Sequence[str], numeric: Sequence[bool], rows: Iterable[Sequence[str]]) -> str:
    lines = [markdown_row(list(map(markdown_text, head))), markdown_row(["---:" if one else "---" for one in numeric])]
    return "\n".join([*lines, *(markdown_row(list(map(_cell, row))) for row in rows)])


def _cell(text: str) -> str:
    """Text in a table; a number with its interval is no link, and reads better as it is."""
    return text if METRIC.fullmatch(text) else markdown_text(text)


def _chart(block: Chart, images: Images) -> Iterator[str]:
    yield f"**{markdown_text(block.title)}**"
    image = images(block)
    yield _line(block.description) if image is None else f"![{markdown_text(block.description)}]({quote(image)})"


# Predictions -------------------------------------------------------------------------------------------------------


def _predictions(block: Predictions, say: Words) -> Iterator[str]:
    """The rows that the last system got most wrong, and where the others are."""
    if not block.rows or not block.systems:
        return
    system = block.systems[-1]
    shown = sorted(block.rows, key=lambda row: (-_wrongness(row, system), row.number))[:WORST]
    yield _line(say("markdown.predictions", shown=len(shown), n=len(block.rows)))
    fields = list(dict.fromkeys(field for row in shown for field in row.answers.get(system, {})))
    head = [say("markdown.row"), say("markdown.input")]
    for field in fields:
        head += [say("markdown.expected", field=field), say("markdown.predicted", field=field)]
    rows = [[row.place, clipped(row.input, MAX_TEXT), *_answers(row, system, fields)] for row in shown]
    yield _table(head, [False] * len(head), rows)


def _wrongness(row: PredictionRow, system: str) -> float:
    """How wrong the answers to a row are: a wrong field counts 1, a text as far as it is from its reference."""
    return sum(_wrong(answer) for answer in row.answers.get(system, {}).values())


def _wrong(answer: FieldAnswer) -> float:
    if answer.right is not None:
        return float(not answer.right)
    return 0.0 if answer.closeness is None else 1.0 - answer.closeness


def _answers(row: PredictionRow, system: str, fields: Sequence[str]) -> Iterator[str]:
    for field in fields:
        answer = row.answers.get(system, {}).get(field)
        for value in (None, None) if answer is None else (answer.expected, answer.predicted):
            yield "" if value is None else clipped(value_text(value), MAX_TEXT)
