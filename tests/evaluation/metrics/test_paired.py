"""Paired comparisons against SciPy's binomial test and a row-by-row bootstrap with scikit-learn; what each verdict says."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from mlxtune.evaluation.metrics import estimates
from mlxtune.evaluation.metrics.estimates import Means
from mlxtune.evaluation.metrics.labels import label_set_scores, label_set_table, label_table
from mlxtune.evaluation.metrics.paired import (
    LEVEL,
    Comparison,
    Verdict,
    bootstrap_p,
    compare_tables,
    mcnemar,
    with_verdict,
)

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


def of_sets(expected: Sets, ours: Any, theirs: Any, seed: int = 0) -> dict[str, Comparison]:
    mine, other = (label_set_table(expected, side, [False] * len(expected), LABELS) for side in (ours, theirs))
    return compare_tables(mine, other, "tfidf", seed)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 0), (5, 5), (9, 2), (2, 9), (400, 350), (1500, 0)])
def test_mcnemar_is_the_binomial_test_on_rows_that_one_side_alone_has_right(ours: int, theirs: int) -> None:
    wanted = binomtest(ours, ours + theirs).pvalue if ours + theirs else 1.0
    assert mcnemar(ours, theirs) == pytest.approx(wanted, rel=1e-9, abs=1e-300)


def test_intervals_equal_a_row_by_row_bootstrap_with_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    n_rows, seed, n_resamples = 40, 3, 100  # scikit-learn takes milliseconds for each
    monkeypatch.setattr(estimates, "N_RESAMPLES", n_resamples)
    expected, ours, theirs = random_sets(n_rows, 1)
    true, mine, other = indicator(expected), indicator(ours), indicator(theirs)
    invalid = np.array([row is None for row in theirs])
    drawn: dict[str, list[float]] = {name: [] for name in ("exact_match", "micro_f1", "macro_f1", "sample_f1")}
    rng = np.random.default_rng(seed)
    for rows in rng.integers(n_rows, size=(n_resamples, n_rows)):
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
        assert got[name].difference == pytest.approx(a[name].value - b[name].value), name
        low, high = got[name].low, got[name].high
        assert low is not None and high is not None and low <= got[name].difference <= high, name


def test_swapping_the_sides_swaps_the_words() -> None:
    expected, ours, theirs = random_sets(200, 2)
    better, worse = of_sets(expected, ours, theirs)["exact_match"], of_sets(expected, theirs, ours)["exact_match"]
    assert better.sentence.startswith("better than tfidf by 0.")
    assert worse.sentence == better.sentence.replace("better", "worse")
    assert (better.verdict, worse.verdict) == ("better", "worse")
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
    assert {one.verdict for one in got.values()} <= {"too few rows", "no real difference"}
    assert not any("better" in one.sentence or "worse" in one.sentence for one in got.values())
    assert got["exact_match"].sentence == "too few rows to tell from tfidf: +1.00 [0.02, 1.00]"


def test_the_same_predictions_leave_room_for_rows_not_seen() -> None:
    expected: Sets = [("payment",), ("none",)] * 10
    one = of_sets(expected, expected, expected)["exact_match"]
    assert (one.difference, one.p_value) == (0.0, 1.0)
    room = binomtest(0, 20).proportion_ci(method="wilson").high
    assert (one.low, one.high) == pytest.approx((-room, room), abs=1e-6) and room == pytest.approx(0.161, abs=1e-3)
    assert one.sentence == "no real difference from tfidf: 0.00 [-0.16, 0.16]"


def test_one_side_that_is_right_at_every_row_alone_leaves_twice_that_room() -> None:
    for n_rows in (4, 50):
        room = binomtest(0, n_rows).proportion_ci(method="wilson").high
        expected: Sets = [("payment",)] * n_rows
        ahead = of_sets(expected, expected, [("none",)] * n_rows)["exact_match"]
        behind = of_sets(expected, [("none",)] * n_rows, expected)["exact_match"]
        assert (ahead.low, ahead.high) == pytest.approx((1 - 2 * room, 1), abs=1e-6)
        assert (behind.low, behind.high) == pytest.approx((-1, 2 * room - 1), abs=1e-6)


def test_one_row_has_a_difference_and_no_interval() -> None:
    one = of_sets([("payment",)], [("payment",)], [("none",)])["exact_match"]
    assert (one.difference, one.low, one.high, one.p_value) == (1.0, None, None, None)
    assert one.sentence == "too few rows to tell from tfidf"
    assert one.verdict == one.mark == "too few rows"


def test_no_rows_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="no rows"):
        of_sets([], [], [])


def test_no_difference_is_called_real_by_chance_more_often_than_one_time_in_twenty() -> None:
    """Two models that are right equally often, 100 times over."""
    called = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sides = [["a" if hit else "b" for hit in rng.random(68) < 0.7] for _ in range(2)]
        mine, other = (label_table(["a"] * 68, side, [False] * 68, ["a", "b"]) for side in sides)
        called += compare_tables(mine, other, "x")["accuracy"].verdict not in ("no real difference", "too few rows")
    assert called <= 5


def test_only_metrics_that_both_sides_have_and_that_have_a_direction_are_tested() -> None:
    ours = Means({"sample_f1": np.array([1.0, 0.5]), "length_ratio": np.ones(2), "accuracy": np.ones(2)})
    theirs = Means({"sample_f1": np.array([0.5, 0.5]), "length_ratio": np.zeros(2)})
    assert list(compare_tables(ours, theirs, "x")) == ["sample_f1"]


def test_the_p_value_of_a_bootstrap_is_twice_the_share_of_draws_on_the_rarer_side() -> None:
    drawn = np.array([0.1] * 989 + [-0.1] * 10)
    assert bootstrap_p(drawn, 100) == bootstrap_p(-drawn, 100) == pytest.approx(2 * (1 + 10) / (1 + 999))
    assert bootstrap_p(np.array([0.1] * 969 + [0.0] * 20 + [-0.1] * 10), 100) == pytest.approx(2 * (1 + 30) / 1000)
    assert bootstrap_p(np.zeros(999), 100) == 1
    always = np.full(1000, 0.1)
    assert bootstrap_p(always, 100) == pytest.approx(2 / 1001)
    assert bootstrap_p(always, 4) == pytest.approx(binomtest(4, 4).pvalue)  # as many tosses of a coin


# Verdicts ----------------------------------------------------------------------------------------------------------

GOOD, MIDDLE, POOR = (f"buckets.{bucket}.share" for bucket in (">0.5", "0.3-0.5", "<0.3"))
REAL, UNREAL = 0.001, 0.06  # p-values
VERDICTS: list[tuple[str, tuple[float, float, float], float, Verdict, Verdict | None, str]] = [
    ("accuracy", (0.2, 0.1, 0.3), REAL, "better", "better", "better than before by 0.20 [0.10, 0.30]"),
    ("accuracy", (-0.2, -0.3, -0.1), REAL, "worse", "worse", "worse than before by 0.20 [0.10, 0.30]"),
    ("invalid_rate", (-0.2, -0.3, -0.1), REAL, "better", "better", "better than before by 0.20 [0.10, 0.30]"),
    ("invalid_rate", (0.2, 0.1, 0.3), REAL, "worse", "worse", "worse than before by 0.20 [0.10, 0.30]"),
    (GOOD, (-0.2, -0.3, -0.1), REAL, "worse", "worse", "worse than before by 0.20 [0.10, 0.30]"),
    (POOR, (-0.2, -0.3, -0.1), REAL, "better", "better", "better than before by 0.20 [0.10, 0.30]"),
    (MIDDLE, (0.2, 0.1, 0.3), REAL, "higher", None, "higher than before by 0.20 [0.10, 0.30]"),
    (MIDDLE, (-0.2, -0.3, -0.1), REAL, "lower", None, "lower than before by 0.20 [0.10, 0.30]"),
    (MIDDLE, (0.2, 0.1, 0.3), UNREAL, "too few rows", None, "too few rows to tell from before: +0.20 [0.10, 0.30]"),
    (MIDDLE, (0.2, -0.1, 0.5), REAL, "no real difference", None, "no real difference from before: +0.20 [-0.10, 0.50]"),
    ("accuracy", (0.2, 0.1, 0.3), UNREAL, "too few rows", "too few rows",
     "too few rows to tell from before: +0.20 [0.10, 0.30]"),
    ("accuracy", (0.2, 0.1, 0.3), LEVEL, "too few rows", "too few rows",
     "too few rows to tell from before: +0.20 [0.10, 0.30]"),
    ("accuracy", (-0.2, -0.4, 0.0), REAL, "no real difference", "no real difference",
     "no real difference from before: -0.20 [-0.40, 0.00]"),
    ("accuracy", (-0.001, -0.01, 0.02), UNREAL, "no real difference", "no real difference",
     "no real difference from before: 0.00 [-0.01, 0.02]"),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "difference", "p_value", "verdict", "mark", "sentence"), VERDICTS)
def test_a_difference_has_its_verdict_and_its_sentence(
    metric: str,
    difference: tuple[float, float, float],
    p_value: float,
    verdict: Verdict,
    mark: Verdict | None,
    sentence: str,
) -> None:
    one = with_verdict(metric, *difference, p_value, "before")
    assert one == Comparison(*difference, p_value, verdict, "before", mark)
    assert one.sentence == sentence
    whole = dict(zip(("difference", "low", "high"), difference, strict=True)) | {
        "p_value": p_value,
        "sentence": sentence,
    }
    assert one.to_json() == whole and one.to_marked_json() == {**whole, "mark": mark}


def test_every_verdict_on_rows_was_shown() -> None:
    assert {verdict for _, _, _, verdict, _, _ in VERDICTS} == {*get_args(Verdict)} - {"too few cases"}  # of people


def test_too_few_cases_are_said_with_and_without_an_interval() -> None:
    assert Comparison(0.5, None, None, None, "too few cases", "a").sentence == "too few cases to tell from a"
    known = Comparison(0.5, 0.1, 1.0, 0.5, "too few cases", "a").sentence
    assert known == "too few cases to tell from a: +0.50 [0.10, 1.00]"
