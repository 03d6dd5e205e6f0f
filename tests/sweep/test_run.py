"""A sweep: the grid is what was asked for, what is finished is skipped, and a trial that fails takes no other with it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import stat
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlxtune.cli import main
from mlxtune.errors import DataError, Misuse, RecipeError, RunError
from mlxtune.evaluation.compare import runs as run_comparison
from mlxtune.files import write_json
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import RunFolder, locked
from mlxtune.sweep import run as sweeping_run
from mlxtune.sweep.grid import Trial, default_folder, parse_axis, plan_trials, scale_note
from mlxtune.sweep.run import run_process, sweep
from tests.conftest import Run, write_recipe, write_rows
from tests.made_runs import made_evaluation, made_run, replies_of, ticket_recipe, tickets

ROWS = tickets(12)
FOLDER = Path("runs/tickets/sweep-rank")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return ticket_recipe(tmp_path / "recipe", ROWS)


def trials_of(file: Path, *varied: str, overrides: Sequence[str] = ()) -> list[Trial]:
    return plan_trials(file, [parse_axis(text) for text in varied], overrides)


# The grid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys", "choices"),
    [
        ("lora.rank=32,64,128", ("lora.rank",), (("32",), ("64",), ("128",))),
        ("lora.targets=[attention, mlp]", ("lora.targets",), (("attention",), ("mlp",))),
        ("lora.targets=all,[q_proj, v_proj]", ("lora.targets",), (("all",), ("[q_proj, v_proj]",))),
        ("train.early_stopping=null,{patience: 3, min_delta: 0.1}", ("train.early_stopping",), (("null",), ("{patience: 3, min_delta: 0.1}",))),
        ("prompt.system='Be short, please',\"It's, well\"", ("prompt.system",), (("'Be short, please'",), ("\"It's, well\"",))),
        ("prompt.system=It's short,It's long", ("prompt.system",), (("It's short",), ("It's long",))),
        ("lora.rank,lora.alpha=32:64,64:128", ("lora.rank", "lora.alpha"), (("32", "64"), ("64", "128"))),
        ("data.train=a=b.jsonl,c.jsonl", ("data.train",), (("a=b.jsonl",), ("c.jsonl",))),
    ],
)  # fmt: skip
def test_what_varies_is_read_as_it_is_written(
    text: str, keys: tuple[str, ...], choices: tuple[tuple[str, ...]]
) -> None:
    axis = parse_axis(text)
    assert (axis.keys, axis.choices) == (keys, choices)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.rank", "expected KEY=VALUE,VALUE"),
        ("=32,64", "expected KEY=VALUE,VALUE"),
        ("lora..rank=32,64", "expected KEY=VALUE,VALUE"),
        ("lora.rank=32", "expected two values or more, got one; for a fixed value use --set lora.rank=32"),
        ("lora.rank=", "a value is missing"),
        ("lora.rank=32,,64", "a value is missing"),
        ("lora.rank=32,64,32", "names 32 twice"),
        ("train.learning_rate=1e-4,0.0001", "names 0.0001 twice"),
        ("lora.rank,lora.alpha=32:64,64", "'64' holds 1 values for 2 keys"),
        ("lora.rank,lora.rank=32:64,64:32", "names a key twice"),
        ("lora.targets=[a,{b", "not valid YAML"),
        ("name=[&a [x],&b [*a,*a]],[&a [*a]]", "an alias is part of the value that it refers to"),
    ],
)
def test_what_cannot_vary_is_refused(text: str, message: str) -> None:
    with pytest.raises(Misuse) as caught:
        parse_axis(text)
    assert message in str(caught.value)


def test_the_grid_is_every_combination_with_its_recipe(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8", "train.learning_rate=1e-4,2e-4", overrides=["train.epochs=2"])
    assert [trial.name for trial in trials] == [
        "rank-4_learning_rate-1e-4", "rank-4_learning_rate-2e-4", "rank-8_learning_rate-1e-4", "rank-8_learning_rate-2e-4",
    ]  # fmt: skip
    assert [(trial.recipe.lora.rank, trial.recipe.train.learning_rate) for trial in trials] == [
        (4, 1e-4), (4, 2e-4), (8, 1e-4), (8, 2e-4),
    ]  # fmt: skip
    assert all(trial.recipe.train.epochs == 2 and trial.overrides[0] == "train.epochs=2" for trial in trials)
    paired = trials_of(file, "lora.rank,lora.alpha=4:8,8:16")
    assert [(trial.recipe.lora.rank, trial.recipe.lora.alpha) for trial in paired] == [(4, 8.0), (8, 16.0)]


def test_names_of_folders_are_plain_and_none_is_twice(file: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "rows.jsonl", [])
    long = ",".join(f"'{'word ' * 20}{i}'" for i in range(3))
    trials = trials_of(
        file, "data.train=x/rows.jsonl,y/rows.jsonl", f"prompt.system={long},../..", "lora.targets=all,[q_proj, v_proj]"
    )
    names = [trial.name for trial in trials]
    assert len(set(names)) == len(names) == 16
    assert all("/" not in name and " " not in name and not name.startswith(".") and len(name) <= 210 for name in names)
    assert [trial.recipe.data.train for trial in trials][::8] == [str(tmp_path / x / "rows.jsonl") for x in "xy"]


def test_the_same_command_finds_its_folder_and_a_larger_grid_its_trials(file: Path) -> None:
    small, large = (parse_axis(f"lora.rank={ranks}") for ranks in ("4,8", "2,4,8"))
    assert default_folder("tickets", [small]) == default_folder("tickets", [large]) == FOLDER
    names = [{trial.name for trial in plan_trials(file, [axis])} for axis in (small, large)]
    assert names[0] < names[1]
    fixed = default_folder("tickets", [small], ["train.max_steps=5"])
    assert fixed != FOLDER and fixed == default_folder("tickets", [small], ["train.max_steps=5"])


def test_all_mistakes_of_all_trials_are_told_at_once_and_once(file: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        trials_of(file, "lora.rank=4,many,0", "lora.dropout=0.1,2", "lora.rnak=1,2", overrides=["train.epochs=0"])
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("recipe.yaml: 6 problems") and len(lines) == 7
    for said in (
        "--vary lora.rank=many: lora.rank: expected a whole number, got 'many'", "--vary lora.rank=0: lora.rank: expected at least 1",
        "--vary lora.dropout=2: lora.dropout: expected less than 1", "lora.rnak: unknown key; did you mean 'rank'?",
        "--set train.epochs=0: train.epochs",
    ):  # fmt: skip
        assert any(said in line for line in lines), said


def test_a_grid_of_many_mistakes_lists_the_first_and_counts_the_rest(file: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        trials_of(file, "lora.rank=" + ",".join(f"bad{n}" for n in range(30)), "train.epochs=0,-1")
    head, *listed, rest = str(caught.value).splitlines()
    assert head.endswith("recipe.yaml: 32 problems") and len(listed) == 20 and rest == "  ... and 12 more"
    assert len({problem.place for problem in caught.value.problems}) == 32, "each mistake is named by its own option"


def test_many_mistakes_in_the_recipe_itself_are_told_once_for_the_whole_grid(file: Path) -> None:
    file.write_text(file.read_text() + "".join(f"wrong{n}: 1\n" for n in range(25)))
    with pytest.raises(RecipeError) as caught:
        trials_of(file, "lora.rank=4,8")
    assert [problem.message.split(":")[0] for problem in caught.value.problems] == [f"wrong{n}" for n in range(25)]


@pytest.mark.parametrize(
    ("varied", "overrides", "message"),
    [
        ([], [], "nothing to vary"),
        (["lora.rank=4,8", "lora.rank=16,32"], [], "--vary lora.rank: is given twice"),
        (["lora.rank=4,8"], ["lora.rank=4"], "is also set by --set; give it once"),
        (["name=a,b"], [], "the recipe's name does not change the training"),
    ],
)
def test_a_key_varies_once(varied: list[str], overrides: list[str], message: str, file: Path) -> None:
    with pytest.raises(Misuse, match=message):
        trials_of(file, *varied, overrides=overrides)


def test_a_recipe_without_test_rows_can_only_be_trained(file: Path) -> None:
    with pytest.raises(RecipeError, match=r"data.test: missing; .*--no-evaluate"):
        trials_of(file, "lora.rank=4,8", overrides=["data.test=null"])
    assert len(plan_trials(file, [parse_axis("lora.rank=4,8")], ["data.test=null"], evaluate=False)) == 2


def test_a_rank_that_varies_alone_is_said_to_vary_the_scale(file: Path) -> None:
    note = scale_note(trials_of(file, "lora.rank=4,16", overrides=["lora.alpha=8"]))
    assert note and "2 at rank 4, 0.5 at rank 16" in note and "--vary lora.rank,lora.alpha=4:8,16:32" in note
    kept = trials_of(file, "lora.rank,lora.alpha=4:8,16:32")
    assert kept[0].recipe.lora.scale == kept[1].recipe.lora.scale and scale_note(kept) is None
    stable = scale_note(trials_of(file, "lora.rank=4,16", overrides=["lora.alpha=8", "lora.rslora=true"]))
    assert stable and "lora.alpha=4:8,16:16" in stable
    assert scale_note(trials_of(file, "train.epochs=1,2")) is None


# Running -----------------------------------------------------------------------------------------------------------


@dataclass
class Fake:
    """Runs nothing: leaves what training and evaluation would, or what `happens` says instead; remembers the commands."""

    happens: dict[str, Callable[[Path, Path], int]] = field(default_factory=dict)  # "lora rank-4" -> what
    words: list[list[str]] = field(default_factory=list)

    def __call__(self, words: Sequence[str], log: Path) -> int:
        self.words.append(list(words))
        command = words[0]
        at = {"lora": "--resume" if "--resume" in words else "--out"}
        folder = Path(words[1] if command == "evaluate" else words[words.index(at[command]) + 1])
        with log.open("a") as stream:
            stream.write(f"$ {command}\n")
        if f"{command} {folder.name}" in self.happens:
            return self.happens[f"{command} {folder.name}"](folder, log)
        if command == "lora":
            made_run(folder, Path(words[1]), None, [words[i + 1] for i, word in enumerate(words) if word == "--set"])
        else:
            recipe = RunFolder(folder).recipe()
            made_evaluation(RunFolder(folder).evaluation("tuned"), recipe, replies_of(ROWS, 0.7, recipe.lora.rank))
        return 0

    @property
    def commands(self) -> list[str]:
        return [f"{words[0]} {'--resume ' if '--resume' in words else ''}{Path(words[1]).name}" for words in self.words]


def fails(message: str, code: int = 1) -> Callable[[Path, Path], int]:
    def happen(folder: Path, log: Path) -> int:
        with log.open("a") as stream:
            stream.write(f"step 1/9\n{message}\n")
        return code

    return happen


def interrupted(folder: Path, log: Path) -> int:
    """What Ctrl-C leaves: a run with a checkpoint."""
    recipe = load_recipe(Path("recipe/recipe.yaml"), [f"lora.rank={folder.name.removeprefix('rank-')}"])
    made_run(folder, Path("recipe/recipe.yaml"), None, [f"lora.rank={recipe.lora.rank}"], status="interrupted")
    (folder / "checkpoints/step-000010").mkdir(parents=True)
    raise KeyboardInterrupt


def test_each_trial_is_trained_and_evaluated_and_finished_ones_are_skipped(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mlxtune")
    trials, fake = trials_of(file, "lora.rank=4,8", overrides=["train.epochs=2"]), Fake()
    done = sweep(trials, FOLDER, fake, where=["--backend", "mlx"])
    assert [one.status for one in done] == ["finished"] * 2 and not any(one.skipped for one in done)
    assert fake.words[0] == [
        "lora", str(file), "--out", str(FOLDER / "rank-4"), "--set", "train.epochs=2", "--set", "lora.rank=4", "--backend", "mlx",
    ]  # fmt: skip
    assert fake.words[1] == ["evaluate", str(FOLDER / "rank-4"), "--allow-unmet", "--backend", "mlx"]
    assert re.search(r"\[1/2\] lora\.rank=4: done in \d+ s; priority accuracy 0\.", caplog.text)
    again = Fake()
    done = sweep([*trials_of(file, "lora.rank=2,4,8", overrides=["train.epochs=2"])], FOLDER, again)
    assert [(one.trial.name, one.skipped) for one in done] == [("rank-2", False), ("rank-4", True), ("rank-8", True)]
    assert again.commands == ["lora recipe.yaml", "evaluate rank-2"]
    noted = json.loads((FOLDER / "sweep.json").read_text())
    assert [(one["name"], one["status"]) for one in noted["cells"]] == [(f"rank-{n}", "finished") for n in (2, 4, 8)]


def test_changed_conditions_are_checked_anew_and_train_nothing(file: Path) -> None:
    sweep(trials_of(file, "lora.rank=4,8"), FOLDER, Fake())
    held = ["evaluate.expect.priority.accuracy=>= 0.99"]
    again = Fake()
    done = sweep(trials_of(file, "lora.rank=4,8", overrides=held), FOLDER, again)
    assert [one.status for one in done] == ["finished"] * 2
    assert again.words == [["evaluate", str(FOLDER / f"rank-{rank}"), "--allow-unmet"] for rank in (4, 8)]
    assert RunFolder(FOLDER / "rank-4").recipe().evaluate.expect == {"priority.accuracy": ">= 0.99"}
    assert all(one.skipped for one in sweep(trials_of(file, "lora.rank=4,8", overrides=held), FOLDER, Fake()))


def test_a_trial_that_fails_stops_no_other_and_is_tried_again(file: Path) -> None:
    happens = {
        "lora rank-4": fails("Error: out of memory: the GPU has not enough\n  for step 1"),
        "evaluate rank-8": fails("Traceback (most recent call last):\nValueError: oh", 1),
        "lora rank-16": fails("", -signal.SIGKILL),
        "lora rank-32": fails("", 130),
    }
    trials, fake = trials_of(file, "lora.rank=4,8,16,32,64"), Fake(happens)
    done = sweep(trials, FOLDER, fake)
    assert [one.status for one in done] == ["failed"] * 4 + ["finished"]
    assert [one.error for one in done] == [
        "out of memory: the GPU has not enough for step 1", "ValueError: oh",
        "killed by SIGKILL, as the system does when memory runs out", "interrupted; run the same command again to continue", None,
    ]  # fmt: skip
    noted = json.loads((FOLDER / "sweep.json").read_text())["cells"]
    assert [one["status"] for one in noted] == ["failed"] * 4 + ["finished"] and noted[0]["error"] == done[0].error
    again = Fake()
    assert all(one.status == "finished" for one in sweep(trials, FOLDER, again))
    evaluated = ["lora recipe.yaml", "evaluate rank-4", "evaluate rank-8", "lora recipe.yaml", "evaluate rank-16"]
    assert again.commands == [*evaluated, "lora recipe.yaml", "evaluate rank-32"]


def test_an_error_of_an_earlier_attempt_is_not_taken_for_this_ones(file: Path) -> None:
    FOLDER.mkdir(parents=True)
    (FOLDER / "rank-4.log").write_text("Error: old\n")
    trials = trials_of(file, "lora.rank=4,8")
    assert sweep(trials, FOLDER, Fake({"lora rank-4": fails("what happened now")}))[0].error == "what happened now"


def test_an_interruption_ends_the_sweep_and_the_same_call_goes_on(file: Path) -> None:
    trials, fake = trials_of(file, "lora.rank=4,8,16"), Fake({"lora rank-8": interrupted})
    with pytest.raises(KeyboardInterrupt):
        sweep(trials, FOLDER, fake)
    noted = json.loads((FOLDER / "sweep.json").read_text())["cells"]
    assert [one["status"] for one in noted] == ["finished", "interrupted", "waiting"]
    again = Fake()
    assert all(one.status == "finished" for one in sweep(trials, FOLDER, again))
    assert again.commands == ["lora --resume recipe.yaml", "evaluate rank-8", "lora recipe.yaml", "evaluate rank-16"]
    assert again.words[0][2:4] == ["--resume", str(FOLDER / "rank-8")]


def test_a_run_that_was_killed_before_a_checkpoint_is_trained_anew(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8")
    made_run(FOLDER / "rank-4", file, None, ["lora.rank=4"], status="training")  # nobody does: it died
    (FOLDER / "rank-8").mkdir()
    (FOLDER / "rank-8/recipe.yaml").write_text(trials[1].recipe.to_yaml())  # killed at its very beginning
    fake = Fake()
    assert all(one.status == "finished" for one in sweep(trials, FOLDER, fake))
    assert [words[-1] == "--force" for words in fake.words if words[0] == "lora"] == [True, False]


def test_trials_made_under_another_recipe_are_refused_and_forced_anew_alone(file: Path) -> None:
    sweep(trials_of(file, "lora.rank=4,8"), FOLDER, Fake())
    file.write_text(file.read_text().replace("name: tickets", "name: tickets\nlora: {dropout: 0.1}"))
    trials = trials_of(file, "lora.rank=4,8,16")
    fake = Fake()
    with pytest.raises(RunError) as caught:
        sweep(trials, FOLDER, fake)
    assert "rank-4: lora.dropout was 0.0, is 0.1" in str(caught.value) and "--force runs these again" in str(
        caught.value
    )
    assert "2 problems" in str(caught.value) and fake.words == [] and not (FOLDER / "rank-16").exists()
    done = sweep(trials, FOLDER, fake, force=True)
    assert [one.skipped for one in done] == [False] * 3 and len(fake.words) == 6
    assert [words[-1] == "--force" for words in fake.words if words[0] == "lora"] == [True, True, False]
    assert all(one.skipped for one in sweep(trials, FOLDER, Fake(), force=True))


def test_training_rows_that_changed_are_refused(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8")
    sweep(trials, FOLDER, Fake())
    write_rows(file.parent / "train.jsonl", tickets(6, seed=3))
    with pytest.raises(RunError, match=r"data.train: .*train.jsonl has changed since"):
        sweep(trials, FOLDER, Fake())


def test_what_only_evaluation_depends_on_is_evaluated_anew_and_not_trained(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8")
    sweep(trials, FOLDER, Fake({"evaluate rank-8": fails("Error: no")}))
    longer = trials_of(file, "lora.rank=4,8", overrides=["evaluate.max_new_tokens=9"])
    fake = Fake()
    with pytest.raises(RunError, match=r"(?s)1 problem\n  rank-4: evaluate.max_new_tokens was 64, is 9"):
        sweep(longer, FOLDER, fake)  # rank-8 has no evaluation that it would replace
    sweep(longer, FOLDER, fake, force=True)
    assert fake.commands == ["evaluate rank-4", "evaluate rank-8"]
    assert [words[-1] == "--force" for words in fake.words] == [True, False]
    assert RunFolder(FOLDER / "rank-4").recipe().evaluate.max_new_tokens == 9
    write_rows(file.parent / "test.jsonl", tickets(12, seed=8))
    with pytest.raises(RunError, match=r"data.test: its rows have changed since"):
        sweep(longer, FOLDER, Fake())
    assert all(one.skipped for one in sweep(longer, FOLDER, Fake(), evaluate=False))


def test_force_trains_failed_trials_from_their_beginning(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8")
    made_run(FOLDER / "rank-4", file, None, ["lora.rank=4"], status="failed", error="not finite")
    (FOLDER / "rank-4/checkpoints/step-000010").mkdir(parents=True)
    with contextlib.suppress(KeyboardInterrupt):
        sweep(trials, FOLDER, gone_on := Fake({"lora rank-4": fails("Error: not finite"), "lora rank-8": interrupted}))
    assert gone_on.commands[0] == "lora --resume recipe.yaml"
    sweep(trials, FOLDER, anew := Fake(), force=True)
    assert anew.commands[:2] == ["lora recipe.yaml", "evaluate rank-4"] and anew.words[0][-1] == "--force"


def test_nothing_of_the_users_is_taken_for_a_trial(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8")
    (FOLDER / "rank-8").mkdir(parents=True)
    (FOLDER / "rank-8/notes.txt").write_text("mine")
    fake = Fake()
    with pytest.raises(RunError, match="rank-8: exists and is not a run of mlxtune"):
        sweep(trials, FOLDER, fake, force=True)
    made_run(Path("run"), file)
    with pytest.raises(RunError, match="run: is a run folder, not the folder of a sweep"):
        sweep(trials, Path("run"), fake)
    with pytest.raises(RunError, match="expected a folder, this is a file"):
        sweep(trials, file, fake)
    assert fake.words == [] and (FOLDER / "rank-8/notes.txt").read_text() == "mine"


def test_two_sweeps_do_not_share_a_folder(file: Path) -> None:
    FOLDER.mkdir(parents=True)
    with locked(FOLDER), pytest.raises(RunError, match="another process is writing"):
        sweep(trials_of(file, "lora.rank=4,8"), FOLDER, Fake())


# Processes ---------------------------------------------------------------------------------------------------------


def script(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script where Python is."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_process_leaves_its_output_in_the_log_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "a.log"
    script(tmp_path, 'echo "got $*"; echo wrong >&2; exit 3', monkeypatch)
    assert run_process(["lora", "a b.yaml"], log) == 3
    assert log.read_text().splitlines() == ["$ mlxtune lora 'a b.yaml'", "got -m mlxtune lora a b.yaml", "wrong"]
    script(tmp_path, "kill -9 $$", monkeypatch)
    assert run_process(["lora"], log) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_process_once_and_it_may_save(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = "trap 'echo saving; sleep 0.3; echo saved; exit 130' INT TERM\necho ready\nwhile :; do sleep 0.05; done"
    script(tmp_path, trap, monkeypatch)
    log = tmp_path / "a.log"
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def when_ready() -> None:
        while not (log.exists() and "ready" in log.read_text()):
            threading.Event().wait(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=when_ready)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_process(["lora"], log)
    thread.join()
    assert log.read_text().splitlines()[1:] == ["ready", "saving", "saved"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


# As a user sees it -------------------------------------------------------------------------------------------------


def in_this_process(words: Sequence[str], log: Path) -> int:
    """Runs a command as `run_process` does, without starting Python and its libraries anew."""
    out = io.StringIO()
    before, sys.argv = sys.argv, ["mlxtune", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main()
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        sys.argv = before
        log.write_text(out.getvalue())
    return 0


def test_a_tiny_model_is_swept_from_recipe_to_table(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeping_run, "run_process", in_this_process)
    file = write_recipe(tmp_path / "recipe", base)
    command = ["sweep", file, "--vary", "lora.layers=1,99", "--set", "train.max_steps=1", "--out", "swept"]
    failed = mlxtune(*command)
    assert failed.code == 1, failed.err
    assert (
        "1 of 2 trials failed; run the same command again to retry them:" in failed.err
        and "(log: swept/layers-99.log)" in failed.err
    )
    assert failed.err.count("Error: ") == 0 and "again: mlxtune compare swept\n" in failed.out
    command[3] = "lora.layers=1,2"
    done = mlxtune(*command, "--json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert [(one["name"], one["status"], one["skipped"]) for one in content["cells"]] == [
        ("layers-1", "finished", True), ("layers-2", "finished", False),
    ]  # fmt: skip
    assert content["comparison"]["names"] == ["layers-1", "layers-2"] and content["comparison"]["rows"] == 7
    assert content["comparison"]["settings"] == [{"name": "lora.layers", "values": [1, 2]}]
    for runs in (["swept"], ["swept/layers-1", "swept/layers-2"]):
        assert json.loads(mlxtune("compare", *runs, "--json").out) == content["comparison"]
    assert "evaluating" in (tmp_path / "swept/layers-2.log").read_text()


def test_a_sweep_of_which_nothing_finished_is_not_compared(file: Path, mlxtune: Run) -> None:
    sweep(trials_of(file, "lora.rank=4,8"), FOLDER, Fake({f"lora rank-{n}": fails("Error: no") for n in (4, 8)}))
    result = mlxtune("compare", FOLDER)
    assert result.code == 1 and "no run of this sweep has finished" in result.err
    (FOLDER / "sweep.json").write_text("[]")
    assert "sweep.json: cannot be read" in mlxtune("compare", FOLDER).err


def test_an_interrupted_sweep_exits_130_and_prints_no_result(
    file: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping_run, "run_process", Fake({"lora rank-8": interrupted}))
    result = mlxtune("sweep", file, "--vary", "lora.rank=4,8")
    assert result.code == 130 and result.out == ""
    assert "run the same command again to continue" in result.err and "Traceback" not in result.err


def test_trials_with_other_test_rows_are_told_though_they_cannot_be_compared(
    file: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*of_runs: object) -> None:
        raise DataError("b was evaluated on other rows than a")

    monkeypatch.setattr(sweeping_run, "run_process", Fake())
    monkeypatch.setattr(run_comparison, "compare_runs", refuses)
    result = mlxtune("sweep", file, "--vary", "lora.rank=4,8", "--no-evaluate", "--json")
    assert (
        result.code == 0
        and "not compared: b was evaluated on other rows than a; to compare some of them: mlxtune compare" in result.err
    )
    content = json.loads(result.out)
    assert [one["status"] for one in content["cells"]] == ["finished"] * 2 and content["comparison"] is None


def test_without_evaluation_the_table_has_losses_and_no_figures(
    file: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    monkeypatch.setattr(sweeping_run, "run_process", fake)
    result = mlxtune("sweep", file, "--vary", "lora.rank=4,8", "--no-evaluate")
    assert result.code == 0 and {words[0] for words in fake.words} == {"lora"}
    assert "train loss" in result.out and "accuracy" not in result.out
    assert "note: lora.alpha stays 16" in result.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--vary", "lora.rank=4"], 2, "expected two values or more"),
        ([], 2, "--vary"),
        (["--vary", "lora.rank=4,x"], 1, "--vary lora.rank=x: lora.rank: expected a whole number"),
        (["--vary", "lora.rank=4,8", "--device", "tpu"], 2, "unknown device 'tpu'"),
        (["--vary", "lora.rank=4,8", "--device", "cuda:99"], 1, "--device cuda:99: "),
    ],
)
def test_mistakes_get_one_message_and_start_nothing(
    words: list[str],
    code: int,
    message: str,
    file: Path,
    mlxtune: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake()
    monkeypatch.setattr(sweeping_run, "run_process", fake)
    result = mlxtune("sweep", file, *words)
    assert result.code == code and result.out == "" and fake.words == [] and not Path("runs").exists()
    assert message in result.err and result.err.count("Error: ") == 1 and "Traceback" not in result.err


def test_a_recipe_that_is_not_there_is_said_once(file: Path, mlxtune: Run) -> None:
    result = mlxtune("sweep", "recipe/recipe.yml", "--vary", "lora.rank=4,8")
    assert result.code == 1 and result.err == "Error: recipe/recipe.yml: no such recipe; did you mean 'recipe.yaml'?\n"


def test_scores_that_cannot_be_read_are_made_again(file: Path) -> None:
    trials = trials_of(file, "lora.rank=4,8")
    sweep(trials, FOLDER, Fake())
    write_json(FOLDER / "rank-4/evaluation/tuned/scores.json", {"nothing": 1})
    fake = Fake()
    sweep(trials, FOLDER, fake)
    assert fake.commands == ["evaluate rank-4"] and fake.words[0][-1] == "--force"
