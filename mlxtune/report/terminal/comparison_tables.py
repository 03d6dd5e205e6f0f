"""Runs side by side for the terminal, for Markdown and for a spreadsheet. Takes a `RunComparison`, computes no figure.

print(to_text(comparison_tables(compared), width))
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtune.evaluation.metrics.registry import metric
from mlxtune.evaluation.review.sheet import safe_cell
from mlxtune.markdown import markdown_row, markdown_text
from mlxtune.report.fact_values import fact_value, setting_value, worth_showing
from mlxtune.report.terminal.cells import cell_text, new_table, titled
from mlxtune.report.values import estimate_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from mlxtune.evaluation.compare.facts import Fact
    from mlxtune.evaluation.compare.metrics import ComparedMetric
    from mlxtune.evaluation.compare.runs import RunComparison
    from mlxtune.evaluation.metrics.paired import Comparison

REAL = ("better", "worse")
MAX_RUNS = 4  # side by side in a terminal; of more, a line is no longer read at one glance
BETWEEN = 3  # characters between two columns of a table
EDGES = 2  # and at its ends
MAX_WORD = 24  # of a run's name or value, where a longer one would cost another run its place
COMFORT = 16  # wide enough for titles and settings of several words
CSV_COLUMNS = (
    "section", "field", "name", "run", "value", "low", "high", "difference", "difference_low", "difference_high", "p_value",
    "mark",
)  # fmt: skip
TITLES = {"adapter bytes": "adapter size"}


def comparison_tables(compared: RunComparison) -> list[RenderableType]:
    """Settings, training, figures, their differences to the first run, cost, and what a reader should know.

    More than `MAX_RUNS` runs, or fewer on a narrow terminal, are shown in blocks one below the other, each with the first run.
    """
    tables: list[RenderableType] = []
    first, *others = compared.names
    if compared.settings:
        tables.append(_fact_table("Settings that differ", compared.names, compared.settings))
    if training := worth_showing(compared.training):
        tables.append(_fact_table("Training", compared.names, training))
    if compared.metrics:
        title = f"{compared.rows} rows; 95% intervals over rows in brackets"
        cells = [[_pieces(estimate_text(value)) for value in one.values] for one in compared.metrics]
        tables.append(_figure_table(title, compared.names, compared.metrics, cells))
        tested = [one for one in compared.metrics if any(one.comparisons)]
        if tested and others:
            cells = [[_difference(one) for one in figure.comparisons[1:]] for figure in tested]
            tables.append(_figure_table(f"Difference to {first}", others, tested, cells, repeat_first=False))
    if compared.cost:
        tables.append(_fact_table("Cost", compared.names, compared.cost))
    return [*tables, *(cell_text(note) for note in compared.notes)]


def as_markdown(compared: RunComparison) -> str:
    """Everything as one table to paste, and the notes below it."""
    lines = [markdown_row(["", *map(markdown_text, compared.names)]), markdown_row(["---"] * (1 + len(compared.names)))]
    blank = [""] * len(compared.names)

    def section(title: str) -> None:
        lines.append(markdown_row([f"**{markdown_text(title)}**", *blank]))

    for title, facts in (("Settings that differ", compared.settings), ("Training", worth_showing(compared.training))):
        if facts:
            section(title)
            lines += [
                markdown_row([*map(markdown_text, [TITLES.get(one.name, one.name), *_shown(one)])]) for one in facts
            ]
    field = None
    for figure in compared.metrics:
        if figure.field != field:
            field = figure.field
            section(f"{field}, {compared.rows} rows")
        cells = [markdown_text(estimate_text(value)) for value in figure.values]
        for position, one in enumerate(figure.comparisons):
            if one is not None and one.mark is not None:
                mark = f"**{one.mark}**" if one.mark in REAL else one.mark
                cells[position] += f"<br>{_signed(one.difference)}: {mark}"
        lines.append(markdown_row([markdown_text(_title(figure.name)), *cells]))
    if compared.cost:
        section("Cost")
        lines += [
            markdown_row([*map(markdown_text, [TITLES.get(one.name, one.name), *_shown(one)])]) for one in compared.cost
        ]
    notes = [f"- {markdown_text(note)}" for note in compared.notes]
    if any(any(figure.comparisons) for figure in compared.metrics):
        notes.insert(0, f"- differences are to {markdown_text(compared.names[0])}; 95% intervals over rows in brackets")
    return "\n".join([*lines, "", *notes]).rstrip()


def as_csv(compared: RunComparison) -> str:
    """Everything, a line a figure and run, for a spreadsheet: text that it would take for a formula begins with '."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(CSV_COLUMNS)
    for section, facts in (
        ("settings", compared.settings),
        ("training", compared.training),
        ("cost", compared.cost),
    ):
        for fact in facts:
            for name, value in zip(compared.names, fact.values, strict=True):
                cell = (
                    value if isinstance(value, (int, float)) and not isinstance(value, bool) else setting_value(value)
                )
                _write(writer, [section, "", fact.name, name, cell])
    for figure in compared.metrics:
        for name, value, one in zip(compared.names, figure.values, figure.comparisons, strict=True):
            got, tested = value.to_json() if value else {}, one.to_marked_json() if one else {}
            _write(
                writer,
                [
                    "figures", figure.field, figure.name, name, *(got.get(key) for key in ("value", "low", "high")),
                    *(tested.get(key) for key in ("difference", "low", "high", "p_value", "mark")),
                ],
            )  # fmt: skip
    for note in compared.notes:
        _write(writer, ["notes", "", note])
    return out.getvalue().rstrip("\r\n")


# Cells -----------------------------------------------------------------------------------------------------------


def _fact_table(title: str, names: Sequence[str], facts: Sequence[Fact]) -> RenderableType:
    heads = [[TITLES.get(fact.name, fact.name).split()] for fact in facts]
    cells = [[value.split() for value in _shown(fact)] for fact in facts]
    return _Blocks(title, [""], heads, list(names), cells, comfort=COMFORT)


def _figure_table(
    title: str,
    names: Sequence[str],
    figures: Sequence[ComparedMetric],
    cells: Sequence[Sequence[Sequence[str]]],
    repeat_first: bool = True,
) -> RenderableType:
    before = [None, *(figure.field for figure in figures)]
    heads = [
        [[] if figure.field == last else figure.field.split(), _title(figure.name).split()]
        for figure, last in zip(figures, before, strict=False)
    ]
    return _Blocks(title, ["field", "metric"], heads, list(names), cells, repeat_first=repeat_first)


@dataclass(frozen=True)
class _Blocks:
    """A table of runs, in as many tables below one another as the width asks for.

    Attributes:
        title: Of each.
        head_titles: Of the columns before the runs'.
        heads: Their cells, row by row; a cell is its pieces, which go onto lines whole. A row whose first cell has any
            begins a part of the table, if there are two such columns.
        names: Of the runs.
        cells: The runs' cells, row by row, as `heads`.
        repeat_first: Whether the first run stands in each table.
        comfort: Width that a run's column has if its content needs it, though its pieces are shorter.
    """

    title: str
    head_titles: Sequence[str]
    heads: Sequence[Sequence[Sequence[str]]]
    names: Sequence[str]
    cells: Sequence[Sequence[Sequence[str]]]
    repeat_first: bool = True
    comfort: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        blocks = self._blocks(options.max_width)
        for position, block in enumerate(blocks):
            if position:
                yield ""
            yield titled(f"{self.title}{', continued' if position else ''}", self._table(block, options.max_width))

    def _blocks(self, width: int) -> list[list[int]]:
        """Which runs stand in each table: as many as fit, at most `MAX_RUNS`."""
        everyone = list(range(len(self.names)))
        blocks = [[run] for run in everyone]
        for n_runs in range(min(MAX_RUNS, len(everyone)), 0, -1):
            first = everyone[:1] if self.repeat_first and n_runs > 1 else []
            step = max(1, MAX_RUNS - 1 if n_runs == MAX_RUNS else n_runs - len(first))
            others = everyone[len(first) :]
            blocks = [[*first, *others[i : i + step]] for i in range(0, len(others), step)] or [first]
            if all(self._least(block, width) <= width for block in blocks):
                break
        return blocks

    def _least(self, block: Sequence[int], width: int) -> int:
        """Characters that a table of these runs cannot do without."""
        columns = [*self._head_widths(width), *(self._run_width(run) for run in block)]
        return _table_width(columns)

    def _head_widths(self, width: int) -> list[int]:
        longest = max(MAX_WORD // 2, width // 4)
        found = []
        for i, title in enumerate(self.head_titles):
            column = [[title], *(row[i] for row in self.heads)]
            found.append(max(min(_longest(column), longest), min(_natural(column), COMFORT)))
        return found

    def _run_width(self, run: int) -> int:
        column = [row[run] for row in self.cells]
        widest = min(_longest([_name_pieces(self.names[run])]), MAX_WORD)
        of_cells = _longest(column) if not self.comfort else min(_longest(column), MAX_WORD)
        return max(widest, of_cells, min(_natural(column), self.comfort))

    def _table(self, block: Sequence[int], width: int) -> Any:
        """One table, each cell in lines of its own making: rich would break words where they do not fit."""
        heads, runs = self._head_widths(width), [self._run_width(run) for run in block]
        columns = [[row[i] for row in self.heads] for i in range(len(heads))]
        natural = [max(_natural([row[run] for row in self.cells]), _width(self.names[run])) for run in block]
        if _table_width([*heads, *natural]) <= width:
            runs = natural
        for i in range(len(heads) - 1, -1, -1):  # the rest of the width goes to titles first
            left = max(0, width - _table_width([*heads, *runs]))
            heads[i] += max(0, min(left, _natural(columns[i]) - heads[i]))
        for i, wanted in enumerate(natural):
            left = max(0, width - _table_width([*heads, *runs]))
            runs[i] += max(0, min(left // (len(runs) - i), wanted - runs[i]))
        table = new_table("")
        table.columns.clear()
        for title in self.head_titles:
            table.add_column(title, no_wrap=True)
        for run, of_run in zip(block, runs, strict=True):
            name = _on_lines(_name_pieces(self.names[run]), of_run, "")
            table.add_column(name, justify="right", no_wrap=True)
        for row, (titles, cells) in enumerate(zip(self.heads, self.cells, strict=True)):
            if row and len(titles) > 1 and titles[0]:
                table.add_section()
            shown = [_on_lines(pieces, of_head) for pieces, of_head in zip(titles, heads, strict=True)]
            values = [_on_lines(cells[run], of_run) for run, of_run in zip(block, runs, strict=True)]
            table.add_row(*shown, *values)
        return table


def _on_lines(pieces: Sequence[str], width: int, between: str = " ") -> Any:
    """Text of pieces, each whole on its line; one that is wider than a line is cut, there is no other way."""
    from rich.cells import chop_cells
    from rich.text import Text

    lines: list[str] = []
    for piece in map(_plain_text, pieces):
        parts = chop_cells(piece, width) if _width(piece) > width else [piece]
        if lines and len(parts) == 1 and _width(lines[-1] + between + piece) <= width:
            lines[-1] += between + piece
        else:
            lines += parts
    return Text("\n").join(map(cell_text, lines))


def _table_width(columns: Sequence[int]) -> int:
    return sum(columns) + BETWEEN * (len(columns) - 1) + EDGES


def _plain_text(text: str) -> str:
    return str(cell_text(text).plain)


def _width(text: str) -> int:
    """Characters of a terminal that a text takes; some letters take two."""
    from rich.cells import cell_len

    return cell_len(_plain_text(text))


def _longest(cells: Sequence[Sequence[str]]) -> int:
    """Width of the widest piece."""
    return max((_width(piece) for pieces in cells for piece in pieces), default=0)


def _natural(cells: Sequence[Sequence[str]]) -> int:
    """Width in which no cell takes a second line."""
    return max((_width(" ".join(pieces)) for pieces in cells), default=0)


def _name_pieces(name: str) -> list[str]:
    """A run's name with the places where it may be wrapped: after _ and /, and after - in parts that are still long."""
    pieces = re.findall(r"[^_/]*[_/]+|[^_/]+", name)
    return [
        part
        for piece in pieces
        for part in (re.findall(r"[^-]*-+|[^-]+", piece) if _width(piece) > MAX_WORD else [piece])
    ]


def _pieces(estimate: str) -> list[str]:
    """An estimate and its interval."""
    value, bracket, interval = estimate.partition(" [")
    return [value, f"[{interval}"] if bracket else [value]


def _shown(fact: Fact) -> list[str]:
    """The values of a fact as a reader reads them; '-' where there is none."""
    return ["-" if value is None else fact_value(fact.name, value) for value in fact.values]


def _title(name: str) -> str:
    """A figure's name for readers: 'exact match', 'recall of low', 'when right, ROUGE-L', 'rows with ROUGE-L >0.5'."""
    first, _, rest = name.partition(".")
    if first == "recall" and rest:
        return f"recall of {rest}"
    if first == "by_count" and rest:
        count, _, figure = rest.partition(".")
        return f"{_title(figure)}, {count} {'label' if count == '1' else 'labels'}"
    if first == "buckets" and rest:  # which have dots of their own
        return f"rows with ROUGE-L {rest.removesuffix('.share')}"
    return ", ".join(metric(part).title for part in name.split("."))


def _difference(one: Comparison | None) -> list[str]:
    """['+0.120 [+0.030, +0.210]', 'better']."""
    if one is None:
        return []
    interval = "" if one.low is None or one.high is None else f" [{_signed(one.low)}, {_signed(one.high)}]"
    return [f"{_signed(one.difference)}{interval}", *([one.mark] if one.mark else [])]


def _signed(value: float) -> str:
    return f"{value:+.3f}" if round(value, 3) else "0.000"


def _write(writer: Any, cells: Sequence[Any]) -> None:
    """A row of equal length, its text safe in a spreadsheet; numbers stay numbers."""
    padded = [*cells, *[None] * (len(CSV_COLUMNS) - len(cells))]
    writer.writerow(["" if cell is None else safe_cell(cell) if isinstance(cell, str) else cell for cell in padded])
