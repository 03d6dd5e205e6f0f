"""Metrics against scikit-learn, and what an invalid reply, an absent label and few rows mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from mlxtune.evaluation.metrics import estimates
from mlxtune.evaluation.metrics.estimates import N_RESAMPLES, Estimate, mean_estimate
from mlxtune.evaluation.metrics.labels import label_scores, label_set_scores

LABELS = ["user_auth", "payment", "order", "inventory", "never", "none"]


def random_sets(n_rows: int, seed: int) -> tuple[list[tuple[str, ...]], list[tuple[str, ...] | None]]:
    """Rows of one to three labels; the predictions are often right, sometimes invalid; 'never' occurs in neither."""
    rng = np.random.default_rng(seed)
    usable = [label for label in LABELS if label != "never"]
    expected = [tuple(rng.choice(usable, size=rng.integers(1, 4), replace=False)) for _ in range(n_rows)]
    predicted: list[tuple[str, ...] | None] = []
    for row in expected:
        kind = rng.random()
        other = tuple(rng.choice(usable, size=rng.integers(1, 4), replace=False))
        predicted.append(None if kind < 0.1 else row if kind < 0.6 else other)
    return expected, predicted


def indicator(rows: Sequence[tuple[str, ...] | None]) -> np.ndarray:
    return np.array([[label in (row or ()) for label in LABELS] for row in rows], dtype=int)


@pytest.mark.parametrize("seed", range(5))
def test_label_set_metrics_equal_scikit_learn(seed):
    expected, predicted = random_sets(60, seed)
    scores = label_set_scores(expected, predicted, [False] * 60, LABELS)
    true, said = indicator(expected), indicator(predicted)
    for average, estimate in (
        ("micro", scores["micro_f1"]),
        ("macro", scores["macro_f1"]),
        ("samples", scores["sample_f1"]),
    ):
        assert estimate.value == pytest.approx(f1_score(true, said, average=average, zero_division=0), abs=1e-12)
    assert scores["exact_match"].value == pytest.approx(accuracy_score(true, said), abs=1e-12)
    by_label = precision_recall_fscore_support(true, said, zero_division=0)
    for position, label in enumerate(LABELS):
        got = scores.labels[label]
        wanted = [column[position] for column in by_label]
        assert [got.precision, got.recall, got.f1, got.support] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_single_label_metrics_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    usable = [label for label in LABELS if label != "never"]
    expected = [str(label) for label in rng.choice(usable, size=80)]
    predicted = [str(label) if rng.random() < 0.9 else None for label in rng.choice(usable, size=80)]
    said = [label or "(invalid)" for label in predicted]
    scores = label_scores(expected, predicted, [False] * 80, LABELS)
    options = {"labels": LABELS, "zero_division": 0}
    assert scores["accuracy"].value == pytest.approx(accuracy_score(expected, said), abs=1e-12)
    assert scores["macro_f1"].value == pytest.approx(f1_score(expected, said, average="macro", **options), abs=1e-12)
    by_label = precision_recall_fscore_support(expected, said, **options)
    for position, label in enumerate(LABELS):
        got = scores.labels[label]
        wanted = [column[position] for column in by_label]
        assert [got.precision, got.recall, got.f1, got.support] == pytest.approx(wanted, abs=1e-12)
    table = confusion_matrix(expected, said, labels=[*LABELS, "(invalid)"])
    assert scores.confusion is not None
    assert scores.confusion.counts == table[:-1, :-1].tolist()
    assert scores.confusion.invalid == table[:-1, -1].tolist()


def test_row_percentages_are_of_the_rows_that_expect_the_label():
    expected, predicted = ["high", "high", "high", "low"], ["high", "low", None, "high"]
    confusion = label_scores(expected, predicted, [False] * 4, ["high", "medium", "low"]).confusion
    assert confusion is not None
    assert confusion.percent == [
        [pytest.approx(100 / 3), 0, pytest.approx(100 / 3)],
        [0, 0, 0],
        [100, 0, 0],
    ]
    assert confusion.invalid_percent == [pytest.approx(100 / 3), 0, 0]


def test_a_recalls_interval_is_that_of_resampling_row_by_row():
    rng = np.random.default_rng(11)
    expected = ["rare" if rng.random() < 0.2 else "usual" for _ in range(40)]
    predicted = [label if rng.random() < 0.7 else None for label in expected]
    got = label_scores(expected, predicted, [False] * 40, ["rare", "usual", "never"], seed=4).labels
    drawn = np.random.default_rng(4).integers(40, size=(N_RESAMPLES, 40))
    for label in ("rare", "usual"):
        of_label = [[predicted[i] == label for i in rows if expected[i] == label] for rows in drawn]
        wanted = np.percentile([np.mean(hits) for hits in of_label if hits], [2.5, 97.5])
        interval = got[label].recall_interval
        assert interval is not None and interval == pytest.approx(wanted.tolist(), abs=1e-12)
        assert interval[0] < got[label].recall < interval[1]
    assert got["never"].recall_interval is None


def test_a_recall_without_a_mistake_is_no_certainty_and_one_row_says_nothing_of_it():
    got = label_scores(["a"] * 10 + ["b"], ["a"] * 10 + ["b"], [False] * 11, ["a", "b"]).labels
    assert got["a"].recall_interval == [pytest.approx(0.72, abs=0.01), 1.0]
    assert got["b"].recall == 1.0 and got["b"].recall_interval is None


def test_labels_of_an_open_set_have_no_interval_of_their_own():
    scores = label_set_scores([("a",), ("a",)], [("a",), ("b",)], [False] * 2, None)
    assert scores.labels["a"].recall_interval is None
    assert label_set_scores([("a",), ("a",)], [("a",), ()], [False] * 2, ["a"]).labels["a"].recall_interval == [0, 1]


def test_an_open_set_is_scored_over_every_label_that_occurs():
    scores = label_set_scores([("b",), ("a",)], [("b", "zzz"), ("a",)], [False] * 2, None)
    assert list(scores.labels) == ["a", "b", "zzz"]
    assert scores["macro_f1"].value == pytest.approx(2 / 3)


def test_an_invalid_reply_is_wrong_and_predicts_nothing():
    scores = label_set_scores([("payment",), ("payment",)], [None, ("payment",)], [False] * 2, LABELS)
    assert scores["exact_match"].value == scores["partial_match"].value == scores["invalid_rate"].value == 0.5
    assert scores.labels["payment"].precision == 1.0
    assert scores.labels["payment"].recall == 0.5


def test_an_invalid_reply_does_not_match_an_empty_set():
    scores = label_set_scores([(), ()], [None, ()], [False] * 2, LABELS)
    assert scores["exact_match"].value == 0.5


def test_a_partial_match_is_one_expected_label_among_the_predicted():
    expected = [("payment", "order"), ("none",), ("payment",), ("payment",)]
    predicted = [("order", "inventory"), ("payment",), ("payment", "order"), None]
    scores = label_set_scores(expected, predicted, [False] * 4, LABELS)
    assert scores["partial_match"].value == 0.5
    assert scores["exact_match"].value == 0.0


def test_order_and_repetition_within_a_set_do_not_count():
    scores = label_set_scores([("payment", "order")], [("order", "payment", "order")], [True], LABELS)
    assert scores["exact_match"].value == scores["micro_f1"].value == scores["repeated_rate"].value == 1.0


def test_rows_are_grouped_by_the_number_of_expected_labels():
    expected = [("payment",), ("order",), ("payment", "order")]
    scores = label_set_scores(expected, [("payment",), None, ("payment", "order")], [False] * 3, LABELS)
    assert scores.by_count is not None
    assert {count: (group.rows, group.exact_match.value) for count, group in scores.by_count.items()} == {
        "1": (2, 0.5),
        "2": (1, 1.0),
    }


def test_one_row_has_no_interval():
    scores = label_set_scores([("payment",)], [("payment",)], [False], LABELS)
    assert scores["exact_match"] == Estimate(1.0, None, None)


def test_intervals_are_those_of_resampling_row_by_row():
    expected, predicted = random_sets(40, seed=7)
    occurring = [position for position, label in enumerate(LABELS) if label != "never"]
    true, said = indicator(expected)[:, occurring], indicator(predicted)[:, occurring]
    labels = [LABELS[position] for position in occurring]
    scores = label_set_scores(expected, predicted, [False] * 40, labels, seed=3)
    drawn = np.random.default_rng(3).integers(40, size=(N_RESAMPLES, 40))
    micro = [f1_score(true[rows], said[rows], average="micro", zero_division=0) for rows in drawn[:]]
    assert [scores["micro_f1"].low, scores["micro_f1"].high] == pytest.approx(
        np.percentile(micro, [2.5, 97.5]), abs=1e-12
    )


def test_an_interval_does_not_depend_on_how_many_resamples_are_held_at_once(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = mean_estimate(values)
    monkeypatch.setattr(estimates, "_CHUNK_CELLS", 50 * 7)
    assert mean_estimate(values) == whole


def test_a_perfect_macro_f1_is_1_in_every_resample_even_where_a_label_is_rare():
    expected = [("payment",)] * 30 + [("order",)]
    scores = label_set_scores(expected, expected, [False] * 31, ["payment", "order"])
    assert scores["macro_f1"] == scores["exact_match"] and scores["macro_f1"].low == pytest.approx(0.89, abs=0.01)


def width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    return estimate.high - estimate.low


def test_the_interval_narrows_with_more_rows():
    few, many = mean_estimate([0.0, 1.0] * 50), mean_estimate([0.0, 1.0] * 500)
    assert width(many) < width(few) / 2


def test_no_rows_cannot_be_scored():
    with pytest.raises(ValueError, match="no rows"):
        label_set_scores([], [], [], LABELS)


def test_no_mistake_in_few_rows_is_no_certainty() -> None:
    right, wrong = mean_estimate([1.0] * 68), mean_estimate([0.0] * 68)
    assert (right.value, right.high, wrong.value, wrong.low) == (1, 1, 0, 0)
    assert right.low == pytest.approx(0.9465, abs=1e-4) and wrong.high == pytest.approx(0.0535, abs=1e-4)
