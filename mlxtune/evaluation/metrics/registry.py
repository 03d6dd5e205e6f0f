"""All metrics by name, in the order in which tables show them. Computes none of them.

A metric is declared once: those of labels in `labels.py` and of texts in `texts.py`, beside their formulas, those of whole
replies in `metric.py`. Whoever needs a title, a direction or a test asks here.

    METRICS["invalid_rate"].direction  # 'lower'
"""

from __future__ import annotations

from collections.abc import Iterable

from mlxtune.evaluation.metrics.labels import LABEL_METRICS
from mlxtune.evaluation.metrics.metric import (
    ALL_FIELDS_CORRECT,
    CALIBRATION_ERROR,
    FAULTS,
    OF_LABELS,
    OF_SPEED,
    Metric,
)
from mlxtune.evaluation.metrics.texts import TEXT_METRICS

METRICS = {one.name: one for one in (*LABEL_METRICS, *TEXT_METRICS, *FAULTS, ALL_FIELDS_CORRECT)}
_FURTHER = {one.name: one for one in (*OF_LABELS.values(), CALIBRATION_ERROR, *OF_SPEED)}


def metric(name: str) -> Metric:
    """The metric of a name; one that nobody declared is taken to be a mean that is better the higher it is."""
    return METRICS.get(name) or _FURTHER.get(name) or Metric(name, name.replace("_", " "))


def title(name: str) -> str:
    """What tables call a metric."""
    return metric(name).title


def headline(names: Iterable[str]) -> str | None:
    """The one of a field's metrics by which it is called better or worse; None where it has none of these.

    >>> headline(["macro_f1", "accuracy", "invalid_rate"])
    'accuracy'
    """
    known = set(names)
    return next((one.name for one in METRICS.values() if one.headline and one.name in known), None)


def selectable(kind: str) -> tuple[str, ...]:
    """The metrics of a kind of field by which a checkpoint may be selected.

    >>> selectable("label")
    ('accuracy', 'macro_f1', 'invalid_rate')
    """
    return tuple(one.name for one in METRICS.values() if kind in one.selects)
