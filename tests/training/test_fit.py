"""What happens to a training that does not fit: checkpointing is turned on, or it is refused with what would help."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import choose
from mlxtune.backends.base import ChosenBackend, Device
from mlxtune.backends.group import Alone
from mlxtune.errors import TrainingError
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder
from mlxtune.training.plan import plan
from mlxtune.training.tune import tune
from tests.conftest import Run, write_recipe
from tests.tiny import tiny_model

MLX = choose("mlx", "cpu").backend
MACHINE = Device("cpu", "a small machine", 1 << 40)
DEEP = {"train": {"batch_size": 4, "gradient_accumulation": 2, "tokens_per_pass": 256}}


class TwoProcesses(Alone):
    """The first of two, whose backend is asked for what it plans alone."""

    size = 2


def recipe_with(folder: Path, base: Path, **train: Any) -> Recipe:
    return load_recipe(write_recipe(folder, base, train={**DEEP["train"], **train}))


def peak(recipe: Recipe, **keys: Any) -> int:
    """The planned peak of a recipe with other keys under `train`."""
    changed = recipe.train.model_copy(update={**keys, "fit": "ignore"})
    return plan(recipe.model_copy(update={"train": changed}), MLX, MACHINE).total_memory_bytes


def of_size(n_bytes: int) -> Device:
    return replace(MACHINE, memory_bytes=n_bytes)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], ChosenBackend]:
    """The MLX backend on a machine of so many bytes, which fails where it is asked to load."""

    def machine(n_bytes: int, loads: bool = False) -> ChosenBackend:
        choice = choose("mlx", "cpu")
        monkeypatch.setattr(choice.backend, "device", lambda: of_size(n_bytes))
        if not loads:
            monkeypatch.setattr(choice.backend, "load", lambda *args, **kwargs: pytest.fail("weights were loaded"))
        return choice

    return machine


def test_a_training_that_fits_is_left_as_it_is(tmp_path: Path, base: Path) -> None:
    recipe = recipe_with(tmp_path, base)
    planned = plan(recipe, MLX, of_size(peak(recipe)))
    assert planned.fits and not planned.gradient_checkpointing and planned.note is None and planned.remedies == ()


def test_checkpointing_is_turned_on_where_the_training_fits_with_it_alone(tmp_path: Path, base: Path) -> None:
    recipe = recipe_with(tmp_path, base)
    with_it = peak(recipe, gradient_checkpointing=True)
    planned = plan(recipe, MLX, of_size(with_it))
    assert planned.fits and planned.gradient_checkpointing and planned.total_memory_bytes == with_it
    assert planned.note is not None and "turns train.gradient_checkpointing on" in planned.as_text()


@pytest.mark.parametrize("fit", ["refuse", "ignore"])
def test_nothing_is_turned_on_where_the_recipe_does_not_leave_it_to_memory(
    tmp_path: Path, base: Path, fit: str
) -> None:
    recipe = recipe_with(tmp_path, base, fit=fit)
    planned = plan(recipe, MLX, of_size(peak(recipe, gradient_checkpointing=True)))
    assert not planned.fits and not planned.gradient_checkpointing


def test_a_run_keeps_that_checkpointing_was_turned_on_and_resumes_with_it(
    tmp_path: Path, base: Path, small: Callable[..., ChosenBackend]
) -> None:
    recipe = recipe_with(tmp_path, base, epochs=2)
    room = peak(recipe, gradient_checkpointing=True)
    stopped = tune(recipe_with(tmp_path, base, epochs=2, max_steps=1), small(room, loads=True), tmp_path / "run").run
    assert stopped.recipe().train.gradient_checkpointing
    assert stopped.info()["memory"]["checkpointing_chosen"]
    again = tune(recipe, small(1 << 40, loads=True), resume=stopped).run  # on a machine with room
    assert again.recipe().train.gradient_checkpointing and again.info()["memory"]["checkpointing_chosen"]
    assert RunFolder(again.path).with_its_passes(recipe).train.gradient_checkpointing


def test_a_training_that_cannot_fit_is_refused_before_weights_are_loaded(
    tmp_path: Path, base: Path, small: Callable[..., ChosenBackend]
) -> None:
    recipe = recipe_with(tmp_path, base)
    with pytest.raises(TrainingError) as refused:
        tune(recipe, small(1000), tmp_path / "run")
    message = str(refused.value)
    for key in (
        "train.gradient_checkpointing: true",
        "model.quantize: {bits: 4",
        "all of them together",
        "train.fit=ignore",
    ):
        assert key in message
    assert "tokens_per_pass" not in message  # it is the smallest already
    assert not (tmp_path / "run").exists()


def test_only_keys_that_help_are_named_and_each_with_the_peak_that_the_plan_then_has(
    tmp_path: Path, base: Path
) -> None:
    recipe = recipe_with(tmp_path, base, gradient_checkpointing=True)
    planned = plan(recipe, MLX, of_size(1000))
    assert [one.setting for one in planned.remedies] == ["model.quantize: {bits: 4, group_size: 64}"]
    quantized = load_recipe(tmp_path / "recipe.yaml", ["model.quantize={bits: 4, group_size: 64}"])
    assert plan(quantized, MLX, MACHINE).total_memory_bytes == planned.remedies[0].n_bytes < planned.total_memory_bytes


def test_processes_may_hold_a_part_of_the_weights_each_where_the_whole_does_not_fit(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("mlxtune.backends.torch.backend").TorchBackend("cpu")
    monkeypatch.setattr(torch, "group", lambda: TwoProcesses())
    monkeypatch.setattr("mlxtune.training.memory.PROCESS_BYTES", 0)
    recipe = recipe_with(tmp_path, tiny_model(tmp_path / "deep", layers=20))
    planned = plan(recipe, torch, of_size(1))
    (found,) = [one for one in planned.remedies if one.setting == "model.shard: true"]
    in_parts = recipe.model_copy(update={"model": recipe.model.model_copy(update={"shard": True})})
    assert plan(in_parts, torch, of_size(1)).total_memory_bytes == found.n_bytes < planned.total_memory_bytes
    assert "model.shard: true" not in [one.setting for one in plan(in_parts, torch, of_size(1)).remedies]


def test_a_training_that_does_not_fit_runs_where_that_is_ignored(
    tmp_path: Path, base: Path, small: Callable[..., ChosenBackend]
) -> None:
    tuned = tune(recipe_with(tmp_path, base, fit="ignore", max_steps=1), small(1000, loads=True), tmp_path / "run")
    assert tuned.info["step"] == 1 and tuned.info["memory"]["available_gb"] == 0


def test_the_command_line_plans_what_it_would_refuse_and_exits_with_0(
    tmp_path: Path, base: Path, small: Callable[..., ChosenBackend], mlxtune: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe(tmp_path, base, **DEEP)
    choice = small(1000)
    monkeypatch.setattr("mlxtune.backends.choose", lambda *words: choice)
    planned = mlxtune("lora", recipe, "--plan", "--json")
    content = json.loads(planned.out)
    assert planned.code == 0 and not content["fits"] and len(content["would_take_gb"]) == 3
    assert "DOES NOT FIT" in mlxtune("lora", recipe, "--plan").out
    refused = mlxtune("lora", recipe, "--out", tmp_path / "run")
    assert refused.code == 1 and "train.fit=ignore" in refused.err and not (tmp_path / "run").exists()
