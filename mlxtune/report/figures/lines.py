"""Draws line charts: losses, learning rates, reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlxtune.report.charts import LineChart, Mark, Series
from mlxtune.report.figures.colours import LIGHT, series_role
from mlxtune.report.figures.frame import (
    BOTTOM,
    GAP,
    HAIR,
    LINE,
    MARGIN,
    SIZE,
    WIDTH,
    Box,
    Sample,
    draw_legend,
    legend_rows,
    name_x,
    name_y,
    new_figure,
    set_scales,
    tick_room,
    write,
)
from mlxtune.report.figures.scales import Scale, drawable, scale
from mlxtune.report.figures.text import MISSING, plain, shortened, width

_HEIGHT = 190.0
_MANY = 150  # values, from which a line is drawn thinner
_SIDE = 250.0  # of a chart whose axes have the same limits: it is square
_MARKERS = "osD^vPX"  # as many as have no common factor with the number of colours
_MAX_DIRECT = 6  # lines that are named at their ends
_WIDEST_NAME = 120.0
_WIDEST_MARK = 180.0
_MAX_SIDES = 5  # marks, of which every choice of sides is tried
_LEADER = 16.0  # from the axes to a name at a line's end


@dataclass(frozen=True)
class _Line:
    """A series as it is drawn: its places, NaN where the line breaks, and its style."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: dict[str, object]

    @property
    def end(self) -> tuple[float, float] | None:
        """Its last value; None without any."""
        return next(
            ((x, y) for x, y in zip(reversed(self.x), reversed(self.y), strict=True) if not math.isnan(x + y)), None
        )


@dataclass(frozen=True)
class _Flag:
    """A mark as it is drawn: its text stands beside the upper end of its line, `row` lines of text above the axes.

    Attributes:
        x: On the axis.
        text: Its own.
        place: Of its line in the figure, points, as all that follow.
        left: Where the text begins.
        right: Where it ends.
        row: 0 is the lowest.
    """

    x: float
    text: str
    place: float
    left: float
    right: float
    row: int


def draw_lines(chart: LineChart) -> Figure:
    """A line chart as a figure."""
    lines = _lines(chart)
    marks = _merged(chart.marks, chart)
    x = scale(
        chart.x, [*(x for line in lines for x in _seen(line.x, line.y)), *(mark.x for mark in marks)], margin=0.02
    )
    y = scale(chart.y, [y for line in lines for y in _seen(line.y, line.x)], margin=0.06, n_ticks=5)

    direct = _named_at_end(lines, x)
    rows = [] if direct or len(lines) < 2 else legend_rows([Sample(line.name, line.style, "line") for line in lines])
    box = _place(chart, y, [line.name for line in lines] if direct else [])
    flags = _flags(marks, x, box)
    flags_end = LINE * max((flag.row + 1 for flag in flags), default=0)
    beside = all(flag.left > width(chart.y.label, SIZE) + 3 * GAP for flag in flags)
    label_at = 9.0 + (0.0 if beside else flags_end)
    height = box.bottom + box.height + max(label_at + LINE, flags_end + GAP) + LINE * len(rows) + (GAP if rows else 0)

    figure, axes = new_figure(height, box)
    set_scales(axes, x, y)
    name_x(axes, chart.x.label, box)
    name_y(axes, chart.y.label, box, label_at)
    for number, line in enumerate(lines):
        axes.plot(line.x, line.y, zorder=3 if line.style["linestyle"] == "--" else 4 + number, **line.style)  # type: ignore[arg-type]
    _draw_flags(axes, flags, box)
    draw_legend(figure, rows, height)
    if direct:
        _name_ends(axes, lines, x, y, box)
    if not any(line.end for line in lines):
        write(figure, *box.middle, MISSING, ha="center", color=LIGHT["muted"])
    return figure


def _place(chart: LineChart, y: Scale, names: Sequence[str]) -> Box:
    """Where the axes lie, with room at their right for the names of lines."""
    right = max((_LEADER + width(shortened(name, SIZE, _WIDEST_NAME), SIZE) + GAP for name in names), default=MARGIN)
    room = WIDTH - tick_room(y) - right
    limits = (chart.x.low, chart.x.high)
    square = limits == (chart.y.low, chart.y.high) and None not in limits
    return Box(tick_room(y), BOTTOM, min(room, _SIDE) if square else room, _SIDE if square else _HEIGHT)


def _lines(chart: LineChart) -> list[_Line]:
    lines = []
    n_measured = 0
    for series in chart.series:
        x = [drawable(value, chart.x) for value in series.x]
        y = [drawable(value, chart.y) for value in series.y]
        lines.append(_Line(plain(series.name), x, y, _style(series, n_measured, x, y)))
        n_measured += not series.dashed
    return lines


def _style(series: Series, number: int, x: Sequence[float], y: Sequence[float]) -> dict[str, object]:
    """A line's colour and marker, which tell it from the others with and without colour."""
    if series.dashed:
        return {"color": LIGHT["muted"], "linestyle": "--", "linewidth": 1.2}
    colour = LIGHT[series_role(number)]
    style: dict[str, object] = {
        "color": colour,
        "linestyle": "-",
        "linewidth": 1.0 if len(x) > _MANY and not series.points else 1.6,
    }
    marked = _marked(series, x, y, number)
    if marked:
        style |= {
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 5.0,
            "markerfacecolor": colour,
            "markeredgecolor": colour,
            "markeredgewidth": 0,
            "markevery": marked,
        }
    return style


def _marked(series: Series, x: Sequence[float], y: Sequence[float], number: int) -> list[int]:
    """Which values get a marker: all, if the series says so; else those without a neighbour, and a few that tell the lines apart."""
    seen = [not math.isnan(a + b) for a, b in zip(x, y, strict=True)]
    if series.points:
        return [place for place, there in enumerate(seen) if there]
    alone = {
        place
        for place, there in enumerate(seen)
        if there and not any(seen[max(place - 1, 0) : place]) and not any(seen[place + 1 : place + 2])
    }
    few = (
        set()
        if number == 0
        else {place for place in range(len(seen) // 8, len(seen), max(len(seen) // 4, 1)) if seen[place]}
    )
    return sorted(alone | few)


def _seen(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """The values of points that are drawn: those whose other coordinate is known."""
    return [value for value, other in zip(values, others, strict=True) if not math.isnan(other)]


def _named_at_end(lines: Sequence[_Line], x: Scale) -> bool:
    """Whether each line can have its name at its end: few lines, all of which reach the right."""
    ends = [line.end for line in lines]
    return 2 <= len(lines) <= _MAX_DIRECT and all(end is not None and x.share(end[0]) > 0.9 for end in ends)


def _name_ends(axes: Axes, lines: Sequence[_Line], x: Scale, y: Scale, box: Box) -> None:
    """Names at the right of the axes, each as high as its line ends or as near as the others let it, with a thin leader."""
    wanted = [y.share(line.end[1]) * box.height for line in lines if line.end]
    for line, height, place in zip(lines, wanted, spread(wanted, LINE - 2), strict=True):
        end = line.end
        assert end is not None
        start = x.share(end[0])
        axes.plot(
            [start, 1 + 4 / box.width, 1 + (_LEADER - 3) / box.width],
            [height / box.height, height / box.height, place / box.height],
            transform=axes.transAxes, clip_on=False, color=line.style["color"], linewidth=HAIR,
            linestyle=":", zorder=2,
        )  # fmt: skip
        axes.text(
            1 + _LEADER / box.width, place / box.height, shortened(line.name, SIZE, _WIDEST_NAME),
            transform=axes.transAxes, va="center_baseline", fontsize=SIZE, color=LIGHT["ink"],
        )  # fmt: skip


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Places as near to those wanted as a least distance between them allows, in the same order.

    >>> spread([10.0, 10.0, 50.0], 12.0)
    [4.0, 16.0, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    groups: list[list[int]] = []  # of neighbours that stand at the least distance
    for number in order:
        groups.append([number])
        while len(groups) > 1 and _first(groups[-1], wanted, distance) < _last(groups[-2], wanted, distance) + distance:
            last = groups.pop()
            groups[-1] += last
    places = [0.0] * len(wanted)
    for group in groups:
        for step, number in enumerate(group):
            places[number] = _first(group, wanted, distance) + step * distance
    return places


def _first(group: Sequence[int], wanted: Sequence[float], distance: float) -> float:
    return sum(wanted[number] for number in group) / len(group) - (len(group) - 1) * distance / 2


def _last(group: Sequence[int], wanted: Sequence[float], distance: float) -> float:
    return _first(group, wanted, distance) + (len(group) - 1) * distance


def _merged(marks: Sequence[Mark], chart: LineChart) -> list[Mark]:
    """The marks that can be drawn, from the left; those at one place as one, with both texts."""
    texts: dict[float, list[str]] = {}
    for mark in sorted(marks, key=lambda mark: mark.x):
        if not math.isnan(drawable(mark.x, chart.x)):
            texts.setdefault(mark.x, []).append(plain(mark.text))
    return [Mark(x, " · ".join(found)) for x, found in texts.items()]


def _flags(marks: Sequence[Mark], x: Scale, box: Box) -> Sequence[_Flag]:
    """Where the marks' texts stand: on the sides of their lines that need the fewest rows, with none on another or on a line if
    that can be; at the right where it makes no difference."""
    sides = [_sides(mark, box.left + x.share(mark.x) * box.width) for mark in marks]
    if len(marks) > _MAX_SIDES:
        sides = [found[:1] for found in sides]
    layouts = [_in_rows(flags) for flags in product(*sides)]
    return min(layouts, key=lambda flags: (_n_meetings(flags), sum(flag.row for flag in flags)))


def _sides(mark: Mark, place: float) -> list[_Flag]:
    """A mark's text at the right of its line and at the left, where the figure has room for it."""
    text = shortened(mark.text, SIZE, _WIDEST_MARK)
    needed = width(text, SIZE) + 2 * GAP
    right = _Flag(mark.x, text, place, place, place + needed, 0)
    left = _Flag(mark.x, text, place, place - needed, place, 0)
    return [flag for flag in (right, left) if flag.left >= 0 and flag.right <= WIDTH] or [right]


def _in_rows(flags: Sequence[_Flag]) -> list[_Flag]:
    """The flags, each in the lowest row in which it meets none that is there already, else above all.

    Texts at the left of their lines are placed from the left, the others from the right, so that a text that reaches over a line
    which is there goes above its end.
    """
    placed: list[_Flag] = []
    at_left = [flag for flag in flags if flag.right == flag.place]
    at_right = [flag for flag in flags if flag.right != flag.place]
    for flag in [*at_left, *reversed(at_right)]:
        above_all = replace(flag, row=max((other.row + 1 for other in placed), default=0))
        rows = (replace(flag, row=row) for row in range(above_all.row))
        placed.append(next((one for one in rows if not any(_meet(one, other) for other in placed)), above_all))
    return placed


def _n_meetings(flags: Sequence[_Flag]) -> int:
    return sum(_meet(flag, other) for flag, other in combinations(flags, 2))


def _meet(flag: _Flag, other: _Flag) -> bool:
    """Whether the text of one would lie on the text of the other, or on its line, which goes up to its text."""
    if flag.row == other.row:
        return flag.left < other.right and other.left < flag.right
    lower, higher = sorted((flag, other), key=lambda one: one.row)
    return lower.left < higher.place < lower.right


def _draw_flags(axes: Axes, flags: Sequence[_Flag], box: Box) -> None:
    for flag in flags:
        top = 1 + (4 + LINE * flag.row + SIZE) / box.height
        axes.plot(
            [flag.x, flag.x], [0, top], transform=axes.get_xaxis_transform(), clip_on=False,
            color=LIGHT["muted"], linewidth=HAIR, zorder=2,
        )  # fmt: skip
        at_left = flag.right == flag.place
        axes.annotate(
            flag.text, (flag.x, top), xycoords=axes.get_xaxis_transform(), xytext=(-4 if at_left else 4, -SIZE + 2),
            textcoords="offset points", ha="right" if at_left else "left", va="baseline", fontsize=SIZE,
            color=LIGHT["muted"], annotation_clip=False,
        )  # fmt: skip
