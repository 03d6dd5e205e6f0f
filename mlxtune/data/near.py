"""Near-duplicates among texts in any script: what counts as one, and how they are found. No labels, no rows.

Two texts are near-duplicates when the Jaccard similarity of their shingle sets is at least NEAR_JACCARD. MinHash and
datasketch's LSH propose pairs, and the exact similarity decides: a pair is never reported that is not one. Chance can
only miss: at a similarity of exactly 0.7 one pair in a hundred, at 0.8 fewer than one in ten thousand.

    near_duplicate_groups(["Reset my password!", "reset my password", "Where is my parcel?"])  # [0, 0, 1]
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # it loads SciPy, half a second that most commands have no use for
    from datasketch import MinHash

NEAR_JACCARD = 0.7
BANDS, BAND_ROWS = 25, 5  # finds a pair of similarity s with probability 1 - (1 - s**5)**25
N_HASHES = BANDS * BAND_ROWS
# The estimate from N_HASHES has a standard deviation of 0.04 at 0.7: below this, an exact comparison is a waste.
_WORTH_COMPARING = NEAR_JACCARD - 0.16


class _Folding(dict[int, "str | None"]):
    """For str.translate: letters, marks and digits stay, everything else goes. Filled as characters turn up."""

    def __missing__(self, code: int) -> str | None:
        kept = chr(code) if unicodedata.category(chr(code))[0] in "LMN" else None
        self[code] = kept
        return kept


_FOLDING = _Folding()


def folded(text: str) -> str:
    """The text with case, width, punctuation and spaces taken out; the text itself when that leaves nothing.

    >>> folded("  Log-in，ＰＬＥＡＳＥ!")
    'loginplease'
    """
    return unicodedata.normalize("NFKC", text).casefold().translate(_FOLDING) or text.strip()


def shingles(text: str) -> NDArray[np.uint64]:
    """The distinct shingles of a text, sorted: two characters from a CJK one on, three from any other.

    Each character of the folded text starts one shingle, and the end of the text counts as characters. A code point
    has 21 bits, so three of them are one exact 64-bit number.
    """
    codes = np.frombuffer(folded(text).encode("utf-32-le", errors="replace"), dtype="<u4").astype(np.uint64)
    if not codes.size:
        return codes
    padded = np.append(codes, np.zeros(2, np.uint64))
    third = np.where(_is_cjk(codes), np.uint64(0), padded[2:])
    unique: NDArray[np.uint64] = np.unique(
        codes | (padded[1:-1] << np.uint64(21)) | (third << np.uint64(42)),
    )
    return unique


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Shared shingles over all shingles of two sets from `shingles`; 1.0 when both are empty."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    total = a.size + b.size - shared
    return shared / total if total else 1.0


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """A group id per text, so that near-duplicates always share one (a chain of them is one group).

    Ids count up from 0 in the order of each group's first text.
    """
    parents = list(range(len(texts)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    def joined(index: int, other: int) -> bool:
        return root(index) == root(other)

    near_index = NearIndex(texts)
    first_with: dict[str, int] = {}
    for index, text in enumerate(texts):
        same = first_with.setdefault(folded(text), index)
        if same != index:
            parents[root(index)] = root(same)
            continue
        for other in near_index.near(index, skip=joined):
            parents[root(index)] = root(other)
        near_index.add(index)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(index), len(numbers)) for index in range(len(texts))]


class NearIndex:
    """Some of a list of texts, searchable for near-duplicates of any text in the list.

    Args:
        texts: All texts that will be added or asked about, by position.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from datasketch import MinHash, MinHashLSH

        self._shingles = [shingles(text) for text in texts]
        self._signatures = _signatures(self._shingles)
        self._lsh = MinHashLSH(num_perm=N_HASHES, params=(BANDS, BAND_ROWS))
        self._minhash = MinHash(num_perm=N_HASHES)

    def add(self, index: int) -> None:
        """Make this text findable."""
        self._lsh.insert(index, self._sketch(index), check_duplication=False)

    def near(self, index: int, skip: Callable[[int, int], bool] | None = None) -> Iterator[int]:
        """The added texts that are near-duplicates of this one, earliest first, each compared when it is asked for.

        Args:
            index: The text to find others for; it need not be added.
            skip: Asked with this text and another before they are compared: True leaves the other out.
        """
        proposed = np.array(sorted(other for other in self._lsh.query(self._sketch(index)) if other != index), int)
        if not proposed.size:
            return
        agreement = (self._signatures[proposed] == self._signatures[index]).mean(axis=1)
        for other in proposed[agreement >= _WORTH_COMPARING].tolist():
            if skip is not None and skip(index, other):
                continue
            if jaccard(self._shingles[index], self._shingles[other]) >= NEAR_JACCARD:
                yield other

    def _sketch(self, index: int) -> MinHash:
        """The one MinHash, holding this text's signature: datasketch would hash shingle by shingle."""
        self._minhash.hashvalues = self._signatures[index]
        return self._minhash


def _signatures(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """MinHash signatures, (N, N_HASHES): the least of each of N_HASHES fixed hashes over each set."""
    random = np.random.default_rng(0)  # fixed: the same texts give the same groups on every machine
    multipliers = random.integers(1, 2**63, N_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 2**63, N_HASHES, dtype=np.uint64)
    out = np.zeros((len(sets), N_HASHES), np.uint64)
    for row, members in enumerate(sets):
        if members.size:
            out[row] = (_mixed(members)[:, None] * multipliers + offsets).min(axis=0) >> np.uint64(32)
    return out


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64's finalizer: neighbouring shingles become unrelated numbers."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _is_cjk(codes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Han, kana and hangul: scripts in which two characters say as much as a short word."""
    inside: NDArray[np.bool_] = (
        ((codes >= 0x3040) & (codes <= 0x30FF))
        | ((codes >= 0x3400) & (codes <= 0x9FFF))
        | ((codes >= 0xAC00) & (codes <= 0xD7AF))
        | ((codes >= 0xF900) & (codes <= 0xFAFF))
        | ((codes >= 0x20000) & (codes <= 0x3FFFF))
    )
    return inside
