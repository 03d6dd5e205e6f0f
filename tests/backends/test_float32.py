"""float32 means float32: TF32 is off on both backends before anything is computed, unless the user has turned it on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends.base import Device
from mlxtune.doctor import OK, check_blas
from mlxtune.recipe.load import load_recipe
from mlxtune.training.plan import plan
from tests.commands.test_doctor import FakeBackend
from tests.conftest import chosen
from tests.training.test_loop import write_recipe

# Says what MLX_ENABLE_TF32 is at the moment when mlx is imported, then runs the statements that follow.
WATCH = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx.core":
            print("AT IMPORT", os.environ.get("MLX_ENABLE_TF32"))
sys.meta_path.insert(0, Watch())
"""


def run(code: str, **variables: str) -> str:
    plain = {name: value for name, value in os.environ.items() if "TF32" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**plain, **variables}, capture_output=True, text=True, timeout=100
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "statements",
    [
        "from mlxtune.backends import choose; choose('mlx')",
        "from mlxtune.backends import choose; choose('auto', 'cpu'); import mlxtune.backends.mlx.loading",
        "from mlxtune.cli import main; sys.argv = ['mlxtune', 'doctor', '--backend', 'mlx']; main()",
    ],
)
def test_mlx_is_imported_with_tf32_off(statements: str) -> None:
    said = run(WATCH + statements, HF_HUB_OFFLINE="1")
    assert "AT IMPORT 0" in said and "AT IMPORT None" not in said


def test_a_users_own_setting_of_mlx_stays_and_doctor_says_so() -> None:
    code = "import sys; from mlxtune.cli import main; sys.argv = 'mlxtune doctor --backend mlx --device cpu --json'.split(); main()"
    said = run(WATCH + code, MLX_ENABLE_TF32="1", HF_HUB_OFFLINE="1")
    assert "AT IMPORT 1" in said
    blas = json.loads(said.rpartition("AT IMPORT 1")[2])["checks"]["blas"]
    assert blas["facts"]["tf32"] == "MLX_ENABLE_TF32=1"
    assert "MLX_ENABLE_TF32=1 changes nothing on a CPU" in blas["found"]


@pytest.mark.parametrize(("value", "on"), [("0", False), ("", False), ("no", False), ("1", True), ("2", True)])
def test_mlxs_variable_is_read_as_mlx_reads_it(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:
    from mlxtune.backends.mlx.runtime import tf32_setting

    monkeypatch.setenv("MLX_ENABLE_TF32", value)
    assert (tf32_setting() is not None) is on


@pytest.mark.parametrize(
    ("variables", "wanted"), [({}, "highest"), ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "high")]
)
def test_torch_computes_in_float32_unless_the_user_wants_otherwise(variables: dict[str, str], wanted: str) -> None:
    pytest.importorskip("torch")
    code = (
        "import torch; before = torch.get_float32_matmul_precision()\n"
        "if before == 'highest': torch.set_float32_matmul_precision('high')\n"
        "from mlxtune.backends import choose; device = choose('torch', 'cpu').backend.device()\n"
        "print(torch.get_float32_matmul_precision(), device.tf32)"
    )
    setting = next((f"{name}={value}" for name, value in variables.items()), None)
    assert run(code, **variables).split() == [wanted, str(setting)]


def test_doctor_and_the_plan_say_what_tf32_costs_on_a_gpu(tmp_path: Path, base: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, base))
    gpu = Device("gpu", "a GPU", 10**9, "MLX_ENABLE_TF32=1")
    said = "MLX_ENABLE_TF32=1: float32 matrix products are rounded to TF32"
    planned = plan(recipe, chosen().backend, gpu)
    assert said in planned.as_text() and said in str(planned.as_json()["rounding"])
    exact = plan(recipe, chosen().backend, Device("gpu", "a GPU", 10**9))
    assert "rounding" not in exact.as_text() and exact.as_json()["rounding"] is None

    machine: Any = FakeBackend("gpu")
    machine._device = gpu
    check = check_blas(machine)
    assert (
        check.status == OK and said in check.found and check.next == "unset MLX_ENABLE_TF32 for full float32 precision"
    )
    assert "TF32" not in check_blas(FakeBackend("gpu")).found  # type: ignore[arg-type]
