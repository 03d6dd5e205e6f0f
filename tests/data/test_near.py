"""Near-duplicate search against brute force, also where one template wrote all texts, and how little it compares."""

from __future__ import annotations

import random
from itertools import combinations, islice

import numpy as np
import pytest

from mlxtune.data import near
from mlxtune.data.near import NEAR_JACCARD, NearIndex, ShingleSets, jaccard, near_duplicate_groups, shingles
from tests.data.test_cleaning import oracle_shingles, varied_texts


def of_a_template(rows: int, words: int = 30, seed: int = 0) -> list[str]:
    """Texts that differ in four slots, so that most pairs share a bucket and few are near-duplicates."""
    drawn = random.Random(seed)
    some = ["".join(drawn.choices("bdfgklmnprstvaeiou", k=drawn.randint(5, 10))) for _ in range(words)]

    def text() -> str:
        a, b, c = drawn.choices(some, k=3)
        return f"Since the last update the {a} module of our {b} system shows error {drawn.randint(10, 999)} on the {c} page"

    return [text() for _ in range(rows)]


def near_pairs(texts: list[str]) -> set[tuple[int, int]]:
    """All (earlier, later) near-duplicates by the definition."""
    sets = [oracle_shingles(text) for text in texts]
    return {
        (a, b)
        for a, b in combinations(range(len(texts)), 2)
        if len(sets[a] & sets[b]) >= NEAR_JACCARD * len(sets[a] | sets[b])
    }


def components(n: int, pairs: set[tuple[int, int]]) -> list[int]:
    of = list(range(n))
    for a, b in pairs:
        of = [of[a] if one == of[b] else one for one in of]
    numbers: dict[int, int] = {}
    return [numbers.setdefault(one, len(numbers)) for one in of]


@pytest.mark.parametrize(("rows", "words"), [(150, 8), (300, 14)])
def test_the_texts_of_a_template_are_found_and_grouped_as_brute_force_does(rows: int, words: int) -> None:
    texts = of_a_template(rows, words)
    expected = near_pairs(texts)
    assert 0.01 < len(expected) / (rows * (rows - 1) / 2) < 0.5
    index = NearIndex(texts)
    found: set[tuple[int, int]] = set()
    for position in range(rows):
        others = list(index.near(position))
        assert others == sorted(others)
        found.update((other, position) for other in others)
        index.add(position)
    assert found <= expected and len(found) >= 0.97 * len(expected)
    assert near_duplicate_groups(texts) == components(rows, found) == components(rows, expected)


def test_large_and_small_buckets_are_grouped_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*of_a_template(120, 12), *varied_texts(60)]
    wanted = components(len(texts), near_pairs(texts))
    for small in (1, 32, 1000):
        monkeypatch.setattr(near, "_SMALL", small)
        assert near_duplicate_groups(texts) == wanted


def test_a_template_costs_few_exact_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    similarities = ShingleSets.similarities

    def counted(self: ShingleSets, text: int, others: np.ndarray) -> np.ndarray:
        nonlocal compared
        compared += len(others)
        return similarities(self, text, others)

    monkeypatch.setattr(ShingleSets, "similarities", counted)
    costs = []
    for rows in (500, 1000):
        compared = 0
        groups = near_duplicate_groups(of_a_template(rows, words=500))
        costs.append(compared / rows)
        assert len(set(groups)) > rows / 4
    assert max(costs) < 8, "of hundreds of texts that share a bucket with each"


def test_a_search_for_the_first_compares_few() -> None:
    texts = [f"the very same words again, row {row % 10}" for row in range(2000)]
    index = NearIndex(texts)
    for position in range(1999):
        index.add(position)
    compared: list[int] = []
    sets = index._sets
    may_be_near = sets.may_be_near

    def counted(some: np.ndarray, others: np.ndarray) -> np.ndarray:
        compared.append(others.size)
        return may_be_near(some, others)

    sets.may_be_near = counted  # type: ignore[method-assign]
    assert list(islice(index.near(1999), 3)) == [0, 1, 2]
    assert sum(compared) <= 32


def test_a_search_misses_none_of_many_equal_texts() -> None:
    index = NearIndex(["reset my password"] * 700)
    for position in range(700):
        index.add(position)
    assert list(index.near(5)) == [position for position in range(700) if position != 5]


def test_bit_maps_rule_out_no_near_duplicates_and_most_others() -> None:
    long = " ".join(varied_texts(200))  # more shingles than a map has bits
    texts = [*varied_texts(150), *of_a_template(50), long, long[40:], long[:-300], "", " ", "a", "ab"]
    sets = ShingleSets(texts)
    expected = near_pairs(texts)
    pairs = np.array(list(combinations(range(len(texts)), 2)))
    possible = sets.may_be_near(pairs[:, 0], pairs[:, 1])
    are = np.array([(a, b) in expected for a, b in pairs.tolist()])
    assert are.sum() > 40 and possible[are].all()
    assert possible.sum() < 1.2 * are.sum() + 0.02 * len(pairs)


def test_similarities_are_those_of_the_definition() -> None:
    texts = [*varied_texts(30), *of_a_template(30), "", "x"]
    sets = ShingleSets(texts)
    everything = np.arange(len(texts))
    for text in (0, 31, 60, 61):
        expected = [jaccard(shingles(texts[text]), shingles(other)) for other in texts]
        assert sets.similarities(text, everything).tolist() == expected
    a, b = oracle_shingles(texts[30]), oracle_shingles(texts[31])
    assert sets.similarities(30, everything)[31] == pytest.approx(len(a & b) / len(a | b))


def test_texts_hashed_together_and_alone_have_the_same_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*varied_texts(40), "", "\0", "half a pair \ud800", "한국어 문장", "ab", "a" * 500]
    together = ShingleSets(texts)
    monkeypatch.setattr(near, "_BLOCK", 3)
    apart = ShingleSets(texts)
    assert (together.bands == apart.bands).all()
    for position, text in enumerate(texts):
        own = shingles(text)
        assert (
            own.tolist()
            == sorted(set(own.tolist()))
            == together._set(position).tolist()
            == apart._set(position).tolist()
        )


def test_texts_of_other_kinds_are_not_found() -> None:
    texts = ["please refund the second charge on my card", "please refund the second charge on my cards!"] * 3
    index = NearIndex(texts, kinds=[0, 0, 1, 1, 0, 2])
    for position in range(6):
        index.add(position)
    assert [list(index.near(position)) for position in range(6)] == [[1, 4], [0, 4], [3], [2], [0, 1], []]


def test_a_text_is_found_once_however_often_it_is_added() -> None:
    index = NearIndex(["reset my password", "reset my password!", "where is my parcel"])
    for position in (1, 2, 1, 1, 0):
        index.add(position)
    assert list(index.near(0)) == [1] and list(index.near(1)) == [0] and list(index.near(2)) == []


def test_texts_are_found_in_the_order_they_were_added_in() -> None:
    index = NearIndex(["reset my password", "reset my password!", "Reset my password", "reset, my password"])
    for position in (3, 1, 2):
        index.add(position)
    assert list(index.near(0)) == [3, 1, 2]


def test_an_extended_index_finds_what_one_made_at_once_finds() -> None:
    texts = [*of_a_template(80, 8), *varied_texts(60)]
    at_once, extended = NearIndex(texts), NearIndex(texts[:50])
    for position in range(40):
        at_once.add(position)
        extended.add(position)
    assert extended.extend(texts[50:]) == range(50, 140)
    for position in range(40, 140):
        assert list(extended.near(position)) == list(at_once.near(position))
        at_once.add(position)
        extended.add(position)


def test_an_index_of_nothing_finds_nothing() -> None:
    index = NearIndex([])
    assert index.extend(["refund me"]) == range(1) and list(index.near(0)) == []
