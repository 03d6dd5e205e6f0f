"""Does a model say the same each time it is asked? Rows sampled several times; agreement, entropy and the rows that flip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlxtune.data.field_forms import Value
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.evaluation.metrics.estimates import Estimate, mean_estimate
from mlxtune.evaluation.predict.predictor import Values
from mlxtune.json_values import read_dataclass
from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class Agreement:
    """How far the samples of a row agree in one field, as means over rows.

    Attributes:
        agreement: Share of a row's samples that say what most of them say.
        entropy_bits: Entropy of the frequencies of its values.
        flip_rate: Rows whose samples do not all say the same / rows.
    """

    agreement: Estimate
    entropy_bits: Estimate
    flip_rate: Estimate


@dataclass(frozen=True)
class Flip:
    """A row whose samples do not all say the same in a field: value, as text, -> times; one that cannot be parsed is ""."""

    row: int
    file: str
    line: int
    input: str
    field: str
    values: Mapping[str, int]


@dataclass(frozen=True)
class Consistency:
    """Whether a model says the same each time it is asked. Text fields are left out: no two are alike."""

    repeats: int
    temperature: float
    fields: Mapping[str, Agreement]
    flips: Sequence[Flip]

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it under "consistency"."""
        return {
            "repeats": self.repeats,
            "temperature": self.temperature,
            "fields": {name: asdict(one) for name, one in self.fields.items()},
            "flips": [asdict(one) for one in self.flips],
        }

    @classmethod
    def from_json(cls, content: Any) -> Consistency:
        """What `to_json` says."""
        return read_dataclass(cls, content)


def consistency(
    samples: Sequence[Sequence[Values]], rows: Sequence[Row], recipe: Recipe, temperature: float
) -> Consistency:
    """How far samples agree.

    Args:
        samples: What each reply says, [row][repeat]; a reply that could not be parsed is a value of its own.
        rows: That were asked about.
        recipe: Says what the fields are; its training seed seeds the resampling.
        temperature: Of the samples.
    """
    found: dict[str, Agreement] = {}
    flips: list[Flip] = []
    for name in ReplyTemplate(recipe.output).label_fields:
        counts = [Counter(_text(values[name]) for values in repeats) for repeats in samples]
        per_row = (
            [max(count.values()) / count.total() for count in counts],
            [entropy_bits(list(count.values())) for count in counts],
            [float(len(count) > 1) for count in counts],
        )
        found[name] = Agreement(*(mean_estimate(values, recipe.train.seed) for values in per_row))
        for index, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if len(count) > 1:
                shown = next((row.fields[column] for column in recipe.prompt_columns if column in row.fields), "")
                flips.append(Flip(index, row.file, row.line, str(shown), name, dict(count.most_common())))
    return Consistency(len(samples[0]) if samples else 0, temperature, found, flips)


def entropy_bits(counts: Sequence[int]) -> float:
    """Entropy of the frequencies, -sum p log2 p: 0 where all are the same.

    >>> entropy_bits([4]), entropy_bits([2, 2]), entropy_bits([1, 1, 1, 1])
    (0.0, 1.0, 2.0)
    """
    shares = np.array(counts, np.float64) / sum(counts)
    return abs(float(-(shares * np.log2(shares)).sum()))  # abs: -0.0


def _text(value: Value | None) -> str:
    if value is None:
        return ""
    return ", ".join(value) if isinstance(value, tuple) else value
