"""`lora --plan --probe`: two steps are timed, scaled to the whole training, and nothing is left of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends import choose
from mlxtune.data.examples import Example
from mlxtune.data.passes import PASS_COST
from mlxtune.data.prepare import RecipeRows, training_split
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.training.loop import BatchSampler
from mlxtune.training.memory import Workload
from mlxtune.training.plan import plan
from mlxtune.training.probe import Probe, TimedStep, duration, probe_steps, step_cost
from mlxtune.training.tune import lora_spec
from tests.conftest import Run, snapshot, write_recipe
from tests.tiny import tiny_config

TRAIN = {"epochs": 3, "batch_size": 1, "gradient_accumulation": 2, "tokens_per_pass": 256}


def test_time_is_scaled_by_what_steps_cost() -> None:
    probe = Probe(TimedStep(4, 100, 1.0), TimedStep(7, 300, 3.4), 2000, steps_per_epoch=10, steps=25, peak_bytes=1)
    per_position = (1.0 + 3.4) / 400
    assert probe.epoch_seconds == pytest.approx(2000 * per_position)
    assert probe.step_seconds == pytest.approx(200 * per_position)
    assert probe.total_seconds == pytest.approx(25 * 200 * per_position)


class Clock:
    """Time that goes on by one second more at each reading: 0, 1, 3, 6, 10, ..."""

    def __init__(self) -> None:
        self.now, self.read = 0.0, 0

    def __call__(self) -> float:
        self.now += self.read
        self.read += 1
        return self.now


@pytest.mark.parametrize("backend_name", ["mlx", "torch"])
def test_the_most_typical_and_the_largest_step_are_timed_after_a_run_that_is_not(
    tmp_path: Path, base: Path, backend_name: str
) -> None:
    backend = choose(backend_name, "cpu").backend
    kept: list[tuple[Workload, BatchSampler]] = []

    def probed(workload: Workload, examples: Sequence[Example]) -> Probe:
        train = workload.recipe.train
        sampler = BatchSampler(examples, train.rows_per_step, int(train.tokens_per_pass), train.seed)
        kept.append((workload, sampler))
        return probe_steps(backend, workload, examples, Clock())

    planned = plan(load_recipe(write_recipe(tmp_path, base, train=TRAIN)), backend, probe=probed)
    probe, (workload, sampler) = planned.probe, kept[0]
    assert probe is not None
    costs = {step: step_cost(sampler.step(step), workload) for step in range(1, planned.steps_per_epoch + 1)}
    assert probe.largest.step == max(costs, key=lambda step: costs[step])
    mean = np.mean(list(costs.values()))
    assert abs(costs[probe.typical.step] - mean) == min(abs(cost - mean) for cost in costs.values())
    assert probe.epoch_positions == sum(costs.values()) and probe.steps == planned.steps
    # Clock readings 0 and 1 are of the first step that is not timed, 2 and 3 of the second.
    assert (probe.typical.seconds, probe.largest.seconds) == (5.0, 7.0)
    assert probe.peak_bytes > 0


@pytest.mark.parametrize("size", [256, 1])  # all rows in one pass, each row in its own
def test_a_step_costs_its_prefix_once_and_each_of_its_passes(tmp_path: Path, base: Path, size: int) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base, train={**TRAIN, "tokens_per_pass": size}))
    config = tiny_config("qwen3")
    backend = choose("mlx", "cpu").backend
    architecture = backend.architecture(config)
    workload = Workload(recipe, config, architecture, lora_spec(recipe, architecture), backend.device(), "mlx")
    examples = training_split(RecipeRows(recipe), load_tokenizer(base)).examples
    batches = BatchSampler(examples, 2, size, 0).step(1)
    assert len(batches) == (1 if size == 256 else 2)
    rows = [len(batch.rows) * (batch.tokens.shape[1] - 1) for batch in batches]
    assert step_cost(batches, workload) == sum(rows) + len(batches[0].prefix) + PASS_COST * len(batches)


def test_the_command_line_shows_time_and_memory_and_writes_nothing(tmp_path: Path, base: Path, mlxtune: Run) -> None:
    recipe = write_recipe(tmp_path, base, train=TRAIN)
    mlxtune("lora", recipe, "--plan")  # what is prepared is cached
    before = snapshot(tmp_path)
    shown = mlxtune("lora", recipe, "--plan", "--probe")
    assert shown.code == 0 and "s a step" in shown.out and "of the estimate" in shown.out
    content = json.loads(mlxtune("lora", recipe, "--plan", "--probe", "--json").out)["probe"]
    assert content["seconds_total"] > 0 and content["peak_memory_gb"] > 0 and len(content["timed_steps"]) == 2
    assert json.loads(mlxtune("lora", recipe, "--plan", "--json").out)["probe"] is None
    assert snapshot(tmp_path) == before


def test_a_training_that_does_not_fit_is_not_probed(
    tmp_path: Path, base: Path, mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlxtune.training.fit.Fit.fits", False)
    refused = mlxtune("lora", write_recipe(tmp_path, base, train=TRAIN), "--plan", "--probe")
    assert refused.code == 1 and "train.fit=ignore" in refused.err


def test_probing_without_a_plan_is_misuse(tmp_path: Path, base: Path, mlxtune: Run) -> None:
    refused = mlxtune("lora", write_recipe(tmp_path, base), "--probe")
    assert refused.code == 2 and "give both: --plan --probe" in refused.err


def test_durations_read_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (3.2, 99, 754, 7300)] == ["3 s", "99 s", "13 min", "2 h 02 min"]
