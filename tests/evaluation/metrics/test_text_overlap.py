"""ROUGE, BLEU and chrF against rouge-score and sacrebleu, in English, Chinese and Japanese; and what a placeholder is."""

from __future__ import annotations

import string

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mlxtune.evaluation.metrics.text_overlap import (
    ROUGE,
    bleu,
    bleu_counts,
    bleu_tokenizer,
    bucket_of,
    chrf,
    chrf_counts,
    common_subsequence,
    placeholders,
    rouge_rows,
    tokens,
)

ENGLISH = ["the", "cat", "don't", "3.5", "(ok),", "<name>", "A-B", "café", "A_b", "..."]
CHINESE = ["退款", "，", "您好", "ok", "3.5", "订单", "<name>"]
JAPANESE = ["お願い", "する", "안녕", "注文"]


class Ours:
    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


def texts(words: list[str], n_rows: int, longest: int, seed: int) -> list[str]:
    """Rows of 0 to `longest` words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, size=rng.integers(0, longest + 1))) for _ in range(n_rows)]


@pytest.mark.parametrize("words", [ENGLISH, CHINESE, ENGLISH + CHINESE])
def test_rouge_equals_rouge_score_to_the_last_bit(words: list[str]) -> None:
    expected, written = texts(words, 200, 30, 1), texts(words, 200, 30, 2)
    oracle = RougeScorer(list(ROUGE), tokenizer=Ours())
    got = rouge_rows(expected, written)
    for i, (right, said) in enumerate(zip(expected, written, strict=True)):
        wanted = oracle.score(right, said)
        assert {name: got[name][i] for name in ROUGE} == {name: wanted[name].fmeasure for name in ROUGE}, (right, said)
    assert 0.1 < got["rougeL"].mean() < 0.9


def test_ascii_words_are_those_of_rouge_score() -> None:
    rng, oracle = np.random.default_rng(0), DefaultTokenizer(use_stemmer=False)
    for _ in range(300):
        text = "".join(rng.choice(list(string.printable), size=60))
        assert tokens(text) == oracle.tokenize(text), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("退款到账了吗？OK", ["退", "款", "到", "账", "了", "吗", "ok"]),
        ("ご注文カード", ["ご", "注", "文", "カ", "ー", "ド"]),
        ("환불 부탁", ["환", "불", "부", "탁"]),
        ("Größe, naïve Straße", ["größe", "naïve", "straße"]),
        ("Cafe\u0301", ["café"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ＡＢＣ　１２３", ["abc", "123"]),
        ("😀 — …", []),
    ],
)
def test_other_scripts_have_words_too(text: str, words: list[str]) -> None:
    assert tokens(text) == words


def test_what_was_not_written_scores_0() -> None:
    for values in rouge_rows(["a b", "a b", "!!", "a b"], [None, "", "!!", "a b"]).values():
        assert values.tolist() == [0, 0, 0, 1]


def test_the_longest_common_subsequence_is_that_of_the_usual_table() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        ours, theirs = (list(rng.choice(list("abcde"), size=rng.integers(0, 70))) for _ in range(2))
        table = np.zeros((len(ours) + 1, len(theirs) + 1), dtype=int)
        for i, a in enumerate(ours):
            for j, b in enumerate(theirs):
                table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
        assert common_subsequence(ours, theirs) == table[-1, -1]


@pytest.mark.parametrize(("tokenizer", "words"), [("13a", ENGLISH), ("zh", CHINESE), ("char", JAPANESE)])
@pytest.mark.parametrize("longest", [2, 5, 25])
def test_bleu_and_chrf_equal_sacrebleu(tokenizer: str, words: list[str], longest: int) -> None:
    oracle, oracle_chrf = BLEU(tokenize=tokenizer), CHRF()
    for seed in range(20):
        expected, written = texts(words, 8, longest, seed), texts(words, 8, longest, seed + 100)
        pairs = list(zip(expected, written, strict=True))
        counts = np.sum([bleu_counts(*pair, oracle.tokenizer) for pair in pairs], axis=0)
        wanted = oracle.corpus_score(written, [expected]).score
        assert 100 * bleu(counts.astype(float)) == pytest.approx(wanted, abs=1e-9)
        counts = np.sum([chrf_counts(*pair) for pair in pairs], axis=0)
        wanted = oracle_chrf.corpus_score(written, [expected]).score
        assert 100 * chrf(counts.astype(float)) == pytest.approx(wanted, abs=1e-9)


def test_the_tokenizer_of_bleu_follows_the_references() -> None:
    english, chinese, japanese = ["good day"] * 9, ["您好"], ["はい"]
    assert bleu_tokenizer(english) == "13a"
    assert bleu_tokenizer(english + chinese) == "zh"
    assert bleu_tokenizer(english + japanese) == "13a"  # one row in ten does not cut English into letters
    assert bleu_tokenizer(japanese) == "char"


@pytest.mark.parametrize(
    ("right", "said", "found"),
    [
        ("Dear <name>, call <tel_num> or <tel_num>.", "<name>: <tel_num>", (2, 2, False)),
        ("Dear <name>.", "Dear <name>, call <tel_num>.", (1, 1, True)),
        ("Call <tel_num>.", "Call [Tel Number].", (1, 0, True)),
        ("Hello <name>.", "Hello <Name>.", (1, 0, True)),
        ("Hello.", "Hello {name}.", (0, 0, True)),
        ("See [Docs].", "See [Docs].", (0, 0, False)),
        ("See it.", "See [the page](https://example.org), a < b, x[1] and {}.", (0, 0, False)),
        ("您好 <name>", "您好 [姓名]", (1, 0, True)),
    ],
)
def test_placeholders_are_kept_or_invented(right: str, said: str, found: tuple[int, int, bool]) -> None:
    assert placeholders(right, said) == found


def test_buckets_meet_at_three_tenths_and_a_half() -> None:
    assert [bucket_of(value) for value in (0.0, 0.2999, 0.3, 0.5, 0.5001, 1.0)] == [
        "<0.3",
        "<0.3",
        "0.3-0.5",
        "0.3-0.5",
        ">0.5",
        ">0.5",
    ]
