"""Evaluations on disk: never overwritten by accident, read strictly, compared only where the same was asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlxtune.errors import RunError
from mlxtune.evaluation.results import EvaluatedModel, FileIdentity, GivenReplies
from mlxtune.evaluation.stored import comparable, read_result, refuse_finished


def test_a_finished_evaluation_is_replaced_only_by_force(tmp_path):
    refuse_finished(tmp_path, force=False)
    (tmp_path / "scores.json").write_text("{}")
    refuse_finished(tmp_path, force=True)
    with pytest.raises(RunError, match="--force"):
        refuse_finished(tmp_path, force=False)


def test_scores_that_are_no_json_are_an_error_and_missing_ones_none(tmp_path):
    assert read_result(tmp_path) is None
    (tmp_path / "scores.json").write_text('{"rows": 1')
    with pytest.raises(RunError, match=r"scores\.json: cannot be read: .*; delete it and evaluate again"):
        read_result(tmp_path)


def test_evaluations_compare_when_rows_questions_and_base_are_the_same():
    rows = FileIdentity("a", "1", 7)
    model = EvaluatedModel("m", None, "b", "q", None, rows, "mlx")
    assert comparable(model, replace(model, data=FileIdentity("b", "1", 7)))
    assert not comparable(model, replace(model, data=FileIdentity("a", "1", 5)))
    assert not comparable(model, replace(model, task_hash="other"))
    assert not comparable(model, replace(model, base="other"))
    given = GivenReplies(rows, FileIdentity("r", "2"))
    assert not comparable(given, given) and not comparable(None, None)
