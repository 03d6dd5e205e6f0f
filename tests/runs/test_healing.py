"""What a process leaves that is killed while it replaces a folder, and that whoever opens the folder next puts it right."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mlxtune.errors import ModelError
from mlxtune.files import heal, whole_folder
from mlxtune.models.writing import check_free
from mlxtune.runs.folder import RunFolder, latest_checkpointed_run, latest_run
from mlxtune.sweep.grid import parse_axis, plan_trials
from mlxtune.sweep.trial_state import trial_state
from tests.conftest import Run, snapshot, write_recipe
from tests.made_runs import made_run, replies_of, ticket_recipe, tickets

WRITER = "4242-0badcafe"


def cut_short(folder: Path) -> dict[str, bytes]:
    """Leave what a writer leaves that is killed between its two renames; the files that must come back."""
    before = snapshot(folder)
    assert before
    folder.rename(folder.with_name(f".{folder.name}.{WRITER}.old"))
    new = folder.with_name(f".{folder.name}.{WRITER}.new")
    new.mkdir()
    (new / "weights").write_text("of the writer that was killed")
    folder.with_name(f".{folder.name}.{WRITER}.lock").touch()
    return before


def left_over(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*.*-*.*")]


def at_the_second_rename(out: Path, happens: Callable[[], None]) -> None:
    """Replace a folder; something happens before the new one has its name."""
    rename, renamed = Path.rename, list[Path]()

    def counted(self: Path, target: Path) -> Path:
        renamed.append(self)
        if len(renamed) == 2:
            happens()
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", counted)
        with whole_folder(out) as new:
            (new / "file").write_text("new")


def in_a_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return child


@contextmanager
def paused(work: Callable[[Callable[[], None]], None]) -> Iterator[Callable[[], int]]:
    """A process of its own that works until it calls what it is given; it goes on, and ends, when what is yielded is called."""
    (ready, is_ready), (go, may_go) = os.pipe(), os.pipe()

    def pause() -> None:
        os.write(is_ready, b".")
        os.read(go, 1)

    def ended() -> int:
        os.write(may_go, b".")
        return os.waitpid(child, 0)[1]

    child = in_a_child(lambda: work(pause))
    os.close(is_ready)
    try:
        assert os.read(ready, 1) == b".", "it ended before it paused"
        yield ended
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for handle in (ready, go, may_go):
            os.close(handle)


def old_folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("old")
    return tmp_path / "model"


# One folder --------------------------------------------------------------------------------------------------------


def test_a_folder_whose_writer_was_killed_between_its_renames_comes_back(tmp_path: Path) -> None:
    out = old_folder(tmp_path)
    child = in_a_child(lambda: at_the_second_rename(out, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not out.exists() and len(left_over(tmp_path)) == 3
    heal(tmp_path, "other")
    assert not out.exists()
    heal(tmp_path, "model")
    assert snapshot(tmp_path) == {"model/file": b"old"}


def test_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    out = old_folder(tmp_path)
    with paused(lambda pause: at_the_second_rename(out, pause)) as ended:
        between = snapshot(tmp_path)
        assert not out.exists() and sorted(between.values()) == [b"", b"new", b"old"]
        heal(tmp_path)
        assert snapshot(tmp_path) == between
        assert ended() == 0
    assert snapshot(tmp_path) == {"model/file": b"new"}


def test_a_writer_that_is_interrupted_between_its_renames_loses_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    out = old_folder(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        at_the_second_rename(out, interrupt)
    assert snapshot(tmp_path) == {"model/file": b"old"}


def test_a_folder_within_an_unfinished_one_is_no_leftover(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as outer:
        with whole_folder(outer) as inner:
            (inner / "file").write_text("new")
        child = in_a_child(lambda: heal(tmp_path))
        os.waitpid(child, 0)
    assert snapshot(tmp_path) == {"model/file": b"new"}


def test_leftovers_of_the_dead_are_removed_by_the_next_writer_and_nothing_else_is(tmp_path: Path) -> None:
    out = old_folder(tmp_path)
    for number, kinds in enumerate((["new"], ["old"], ["new", "old"], ["lock"])):
        for kind in kinds:
            path = tmp_path / f".model.{number}-0badcafe.{kind}"
            path.touch() if kind == "lock" else path.mkdir()
    others = [".model.old", ".other.1-0badcafe.old", ".model.1-0badcafe.tmp", "model.1-0badcafe.old"]
    for name in others:
        (tmp_path / name).mkdir()
    with whole_folder(out):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "model"])


def test_of_several_that_were_replaced_the_last_comes_back(tmp_path: Path) -> None:
    for writer in ("2-0badcafe", "9-0badcafe", "1-0badcafe"):
        old_folder(tmp_path)
        (tmp_path / "model" / "file").write_text(writer)
        (tmp_path / "model").rename(tmp_path / f".model.{writer}.old")
    heal(tmp_path)
    assert snapshot(tmp_path) == {"model/file": b"1-0badcafe"}


def test_what_cannot_be_put_right_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_short(old_folder(tmp_path))
    before = snapshot(tmp_path)

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        heal(tmp_path)
    assert snapshot(tmp_path) == before
    heal(tmp_path / "nowhere")


# Whoever opens it --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A folder with a recipe and a run of it, trained and evaluated."""
    from mlxtune.backends import choose
    from mlxtune.recipe.load import load_recipe
    from mlxtune.training.tune import tune

    folder = tmp_path_factory.mktemp("healing")
    recipe = write_recipe(folder, base, train={"epochs": 1, "save_every": 1})
    tune(load_recipe(recipe), choose("mlx", "cpu"), folder / "runs" / "tiny" / "a")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break, in the current folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    shutil.copy("runs/tiny/a/recipe.yaml", "recipe.yaml")  # the data stays where it was
    return Path("runs/tiny/a")


@pytest.mark.parametrize(
    "words",
    [
        "evaluate {run} --limit 1",
        "evaluate recipe.yaml --limit 1",
        "predict {run} hi",
        "predict recipe.yaml hi",
        "fuse {run}",
        "runs",
        "compare {run} {other}",
        "lora recipe.yaml --from {run} --out new --set train.max_steps=1",
        "lora {run} --plan",
        "lora {run} --resume --set train.epochs=2",
        "runs clean {run} --yes",
    ],
)
def test_every_command_sees_the_adapter_again(words: str, run: Path, mlxtune: Run) -> None:
    if "{other}" in words:
        evaluated = [mlxtune("evaluate", run, "--limit", 2, "--out", run / "evaluation" / "tuned")]
        evaluated += [mlxtune("evaluate", run, "--base", "--limit", 2, "--out", run / "evaluation" / "base")]
        assert all(one.code == 0 for one in evaluated)
    before = cut_short(run / "adapter")
    done = mlxtune(*(word.format(run=run, other=run / "evaluation" / "base") for word in words.split()))
    assert done.code == 0, done.err
    if "--resume" not in words:
        assert snapshot(run / "adapter") == before
    assert not left_over(run)


@pytest.mark.parametrize("words", ["lora recipe.yaml --resume", "lora {run} --resume", "runs --json"])
def test_a_checkpoint_is_seen_again(words: str, run: Path, mlxtune: Run) -> None:
    for step in sorted(run.glob("checkpoints/step-*"))[:-1]:
        shutil.rmtree(step)
    (last,) = run.glob("checkpoints/step-*")
    before = cut_short(last)
    more = ["--set", "train.epochs=2", "--set", "train.max_steps=3"] if "lora" in words else []
    done = mlxtune(*words.format(run=run).split(), *more)
    assert done.code == 0, done.err
    assert snapshot(last) == before and not left_over(run)
    if "lora" in words:
        steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [one["step"] for one in steps if one["event"] == "step"] == [1, 2, 3]


def test_the_newest_run_is_the_one_that_was_written_last_whatever_was_healed(tmp_path: Path) -> None:
    rows = tickets(3)
    recipe = ticket_recipe(tmp_path, rows)
    for number, name in enumerate("abc"):
        folder = made_run(tmp_path / "runs" / "tickets" / name, recipe)
        (folder / "checkpoints" / "step-000001").mkdir(parents=True)
        (folder / "checkpoints" / "step-000001" / "state.json").touch()
        for written in (folder / "adapter", folder / "checkpoints" / "step-000001", folder / "checkpoints"):
            os.utime(written, (1000 * number, 1000 * number))
        for written in (folder / "adapter", folder / "checkpoints" / "step-000001") if name != "b" else ():
            cut_short(written)
    for newest in (latest_run, latest_checkpointed_run):
        found = newest("tickets", tmp_path / "runs")
        assert found is not None and found.path.name == "c"
    assert not left_over(tmp_path)


def test_an_evaluation_is_seen_again(tmp_path: Path, mlxtune: Run) -> None:
    rows = tickets(6, response=True)
    recipe = ticket_recipe(tmp_path / "recipe", rows)
    one, other = (
        made_run(tmp_path / name, recipe, replies_of(rows, right)) for name, right in (("a", 0.2), ("b", 0.9))
    )
    for words in (
        ("compare", one, other),
        ("compare", one / "evaluation" / "tuned", other),
        ("review", one, "--out", "s"),
    ):
        before = cut_short(one / "evaluation" / "tuned")
        done = mlxtune(*(tmp_path / "sheets" if word == "s" else word for word in words))
        assert done.code == 0, done.err
        assert snapshot(one / "evaluation" / "tuned") == before and not left_over(tmp_path)
    cut_short(one / "evaluation" / "tuned")
    assert mlxtune("review", one / "evaluation" / "tuned", "--out", tmp_path / "more").code == 0


def test_a_sweep_sees_a_run_of_its_own_again(tmp_path: Path) -> None:
    rows = tickets(4)
    recipe = ticket_recipe(tmp_path / "recipe", rows)
    trial = plan_trials(recipe, [parse_axis("lora.rank=4,8")])[0]
    folder = made_run(tmp_path / trial.name, recipe, replies_of(rows, 0.5), ["lora.rank=4"])
    cut_short(RunFolder(folder).adapter)
    cut_short(RunFolder(folder).evaluation("tuned"))
    found = trial_state(trial, folder)
    assert found.training == "whole" and found.evaluated


def test_a_model_folder_is_seen_again_and_not_written_over(tmp_path: Path, base: Path, mlxtune: Run) -> None:
    model = tmp_path / "models" / "mine"
    assert mlxtune("convert", base, "--out", model).code == 0
    recipe = write_recipe(tmp_path, model)
    before = cut_short(model)
    with pytest.raises(ModelError, match="already exists"):  # before anything is computed
        check_free(model)
    assert snapshot(model) == before
    cut_short(model)
    taken = mlxtune("convert", base, "--out", model)
    assert taken.code == 1 and "already exists" in taken.err
    assert snapshot(model) == before and not left_over(tmp_path)
    for words in (("lora", recipe, "--plan"), ("convert", model, "--out", tmp_path / "copy"), ("data", recipe)):
        cut_short(model)
        done = mlxtune(*words)
        assert done.code == 0, done.err
        assert snapshot(model) == before and not left_over(tmp_path)
