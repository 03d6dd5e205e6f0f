"""Metrics of written text, row by row, over strings and NumPy arrays. No model, no recipe, no files.

ROUGE is a metric of each row. BLEU and chrF are not: they are made of counts summed over rows, so each row gives its
counts here, and `bleu` and `chrf` turn sums of them into the metric. They equal rouge-score's and sacrebleu's own, but
for ROUGE's tokenizer: rouge-score's default drops every letter that is not ASCII. rouge-score compares two replies of 150
words in some 10 ms; the bit-parallel subsequence below takes less than a hundredth of that.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUGE = ("rouge1", "rouge2", "rougeL")
BLEU_ORDER = 4  # longest n-gram of words
CHRF_ORDER = 6  # longest n-gram of characters
CHRF_BETA = 2  # how many times recall counts as much as precision
N_BLEU_COUNTS = 2 + 2 * BLEU_ORDER
N_CHRF_COUNTS = 3 * CHRF_ORDER
PLACEHOLDER = re.compile(r"<[a-z][a-z0-9_]*>")
# What a model writes where it should have written a placeholder: [Tel Number], <Your Name>, {name}. A link's text is none.
LOOK_ALIKE = re.compile(r"<[^\W\d_][\w -]{0,40}>|\[[^\W\d_][\w -]{0,40}\](?!\()|\{[^\W\d_][\w -]{0,40}\}")
ROUGE_L_BUCKETS = (">0.5", "0.3-0.5", "<0.3")


def rouge_rows(expected: Sequence[str], predicted: Sequence[str | None]) -> dict[str, Floats]:
    """ROUGE F1 of each row, 0..1.

    Args:
        expected: The reference of each row.
        predicted: What was written; None where there is nothing, which scores 0 as an empty text does.

    Returns:
        'rouge1', 'rouge2' and 'rougeL', (rows,) each.

    Source:
        Lin (2004); the arithmetic is rouge-score's, without stemming.

    >>> [round(float(rows[0]), 3) for rows in rouge_rows(["the cat sat"], ["the cat ran"]).values()]
    [0.667, 0.5, 0.667]
    """
    found = np.zeros((len(ROUGE), len(expected)))
    for i, (right, said) in enumerate(zip(expected, predicted, strict=True)):
        if said is not None:
            found[:, i] = _rouge(tokens(right), tokens(said))
    return dict(zip(ROUGE, found, strict=True))


def tokens(text: str) -> list[str]:
    """The words that ROUGE compares.

    On ASCII text these are rouge-score's own: runs of letters and digits in lower case. Chinese, Japanese and Korean is
    split into characters, as there are no spaces to split it at; other scripts' letters, marks and digits make words.

    >>> tokens("Dear <name>, it's 5 GB."), tokens("退款 OK"), tokens("Café Größe")
    (['dear', 'name', 'it', 's', '5', 'gb'], ['退', '款', 'ok'], ['café', 'größe'])
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.lower().translate(_SPACED).split()


def cjk_apart(text: str) -> str:
    """The text with spaces around each Chinese, Japanese and Korean character; any other text as it is.

    >>> cjk_apart("退款 OK").split(), cjk_apart("Café, OK")
    (['退', '款', 'OK'], 'Café, OK')
    """
    return text if text.isascii() else _CJK.sub(r" \g<0> ", text)


def bucket_of(rouge_l: float) -> str:
    """The one of `ROUGE_L_BUCKETS` that a row's ROUGE-L is in: good, middling or poor.

    >>> bucket_of(0.51), bucket_of(0.5), bucket_of(0.3), bucket_of(0.29)
    ('>0.5', '0.3-0.5', '0.3-0.5', '<0.3')
    """
    good, middling, poor = ROUGE_L_BUCKETS
    return good if rouge_l > 0.5 else middling if rouge_l >= 0.3 else poor


def bleu_counts(right: str, said: str, tokenize: Callable[[str], str]) -> list[int]:
    """What one row adds to BLEU.

    Args:
        right: The reference.
        said: What was written.
        tokenize: sacrebleu's: puts a space between tokens.

    Returns:
        Tokens of what was written, of the reference; then for 1 to `BLEU_ORDER` words how many n-grams of what was
        written the reference has, and how many were written.
    """
    ours, theirs = tokenize(said.rstrip()).split(), tokenize(right.rstrip()).split()
    shared, written = [], []
    for size in range(1, BLEU_ORDER + 1):
        shared.append(_shared(_grams(theirs, size), _grams(ours, size)))
        written.append(max(0, len(ours) - size + 1))
    return [len(ours), len(theirs), *shared, *written]


def bleu(counts: Floats) -> Floats:
    """Corpus BLEU of summed counts, 0..1: sacrebleu's score / 100.

    Args:
        counts: Sums of `bleu_counts`, (..., `N_BLEU_COUNTS`).

    Source:
        Papineni et al. (2002) with exponential smoothing of n-gram lengths without a match, as sacrebleu does by default.
    """
    n_said, n_right = counts[..., 0], counts[..., 1]
    shared, written = counts[..., 2 : 2 + BLEU_ORDER], counts[..., 2 + BLEU_ORDER :]
    missed = np.cumsum((shared == 0) & (written > 0), axis=-1)  # so many lengths up to this one have no match
    smoothed = np.where(shared == 0, 0.5**missed, shared)
    precision = _divided(smoothed, written)
    brevity = np.where(n_said < n_right, np.exp(np.minimum(0.0, 1 - _divided(n_right, n_said))), 1.0)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(precision).mean(-1))  # 0 where the texts are too short for the longest n-grams
    found: Floats = np.where(shared.any(-1) & (n_said > 0), brevity * mean, 0.0)
    return found


def chrf_counts(right: str, said: str) -> list[int]:
    """What one row adds to chrF, white space left out.

    Returns:
        For 1 to `CHRF_ORDER` characters: n-grams written, n-grams of the reference, and how many of them agree.
    """
    ours, theirs = "".join(said.split()), "".join(right.split())
    found: list[int] = []
    for size in range(1, CHRF_ORDER + 1):
        n_ours, n_theirs = max(0, len(ours) - size + 1), max(0, len(theirs) - size + 1)
        # As sacrebleu: what was written does not count where the reference is too short to have such n-grams.
        shared = _shared(_pieces(theirs, size), _pieces(ours, size)) if n_ours and n_theirs else 0
        found += [n_ours if n_theirs else 0, n_theirs, shared]
    return found


def chrf(counts: Floats) -> Floats:
    """Corpus chrF of summed counts, 0..1: sacrebleu's score / 100.

    Args:
        counts: Sums of `chrf_counts`, (..., `N_CHRF_COUNTS`).

    Source:
        Popovic (2015), with beta 2 and the mean over the n-gram lengths that both sides have.
    """
    said, right, shared = counts[..., 0::3], counts[..., 1::3], counts[..., 2::3]
    both = (said > 0) & (right > 0)
    n_lengths = both.sum(-1)
    precision = _divided(np.where(both, _divided(shared, said), 0.0).sum(-1), n_lengths)
    recall = _divided(np.where(both, _divided(shared, right), 0.0).sum(-1), n_lengths)
    return _divided((1 + CHRF_BETA**2) * precision * recall, CHRF_BETA**2 * precision + recall)


def placeholders(right: str, said: str) -> tuple[int, int, bool]:
    """What became of the placeholders, such as <name>, that a reference has.

    Returns:
        How many different ones the reference has; how many of these were written; and whether any was invented, which
        looks like a placeholder and is not in the reference.

    >>> placeholders("Call <name> at <tel_num>.", "Call <name> at [Tel Number].")
    (2, 1, True)
    """
    wanted = set(PLACEHOLDER.findall(right))
    written = set(PLACEHOLDER.findall(said))
    invented = (written | set(LOOK_ALIKE.findall(said))) - wanted
    return len(wanted), len(wanted & written), any(one not in right for one in invented)


def bleu_tokenizer(references: Iterable[str]) -> str:
    """Name of sacrebleu's tokenizer for references: 'char', 'zh' or '13a'.

    'char' where most of them hold Japanese or Korean, whose own tokenizers need dictionaries of their own; else 'zh' where
    any holds Chinese (it treats all else as '13a' does); else '13a'.

    >>> bleu_tokenizer(["Good morning."]), bleu_tokenizer(["您好。", "ok"]), bleu_tokenizer(["お願いします"])
    ('13a', 'zh', 'char')
    """
    references = list(references)
    n_syllables = sum(_SYLLABLES.search(text) is not None for text in references)
    if n_syllables * 2 > len(references):
        return "char"
    return "zh" if any(_HAN.search(text) for text in references) else "13a"


def common_subsequence(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token lists.

    A row of the usual table differs from the row above by at most one a cell; those steps are the bits of one whole
    number, so that a row costs a handful of operations.

    Source:
        Hyyroe (2004), "Bit-parallel LCS-length computation revisited".

    >>> common_subsequence("a b c d".split(), "b x d a".split())
    2
    """
    places: dict[str, int] = {}
    for i, token in enumerate(ours):
        places[token] = places.get(token, 0) | 1 << i
    every = (1 << len(ours)) - 1
    flat = every  # bit i is 0 where the table steps up at column i
    for token in theirs:
        matched = flat & places.get(token, 0)
        if matched:
            flat = (flat + matched | flat - matched) & every
    return len(ours) - flat.bit_count()


# Details ---------------------------------------------------------------------------------------------------------


class _Spaced(dict[int, str]):
    """What each character becomes before text is split at spaces, found when it is first seen."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _CJK.match(character):
            found = f" {character} "
        elif unicodedata.category(character)[0] in "LMN":  # a letter, a mark upon one, a digit
            found = character
        else:
            found = " "
        self[code] = found
        return found


_SPACED = _Spaced()


_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_SYLLABLES = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\uac00-\ud7af]")  # Hangul and kana
_CHARACTERS = (
    (0x1100, 0x11FF),  # Hangul letters
    (0x3005, 0x3007),  # iteration mark, closing mark, zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3100, 0x31BF),  # Bopomofo, Hangul letters
    (0x31F0, 0x31FF),  # Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA960, 0xA97F),  # Hangul
    (0xAC00, 0xD7FF),
    (0xF900, 0xFAFF),  # Han
    (0x20000, 0x323AF),
)
_CJK = re.compile(f"[{''.join(f'{chr(first)}-{chr(last)}' for first, last in _CHARACTERS)}]")


def _rouge(right: list[str], said: list[str]) -> tuple[float, float, float]:
    if not right or not said:
        return 0.0, 0.0, 0.0
    return (
        _f1(_shared(right, said), len(right), len(said)),
        _f1(_shared(list(pairwise(right)), list(pairwise(said))), len(right) - 1, len(said) - 1),
        _f1(common_subsequence(right, said), len(right), len(said)),
    )


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(size)), strict=False))


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(len(text) - size + 1)]


def _divided(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> Floats:
    """Numerator / denominator, and 0 where the denominator is 0."""
    quotient: Floats = np.zeros(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)))
    np.divide(numerator, denominator, out=quotient, where=np.asarray(denominator) > 0)
    return quotient


def _shared(right: Sequence[object], said: Sequence[object]) -> int:
    """How many items both have, each as often as the one that has it less often."""
    counts = Counter(right)
    return sum(min(n, counts[item]) for item, n in Counter(said).items() if item in counts)


def _f1(n_shared: int, n_right: int, n_said: int) -> float:
    if not n_shared:
        return 0.0
    precision, recall = n_shared / n_said, n_shared / n_right
    return 2 * precision * recall / (precision + recall)
