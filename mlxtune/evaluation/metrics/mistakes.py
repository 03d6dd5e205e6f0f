"""Which labels are missed, added and taken for others, counted. Strings only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class BesideMistake:
    """A label that was missed or added.

    Attributes:
        label: Which.
        beside: Another expected label; None where the missed one was expected alone.
        rows: Rows with the mistake.
        of: Of a missed label the rows that expect it with `beside`; of an added one those that expect `beside` and not it.
    """

    label: str
    beside: str | None
    rows: int
    of: int


@dataclass(frozen=True)
class Confused:
    """A label that was taken for another in `rows` of the `of` rows that expect it."""

    label: str
    taken_for: str
    rows: int
    of: int


@dataclass(frozen=True)
class LabelMistakes:
    """Kind of mistake -> the mistakes, the most frequent first."""

    kinds: Mapping[str, Sequence[BesideMistake] | Sequence[Confused]]

    def __getitem__(self, kind: str) -> Sequence[BesideMistake] | Sequence[Confused]:
        """Those of one kind."""
        return self.kinds[kind]

    def to_json(self) -> dict[str, Any]:
        """As errors.json has it."""
        return {kind: [asdict(one) for one in mistakes] for kind, mistakes in self.kinds.items()}


@dataclass(frozen=True)
class SetConfusion:
    """What sets of labels were answered with. A row that expects a label misses it where its reply does not say it.

    Attributes:
        expected: Label -> rows that expect it; of each label of the list, as in the others.
        said: Rows that were answered with it.
        hits: Rows that expect it and were answered with it.
        nothing: Rows that miss it, and were answered with no label that they do not expect.
        invalid: Rows that expect it, and whose reply could not be parsed.
        added: Rows that were answered with it, do not expect it, and miss nothing.
        instead: (label, other) -> rows that miss the label, and were answered with the other, which they do not expect.
    """

    expected: Mapping[str, int]
    said: Mapping[str, int]
    hits: Mapping[str, int]
    nothing: Mapping[str, int]
    invalid: Mapping[str, int]
    added: Mapping[str, int]
    instead: Mapping[tuple[str, str], int]


def set_confusion(
    expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str] | None], labels: Sequence[str]
) -> SetConfusion:
    """What sets of labels were answered with.

    Args:
        expected: The expected labels of each row.
        predicted: The predicted ones; None where the reply could not be parsed.
        labels: Every label that occurs.

    >>> found = set_confusion([("pay", "tell"), ("pay",)], [("pay", "ask"), ("pay", "ask")], ["pay", "tell", "ask"])
    >>> found.hits, found.instead, found.added
    ({'pay': 2, 'tell': 0, 'ask': 0}, {('tell', 'ask'): 1}, {'pay': 0, 'tell': 0, 'ask': 1})
    """
    wanted, said, hits, nothing, invalid, added = (dict.fromkeys(labels, 0) for _ in range(6))
    instead: Counter[tuple[str, str]] = Counter()
    for right, reply in zip(map(set, expected), predicted, strict=True):
        for label in right:
            wanted[label] += 1
            invalid[label] += reply is None
        if reply is None:
            continue
        missed, extra = right - set(reply), set(reply) - right
        for label in set(reply):
            said[label] += 1
            hits[label] += label in right
            added[label] += label in extra and not missed
        for label in missed:
            nothing[label] += not extra
            instead.update((label, other) for other in extra)
    return SetConfusion(wanted, said, hits, nothing, invalid, added, dict(instead))


def label_set_mistakes(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str] | None]) -> LabelMistakes:
    """Which label is missed, and which is added, beside which other. Rows that could not be parsed are left out.

    Args:
        expected: The expected labels of each row.
        predicted: The predicted ones; None where the reply could not be parsed.

    Returns:
        Of kind "missed" and "added".

    >>> found = label_set_mistakes([("pay", "tell"), ("pay", "tell"), ("pay",)], [("pay",), ("pay", "tell"), ("pay", "ask")])
    >>> found["missed"], found["added"]
    ([BesideMistake(label='tell', beside='pay', rows=1, of=2)], [BesideMistake(label='ask', beside='pay', rows=1, of=3)])
    """
    pairs: dict[str, Counter[tuple[str, str | None]]] = {kind: Counter() for kind in ("missed", "added")}
    expects: Counter[tuple[str, str | None]] = Counter()  # rows that expect a label with another, or alone
    each: Counter[str] = Counter()
    for right, said in zip(expected, predicted, strict=True):
        if said is None:
            continue
        each.update(set(right))
        for label in set(right):
            beside: list[str | None] = [other for other in right if other != label] or [None]
            expects.update((label, other) for other in beside)
            if label not in said:
                pairs["missed"].update((label, other) for other in beside)
        for label in set(said) - set(right):
            pairs["added"].update((label, other) for other in set(right))

    def n_without(label: str, beside: str | None) -> int:
        assert beside is not None
        return each[beside] - expects[beside, label]

    found: dict[str, list[BesideMistake]] = {}
    for kind, counts in pairs.items():
        mistakes = [
            BesideMistake(
                label, beside, n_rows, expects[label, beside] if kind == "missed" else n_without(label, beside)
            )
            for (label, beside), n_rows in counts.items()
        ]
        found[kind] = sorted(mistakes, key=lambda one: (-one.rows, one.of, one.label, one.beside or ""))
    return LabelMistakes(found)


def label_mistakes(expected: Sequence[str], predicted: Sequence[str | None]) -> LabelMistakes:
    """Which label is taken for which other. Rows that could not be parsed are left out.

    Returns:
        Of kind "confused".

    >>> label_mistakes(["high", "high", "low"], ["low", "high", None])["confused"]
    [Confused(label='high', taken_for='low', rows=1, of=2)]
    """
    parsed = [(right, said) for right, said in zip(expected, predicted, strict=True) if said is not None]
    expects = Counter(right for right, _ in parsed)
    confused = Counter(pair for pair in parsed if pair[0] != pair[1])
    mistakes = [Confused(label, said, n_rows, expects[label]) for (label, said), n_rows in confused.items()]
    return LabelMistakes({"confused": sorted(mistakes, key=lambda one: (-one.rows, one.of, one.label, one.taken_for))})
