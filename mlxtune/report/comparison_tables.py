"""Runs side by side for the terminal, for Markdown and for a spreadsheet. Takes a `RunComparison`, computes no figure.

print(to_text(comparison_tables(compared), width))
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlxtune.evaluation.sheet import safe_cell
from mlxtune.report.run_table import size_text
from mlxtune.report.tables import HEADLINES, _estimate, _table, _text, _titled

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlxtune.evaluation.run_comparison import Fact, Figure, RunComparison

MAX_SETTING_CHARS = 60  # of a value in a cell: a system prompt is long
REAL = ("better", "worse")
CSV_COLUMNS = (
    "section", "field", "name", "run", "value", "low", "high", "difference", "difference_low", "difference_high", "p_value",
    "mark",
)  # fmt: skip
# How a fact is shown; others as the recipe's YAML has them.
FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("steps", "steps planned", "adapter of step", "best step", "trainable parameters"), "{:,}".format),
    **dict.fromkeys(("train loss", "valid loss", "best value"), "{:.4f}".format),
    **dict.fromkeys(("valid/train", "valid/train at the end"), "{:.2f}".format),
    "training seconds": "{:,.0f}".format,
    "training tokens/s": "{:,.0f}".format,
    "training peak memory, GB": "{:.2f}".format,
    "evaluation peak memory, GB": "{:.2f}".format,
    "evaluation seconds a row": "{:.3f}".format,
    "adapter bytes": size_text,
}
TITLES = {"adapter bytes": "adapter size"}
# A line that says what another one says is left out of tables; --json and --csv have it.
SAYS_NO_MORE_THAN = {"steps planned": "steps", "valid/train at the end": "valid/train", "adapter of step": "steps"}


def comparison_tables(compared: RunComparison) -> list[RenderableType]:
    """Settings, training, figures, their differences to the first run, cost, and what a reader should know."""
    tables = []
    first, *others = compared.names
    if compared.settings:
        tables.append(_fact_table("Settings that differ", compared.names, compared.settings))
    if training := _worth_showing(compared.training):
        tables.append(_fact_table("Training", compared.names, training))
    if compared.figures:
        title = f"{compared.rows} rows; 95% intervals over rows in brackets"
        cells = [[_estimate(value) for value in one.values] for one in compared.figures]
        tables.append(_figure_table(title, compared.names, compared.figures, cells))
        tested = [one for one in compared.figures if any(one.comparisons)]
        if tested and others:
            cells = [[_difference(one) for one in figure.comparisons[1:]] for figure in tested]
            tables.append(_figure_table(f"Difference to {first}", others, tested, cells))
    if compared.cost:
        tables.append(_fact_table("Cost", compared.names, compared.cost))
    return [*tables, *(_text(note) for note in compared.notes)]


def as_markdown(compared: RunComparison) -> str:
    """Everything as one table to paste, and the notes below it."""
    lines = [_row(["", *compared.names]), _row(["---"] * (1 + len(compared.names)), escape=False)]
    blank = [""] * len(compared.names)

    def section(title: str) -> None:
        lines.append(_row([f"**{_escaped(title)}**", *blank], escape=False))

    for title, facts in (("Settings that differ", compared.settings), ("Training", _worth_showing(compared.training))):
        if facts:
            section(title)
            lines += [_row([TITLES.get(one.name, one.name), *_shown(one)]) for one in facts]
    field = None
    for figure in compared.figures:
        if figure.field != field:
            field = figure.field
            section(f"{field}, {compared.rows} rows")
        cells = [_escaped(_estimate(value)) for value in figure.values]
        for position, one in enumerate(figure.comparisons):
            if one is not None and one["mark"] is not None:
                mark = f"**{one['mark']}**" if one["mark"] in REAL else one["mark"]
                cells[position] += f"<br>{_signed(one['difference'])}: {mark}"
        lines.append(_row([_escaped(_title(figure.name)), *cells], escape=False))
    if compared.cost:
        section("Cost")
        lines += [_row([TITLES.get(one.name, one.name), *_shown(one)]) for one in compared.cost]
    notes = [f"- {_escaped(note)}" for note in compared.notes]
    if any(any(figure.comparisons) for figure in compared.figures):
        notes.insert(0, f"- differences are to {_escaped(compared.names[0])}; 95% intervals over rows in brackets")
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
                cell = value if isinstance(value, (int, float)) and not isinstance(value, bool) else _plain(value)
                _write(writer, [section, "", fact.name, name, cell])
    for figure in compared.figures:
        for name, value, one in zip(compared.names, figure.values, figure.comparisons, strict=True):
            got, tested = value or {}, one or {}
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
    table = _table("")
    for name in names:
        table.add_column(_text(name), justify="right", overflow="fold")
    for fact in facts:
        table.add_row(_text(TITLES.get(fact.name, fact.name)), *map(_text, _shown(fact)))
    return _titled(title, table)


def _figure_table(
    title: str, names: Sequence[str], figures: Sequence[Figure], cells: Sequence[Sequence[str]]
) -> RenderableType:
    table = _table("field", "figure")
    for name in names:
        table.add_column(_text(name), justify="right", overflow="fold")
    field = None
    for figure, row in zip(figures, cells, strict=True):
        if field not in (None, figure.field):
            table.add_section()
        table.add_row(_text("" if figure.field == field else figure.field), _text(_title(figure.name)), *row)
        field = figure.field
    return _titled(title, table)


def _worth_showing(facts: Sequence[Fact]) -> list[Fact]:
    """Without the lines that repeat another one."""
    values = {fact.name: fact.values for fact in facts}
    return [fact for fact in facts if values.get(SAYS_NO_MORE_THAN.get(fact.name, "")) != fact.values]


def _shown(fact: Fact) -> list[str]:
    """The values of a fact as a reader reads them; '-' where there is none."""
    shown = FORMATS.get(fact.name, _clipped)
    return ["-" if value is None else shown(value) for value in fact.values]


def _clipped(value: Any) -> str:
    text = " ".join(_plain(value).split())
    return text if len(text) <= MAX_SETTING_CHARS else text[: MAX_SETTING_CHARS - 3] + "..."


def _plain(value: Any) -> str:
    """A value as the recipe's YAML has it: 1e-4, true, [q_proj, v_proj]."""
    if value is None:
        return ""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, _, exponent = f"{value:e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _title(name: str) -> str:
    """A figure's name for readers: 'exact match', 'recall of low', 'when right, ROUGE-L'."""
    first, _, rest = name.partition(".")
    if first == "recall" and rest:
        return f"recall of {rest}"
    return ", ".join(HEADLINES.get(part, part.replace("_", " ")) for part in name.split("."))


def _difference(one: Any) -> str:
    """'+0.120 [+0.030, +0.210] better'."""
    if one is None:
        return ""
    interval = "" if one["low"] is None else f" [{_signed(one['low'])}, {_signed(one['high'])}]"
    return f"{_signed(one['difference'])}{interval} {one['mark'] or ''}".rstrip()


def _signed(value: float) -> str:
    return f"{value:+.3f}" if round(value, 3) else "0.000"


def _row(cells: Sequence[str], escape: bool = True) -> str:
    return "| " + " | ".join(map(_escaped, cells) if escape else cells) + " |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table's cell."""
    return re.sub(r"([\\`*_|<>\[\]~#])", r"\\\1", " ".join(text.split()))


def _write(writer: Any, cells: Sequence[Any]) -> None:
    """A row of equal length, its text safe in a spreadsheet; numbers stay numbers."""
    padded = [*cells, *[None] * (len(CSV_COLUMNS) - len(cells))]
    writer.writerow(["" if cell is None else safe_cell(cell) if isinstance(cell, str) else cell for cell in padded])
