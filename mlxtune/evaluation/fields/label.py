"""A field with one label: accuracy, macro-F1 and its confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.field_forms import Value
from mlxtune.evaluation.fields.scorer import Closeness, Column, Scores
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import MetricTable
from mlxtune.evaluation.metrics.labels import LabelScores, LabelTable, label_scores, label_table
from mlxtune.evaluation.metrics.mistakes import LabelMistakes, label_mistakes
from mlxtune.evaluation.metrics.registry import selectable
from mlxtune.recipe.sections import LabelField


class LabelScorer:
    """The `Scorer` of a label field."""

    has_labels = True

    def __init__(self, field: LabelField) -> None:
        self.closed_labels: Sequence[str] | None = field.labels
        self._labels = field.labels

    def is_right(self, expected: Any, predicted: Any) -> bool:
        """Whether the label is the expected one."""
        return predicted is not None and bool(expected == predicted)

    def says(self, value: Any, label: str) -> bool:
        """Whether it is this label."""
        return bool(value == label)

    def scores(
        self, column: Column, seed: int, labels_right: Sequence[bool] | None = None, bertscore: BertScore | None = None
    ) -> Scores:
        """See `label_scores`."""
        return label_scores(column.expected, column.predicted, column.repeated, self._labels, seed)

    def table(self, column: Column) -> LabelTable:
        """See `label_table`."""
        return label_table(column.expected, column.predicted, column.repeated, self._labels)

    def part_tables(self, column: Column) -> dict[str, MetricTable]:
        """None: every row has one label."""
        return {}

    def selection_values(self, scores: Scores) -> dict[str, float]:
        """The metrics, and precision, recall and F1 of each label."""
        return label_selection_values("label", scores)

    def mistakes(self, column: Column) -> LabelMistakes | None:
        """Which label is taken for which other."""
        return label_mistakes(column.expected, column.predicted)

    def wrongness(self, expected: Any, predicted: Any) -> tuple[float, int]:
        """1 of 2 labels, or of 1 where nothing was said."""
        return set_distance({expected}, set() if predicted is None else {predicted})

    def closeness(self, column: Column) -> Closeness | None:
        """None: a label is right or wrong."""
        return None

    def options(self) -> list[Value]:
        """The labels."""
        return list(self._labels)

    def beginnings(self) -> list[Value]:
        """The labels."""
        return list(self._labels)

    def from_words(self, hits: Mapping[str, int], usual: Value) -> Value:
        """The label with most words in the text, of equal ones the first; the usual one without any."""
        found = [label for label, n_hits in hits.items() if n_hits]
        return max(found, key=lambda label: hits[label]) if found else usual

    def from_probabilities(
        self, labels: Sequence[str], probabilities: NDArray[np.float64], thresholds: NDArray[np.float64] | None = None
    ) -> Value:
        """The most probable label of those that reach their threshold; of all, where none does."""
        if thresholds is not None and (reached := probabilities >= thresholds).any():
            probabilities = np.where(reached, probabilities, -1.0)
        return labels[int(probabilities.argmax())]


def label_selection_values(kind: str, scores: Scores) -> dict[str, float]:
    """The metrics of a kind of field with labels, and precision, recall and F1 of each label."""
    assert isinstance(scores, LabelScores)
    found = {name: scores[name].value for name in selectable(kind)}
    for label, one in scores.labels.items():
        found |= {f"precision.{label}": one.precision, f"recall.{label}": one.recall, f"f1.{label}": one.f1}
    return found


def set_distance(expected: set[str], predicted: set[str]) -> tuple[float, int]:
    """Labels that are not in both, as a share of those in either; and their number."""
    apart = len(expected ^ predicted)
    return apart / max(1, len(expected | predicted)), apart
