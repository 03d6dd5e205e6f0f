"""Paired comparisons against SciPy's binomial test and a row-by-row bootstrap with scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mlxtune.evaluation.paired_predictions import compare, compare_replies
from sacrebleu.metrics import BLEU
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from mlxtune.errors import DataError
from mlxtune.evaluation import paired_predictions as comparison
from mlxtune.evaluation.metrics.estimates import N_RESAMPLES, resamples
from mlxtune.evaluation.metrics.labels import label_figures, label_set_figures, label_set_scores
from mlxtune.evaluation.metrics.paired import compare_figures, headline, mcnemar, plain
from mlxtune.evaluation.metrics.texts import text_figures
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.recipe.sections import Recipe, TextField

LABELS = ["user_auth", "order_management", "payment", "none"]
Sets = list[tuple[str, ...]]


def random_sets(n_rows: int, seed: int) -> tuple[Sets, list[tuple[str, ...] | None], list[tuple[str, ...] | None]]:
    """What rows expect, and two models of which the first is right more often."""
    rng = np.random.default_rng(seed)

    def some() -> tuple[str, ...]:
        return tuple(str(label) for label in rng.choice(LABELS, size=rng.integers(1, 3), replace=False))

    expected = [some() for _ in range(n_rows)]
    ours = [row if rng.random() < 0.8 else some() for row in expected]
    theirs = [row if rng.random() < 0.5 else (None if rng.random() < 0.2 else some()) for row in expected]
    return expected, list(ours), theirs


def indicator(rows: Any) -> np.ndarray:
    return np.array([[label in (row or ()) for label in LABELS] for row in rows], dtype=int)


def of_sets(expected: Sets, ours: Any, theirs: Any, seed: int = 0) -> dict[str, comparison.Comparison]:
    mine, other = (label_set_figures(expected, side, [False] * len(expected), LABELS) for side in (ours, theirs))
    return compare_figures(mine, other, "tfidf", seed)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (400, 350), (1500, 0)])
def test_mcnemar_is_the_binomial_test_on_rows_that_one_side_alone_has_right(ours: int, theirs: int) -> None:
    wanted = binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    assert mcnemar(ours, theirs) == pytest.approx(wanted, rel=1e-9, abs=1e-300)


def test_intervals_equal_a_row_by_row_bootstrap_with_scikit_learn() -> None:
    n_rows, seed = 40, 3
    expected, ours, theirs = random_sets(n_rows, 1)
    true, mine, other = indicator(expected), indicator(ours), indicator(theirs)
    invalid = np.array([row is None for row in theirs])
    drawn: dict[str, list[float]] = {name: [] for name in ("exact_match", "micro_f1", "macro_f1", "sample_f1")}
    rng = np.random.default_rng(seed)
    for rows in rng.integers(n_rows, size=(N_RESAMPLES, n_rows)):
        right = (
            [(true[i] == mine[i]).all() for i in rows],
            [(true[i] == other[i]).all() and not invalid[i] for i in rows],
        )
        drawn["exact_match"].append(np.mean(right[0]) - np.mean(right[1]))
        for name, average, absent in (
            ("micro_f1", "micro", 0),
            ("macro_f1", "macro", np.nan),
            ("sample_f1", "samples", 0),
        ):
            a, b = (f1_score(true[rows], side[rows], average=average, zero_division=absent) for side in (mine, other))
            drawn[name].append(a - b)
    got = of_sets(expected, ours, theirs, seed)
    for name, differences in drawn.items():
        low, high = np.percentile(differences, (2.5, 97.5))
        assert (got[name].low, got[name].high) == pytest.approx((low, high), abs=1e-9), name


def test_the_difference_is_that_of_the_two_scores() -> None:
    expected, ours, theirs = random_sets(68, 2)
    got = of_sets(expected, ours, theirs)
    a, b = (label_set_scores(expected, side, [False] * 68, LABELS) for side in (ours, theirs))
    for name in ("exact_match", "partial_match", "micro_f1", "macro_f1", "sample_f1", "invalid_rate"):
        assert got[name].difference == pytest.approx(getattr(a, name).value - getattr(b, name).value), name
        assert got[name].low <= got[name].difference <= got[name].high


def test_swapping_the_sides_swaps_the_words() -> None:
    expected, ours, theirs = random_sets(200, 2)
    better, worse = of_sets(expected, ours, theirs)["exact_match"], of_sets(expected, theirs, ours)["exact_match"]
    assert better.sentence.startswith("better than tfidf by 0.")
    assert worse.sentence == better.sentence.replace("better", "worse")
    assert worse.p_value == better.p_value


def test_fewer_invalid_replies_are_better() -> None:
    expected: Sets = [("payment",)] * 40
    got = of_sets(expected, expected, [None] * 40)
    assert got["invalid_rate"].difference == -1.0
    assert got["invalid_rate"].sentence.startswith("better than tfidf by 1.00")


def test_a_handful_of_rows_shows_no_real_difference_even_if_all_of_them_agree() -> None:
    expected: Sets = [("payment",)] * 4
    got = of_sets(expected, expected, [("none",)] * 4)
    assert got["exact_match"].difference == 1.0
    assert not any("better" in one.sentence or "worse" in one.sentence for one in got.values())
    assert got["exact_match"].sentence == "too few rows to tell from tfidf: +1.00 [0.02, 1.00]"


def test_the_same_predictions_leave_room_for_rows_not_seen() -> None:
    expected: Sets = [("payment",), ("none",)] * 10
    one = of_sets(expected, expected, expected)["exact_match"]
    assert (one.difference, one.p_value) == (0.0, 1.0)
    assert one.low == pytest.approx(-0.161, abs=1e-3) and one.high == pytest.approx(0.161, abs=1e-3)
    assert one.sentence == "no real difference from tfidf: 0.00 [-0.16, 0.16]"


def test_one_row_has_a_difference_and_no_interval() -> None:
    one = of_sets([("payment",)], [("payment",)], [("none",)])["exact_match"]
    assert (one.difference, one.low, one.high, one.p_value) == (1.0, None, None, None)
    assert one.sentence == "too few rows to tell from tfidf"


def test_no_difference_is_called_real_by_chance_more_often_than_one_time_in_twenty() -> None:
    """Two models that are right equally often, 100 times over."""
    called = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sides = [["a" if hit else "b" for hit in rng.random(68) < 0.7] for _ in range(2)]
        mine, other = (label_figures(["a"] * 68, side, [False] * 68, ["a", "b"]) for side in sides)
        called += not compare_figures(mine, other, "x")["accuracy"].sentence.startswith(("no real", "too few"))
    assert called <= 5


# Predictions -----------------------------------------------------------------------------------------------------


def prediction(row: int, predicted: tuple[str, ...] | None, text: str = "hi") -> Prediction:
    return Prediction(
        row=row, file="test.jsonl", line=row + 1, input=text, expected={"intents": ("none",)},
        predicted={"intents": predicted}, prediction="", valid=predicted is not None, repeated=False, loop=False,
        problem=None, stop="stop", tokens=1, decoding="free",
    )  # fmt: skip


def test_predictions_are_compared_by_field(recipe: Recipe) -> None:
    ours = [prediction(row, ("none",)) for row in range(20)]
    theirs = [prediction(row, ("payment",)) for row in range(20)]
    got = plain(compare(ours, theirs, recipe, "before"))
    assert set(got["intents"]["exact_match"]) == {"difference", "low", "high", "p_value", "sentence"}
    assert got["intents"]["exact_match"]["sentence"].startswith("better than before by 1.00 [0.68, 1.00]")


def with_response(one: Prediction, row: int, text: str | None) -> Prediction:
    expected, predicted = {**one.expected, "response": REFERENCE}, {**one.predicted, "response": text}
    return replace(one, row=row, expected=expected, predicted=predicted)


REFERENCE = "we are sorry and we will look into the invoice today"


@pytest.fixture
def with_text(recipe: Recipe) -> Recipe:
    fields = {**recipe.output.fields, "response": TextField(kind="text")}
    return recipe.model_copy(update={"output": recipe.output.model_copy(update={"fields": fields})})


def sides(n_rows: int) -> tuple[list[Prediction], list[Prediction]]:
    """Ours writes most words of the reference, theirs fewer, and nothing at all in every fifth row."""
    rng = np.random.default_rng(2)

    def some(share: float) -> str:
        return " ".join(word for word in REFERENCE.split() if rng.random() < share) or "we"

    ours = [with_response(prediction(0, ("none",)), i, some(0.9)) for i in range(n_rows)]
    theirs = [with_response(prediction(0, ("payment",)), i, None if i % 5 == 0 else some(0.7)) for i in range(n_rows)]
    return ours, theirs


def test_texts_are_compared_over_the_same_draws(with_text: Recipe) -> None:
    ours, theirs = sides(30)
    got = compare(ours, theirs, with_text, "before")["response"]
    assert "length_ratio" not in got  # neither longer nor shorter is better
    texts = [[one.predicted["response"] for one in side] for side in (ours, theirs)]
    mine, other = (text_figures([REFERENCE] * 30, side).of(next(resamples(30, with_text.train.seed))) for side in texts)
    wanted = mine["bleu"] - other["bleu"]
    assert wanted.shape == (N_RESAMPLES,)
    bleu = [
        BLEU(tokenize="13a").corpus_score([text or "" for text in side], [[REFERENCE] * 30]).score for side in texts
    ]
    assert got["bleu"].difference == pytest.approx((bleu[0] - bleu[1]) / 100, abs=1e-12)
    assert (got["bleu"].low, got["bleu"].high) == pytest.approx(np.percentile(wanted, [2.5, 97.5]).tolist(), abs=1e-12)
    assert got["bleu"].sentence.startswith("better than before by") and headline(got) == "rougeL"
    assert got["invalid_rate"].sentence.startswith("better than before") and got["invalid_rate"].difference == -0.2
    assert got["invalid_rate"].p_value == binomtest(0, 6).pvalue


def test_whole_replies_are_right_where_all_their_labels_are(with_text: Recipe) -> None:
    ours, theirs = sides(12)
    ours = [replace(one, predicted={**one.predicted, "intents": None}) if one.row == 0 else one for one in ours]
    one = compare_replies(ours, theirs, with_text, "before")["all_fields_correct"]
    assert one.difference == pytest.approx(11 / 12) and one.p_value == binomtest(11, 11).pvalue
    only_text = with_text.model_copy(
        update={"output": with_text.output.model_copy(update={"fields": {"response": TextField(kind="text")}})}
    )
    assert compare_replies(ours, theirs, only_text, "before") == {}


def test_predictions_of_other_rows_are_refused(recipe: Recipe) -> None:
    ours = [prediction(row, ("none",)) for row in range(3)]
    with pytest.raises(DataError, match="before: 2 predictions for 3 rows"):
        compare(ours, ours[:2], recipe, "before")
    other = [*ours[:2], prediction(2, ("none",), "something else")]
    with pytest.raises(DataError, match=r"before: its predictions are of other rows.*'something else'"):
        compare(ours, other, recipe, "before")
