"""What is drawn is what the chart holds: read back from matplotlib's own objects."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mlxtune.report.charts import Axis, BarChart, Bars, Chart, Mark, Point, Series
from mlxtune.report.figures.colours import LIGHT, heat_role
from mlxtune.report.figures.draw import draw
from mlxtune.report.figures.settings import drawing
from tests.report.figures.made_charts import SHARE, bars, heat, lines, losses, plain_charts, runs, scatter


@pytest.fixture(autouse=True)
def _drawing() -> Iterator[None]:
    with drawing():
        yield


def axes_of(chart: Chart) -> Any:  # matplotlib's own types do not say what its artists are
    figure = draw(chart)
    assert isinstance(figure, Figure)
    return figure.axes[0]


def data_lines(axes: Any) -> list[tuple[list[float], list[float]]]:
    """Lines that lie among the data: not the marks, nor the leaders to names."""
    found = [line for line in axes.lines if line.get_transform() == axes.transData]
    return [([*map(float, line.get_xdata())], [*map(float, line.get_ydata())]) for line in found]


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axes: Any, side: str) -> list[str]:
    return [label.get_text() for label in (axes.get_xticklabels() if side == "x" else axes.get_yticklabels())]


def test_lines_have_the_values_of_their_series() -> None:
    chart = losses()
    assert data_lines(axes_of(chart)) == [
        ([float(x) for x in one.x], [math.nan if y is None else y for y in one.y]) for one in chart.series
    ]


def test_a_gap_breaks_the_line_and_a_value_alone_is_marked() -> None:
    axes = axes_of(lines(Series("a", [1, 2, 3, 4, 5], [1.0, 2.0, None, 4.0, None])))
    [(_, y)] = data_lines(axes)
    assert [value if not math.isnan(value) else None for value in y] == [1.0, 2.0, None, 4.0, None]
    assert axes.lines[0].get_markevery() == [3]


def test_no_two_series_look_alike_without_colour_and_a_comparison_is_dashed() -> None:
    x = list(range(50))
    axes = axes_of(lines(*(Series(str(n), x, [n] * 50) for n in range(7)), Series("base", x, [3] * 50, dashed=True)))
    looks = [(line.get_marker(), line.get_linestyle()) for line in axes.lines if line.get_transform() == axes.transData]
    assert len(set(looks)) == 8
    assert looks[-1][1] == "--" and all(look[1] == "-" for look in looks[:-1])


def test_axes_are_named_with_their_units_and_steps_are_whole_numbers() -> None:
    axes = axes_of(lines(Series("a", [1, 2, 3], [0.5, 1.5, 2.5])))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats per token)")
    assert ticks(axes, "x") == ["1", "2", "3"]
    assert ticks(axes_of(lines(Series("a", [0, 12000], [0.5, 1.5]))), "x")[1] == "2,500"


def test_ticks_say_what_their_places_are() -> None:
    assert ticks(axes_of(lines(Series("a", [0, 1], [0.1, 0.9]), y=SHARE)), "y") == [
        "0%",
        "20%",
        "40%",
        "60%",
        "80%",
        "100%",
    ]
    assert ticks(axes_of(lines(Series("a", [0, 1], [0, 2e-4]), y=Axis("rate"))), "y") == [
        "0",
        "5e−5",
        "1e−4",
        "1.5e−4",
        "2e−4",
    ]
    log = axes_of(lines(Series("a", [0, 1], [0.001, 1000]), y=Axis("loss", logarithmic=True)))
    assert log.get_yscale() == "log" and ticks(log, "y") == ["0.001", "0.01", "0.1", "1", "10", "100", "1,000"]


def test_limits_of_an_axis_hold() -> None:
    axes = axes_of(lines(Series("a", [3, 4], [0.3, 0.4]), x=Axis("x", low=0, high=10), y=SHARE))
    assert axes.get_xlim() == (0, 10) and axes.get_ylim() == (0, 1)


def test_axes_with_the_same_limits_make_a_square() -> None:
    axes = axes_of(lines(Series("a", [0, 1], [0, 1]), x=SHARE, y=SHARE))
    box, size = axes.get_position(), axes.figure.get_size_inches()
    assert box.width * size[0] == pytest.approx(box.height * size[1])


def test_marks_stand_at_their_places_and_no_text_lies_on_another() -> None:
    marks = [Mark(step, f"checkpoint {step}") for step in (10, 12, 14, 60, 97, 99, 100)]
    chart = lines(Series("a", [0, 100], [1, 2]), marks=[*marks, Mark(100, "stopped")])
    axes = axes_of(chart)
    figure = axes.figure
    upright = [line for line in axes.lines if line.get_transform() == axes.get_xaxis_transform()]
    assert sorted(float(line.get_xdata()[0]) for line in upright) == [mark.x for mark in marks]
    assert sorted(texts(axes))[0] == "checkpoint 10" and "checkpoint 100 · stopped" in texts(axes)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    strokes = [line.get_window_extent() for line in upright]
    assert not [(a, b) for a in boxes for b in strokes if a.x0 < b.x0 < a.x1 and b.y1 > a.y0]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)


def test_the_text_of_a_mark_changes_sides_before_it_lies_on_the_line_of_another() -> None:
    marks = [Mark(140, "best: step 140"), Mark(180, "stopped early at step 180")]
    axes = axes_of(lines(Series("training", [1, 200], [2, 1]), Series("validation", [1, 200], [2, 1]), marks=marks))
    strokes = [line.get_window_extent() for line in axes.lines if line.get_transform() == axes.get_xaxis_transform()]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(strokes) == 2
    assert not [(a, b) for a in boxes for b in strokes if a.x0 < b.x0 < a.x1 and b.y1 > a.y0]


def test_names_at_the_ends_of_lines_do_not_touch() -> None:
    axes = axes_of(lines(*(Series(f"run {n}", [0, 1], [0.5, 1 + n / 100]) for n in range(6))))
    boxes = [text.get_window_extent() for text in axes.texts]
    assert texts(axes) == [f"run {n}" for n in range(6)]
    assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    assert [box.y0 for box in boxes] == sorted(box.y0 for box in boxes)  # the order of the lines' ends


def test_a_legend_takes_over_where_lines_end_at_different_places() -> None:
    axes = axes_of(lines(Series("short", [0, 10], [1, 2]), Series("long", [0, 100], [1, 2])))
    assert texts(axes) == []
    assert [text.get_text() for text in axes.figure.texts] == ["short", "long"]


def test_bars_intervals_and_texts_are_those_of_the_chart() -> None:
    chart = runs()
    axes = axes_of(chart)
    widths = [round(bar.get_width(), 9) for bar in axes.patches]
    assert widths == [round(value, 9) for group in chart.groups for value in group.values]
    intervals = [x for x, y in data_lines(axes) if y[0] == y[1]]
    assert intervals == [[0.4, 0.6], [0.4, 0.65], [0.4, 0.7]]
    assert texts(axes) == ["0.500", "0.250", "0.550", "0.250", "0.600", "0.250"]
    assert ticks(axes, "y") == list(chart.categories)
    heights = [bar.get_y() for bar in axes.patches]
    assert (
        axes.yaxis_inverted() and heights[0] < heights[2] < heights[4] < heights[1]
    )  # beside one another, from the top


def test_the_texts_of_bars_stand_inside_the_figure() -> None:
    texts_at_end = ["1,354 rows of 4,242 (31.9%)", "a text that is much longer than its bar", "3"]
    axes = axes_of(bars(["payment", "order_management", "none"], [1354, 900, 3], texts=texts_at_end))
    right = axes.figure.bbox.x1
    assert texts(axes) == texts_at_end
    assert all(text.get_window_extent().x1 <= right for text in axes.texts)


def test_bars_begin_at_zero_also_below_it() -> None:
    axes = axes_of(BarChart("b", "", "", ["a", "b"], [Bars("", [-5, 3])], Axis("change")))
    assert [(bar.get_x(), bar.get_width()) for bar in axes.patches] == [(0, -5), (0, 3)]
    assert axes.get_xlim()[0] <= -5


def test_a_cell_is_as_dark_as_its_value_and_its_text_can_be_read_on_it() -> None:
    chart = heat(["a", "b", "c"], 0.25)
    axes = axes_of(chart)
    filled = [patch for patch in axes.patches if patch.get_fill()]
    for text in axes.texts:
        x, y = text.get_position()
        over = [patch for patch in filled if patch.get_path().contains_point((x, y))]
        value = 1.0 if text.get_text() == "100" else 0.25
        assert to_hex(over[-1].get_facecolor()) == LIGHT[heat_role(value)]
        assert text.get_color() == LIGHT["paper" if value == 1.0 else "ink"]
    assert texts(axes) == ["100", "25", "25", "25", "100", "25", "25", "25", "100"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "expected")


def test_a_heat_map_reads_from_the_top_left() -> None:
    axes = axes_of(heat(["first", "last"]))
    assert ticks(axes, "x") == ticks(axes, "y") == ["first", "last"]
    assert axes.yaxis_inverted() and not axes.xaxis_inverted()


def test_points_lie_where_they_belong_with_intervals_and_names() -> None:
    points = [Point("small", 0.1, 0.5, 0.4, 0.6), Point("large", 1.0, 0.8)]
    axes = axes_of(scatter(*points))
    assert data_lines(axes) == [([0.1, 0.1], [0.4, 0.6]), ([0.1, 1.0], [0.5, 0.8])]
    assert texts(axes) == ["small", "large"]
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "time (s/row)"


def test_names_of_points_lie_on_no_point_and_on_no_other_name() -> None:
    points = [Point(f"run {n}", 1 + n % 4 / 50, 0.5 + n / 100, 0.3, 0.7) for n in range(12)]
    axes = axes_of(scatter(*points))
    boxes = [text.get_window_extent() for text in axes.texts]
    places = [axes.transData.transform((point.x, point.y)) for point in points]
    assert len(boxes) >= 6
    assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if a.overlaps(b)]
    assert not [(box, place) for box in boxes for place in places if box.contains(*place)]


def test_a_title_stands_above_all_and_moves_nothing() -> None:
    for chart in plain_charts():
        bare, titled = draw(chart), draw(chart, titled=True)
        assert titled.get_size_inches()[1] > bare.get_size_inches()[1]
        first, second = (
            one.axes[0].get_position().bounds * one.get_size_inches()[[0, 1, 0, 1]] for one in (bare, titled)
        )
        assert first == pytest.approx(second)
        assert titled.texts[-1].get_text() == chart.title
        title = titled.texts[-1].get_window_extent()
        others = [
            text.get_window_extent()
            for text in [*titled.axes[0].texts, *titled.texts[:-1], titled.axes[0].yaxis.label]
            if text.get_text()
        ]
        assert title.y1 <= titled.bbox.y1 and not any(title.overlaps(other) for other in others)


def test_an_unknown_kind_of_chart_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="Chart"):
        draw(Chart("a", "b", "c"))
