"""What figures of every kind share: their size and margins, axes with ticks and grid, titles and legends.

All measures are points, 72 an inch, from the figure's lower left corner: the units of the SVG's viewBox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mlxtune.report.figures.colours import LIGHT
from mlxtune.report.figures.scales import Scale
from mlxtune.report.figures.text import shortened, width

WIDTH = 520.0
SIZE = 9.0  # of text
LINE = 14.0  # from one line of text to the next
GAP = 6.0
MARGIN = 14.0  # at the right of axes
BOTTOM = 34.0  # below axes, for their ticks and their label
HAIR = 0.8  # width of axes, grid and marks

_HANDLE = 20.0  # width of a legend's sample
_WIDEST_NAME = 220.0
_TITLE_SIZE = 11.0
_TITLE_ROOM = 22.0


@dataclass(frozen=True)
class Box:
    """Where the axes lie in a figure.

    Attributes:
        left: Room at their left.
        bottom: Room below.
        width: Of the axes.
        height: Of the axes.
    """

    left: float
    bottom: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        """Of the axes, in the figure."""
        return self.left + self.width / 2, self.bottom + self.height / 2


@dataclass(frozen=True)
class Sample:
    """One entry of a legend.

    Attributes:
        name: As it is read.
        style: Of the line, or of the bar, as matplotlib's arguments.
        kind: What is drawn.
    """

    name: str
    style: dict[str, object]
    kind: Literal["line", "bar"]


def new_figure(height: float, box: Box, total_width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with empty axes at a place."""
    figure = Figure(figsize=(total_width / 72, height / 72), facecolor=LIGHT["paper"])
    place = (box.left / total_width, box.bottom / height, box.width / total_width, box.height / height)
    axes = figure.add_axes(place, facecolor="none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, pad=4, labelsize=SIZE, labelcolor=LIGHT["muted"])
    axes.set_axisbelow(True)
    return figure, axes


def write(figure: Figure, x: float, y: float, text: str, **style: object) -> None:
    """Text at a place of a figure; `y` is its base line."""
    points = {"fontsize": SIZE, "color": LIGHT["ink"], "va": "baseline", **style}
    figure.text(x / 72, y / 72, text, transform=figure.dpi_scale_trans, **points)  # type: ignore[arg-type]


def add_title(figure: Figure, title: str) -> None:
    """A title above all that a figure holds; the figure grows by its height."""
    total_width, height = figure.get_size_inches() * 72
    grown = height + _TITLE_ROOM
    for axes in figure.axes:
        place = axes.get_position()
        axes.set_position((place.x0, place.y0 * height / grown, place.width, place.height * height / grown))
    figure.set_size_inches(total_width / 72, grown / 72)
    text = shortened(title, _TITLE_SIZE, total_width - 2 * GAP)
    write(figure, GAP, height + GAP, text, fontsize=_TITLE_SIZE, fontweight="bold")


def set_scales(axes: Axes, x: Scale | None, y: Scale | None) -> None:
    """Limits, ticks and grid lines of each axis that has a scale."""
    if x is not None:
        if x.logarithmic:
            axes.set_xscale("log")
        axes.set_xlim(x.low, x.high)
        axes.set_xticks(x.ticks, x.texts)
        axes.set_xticks([], minor=True)
    if y is not None:
        if y.logarithmic:
            axes.set_yscale("log")
        axes.set_ylim(y.low, y.high)
        axes.set_yticks(y.ticks, y.texts)
        axes.set_yticks([], minor=True)
    grid = "both" if x is not None and y is not None else "x" if y is None else "y"
    axes.grid(True, axis=grid, color=LIGHT["grid"], linewidth=HAIR)  # type: ignore[arg-type]


def name_x(axes: Axes, label: str, box: Box) -> None:
    """The x axis's label, below the middle of its ticks."""
    text = shortened(label, SIZE, 2 * min(box.left + box.width / 2, WIDTH - box.left - box.width / 2) - GAP)
    axes.set_xlabel(text, fontsize=SIZE, color=LIGHT["ink"], va="baseline")
    axes.xaxis.set_label_coords(0.5, (GAP - box.bottom) / box.height)


def name_y(axes: Axes, label: str, box: Box, above: float) -> None:
    """The y axis's label, level, at the figure's left edge above the axes: it reads without a turn of the head.

    Args:
        axes: The axes.
        label: What is measured.
        box: Where the axes lie.
        above: From their top to the base line.
    """
    axes.set_ylabel(
        shortened(label, SIZE, WIDTH - GAP), fontsize=SIZE, color=LIGHT["ink"], rotation=0, ha="left", va="baseline"
    )
    axes.yaxis.set_label_coords((GAP - box.left) / box.width, 1 + above / box.height)


def tick_room(scale: Scale) -> float:
    """The width of the texts at a y axis, with what lies beside them."""
    return GAP + max((width(text, SIZE) for text in scale.texts), default=0.0) + 6


def legend_rows(samples: Sequence[Sample], total_width: float = WIDTH) -> list[list[Sample]]:
    """The entries of a legend as they flow into lines."""
    rows: list[list[Sample]] = []
    right = 0.0
    for sample in samples:
        needed = _entry_width(sample)
        if not rows or right + needed > total_width - GAP:
            rows.append([])
            right = GAP
        rows[-1].append(sample)
        right += needed
    return rows


def draw_legend(figure: Figure, rows: Sequence[Sequence[Sample]], top: float) -> None:
    """A legend's lines, from a height downwards."""
    for number, row in enumerate(rows, start=1):
        x, y = GAP, top - number * LINE + 4
        for sample in row:
            _draw_sample(figure, sample, x, y + 3)
            write(figure, x + _HANDLE + 5, y, shortened(sample.name, SIZE, _WIDEST_NAME))
            x += _entry_width(sample)


def _entry_width(sample: Sample) -> float:
    return _HANDLE + 5 + width(shortened(sample.name, SIZE, _WIDEST_NAME), SIZE) + 14


def _draw_sample(figure: Figure, sample: Sample, x: float, y: float) -> None:
    inches = figure.dpi_scale_trans
    if sample.kind == "bar":
        place = ((x + 6) / 72, (y - 4) / 72)
        figure.add_artist(Rectangle(place, 14 / 72, 8 / 72, transform=inches, **sample.style))  # type: ignore[arg-type]
        return
    xs = [(x + shift) / 72 for shift in (0, _HANDLE / 2, _HANDLE)]
    style = {**sample.style, "markevery": [1]}
    figure.add_artist(Line2D(xs, [y / 72] * 3, transform=inches, **style))  # type: ignore[arg-type]
