"""A base model that two processes of MLX share, each with its heads and its part of every MLP, against one process that has it whole."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends import choose
from mlxtune.backends.base import Backend
from mlxtune.backends.tensor_parallel import part_of
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import open_run
from mlxtune.training.tune import tune
from tests.conftest import ROWS, Run, write_recipe
from tests.tiny import tiny_model
from tests.training.launching import (
    END_S,
    Launch,
    ended,
    launched,
    launcher_breaks,
    ranks_of,
    require_same_numbers,
    wait_for,
)
from tests.training.sharded_mlx import CASES, DEEP, TEXTS, Case, numbers
from tests.training.test_processes import TRAIN

pytest.importorskip("mlx")

SIZE = 2
STEPS = 6
# Of the largest number of each kind; sums over processes are added up in another order than one process's.
TOLERANCE = {"steps": 1e-6, "scores": 1e-5, "chosen": 1e-5, "logits": 1e-5}
# Of how far the steps moved a factor: AdamW moves a value whose gradient is nearly zero by a learning rate, whatever its sign comes to.
MOVED_APART = 0.02


@pytest.fixture(scope="module")
def mlx() -> Backend:
    """One process's backend."""
    return choose("mlx", "cpu").backend


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """One process's runs, and then all that two do; its runs are one, sharded, begun and endless, which is being trained."""
    folder = tmp_path_factory.mktemp("sharded")
    for case in CASES:
        family, _, packed = case.name.partition("-")
        quantization = {"bits": 4, "group_size": 32} if packed else None
        tiny_model(folder / case.name, family, tied=family != "llama", quantization=quantization)
    tiny_model(folder / DEEP, hidden=256, layers=5)  # MLX copies no part of an array that is smaller than a page or so
    train = {**TRAIN, "max_steps": STEPS, "evaluate_every": 3}
    recipe = write_recipe(folder, folder / "qwen3", train=train)
    choice = choose("mlx", "cpu")
    tune(load_recipe(recipe), choice, folder / "one", measures=reply_metrics)
    tune(load_recipe(recipe, ["train.max_steps=2"]), choice, folder / "begun", measures=reply_metrics)
    process = launched("mlx.launch", SIZE, "-m", "tests.training.sharded_mlx", str(folder))
    try:
        files = [folder / f"rank-{rank}.json" for rank in range(SIZE)]
        wait_for(process, lambda: all(file.exists() for file in files))
        yield Launch(folder, process, [json.loads(file.read_text(encoding="utf-8")) for file in files])
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def require_same_replies(shared: str, whole: str) -> None:
    """Compare lines of JSON, numbers to rounding."""
    found: list[list[float]] = []

    def number(text: str) -> None:
        found[-1].append(float(text))

    def read(lines: str) -> list[Any]:
        found.append([])
        return [json.loads(line, parse_float=number) for line in lines.splitlines()]

    assert read(shared) == read(whole)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_shared_base_computes_what_a_whole_one_does(case: Case, launch: Launch, mlx: Backend) -> None:
    wanted = numbers(mlx.load(launch.folder / case.name), case)
    for rank in launch.ranks:
        found = rank["cases"][case.name]
        assert found["replies"] == wanted["replies"]
        for name, tolerance in TOLERANCE.items():
            largest = np.abs(wanted[name]).max()
            np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=tolerance * largest, err_msg=name)
        assert found["moved"].keys() == wanted["moved"].keys()
        for name, values in wanted["moved"].items():
            difference = np.subtract(found["moved"][name], values)
            assert np.linalg.norm(difference) <= MOVED_APART * np.linalg.norm(values), name


def test_processes_have_the_same_numbers_to_the_bit(launch: Launch) -> None:
    first, second = (rank["cases"] for rank in launch.ranks)
    for name, case in first.items():
        assert (case["steps"], case["moved"]) == (second[name]["steps"], second[name]["moved"]), name


def test_a_process_holds_its_part_of_the_weights_and_no_more_than_a_block_beside_it(
    launch: Launch, mlx: Backend
) -> None:
    whole = mlx.load(launch.folder / DEEP).architecture
    held = 4 * part_of(whole, SIZE).n_parameters
    of_block = 4 * sum(math.prod(shape) for name, shape in whole.weights.items() if ".layers.0." in name)
    assert held + of_block < 0.75 * 4 * whole.n_parameters
    for rank in launch.ranks:
        assert rank["held"] == pytest.approx(held, rel=0.01)
        assert rank["peak"] < 1.01 * (held + of_block)


def test_a_run_has_the_numbers_and_files_of_one_process(launch: Launch) -> None:
    require_same_numbers(launch.run("one"), launch.run("sharded"), range(1, STEPS + 1))
    assert launch.run("sharded").info()["processes"] == SIZE


def test_replies_and_probabilities_are_those_of_one_process(launch: Launch, mlxtune_run: Run, tmp_path: Path) -> None:
    assert [rank["evaluated"]["code"] for rank in launch.ranks] == [0] * SIZE
    run, alone = launch.run("sharded"), tmp_path / "alone"
    options = ("--set", "model.shard=false", "--probabilities", "--repeats", "2", "--device", "cpu", "--backend", "mlx")
    assert mlxtune_run("evaluate", run.path, *options, "--out", alone).code == 0
    shared, whole = (
        (folder / "predictions.jsonl").read_text(encoding="utf-8") for folder in (run.evaluation("tuned"), alone)
    )
    assert len(shared.splitlines()) == len(ROWS)
    require_same_replies(shared, whole)


def test_rank_0_prints_what_all_are_asked(launch: Launch, mlxtune_run: Run) -> None:
    first, *others = (rank["predicted"] for rank in launch.ranks)
    assert [one["code"] for one in (first, *others)] == [0] * SIZE and not any(one["out"] for one in others)
    options = ("--set", "model.shard=false", "--json", "--device", "cpu", "--backend", "mlx")
    alone = mlxtune_run("predict", launch.folder / "sharded", *TEXTS, *options)
    assert len(alone.out.splitlines()) == len(TEXTS)
    require_same_replies(first["out"], alone.out)


def test_texts_of_stdin_are_refused_where_all_processes_must_have_them(launch: Launch) -> None:
    assert [rank["refused"]["code"] for rank in launch.ranks] == [2] * SIZE


def test_a_run_goes_on_with_another_number_of_processes(launch: Launch) -> None:
    require_same_numbers(launch.run("one"), launch.run("begun"), range(1, STEPS + 1))
    recipe = load_recipe(launch.run("sharded").recipe_file, [f"train.max_steps={STEPS + 2}"])
    tune(recipe, choose("mlx", "cpu"), resume=open_run(launch.folder / "sharded"), measures=reply_metrics)
    longer = load_recipe(launch.run("one").recipe_file, [f"train.max_steps={STEPS + 2}"])
    tune(longer, choose("mlx", "cpu"), resume=open_run(launch.folder / "one"), measures=reply_metrics)
    require_same_numbers(launch.run("one"), launch.run("sharded"), range(1, STEPS + 3))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the process ids of a launcher's children are read as on Linux"
)
def test_where_a_process_is_killed_in_a_pass_the_rest_ends_soon_and_the_run_resumes(launch: Launch) -> None:
    wait_for(launch.process, lambda: list(launch.run("endless").checkpoints.glob("step-*")))
    ranks = ranks_of(launch.process)
    assert len(ranks) == SIZE
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    output = ended(launch.process)
    assert time.monotonic() - killed < END_S
    if not launcher_breaks():
        assert "Error: " in output and "--resume" in output
    run = launch.run("endless")
    saved = max(int(folder.name.partition("-")[2]) for folder in run.checkpoints.glob("step-*"))
    recipe = load_recipe(run.recipe_file, [f"train.max_steps={saved + 1}"])
    assert tune(recipe, choose("mlx", "cpu"), resume=open_run(run.path)).outcome.progress.step == saved + 1
