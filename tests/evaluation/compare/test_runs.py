"""Runs side by side: the same rows or none, metrics as scikit-learn and SciPy have them, settings that really differ."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from mlxtune.errors import DataError, Misuse, RunError
from mlxtune.evaluation.compare.facts import Fact
from mlxtune.evaluation.compare.metrics import ComparedMetric
from mlxtune.evaluation.compare.runs import RunComparison, comparable_runs, compare_runs
from mlxtune.evaluation.judge.ratings import STATUSES, Ratings
from mlxtune.evaluation.metrics.estimates import N_RESAMPLES, Estimate
from mlxtune.evaluation.metrics.metric import REPLY
from mlxtune.evaluation.metrics.paired import Comparison, Verdict
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.stored import open_evaluation, open_evaluations, short_names
from mlxtune.recipe.load import load_recipe
from mlxtune.report.terminal.comparison_tables import as_csv, as_markdown, comparison_tables
from mlxtune.report.terminal.tables import to_text
from mlxtune.runs.folder import RunFolder
from tests.conftest import Run, write_rows
from tests.made_runs import PRIORITIES, made_evaluation, made_run, replies_of, ticket_recipe, tickets, validation

ROWS = tickets(60)
MARKS = Estimate(4.1, 3.9, 4.3)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def file(place: Path) -> Path:
    return ticket_recipe(place / "recipe", ROWS)


def two_runs(file: Path, **second: Any) -> list[Path]:
    """One that is often right and one that is so less often."""
    return [
        made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9, 1)),
        made_run(Path("runs/tickets/b"), file, replies_of(ROWS, 0.4, 2), **second),
    ]


def compared(*paths: Path, intersection: bool = False) -> RunComparison:
    return compare_runs(open_evaluations(paths), intersection)


def metric(found: RunComparison, field: str, name: str) -> ComparedMetric:
    (one,) = [one for one in found.metrics if (one.field, one.name) == (field, name)]
    return one


def values(facts: Any) -> dict[str, tuple[Any, ...]]:
    return {fact.name: fact.values for fact in facts}


def said(run: Path, field: str) -> tuple[list[Any], list[Any]]:
    predictions = read_predictions(RunFolder(run).evaluation("tuned") / "predictions.jsonl")
    return [one.expected[field] for one in predictions], [one.predicted[field] or "" for one in predictions]


# Metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_scores_json(place: Path) -> None:
    rows = tickets(30, response=True)
    whole = ticket_recipe(place / "whole", rows)
    runs = [made_run(Path("runs") / name, whole, replies_of(rows, p, 1)) for name, p in (("a", 0.9), ("b", 0.1))]
    found = compared(*runs)
    for position, run in enumerate(runs):
        scores = json.loads((run / "evaluation/tuned/scores.json").read_text())
        for field, names in (("priority", ("accuracy", "macro_f1")), ("tags", ("exact_match", "micro_f1"))):
            for name in names:
                assert metric(found, field, name).values[position] == Estimate(**scores["fields"][field][name])
        assert metric(found, "response", "rougeL").values[position] == Estimate(
            **scores["fields"]["response"]["rougeL"]
        )
        right = scores["replies"]["all_fields_correct"]
        assert metric(found, REPLY, "all_fields_correct").values[position] == Estimate(**right)
    text = metric(found, "response", "rougeL").comparisons[1]
    assert text is not None and text.mark == "worse"
    assert found.rows == 30 and found.names == ("a", "b")


def test_accuracy_is_compared_by_mcnemar_on_the_rows_that_one_side_alone_has_right(file: Path) -> None:
    runs = two_runs(file)
    (expected, ours), (_, theirs) = said(runs[1], "priority"), said(runs[0], "priority")
    only_ours = sum(o == e != t for e, o, t in zip(expected, ours, theirs, strict=True))
    only_theirs = sum(t == e != o for e, o, t in zip(expected, ours, theirs, strict=True))
    one = metric(compared(*runs), "priority", "accuracy").comparisons[1]
    assert one is not None and one.p_value == pytest.approx(binomtest(only_ours, only_ours + only_theirs).pvalue)
    assert one.difference == pytest.approx(accuracy_score(expected, ours) - accuracy_score(expected, theirs))
    assert one.mark == "worse" and one.sentence.startswith("worse than a by")


def test_any_run_can_be_the_baseline_with_the_numbers_of_a_comparison_that_begins_with_it(file: Path) -> None:
    runs = [*two_runs(file), made_run(Path("runs/tickets/c"), file, replies_of(ROWS, 0.6, 3))]
    comparable = comparable_runs(open_evaluations(runs))
    for baseline, order in enumerate(([0, 1, 2], [1, 0, 2], [2, 0, 1])):
        expected = compared(*(runs[i] for i in order))
        found = comparable.with_baseline(baseline)
        assert found.names == ("a", "b", "c") and found.baseline == baseline
        assert found.n_comparisons == expected.n_comparisons > 10
        for mine, other in zip(found.metrics, expected.metrics, strict=True):
            assert (mine.field, mine.name) == (other.field, other.name)
            assert [mine.values[i] for i in order] == list(other.values)
            assert [mine.comparisons[i] for i in order] == list(other.comparisons)


def test_recall_of_a_label_is_scikit_learns_and_its_difference_is_over_the_rows_that_expect_it(file: Path) -> None:
    runs = two_runs(file)
    found = compared(*runs)
    sides = [said(run, "priority") for run in runs]
    rng_rows = [[expected == predicted for expected, predicted in zip(*side, strict=True)] for side in sides]
    for label in PRIORITIES:
        one = metric(found, "priority", f"recall.{label}")
        for position, (expected, predicted) in enumerate(sides):
            wanted = recall_score(expected, predicted, labels=[label], average=None, zero_division=0)[0]
            got = one.values[position]
            assert got is not None and got.value == pytest.approx(wanted)
            assert got.low is not None and got.high is not None
            assert got.low <= got.value <= got.high and got.low < got.high
        rows = [i for i, expected in enumerate(sides[0][0]) if expected == label]
        gain = np.array([float(rng_rows[1][i]) - float(rng_rows[0][i]) for i in rows])
        drawn = gain[np.random.default_rng(0).integers(len(rows), size=(N_RESAMPLES, len(rows)))].mean(1)
        low, high = np.percentile(drawn, (2.5, 97.5))
        tested = one.comparisons[1]
        assert tested is not None
        assert (tested.low, tested.high) == pytest.approx((low, high), abs=1e-6)
        assert tested.p_value == pytest.approx(binomtest(int((gain > 0).sum()), int((gain != 0).sum())).pvalue)


def test_the_number_of_comparisons_is_counted_and_what_chance_would_give(file: Path) -> None:
    found = compared(*two_runs(file), made_run(Path("runs/tickets/c"), file, replies_of(ROWS, 0.4, 3)))
    tested = [one for line in found.metrics for one in line.comparisons if one is not None]
    assert found.n_comparisons == len(tested) > 30
    assert found.notes[-1].startswith(f"{len(tested)} comparisons were made, each at the 5% level")
    assert f"about {len(tested) * 0.05:.0f} of them" in found.notes[-1]
    assert all(line.comparisons[0] is None for line in found.metrics)
    assert {one.mark for one in tested} <= {"better", "worse", "no real difference", "too few rows"}


def test_the_same_replies_are_no_real_difference_anywhere(file: Path) -> None:
    runs = [made_run(Path("runs") / name, file, replies_of(ROWS, 0.7)) for name in ("a", "b")]
    marks = {one.mark for line in compared(*runs).metrics for one in line.comparisons if one is not None}
    assert marks == {"no real difference"}


def test_what_else_was_measured_of_a_field_is_shown_with_it(file: Path) -> None:
    runs = two_runs(file)
    with_judge(runs[1], "judge-7b", 1, "tags")
    found = compared(*runs)
    for name in ("judge.accuracy", "judge.agreement.rougeL"):
        assert metric(found, "tags", name).values == (None, MARKS)
    assert values(found.settings) == {"evaluation judged by": (None, "judge-7b")}


def test_shares_of_rouge_l_buckets_are_compared_row_by_row(place: Path) -> None:
    rows = tickets(80, response=True)
    file = ticket_recipe(place / "recipe", rows)
    runs = []
    for name, right in (("a", 0.8), ("b", 0.3)):
        replies = replies_of(rows, right, 1)
        for i in range(0, 80, 3 if name == "a" else 4):  # in between: half of the reference's words
            head = replies[i].split("\n\n")[0]
            replies[i] = f"{head}\n\nDear friend, we look into it and will write soon."
        runs.append(made_run(Path("runs") / name, file, replies))
    found = compared(*runs)
    scorer = RougeScorer(["rougeL"])
    sides = [
        np.array(
            [scorer.score(right, text)["rougeL"].fmeasure for right, text in zip(*said(run, "response"), strict=True)]
        )
        for run in runs
    ]
    marks = {}
    for bucket, low, high in ((">0.5", 0.5, 2.0), ("0.3-0.5", 0.3, 0.5), ("<0.3", -1.0, 0.3)):
        inside = [
            (side > low) & (side <= high) if bucket == ">0.5" else (side >= low) & (side <= high) for side in sides
        ]
        if bucket == "<0.3":
            inside = [side < high for side in sides]
        assert all(side.any() for side in inside), bucket
        one = metric(found, "response", f"buckets.{bucket}.share").comparisons[1]
        assert one is not None and one.difference == pytest.approx(inside[1].mean() - inside[0].mean())
        gain = inside[1].astype(float) - inside[0].astype(float)
        assert one.p_value == pytest.approx(binomtest(int((gain > 0).sum()), int((gain != 0).sum())).pvalue)
        drawn = gain[np.random.default_rng(0).integers(80, size=(N_RESAMPLES, 80))].mean(1)
        assert (one.low, one.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-6)
        marks[bucket] = (one.mark, one.sentence.split(" than ")[0])
    assert marks[">0.5"] == ("worse", "worse") and marks["<0.3"] == ("worse", "worse")  # more of the poor is worse
    assert marks["0.3-0.5"][0] is None
    text = to_text(comparison_tables(found), 200)
    assert "exact match, 1 label " in text and "exact match, 2 labels" in text
    assert "rows with ROUGE-L 0.3-0.5" in text and "rows with ROUGE-L >0.5" in text


def test_exact_match_by_number_of_labels_is_compared_on_the_rows_that_expect_as_many(file: Path) -> None:
    runs = two_runs(file)
    found = compared(*runs)
    (expected, theirs), (_, ours) = said(runs[0], "tags"), said(runs[1], "tags")
    for size in (1, 2):
        rows = [i for i, labels in enumerate(expected) if len(labels) == size]
        hits = [[set(side[i]) == set(expected[i]) for i in rows] for side in (ours, theirs)]
        one = metric(found, "tags", f"by_count.{size}.exact_match").comparisons[1]
        assert one is not None and one.difference == pytest.approx(np.mean(hits[0]) - np.mean(hits[1]))
        only = [sum(a > b for a, b in zip(*pair, strict=True)) for pair in (hits, hits[::-1])]
        assert one.p_value == pytest.approx(binomtest(only[0], sum(only)).pvalue)


def test_more_invalid_replies_are_worse(file: Path) -> None:
    first = made_run(Path("runs/a"), file, replies_of(ROWS, 0.9, 1))
    second = made_run(Path("runs/b"), file, [*["no idea"] * 12, *replies_of(ROWS, 0.9, 1)[12:]])
    one = metric(compared(first, second), REPLY, "invalid_rate").comparisons[1]
    assert one is not None and one.difference == pytest.approx(0.2) and one.mark == "worse"
    assert one.p_value == pytest.approx(binomtest(12, 12).pvalue)
    assert metric(compared(first, second), REPLY, "loop_rate").comparisons[1] is not None


def test_what_is_shown_without_a_test_says_so_and_why(place: Path) -> None:
    rows = tickets(20, response=True)
    file = ticket_recipe(place / "recipe", rows)
    runs = [made_run(Path("runs") / name, file, replies_of(rows, p, 1)) for name, p in (("a", 0.8), ("b", 0.4))]
    bertscore = {"value": 0.8, "low": 0.7, "high": 0.9}
    for run in runs:
        with_judge(run, "judge-7b", 1, "response")
        scores = run / "evaluation/tuned/scores.json"
        content = json.loads(scores.read_text())
        content["fields"]["response"]["bertscore"] = bertscore
        scores.write_text(json.dumps(content))
    found = compared(*runs)
    (note,) = [note for note in found.notes if note.startswith("shown without a test of the difference to a: ")]
    assert note == (
        "shown without a test of the difference to a: length ratio (neither more nor less of it is better); "
        "metrics of the rows with all labels right, or not (these are other rows in each run); "
        "BERTScore (predictions do not hold it row by row); a judge's marks (it may have marked other rows in each run, "
        "`mlxtune compare --judge` has it choose between replies)"
    )
    whole = {(one["field"], one["name"]): one for one in found.to_json()["figures"]}
    assert note in found.to_json()["notes"]
    for name in ("when_right.rougeL", "when_wrong.bleu", "bertscore", "judge.accuracy"):
        assert whole["response", name]["untested"] and whole["response", name]["comparisons"] == [None, None]
    for one in found.metrics:
        both = all(value is not None for value in one.values)
        assert not both or bool(one.untested) != any(one.comparisons), one.name
    assert not any(one.untested for one in found.metrics if one.field == REPLY) and "other figures" not in note
    assert not any("cannot be compared" in note for note in found.notes)


def with_judge(run: Path, model: str, rubric: int, field: str) -> None:
    scores = run / "evaluation/tuned/scores.json"
    counts = dict.fromkeys(STATUSES, 0)
    judge = Ratings(model, "", 0, counts, {field: {"accuracy": MARKS}}, {field: {"rougeL": MARKS}}, rubric)
    scores.write_text(json.dumps({**json.loads(scores.read_text()), "judge": judge.to_json()}))


@pytest.mark.parametrize("other", [("judge-30b", 1), ("judge-7b", 2)])
def test_marks_of_different_judges_do_not_stand_side_by_side_silently(file: Path, other: tuple[str, int]) -> None:
    runs = two_runs(file)
    with_judge(runs[0], "judge-7b", 1, "tags")
    with_judge(runs[1], *other, "tags")
    (note,) = [note for note in compared(*runs).notes if "cannot be compared" in note]
    assert note.endswith(f": a by judge-7b (rubric 1); b by {other[0]} (rubric {other[1]})")


def test_bertscores_of_different_encoders_do_not_stand_side_by_side_silently(place: Path) -> None:
    rows = tickets(8, response=True)
    file = ticket_recipe(place / "recipe", rows)
    runs = [made_run(Path("runs") / name, file, replies_of(rows, 0.8, 1)) for name in ("a", "b")]
    for run, encoder in zip(runs, ("small_L5", "large_L17"), strict=True):
        scores = run / "evaluation/tuned/scores.json"
        content = json.loads(scores.read_text())
        content["fields"]["response"]["signatures"]["bertscore"] = encoder
        scores.write_text(json.dumps(content))
    assert any(note.endswith(": a by small_L5; b by large_L17") for note in compared(*runs).notes)


# Rows --------------------------------------------------------------------------------------------------------------


def other_rows(place: Path, rows: list[dict[str, Any]], right: float = 0.4) -> Path:
    """A run of the same recipe, evaluated on these rows."""
    recipe = ticket_recipe(place / "other", rows)
    return made_run(Path("runs/tickets/other"), recipe, replies_of(rows, right, 2))


def test_runs_on_other_rows_are_refused(file: Path, place: Path) -> None:
    first = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9, 1))
    with pytest.raises(DataError, match=r"other was evaluated on 40 rows and .*a on 60, of which 40 are the same"):
        compared(first, other_rows(place, ROWS[:40]))
    changed = [{**ROWS[0], "priority": "low" if ROWS[0]["priority"] == "high" else "high"}, *ROWS[1:]]
    with pytest.raises(DataError, match="59 are the same; --intersection compares on the 59 rows that all runs have"):
        compared(first, other_rows(place, changed))
    with pytest.raises(DataError, match=r"of which 0 are the same$"):
        compared(first, other_rows(place, tickets(60, seed=9)))
    with pytest.raises(DataError, match="no row with the same text and references in common"):
        compared(first, other_rows(place, tickets(60, seed=9)), intersection=True)


def test_an_intersection_is_scored_anew_on_the_rows_that_all_have(file: Path, place: Path) -> None:
    first = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9, 1))
    second = other_rows(place, [*ROWS[50:], *ROWS[10:30], *tickets(7, seed=9)])
    found = compared(first, second, intersection=True)
    assert (found.rows, found.rows_evaluated) == (30, (60, 37))
    assert found.notes[0] == "every metric is over the 30 rows that all runs have: 60 of a, 37 of other"
    shared = {row["text"] for row in [*ROWS[50:], *ROWS[10:30]]}
    for position, run in enumerate((first, second)):
        predictions = read_predictions(RunFolder(run).evaluation("tuned") / "predictions.jsonl")
        kept = [one for one in predictions if one.input in shared]
        expected, predicted = ([getattr(one, side)["priority"] for one in kept] for side in ("expected", "predicted"))
        accuracy, macro = (metric(found, "priority", name).values[position] for name in ("accuracy", "macro_f1"))
        assert accuracy is not None and accuracy.value == pytest.approx(accuracy_score(expected, predicted))
        wanted = f1_score(expected, predicted, labels=PRIORITIES, average="macro", zero_division=0)
        assert macro is not None and macro.value == pytest.approx(wanted)


def test_rows_in_another_order_or_file_are_the_same_rows(file: Path, place: Path) -> None:
    replies = replies_of(ROWS, 0.6, 1)
    first = made_run(Path("runs/tickets/a"), file, replies)
    turned = ticket_recipe(place / "turned", ROWS[::-1])
    second = made_run(Path("runs/tickets/b"), turned, replies[::-1])
    found = compared(first, second)
    one = metric(found, "priority", "accuracy")
    assert found.rows == 60 and one.values[0] is not None and one.values[1] is not None
    assert one.comparisons[1] is not None and (one.comparisons[1].difference, one.comparisons[1].p_value) == (
        0,
        1,
    )


def test_rows_that_stand_twice_are_matched_one_to_one(place: Path) -> None:
    rows = [*ROWS[:10], *ROWS[:10]]
    file = ticket_recipe(place / "twice", rows)
    runs = [made_run(Path("runs") / name, file, replies_of(rows, right, 1)) for name, right in (("a", 0.9), ("b", 0.3))]
    assert compared(*runs).rows == 20


def test_runs_that_answer_another_question_are_refused(file: Path, place: Path) -> None:
    first = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9, 1))
    fields = json.loads(json.dumps(load_recipe(file).model_dump(mode="json")["output"]["fields"]))
    fields["priority"]["labels"] = [*PRIORITIES, "none"]
    other = ticket_recipe(place / "more", ROWS, output={"fields": fields})
    second = made_run(Path("runs/tickets/b"), other, replies_of(ROWS, 0.9, 1))
    with pytest.raises(DataError, match=r"tickets/b: output field 'priority' has other labels .*\('none'\)"):
        compared(first, second)
    fields = {"priority": {"kind": "label", "labels": PRIORITIES}}
    other = ticket_recipe(place / "less", ROWS, output={"fields": fields, "template": "{priority}"})
    third = made_run(Path("runs/tickets/c"), other, [row["priority"] for row in ROWS])
    with pytest.raises(DataError, match="tickets/c: has no output field 'tags'"):
        compared(first, third)


def test_another_prompt_may_be_compared_and_is_a_setting_that_differs(file: Path, place: Path) -> None:
    other = ticket_recipe(place / "asked", ROWS, prompt={"system": "Be short.\nBe exact.", "user": "{text}"})
    runs = [
        made_run(Path("runs/a"), file, replies_of(ROWS, 0.9, 1)),
        made_run(Path("runs/b"), other, replies_of(ROWS, 0.5, 1)),
    ]
    assert values(compared(*runs).settings) == {"prompt.system": (None, "Be short.\nBe exact.")}


def test_a_decoding_that_all_have_is_compared(file: Path) -> None:
    runs = two_runs(file)
    recipe = load_recipe(file)
    free = RunFolder(runs[1]).evaluation("tuned")
    worse = made_evaluation(Path("worse"), recipe, replies_of(ROWS, 0.1, 5))
    (worse / "predictions.jsonl").rename(free / "predictions-constrained.jsonl")
    scores = json.loads((free / "scores.json").read_text())
    other = {**json.loads((worse / "scores.json").read_text()), "decoding": "constrained"}
    other["predictions"] = "predictions-constrained.jsonl"
    both = {"free": dict(scores), "constrained": other}
    (free / "scores.json").write_text(json.dumps({**scores, **other, "decodings": both}))  # constrained is on top
    found = compared(*runs)
    assert "compared in free decoding, which all of them have" in found.notes
    assert metric(found, "priority", "accuracy").values[1] == Estimate(**scores["fields"]["priority"]["accuracy"])
    (free / "scores.json").write_text(json.dumps({**scores, **other}))
    assert any(note.startswith("the decoding differs: free, constrained") for note in compared(*runs).notes)


# Settings, training, cost ------------------------------------------------------------------------------------------


def test_settings_that_differ_are_named_and_no_others(file: Path, place: Path) -> None:
    copy = ticket_recipe(place / "copy", ROWS, name="another")  # the same rows under another name and path
    runs = [
        made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9)),
        made_run(
            Path("runs/tickets/b"), copy, replies_of(ROWS, 0.9),
            ["lora.rank=64", "train.early_stopping={patience: 5}", "lora.targets=[q_proj, v_proj]", "data.valid_fraction=0.2"],
            backend="torch",
        ),
    ]  # fmt: skip
    assert values(compared(*runs).settings) == {
        "lora.rank": (8, 64),
        "lora.targets": ("all", ["q_proj", "v_proj"]),
        "data.valid_fraction": (None, 0.2),
        "train.early_stopping.patience": (None, 5),
        "train.early_stopping.min_delta": (None, 0.0),
        "trained with": ("mlx", "torch"),
    }


def test_a_class_weight_that_one_run_has_is_one_setting_that_differs(file: Path) -> None:
    weighted = ["output.fields.priority.class_weights={low: 2.0}"]
    runs = [
        made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9)),
        made_run(Path("runs/tickets/b"), file, replies_of(ROWS, 0.9), weighted),
    ]
    assert values(compared(*runs).settings) == {"output.fields.priority.class_weights.low": (None, 2.0)}


def test_a_file_whose_content_changed_under_its_name_is_a_difference(file: Path) -> None:
    first = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9))
    write_rows(file.parent / "train.jsonl", tickets(6, seed=4))
    second = made_run(Path("runs/tickets/b"), file, replies_of(ROWS, 0.9), base={"fingerprint": "2:other"})
    found = values(compared(first, second).settings)
    assert set(found) == {"data.train"}  # the base of an evaluation is what was evaluated
    assert (
        found["data.train"][0].startswith(str(file.parent / "train.jsonl") + " (")
        and len(set(found["data.train"])) == 2
    )


def test_losses_are_those_of_the_adapter_that_the_run_has(file: Path) -> None:
    metrics = [validation(10, 0.5, 0.45), validation(20, 0.4, 0.35), validation(30, 0.9, 0.3)]
    best = {"metric": "valid.loss", "value": 0.4, "step": 20}
    diagnosis = {"verdict": "over-fitting", "evidence": "", "suggestions": {}}
    runs = two_runs(file, metrics=metrics, adapter_step=20, best=best, diagnosis=diagnosis, train_loss=0.1)
    with (runs[1] / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "valid')  # the last line of a run that was killed
    got = {name: pair[1] for name, pair in values(compared(*runs).training).items()}
    assert (got["train loss"], got["valid loss"]) == (0.35, 0.4)
    assert got["valid/train"] == pytest.approx(0.4 / 0.35) and got["valid/train at the end"] == pytest.approx(3.0)
    assert (got["steps"], got["adapter of step"], got["best step"], got["diagnosis"]) == (30, 20, 20, "over-fitting")
    assert values(compared(*runs).training)["train loss"][0] == 0.5  # nothing was validated: run.json's


def test_cost_is_time_memory_and_size(file: Path) -> None:
    runs = two_runs(file, overrides=["lora.rank=16"])
    got = values(compared(*runs).cost)
    assert got["adapter bytes"] == (8000, 16000) and got["training seconds"] == (12.0, 12.0)
    assert got["evaluation seconds a row"] == (0.5, 0.5) and got["training peak memory, GB"] == (1.5, 1.5)


# Finding -----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_not_evaluated_names_the_command_and_all_are_listed(file: Path) -> None:
    first = made_run(Path("runs/tickets/a"), file)
    with pytest.raises(RunError, match=r"runs/tickets/a: was not evaluated; run `mlxtune evaluate runs/tickets/a`"):
        compared(first, first)
    with pytest.raises(RunError) as caught:
        compared(first, Path("runs/tickets/b"))
    assert "cannot compare: 2 problems" in str(caught.value) and "runs/tickets/b: no such run folder" in str(
        caught.value
    )
    made_evaluation(RunFolder(first).evaluation("tuned-first-20"), load_recipe(file), replies_of(ROWS, 0.9))
    with pytest.raises(RunError, match="choose one that exists with --name: tuned-first-20"):
        open_evaluation(first)
    assert open_evaluation(first, "tuned-first-20").result
    with pytest.raises(
        RunError, match=r"was not evaluated before tuning; run `mlxtune evaluate runs/tickets/a --base`"
    ):
        open_evaluation(first, "base")


def test_one_run_is_compared_with_its_base_model(file: Path) -> None:
    run = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9))
    with pytest.raises(RunError, match=r"nothing to compare it with.*`mlxtune evaluate runs/tickets/a --base`"):
        compared(run)
    base = made_evaluation(RunFolder(run).evaluation("base"), load_recipe(file), replies_of(ROWS, 0.1), adapter=None)
    found = compared(run)
    assert found.names == ("base", "tuned") and found.settings == ()
    one = metric(found, "priority", "accuracy").comparisons[1]
    assert one is not None and one.mark == "better"
    assert values(found.training)["steps"] == (None, 30) and values(found.cost)["adapter bytes"] == (None, 8000)
    named = compared(base, run)
    assert named.names == ("base", "tuned") and named.metrics == found.metrics


def test_a_base_model_that_was_evaluated_before_any_run_is_found_too(file: Path) -> None:
    run = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9))
    folder = Path("runs/tickets/base/evaluation/base")
    made_evaluation(folder, load_recipe(file), replies_of(ROWS, 0.1), adapter=None)
    assert compared(run).evaluations == (folder, RunFolder(run).evaluation("tuned"))


def test_a_recipe_stands_for_its_newest_run(file: Path) -> None:
    runs = two_runs(file)
    assert open_evaluation(file).run is not None
    assert {str(open_evaluation(file).run)} <= {str(run) for run in runs}


def test_a_run_named_twice_is_refused(file: Path) -> None:
    runs = two_runs(file)
    with pytest.raises(Misuse, match="runs/tickets/a: named twice"):
        compared(runs[0], runs[1], Path("runs/../runs/tickets/a"))


def test_evaluations_outside_of_any_run_need_a_recipe(file: Path) -> None:
    recipe = load_recipe(file)
    folders = [made_evaluation(Path(name), recipe, replies_of(ROWS, 0.5)) for name in ("x", "y")]
    found = open_evaluations(folders)
    with pytest.raises(RunError, match=r"is not in a run folder.*--recipe RECIPE"):
        compare_runs(found)
    assert compare_runs(found, recipe=recipe).names == ("x", "y")
    run = made_run(Path("runs/tickets/a"), file, replies_of(ROWS, 0.9))
    assert compared(run, folders[0]).names == ("runs/tickets/a/tuned", "x")  # the run's recipe says it


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/r/a", "runs/r/b"], ["a", "b"]),
        (["runs/r/a", "runs/s/a"], ["r", "s"]),
        (["one/r/x/a", "two/r/x/b"], ["one/a", "two/b"]),
        (["runs/a", "runs/a/deep"], ["a", "a/deep"]),
    ],
)
def test_runs_are_named_by_what_tells_them_apart(paths: list[str], names: list[str], file: Path) -> None:
    found = [open_evaluation(made_run(Path(path), file), evaluated=False) for path in paths]
    assert short_names(found) == names


# As a user sees it -------------------------------------------------------------------------------------------------


def test_csv_is_safe_in_a_spreadsheet_and_its_numbers_stay_numbers(file: Path, place: Path) -> None:
    odd = ticket_recipe(place / "odd", ROWS, prompt={"system": "=HYPERLINK(1)", "user": "{text}"})
    runs = [
        made_run(Path("runs/=a"), file, replies_of(ROWS, 0.9)),
        made_run(Path("runs/-b"), odd, replies_of(ROWS, 0.4)),
    ]
    lines = list(csv.DictReader(io.StringIO(as_csv(compared(*runs)))))
    assert {line["run"] for line in lines if line["section"] != "notes"} == {"'=a", "'-b"}
    (system,) = [line for line in lines if line["name"] == "prompt.system" and line["run"] == "'-b"]
    assert system["value"] == "'=HYPERLINK(1)"
    (accuracy,) = [one for one in lines if (one["field"], one["name"], one["run"]) == ("priority", "accuracy", "'-b")]
    assert float(accuracy["difference"]) < 0 and accuracy["difference"].startswith("-")
    assert float(accuracy["low"]) <= float(accuracy["value"]) <= float(accuracy["high"])
    for line in lines:
        for cell in line.values():
            try:
                float(cell)
            except ValueError:
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_markdown_is_one_table_that_odd_names_do_not_break(file: Path) -> None:
    names = ("a|b", "<b>c</b>")
    runs = [made_run(Path("runs") / name.replace("/", "_"), file, replies_of(ROWS, 0.9)) for name in names]
    text = as_markdown(compared(*runs))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert text.splitlines()[: len(table)] == table  # in one piece, and first
    assert {line.replace("\\|", "").count("|") for line in table} == {4}
    assert "a\\|b" in table[0] and "<b>" not in text and "\\<b\\>" in table[0]
    assert any(line.startswith("| **priority, 60 rows** |") for line in table)


def test_tables_show_what_is_real(file: Path) -> None:
    text = to_text(comparison_tables(compared(*two_runs(file, overrides=["lora.rank=16"]))), 200)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "lora.rank 8 16" in lines
    assert any(line.startswith("priority accuracy 0.") and "[" in line for line in lines)
    assert any(line.startswith("priority accuracy -0.") and line.endswith("worse") for line in lines)
    assert any(line.startswith("recall of low") for line in lines)
    assert "adapter size 8.0 kB 16.0 kB" in lines


def made_up_runs(n_runs: int, name: str = "rank-{}_learning_rate-1e-4") -> RunComparison:
    """Runs with long names, metrics whose differences have every mark, and a long setting."""
    marks: tuple[Verdict, ...] = ("no real difference", "better", "worse", "too few rows")
    estimate = Estimate(0.731, 0.681, 0.780)
    differences = [
        Comparison(0.02, -0.01, 0.051, 0.2, marks[i % 4], "the first", marks[i % 4]) for i in range(n_runs - 1)
    ]
    names = (
        (REPLY, "all_fields_correct"),
        ("queue", "accuracy"),
        ("queue", "recall.Service Outages and Maintenance"),
        ("response", "placeholders_invented"),
    )
    return RunComparison(
        names=tuple(name.format(2**i) for i in range(n_runs)),
        runs=(None,) * n_runs,
        evaluations=(Path("x"),) * n_runs,
        rows=300,
        rows_evaluated=(300,) * n_runs,
        settings=(
            Fact("lora.rank", tuple(2**i for i in range(n_runs))),
            Fact("prompt.system", ("Be brief. " * 9,) * n_runs),
        ),
        training=(Fact("train loss", (1.234,) * n_runs),),
        metrics=tuple(ComparedMetric(*one, (estimate,) * n_runs, (None, *differences)) for one in names),
        cost=(Fact("adapter bytes", (12_345_678,) * n_runs),),
        notes=(),
    )


def test_tables_show_settings_metrics_and_what_is_real_and_what_it_cost() -> None:
    text = to_text(comparison_tables(made_up_runs(3, "run-{}")), 100)
    assert [line for line in text.splitlines() if not line.startswith(" \u2500")] == TABLES.splitlines()


TABLES = """\
Settings that differ

                                  run-1                    run-2                        run-4
 lora.rank                            1                        2                            4
 prompt.system   Be brief. Be brief. Be   Be brief. Be brief. Be       Be brief. Be brief. Be
                    brief. Be brief. Be      brief. Be brief. Be   brief. Be brief. Be brief.
                      brief. Be brie...        brief. Be brie...                   Be brie...

Training

               run-1    run-2    run-4
 train loss   1.2340   1.2340   1.2340

300 rows; 95% intervals over rows in brackets

 field      metric                             run-1                  run-2                  run-4
 reply      all fields right    0.731 [0.681, 0.780]   0.731 [0.681, 0.780]   0.731 [0.681, 0.780]

 queue      accuracy            0.731 [0.681, 0.780]   0.731 [0.681, 0.780]   0.731 [0.681, 0.780]
            recall of Service   0.731 [0.681, 0.780]   0.731 [0.681, 0.780]   0.731 [0.681, 0.780]
            Outages and
            Maintenance

 response   placeholders        0.731 [0.681, 0.780]   0.731 [0.681, 0.780]   0.731 [0.681, 0.780]
            invented

Difference to run-1

 field      metric                                            run-2                     run-4
 reply      all fields right                +0.020 [-0.010, +0.051]   +0.020 [-0.010, +0.051]
                                                 no real difference                    better

 queue      accuracy                        +0.020 [-0.010, +0.051]   +0.020 [-0.010, +0.051]
                                                 no real difference                    better
            recall of Service Outages and   +0.020 [-0.010, +0.051]   +0.020 [-0.010, +0.051]
            Maintenance                          no real difference                    better

 response   placeholders invented           +0.020 [-0.010, +0.051]   +0.020 [-0.010, +0.051]
                                                 no real difference                    better

Cost

                  run-1     run-2     run-4
 adapter size   12.3 MB   12.3 MB   12.3 MB
"""


@pytest.mark.parametrize("width", [60, 80, 100, 160, 400])
@pytest.mark.parametrize("n_runs", [2, 4, 5, 8])
def test_many_runs_are_shown_in_blocks_that_break_no_word(n_runs: int, width: int) -> None:
    found = made_up_runs(n_runs)
    text = to_text(comparison_tables(found), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    marks = [str(one.mark) for line in found.metrics for one in line.comparisons if one is not None]
    for mark in set(marks):
        assert text.count(mark) == marks.count(mark), mark  # in one line, each of them
    assert text.count("[-0.010, +0.051]") == len(marks)
    assert text.count("[0.681, 0.780]") >= n_runs * len(found.metrics)
    for word in ("Maintenance", "placeholders", "accuracy", "learning_", "rate-1e-4"):
        assert word in text
    heads = [i for i, line in enumerate(lines) if line.startswith(" \u2500")]
    assert all(lines[i - 1].count("rate-1e-4") <= 4 for i in heads)


def test_each_block_has_the_first_run_and_three_others() -> None:
    settings, training, metrics, differences, cost = comparison_tables(made_up_runs(8))
    for table in (settings, training, metrics, cost):
        blocks = to_text([table], 100).split(", continued\n")
        assert [block.count("rate-1e-4") for block in blocks] == [4, 4, 2]
        assert all("rank-1_" in block for block in blocks)
    wide = to_text([differences], 400).split(", continued\n")
    assert [block.count("[-0.010, +0.051]") for block in wide] == [12, 12, 4]


def test_a_name_that_no_line_can_hold_is_cut_and_marks_stay_whole() -> None:
    text = to_text(comparison_tables(made_up_runs(3, "x" * 70 + "{}")), 60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("no real difference") == 4 and text.count("better") == 4


def test_markdown_csv_and_json_are_never_in_blocks() -> None:
    found = made_up_runs(8)
    assert {line.count("|") for line in as_markdown(found).splitlines() if line.startswith("|")} == {10}
    assert "continued" not in as_markdown(found) + as_csv(found)
    assert len(list(csv.DictReader(io.StringIO(as_csv(found))))) == 8 * (2 + 1 + 4 + 1)
    assert len(found.to_json()["figures"][0]["values"]) == 8


def test_the_command_prints_tables_json_markdown_or_csv(file: Path, mlxtune: Run) -> None:
    runs = two_runs(file)
    shown = mlxtune("compare", *runs)
    assert shown.code == 0 and shown.err == "" and "Difference to a" in shown.out
    whole = json.loads(mlxtune("compare", *runs, "--json").out)
    assert whole["names"] == ["a", "b"] and whole["rows"] == 60 and whole["level"] == 0.05
    assert whole["comparisons"] == sum(one is not None for line in whole["figures"] for one in line["comparisons"])
    assert whole["runs"] == ["runs/tickets/a", "runs/tickets/b"]
    assert mlxtune("compare", *runs, "--markdown").out.startswith("|  | a | b |\n| --- | --- | --- |\n")
    assert mlxtune("compare", *runs, "--csv").out.splitlines()[0].startswith("section,field,name,run,value")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compare"], 2, "nothing to compare"),
        (["compare", "runs/tickets/a", "runs/tickets/b", "--csv", "--json"], 2, "choose one"),
        (["compare", "runs/tickets/a", "runs/tickets/a"], 2, "named twice"),
        (["compare", "runs/tickets/a", "runs/tickets/none"], 1, "no such run folder"),
        (["compare", "runs/tickets/a", "recipe"], 1, "not a run folder"),
        (["compare", "runs/tickets/a"], 1, "nothing to compare it with"),
        (["compare", "runs/tickets/a", "recipe/test.jsonl"], 1, "test.jsonl"),
    ],
)
def test_mistakes_get_one_message(words: list[str], code: int, message: str, file: Path, mlxtune: Run) -> None:
    two_runs(file)
    result = mlxtune(*words)
    assert result.code == code and result.out == ""
    assert message in result.err and result.err.count("Error: ") == 1 and "Traceback" not in result.err


def test_missing_or_damaged_predictions_are_named(file: Path, mlxtune: Run) -> None:
    runs = two_runs(file)
    predictions = runs[1] / "evaluation/tuned/predictions.jsonl"
    predictions.write_text("")
    result = mlxtune("compare", *runs)
    assert result.code == 1 and f"{predictions}: expected the 60 predictions" in result.err
    predictions.unlink()
    result = mlxtune("compare", *runs)
    assert result.code == 1 and str(predictions) in result.err
    (runs[1] / "evaluation/tuned/scores.json").write_text("{oops")
    result = mlxtune("compare", *runs)
    assert result.code == 1 and "scores.json: cannot be read" in result.err
