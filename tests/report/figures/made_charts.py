"""Charts of every kind, plain ones and those that a run may well lead to but that are hard to draw."""

from __future__ import annotations

import math

from mlxtune.report.charts import Axis, BarChart, Bars, Chart, HeatMap, LineChart, Mark, Point, ScatterChart, Series

STEP, LOSS = Axis("step"), Axis("loss", "nats per token")
SHARE = Axis("share", low=0, high=1, share=True)
NAN, INF = math.nan, math.inf
HOSTILE = [
    "$x$",
    "_a",
    "<b>&\"'",
    "a\nb\tc\x00\x1b",
    "支付和订单",
    "\\frac{1}{2}",
    "",
    "  ",
    "\ud800",
    "x" * 400,
    "مرحبا",
    "😀",
    "%s {y}",
]


def lines(*series: Series, x: Axis = STEP, y: Axis = LOSS, marks: list[Mark] | None = None) -> LineChart:
    return LineChart("lines", "Losses", "Training loss falls from 2.4 to 0.5.", x, y, series, marks or [])


def losses() -> LineChart:
    steps = list(range(1, 201))
    return lines(
        Series("training", steps, [2 / step + 0.5 for step in steps]),
        Series("validation", [50, 100, 150, 200], [1.2, 0.9, 0.8, 0.85], points=True),
        Series("before tuning", [1, 200], [2.4, 2.4], dashed=True),
        marks=[Mark(150, "best"), Mark(200, "stopped")],
    )


def bars(names: list[str], values: list[float], **more: object) -> BarChart:
    return BarChart("bars", "Labels", "Most rows are payments.", names, [Bars("", values)], Axis("rows"), **more)  # type: ignore[arg-type]


def runs(n_runs: int = 3) -> BarChart:
    groups = [Bars(f"run {k}", [0.5 + k / 20, 0.25], [(0.4, 0.6 + k / 20), None]) for k in range(n_runs)]
    return BarChart("runs", "Runs", "", ["exact match", "macro F1"], groups, Axis("value", low=0, high=1))


def heat(names: list[str], value: float | None = 0.25) -> HeatMap:
    size = range(len(names))
    values: list[list[float | None]] = [[1.0 if row == column else value for column in size] for row in size]
    texts = [[f"{100 * (one or 0):.0f}" for one in row] for row in values]
    return HeatMap(
        "heat", "Confusion", "Payments are confused.", names, names, values, texts, Axis("predicted"), Axis("expected")
    )


def scatter(*points: Point, x: Axis | None = None) -> ScatterChart:
    x = x or Axis("time", "s/row", logarithmic=True)
    return ScatterChart("scatter", "Cost", "The larger model is better.", x, SHARE, points)


def plain_charts() -> list[Chart]:
    """One of each kind."""
    points = [Point("small", 0.1, 0.5, 0.4, 0.6), Point("large", 1.0, 0.8)]
    return [
        losses(),
        bars(["payment", "none"], [1354, 3], texts=["1,354 (99.8%)", "3 (0.2%)"]),
        runs(),
        heat(["a", "b", "c"]),
        scatter(*points),
    ]


def hard_charts() -> dict[str, Chart]:
    """What breaks careless code, by what is hard about it."""
    log = Axis("loss", logarithmic=True)
    many = [f"a long name of a label, number {number}" for number in range(100)]
    return {
        "no series": lines(),
        "no values": lines(Series("a", [], [])),
        "only gaps": lines(Series("a", [1, 2], [None, NAN])),
        "one point": lines(Series("a", [5], [0.3])),
        "one point at zero": lines(Series("a", [0], [0.0])),
        "a constant": lines(Series("a", [1, 2, 3], [0.7, 0.7, 0.7])),
        "nearly a constant": lines(Series("a", [1, 2], [1.0, 1.0 + 1e-14])),
        "gaps": lines(Series("a", [1, 2, 3, 4, 5], [1.0, None, 2.0, INF, -INF]), marks=[Mark(NAN, "nowhere")]),
        "huge": lines(Series("a", [1, 2, 3], [1e300, -1e300, 3e38]), Series("b", [1, 2], [1e30, 2e30])),
        "tiny": lines(Series("a", [1, 2, 3], [1e-300, 2e-300, 0.0])),
        "tiny on factors": lines(Series("a", [1, 2, 3], [1e-90, 1.0, 1e90]), y=log),
        "nothing positive": lines(Series("a", [1, 2], [0.0, -1.0]), y=log),
        "one factor": lines(Series("a", [1, 2], [0.5, 0.5]), y=log),
        "limits without room": lines(Series("a", [1, 2], [0.5, 0.6]), y=Axis("loss", low=1.0, high=1.0)),
        "data outside limits": lines(Series("a", [1, 2], [5.0, 6.0]), y=Axis("loss", low=8.0)),
        "hostile series": lines(*(Series(name, [1, 2], [1, number]) for number, name in enumerate(HOSTILE))),
        "hostile labels at ends": lines(*(Series(name, [1, 2], [1, 2]) for name in HOSTILE[:5]), x=Axis("$x$"), y=Axis("_y" * 200)),
        "many marks": lines(Series("a", [0, 100], [1, 2]), marks=[Mark(step, f"checkpoint {step}") for step in range(0, 101, 5)]),
        "a square": lines(Series("a", [0, 1], [0, 1], dashed=True), Series("b", [0.2, 0.9], [0.1, 0.95]), x=SHARE, y=SHARE),
        "no bars": bars([], []),
        "no groups": BarChart("bars", "", "", ["a", "b"], [], Axis("rows")),
        "zeros": bars(["a", "b"], [0, 0]),
        "negative bars": bars(["a", "b"], [-5, 3]),
        "bars without values": bars(["a", "b", "c"], [NAN, INF, 1e200]),
        "bars on factors": BarChart("bars", "", "", ["a", "b"], [Bars("", [10, 1e6])], Axis("rows", logarithmic=True)),
        "intervals that are not known": BarChart("bars", "", "", ["a", "b"], [Bars("", [0.5, 1], [(NAN, 1.0), (1, 1)])], SHARE),
        "hostile bars": bars(HOSTILE, [float(number) for number in range(len(HOSTILE))], texts=HOSTILE),
        "a hundred bars": bars(many, [float(number) for number in range(100)]),
        "many groups": runs(9),
        "no cells": heat([]),
        "one cell": heat(["a"]),
        "empty cells": heat(["a", "b"], None),
        "values beyond 1": heat(["a", "b"], 7.0),
        "no number": heat(["a", "b"], NAN),
        "a hundred labels": heat(many, 0.0),
        "hostile cells": heat(HOSTILE),
        "no points": scatter(),
        "points nowhere": scatter(Point("a", -1, 0.5), Point("b", NAN, 0.5), Point("c", 1, INF)),
        "one point with a name": scatter(Point("a", 0.5, 0.5, None, 0.7)),
        "hostile points": scatter(*(Point(name, 1 + number, 0.5, 0.4, 0.6) for number, name in enumerate(HOSTILE))),
        "points on one another": scatter(*(Point(f"run {number}", 1, 0.5) for number in range(60)), x=Axis("rows")),
    }  # fmt: skip
