"""The colours of charts, by role, on white paper and on a dark screen; each role is a class of an inline SVG. Draws nothing.

The series' colours follow Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart;
on white some are darker than theirs, on dark some lighter, so that each has a contrast of 3 to its ground.
"""

from __future__ import annotations

from collections.abc import Mapping

N_SERIES = 6
N_HEATS = 10

LIGHT: Mapping[str, str] = {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "muted": "#59616b",
    "grid": "#e3e6ea",
    "series-1": "#0072b2",
    "series-2": "#d55e00",
    "series-3": "#00805d",
    "series-4": "#b5508c",
    "series-5": "#9a7500",
    "series-6": "#33383f",
    "heat-0": "#f2f6fb",
    "heat-1": "#d6e5f3",
    "heat-2": "#badaeb",
    "heat-3": "#9bc4e3",
    "heat-4": "#7db0da",
    "heat-5": "#3478b0",
    "heat-6": "#28669c",
    "heat-7": "#1f5587",
    "heat-8": "#174674",
    "heat-9": "#0f3761",
}

DARK: Mapping[str, str] = {
    "paper": "#16191d",
    "ink": "#e8eaed",
    "muted": "#a0a8b2",
    "grid": "#30363d",
    "series-1": "#56b4e9",
    "series-2": "#f08a3c",
    "series-3": "#2fbf91",
    "series-4": "#e08fc0",
    "series-5": "#e6c229",
    "series-6": "#c3c9d0",
    "heat-0": "#1d2530",
    "heat-1": "#203143",
    "heat-2": "#233d56",
    "heat-3": "#264969",
    "heat-4": "#29557c",
    "heat-5": "#6ba6d8",
    "heat-6": "#81b4e0",
    "heat-7": "#97c2e8",
    "heat-8": "#aed1ef",
    "heat-9": "#c4dff7",
}


def series_role(number: int) -> str:
    """The role of a series, counted from 0; after the last colour the first comes again."""
    return f"series-{number % N_SERIES + 1}"


def heat_role(value: float) -> str:
    """The role of a cell of a heat map, for a value of 0..1."""
    return f"heat-{_heat(value)}"


def heat_text_role(value: float) -> str:
    """The role of the text in such a cell; its contrast is 4.5 or more, in light and in dark."""
    return "ink" if _heat(value) < N_HEATS // 2 else "paper"


def _heat(value: float) -> int:
    return min(max(int(value * N_HEATS), 0), N_HEATS - 1)
