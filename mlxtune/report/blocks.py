"""What a report is made of: sections of blocks, as values. Knows no run, no HTML, no Markdown, no colour.

A section is built once; the page, the Markdown file and the figures show the same blocks. All text is plain: whoever writes it
escapes it, since labels, rows and replies may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlxtune.report.charts import Chart

# What a reader should make of a value. Never told by colour alone: the text says it too.
Tone = Literal["good", "bad", "warning", "neutral"]


@dataclass(frozen=True)
class Paragraph:
    """A sentence or several."""

    text: str
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Code:
    """Text to be copied as it stands: a command, a recipe."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Tile:
    """One headline value.

    Attributes:
        title: Of the metric.
        value: After tuning, with its interval.
        before: Before tuning, with its interval; None where it is not known.
        note: What the change means, in a sentence.
        tone: Of the change.
    """

    title: str
    value: str
    before: str | None = None
    note: str = ""
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Tiles:
    """Headline values beside one another."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Facts:
    """Names and their values, one below the other: settings, versions, hashes."""

    facts: Mapping[str, str]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        tone: What to make of it.
        share: 0..1, drawn as a bar behind the text or as the darkness of a heat map's cell; None draws nothing.
    """

    text: str
    tone: Tone = "neutral"
    share: float | None = None


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading, and whether its cells are numbers, which stand on the right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Its caption.
        columns: The first one's cells are the headings of the rows.
        rows: As many cells as there are columns, each.
        note: Below it: what is left out, how it was counted.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Folded:
    """Blocks that a reader opens."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Choice:
    """Several versions of the same content, of which one is shown: compared with this run, or with that one.

    Attributes:
        title: What is chosen.
        options: Name -> blocks, the first shown first.
    """

    title: str
    options: Mapping[str, Sequence[Block]]


@dataclass(frozen=True)
class FieldAnswer:
    """One field of one prediction.

    Attributes:
        expected: The reference; the labels of a set as a tuple.
        predicted: What the reply was read as; None where it holds no such value.
        right: Whether it is the reference; None of texts, which are neither right nor wrong.
        probability: Of the predicted value; None where it is not known.
        bucket: Of its ROUGE-L; None of labels.
        closeness: Its ROUGE-L, 0..1; None of labels.
    """

    expected: str | tuple[str, ...]
    predicted: str | tuple[str, ...] | None
    right: bool | None
    probability: float | None = None
    bucket: str | None = None
    closeness: float | None = None


@dataclass(frozen=True)
class PredictionRow:
    """One row and what one or several systems replied.

    Attributes:
        number: Of the row among the test rows, from 0.
        place: File and line.
        input: The row's text.
        replies: System -> its raw reply.
        answers: System -> field -> what was read from it.
        problems: System -> why its reply could not be read; only those that could not.
    """

    number: int
    place: str
    input: str
    replies: Mapping[str, str]
    answers: Mapping[str, Mapping[str, FieldAnswer]]
    problems: Mapping[str, str]


@dataclass(frozen=True)
class Predictions:
    """Every prediction, to be searched, filtered and sorted.

    Attributes:
        systems: Names of those that replied; the last one is the run whose report this is.
        labels: Field -> its labels, to filter by; the fields with texts have none.
        rows: In the order of the test rows.
    """

    systems: Sequence[str]
    labels: Mapping[str, Sequence[str]]
    rows: Sequence[PredictionRow]


Block = Paragraph | Code | Tiles | Facts | Table | Chart | Folded | Choice | Predictions


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: Stands in links to it: "losses".
        title: Its heading.
        blocks: Its content.
    """

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: Of the page.
        language: "en" or "zh".
        sections: In their order.
        made: When and by which version, a line.
    """

    title: str
    language: str
    sections: Sequence[Section]
    made: str = ""


def charts(blocks: Sequence[Block]) -> Iterator[Chart]:
    """The charts in some blocks, those that are folded or one of several versions included."""
    for block in blocks:
        if isinstance(block, Chart):
            yield block
        elif isinstance(block, Folded):
            yield from charts(block.blocks)
        elif isinstance(block, Choice):
            for option in block.options.values():
                yield from charts(option)
