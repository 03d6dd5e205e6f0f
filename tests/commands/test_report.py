"""`mlxtune report`, and the report at the end of `lora` and `evaluate`: files, output, exit codes."""

from __future__ import annotations

import json
import subprocess
import webbrowser
from pathlib import Path

import pytest

from mlxtune.report.words import LANGUAGES, Words
from mlxtune.runs.folder import RunFolder
from mlxtune.sweep.run import run_process
from tests.conftest import Run, write_recipe
from tests.made_runs import made_evaluation, made_run, replies_of, ticket_recipe, tickets, validation

ROWS = tickets(12)
METRICS = [
    {"event": "step", "step": 1, "loss": 2.0, "learning_rate": 1e-4},
    {"event": "step", "step": 2, "loss": 1.0, "learning_rate": 1e-4},
    validation(2, 1.25, 1.0),
]


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return ticket_recipe(tmp_path / "tickets", ROWS)


@pytest.fixture
def run(tmp_path: Path, recipe_file: Path) -> Path:
    return made_run(tmp_path / "run", recipe_file, replies_of(ROWS, 0.8), metrics=METRICS)


def accuracy(run: Path) -> str:
    """As a report shows it."""
    one = json.loads((run / "evaluation" / "tuned" / "scores.json").read_text())["fields"]["priority"]["accuracy"]
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def test_the_page_lies_in_the_run_and_its_path_is_the_last_line(run: Path, mlxtune: Run) -> None:
    result = mlxtune("report", run)
    assert (result.code, result.out) == (0, f"{run / 'report.html'}\n")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.lower().startswith("<!doctype html>") and accuracy(run).partition(" ")[0] in page
    assert mlxtune("report", run).code == 0  # derived from the run, so it is replaced


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_is_in_the_language_that_is_asked_for(language: str, run: Path, mlxtune: Run) -> None:
    assert mlxtune("report", run, "--language", language, "--markdown").code == 0
    text = (run / "report.md").read_text(encoding="utf-8")
    say = Words(language)
    for key in ("headline.title", "training.title", "settings.title", "reproduce.title"):
        assert f"\n## {say(key)}\n" in text
    assert accuracy(run) in text


def test_the_environment_names_the_language(run: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_LANGUAGE", "zh")
    assert "微调报告" in mlxtune("report", run, "--markdown", "--out", "-").out


def test_markdown_goes_to_stdout(run: Path, mlxtune: Run) -> None:
    result = mlxtune("report", run, "--markdown", "--out", "-")
    assert result.code == 0 and result.out.startswith("# Fine-tuning report: tickets\n")
    assert not (run / "report.md").exists() and not (run / "report.html").exists()


def test_figures_are_written_and_shown_by_the_markdown(run: Path, tmp_path: Path, mlxtune: Run) -> None:
    result = mlxtune("report", run, "--markdown", "--figures", tmp_path / "figs", "--json")
    content = json.loads(result.out)
    assert content["report"] == str(run / "report.md") and str(tmp_path / "figs" / "losses.png") in content["figures"]
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "](../figs/losses.svg)" in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (run / line.rpartition("](")[2].rstrip(")")).is_file()
    again = mlxtune("report", run, "--figures", tmp_path / "figs")
    assert again.code == 1 and "replace them with --force" in again.err
    assert mlxtune("report", run, "--figures", tmp_path / "figs", "--force").code == 0


def test_another_file_is_replaced_only_with_force(run: Path, tmp_path: Path, mlxtune: Run) -> None:
    out = tmp_path / "new folder" / "page.html"
    assert mlxtune("report", run, "--out", out).out == f"{out}\n"
    refused = mlxtune("report", run, "--out", out)
    assert (refused.code, refused.out) == (1, "") and f"{out}: exists already; replace it with --force" in refused.err
    assert mlxtune("report", run, "--out", out, "--force").code == 0


def test_json_names_what_was_written(run: Path, mlxtune: Run) -> None:
    content = json.loads(mlxtune("report", run, "--json").out)
    assert content == {"run": str(run), "runs": [str(run)], "report": str(run / "report.html"), "figures": []}


def test_a_recipe_stands_for_its_newest_run(
    recipe_file: Path, tmp_path: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(Path("runs/tickets/a"), recipe_file, replies_of(ROWS, 0.8))
    assert mlxtune("report", recipe_file).out == "runs/tickets/a/report.html\n"


def test_several_runs_are_one_page_in_the_current_folder(
    run: Path, recipe_file: Path, tmp_path: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = made_run(tmp_path / "other", recipe_file, replies_of(ROWS, 0.5, 1))
    monkeypatch.chdir(tmp_path)
    assert mlxtune("report", run, other, "--markdown").out == "report.md\n"
    text = Path("report.md").read_text(encoding="utf-8")
    assert accuracy(run) in text and accuracy(other) in text
    assert mlxtune("report", run, other, "--language", "zh").out == "report.html\n"
    page = Path("report.html").read_text(encoding="utf-8")
    assert accuracy(run) in page and accuracy(other) in page and Words("zh")("several.baseline") in page
    assert mlxtune("report", run, other).code == 1  # it is no run's own report, so it is replaced only with --force


def test_a_base_model_is_compared_with_its_run(run: Path, tmp_path: Path, mlxtune: Run) -> None:
    base = RunFolder(run).evaluation("base")
    made_evaluation(base, RunFolder(run).recipe(), replies_of(ROWS, 0.1, 3), adapter=None)
    result = mlxtune("report", base, run, "--markdown", "--out", "-")
    assert result.code == 0 and "**Compared with: base**" in result.out and "**Compared with: tuned**" in result.out


def test_a_report_of_the_base_model_leaves_the_runs_own_alone(run: Path, mlxtune: Run) -> None:
    base = RunFolder(run).evaluation("base")
    made_evaluation(base, RunFolder(run).recipe(), replies_of(ROWS, 0.1, 3), adapter=None)
    assert mlxtune("report", run).code == 0
    own = (run / "report.html").read_bytes()
    for words in ([run, "--name", "base"], [base]):
        assert mlxtune("report", *words).out == f"{run / 'report-base.html'}\n"
    assert (run / "report.html").read_bytes() == own
    assert mlxtune("report", base, "--markdown").out == f"{run / 'report-base.md'}\n"
    text = (run / "report-base.md").read_text(encoding="utf-8")
    assert "| evaluation | base |" in text and "after tuning" not in text


def test_runs_of_other_rows_are_compared_on_those_in_common_where_that_is_asked_for(
    run: Path, tmp_path: Path, mlxtune: Run
) -> None:
    other = made_run(tmp_path / "other", ticket_recipe(tmp_path / "half", ROWS[:6]), replies_of(ROWS[:6], 0.5, 1))
    result = mlxtune("report", run, other, "--out", "-")
    assert (result.code, result.out) == (1, "") and "--intersection compares on the 6 rows" in result.err
    shared = mlxtune("report", run, other, "--out", "-", "--markdown", "--intersection")
    assert shared.code == 0 and "6 rows, the same for all" in shared.out


def test_a_run_that_was_not_evaluated_has_a_report(recipe_file: Path, tmp_path: Path, mlxtune: Run) -> None:
    run = made_run(tmp_path / "bare", recipe_file)
    result = mlxtune("report", run)
    assert result.code == 0 and "run was not evaluated" in (run / "report.html").read_text(encoding="utf-8")


def test_a_corrupt_file_is_one_message_and_no_page(run: Path, mlxtune: Run) -> None:
    scores = run / "evaluation" / "tuned" / "scores.json"
    scores.write_text("{")
    result = mlxtune("report", run)
    assert (result.code, result.out) == (1, "") and result.err.startswith(f"Error: {scores}: cannot be read")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere"], 1, "nowhere: no such run folder"),
        ([], 2, "Missing argument 'RUN...'"),
        (["RUN", "--name", "other"], 1, "has no evaluation named 'other'; choose one that exists with --name: tuned"),
        (["RUN", "--out", "-", "--json"], 2, "--out - writes the report to stdout"),
        (["RUN", "--markdown", "--open"], 2, "--open opens the page"),
        (["RUN", "--language", "fr"], 2, "'fr' is not one of 'en', 'zh'"),
        (["RUN", "RUN"], 2, "named twice"),
        (["RUN", "--intersection"], 2, "--intersection compares several runs"),
        (["RUN", "--figures", "/dev/null/figures", "--out", "-"], 1, "/dev/null/figures: cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], code: int, says: str, run: Path, mlxtune: Run) -> None:
    result = mlxtune("report", *(str(run) if word == "RUN" else word for word in words))
    assert (result.code, result.out) == (code, "") and says in result.err


def test_the_page_is_opened_in_a_browser(run: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not opened.append(url))
    assert mlxtune("report", run, "--open").err == ""
    assert opened == [(run / "report.html").resolve().as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert "no browser could be opened" in mlxtune("report", run, "--open").err


# At the end of lora and evaluate


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLXTUNE_REPORT")


@pytest.mark.usefixtures("reporting")
def test_training_and_evaluation_write_the_report(base: Path, tmp_path: Path, mlxtune: Run) -> None:
    recipe, run = write_recipe(tmp_path / "recipe", base), tmp_path / "run"
    page = run / "report.html"
    trained = mlxtune("lora", recipe, "--out", run)
    assert trained.out.splitlines()[-1] == f"report: {page}"
    assert "run was not evaluated" in page.read_text(encoding="utf-8")
    evaluated = mlxtune("evaluate", run)
    assert evaluated.out.splitlines()[-1] == f"report: {page}"
    assert "run was not evaluated" not in page.read_text(encoding="utf-8")
    before = page.stat().st_mtime_ns
    assert json.loads(mlxtune("evaluate", run, "--base", "--json").out)["files"]["report"] == str(page)
    assert page.stat().st_mtime_ns > before
    shown = page.read_bytes()
    trial = mlxtune("evaluate", run, "--limit", 2)
    assert trial.out.splitlines()[-1].startswith("scores: ") and page.read_bytes() == shown
    again = mlxtune("evaluate", run, "--force", "--no-report")
    assert again.out.splitlines()[-1].startswith("scores: ") and page.read_bytes() == shown


@pytest.mark.usefixtures("reporting")
def test_json_of_training_carries_the_report(base: Path, tmp_path: Path, mlxtune: Run) -> None:
    result = mlxtune("lora", write_recipe(tmp_path / "recipe", base), "--out", tmp_path / "run", "--json")
    last = json.loads(result.out.splitlines()[-1])
    assert (last["event"], last["report"]) == ("run", str(tmp_path / "run" / "report.html"))


@pytest.mark.usefixtures("reporting")
def test_a_report_that_fails_fails_nothing_else(
    base: Path, tmp_path: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXTUNE_LANGUAGE", "fr")
    run = tmp_path / "run"
    result = mlxtune("lora", write_recipe(tmp_path / "recipe", base), "--out", run)
    assert result.code == 0 and result.out.splitlines()[-1] == f"next: mlxtune evaluate {run}"
    assert result.err.splitlines()[-1] == (
        "the report was not written: MLXTUNE_LANGUAGE: expected one of en, zh, got 'fr'; "
        f"try again with: mlxtune report {run}"
    )


@pytest.mark.usefixtures("reporting")
def test_the_trials_of_a_sweep_write_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Process:
        def __init__(self, words: list[str], env: dict[str, str], **_: object) -> None:
            asked.append(env["MLXTUNE_REPORT"])

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Process)
    assert run_process(["lora", "recipe.yaml"], tmp_path / "log") == 0
    assert asked == ["0"]
