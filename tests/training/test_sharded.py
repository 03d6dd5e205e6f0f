"""A base model of which two processes of torchrun hold a part each, against one process that holds it whole."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends import choose
from mlxtune.evaluation.validation_metrics import reply_metrics
from mlxtune.export.fuse import fuse_run
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.events import read_events
from mlxtune.training.tune import tune
from tests.conftest import write_recipe
from tests.tiny import tiny_model
from tests.training.launching import END_S, Launch, ended, launched, ranks_of, require_same_numbers, wait_for
from tests.training.test_processes import STEPS, TRAIN

pytest.importorskip("torch")

from tests.training.sharded import CASES, TOKENS, Case


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """One process's runs, one that it begins, and then all that two processes do.

    Its runs are one, sharded, begun, CASE-one and CASE-sharded of each of CASES, and endless, which is being trained.
    """
    folder = tmp_path_factory.mktemp("sharded")
    recipe = write_recipe(folder, tiny_model(folder / "base", "qwen3"), train=TRAIN)
    choice = choose("torch", "cpu")
    tune(load_recipe(recipe), choice, folder / "one", measures=reply_metrics)
    tune(load_recipe(recipe, ["train.max_steps=7"]), choice, folder / "begun", measures=reply_metrics)
    for case in CASES:
        tiny_model(folder / case.name, case.family, tied=case.tied)
        tune(load_recipe(recipe, case.settings(folder)), choice, folder / f"{case.name}-one")
    process = launched("torchrun", 2, "-m", "tests.training.sharded", str(folder))
    try:
        files = [folder / f"rank-{rank}.json" for rank in range(2)]
        wait_for(process, lambda: all(file.exists() for file in files))
        yield Launch(folder, process, [json.loads(file.read_text(encoding="utf-8")) for file in files])
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_each_process_holds_its_part_of_every_weight(launch: Launch) -> None:
    held = [rank["held"] for rank in launch.ranks]
    (n_parameters,) = {rank["parameters"] for rank in launch.ranks}
    norm = 64  # the last one, which is never let go of
    assert sum(held) == n_parameters + norm
    assert max(held) < 0.51 * n_parameters
    assert all(rank["parts"] > 20 for rank in launch.ranks)


def test_twenty_steps_and_validations_are_those_of_one_process(launch: Launch) -> None:
    require_same_numbers(launch.run("one"), launch.run("sharded"), range(1, STEPS + 1))
    found = [list(read_events(launch.run(name).metrics_file, "validation")) for name in ("one", "sharded")]
    assert len(found[0]) == len(found[1]) == 2
    for mine, theirs in zip(*found, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-6)
        assert theirs["metrics"] == mine["metrics"] and mine["metrics"]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_other_bases_and_steps_of_several_passes_are_those_of_one_process(case: Case, launch: Launch) -> None:
    require_same_numbers(launch.run(f"{case.name}-one"), launch.run(f"{case.name}-sharded"), range(1, 4))


def test_a_run_of_one_process_goes_on_with_parts_to_the_same_numbers(launch: Launch) -> None:
    require_same_numbers(launch.run("one"), launch.run("begun"), range(1, STEPS + 1))
    assert "model.shard" in launch.run("begun").info()["resumed"][0]["changed"]


def test_logits_that_verify_compares_are_those_of_one_process(launch: Launch) -> None:
    wanted = choose("torch", "cpu").backend.load(launch.folder / "base").logits(TOKENS)
    for rank in launch.ranks:
        np.testing.assert_allclose(rank["logits"], wanted, atol=1e-5)


def test_one_process_fuses_and_resumes_what_two_have_trained_in_parts(launch: Launch, tmp_path: Path) -> None:
    backend = choose("torch", "cpu").backend
    run = launch.run("sharded")
    fused = fuse_run(run, backend, tmp_path / "fused", dtype="float32")
    assert fused.proof.effect > 0 and fused.proof.difference < 1e-4
    models = [backend.load(tmp_path / "fused"), backend.load(launch.folder / "base", adapter=launch.run("one").adapter)]
    first, second = (model.logits(TOKENS) for model in models)
    np.testing.assert_allclose(first, second, atol=1e-4)
    recipe = load_recipe(run.recipe_file, [f"train.max_steps={STEPS + 1}"])
    assert recipe.model.shard
    assert tune(recipe, choose("torch", "cpu"), resume=run, measures=reply_metrics).outcome.progress.step == STEPS + 1


def test_what_is_not_offered_is_refused_by_name(launch: Launch) -> None:
    name, message, code = launch.ranks[0]["dora"]
    assert (name, code) == ("BackendError", 1) and "model.shard: the PyTorch backend trains no DoRA" in message
    assert not (launch.folder / "dora").exists()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the process ids of a launcher's children are read as on Linux"
)
def test_where_a_process_is_killed_in_a_pass_the_rest_ends_soon(launch: Launch) -> None:
    run = launch.run("endless")
    wait_for(launch.process, lambda: len(list(run.checkpoints.glob("step-*"))) > 0)
    ranks = ranks_of(launch.process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    output = ended(launch.process)
    assert time.monotonic() - killed < END_S
    assert "the connection to another process is lost" in output
    assert run.info()["status"] == "failed"
