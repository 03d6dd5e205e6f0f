"""Near-duplicates among texts in any script: what counts as one, and how they are found. No labels, no rows.

Two texts are near-duplicates when the Jaccard similarity of their shingle sets is at least NEAR_JACCARD. MinHash
signatures, cut into bands, propose the pairs that agree in a whole band, and the exact similarity decides: a pair is
never reported that is not one. Chance can only miss: at a similarity of exactly 0.7 one pair in a hundred, at 0.8 fewer
than one in ten thousand.

Of texts that one template wrote, nearly all pairs are proposed. So a bit map of each set comes between, which rules out
most pairs at a few nanoseconds each and never one that is near, and a search reads no more proposals than it needs.

    near_duplicate_groups(["Reset my password!", "reset my password", "Where is my parcel?"])  # [0, 0, 1]
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

NEAR_JACCARD = 0.7
BANDS, BAND_ROWS = 25, 5  # finds a pair of similarity s with probability 1 - (1 - s**5)**25
N_HASHES = BANDS * BAND_ROWS
_BLOCK = 512  # texts that are hashed at a time: a few MB of intermediate results
_SMALL = 32  # buckets of so many texts are searched all together, larger ones each by itself
_ALONE = -1  # the bucket of a text that no other shares a band with


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
    return _shingles([folded(text)])[0]


def jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    """Shared shingles over all shingles of two sets from `shingles`; 1.0 when both are empty."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    total = a.size + b.size - shared
    return shared / total if total else 1.0


def near_duplicate_groups(texts: Sequence[str]) -> list[int]:
    """A group id per text, so that near-duplicates always share one (a chain of them is one group).

    Ids count up from 0 in the order of each group's first text.
    """
    numbers: dict[str, int] = {}
    distinct = [numbers.setdefault(text, len(numbers)) for text in map(folded, texts)]
    sets = ShingleSets(list(numbers))
    groups = _Groups(len(sets))
    for band in sets.bands.T:
        order = np.argsort(band, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(band[order])) + 1, len(order))
        sizes = np.diff(ends, prepend=0)
        _join_small(order, sizes, sets, groups)
        for end, size in zip(ends[sizes > _SMALL], sizes[sizes > _SMALL], strict=True):
            _join_large(order[end - size : end], sets, groups)
    ids: dict[int, int] = {}
    return [ids.setdefault(int(groups.of[number]), len(ids)) for number in distinct]


class ShingleSets:
    """The shingle sets of a list of texts, with what finds and compares them fast. One may serve several indexes.

    Args:
        texts: Those that will be compared; below they go by their positions.

    Attributes:
        sizes: Shingles of each text, (N,).
        bands: A hash of each band of each signature, (N, BANDS): texts that agree in one are worth a comparison.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.sizes = np.zeros(len(texts), np.int64)
        self.bands = np.zeros((len(texts), BANDS), np.uint64)
        sets: list[NDArray[np.uint64]] = []
        for start in range(0, len(texts), _BLOCK):
            block = _shingles([folded(text) for text in texts[start : start + _BLOCK]])
            rows = slice(start, start + len(block))
            self.sizes[rows] = [members.size for members in block]
            self.bands[rows] = _band_hashes(block)
            sets.append(np.concatenate(block))
        self._members = np.concatenate(sets) if sets else np.zeros(0, np.uint64)
        self._ends = np.cumsum(self.sizes)
        self._bit_maps = _bit_maps(self._members, self.sizes)

    def with_texts(self, texts: Sequence[str]) -> ShingleSets:
        """These, and those of further texts after them."""
        new = ShingleSets(texts)
        both = ShingleSets([])
        both.sizes = np.concatenate([self.sizes, new.sizes])
        both.bands = np.concatenate([self.bands, new.bands])
        both._members = np.concatenate([self._members, new._members])
        both._ends = np.cumsum(both.sizes)
        both._bit_maps = _bit_maps(both._members, both.sizes)
        return both

    def __len__(self) -> int:
        return len(self.sizes)

    def near(self, text: int, others: NDArray[np.integer]) -> Iterator[int]:
        """Those of the others that are near-duplicates of this text, in their order, compared as they are asked for."""
        possible = others[self.may_be_near(np.asarray(text), others)]
        n = 4
        while possible.size:
            yield from possible[:n][self.similarities(text, possible[:n]) >= NEAR_JACCARD].tolist()
            possible, n = possible[n:], 4 * n

    def may_be_near(self, some: NDArray[np.integer], others: NDArray[np.integer]) -> NDArray[np.bool_]:
        """False only for pairs that are no near-duplicates, (M,).

        A bit that two maps differ in is the doing of at least one shingle that only one of the sets has. Sets of n
        shingles together, d of which are in one set only, have the similarity (n - d) / (n + d): at least t where
        d (1 + t) <= n (1 - t).
        """
        bits = np.bitwise_count(self._bit_maps[some] ^ self._bit_maps[others]).sum(axis=-1, dtype=np.int64)
        n, m = self.sizes[some], self.sizes[others]
        differing = np.maximum(bits, np.abs(n - m))
        possible: NDArray[np.bool_] = differing * (1 + NEAR_JACCARD) <= (n + m) * (1 - NEAR_JACCARD) + 1e-6
        return possible

    def similarities(self, text: int, others: NDArray[np.integer]) -> NDArray[np.float64]:
        """`jaccard` of one text's set with that of each of several, (M,)."""
        own = self._set(text)
        sizes = self.sizes[others]
        members = np.concatenate([self._set(other) for other in others.tolist()])
        found = np.zeros(members.size + 1, np.int64)
        if own.size:
            places = np.minimum(np.searchsorted(own, members), own.size - 1)
            np.cumsum(own[places] == members, out=found[1:])
        ends = np.cumsum(sizes)
        shared = found[ends] - found[ends - sizes]
        total = own.size + sizes - shared
        return np.where(total > 0, shared / np.maximum(total, 1), 1.0)

    def _set(self, text: int) -> NDArray[np.uint64]:
        end = self._ends[text]
        return self._members[end - self.sizes[text] : end]


class NearIndex:
    """Some of a list of texts, searchable for near-duplicates of any text in the list.

    Args:
        texts: Texts that will be added or asked about, by position; or their shingle sets.
        kinds: A number for each text, if only texts with the same number shall be found for one another.
    """

    def __init__(self, texts: Sequence[str] | ShingleSets, kinds: Sequence[int] | None = None) -> None:
        sets = texts if isinstance(texts, ShingleSets) else ShingleSets(texts)
        self._prepare(sets, np.zeros(len(sets), np.int64) if kinds is None else np.asarray(kinds, np.int64))

    def _prepare(self, sets: ShingleSets, kinds: NDArray[np.int64]) -> None:
        """Empty buckets with room for all texts."""
        self._sets, self._kinds = sets, kinds
        self._buckets = np.full((len(sets), BANDS), _ALONE, np.int32)
        sizes: list[int] = []  # of the buckets, numbered through all bands
        for column, band in enumerate(sets.bands.T):
            agreeing = np.unique(band, return_inverse=True)[1] + len(band) * kinds
            bucket, counts = np.unique(agreeing, return_inverse=True, return_counts=True)[1:]
            numbers = np.where(counts > 1, len(sizes) - 1 + np.cumsum(counts > 1), _ALONE)
            self._buckets[:, column] = numbers[bucket]
            sizes += counts[counts > 1].tolist()
        # A bucket's texts stand in `_entries` from its start on: places in `_added`, which rise.
        self._starts = np.cumsum([0, *sizes])[:-1]
        self._filled = np.zeros(len(sizes), np.int64)
        self._entries = np.zeros(sum(sizes), np.int32)
        self._added = np.zeros(len(sets), np.int32)
        self._n_added = 0
        self._is_added = np.zeros(len(sets), np.bool_)

    def extend(self, texts: Sequence[str], kinds: Sequence[int] | None = None) -> range:
        """Further texts that will be added or asked about, and their positions.

        The index is made anew, so extend it by many texts at a time.

        Args:
            kinds: Theirs, 0 by default, which is also what an index without kinds gives all texts.
        """
        first, added = len(self._sets), self._added[: self._n_added].tolist()
        new = np.zeros(len(texts), np.int64) if kinds is None else np.asarray(kinds, np.int64)
        self._prepare(self._sets.with_texts(texts), np.concatenate([self._kinds, new]))
        for index in added:
            self.add(index)
        return range(first, len(self._sets))

    def add(self, index: int) -> None:
        """Make this text findable; a second time changes nothing."""
        if self._is_added[index]:
            return
        buckets = self._buckets_of(index)
        self._entries[self._starts[buckets] + self._filled[buckets]] = self._n_added
        self._filled[buckets] += 1
        self._added[self._n_added] = index
        self._n_added += 1
        self._is_added[index] = True

    def near(self, index: int) -> Iterator[int]:
        """The added texts that are near-duplicates of this one, but for itself, in the order they were added in.

        Args:
            index: The text to find others for; it need not be added.
        """
        for entries in self._proposed(self._buckets_of(index)):
            others = self._added[entries]
            yield from self._sets.near(index, others[others != index])

    def _buckets_of(self, index: int) -> NDArray[np.int32]:
        own: NDArray[np.int32] = self._buckets[index][self._buckets[index] != _ALONE]
        return own

    def _proposed(self, buckets: NDArray[np.int32]) -> Iterator[NDArray[np.integer]]:
        """All that these buckets hold, in order and each once: a few at first, then more at a time."""
        buckets = buckets[self._filled[buckets] > 0]
        starts, filled = self._starts[buckets], self._filled[buckets]
        done, n = 0, 32
        while buckets.size and done < self._n_added:
            longer = starts[filled > n]
            # Entries below every longer bucket's entry n are among the first n of each bucket.
            until = int(self._entries[longer + n].min()) if longer.size else self._n_added
            pieces = zip(starts.tolist(), np.minimum(filled, n).tolist(), strict=True)
            found = np.concatenate([self._entries[start : start + size] for start, size in pieces])
            yield _distinct(found, done, until)
            done, n = until, 8 * n


def _distinct(numbers: NDArray[np.int32], start: int, end: int) -> NDArray[np.integer]:
    """The distinct numbers in [start, end), sorted."""
    if 8 * numbers.size < end - start:
        return np.unique(numbers[(numbers >= start) & (numbers < end)])
    present = np.zeros(end - start, np.bool_)
    present[numbers[(numbers >= start) & (numbers < end)] - start] = True
    return np.flatnonzero(present) + start


class _Groups:
    """Texts joined into groups; `of[text]` is a text's group."""

    def __init__(self, n: int) -> None:
        self.of = np.arange(n)
        self._texts = [[text] for text in range(n)]

    def join(self, one: int, other: int) -> None:
        """Make one group of the groups of two texts."""
        joined, group = sorted((int(self.of[one]), int(self.of[other])), key=lambda name: len(self._texts[name]))
        if group != joined:
            self.of[self._texts[joined]] = group
            self._texts[group] += self._texts[joined]
            self._texts[joined] = []


def _join_small(order: NDArray[np.int64], sizes: NDArray[np.int64], sets: ShingleSets, groups: _Groups) -> None:
    """Join the near-duplicates in each bucket of at most _SMALL texts.

    Args:
        order: Texts, bucket after bucket.
        sizes: Texts of each bucket.
    """
    bucket = np.repeat(np.arange(sizes.size), np.where(sizes > 1, sizes, 0))
    order = order[np.repeat(sizes > 1, sizes)]
    small = sizes[bucket] <= _SMALL
    for gap in range(1, min(_SMALL, len(order))):
        at = np.flatnonzero((bucket[gap:] == bucket[:-gap]) & small[gap:])
        pairs = np.stack([order[at], order[at + gap]])
        pairs = pairs[:, groups.of[pairs[0]] != groups.of[pairs[1]]]
        for one, other in pairs[:, sets.may_be_near(*pairs)].T.tolist():
            if groups.of[one] != groups.of[other]:
                for near in sets.near(one, np.array([other])):
                    groups.join(one, near)


def _join_large(bucket: NDArray[np.int64], sets: ShingleSets, groups: _Groups) -> None:
    """Join the near-duplicates in one bucket, all pairs of it compared that groups do not settle."""
    # First each text that no other has claimed claims its near-duplicates: of a template's texts, often all.
    rest = bucket
    while rest.size:
        head, rest = int(rest[0]), rest[1:]
        _join_to(head, rest[groups.of[rest] != groups.of[head]], sets, groups)
        rest = rest[groups.of[rest] != groups.of[head]]
    # Then each text is compared with those of later groups, the largest group last: nothing is left for it to do.
    of, sizes = np.unique(groups.of[bucket], return_inverse=True, return_counts=True)[1:]
    by_group = np.lexsort((of, sizes[of]))
    bucket, of = bucket[by_group], of[by_group]
    ends = np.zeros(sizes.size, np.int64)
    ends[of] = np.arange(1, bucket.size + 1)  # the last one of a group stays
    several = int(np.searchsorted(sizes[of], 2))  # groups of one are compared with one another already
    for text, group in zip(bucket.tolist(), of.tolist(), strict=True):
        others = bucket[max(int(ends[group]), several) :]
        if not others.size:
            break
        _join_to(text, others[groups.of[others] != groups.of[text]], sets, groups)


def _join_to(text: int, others: NDArray[np.int64], sets: ShingleSets, groups: _Groups) -> None:
    """Join to a text its near-duplicates among others."""
    for near in sets.near(text, others):
        groups.join(text, near)


def _shingles(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """`shingles` of several folded texts."""
    lengths = np.array([len(text) for text in texts], np.int64)
    padded = "\0\0".join([*texts, ""])
    codes = np.frombuffer(padded.encode("utf-32-le", errors="replace"), dtype="<u4").astype(np.uint64)
    third = np.append(codes[2:], np.zeros(2, np.uint64))
    third[_is_cjk(codes)] = 0
    second = np.append(codes[1:], np.zeros(1, np.uint64))
    grams = codes | (second << np.uint64(21)) | (third << np.uint64(42))
    starts = np.cumsum(lengths + 2) - lengths - 2
    return [
        np.unique(grams[start : start + length])
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]


def _band_hashes(sets: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """A hash of each band of each set's MinHash signature, (N, BANDS).

    A signature is the least of each of N_HASHES fixed hashes over the set; zeros for an empty one.
    """
    random = np.random.default_rng(0)  # fixed: the same texts give the same groups on every machine
    multipliers = random.integers(1, 2**63, N_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = random.integers(0, 2**63, N_HASHES, dtype=np.uint64)
    signatures = np.zeros((len(sets), N_HASHES), np.uint64)
    for row, members in enumerate(sets):
        if members.size:
            signatures[row] = (_mixed(members)[:, None] * multipliers + offsets).min(axis=0) >> np.uint64(32)
    hashes = np.zeros((len(sets), BANDS), np.uint64)
    for place in range(BAND_ROWS):
        hashes = _mixed(hashes ^ signatures[:, place::BAND_ROWS]) + np.uint64(place)
    return hashes


def _bit_maps(members: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A bit map of each set, (N, words): bit h(s) is set for each shingle s of it.

    Args:
        members: The shingles of all sets, one set after another.
        sizes: Shingles of each set, (N,).
    """
    # Four bits a shingle, so that few fall together; more would cost more than they rule out.
    mean = max(1.0, float(sizes.mean())) if sizes.size else 1.0
    n_bits = 1 << min(max(math.ceil(math.log2(4 * mean)), 8), 12)
    maps = np.zeros((len(sizes), n_bits // 64), np.uint64)
    ends = np.cumsum(sizes)
    for start in range(0, len(sizes), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = sizes[rows]
        bits = (_mixed(members[ends[start] - sizes[start] : ends[rows][-1]]) >> np.uint64(32)).astype(np.int64) % n_bits
        is_set = np.zeros((len(block), n_bits), np.bool_)
        is_set[np.repeat(np.arange(len(block)), block), bits] = True
        maps[rows] = np.packbits(is_set, axis=1).view(np.uint64)
    return maps


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
