"""Draws bar charts: how many rows a label has, a metric a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlxtune.report.charts import BarChart
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
    new_figure,
    set_scales,
)
from mlxtune.report.figures.scales import Scale, drawable, scale
from mlxtune.report.figures.text import plain, shortened, value_text, width

_WIDEST_NAME = 190.0
_BAR = 13.0  # from one bar to the next
_THICKNESS = 0.78  # of a bar, of that distance
_BETWEEN = 7.0  # categories
_TEXT_GAP = 5.0  # from the end of a bar to its text


@dataclass(frozen=True)
class _Bar:
    """One bar as it is drawn: NaN where there is none, its interval, and its text."""

    value: float
    interval: tuple[float, float] | None
    text: str

    @property
    def end(self) -> float:
        """What its text stands beside."""
        return max(0.0 if math.isnan(self.value) else self.value, self.interval[1] if self.interval else -math.inf)


def draw_bars(chart: BarChart) -> Figure:
    """A bar chart as a figure."""
    names = [shortened(name, SIZE, _WIDEST_NAME) for name in chart.categories]
    groups = [[_bar(chart, number, place) for place in range(len(names))] for number in range(len(chart.groups))]
    axis = _scale(chart, groups)

    samples = [Sample(plain(group.name), _style(number), "bar") for number, group in enumerate(chart.groups)]
    rows = legend_rows(samples) if len(samples) > 1 else []
    left = GAP + max((width(name, SIZE) for name in names), default=0.0) + GAP
    step = _BAR * max(len(groups), 1) + _BETWEEN
    box = Box(left, BOTTOM, _axes_width(WIDTH - left - MARGIN, axis, groups), step * max(len(names), 1))
    height = box.bottom + box.height + GAP + LINE * len(rows)
    figure, axes = new_figure(height, box)
    set_scales(axes, axis, None)
    name_x(axes, chart.axis.label, box)
    _name_categories(axes, names, step)
    for number, bars in enumerate(groups):
        first = (_BETWEEN + _BAR) / 2 + _BAR * number
        _draw_group(axes, axis, bars, [first + step * place for place in range(len(bars))], _style(number))
    axes.axvline(_base(axis), color=LIGHT["muted"], linewidth=HAIR, zorder=4)
    draw_legend(figure, rows, height)
    return figure


def _bar(chart: BarChart, number: int, place: int) -> _Bar:
    group = chart.groups[number]
    value = drawable(group.values[place], chart.axis)
    interval = group.intervals[place] if group.intervals else None
    if interval is not None and any(math.isnan(drawable(limit, chart.axis)) for limit in interval):
        interval = None
    text = (
        shortened(chart.texts[place], SIZE, _WIDEST_NAME)
        if chart.texts and number == 0
        else value_text(value, chart.axis)
    )
    return _Bar(value, interval, text)


def _scale(chart: BarChart, groups: Sequence[Sequence[_Bar]]) -> Scale:
    """An axis that reaches every bar, every interval, and 0, where bars begin; factors have no 0, so that it begins below all."""
    bars = [bar for group in groups for bar in group]
    reach = [*(bar.value for bar in bars), *(limit for bar in bars for limit in bar.interval or ())]
    if chart.axis.logarithmic:
        return scale(chart.axis, reach, margin=0.1)
    positive = chart.axis.low is None and not any(value < 0 for value in reach)
    return scale(replace(chart.axis, low=0.0) if positive else chart.axis, [0.0, *reach], margin=0.0)


def _axes_width(room: float, axis: Scale, groups: Sequence[Sequence[_Bar]]) -> float:
    """The widest axes beside which each text fits, points; at least a third of the room."""
    fits = room
    for bar in (bar for group in groups for bar in group):
        share = min(max(axis.share(bar.end), 0.0), 1.0)
        if share > 0:
            fits = min(fits, (room - width(bar.text, SIZE) - _TEXT_GAP) / share)
    return max(fits, room / 3)


def _base(axis: Scale) -> float:
    """Where bars begin."""
    return axis.low if axis.logarithmic else min(max(0.0, axis.low), axis.high)


def _style(number: int) -> dict[str, object]:
    """Full, outlined and pale bars take turns, so that groups differ without colour too."""
    colour = LIGHT[series_role(number)]
    fills: list[dict[str, object]] = [{}, {"fill": False}, {"facecolor": (colour, 0.4)}]
    return {"facecolor": colour, "edgecolor": colour, "linewidth": 1.0, **fills[number % len(fills)]}


def _name_categories(axes: Axes, names: Sequence[str], step: float) -> None:
    axes.set_ylim(step * max(len(names), 1), 0)
    axes.set_yticks([step * (place + 0.5) for place in range(len(names))], list(names))
    axes.tick_params(axis="y", labelcolor=LIGHT["ink"])


def _draw_group(
    axes: Axes, axis: Scale, bars: Sequence[_Bar], places: Sequence[float], style: dict[str, object]
) -> None:
    base = _base(axis)
    there = [(place, bar) for place, bar in zip(places, bars, strict=True) if not math.isnan(bar.value)]
    axes.barh(
        [place for place, _ in there], [bar.value - base for _, bar in there], left=base,
        height=_BAR * _THICKNESS, zorder=3, **style,  # type: ignore[arg-type]
    )  # fmt: skip
    for place, bar in zip(places, bars, strict=True):
        if bar.interval is not None:
            axes.plot(
                bar.interval, [place, place], color=LIGHT["ink"], linewidth=1.0, marker="|", markersize=6, zorder=5
            )
        axes.annotate(
            bar.text, (min(max(bar.end, base), axis.high), place), xytext=(_TEXT_GAP, 0), textcoords="offset points",
            va="center_baseline", fontsize=SIZE, color=LIGHT["ink"], annotation_clip=False,
        )  # fmt: skip
