"""Where a training's time went: the loop's own parts and the phases of its steps."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlxtune.backends.base import BACKWARD, FORWARD, GRADIENTS, HEAD, OPTIMIZER
from mlxtune.recipe.load import load_recipe
from mlxtune.training.profile import DATA, OTHER, SAVING, VALIDATION, PartClock
from mlxtune.training.tune import Tuned, tune
from tests.conftest import chosen, write_recipe

PHASES = {"torch": [FORWARD, HEAD, BACKWARD, OPTIMIZER], "mlx": [GRADIENTS, OPTIMIZER]}


def test_parts_add_up_and_the_rest_is_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 4.0, 4.5, 10.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = PartClock()
    with clock.part("data"):
        pass  # 1 to 3
    clock.add({"forward": 0.25, "data": 0.5})
    with clock.part("data"):
        pass  # 4 to 4.5
    found = clock.profile(7)
    assert (found.steps, found.total_seconds) == (7, 10.0)
    assert found.seconds == {"data": 3.0, "forward": 0.25, "other": 6.75}


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Tuned:
    folder = tmp_path_factory.mktemp("profiled")
    return tune(load_recipe(write_recipe(folder, base)), chosen(), folder / "run", profile=True)


def test_a_profile_names_the_parts_of_the_loop_and_the_phases_of_the_backend(profiled: Tuned) -> None:
    phases = PHASES[chosen().backend.name]
    assert list(profiled.info["profile"]["seconds"]) == [DATA, *phases, VALIDATION, SAVING, OTHER]


def test_the_phases_of_the_steps_make_up_the_time_that_the_steps_took(profiled: Tuned) -> None:
    profile, took = profiled.info["profile"], profiled.info["seconds"]
    assert profile["steps"] == profiled.info["step"]
    in_steps = sum(profile["seconds"][phase] for phase in (DATA, *PHASES[chosen().backend.name]))
    assert 0.7 * took < in_steps <= took + 1e-3
    assert sum(profile["seconds"].values()) == pytest.approx(profile["total_seconds"], abs=1e-3)
    assert all(seconds >= 0 for seconds in profile["seconds"].values())


def test_scoring_training_rows_where_nothing_was_validated_counts_as_validation(tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base, data={"valid": None}, train={"max_steps": 1}))
    profile = tune(recipe, chosen(), tmp_path / "run", profile=True).info["profile"]
    assert profile["seconds"][VALIDATION] > 0


def test_a_resumed_training_profiles_its_own_steps_and_without_being_asked_none(tmp_path: Path, base: Path) -> None:
    def recipe(max_steps: int) -> object:
        return load_recipe(write_recipe(tmp_path, base, train={"max_steps": max_steps, "save_every": 1}))

    plain = tune(recipe(1), chosen(), tmp_path / "run")  # type: ignore[arg-type]
    assert plain.info["profile"] is None and plain.outcome.profile is None
    resumed = tune(recipe(2), chosen(), resume=plain.run, profile=True)  # type: ignore[arg-type]
    assert resumed.info["profile"]["steps"] == 1
