"""Scores of texts: every resample is what sacrebleu and rouge-score say of the rows that it drew."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from mlxtune.evaluation.metrics.estimates import N_RESAMPLES, resamples
from mlxtune.evaluation.metrics.texts import TextPart, text_scores, text_table
from tests.evaluation.metrics.test_text_overlap import CHINESE, ENGLISH, Ours, texts


def rows(n_rows: int = 200, words: list[str] = ENGLISH + CHINESE) -> tuple[list[str], list[str | None]]:
    """References, and what was written: near them or not, sometimes nothing."""
    rng = np.random.default_rng(5)
    expected = [text or "the" for text in texts(words, n_rows, 20, 3)]
    written: list[str | None] = []
    for right, other in zip(expected, texts(words, n_rows, 20, 4), strict=True):
        kept = " ".join(word for word in right.split() if rng.random() < 0.8)
        written.append([None, "", other, kept][rng.choice(4, p=[0.05, 0.05, 0.2, 0.7])])
    return expected, written


def test_figures_equal_those_of_rouge_score_and_sacrebleu() -> None:
    expected, written = rows()
    said = [text or "" for text in written]
    scores = text_scores(expected, written)
    oracle = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Ours())
    wanted = [oracle.score(*pair) for pair in zip(expected, said, strict=True)]
    for name in ("rouge1", "rouge2", "rougeL"):
        assert scores[name].value == pytest.approx(np.mean([one[name].fmeasure for one in wanted]), abs=1e-12)
    assert scores["bleu"].value == pytest.approx(
        BLEU(tokenize="zh").corpus_score(said, [expected]).score / 100, abs=1e-12
    )
    assert scores["chrf"].value == pytest.approx(CHRF().corpus_score(said, [expected]).score / 100, abs=1e-12)
    assert scores["invalid_rate"].value == written.count(None) / len(written)
    words = [sum(len(Ours().tokenize(text)) for text in side) for side in (said, expected)]
    assert scores["length_ratio"].value == pytest.approx(words[0] / words[1], abs=1e-12)


def test_each_resample_is_the_corpus_that_it_drew() -> None:
    expected, written = rows(60)
    said = [text or "" for text in written]
    draws = next(resamples(60, seed=1))[:8]
    got = text_table(expected, written).of(draws)
    bleu, chrf, rouge = BLEU(tokenize="zh"), CHRF(), RougeScorer(["rougeL"], tokenizer=Ours())
    for i, times in enumerate(draws.astype(int)):
        drawn = np.repeat(np.arange(60), times)
        right, wrote = [expected[row] for row in drawn], [said[row] for row in drawn]
        assert got["bleu"][i] == pytest.approx(bleu.corpus_score(wrote, [right]).score / 100, abs=1e-12)
        assert got["chrf"][i] == pytest.approx(chrf.corpus_score(wrote, [right]).score / 100, abs=1e-12)
        mean = np.mean([rouge.score(*pair)["rougeL"].fmeasure for pair in zip(right, wrote, strict=True)])
        assert got["rougeL"][i] == pytest.approx(mean, abs=1e-12)


def test_the_interval_of_bleu_is_that_of_scoring_each_resample_with_sacrebleu() -> None:
    expected, written = rows(8, ENGLISH)
    said, oracle = [text or "" for text in written], BLEU(tokenize="13a")
    drawn = np.random.default_rng(9).integers(8, size=(N_RESAMPLES, 8))
    wanted = [oracle.corpus_score([said[i] for i in one], [[expected[i] for i in one]]).score / 100 for one in drawn]
    got = text_scores(expected, written, seed=9)["bleu"]
    assert (got.low, got.high) == pytest.approx(np.percentile(wanted, [2.5, 97.5]).tolist(), abs=1e-12)


def test_signatures_say_what_to_ask_sacrebleu_for() -> None:
    chinese = text_scores(["您好", "退款"], ["您好", "x"]).signatures
    assert "tok:zh" in chinese["bleu"] and "smooth:exp" in chinese["bleu"] and "nc:6" in chinese["chrf"]
    assert "tok:13a" in text_scores(["a", "b"], ["a", "b"]).signatures["bleu"]


def test_texts_are_scored_apart_where_the_labels_are_right() -> None:
    expected, written = rows(80)
    right = [i % 3 == 0 for i in range(80)]
    scores = text_scores(expected, written, right)
    for part, wanted in ((scores.when_right, True), (scores.when_wrong, False)):
        chosen = [i for i in range(80) if right[i] is wanted]
        alone = text_scores([expected[i] for i in chosen], [written[i] for i in chosen])
        names = ("rouge1", "rouge2", "rougeL", "bleu", "chrf")
        assert part is not None and part == TextPart(len(chosen), {name: alone[name] for name in names})
        assert part["bleu"] == alone["bleu"]


def test_where_all_labels_are_right_there_is_nothing_to_say_of_the_others() -> None:
    scores = text_scores(["a", "b"], ["a", "b"], [True, True])
    assert scores.when_wrong == TextPart(0, {})
    assert scores.when_right is not None and scores.when_right.rows == 2
    assert scores.to_json()["when_wrong"] == {"rows": 0}
    unlabelled = text_scores(["a", "b"], ["a", "b"])
    assert unlabelled.when_right is None and unlabelled.when_wrong is None and "when_right" not in unlabelled.to_json()


def test_buckets_hold_every_row_once() -> None:
    expected, written = rows()
    buckets = text_scores(expected, written).buckets
    assert list(buckets) == [">0.5", "0.3-0.5", "<0.3"]
    assert sum(inside.rows for inside in buckets.values()) == 200 and all(one.rows for one in buckets.values())
    for inside in buckets.values():
        share = inside.share
        assert share.low is not None and share.high is not None
        assert share.value == inside.rows / 200 and share.low < share.value < share.high


def test_placeholders_are_counted_over_all_rows() -> None:
    expected = ["Dear <name>, call <tel_num>.", "Hello <name>.", "Hello.", "Hello <name>."]
    scores = text_scores(expected, ["Dear <name>, call [Tel Number].", "Hi.", "Hi <name>.", None])
    assert scores["placeholders_kept"].value == 1 / 4 and scores["placeholders_invented"].value == 2 / 4
    without = text_scores(["Hello.", "Hi."], ["Hello.", "Hi."])
    assert "placeholders_kept" not in without.metrics and "placeholders_kept" not in without.to_json()


def test_a_resample_without_placeholders_says_nothing_of_them() -> None:
    expected = ["Dear <name>.", "a", "b"]
    draws = np.array([[0, 3, 0], [3, 0, 0]], dtype=np.float32)
    assert text_table(expected, expected).of(draws)["placeholders_kept"].tolist() == [1, 1]


def test_a_perfect_text_leaves_room_for_rows_not_seen_but_a_length_does_not() -> None:
    expected, _ = rows(50)
    scores = text_scores(expected, expected)
    low = scores["rougeL"].low
    assert scores["rougeL"].value == 1 and low is not None and low < 1
    assert (scores["length_ratio"].low, scores["length_ratio"].high) == (1, 1)


def test_one_row_has_no_interval_and_no_row_cannot_be_scored() -> None:
    assert text_scores(["a b"], ["a c"], [True])["rouge1"].low is None
    with pytest.raises(ValueError, match="no rows"):
        text_scores([], [])
