"""Rows of one split that stand, word for word or nearly, in another: what makes a score too good. No tokens.

leaks = find_leaks({"train": rows, "test": others}, "text", lambda row: row.fields["intents"])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mlxtune.data.near import NearIndex, ShingleSets
from mlxtune.data.rows import Row

COMPARED = 16  # near-duplicates in one split: of templates there may be thousands


@dataclass(frozen=True)
class Leak:
    """A row, and the row of an earlier split that says the same or nearly so.

    Attributes:
        split: The row's split.
        row: The row.
        other_split: An earlier one.
        other: Its first row with the same text, else the most similar of its first COMPARED near-duplicates.
        exact: The texts are the same but for spaces around them.
        similarity: Jaccard similarity of their shingles, at least `near.NEAR_JACCARD`.
        same_labels: Whether both rows have the same labels.
    """

    split: str
    row: Row
    other_split: str
    other: Row
    exact: bool
    similarity: float
    same_labels: bool


def find_leaks(splits: Mapping[str, Sequence[Row]], text_column: str, labels_of: Callable[[Row], object]) -> list[Leak]:
    """Each row's best match of the same task in each split before its own; rows without text have none.

    Args:
        splits: Name -> rows, the training rows first.
        text_column: Column that holds the text.
        labels_of: What two rows must share to have the same labels.
    """
    if len(splits) < 2:
        return []
    rows = [(name, row) for name, split in splits.items() for row in split if _text(row, text_column)]
    split_of = [name for name, _ in rows]
    texts = [_text(row, text_column) for _, row in rows]
    sets = ShingleSets(texts)
    tasks: dict[object, int] = {}
    kinds = [tasks.setdefault(row.task, len(tasks)) for _, row in rows]
    first_with: dict[str, dict[tuple[int, str], int]] = {}  # split -> task and text -> its first row
    near_in: dict[str, NearIndex] = {}
    leaks: list[Leak] = []
    for name in splits:
        own = [index for index, split in enumerate(split_of) if split == name]
        for index in own:
            row = rows[index][1]
            for earlier, seen in first_with.items():
                same = seen.get((kinds[index], texts[index]))
                best = (1.0, same) if same is not None else _most_similar(index, near_in[earlier], sets)
                if best is not None:
                    other = rows[best[1]][1]
                    leaks.append(
                        Leak(name, row, earlier, other, same is not None, best[0], labels_of(row) == labels_of(other))
                    )
        first_with[name], near_in[name] = {}, NearIndex(sets, kinds)
        for index in own:
            if first_with[name].setdefault((kinds[index], texts[index]), index) == index:
                near_in[name].add(index)
    return leaks


def _most_similar(index: int, near_index: NearIndex, sets: ShingleSets) -> tuple[float, int] | None:
    """Similarity and position of the most similar of the first near-duplicates, the first of equals; None without any."""
    others = list(islice(near_index.near(index), COMPARED))
    if not others:
        return None
    similarities = sets.similarities(index, np.array(others))
    best = int(np.argmax(similarities))
    return float(similarities[best]), others[best]


def _text(row: Row, column: str) -> str:
    value: Any = row.compared(column)
    return value.strip() if isinstance(value, str) else ""
