"""`fuse` keeps a model that is base + adapter but for rounding, whatever type the machine computes in, and no other."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxtune.backends.base import STORED, Backend, ConvertSpec, WrittenModel
from mlxtune.errors import ModelError
from mlxtune.export.fuse import CHECKED_POSITIONS, NOTHING, fuse_run, prove
from mlxtune.recipe.load import load_recipe
from mlxtune.runs.folder import RunFolder, new_run
from tests.adapted import BACKENDS, backend_named
from tests.conftest import Run, write_recipe
from tests.export.test_fuse import IDS, random_adapter
from tests.tiny import tiny_model


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return backend_named(request.param)


def stored_as(folder: Path, dtype: str | None, bits: int | None = None, **keys: Any) -> Path:
    """A tiny model folder whose weights are of this type, or packed with scales of it."""
    plain = tiny_model(folder / "plain", keys.pop("family", "qwen2"), **keys)
    return backend_named("mlx").convert(plain, folder / "base", ConvertSpec(bits, 32, dtype)).folder


def run_with(folder: Path, base: Path, size: float, **model: Any) -> RunFolder:
    """A run whose adapter is random, of this size."""
    run = new_run(
        load_recipe(write_recipe(folder / "recipe", base, model={"path": str(base), **model})), folder / "run", False
    )
    run.update_info(status="done")
    random_adapter(run.adapter, base, size=size)
    return run


# What is computed


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", None), ("float16", None), ("bfloat16", 4), ("float16", 8)])
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_float32_whatever_the_weights_are(
    backend: Backend, tmp_path: Path, dtype: str, bits: int | None, tied: bool
) -> None:
    base = stored_as(tmp_path, dtype, bits, tied=tied)
    adapter = random_adapter(tmp_path / "adapter", base)
    exact = backend.load(base, adapter, "float32").logits(IDS)
    model = backend.load(base, adapter, STORED)
    np.testing.assert_allclose(model.logits(IDS), exact, atol=1e-4)
    np.testing.assert_allclose(model.logits(IDS, [8, 2]), exact[[8, 2]], atol=1e-4)


@pytest.mark.parametrize(
    ("stored", "bits", "requantize", "dtype"),
    [
        ("float32", None, False, None),
        ("float32", None, False, "bfloat16"),
        ("bfloat16", None, False, None),
        ("bfloat16", None, False, "float32"),
        ("float16", 4, False, None),
        ("bfloat16", 8, False, None),
        ("bfloat16", 4, False, "float32"),
        ("bfloat16", 4, True, None),
        ("float32", 8, True, None),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_folding_in_memory_gives_what_is_written(
    backend: Backend, tmp_path: Path, stored: str, bits: int | None, requantize: bool, dtype: str | None, tied: bool
) -> None:
    base = stored_as(tmp_path, stored, bits, tied=tied)
    adapter = random_adapter(tmp_path / "adapter", base, ["q_proj", "down_proj"])
    written = backend.fuse(base, adapter, tmp_path / "fused", requantize, dtype)
    proof = prove(backend, base, adapter, written.folder, [IDS])
    assert proof.effect > 1
    assert proof.unexplained < 1e-4
    assert proof.difference == pytest.approx(proof.rounding, abs=1e-4)
    wanted = "4 bits" if bits == 4 and requantize else "8 bits" if requantize else dtype or stored
    assert proof.rounded_to == wanted
    if wanted == "float32":
        assert proof.rounding < 1e-3


def test_weights_are_rounded_once_to_the_type_asked_for(backend: Backend, tmp_path: Path) -> None:
    """Of a bfloat16 base in float32: not to the base's own type first."""
    base = stored_as(tmp_path, "bfloat16")
    adapter = random_adapter(tmp_path / "adapter", base, ["down_proj"])
    after = backend.fuse(base, adapter, tmp_path / "fused", False, "float32").folder / "model.safetensors"
    weight = load_file(after)["model.layers.0.mlp.down_proj.weight"]
    assert np.any(weight.view(np.uint32) & 0xFFFF)  # has bits that bfloat16 has not


# What is kept and what refused


def test_a_small_adapter_is_kept_where_the_machine_computes_in_bfloat16(backend: Backend, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    run = run_with(tmp_path, base, 0.002, dtype="bfloat16")
    proof = fuse_run(run, backend, tmp_path / "fused").proof
    assert 0.01 < proof.effect < 1
    assert proof.difference < NOTHING and proof.rounded_to == "float32"


def test_what_rounding_costs_is_said_and_the_advice_helps(backend: Backend, tmp_path: Path) -> None:
    base = stored_as(tmp_path, "bfloat16")
    run = run_with(tmp_path, base, 0.002)
    with pytest.raises(ModelError, match=r"Rounding the weights to bfloat16 explains .* of it: choose --dtype float32"):
        fuse_run(run, backend, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    proof = fuse_run(run, backend, tmp_path / "fused", dtype="float32").proof
    assert proof.difference < NOTHING < proof.effect / 10
    accepted = fuse_run(run, backend, tmp_path / "other", tolerance=10).proof
    assert accepted.difference == pytest.approx(accepted.rounding, abs=1e-4)
    assert "rounding the weights to bfloat16 explains" in accepted.as_text()


def test_requantizing_a_small_adapter_away_is_refused(backend: Backend, tmp_path: Path) -> None:
    run = run_with(tmp_path, stored_as(tmp_path, "bfloat16", 4), 0.002)
    with pytest.raises(ModelError, match=r"Rounding the weights to 4 bits explains .*: leave out --requantize"):
        fuse_run(run, backend, tmp_path / "fused", requantize=True)


def corrupt_norm(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.input_layernorm.weight"][0] *= 3
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})


def halve_update(folder: Path, base: Path) -> None:
    """As a fuse with half the adapter's scale would write it."""
    before, after = (load_file(one / "model.safetensors") for one in (base, folder))
    save_file({name: (before[name] + after[name]) / 2 for name in after}, folder / "model.safetensors")


@pytest.mark.parametrize("fault", ["a weight", "the scale"])
def test_a_fused_model_that_was_written_wrongly_is_refused_whatever_the_tolerance(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    base = tiny_model(tmp_path / "base")
    run = run_with(tmp_path, base, 0.1)
    fuse = backend.fuse

    def wrong(base: Path, adapter: Path, out: Path, requantize: bool, dtype: str | None = None) -> WrittenModel:
        written = fuse(base, adapter, out, requantize, dtype)
        corrupt_norm(out) if fault == "a weight" else halve_update(out, base)
        return written

    monkeypatch.setattr(backend, "fuse", wrong)
    with pytest.raises(
        ModelError, match="of the difference is not due to rounding to float32: the weights were written wrongly"
    ):
        fuse_run(run, backend, tmp_path / "fused", tolerance=100)
    assert not (tmp_path / "fused").exists()


def test_the_proof_of_a_long_prompt_holds_no_whole_logits(backend: Backend, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = random_adapter(tmp_path / "adapter", base)
    fused = backend.fuse(base, adapter, tmp_path / "fused", False).folder
    prompt = [3 + place % 400 for place in range(2000)]
    tracemalloc.start()
    proof = prove(backend, base, adapter, fused, [prompt])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert proof.positions == CHECKED_POSITIONS
    assert peak < 2000 * 448 * 4


def test_the_command_reports_what_rounding_explains(tmp_path: Path, mlxtune: Run) -> None:
    run = run_with(tmp_path, tiny_model(tmp_path / "base"), 0.1)
    done = mlxtune("fuse", run.path, "--out", tmp_path / "fused", "--dtype", "bfloat16", "--json")
    said = json.loads(done.out)
    assert done.code == 0 and said["rounded_to"] == "bfloat16" and said["positions"] > said["prompts"] == 4
    assert said["unexplained_difference"] < 1e-3 < said["rounding_difference"] < 0.1 * said["adapter_effect"]
    done = mlxtune("fuse", run.path, "--out", tmp_path / "fused", "--dtype", "bfloat16", "--force")
    assert "the adapter changes them by up to" in done.out and "rounding the weights to bfloat16 explains" in done.out
