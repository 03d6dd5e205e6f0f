"""Limits of what MLX holds on a Mac: defaults that leave room on 16 GB, variables, and what MLX is told."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.backends.base import OptimizerSpec
from mlxtune.backends.mlx import memory
from mlxtune.backends.mlx.backend import MlxBackend
from mlxtune.backends.mlx.memory import CACHE, CLEAR, NO_LIMITS, WIRED, MemoryLimits, memory_limits, set_limits
from mlxtune.data.batches import build_batches, shared_prefix
from mlxtune.errors import BackendError
from tests.adapted import N_SEGMENTS, examples_of, loaded

WORKING_SET, MEMORY = 11_453_251_584, 17_179_869_184  # as an M1 with 16 GB states them


class FakeMlx:
    """Stands in for mlx.core on a Mac, and remembers what it was told."""

    DeviceType = SimpleNamespace(gpu="gpu", cpu="cpu")

    def __init__(self, device: str = "gpu", cache: int = 0) -> None:
        self.told: dict[str, int] = {}
        self.device, self.cache, self.cleared = device, cache, 0

    def default_device(self) -> Any:
        return SimpleNamespace(type=self.device)

    def device_info(self) -> dict[str, int]:
        return {"max_recommended_working_set_size": WORKING_SET, "memory_size": MEMORY}

    def set_wired_limit(self, limit: int) -> None:
        self.told["wired"] = limit

    def set_cache_limit(self, limit: int) -> None:
        self.told["cache"] = limit

    def get_cache_memory(self) -> int:
        return self.cache

    def clear_cache(self) -> None:
        self.cleared += 1


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (WIRED, CACHE, CLEAR):
        monkeypatch.delenv(name, raising=False)


def on(monkeypatch: pytest.MonkeyPatch, kind: str | None, **words: Any) -> FakeMlx:
    """A machine whose MLX has this kind of GPU."""
    fake = FakeMlx(**words)
    monkeypatch.setattr(memory, "import_mlx", lambda: fake)
    monkeypatch.setattr(memory, "gpu_kind", lambda: kind)
    return fake


def test_a_16_gb_mac_keeps_half_of_its_memory_pageable_and_a_small_cache() -> None:
    limits = memory_limits({}, "Metal", WORKING_SET, MEMORY)
    assert limits.wired is not None and limits.cache is not None
    assert limits.wired + limits.cache < 0.6 * MEMORY
    assert limits.cache == limits.clear == MEMORY // 16


def test_metal_is_told_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = on(monkeypatch, "Metal")
    limits = set_limits()
    assert fake.told == {"wired": limits.wired, "cache": limits.cache}


def test_each_variable_sets_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = on(monkeypatch, "Metal")
    for name, value in ((WIRED, "6.5"), (CACHE, "0.25"), (CLEAR, "0")):
        monkeypatch.setenv(name, value)
    assert set_limits() == MemoryLimits(6_500_000_000, 250_000_000, 0)
    assert fake.told == {"wired": 6_500_000_000, "cache": 250_000_000}


@pytest.mark.parametrize(
    ("kind", "device", "told"), [("CUDA", "gpu", {"cache": 10**9}), (None, "cpu", {}), ("Metal", "cpu", {})]
)
def test_what_changes_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str | None,
    device: str,
    told: dict[str, int],
) -> None:
    fake = on(monkeypatch, kind, device=device)
    for name in (WIRED, CACHE, CLEAR):
        monkeypatch.setenv(name, "1")
    with caplog.at_level(logging.WARNING):
        set_limits()
    assert fake.told == told
    ignored = {WIRED} if told else {WIRED, CACHE, CLEAR}
    assert {record.getMessage().split()[0] for record in caplog.records} == ignored


@pytest.mark.parametrize(("kind", "device"), [("CUDA", "gpu"), (None, "cpu")])
def test_other_devices_keep_mlxs_own_limits(monkeypatch: pytest.MonkeyPatch, kind: str | None, device: str) -> None:
    fake = on(monkeypatch, kind, device=device)
    assert set_limits() == NO_LIMITS and fake.told == {}


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf", ""])
@pytest.mark.parametrize("name", [WIRED, CACHE, CLEAR])
def test_an_impossible_value_is_refused_on_every_device(name: str, value: str) -> None:
    for kind in ("Metal", None):
        with pytest.raises(BackendError, match=f"{name}: expected a number of GB, 0 or more, got '{value}'"):
            memory_limits({name: value}, kind, WORKING_SET, MEMORY)


def test_more_than_the_system_wires_is_refused_with_the_systems_own_limit() -> None:
    with pytest.raises(BackendError, match=r"MLXTUNE_WIRED_GB: expected at most 11\.5, .*iogpu\.wired_limit_mb"):
        memory_limits({WIRED: "12"}, "Metal", WORKING_SET, MEMORY)


@pytest.mark.parametrize(("kept", "cleared"), [(999, 0), (1001, 1)])
def test_the_cache_is_given_back_after_a_step_that_leaves_too_much(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, cleared: int
) -> None:
    model, _ = loaded(MlxBackend(), base)
    examples, _ = examples_of(base, tmp_path)
    batch_list = build_batches(examples, [[0, 1]], shared_prefix(examples))
    model.prepare_training(OptimizerSpec(0.0, None, 0))
    fake = on(monkeypatch, "Metal", cache=kept)
    model._limits = MemoryLimits(None, None, 1000)  # type: ignore[attr-defined]
    model.train_step(batch_list, 0.0, 1, N_SEGMENTS)
    assert fake.cleared == cleared


def test_a_step_event_has_what_is_kept(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.backends.base import ChosenBackend
    from mlxtune.recipe.load import load_recipe
    from mlxtune.runs.events import read_events
    from mlxtune.training.tune import tune
    from tests.conftest import write_recipe

    backend = MlxBackend()
    monkeypatch.setattr(backend, "cache_memory_bytes", lambda: 1_234_500_000)
    recipe = load_recipe(write_recipe(tmp_path, base, train={"max_steps": 1}))
    tune(recipe, ChosenBackend(backend, "asked for"), tmp_path / "run")
    (event,) = read_events(tmp_path / "run" / "metrics.jsonl", "step")
    assert event["cache_memory_gb"] == 1.2345
