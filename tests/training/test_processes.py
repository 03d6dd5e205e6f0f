"""Several processes that train one run, started by the real launchers on this machine, against one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlxtune.backends import choose
from mlxtune.backends.adapter import read_adapter
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.events import read_events
from mlxtune.runs.folder import RunFolder, open_run
from mlxtune.runs.layout import MODEL_WEIGHTS
from mlxtune.training.tune import tune
from tests.conftest import ROOT, ROWS, write_recipe, write_rows
from tests.tiny import tiny_model
from tests.training.processes import KINDS, short

TIMEOUT_S = 240  # of a launch on a machine that is busy with ten others; alone it takes ten seconds
END_S = 30  # within which the rest ends where one process was killed
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


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nothing listens on now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        if first + count < 65536:
            return first


def launched(launcher: str, size: int, *command: str) -> subprocess.Popen[str]:
    """Python with these arguments, started so many times by a launcher.

    Skips the test where the launcher is not there.
    """
    pytest.importorskip("torch" if launcher == "torchrun" else "mlx")
    script = Path(sys.executable).with_name(launcher)
    if not script.exists():
        pytest.skip(f"{launcher} is not installed beside Python")
    words = {
        "torchrun": [str(script), "--standalone", "--nproc-per-node", str(size), *command],
        "mlx.launch": [str(script), "-n", str(size), "--backend", "ring", "--starting-port", str(free_ports(size)),
                       "--", sys.executable, *command],
    }[launcher]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("MLXTUNE_BACKEND", None)
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """What a launch printed, once it has ended; it is killed where it does not."""
    try:
        return process.communicate(timeout=TIMEOUT_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the launch hangs: {process.communicate()[0]}")


@dataclass(frozen=True)
class Launch:
    """What processes left that trained a run together.

    Attributes:
        folder: With the runs: one, shared, begun, KIND-one and KIND-shared of each of `KINDS`, differs, fails.
        ranks: What each process saw.
    """

    folder: Path
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
    for kind in KINDS:
        tune(load_recipe(recipe, short(kind)), choice, folder / f"{kind}-one")
    output = ended(launched(launcher, size, *WORKER, str(folder)))
    files = [folder / f"rank-{rank}.json" for rank in range(size)]
    assert all(file.exists() for file in files), output
    return Launch(folder, [json.loads(file.read_text(encoding="utf-8")) for file in files])


def trained_values(run: RunFolder) -> Mapping[str, NDArray[np.float32]]:
    """What a run has trained, by name: its adapter, or its model's weights."""
    return load_file(run.model / MODEL_WEIGHTS) if run.is_full else read_adapter(run.adapter).weights


def require_same_numbers(one: RunFolder, other: RunFolder, steps: range) -> None:
    """Compare what two trainings computed, to rounding."""
    pairs = [
        [event for event in read_events(run.metrics_file, "step") if event["step"] in steps] for run in (one, other)
    ]
    assert len(pairs[0]) == len(pairs[1]) == len(steps)
    for mine, theirs in zip(*pairs, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-6), mine["step"]
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-5)
        assert (theirs["tokens"], theirs["epoch"]) == (mine["tokens"], mine["epoch"])
        assert {name: one["tokens"] for name, one in theirs["segments"].items()} == {
            name: one["tokens"] for name, one in mine["segments"].items()
        }
    first, second = (trained_values(run) for run in (one, other))
    assert first.keys() == second.keys() and first
    for name, weights in first.items():
        np.testing.assert_allclose(second[name], weights, atol=2e-5, err_msg=name)


def test_several_processes_compute_what_one_does(launch: Launch) -> None:
    assert [rank["size"] for rank in launch.ranks] == [len(launch.ranks)] * len(launch.ranks)
    require_same_numbers(launch.run("one"), launch.run("shared"), range(1, STEPS + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_dora_and_full_training_are_those_of_one_process(kind: str, launch: Launch) -> None:
    one = launch.run(f"{kind}-one")
    assert one.is_full == (kind == "full")
    require_same_numbers(one, launch.run(f"{kind}-shared"), range(1, 5))


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


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], RunFolder]]:
    """Two processes of the command line that train until they are ended, past their first checkpoint."""
    train = {**TRAIN, "epochs": 2000, "max_steps": None, "best_metric": "valid.loss", "save_every": 2}
    recipe = write_recipe(tmp_path, tiny_model(tmp_path / "base", "qwen3"), train=train)
    run = RunFolder(tmp_path / "run")
    process = launched("mlx.launch", 2, "-m", "mlxtune", "lora", str(recipe), "--out", str(run), "--device", "cpu")
    deadline = time.monotonic() + TIMEOUT_S
    while not list(run.checkpoints.glob("step-*")):
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(process.communicate()[0])
        time.sleep(0.1)
    yield process, run
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def children(parent: int) -> list[int]:
    """Process ids of the children of a process, in the order in which they were started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    return sorted(map(int, listed.stdout.split()))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the process ids of a launcher's children are read as on Linux"
)
def test_where_a_process_is_killed_the_rest_ends_soon_and_the_run_resumes(
    endless: tuple[subprocess.Popen[str], RunFolder],
) -> None:
    process, run = endless
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    output = ended(process)
    assert time.monotonic() - killed < END_S
    assert "the connection to another process is lost" in output and "--resume" in output
    assert run.info()["status"] == "failed"
    saved = max(int(folder.name.partition("-")[2]) for folder in run.checkpoints.glob("step-*"))
    recipe = load_recipe(run.recipe_file, [f"train.max_steps={saved + 2}"])
    resumed = tune(recipe, choose("mlx", "cpu"), resume=open_run(run.path))
    assert resumed.outcome.progress.step == saved + 2
    steps = [event["step"] for event in read_events(run.metrics_file, "step")]
    assert steps == list(range(1, saved + 3))
