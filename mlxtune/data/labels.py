"""A cell of labels, as people store them, as a list. Strings only."""

from __future__ import annotations

from collections.abc import Sequence

# What people and models put between labels, whatever a template's own separator is.
ANY_SEPARATOR = ",;|\n，；、"


def split_labels(value: object, separator: str | None = None, allowed: Sequence[str] | None = None) -> list[str]:
    """The labels in one cell, in order, repeated ones repeated.

    Args:
        value: A list, or text. Text that is itself an allowed label is that label, separators in it or not.
        separator: What separates labels where it occurs; elsewhere any usual separator does.
        allowed: The labels there are, None for any.

    >>> split_labels("payment, notification")
    ['payment', 'notification']
    >>> split_labels("Billing, Payments", allowed=["Billing, Payments", "Other"])
    ['Billing, Payments']
    """
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        parts = [str(part) for part in value]
    elif allowed is not None and str(value).strip() in allowed:
        parts = [str(value)]
    elif separator and separator.strip() in str(value):
        parts = str(value).split(separator.strip())
    else:
        text = str(value)
        for mark in ANY_SEPARATOR[1:]:  # several times as fast as a regular expression
            text = text.replace(mark, ANY_SEPARATOR[0])
        parts = text.split(ANY_SEPARATOR[0])
    return list(filter(None, map(str.strip, parts)))
