"""A field of written text: ROUGE, BLEU, chrF, and the rows by ROUGE-L. It is neither right nor wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.field_forms import Value
from mlxtune.data.template import OPEN_BEGINNINGS
from mlxtune.evaluation.fields.scorer import Closeness, Column, Scores
from mlxtune.evaluation.metrics.bertscore import BertScore
from mlxtune.evaluation.metrics.estimates import MetricTable
from mlxtune.evaluation.metrics.mistakes import LabelMistakes
from mlxtune.evaluation.metrics.registry import selectable
from mlxtune.evaluation.metrics.text_overlap import rouge_rows
from mlxtune.evaluation.metrics.texts import RowScores, TextTable, bucket_table, text_scores, text_table
from mlxtune.recipe.sections import TextField


class TextScorer:
    """The `Scorer` of a text field."""

    has_labels = False
    closed_labels: Sequence[str] | None = None

    def __init__(self, field: TextField) -> None:
        """Of a text field, which needs no setting."""

    def is_right(self, expected: Any, predicted: Any) -> bool:
        """Always: a text is neither right nor wrong."""
        return True

    def says(self, value: Any, label: str) -> bool:
        """Never: it has no labels."""
        return False

    def scores(
        self, column: Column, seed: int, labels_right: Sequence[bool] | None = None, bertscore: BertScore | None = None
    ) -> Scores:
        """See `text_scores`."""
        encoded = None
        if bertscore is not None:
            encoded = RowScores(bertscore.rows(column.expected, column.predicted), bertscore.signature)
        return text_scores(column.expected, column.predicted, labels_right, seed, encoded)

    def table(self, column: Column) -> TextTable:
        """See `text_table`."""
        return text_table(column.expected, column.predicted)

    def part_tables(self, column: Column) -> dict[str, MetricTable]:
        """The shares of rows in each bucket of ROUGE-L: a row is in it or not, which is tested like right or wrong."""
        expected = [str(text) for text in column.expected]
        return {"": bucket_table(rouge_rows(expected, column.predicted)["rougeL"])}

    def selection_values(self, scores: Scores) -> dict[str, float]:
        """The metrics."""
        return {name: scores[name].value for name in selectable("text")}

    def mistakes(self, column: Column) -> LabelMistakes | None:
        """None: it has no labels."""
        return None

    def wrongness(self, expected: Any, predicted: Any) -> tuple[float, int]:
        """Not wrong."""
        return 0.0, 0

    def closeness(self, column: Column) -> Closeness | None:
        """ROUGE-L of each row."""
        return Closeness("rougeL", rouge_rows([str(text) for text in column.expected], column.predicted)["rougeL"])

    def options(self) -> list[Value]:
        """None: they cannot be listed."""
        return []

    def beginnings(self) -> list[Value]:
        """What stands for every kind of text."""
        return list(OPEN_BEGINNINGS)

    def from_words(self, hits: Mapping[str, int], usual: Value) -> Value:
        """No baseline writes text."""
        raise NotImplementedError("baselines of labels write no text")

    def from_probabilities(
        self, labels: Sequence[str], probabilities: NDArray[np.float64], thresholds: NDArray[np.float64] | None = None
    ) -> Value:
        """No baseline writes text."""
        raise NotImplementedError("baselines of labels write no text")
