"""Draws a chart as a matplotlib figure, in the light colours; `settings.drawing` must be around it and around what writes it.

with drawing():
    figure = draw(chart)
"""

from __future__ import annotations

from matplotlib.figure import Figure

from mlxtune.report.charts import BarChart, Chart, HeatMap, LineChart, ScatterChart
from mlxtune.report.figures.bars import draw_bars
from mlxtune.report.figures.frame import add_title
from mlxtune.report.figures.heat import draw_heat_map
from mlxtune.report.figures.lines import draw_lines
from mlxtune.report.figures.scatter import draw_scatter


def draw(chart: Chart, titled: bool = False) -> Figure:
    """A chart as a figure.

    Args:
        chart: Any text in it is shown as it is; values that are None, NaN or infinite are left out.
        titled: Whether its title stands in the figure, above it.

    Raises:
        TypeError: A kind of chart that nothing here draws.
    """
    figure = _drawn(chart)
    if titled:
        add_title(figure, chart.title)
    return figure


def _drawn(chart: Chart) -> Figure:
    if isinstance(chart, LineChart):
        return draw_lines(chart)
    if isinstance(chart, BarChart):
        return draw_bars(chart)
    if isinstance(chart, HeatMap):
        return draw_heat_map(chart)
    if isinstance(chart, ScatterChart):
        return draw_scatter(chart)
    raise TypeError(f"no figure is drawn of a {type(chart).__name__}")
