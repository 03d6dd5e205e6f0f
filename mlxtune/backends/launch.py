"""How this process was started: alone, or as one of several by torchrun or mlx.launch. Environment variables only.

Both launchers number their processes (ranks) from 0 and say so in the environment; nothing is imported to find out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import Misuse

TORCHRUN, MLX_LAUNCH = "torchrun", "mlx.launch"
# The variables in which MPI's launchers count processes: Open MPI's, MPICH's and Intel's.
MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
)


@dataclass(frozen=True)
class Launch:
    """One of the processes that a launcher started.

    Attributes:
        launcher: TORCHRUN or MLX_LAUNCH; any other that sets the same variables counts as the one or the other.
        rank: Which of them this is, from 0.
        size: How many there are.
        transport: What MLX exchanges arrays through: 'ring', 'jaccl', 'nccl' or 'mpi'; None under torchrun.
        local_rank: Which of those of this machine it is; None where the launcher does not say.
        local_size: How many there are on this machine, as far as the launcher says: they share its memory.
    """

    launcher: str
    rank: int
    size: int
    transport: str | None = None
    local_rank: int | None = None
    local_size: int = 1

    @property
    def backend(self) -> str:
        """The backend whose processes the launcher connects."""
        return "torch" if self.launcher == TORCHRUN else "mlx"


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What launcher started this process; None where it is alone.

    Raises:
        Misuse: The variables of a launcher contradict each other.
    """
    if "MLX_RANK" in environment:
        return _checked(_of_mlx(environment, _number(environment, "MLX_RANK")))
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys():
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        local_rank = _number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else None
        local_size = _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else 1
        return _checked(Launch(TORCHRUN, rank, size, None, local_rank, local_size))
    for rank_of, size_of, local_size_of in MPI:
        if rank_of in environment and size_of in environment:
            local_size = _number(environment, local_size_of) if local_size_of in environment else 1
            rank, size = _number(environment, rank_of), _number(environment, size_of)
            return _checked(Launch(MLX_LAUNCH, rank, size, "mpi", local_size=local_size))
    return None


def _of_mlx(environment: Mapping[str, str], rank: int) -> Launch:
    """What mlx.launch started, as the files or the number that it gives to each process say."""
    if "MLX_WORLD_SIZE" in environment:  # each has a GPU for itself
        return Launch(MLX_LAUNCH, rank, _number(environment, "MLX_WORLD_SIZE"), "nccl")
    if "MLX_IBV_DEVICES" in environment:
        listed = _listed(environment, "MLX_IBV_DEVICES")
        return Launch(MLX_LAUNCH, rank, max(1, len(listed)), "jaccl")
    if "MLX_HOSTFILE" in environment:
        machines = [str(one[0]).rpartition(":")[0] for one in _listed(environment, "MLX_HOSTFILE")]
        here = machines.count(machines[rank]) if rank < len(machines) else 1
        return Launch(MLX_LAUNCH, rank, max(1, len(machines)), "ring", local_size=here)
    raise Misuse(
        "MLX_RANK is set, and none of MLX_HOSTFILE, MLX_IBV_DEVICES and MLX_WORLD_SIZE is; start the processes with mlx.launch, "
        "or unset MLX_RANK"
    )


def _listed(environment: Mapping[str, str], variable: str) -> list[list[Any]]:
    """An entry for each process, as a file of mlx.launch lists them; it writes an empty one for a single process."""
    file = environment[variable]
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
        found = json.loads(text) if text else []
        if isinstance(found, list) and all(isinstance(one, list) and one for one in found):
            return found
        reason = f"got {text[:40]}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise Misuse(f"{variable}={file}: expected the list of processes that mlx.launch writes: {reason}")


def _number(environment: Mapping[str, str], variable: str) -> int:
    value = environment[variable]
    if not value.isdecimal():
        raise Misuse(
            f"{variable}={value!r}: expected a whole number, as a launcher sets it; unset it to run one process"
        )
    return int(value)


def _checked(launch: Launch) -> Launch:
    if launch.rank >= launch.size:
        raise Misuse(
            f"{launch.launcher}: this is process {launch.rank} of {launch.size}; numbers go from 0 to {launch.size - 1}"
        )
    return launch
