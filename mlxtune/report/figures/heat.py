"""Draws heat maps: confusion matrices, co-occurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from mlxtune.report.charts import HeatMap
from mlxtune.report.figures.colours import LIGHT, heat_role, heat_text_role
from mlxtune.report.figures.frame import GAP, LINE, MARGIN, SIZE, WIDTH, Box, name_x, name_y, new_figure
from mlxtune.report.figures.text import MISSING, plain, shortened, width

_WIDEST_NAME = 150.0
_LONGEST_COLUMN = 110.0
_CELL = (11.0, 64.0)  # least and greatest width
_ROW = 26.0  # greatest height of a cell
_SMALLEST = 6.0  # size of text
_MANY = 12  # columns, from which empty cells stay blank: zeros would hide the others


def draw_heat_map(chart: HeatMap) -> Figure:
    """A heat map as a figure; it is wider than others where its cells would be too small to read."""
    rows = [shortened(name, SIZE, _WIDEST_NAME) for name in chart.rows]
    columns = [shortened(name, SIZE, _LONGEST_COLUMN) for name in chart.columns]
    texts = _texts(chart)
    left = GAP + max((width(name, SIZE) for name in rows), default=0.0) + GAP
    cell = _cell_width(texts, (WIDTH - left - MARGIN) / max(len(columns), 1))
    row = min(cell, _ROW)
    size = min(SIZE, row - 2)
    turn = _turn(columns, cell, size)
    longest = max((width(name, size) for name in columns), default=0.0)
    depth = LINE if turn == 0 else math.sin(math.radians(turn)) * longest + GAP
    if turn == 45:  # the first names reach to the left of the axes
        left = max(left, *(0.71 * width(name, size) - cell * (place + 0.5) for place, name in enumerate(columns)))

    box = Box(left, depth + LINE + GAP, cell * max(len(columns), 1), row * max(len(rows), 1))
    total = max(WIDTH, box.left + box.width + MARGIN)
    figure, axes = new_figure(box.bottom + box.height + 10.0 + LINE, box, total)
    axes.set_xlim(0, box.width)
    axes.set_ylim(box.height, 0)
    axes.set_xticks([cell * (place + 0.5) for place in range(len(columns))], columns)
    axes.set_yticks([row * (place + 0.5) for place in range(len(rows))], rows)
    axes.tick_params(labelsize=size, labelcolor=LIGHT["ink"])
    if turn:
        for label in axes.get_xticklabels():
            label.set(rotation=turn, ha="right", va="top" if turn == 45 else "center_baseline", rotation_mode="anchor")
    name_x(axes, chart.x.label, box)
    name_y(axes, chart.y.label, box, 8.0)
    _draw_cells(axes, chart.values, cell, row)
    _draw_texts(axes, chart.values, texts, cell, row)
    return figure


def _turn(columns: Sequence[str], cell: float, size: float) -> int:
    """By how many degrees the columns' names are turned, so that none lies on another."""
    if all(width(name, size) <= cell - 4 for name in columns):
        return 0
    return 45 if 0.71 * cell >= size + 2 else 90


def _texts(chart: HeatMap) -> list[list[str]]:
    many = len(chart.columns) > _MANY
    return [
        ["" if many and not value else plain(text) for value, text in zip(values, texts, strict=True)]
        for values, texts in zip(chart.values, chart.texts, strict=True)
    ]


def _cell_width(texts: Sequence[Sequence[str]], room: float) -> float:
    """As wide as there is room, within limits; wider where a text of the smallest size needs it."""
    widest = max((width(text, _SMALLEST) for row in texts for text in row), default=0.0)
    least, greatest = _CELL
    return min(max(room, least, min(widest + 4, greatest)), greatest)


def _draw_cells(axes: Axes, values: Sequence[Sequence[float | None]], cell: float, row: float) -> None:
    """All cells of one darkness as one path, the palest as the ground of the others: a hundred labels are few shapes."""
    right, bottom, ground = axes.get_xlim()[1], axes.get_ylim()[0], heat_role(0.0)
    if not values or not values[0]:
        axes.text(right / 2, bottom / 2, MISSING, ha="center", va="center_baseline", color=LIGHT["muted"])
        return
    _fill(axes, [_rectangle(0, 0, right, bottom)], ground)
    cells: dict[str, list[Path]] = {}
    for down, line in enumerate(values):
        for along, value in enumerate(line):
            role = "paper" if value is None or not math.isfinite(value) else heat_role(value)
            if role != ground:
                cells.setdefault(role, []).append(
                    _rectangle(cell * along, row * down, cell * (along + 1), row * (down + 1))
                )
    for role in sorted(cells):
        _fill(axes, cells[role], role)
    lines = [Path([(cell * along, 0), (cell * along, bottom)]) for along in range(1, len(values[0]))]
    lines += [Path([(0, row * down), (right, row * down)]) for down in range(1, len(values))]
    if lines:
        axes.add_patch(PathPatch(Path.make_compound_path(*lines), fill=False, edgecolor=LIGHT["paper"], linewidth=1.0))


def _fill(axes: Axes, shapes: Sequence[Path], role: str) -> None:
    axes.add_patch(PathPatch(Path.make_compound_path(*shapes), facecolor=LIGHT[role], linewidth=0))


def _rectangle(left: float, top: float, right: float, bottom: float) -> Path:
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)


def _draw_texts(
    axes: Axes, values: Sequence[Sequence[float | None]], texts: Sequence[Sequence[str]], cell: float, row: float
) -> None:
    widest = max((width(text, 1.0) for line in texts for text in line), default=0.0)
    size = max(min(SIZE, (cell - 3) / widest if widest else SIZE, row - 3), 5.0)
    for down, line in enumerate(texts):
        for along, text in enumerate(line):
            value = values[down][along]
            if text and width(text, size) <= cell:
                role = "muted" if value is None or not math.isfinite(value) else heat_text_role(value)
                axes.text(
                    cell * (along + 0.5), row * (down + 0.5), text, fontsize=size, ha="center", va="center_baseline",
                    color=LIGHT[role],
                )  # fmt: skip
