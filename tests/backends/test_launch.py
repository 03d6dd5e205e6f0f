"""How a process finds out that a launcher started it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.backends import choose
from mlxtune.backends.launch import Launch, launched
from mlxtune.errors import Misuse

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def ring(folder: Path, *addresses: str) -> str:
    """The file that mlx.launch gives to each process."""
    file = folder / "ring.json"
    file.write_text(json.dumps([[one] for one in addresses]) if addresses else "", encoding="utf-8")
    return str(file)


def test_without_a_launchers_variables_a_process_is_alone() -> None:
    assert launched({}) is None
    assert launched({"RANK": "0", "WORLD_SIZE": "2"}) is None  # of a job scheduler: torch could not connect


def test_torchruns_variables_say_which_process_this_is() -> None:
    assert launched(TORCHRUN) == Launch("torchrun", 3, 8, None, 1, 4)


def test_processes_on_one_machine_are_counted_in_mlxs_ring(tmp_path: Path) -> None:
    file = ring(tmp_path, "10.0.0.1:5000", "10.0.0.2:5000", "10.0.0.2:5001")
    assert launched({"MLX_RANK": "2", "MLX_HOSTFILE": file}) == Launch("mlx.launch", 2, 3, "ring", None, 2)
    assert launched({"MLX_RANK": "0", "MLX_HOSTFILE": file}) == Launch("mlx.launch", 0, 3, "ring", None, 1)


def test_a_ring_of_one_is_an_empty_file(tmp_path: Path) -> None:
    assert launched({"MLX_RANK": "0", "MLX_HOSTFILE": ring(tmp_path)}) == Launch("mlx.launch", 0, 1, "ring")


def test_the_other_ways_in_which_mlx_connects_processes_are_known(tmp_path: Path) -> None:
    devices = tmp_path / "devices.json"
    devices.write_text('[[null, "rdma_en5"], ["rdma_en5", null]]', encoding="utf-8")
    jaccl = launched({"MLX_RANK": "1", "MLX_IBV_DEVICES": str(devices), "MLX_JACCL_COORDINATOR": "10.0.0.1:1"})
    assert jaccl == Launch("mlx.launch", 1, 2, "jaccl")
    assert launched({"MLX_RANK": "1", "MLX_WORLD_SIZE": "4"}) == Launch("mlx.launch", 1, 4, "nccl")
    assert launched({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) == (
        Launch("mlx.launch", 1, 2, "mpi", local_size=2)
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"RANK": "x"}, "RANK='x': expected a whole number"),
        ({"RANK": "8"}, "process 8 of 8; numbers go from 0 to 7"),
        ({"MLX_RANK": "0"}, "none of MLX_HOSTFILE, MLX_IBV_DEVICES and MLX_WORLD_SIZE is"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "/no/such/file"}, "MLX_HOSTFILE=/no/such/file: expected the list"),
    ],
)
def test_variables_that_contradict_each_other_are_refused_by_name(changed: dict[str, str], said: str) -> None:
    with pytest.raises(Misuse, match=said.replace("'", "['\"]").replace("(", r"\(")):
        launched({**TORCHRUN, **changed})


def test_a_file_that_is_no_list_of_processes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ring.json"
    file.write_text('{"hosts": 2}', encoding="utf-8")
    with pytest.raises(Misuse, match=r"expected the list of processes that mlx\.launch writes: got"):
        launched({"MLX_RANK": "0", "MLX_HOSTFILE": str(file)})


@pytest.mark.parametrize(("backend", "launcher"), [("torch", "torchrun"), ("mlx", "mlx.launch")])
def test_a_launcher_decides_the_backend_and_the_other_is_refused(
    backend: str, launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(backend)
    variables = {
        "torch": {**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
        "mlx": {"MLX_RANK": "0", "MLX_HOSTFILE": ring(tmp_path)},
    }
    for name, value in variables[backend].items():
        monkeypatch.setenv(name, value)
    choice = choose("auto", "cpu")
    assert choice.backend.name == backend
    assert f"{launcher} started it, one process" in choice.reason
    assert choice.backend.group().size == 1
    other = {"torch": "mlx", "mlx": "torch"}[backend]
    with pytest.raises(Misuse, match=f"--backend {other} cannot be used under {launcher}"):
        choose(other, "cpu")
