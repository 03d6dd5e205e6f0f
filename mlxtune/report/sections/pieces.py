"""What several sections say the same way: cells with metrics and verdicts, titles of metrics, what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import PurePath

from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison, Verdict
from mlxtune.evaluation.metrics.registry import METRICS, title
from mlxtune.report.blocks import Cell, Column, Tone
from mlxtune.report.values import count_text, difference_text, estimate_text
from mlxtune.report.words import PHRASES, Words

_TONES: Mapping[Verdict, Tone] = {
    "better": "good",
    "worse": "bad",
    "too few rows": "warning",
    "too few cases": "warning",
}


def metric_title(name: str, say: Words) -> str:
    """What a report calls a metric."""
    key = f"metric.{name}"
    return say(key) if key in PHRASES else title(name)


def in_order(names: Iterable[str]) -> list[str]:
    """Those of some metrics that are a field's own, in the order in which tables show them; unknown ones last."""
    plain = [name for name in dict.fromkeys(names) if "." not in name]
    known = list(METRICS)
    return sorted(plain, key=lambda name: known.index(name) if name in known else len(known))


def tone_of(comparison: Comparison | None) -> Tone:
    """Good where ours is better, bad where it is worse, a warning where there are too few rows to tell."""
    return "neutral" if comparison is None else _TONES.get(comparison.verdict, "neutral")


def verdict_text(comparison: Comparison | None, say: Words) -> str:
    """The verdict of a comparison in a word or two; "" for none."""
    return "" if comparison is None else say(f"verdict.{comparison.verdict}")


def verdict_cells(comparison: Comparison | None, say: Words) -> tuple[Cell, Cell]:
    """A difference with its interval, and what it means."""
    return Cell(difference_text(comparison)), Cell(verdict_text(comparison, say), tone_of(comparison))


def estimate_cell(estimate: Estimate | None, bar: bool = False) -> Cell:
    """A metric with its interval.

    Args:
        estimate: None shows an empty cell.
        bar: Whether its value, 0..1, is drawn behind it.
    """
    return Cell(estimate_text(estimate), share=_bar(estimate.value) if bar and estimate is not None else None)


def rating_cell(mean: Estimate | None, lowest: int, highest: int, none: str) -> Cell:
    """A mean rating with its interval, and a bar as long as it is far from the lowest one; `none` where nothing was rated."""
    if mean is None:
        return Cell(none)
    return Cell(estimate_text(mean, digits=2), share=_bar((mean.value - lowest) / (highest - lowest)))


def share_cell(share: float, digits: int = 3) -> Cell:
    """A share of 0..1 as a number with a bar."""
    return Cell(f"{share:.{digits}f}", share=_bar(share))


def count_cell(count: int, of: int, bar: bool = True) -> Cell:
    """A count with its share of a whole, and a bar as long as that."""
    return Cell(count_text(count, of), share=count / of if bar and of else None)


def numeric(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(one, numeric=True) for one in titles)


def listed(items: Sequence[str], say: Words) -> str:
    """Items one after the other, as the language separates them."""
    return say("list.separator").join(items)


def some_listed(items: Sequence[str], say: Words, most: int = 5) -> str:
    """The first of some items, and how many more there are."""
    more = len(items) - most
    text = listed(items[:most], say)
    return say("list.more", items=text, n=more) if more > 0 else text


def together(sentences: Iterable[str], say: Words) -> str:
    """Sentences one after the other, empty ones left out."""
    return say("list.sentences").join(one for one in sentences if one)


def left_out(shown: int, of: int, say: Words) -> str:
    """What a table that shows only its beginning says below; "" where it shows all."""
    return say("count.left_out", shown=shown, n=of - shown) if shown < of else ""


def place(file: str, line: int) -> str:
    """Where a row stands, by the file's name: a page is read on other machines than it was written on.

    >>> place("/home/me/data/test.jsonl", 4)
    'test.jsonl:4'
    """
    return f"{PurePath(file).name}:{line}"


def _bar(value: float) -> float | None:
    """The length of a bar; None of what is no number."""
    return min(max(value, 0.0), 1.0) if isfinite(value) else None
