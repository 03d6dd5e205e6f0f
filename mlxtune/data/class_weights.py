"""Class weights: the factor on the loss of each label's own tokens, as given or from counts. No tokens here.

balanced_weights({"high": 3, "low": 1})   # {"high": 0.6667, "low": 2.0}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.data.field_forms import Value
from mlxtune.recipe.sections import OutputSection, TextField


@dataclass(frozen=True)
class ClassWeights:
    """The class weights of one field.

    Attributes:
        balanced: They come from the counts; else the recipe gives them.
        loss_weight: Of the field; a label's tokens weigh this times its weight.
        counts: Label -> training rows with it, repeated rows counted; the recipe's order, else the most frequent first.
        weights: Label -> weight, 1 where the recipe gives none.
    """

    balanced: bool
    loss_weight: float
    counts: Mapping[str, int]
    weights: Mapping[str, float]

    @property
    def without_rows(self) -> list[str]:
        """Labels of no training row; balanced, they weigh 1."""
        return [label for label, count in self.counts.items() if not count]

    def as_json(self) -> dict[str, Any]:
        """Count and weight of each label."""
        return {
            "balanced": self.balanced,
            "loss_weight": self.loss_weight,
            "labels": {label: {"count": count, "weight": self.weights[label]} for label, count in self.counts.items()},
        }


def class_weights(output: OutputSection, rows: Sequence[Mapping[str, Value]]) -> dict[str, ClassWeights]:
    """The class weights of every field that has any.

    Args:
        output: The recipe's.
        rows: Field -> value, of each row that is trained on, a repeated row repeatedly.
    """
    found: dict[str, ClassWeights] = {}
    for name, field in output.fields.items():
        if isinstance(field, TextField) or not field.class_weights:
            continue
        counted = Counter(label for row in rows for label in _labels(row[name]))
        given: Mapping[str, float] = {} if field.class_weights == "balanced" else field.class_weights
        labels = field.labels or [*(label for label, _ in counted.most_common()), *given]
        counts = {label: counted[label] for label in labels}
        balanced = field.class_weights == "balanced"
        weights = balanced_weights(counts) if balanced else {label: given.get(label, 1.0) for label in counts}
        found[name] = ClassWeights(balanced, field.loss_weight, counts, weights)
    return found


def balanced_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Weights by which all labels that occur count equally, and an occurrence 1 on average.

    Args:
        counts: Label -> occurrences.

    Returns:
        All occurrences / (labels that occur x occurrences of the label); 1 for a label that does not occur.

    Source:
        scikit-learn's class_weight="balanced", after King and Zeng, "Logistic Regression in Rare Events Data" (2001).
    """
    n_labels = sum(count > 0 for count in counts.values())
    total = sum(counts.values())
    return {label: total / (n_labels * count) if count else 1.0 for label, count in counts.items()}


def _labels(value: Value) -> Sequence[str]:
    return (value,) if isinstance(value, str) else value
