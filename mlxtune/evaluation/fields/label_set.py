"""A field with a set of labels: exact and partial match, F1, and the rows by number of expected labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.field_forms import Value
from mlxtune.data.template import OPEN_BEGINNINGS
from mlxtune.evaluation.fields.label import label_selection_values, set_distance
from mlxtune.evaluation.fields.scorer import Closeness, Column, Scores
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import Means, MetricTable
from mlxtune.evaluation.metrics.labels import LabelTable, label_set_scores, label_set_table
from mlxtune.evaluation.metrics.mistakes import LabelMistakes, label_set_mistakes
from mlxtune.recipe.sections import LabelsField

MAX_SETS = 64  # that can be listed; five labels and one that stands alone make 32
THRESHOLD = 0.5  # of a label's probability, from which on a classifier gives it


class LabelSetScorer:
    """The `Scorer` of a field with a set of labels."""

    has_labels = True

    def __init__(self, field: LabelsField) -> None:
        self.closed_labels: Sequence[str] | None = field.labels
        self._exclusive = field.exclusive

    def is_right(self, expected: Any, predicted: Any) -> bool:
        """Whether the set is the expected one, in any order."""
        return predicted is not None and set(expected) == set(predicted)

    def says(self, value: Any, label: str) -> bool:
        """Whether the label is in the set."""
        return label in (value or ())

    def scores(
        self, column: Column, seed: int, labels_right: Sequence[bool] | None = None, bertscore: BertScore | None = None
    ) -> Scores:
        """See `label_set_scores`."""
        return label_set_scores(column.expected, column.predicted, column.repeated, self.closed_labels, seed)

    def table(self, column: Column) -> LabelTable:
        """See `label_set_table`."""
        return label_set_table(column.expected, column.predicted, column.repeated, self.closed_labels)

    def part_tables(self, column: Column) -> dict[str, MetricTable]:
        """Exact match over the rows that expect equally many labels, which are the same rows whoever answered."""
        expected = [tuple(labels or ()) for labels in column.expected]
        sizes = np.array([len(set(labels)) for labels in expected])
        exact = label_set_table(expected, column.predicted, [False] * len(expected), None).rows["exact_match"]
        return {
            f"by_count.{size}.": Means({"exact_match": exact[sizes == size]}) for size in sorted(set(sizes.tolist()))
        }

    def selection_values(self, scores: Scores) -> dict[str, float]:
        """The metrics, and precision, recall and F1 of each label."""
        return label_selection_values("labels", scores)

    def mistakes(self, column: Column) -> LabelMistakes | None:
        """Which label is missed, and which is added, beside which other."""
        return label_set_mistakes(column.expected, column.predicted)

    def wrongness(self, expected: Any, predicted: Any) -> tuple[float, int]:
        """How far the two sets are apart."""
        return set_distance(set(expected), set(predicted or ()))

    def closeness(self, column: Column) -> Closeness | None:
        """None: a set is right or wrong."""
        return None

    def options(self) -> list[Value]:
        """Every allowed set in canonical order; none of an open list, or where there are more than `MAX_SETS`."""
        if self.closed_labels is None:
            return []
        several = [label for label in self.closed_labels if label != self._exclusive]
        alone: list[Value] = [] if self._exclusive is None else [(self._exclusive,)]
        if 2 ** len(several) - 1 + len(alone) > MAX_SETS:
            return []
        sets: list[Value] = [one for size in range(1, len(several) + 1) for one in combinations(several, size)]
        return [*sets, *alone]

    def beginnings(self) -> list[Value]:
        """Each label alone; of an open list what stands for every kind of text."""
        return [(label,) for label in self.closed_labels or OPEN_BEGINNINGS]

    def from_words(self, hits: Mapping[str, int], usual: Value) -> Value:
        """The labels with a word in the text; without any the exclusive label, where there is one, else the usual set."""
        found = [label for label, n_hits in hits.items() if n_hits]
        found = [label for label in found if label != self._exclusive] or found
        if not found:
            return usual if self._exclusive is None else (self._exclusive,)
        return tuple(found)

    def from_probabilities(
        self, labels: Sequence[str], probabilities: NDArray[np.float64], thresholds: NDArray[np.float64] | None = None
    ) -> Value:
        """The labels that reach their threshold, `THRESHOLD` for all without any, or the most probable one.

        The exclusive label stands alone if it is the most probable of these, and is left out beside a more probable one.
        """
        reached = probabilities >= (THRESHOLD if thresholds is None else thresholds)
        best = int(np.where(reached, probabilities, -1.0).argmax() if reached.any() else probabilities.argmax())
        if labels[best] == self._exclusive or not reached.any():
            return (labels[best],)
        chosen = [label for label, is_reached in zip(labels, reached, strict=True) if is_reached]
        return tuple(label for label in chosen if label != self._exclusive)
