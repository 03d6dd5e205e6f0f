"""Values as text: metrics with their intervals, differences, sizes, the values of fields. The same in a terminal and on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # NumPy, which `runs` and `doctor` do not need
    from mlxtune.evaluation.metrics.estimates import Estimate
    from mlxtune.evaluation.metrics.paired import Comparison


def estimate_text(estimate: Estimate | None, digits: int = 3) -> str:
    """A metric with its interval, where it has one; "" for none."""
    if estimate is None:
        return ""
    return _with_interval(estimate.value, estimate.low, estimate.high, digits)


def difference_text(difference: Comparison | None, digits: int = 3) -> str:
    """A difference with its sign and its interval, where it has one; "" for none."""
    return (
        ""
        if difference is None
        else _with_interval(difference.difference, difference.low, difference.high, digits, "+")
    )


def signed_text(estimate: Estimate, digits: int = 3) -> str:
    """A difference that has no verdict, with its sign and its interval."""
    return _with_interval(estimate.value, estimate.low, estimate.high, digits, "+")


def _with_interval(value: float, low: float | None, high: float | None, digits: int, sign: str = "") -> str:
    def text(number: float) -> str:
        return f"{round(number, digits) + 0.0:{sign}.{digits}f}"  # -0.0 + 0.0 is 0.0: no "-0.000" for -0.0004

    return text(value) if low is None or high is None else f"{text(value)} [{text(low)}, {text(high)}]"


def amount_text(amount: float) -> str:
    """A size of 0 or more with three digits, or with its first one where these are all 0.

    >>> amount_text(0.0911), amount_text(0.0002), amount_text(0)
    ('0.091', '0.0002', '0.000')
    """
    return f"{amount:.3f}" if amount >= 0.0005 or not amount else f"{amount:.1g}"


def count_text(count: int, of: int) -> str:
    """A count and its share of a whole.

    >>> count_text(1354, 4240), count_text(0, 0)
    ('1,354 (31.9%)', '0')
    """
    return f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


def value_text(value: Any) -> str:
    """A field's value; the labels of a set one after the other."""
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


def clipped(text: str, length: int = 160) -> str:
    """The beginning of a text that is longer."""
    return text if len(text) <= length else text[: length - 3] + "..."


def size_text(n_bytes: int) -> str:
    """Bytes as a person reads them.

    >>> size_text(999), size_text(1_500_000), size_text(12_300_000_000)
    ('999 B', '1.5 MB', '12.3 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} B"
