"""Rows of one split that stand, word for word or nearly, in another: what makes a score too good. No tokens.

leaks = find_leaks({"train": rows, "test": others}, "text", lambda row: row.fields["intents"])
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.data.near import NearIndex, jaccard, shingles
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
    """Each row's best match in each split before its own; rows without text have none.

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
    near_index = NearIndex(texts)
    first_with: dict[str, dict[str, int]] = {}  # split -> text -> its first row
    leaks: list[Leak] = []
    for name in splits:
        own = [index for index, split in enumerate(split_of) if split == name]
        for index in own if first_with else []:
            exact = {split: seen[texts[index]] for split, seen in first_with.items() if texts[index] in seen}
            similar = _similar(index, texts, split_of, near_index, exact)
            for earlier in [split for split in first_with if split in exact or split in similar]:
                similarity, best = (1.0, exact[earlier]) if earlier in exact else similar[earlier]
                row, other = rows[index][1], rows[best][1]
                same_labels = labels_of(row) == labels_of(other)
                leaks.append(Leak(name, row, earlier, other, earlier in exact, similarity, same_labels))
        for index in own:
            if first_with.setdefault(name, {}).setdefault(texts[index], index) == index:
                near_index.add(index)
    return leaks


def _similar(
    index: int, texts: Sequence[str], split_of: Sequence[str], near_index: NearIndex, exact: Container[str]
) -> dict[str, tuple[float, int]]:
    """Split -> similarity and position of the best match, of splits that have no exact one."""
    found: dict[str, list[int]] = {}

    def enough(_: int, other: int) -> bool:
        return split_of[other] in exact or len(found.get(split_of[other], ())) >= COMPARED

    for other in near_index.near(index, skip=enough):
        found.setdefault(split_of[other], []).append(other)
    own = shingles(texts[index])
    return {
        split: max(((jaccard(own, shingles(texts[other])), other) for other in others), key=lambda pair: pair[0])
        for split, others in found.items()
    }


def _text(row: Row, column: str) -> str:
    value: Any = row.fields.get(column)
    return value.strip() if isinstance(value, str) else ""
