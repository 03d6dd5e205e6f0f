"""The list of runs and their cleaning: every run is shown as it is, and only checkpoints that nothing needs are removed."""

from __future__ import annotations

import io
import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from mlxtune.errors import RunError
from mlxtune.report.terminal.run_table import age_text, run_tables
from mlxtune.report.terminal.tables import to_text
from mlxtune.report.values import size_text
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.listing import Cleaning, clean, list_runs, look_at, plan_cleaning
from tests.conftest import Result, Run

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


class Terminal(io.StringIO):
    """A stdin that somebody types at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def mlxtune(mlxtune: Run) -> Run:
    """As everywhere; `typed` is what is typed at its terminal, None if there is none."""

    def run(*words: object, typed: str | None = None) -> Result:
        return mlxtune(*words, stdin="y\n" if typed is None else Terminal(typed))

    return run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(name: str, hours: float = 1, **info: Any) -> Path:
    """A run folder as training leaves it."""
    folder = Path("runs") / name
    for part, content in (
        ("adapter/adapters.safetensors", "A" * 10),
        ("checkpoints/step-000040/state.safetensors", "C" * 1000),
        ("checkpoints/index.json", "{}"),
        ("evaluation/tuned/scores.json", "{}"),
        ("recipe.yaml", f"name: {folder.parent.name}\nmodel: {{path: x}}\n"),
        ("metrics.jsonl", '{"event": "step", "step": 40}\n'),
        (".lock", ""),
    ):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / part).write_text(content, encoding="utf-8")
    facts = {
        "status": "finished",
        "created": (NOW - timedelta(hours=hours)).isoformat(),
        "backend": "mlx",
        "step": 60,
        "steps": {"per_epoch": 20, "total": 60},
        "best": {"metric": "intents.exact_match", "value": 0.75, "step": 40, "checkpoint": "step-000040"},
    }
    (folder / "run.json").write_text(json.dumps({**facts, **info}), encoding="utf-8")
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# The list ----------------------------------------------------------------------------------------------------------


def test_a_run_is_listed_with_all_that_is_known_of_it() -> None:
    folder = made("intent/one")
    run = look_at(folder)
    assert (run.path, run.recipe, run.backend, run.status) == (folder, "intent", "mlx", "finished")
    assert (run.step, run.steps, run.best) == (60, 60, {"metric": "intents.exact_match", "value": 0.75})
    assert run.created == NOW - timedelta(hours=1)
    assert run.checkpoint_bytes == 1002
    assert run.n_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_runs_are_found_at_any_depth_and_listed_newest_first() -> None:
    names = {"a/old": 9, "b/newest": 1, "deep/er/middle": 5}
    for name, hours in names.items():
        made(name, hours)
    made("a/old/evaluation/copy")  # nothing inside a run or hidden is a run
    made(".trash/gone")
    found = [str(run.path) for run in list_runs(Path("runs"))]
    assert found == ["runs/b/newest", "runs/deep/er/middle", "runs/a/old"]
    assert [run.path for run in list_runs(Path("runs/a/old"))] == [Path("runs/a/old")]


def test_a_run_that_has_nothing_but_its_recipe_and_run_json_is_one() -> None:
    folder = Path("runs/intent/one")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: intent\n")
    (folder / "run.json").write_text('{"status": "failed", "error": "no memory"}')
    assert [(run.status, run.problem, run.step) for run in list_runs(Path("runs"))] == [("failed", "no memory", None)]


def test_a_folder_with_a_recipe_and_data_is_no_run() -> None:
    folder = Path("runs/mine")
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: mine\n")
    (folder / "train.jsonl").write_text("")
    (Path("runs") / "run.json").write_text("{}")
    assert list_runs(Path("runs")) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"best": {"valid_loss": 0.5, "checkpoint": "step-000040"}, "valid_loss": 0.6}, ("valid.loss", 0.5)),
        ({"best": None, "valid_loss": 0.6}, ("valid.loss", 0.6)),
        ({"best": {"metric": "valid.loss", "value": 0.4, "step": 1}}, ("valid.loss", 0.4)),
        ({"best": None}, None),
        ({"best": "good"}, None),
        ({"best": {"metric": "valid.loss", "value": None}}, None),
    ],
)
def test_the_best_validation_is_read_in_every_form(facts: dict[str, Any], expected: tuple[str, float] | None) -> None:
    best = look_at(made("intent/one", **facts)).best
    assert best == (None if expected is None else {"metric": expected[0], "value": expected[1]})


def test_training_that_nobody_does_has_died() -> None:
    folder = made("intent/one", status="training")
    assert look_at(folder).status == "died"
    with RunFolder(folder).locked():
        assert look_at(folder).status == "training"
    (folder / ".lock").unlink()
    assert look_at(folder).status == "died"
    assert not (folder / ".lock").exists()  # looking writes nothing


@pytest.mark.parametrize("status", ["training", "failed"])
def test_the_step_of_a_run_that_did_not_end_in_order_is_that_of_its_metrics(status: str) -> None:
    folder = made("intent/one", status=status, step=2)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(
            '{"event": "step", "step": 41, "segments": {}}\n{"event": "validation", "step": 41}\n{"event": "st'
        )
    assert look_at(folder).step == 41
    (folder / "metrics.jsonl").unlink()
    assert look_at(folder).step is None


def test_the_last_step_of_long_metrics_is_found() -> None:
    folder = made("intent/one", status="failed")
    lines = [json.dumps({"event": "step", "step": step, "filler": "x" * 100}) for step in range(1, 2001)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert look_at(folder).step == 2000


@pytest.mark.parametrize("content", ["{oops", "", "[1, 2]", "3", "null", "{}", b"\xff\xfe\x00", None])
def test_a_damaged_run_is_listed_as_such_and_hides_no_other(content: str | bytes | None) -> None:
    made("intent/good")
    broken = made("intent/broken")
    if content is None:
        (broken / "run.json").unlink()
    else:
        (broken / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    found = {run.path.name: run for run in list_runs(Path("runs"))}
    assert found["good"].status == "finished" and found["good"].problem is None
    assert found["broken"].status == "damaged" and "run.json" in str(found["broken"].problem)
    assert found["broken"].recipe == "intent"


def test_values_of_other_types_are_unknown_and_not_fatal() -> None:
    folder = made(
        "intent/one", step="many", steps=[1], backend=3, created="yesterday", best=[], valid_loss=float("nan")
    )
    (folder / "recipe.yaml").write_text("name: [\n")
    run = look_at(folder)
    assert (run.recipe, run.backend, run.step, run.steps, run.best) == (None, None, None, None, None)
    assert abs((datetime.now(timezone.utc) - run.created).total_seconds()) < 600


def test_the_table_has_a_line_a_run_then_what_is_wrong_and_what_it_takes() -> None:
    made("intent/one")
    made("other/two", 30 * 24, status="failed", error="step 3: not finite", backend="torch", best=None)
    text = to_text(run_tables(list_runs(Path("runs")), NOW), 120)
    assert [line for line in text.splitlines() if line.strip(" ─")] == [
        " run               recipe   backend   status         step              best validation    age     size",
        " runs/intent/one   intent   mlx       finished   60 of 60   intents.exact_match 0.7500    1 h   1.3 kB",
        " runs/other/two    other    torch     failed     40 of 60                                30 d   1.3 kB",
        "runs/other/two: step 3: not finite",
        "2 runs, 2.6 kB; checkpoints of finished ones: 1.0 kB",
    ]


def test_a_long_name_is_not_folded_where_there_is_no_terminal(mlxtune: Run) -> None:
    long = made("intent/a-run-with-a-name-that-would-fold-" + 60 * "x")
    table = mlxtune("runs")
    assert (table.code, table.err) == (0, "")
    (line,) = [line for line in table.out.splitlines() if str(long) in line]
    assert line.split()[1:5] == ["intent", "mlx", "finished", "60"]


def test_the_command_lists_runs_as_json(mlxtune: Run) -> None:
    made("intent/one")
    made("other/two", 30 * 24, status="failed", error="step 3: not finite", backend="torch", best=None)
    found = json.loads(mlxtune("runs", "--json").out)
    assert found == {
        "folder": "runs",
        "runs": [json.loads(json.dumps(run.as_json())) for run in list_runs(Path("runs"))],
    }
    assert [(run["run"], run["status"], run["step"]) for run in found["runs"]] == [
        ("runs/intent/one", "finished", 60),
        ("runs/other/two", "failed", 40),
    ]


def test_list_may_be_left_out_and_a_folder_may_be_named(mlxtune: Run) -> None:
    made("intent/one")
    made("other/two")
    assert mlxtune("runs", "--json").out == mlxtune("runs", "list", "runs", "--json").out
    assert "other/two" not in mlxtune("runs", "runs/intent").out


def test_where_no_runs_are_that_is_said_and_no_failure(mlxtune: Run) -> None:
    nothing = mlxtune("runs")
    assert (nothing.code, nothing.out) == (0, "") and "no runs under runs/" in nothing.err
    assert json.loads(mlxtune("runs", "--json").out) == {"folder": "runs", "runs": []}


def test_a_folder_that_is_none_is_refused(mlxtune: Run, tmp_path: Path) -> None:
    assert "claen: no such folder; did you mean 'clean'?" in mlxtune("runs", "claen").err
    (tmp_path / "file").write_text("")
    refused = mlxtune("runs", "file")
    assert (refused.code, refused.out) == (1, "") and "expected a folder, this is a file" in refused.err


def test_a_name_commands_no_terminal(mlxtune: Run) -> None:
    made("intent/one", backend="\x1b[31mred[/]", best={"metric": "[b]\x07", "value": 1.0})
    out = mlxtune("runs").out
    assert "\x1b" not in out and "\x07" not in out and "red[/]" in out and "[b]" in out


def test_sizes_and_ages_are_said_in_their_unit() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.5 MB",
        "2.0 GB",
    ]
    assert [age_text(s) for s in (-5, 59, 60, 7199, 7200, 3 * 86400)] == ["0 s", "59 s", "1 min", "1 h", "2 h", "3 d"]


# Cleaning ----------------------------------------------------------------------------------------------------------


def test_cleaning_removes_the_checkpoints_of_finished_runs_and_nothing_else(mlxtune: Run) -> None:
    done = made("intent/done")
    others = {status: made(f"intent/{status}", status=status) for status in ("interrupted", "failed", "training")}
    damaged = made("intent/damaged")
    (damaged / "run.json").write_text("{")
    before = {folder: files(folder) for folder in (done, damaged, *others.values())}
    result = mlxtune("runs", "clean", "--yes")
    assert result.code == 0 and result.out == "removed the checkpoints of 1 run, 1.0 kB\n"
    assert f"{done}/checkpoints: 1,002 bytes" in result.err
    assert f"{others['interrupted']}: kept, interrupted: its checkpoints are needed to resume it" in result.err
    assert f"{others['training']}: kept, died: its checkpoints are needed to resume it" in result.err
    assert files(done) == {name for name in before[done] if not name.startswith("checkpoints/")}
    assert not (done / "checkpoints").exists()
    assert all(files(folder) == before[folder] for folder in (damaged, *others.values()))
    again = mlxtune("runs", "clean")
    assert (again.code, again.out) == (0, "nothing to remove\n")


@pytest.mark.parametrize("status", ["interrupted", "failed", "training"])
def test_a_run_that_did_not_finish_is_cleaned_if_it_is_named(status: str, mlxtune: Run) -> None:
    folder, other = made("intent/one", status=status), made("intent/two")
    result = mlxtune("runs", "clean", folder, str(folder) + "/", "--yes")
    assert result.code == 0 and "the checkpoints of 1 run" in result.out
    assert "cannot be resumed without them" in result.err
    assert not (folder / "checkpoints").exists() and (other / "checkpoints").exists()


def test_a_run_in_progress_is_never_cleaned(mlxtune: Run) -> None:
    for status in ("training", "finished"):
        folder = made(f"intent/{status}", status=status)
        with RunFolder(folder).locked():
            assert mlxtune("runs", "clean", "--yes").out == "nothing to remove\n"
            named = mlxtune("runs", "clean", folder, "--yes")
        assert (named.code, named.out) == (1, "") and "another process is writing to it" in named.err
        assert (folder / "checkpoints" / "index.json").exists()
        (folder / "run.json").write_text('{"status": "failed"}')


def test_a_run_that_began_again_after_the_question_keeps_its_checkpoints() -> None:
    folder = made("intent/one")
    plan = plan_cleaning([])
    RunFolder(folder).update_info(status="interrupted")
    with pytest.raises(RunError, match="changed from finished to interrupted"):
        list(clean(plan))
    with RunFolder(folder).locked(), pytest.raises(RunError, match="another process"):
        list(clean(plan))
    assert (folder / "checkpoints" / "index.json").exists()


def test_nothing_is_removed_unasked(mlxtune: Run) -> None:
    folder = made("intent/one")
    unasked = mlxtune("runs", "clean")
    assert (unasked.code, unasked.out) == (2, "") and "add --yes" in unasked.err
    for answer in ("n\n", "\n"):
        declined = mlxtune("runs", "clean", typed=answer)
        assert (declined.code, declined.out) == (0, "") and "nothing was removed" in declined.err
        assert "Remove the checkpoints of 1 run, 1.0 kB? [y/N]" in declined.err
    assert mlxtune("runs", "clean", typed="").code == 130
    assert (folder / "checkpoints").exists()
    assert mlxtune("runs", "clean", typed="y\n").out == "removed the checkpoints of 1 run, 1.0 kB\n"
    assert not (folder / "checkpoints").exists()


def test_what_is_no_run_is_refused_and_nothing_is_removed(mlxtune: Run, tmp_path: Path) -> None:
    good, damaged = made("intent/good"), made("intent/damaged")
    (damaged / "run.json").write_text("{")
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)
    for named, said in (("mine", "not a run folder"), ("rnu", "no such run folder"), (damaged, "is damaged")):
        result = mlxtune("runs", "clean", good, named, "--yes")
        assert (result.code, result.out) == (1, "") and said in result.err
    assert (good / "checkpoints").exists() and (tmp_path / "mine" / "checkpoints").exists()


def test_checkpoints_behind_a_link_are_left_alone(mlxtune: Run, tmp_path: Path) -> None:
    folder = made("intent/one")
    (folder / "checkpoints").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder / "checkpoints")
    assert look_at(folder).checkpoint_bytes == 0
    result = mlxtune("runs", "clean", "--yes")
    assert result.out == "nothing to remove\n" and "checkpoints is a link" in result.err
    assert mlxtune("runs", "clean", folder, "--yes").code == 1
    assert (tmp_path / "elsewhere" / "index.json").exists()


def test_cleaning_says_in_json_what_it_removed_and_kept(mlxtune: Run) -> None:
    done, kept = made("intent/done"), made("intent/kept", status="failed")
    said = json.loads(mlxtune("runs", "clean", "--yes", "--json").out)
    assert said["removed"] == [{"run": str(done), "bytes": 1002}] and said["bytes"] == 1002
    assert said["kept"] == [{"run": str(kept), "why": "failed: its checkpoints are needed to resume it"}]


def test_a_run_without_checkpoints_is_nothing_to_clean(mlxtune: Run) -> None:
    folder = made("intent/one")
    assert mlxtune("runs", "clean", folder, "--yes").code == 0
    again = mlxtune("runs", "clean", folder, "--yes")
    assert (again.code, again.out) == (0, "nothing to remove\n") and "has no checkpoints" in again.err
    assert isinstance(plan_cleaning([folder]), Cleaning)
