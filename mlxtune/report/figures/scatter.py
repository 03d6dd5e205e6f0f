"""Draws scatter charts: a metric against what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlxtune.report.charts import Point, ScatterChart
from mlxtune.report.figures.colours import LIGHT
from mlxtune.report.figures.frame import (
    BOTTOM,
    LINE,
    MARGIN,
    SIZE,
    WIDTH,
    Box,
    name_x,
    name_y,
    new_figure,
    set_scales,
    tick_room,
    write,
)
from mlxtune.report.figures.scales import Scale, drawable, scale
from mlxtune.report.figures.text import MISSING, shortened, width

_HEIGHT = 240.0
_WIDEST_NAME = 150.0
_AWAY = 7.0  # a name from its point


@dataclass(frozen=True)
class _Area:
    """A part of the figure that is taken, points from the axes' lower left corner."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Area) -> bool:
        """Whether both share a place."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


def draw_scatter(chart: ScatterChart) -> Figure:
    """A scatter chart as a figure."""
    points = [
        point for point in chart.points if not math.isnan(drawable(point.x, chart.x) + drawable(point.y, chart.y))
    ]
    x = scale(chart.x, [point.x for point in points], margin=0.08)
    y = scale(chart.y, [end for point in points for end in (point.y, *_interval(point, chart))], margin=0.08, n_ticks=5)
    left = tick_room(y)
    box = Box(left, BOTTOM, WIDTH - left - MARGIN, _HEIGHT)
    figure, axes = new_figure(box.bottom + box.height + 10.0 + LINE, box)
    set_scales(axes, x, y)
    name_x(axes, chart.x.label, box)
    name_y(axes, chart.y.label, box, 10.0)
    for point in points:
        interval = _interval(point, chart)
        if interval:
            axes.plot(
                [point.x, point.x], interval, color=LIGHT["muted"], linewidth=1.0, marker="_", markersize=6, zorder=3
            )
    axes.plot(
        [point.x for point in points], [point.y for point in points], color=LIGHT["series-1"], linestyle="", marker="o",
        markersize=6, markeredgewidth=0, zorder=4,
    )  # fmt: skip
    _name_points(axes, chart, points, (x, y), box)
    if not points:
        write(figure, *box.middle, MISSING, ha="center", color=LIGHT["muted"])
    return figure


def _interval(point: Point, chart: ScatterChart) -> tuple[float, ...]:
    """Both ends; nothing where one is not known."""
    ends = (drawable(point.low, chart.y), drawable(point.high, chart.y))
    return () if any(map(math.isnan, ends)) else ends


def _name_points(
    axes: Axes, chart: ScatterChart, points: Sequence[Point], scales: tuple[Scale, Scale], box: Box
) -> None:
    """A name beside each point, where it covers no point and no other name, nor an interval if that can be; none without such a place."""
    x, y = scales
    places = [(x.share(point.x) * box.width, y.share(point.y) * box.height) for point in points]
    taken = [_Area(across - 4, up - 4, across + 4, up + 4) for across, up in places]
    strokes = [_stroke(point, chart, across, y, box) for point, (across, _) in zip(points, places, strict=True)]
    for point, (across, up) in zip(points, places, strict=True):
        name = shortened(point.name, SIZE, _WIDEST_NAME)
        areas = [area for area in _beside(across, up, width(name, SIZE)) if _is_free(area, taken, box)]
        found = next((area for area in areas if _is_free(area, strokes, box)), areas[0] if areas else None)
        if found is not None and name:
            taken.append(found)
            axes.text(
                found.left / box.width, (found.bottom + 3) / box.height, name, transform=axes.transAxes, fontsize=SIZE,
                color=LIGHT["ink"], va="baseline",
            )  # fmt: skip


def _stroke(point: Point, chart: ScatterChart, across: float, y: Scale, box: Box) -> _Area:
    """What a point's interval covers; the point's own place where it has none."""
    ends = [y.share(end) * box.height for end in _interval(point, chart) or (point.y,)]
    return _Area(across - 2, min(ends), across + 2, max(ends))


def _beside(across: float, up: float, needed: float) -> list[_Area]:
    """The areas that a name may take: at the right of its point, at the left, above and below."""
    middles = [(across + _AWAY, up), (across - _AWAY - needed, up)]
    middles += [
        (left, up + side * 12) for side in (1, -1) for left in (across - needed / 2, across + 3, across - needed - 3)
    ]
    return [_Area(left, middle - SIZE / 2 - 1, left + needed, middle + SIZE / 2 + 1) for left, middle in middles]


def _is_free(area: _Area, taken: Sequence[_Area], box: Box) -> bool:
    inside = area.left >= 0 and area.right <= box.width + 12 and area.bottom >= 0 and area.top <= box.height + 8
    return inside and not any(area.meets(other) for other in taken)
