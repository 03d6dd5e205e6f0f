"""Text of charts: how wide it is, shortened, and numbers as text. Draws nothing.

Widths are estimated, not measured: the page shows a figure's text in a font of its own, and no font needs to be installed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from mlxtune.report.charts import Axis

ELLIPSIS = "…"
MISSING = "–"  # stands for a value that is not there, in every language

# Control characters, halves of surrogate pairs and non-characters, which XML does not allow.
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NARROW = frozenset("iljftrI.,:;'|!()[]{}-/\\ \"`·")
_BROAD = frozenset("mwMW@%&")


def plain(text: str) -> str:
    """Text on one line that any file can hold: runs of white space become a space, what XML forbids a replacement character."""
    return " ".join(_NOT_IN_XML.sub("�", text).split())


def width(text: str, size: float) -> float:
    """About how wide a text is in most sans-serif fonts, rather too wide than too narrow.

    Args:
        text: On one line.
        size: Of the font, points.

    Returns:
        Points.
    """
    return size * sum(map(_em, text))


def shortened(text: str, size: float, limit: float) -> str:
    """A plain text no wider than a limit, with an ellipsis in its middle: names in one chart differ at their ends.

    Args:
        text: Any text.
        size: Of the font, points.
        limit: Points.
    """
    text = plain(text)
    if width(text, size) <= limit:
        return text
    kept = len(text)
    while kept > 1 and width(_without_middle(text, kept), size) > limit:
        kept -= 1
    return _without_middle(text, kept)


def tick_texts(places: Sequence[float], axis: Axis) -> list[str]:
    """The places of ticks as text, with as many decimals as tell them apart.

    Args:
        places: In the axis's unit.
        axis: Says whether they are shares.
    """
    if axis.share:
        decimals = _decimals([100 * place for place in places])
        return [_minus(f"{100 * place:,.{decimals}f}%") for place in places]
    if axis.logarithmic or _is_far_from_one(places):
        return [_short(place) for place in places]
    decimals = _decimals(places)
    return [_minus(f"{place:,.{decimals}f}") for place in places]


def value_text(value: float, axis: Axis) -> str:
    """One value as text: shares in percent, whole numbers whole, others with three digits."""
    if not math.isfinite(value):
        return MISSING
    if axis.share:
        return _minus(f"{value:.1%}")
    if value == int(value) and abs(value) < 1e9:
        return _minus(f"{value:,.0f}")
    if 0.001 <= abs(value) < 10:
        return _minus(f"{value:.3f}")
    return _minus(f"{value:,.1f}") if 10 <= abs(value) < 1e9 else _short(value)


def _em(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in _NARROW:
        return 0.4
    if character in _BROAD:
        return 0.95
    return 0.72 if character.isupper() else 0.62


def _without_middle(text: str, kept: int) -> str:
    start = (kept + 1) // 2
    end = kept - start
    return text[:start].rstrip() + ELLIPSIS + (text[-end:].lstrip() if end else "")


def _decimals(places: Sequence[float]) -> int:
    """The fewest decimals that show places as they are."""
    step = min((abs(b - a) for a, b in pairwise(places)), default=abs(places[0]) if places else 1.0)
    return next(
        (n for n in range(9) if all(abs(round(place, n) - place) <= 1e-3 * step for place in places)),
        9,
    )


def _is_far_from_one(places: Sequence[float]) -> bool:
    largest = max((abs(place) for place in places), default=0.0)
    return largest >= 1e9 or 0 < largest < 1e-3


def _short(value: float) -> str:
    """A number of any size: 0.001, 1,000, 2.5e−5."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return _minus(f"{value:,.6g}")
    mantissa, exponent = f"{value:.2e}".split("e")
    return _minus(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
