"""Evaluations on disk: never overwritten by accident, read strictly, compared only where the same was asked."""

from __future__ import annotations

import pytest

from mlxtune.errors import RunError
from mlxtune.evaluation.stored import comparable, read_scores, refuse_finished


def test_a_finished_evaluation_is_replaced_only_by_force(tmp_path):
    refuse_finished(tmp_path, force=False)
    (tmp_path / "scores.json").write_text("{}")
    refuse_finished(tmp_path, force=True)
    with pytest.raises(RunError, match="--force"):
        refuse_finished(tmp_path, force=False)


def test_damaged_scores_are_an_error_and_missing_ones_none(tmp_path):
    assert read_scores(tmp_path) is None
    (tmp_path / "scores.json").write_text('{"rows": 1')
    with pytest.raises(RunError, match=r"scores\.json"):
        read_scores(tmp_path)


def test_evaluations_compare_when_rows_questions_and_base_are_the_same():
    scores = {"data": {"file": "a", "sha256": "1", "rows": 7}, "asked": "q", "base": "b"}
    assert comparable(scores, {**scores, "data": {"file": "b", "sha256": "1", "rows": 7}})
    assert not comparable(scores, {**scores, "data": {"file": "a", "sha256": "1", "rows": 5}})
    assert not comparable(scores, {**scores, "asked": "other"})
    assert not comparable(scores, {**scores, "base": "other"})
    assert not comparable({}, {})
