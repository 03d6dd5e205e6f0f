"""What evaluation asks of a kind of output field. A new kind is a class that offers this, and a line in `kinds.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.field_forms import Value
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import MetricTable
from mlxtune.evaluation.metrics.labels import LabelScores
from mlxtune.evaluation.metrics.mistakes import LabelMistakes
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.json_values import mapping

Scores = LabelScores | TextScores


def scores_from_json(content: Any) -> Scores:
    """What the `to_json` of a field's scores says, of whichever kind it is."""
    of_texts = {"buckets", "signatures"} & mapping(content).keys()
    return TextScores.from_json(content) if of_texts else LabelScores.from_json(content)


@dataclass(frozen=True)
class Column:
    """One field of several replies.

    Attributes:
        expected: The reference of each row.
        predicted: What each reply says; None where it holds nothing that the field allows.
        repeated: Whether each reply says a label again, or loops.
    """

    expected: Sequence[Any]
    predicted: Sequence[Any]
    repeated: Sequence[bool]


@dataclass(frozen=True)
class Closeness:
    """How near each reply is to its reference, (rows,), by a metric of that name."""

    metric: str
    values: NDArray[np.float64]


class Scorer(Protocol):
    """One output field, as evaluation sees it.

    Attributes:
        has_labels: Whether its values are labels, which are right or wrong; texts are neither.
        closed_labels: Its label list; None of an open list, or where there are no labels.
    """

    has_labels: bool
    closed_labels: Sequence[str] | None

    def is_right(self, expected: Any, predicted: Any) -> bool:
        """Whether a value is the reference; of a field without labels always."""

    def says(self, value: Any, label: str) -> bool:
        """Whether a value says a label."""

    def scores(
        self, column: Column, seed: int, labels_right: Sequence[bool] | None = None, bertscore: BertScore | None = None
    ) -> Scores:
        """The metrics of a column.

        Args:
            column: At least one row.
            seed: Of the resampling.
            labels_right: Whether every closed label of each row is right; None where the recipe has no such field.
            bertscore: Scores texts as well.
        """

    def table(self, column: Column) -> MetricTable:
        """The same metrics for any draw of the rows."""

    def part_tables(self, column: Column) -> dict[str, MetricTable]:
        """Metrics over parts of the rows, or of them: what their dotted names begin with -> table."""

    def selection_values(self, scores: Scores) -> dict[str, float]:
        """What a checkpoint may be selected by: metric -> value, and `recall.LABEL` and the like."""

    def mistakes(self, column: Column) -> LabelMistakes | None:
        """Which labels are taken for which; None where there are no labels."""

    def wrongness(self, expected: Any, predicted: Any) -> tuple[float, int]:
        """How wrong a value is: the share of labels, among those expected or predicted, that are not both; their number."""

    def closeness(self, column: Column) -> Closeness | None:
        """How near each text is to its reference; None where values are right or wrong."""

    def options(self) -> list[Value]:
        """Every value that the field may have; none where they cannot be listed."""

    def beginnings(self) -> list[Value]:
        """Values that stand for all that the field may begin with."""

    def from_words(self, hits: Mapping[str, int], usual: Value) -> Value:
        """The answer of a keyword baseline.

        Args:
            hits: Label -> how many of its words are in the text, in the labels' order.
            usual: The most frequent value of the training rows.
        """

    def from_probabilities(
        self, labels: Sequence[str], probabilities: NDArray[np.float64], thresholds: NDArray[np.float64] | None = None
    ) -> Value:
        """The answer of a classifier.

        Args:
            labels: The labels.
            probabilities: Of each, (labels,).
            thresholds: From which on each is given, (labels,); None is the kind's own rule.
        """
