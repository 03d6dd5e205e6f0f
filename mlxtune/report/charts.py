"""What a chart shows, as values: series, bars, cells, points, and the words beside them. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: What it measures.
        unit: In which unit; "" where it has none.
        logarithmic: Whether its steps are factors.
        low: Where it begins; None lets the data say.
        high: Where it ends.
        share: Whether its values are 0..1 and shown in percent; the unit is "" then.
    """

    title: str
    unit: str = ""
    logarithmic: bool = False
    low: float | None = None
    high: float | None = None
    share: bool = False

    @property
    def label(self) -> str:
        """The title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Chart:
    """What every chart has.

    Attributes:
        name: Of its file: "losses".
        title: Its caption.
        description: What a reader who cannot see it should know: the values that matter, in words.
    """

    name: str
    title: str
    description: str


@dataclass(frozen=True)
class Series:
    """Values along x.

    Attributes:
        name: In the legend.
        x: Places, ascending.
        y: A value each; None breaks the line.
        dashed: A line to compare with, not a measurement.
        points: Whether each value is marked, as where there are few.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False
    points: bool = False


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that deserves a word: the best step, where training stopped."""

    x: float
    text: str


@dataclass(frozen=True)
class LineChart(Chart):
    """Lines over a common x: losses, learning rate, reliability."""

    x: Axis
    y: Axis
    series: Sequence[Series]
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Bars:
    """One group of bars, all of one colour: the training rows, or one run.

    Attributes:
        name: In the legend; "" where there is one group.
        values: A value a category.
        intervals: (low, high) a category; None draws none.
    """

    name: str
    values: Sequence[float]
    intervals: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True)
class BarChart(Chart):
    """Horizontal bars: a category a line, from the top down.

    Attributes:
        categories: Names of the lines.
        groups: Bars of each category, beside one another.
        axis: Of the values.
        texts: A text a category, of the first group's bars, shown at their end: "1,354 (31.9%)".
    """

    categories: Sequence[str]
    groups: Sequence[Bars]
    axis: Axis
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class HeatMap(Chart):
    """A grid of cells: a confusion matrix, co-occurrence.

    Attributes:
        rows: Names, from the top down.
        columns: Names, from the left.
        values: 0..1 a cell, its darkness; (rows, columns). None is an empty cell.
        texts: What stands in each cell, (rows, columns).
        x: What the columns are.
        y: What the rows are.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    texts: Sequence[Sequence[str]]
    x: Axis
    y: Axis


@dataclass(frozen=True)
class Point:
    """One point with its name, and the interval of its y."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScatterChart(Chart):
    """Named points: a metric against what it costs."""

    x: Axis
    y: Axis
    points: Sequence[Point] = field(default=())
