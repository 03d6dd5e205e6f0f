"""Several processes that train one run, started by the real launchers on this machine, against one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import choose
from mlxtune.evaluation.measure import validation_file
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.events import read_events
from mlxtune.runs.folder import RunFolder, open_run
from mlxtune.runs.layout import CHECKPOINT_STATE, ERRORS_FILE, PREDICTIONS_FILE, SCORES_FILE
from mlxtune.training.tune import tune
from tests.conftest import ROWS, write_recipe, write_rows
from tests.tiny import tiny_model
from tests.training.launching import (
    END_S,
    TIMEOUT_S,
    ended,
    launched,
    launcher_breaks,
    ranks_of,
    require_same_numbers,
    trained_values,
)
from tests.training.processes import EVALUATIONS, KINDS, SHORT, evaluated, short

WORKER = ("-m", "tests.training.processes")
STEPS = 20
# 7 rows: with 3 a step an epoch's last step has one row, fewer than there are processes.
TRAIN: dict[str, Any] = {
    "epochs": 7,
    "batch_size": 3,
    "gradient_accumulation": 1,
    "learning_rate": 1e-3,
    "max_steps": STEPS,
    "evaluate_every": 10,
    "best_metric": "intents.exact_match",
}


@dataclass(frozen=True)
class Launch:
    """What processes left that trained a run together.

    Attributes:
        folder: With the runs: one, shared, begun, KIND-one and KIND-shared of each of `KINDS`, full-begun, differs, fails; and an evaluation
            DECODING-shared of each of `EVALUATIONS`.
        backend: What they computed with.
        ranks: What each process saw.
    """

    folder: Path
    backend: str
    ranks: list[dict[str, Any]]

    def run(self, name: str) -> RunFolder:
        """One of the runs."""
        return RunFolder(self.folder / name)


# torch with two processes, MLX with three: importing torch takes several times as long.
@pytest.fixture(scope="module", params=[("torch", "torchrun", 2), ("mlx", "mlx.launch", 3)], ids=["torch", "mlx"])
def launch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """One process's run, one that it begins, and then all that several processes do."""
    backend, launcher, size = request.param
    pytest.importorskip(backend)
    folder = tmp_path_factory.mktemp(backend)
    recipe = write_recipe(folder, tiny_model(folder / "base", "qwen3"), train=TRAIN)
    write_rows(folder / "others.jsonl", [*ROWS[:-1], {"text": "bye", "intents": ["none"]}])
    other = recipe.read_text(encoding="utf-8").replace("train: train.jsonl", "train: others.jsonl")
    (folder / "other.yaml").write_text(other.replace("learning_rate: 0.001", "learning_rate: 0.002"), encoding="utf-8")
    choice = choose(backend, "cpu")
    tune(load_recipe(recipe), choice, folder / "one", measures=reply_metrics)
    tune(load_recipe(recipe, ["train.max_steps=7"]), choice, folder / "begun", measures=reply_metrics)
    tiny_model(folder / "experts", "qwen3_moe")
    tune(load_recipe(recipe, short(folder, "full", 1)), choice, folder / "full-begun")
    for kind in KINDS:
        tune(load_recipe(recipe, short(folder, kind)), choice, folder / f"{kind}-one")
    output = ended(launched(launcher, size, *WORKER, str(folder)))
    files = [folder / f"rank-{rank}.json" for rank in range(size)]
    assert all(file.exists() for file in files), output
    return Launch(folder, backend, [json.loads(file.read_text(encoding="utf-8")) for file in files])


def test_several_processes_compute_what_one_does(launch: Launch) -> None:
    assert [rank["size"] for rank in launch.ranks] == [len(launch.ranks)] * len(launch.ranks)
    require_same_numbers(launch.run("one"), launch.run("shared"), range(1, STEPS + 1))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "full"])
def test_dora_and_experts_are_trained_as_by_one_process(kind: str, launch: Launch) -> None:
    one, shared = launch.run(f"{kind}-one"), launch.run(f"{kind}-shared")
    assert any("experts" in name for name in trained_values(one)) == (kind == "experts")
    require_same_numbers(one, shared, range(1, SHORT + 1))


def test_a_run_of_all_weights_goes_on_with_more_or_fewer_processes_to_the_same_numbers(launch: Launch) -> None:
    one, begun, shared = (launch.run(f"full-{name}") for name in ("one", "begun", "shared"))
    assert one.is_full and begun.info()["processes"] == len(launch.ranks)
    require_same_numbers(one, begun, range(1, SHORT + 1))
    recipe = load_recipe(launch.folder / "recipe.yaml", short(launch.folder, "full"))
    resumed = tune(recipe, choose(launch.backend, "cpu"), resume=shared)
    assert (shared.info()["step"], resumed.info["resumed"][0]["processes"]) == (SHORT, 1)
    require_same_numbers(one, shared, range(1, SHORT + 1))


@pytest.mark.parametrize("decoding", EVALUATIONS)
def test_an_evaluation_writes_the_bytes_that_one_process_writes(decoding: str, launch: Launch, tmp_path: Path) -> None:
    shared, one = launch.folder / f"{decoding}-shared", tmp_path / "one"
    evaluated(launch.folder, decoding, one, choose(launch.backend, "cpu").backend)
    for name in (PREDICTIONS_FILE, validation_file(Path(PREDICTIONS_FILE)).name, ERRORS_FILE):
        assert (shared / name).read_bytes() == (one / name).read_bytes(), name
    assert '"probabilities"' in (one / PREDICTIONS_FILE).read_text()
    scores = [json.loads((folder / SCORES_FILE).read_text()) for folder in (shared, one)]
    measured = [one.pop(name) for one in scores for name in ("speed", "evaluated")]
    assert all(measured) and scores[0] == scores[1]


def test_validation_is_that_of_one_process_its_replies_included(launch: Launch) -> None:
    found = [list(read_events(launch.run(name).metrics_file, "validation")) for name in ("one", "shared")]
    assert len(found[0]) == len(found[1]) == 2
    for mine, theirs in zip(*found, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-6)
        assert theirs["metrics"] == mine["metrics"] and mine["metrics"]
        for name, segment in mine["segments"].items():
            assert theirs["segments"][name] == pytest.approx(segment, rel=1e-6)


def test_a_run_of_one_process_goes_on_with_several_to_the_same_numbers(launch: Launch) -> None:
    require_same_numbers(launch.run("one"), launch.run("begun"), range(1, STEPS + 1))
    info = launch.run("begun").info()
    assert (info["processes"], info["resumed"][0]["processes"]) == (len(launch.ranks), len(launch.ranks))


def test_rank_0_alone_tells_of_events_and_writes_files(launch: Launch) -> None:
    assert launch.ranks[0]["events"] > STEPS
    assert [rank["events"] for rank in launch.ranks[1:]] == [0] * (len(launch.ranks) - 1)
    steps = [event["step"] for event in read_events(launch.run("shared").metrics_file, "step")]
    assert steps == list(range(1, STEPS + 1))
    assert launch.run("shared").info()["status"] == "finished"


def test_a_process_that_sees_other_data_or_settings_is_named_before_anything_is_written(launch: Launch) -> None:
    name, message, code = launch.ranks[1]["differs"]
    assert (name, code) == ("BackendError", 1)
    assert "recipe key train.learning_rate: 0.001 on process 0, 0.002 here" in message
    assert "tokens of the rows of data.train: 7 rows" in message
    name, message, code = launch.ranks[0]["differs"]
    assert (name, code) == ("ProcessFailed", 1) and message.startswith("process 1 failed")
    assert not (launch.folder / "differs").exists()


def test_where_one_process_fails_in_a_step_all_end_and_the_run_says_why(launch: Launch) -> None:
    assert launch.ranks[1]["fails"][0] == "AttributeError"
    for rank in (0, *range(2, len(launch.ranks))):
        name, message, code = launch.ranks[rank]["fails"]
        assert (name, code) == ("ProcessFailed", 1) and message.startswith("process 1 failed: AttributeError")
    info = launch.run("fails").info()
    assert info["status"] == "failed" and info["error"].startswith("process 1 failed: AttributeError")
    assert [event["step"] for event in read_events(launch.run("fails").metrics_file, "step")] == [1, 2]


@dataclass(frozen=True)
class Endless:
    """Two processes of the command line that train until they are ended, past their first checkpoint."""

    process: subprocess.Popen[str]
    run: RunFolder

    def saved(self) -> int:
        """Step of the last checkpoint that is whole."""
        return max(
            int(file.parent.name.partition("-")[2]) for file in self.run.checkpoints.glob(f"step-*/{CHECKPOINT_STATE}")
        )

    def require_resumable(self) -> None:
        """One process takes two more steps, and no step is missing or stands twice."""
        saved = self.saved()
        recipe = load_recipe(self.run.recipe_file, [f"train.max_steps={saved + 2}"])
        resumed = tune(recipe, choose("mlx", "cpu"), resume=open_run(self.run.path))
        assert resumed.outcome.progress.step == saved + 2
        steps = [event["step"] for event in read_events(self.run.metrics_file, "step")]
        assert steps == list(range(1, saved + 3))


LORA: list[str] = []  # as the recipe has it
FULL = ["--set", "lora={type: full}"]


@pytest.fixture
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Endless]:
    """A training with the words on the command line that a test asks for."""
    train = {**TRAIN, "epochs": 2000, "max_steps": None, "best_metric": "valid.loss", "save_every": 2}
    recipe = write_recipe(tmp_path, tiny_model(tmp_path / "base", "qwen3"), train=train)
    run = RunFolder(tmp_path / "run")
    words = ["lora", str(recipe), "--out", str(run), "--device", "cpu", *request.param]
    process = launched("mlx.launch", 2, "-m", "mlxtune", *words)
    deadline = time.monotonic() + TIMEOUT_S
    while not list(run.checkpoints.glob("step-*")):
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(process.communicate()[0])
        time.sleep(0.1)
    yield Endless(process, run)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the process ids of a launcher's children are read as on Linux"
)
@pytest.mark.parametrize("endless", [LORA, FULL], ids=["lora", "full"], indirect=True)
def test_where_a_process_is_killed_the_rest_ends_soon_and_the_run_resumes(endless: Endless) -> None:
    ranks = ranks_of(endless.process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    output = ended(endless.process)
    assert time.monotonic() - killed < END_S
    if not launcher_breaks():
        assert "the connection to another process is lost" in output and "--resume" in output
        assert endless.run.info()["status"] == "failed"
    endless.require_resumable()


@pytest.mark.parametrize("endless", [FULL], ids=["full"], indirect=True)
def test_ctrl_c_ends_all_processes_with_a_checkpoint_of_the_step_at_hand(endless: Endless) -> None:
    os.killpg(endless.process.pid, signal.SIGINT)  # a terminal asks the launcher and its processes
    output = ended(endless.process)
    info = endless.run.info()
    assert info["status"] == "interrupted" and info["step"] == endless.saved(), output
    assert [event["step"] for event in read_events(endless.run.metrics_file, "step")][-1] == info["step"]
    assert endless.run.is_full
    endless.require_resumable()
