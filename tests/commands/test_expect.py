"""Conditions on the command line: a table on stdout, one message on stderr, exit 1; checked anew without asking the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROWS, Run, snapshot, write_recipe, write_rows

MET, UNMET = "evaluate.expect.intents.invalid_rate=<= 1", "evaluate.expect.intents.exact_match=> 0.999"
NAMED = "evaluate.expect.intents.recall.payment=>= 0"


@pytest.fixture
def file(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe without conditions, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "recipe", base, train={"max_steps": 1}, evaluate={"max_new_tokens": 12})


@pytest.fixture
def run(file: Path, mlxtune: Run) -> Path:
    """A run of it, trained for a step."""
    assert mlxtune("lora", file, "--out", "run").code == 0
    return Path("run")


def replies(n_right: int) -> Path:
    """Replies to the test rows, the first of them right."""
    texts = [", ".join(row["intents"]) if number < n_right else "none!" for number, row in enumerate(ROWS)]
    return write_rows(Path("replies.jsonl"), [{"prediction": text} for text in texts])


def scores(folder: str) -> dict[str, Any]:
    return dict(json.loads(Path(folder, "scores.json").read_text()))


def expecting(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_unmet_conditions_are_one_message_and_exit_1_after_all_is_written(file: Path, mlxtune: Run) -> None:
    words = ("evaluate", file, "--predictions", replies(5), "--out", "ev", *expecting(MET, UNMET, NAMED))
    done = mlxtune(*words)
    assert done.code == 1
    assert "Conditions of evaluate.expect: 2 of 3 met" in done.out and "NOT MET" in done.out
    assert done.err.count("Error: ") == 1 and done.err.splitlines()[-2:] == [
        "Error: replies.jsonl: evaluate.expect is not met: 1 problem",
        "  intents.exact_match: expected > 0.999, got 0.714 [0.429, 1.000], 0.285 too low",
    ]
    assert "evaluate.expect is not met" not in done.out
    assert {"scores.json", "errors.json", "predictions.jsonl"} <= set(snapshot(Path("ev")))
    assert [one["met"] for one in scores("ev")["expectations"]] == [True, False, True]


def test_met_conditions_and_those_that_may_be_missed_exit_0(file: Path, mlxtune: Run) -> None:
    done = mlxtune("evaluate", file, "--predictions", replies(5), *expecting(MET, NAMED))
    assert done.code == 0 and "2 of 2 met" in done.out and "NOT MET" not in done.out
    allowed = mlxtune("evaluate", file, "--predictions", replies(5), "--allow-unmet", *expecting(UNMET))
    assert allowed.code == 0 and "0 of 1 met" in allowed.out and "Error" not in allowed.err


def test_json_carries_the_conditions_and_the_exit_code_is_the_same(file: Path, mlxtune: Run) -> None:
    done = mlxtune("evaluate", file, "--predictions", replies(5), "--json", *expecting(UNMET))
    assert done.code == 1 and "0.285 too low" in done.err
    (one,) = json.loads(done.out)["expectations"]
    assert (one["name"], one["condition"], one["met"]) == ("intents.exact_match", "> 0.999", False)
    assert one["margin"] == pytest.approx(5 / 7 - 0.999) and one["value"]["value"] == pytest.approx(5 / 7)


def test_a_recipe_without_conditions_is_evaluated_as_before(file: Path, mlxtune: Run) -> None:
    done = mlxtune("evaluate", file, "--predictions", replies(0), "--json")
    assert done.code == 0 and "expectations" not in json.loads(done.out)


def test_wrong_conditions_are_misuse_of_the_recipe_and_nothing_is_loaded(file: Path, mlxtune: Run) -> None:
    wrong = mlxtune("evaluate", file, "--base", *expecting("evaluate.expect.intents.exact_match=>= 80"))
    assert wrong.code == 1 and "for 80% write 0.8" in wrong.err and "backend:" not in wrong.err


def test_a_finished_evaluation_is_checked_anew_without_asking_the_model(run: Path, mlxtune: Run) -> None:
    assert mlxtune("evaluate", run, *expecting(MET)).code == 0
    before, folder = snapshot(run), "run/evaluation/tuned"
    first = scores(folder)
    again = mlxtune("evaluate", run, *expecting(MET))
    assert again.code == 0 and "only its conditions are checked" in again.err and "backend:" not in again.err
    assert snapshot(run) == before
    changed = mlxtune("evaluate", run, *expecting(MET, UNMET))
    assert changed.code == 1 and "1 of 2 met" in changed.out and "backend:" not in changed.err
    assert changed.err.count("Error: ") == 1 and "run: evaluate.expect is not met: 1 problem" in changed.err
    stored = scores(folder)
    assert len(stored.pop("expectations")) == 2 and first.pop("expectations")
    assert stored == first and stored["asked"] == first["asked"]
    gone = mlxtune("evaluate", run)
    assert gone.code == 0 and "expectations" not in scores(folder)
    refused = mlxtune("evaluate", run)
    assert refused.code == 1 and "holds an evaluation already" in refused.err
    assert "backend:" in mlxtune("evaluate", run, "--force", *expecting(MET)).err


def test_the_model_before_tuning_is_not_held_to_them(file: Path, mlxtune: Run) -> None:
    done = mlxtune("evaluate", file, "--base", "--out", "base", *expecting(UNMET))
    assert done.code == 0 and "Conditions" not in done.out and "expectations" not in scores("base")


def test_other_rows_are_another_evaluation_and_not_checked_anew(run: Path, mlxtune: Run) -> None:
    assert mlxtune("evaluate", run, *expecting(MET)).code == 0
    rows = write_rows(Path("other.jsonl"), ROWS[:3])
    done = mlxtune("evaluate", run, *expecting(MET, f"data.test={rows}"))
    assert done.code == 1 and "holds another evaluation (other rows)" in done.err


def test_compare_says_how_many_conditions_each_run_meets(run: Path, mlxtune: Run) -> None:
    assert mlxtune("evaluate", run, "--base").code == 0
    assert mlxtune("evaluate", run, *expecting(MET, UNMET)).code == 1
    done = mlxtune("compare", run)
    assert done.code == 0 and "conditions of evaluate.expect met: tuned 1 of 2" in done.out
