"""A run's files as a report reads them: whole, of older versions, missing and corrupt ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.report import read_splits, report_data
from mlxtune.errors import MlxtuneError, RunError
from mlxtune.evaluation.results import FileIdentity
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.report.contents import data_account as accounts
from mlxtune.report.contents.data_account import account_of
from mlxtune.report.contents.run import RunContents, read_contents
from mlxtune.runs.folder import RunFolder, open_run
from tests.conftest import write_recipe
from tests.made_runs import made_evaluation, made_run, replies_of, ticket_recipe, tickets, validation

ROWS = tickets(30)
STEP = {
    "event": "step", "step": 1, "epoch": 0.1, "loss": 2.0, "learning_rate": 1e-4, "grad_norm": 0.9, "tokens": 512,
    "seconds": 0.8, "peak_memory_gb": 1.1, "segments": {"priority": {"loss": 1.5, "tokens": 40}},
}  # fmt: skip


def contents(path: Path, name: str = "tuned") -> RunContents:
    return read_contents(open_run(path), name)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return ticket_recipe(tmp_path / "tickets", ROWS)


@pytest.fixture
def run(tmp_path: Path, recipe_file: Path) -> Path:
    return made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.8), metrics=[STEP, validation(10, 0.6, 0.5)])


def test_a_run_is_read_whole(run: Path) -> None:
    found = contents(run)
    scores = json.loads((run / "evaluation" / "tuned" / "scores.json").read_text())
    assert found.tuned is not None and found.tuned.result.to_json() == scores
    assert [one.input for one in found.tuned.predictions] == [row["text"] for row in ROWS]
    assert len(found.tuned.errors.worst) == sum(one.predicted != one.expected for one in found.tuned.predictions)
    assert (found.steps[0].loss, found.steps[0].segments["priority"].tokens) == (2.0, 40)
    assert [(one.step, one.loss, one.train and one.train.loss) for one in found.validations] == [(10, 0.6, 0.5)]
    assert found.facts.device.description == "the CPU" and found.facts.seconds == 12.0
    assert found.adapter_bytes == (run / "adapter" / "adapters.safetensors").stat().st_size


def test_a_run_that_was_not_evaluated_has_no_evaluation(tmp_path: Path, recipe_file: Path) -> None:
    found = contents(made_run(tmp_path / "run", recipe_file))
    assert (found.tuned, found.base, found.human, found.verification, found.validations) == (None, None, None, None, ())


def test_an_older_run_lacks_what_was_not_written_then(run: Path) -> None:
    (run / "run.json").write_text(json.dumps({"status": "finished", "best": {"valid_loss": 0.5, "step": 4}}))
    facts = contents(run).facts
    assert facts.best is not None and (facts.best.metric, facts.best.value) == ("valid.loss", 0.5)
    assert (facts.seconds, facts.device.description, facts.data) == (None, None, {})


def test_a_training_that_goes_on_is_read(run: Path) -> None:
    (run / "run.json").write_text(json.dumps({"status": "training"}))
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "step", "st')
    assert (contents(run).facts.status, len(contents(run).steps)) == ("training", 1)


def base_of(run: Path, right: float, **about: Any) -> Path:
    recipe = RunFolder(run).recipe()
    return made_evaluation(RunFolder(run).evaluation("base"), recipe, replies_of(ROWS, right, 1), adapter=None, **about)


def test_the_base_models_evaluation_of_the_same_questions_is_found(run: Path) -> None:
    base_of(run, 0.2)
    found = contents(run)
    assert found.base is not None and found.base.folder.name == "base" and len(found.base.predictions) == len(ROWS)
    assert contents(run, "base").base is None


def test_the_base_models_evaluation_of_other_rows_is_left_out(run: Path) -> None:
    base_of(run, 0.2, data=FileIdentity("test.jsonl", "0" * 64, 30).to_json())
    assert contents(run).base is None


def test_a_base_model_is_shown_in_the_decoding_that_counts_for_the_run(run: Path) -> None:
    base = base_of(run, 0.2)
    scores = json.loads((base / "scores.json").read_text())
    other = {**scores, "decoding": "constrained"}
    same = {**scores, "predictions": "predictions-free.jsonl"}
    (base / "predictions-free.jsonl").write_bytes((base / "predictions.jsonl").read_bytes())
    (base / "predictions.jsonl").write_text("of the other decoding\n")
    (base / "scores.json").write_text(json.dumps({**other, "decodings": {"constrained": other, "free": same}}))
    found = contents(run)
    assert found.tuned is not None and found.tuned.shown.decoding == "free"
    assert found.base is not None and found.base.result.top.decoding == "constrained"
    assert found.base.shown.decoding == "free" and len(found.base.predictions) == len(ROWS)
    assert found.tuned.result.before is not None


def test_predictions_that_are_fewer_than_were_scored_are_an_error(run: Path) -> None:
    file = run / "evaluation" / "tuned" / "predictions.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(MlxtuneError, match=r"predictions\.jsonl: expected the 30 predictions .* got 29"):
        contents(run)


def test_bytes_that_are_no_text_cost_their_line_alone(run: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(b"\xff\n")
    assert len(contents(run).steps) == 1


def test_predictions_that_were_removed_leave_the_scores(run: Path) -> None:
    (run / "evaluation" / "tuned" / "predictions.jsonl").unlink()
    found = contents(run).tuned
    assert found is not None and (found.predictions, found.result.top.rows) == ([], 30)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("run.json", '{"seconds": "many"}', "run.json: seconds: expected a number, got 'many'"),
        ("run.json", "{", "run.json: cannot be read"),
        ("run.json", "[1]", r"run.json: expected an object, as training writes it, got \[1\]"),
        ("metrics.jsonl", '{"event": "step", "step": 3}', "metrics.jsonl: the step event of step 3: loss: expected this key"),
        ("evaluation/tuned/scores.json", '{"rows": 3}', "scores.json: not the scores of an evaluation"),
        ("evaluation/tuned/predictions.jsonl", "{}", "predictions.jsonl: 1 problem"),
        ("evaluation/tuned/human_eval.json", "{}", "human_eval.json: not what review writes: tag: expected this key"),
        ("verify.json", '{"artifacts": 1}', "verify.json: not what verify writes: artifacts: expected an object"),
        ("data.json", '{"format": 1}', "data.json: not an account of data: sha256: expected this key"),
    ],
)  # fmt: skip
def test_a_corrupt_file_is_one_error_that_names_it(file: str, text: str, says: str, run: Path) -> None:
    (run / file).write_text(text)
    with pytest.raises(MlxtuneError, match=says.replace(".", r"\.")) as raised:
        contents(run)
    assert str(run) in str(raised.value)


def test_an_evaluation_that_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(RunError, match="has no evaluation named 'other'; choose one that exists with --name: tuned"):
        contents(run, "other")


# The account of the data


@pytest.fixture
def trained(tmp_path: Path, base: Path) -> Path:
    """A run whose base model's tokenizer is there."""
    recipe = write_recipe(tmp_path / "intents", base)
    return made_run(tmp_path / "run", recipe, base={"folder": str(base)})


def test_the_account_is_what_the_data_command_says(trained: Path, base: Path) -> None:
    recipe = RunFolder(trained).recipe()
    report = report_data(recipe, read_splits(recipe), load_tokenizer(base))
    account = contents(trained).data
    assert account == account_of(report) and not account.missing
    assert account.splits["train"].labels == report.splits["train"].labels
    assert account.splits["test"].tokens.max == report.splits["test"].lengths.max
    assert [(one.split, one.line) for one in account.leaks] == [(one.split, one.row.line) for one in report.leaks] != []


def test_the_account_is_kept_when_the_files_are_gone(trained: Path) -> None:
    account, recipe = contents(trained).data, RunFolder(trained).recipe()
    for file in (recipe.data.train, recipe.data.valid, recipe.data.test):
        Path(str(file)).unlink()
    assert contents(trained).data == account


def test_the_account_is_computed_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = contents(trained).data
    monkeypatch.delattr(accounts, "report_data")
    assert contents(trained).data == account


def test_files_that_are_gone_or_changed_are_said_to_be(trained: Path) -> None:
    recipe = RunFolder(trained).recipe()
    Path(str(recipe.data.test)).unlink()
    found = contents(trained).data
    assert (set(found.splits), found.missing) == ({"train", "valid"}, {"test": "gone"})
    (trained / "data.json").unlink()
    Path(str(recipe.data.train)).write_text('{"text": "other rows", "intents": ["none"]}\n')
    found = contents(trained).data
    assert (found.splits, found.missing["train"]) == ({}, "changed")


def test_without_the_tokenizer_there_is_no_account(run: Path) -> None:
    assert contents(run).data.missing == {"train": "no_tokenizer", "test": "no_tokenizer"}


def test_rows_that_the_recipe_cannot_use_are_no_failure_of_the_report(trained: Path, recipe_file: Path) -> None:
    train = Path(load_recipe(trained / "recipe.yaml").data.train)
    train.write_text("not JSON\n")
    info = json.loads((trained / "run.json").read_text())
    (trained / "run.json").write_text(json.dumps({**info, "data": {}}))
    assert contents(trained).data.missing == dict.fromkeys(("train", "valid", "test"), "unreadable")
