"""The simulation of training on several devices: its arithmetic against closed forms and a ring that is played through; and its check."""

from __future__ import annotations

import doctest
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends import choose
from mlxtune.errors import Misuse
from mlxtune.recipe.sections import Recipe
from mlxtune.training.memory import n_trained
from mlxtune.training.tune import tuning_spec
from tests.conftest import write_recipe
from tools.bench import clusters, scale_out, scale_out_check
from tools.bench.clusters import CLUSTERS, HELP, Cluster, Link, Share, all_reduce_seconds, ring_seconds, step_time
from tools.bench.scale_out import SPEED, forecast
from tools.bench.shares import Training, made_up_rows, training_of

NO_COST = Link(math.inf, 0.0)
FREE = Cluster(1000.0, 0.0, 0.0, NO_COST, NO_COST, 1, "ring", NO_COST)


def rows_of(n_rows: int, length: int, prefix: int = 0) -> Training:
    """Rows of one length."""
    examples = made_up_rows(n_rows, length, 1e-9, prefix)
    return Training("made up", examples, [100], 16, 1 << 20, 0, None, 0.0)


def played_through(values: Sequence[np.ndarray], link: Link) -> tuple[list[np.ndarray], float]:
    """A ring all-reduce of one array a process, message by message; what each has in the end, and the time."""
    n = len(values)
    parts = [np.array_split(value.astype(np.float64), n) for value in values]
    clock = 0.0
    for adding in (True, False):
        for turn in range(n - 1):
            sent = [(rank, (rank - turn + (0 if adding else 1)) % n) for rank in range(n)]
            messages = [parts[rank][at].copy() for rank, at in sent]
            clock += max(message.size * 4 for message in messages) / link.bytes_per_second + link.latency_s
            for (rank, at), message in zip(sent, messages, strict=True):
                receiver = parts[(rank + 1) % n]
                receiver[at] = receiver[at] + message if adding else message
    return [np.concatenate(own) for own in parts], clock


@pytest.mark.parametrize("n_processes", [2, 3, 8])
def test_the_time_of_a_ring_is_that_of_its_messages(n_processes: int) -> None:
    link = Link(1e6, 0.003)
    values = [np.random.default_rng(rank).normal(size=n_processes * 50) for rank in range(n_processes)]
    found, seconds = played_through(values, link)
    assert all(np.allclose(own, sum(values)) for own in found)
    assert ring_seconds(values[0].size * 4, n_processes, link) == pytest.approx(seconds)


def test_the_examples_of_the_arithmetic_are_right() -> None:
    found = doctest.testmod(clusters)
    assert (found.attempted, found.failed) == (4, 0)


def test_a_ring_is_as_fast_as_its_slowest_link_and_nccl_sends_a_part_between_machines() -> None:
    fast, slow = Link(10e9, 1e-6), Link(1e9, 1e-4)
    ring = replace(FREE, inside=fast, between=slow, per_machine=4)
    nccl = replace(ring, all_reduce="nccl")
    assert all_reduce_seconds(8e9, 8, ring) == pytest.approx(14 * (1 + 1e-4))
    within, across = 6 * (0.2 + 1e-6), 2 * (1 + 1e-4)  # 2 GB go to the other machine and back, a half at a time
    assert all_reduce_seconds(8e9, 8, nccl) == pytest.approx(within + across)
    assert all_reduce_seconds(8e9, 4, nccl) == all_reduce_seconds(8e9, 4, ring) == pytest.approx(within)
    with pytest.raises(Misuse, match="6 processes do not fill machines of 4"):
        all_reduce_seconds(8e9, 6, nccl)


@pytest.mark.parametrize("n_processes", [2, 4, 16])
def test_equal_rows_without_an_exchange_are_n_times_as_fast(n_processes: int) -> None:
    found = forecast(rows_of(64, 50), FREE, n_processes, 16)
    assert found.speed_up == pytest.approx(n_processes) and found.idle == 0.0


def test_one_row_a_step_is_no_faster_and_leaves_the_others_idle() -> None:
    found = forecast(rows_of(8, 50), FREE, 4, 1)
    assert found.speed_up == pytest.approx(1.0) and found.idle == 0.75
    with_exchange = replace(FREE, between=Link(1e9, 0.01))
    assert forecast(rows_of(8, 50), with_exchange, 4, 1).speed_up < 1.0


def test_a_prefix_that_every_process_computes_bounds_the_speed_up() -> None:
    prefix, length, rows = 200, 25, 16
    for n_processes in (2, 4, 16):
        found = forecast(rows_of(64, length, prefix), FREE, n_processes, rows)
        expected = (prefix + rows * length) / (prefix + rows * length / n_processes)
        assert found.speed_up == pytest.approx(expected)


def test_a_step_waits_for_the_slowest_process_and_adds_its_costs() -> None:
    cluster = replace(FREE, pass_s=0.5, step_s=0.25, between=Link(1e3, 0.125), gather=Link(math.inf, 1.0))
    found = step_time([Share(1000, 2), Share(3000, 1), Share(0, 0)], [3000, 6000], cluster)
    assert found.computing == 3.5
    assert found.exchange == pytest.approx(2 * 1.0 + 4 * (1.0 + 0.125) + 4 * (2.0 + 0.125))
    assert found.total == pytest.approx(found.computing + found.exchange + 0.25)
    assert step_time([Share(1000, 2)], [3000], cluster).exchange == 0.0


def test_a_training_is_counted_as_the_plan_counts_it_and_shared_out_whole(recipe: Recipe) -> None:
    backend = choose().backend
    training = training_of(backend, recipe, 4096, backend.name)
    config = json.loads((Path(recipe.model.path) / "config.json").read_text())
    architecture = backend.architecture(config)
    n_parameters = n_trained(tuning_spec(recipe, architecture, config), architecture)
    assert sum(training.gradients) == n_parameters > 0
    assert sum(training.bucket_bytes) == 4 * n_parameters
    rows = [
        index
        for step in range(1, 3)
        for rank in range(3)
        for batch in training.sampler(3, rank, 3).step(step)
        for index in batch.rows
    ]
    assert len(set(rows)) == len(rows) == min(6, len(training.examples))


def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object) -> str:
    """What the program prints for a command line."""
    monkeypatch.setattr(sys, "argv", ["scale_out.py", *map(str, words)])
    scale_out.main()
    return capsys.readouterr().out


def without_reasons(output: str) -> str:
    """The tables of times alone."""
    return output[output.index("As the recipe says") :]


def test_every_assumption_is_printed_and_changes_the_times(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_recipe(tmp_path / "recipe", base)
    tiny = [file, "--cluster", "gpus", "--processes", 1, 16]
    usual = printed(capsys, monkeypatch, *tiny)
    others = {
        "tokens-per-second": 5, "teraflops": 2e-6, "per-machine": 1, "pass-ms": 1e3, "step-ms": 1e3, "inside-us": 1e6, "between-us": 1e6, "gather-us": 1e6,
        "inside-gb": 1e-6, "between-gb": 1e-6, "gather-gb": 1e-6,
    }  # fmt: skip
    assert {*CLUSTERS["gpus"].assumed, SPEED} == set(HELP) == set(others)
    for name, other in others.items():
        found = printed(capsys, monkeypatch, *tiny, f"--{name}", other)
        assert f"| --{name} | {other:g} | given |" in found
        assert without_reasons(found) != without_reasons(usual), name
    for words in (
        ["--tokens-per-second", 5],
        ["--all-reduce", "ring"],
        ["--rows-per-process", 2],
        ["--tokens-per-pass", 20],
    ):
        assert without_reasons(printed(capsys, monkeypatch, *tiny, *words)) != without_reasons(usual), words


def test_rows_that_are_made_up_need_no_model(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_recipe(tmp_path / "recipe", base, model={"path": str(tmp_path / "nothing")})
    words = [file, "--cluster", "macs-ring", "--lengths", "100:0.5", "--rows", 50, "--prefix", 30]
    found = printed(capsys, monkeypatch, *words, "--adapter-parameters", 1000, "--tokens-per-second", 500)
    assert "50 rows of" in found and "the first 30 shared by all; 1,000 trained parameters" in found
    for wrong, why in ((words, "--adapter-parameters"), ([*words[:3], "--rows", 50], "give --lengths too")):
        with pytest.raises(SystemExit) as stopped:
            printed(capsys, monkeypatch, *wrong)
        assert stopped.value.code == 2 and why in capsys.readouterr().err


def test_what_costs_by_position_is_predicted_exactly() -> None:
    def step(positions: int, told: float = 0.0, summed: float = 0.0) -> scale_out_check.Step:
        cpu = (positions + scale_out_check.PASS_COST) / 1000
        return scale_out_check.Step(positions, 1, 2 * (cpu + told + summed), cpu, told, summed)

    one = [step(936), step(436)]
    several = [[step(500, 0.5, 0.25), step(200, 0.5, 0.25)], [step(600, 0.1, 0.25), step(300, 0.2, 0.25)]]
    turn = scale_out_check.turn_of(one, several)
    assert turn.predicted == pytest.approx(turn.cpu_speed_up) == pytest.approx(1.5 / (0.664 + 0.364 + 0.5))
    assert (turn.summed, turn.told) == (0.25, pytest.approx(0.15))
    slowest = [2 * (0.564 + 0.75), 2 * (0.664 + 0.35)]  # seconds of each step
    assert turn.speed_up == pytest.approx(3.0 / sum(slowest))


def test_a_process_of_the_check_writes_what_it_did(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_recipe(tmp_path / "recipe", base)
    words = [str(file), "--backend", choose().backend.name, "--steps", "2", "--child", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["scale_out_check.py", *words])
    scale_out_check.main()
    steps = json.loads((tmp_path / "rank-0.json").read_text())
    assert len(steps) == 2
    assert all(step["positions"] > 0 and step["seconds"] > 0 and step["summed"] == 0 for step in steps)


def test_a_device_is_as_fast_as_it_was_in_a_run(recipe: Recipe, tmp_path: Path) -> None:
    training = training_of(choose().backend, recipe, 4096, choose().backend.name)
    profile = {
        "steps": 2,
        "seconds": {"forward": 3.0, "head": 1.0, "backward": 4.0, "optimizer": 0.5, "validation": 9.0},
    }
    info = {
        "backend": training.backend,
        "processes": 1,
        "trainable_parameters": sum(training.gradients),
        "tokens_per_pass": 4096,
        "profile": profile,
    }
    (tmp_path / "recipe.yaml").touch()

    def found(**changes: object) -> dict[str, float]:
        (tmp_path / "run.json").write_text(json.dumps({**info, **changes}))
        return {name: one.value for name, one in scale_out.measured(tmp_path, training).items()}

    shares = [share for (share,) in list(training.epoch(training.rows_per_step, 1))[:2]]
    speed = found()
    seconds = sum(share.positions / speed[SPEED] + share.passes * speed["pass-ms"] / 1e3 for share in shares)
    assert (seconds, speed["step-ms"]) == (pytest.approx(8.0), 250.0)
    for changes, why in (
        ({"profile": None}, "--profile"),
        ({"processes": 2}, "one process"),
        ({"trainable_parameters": 1}, "trained 1 parameters"),
    ):
        with pytest.raises(Misuse, match=why):
            found(**changes)
