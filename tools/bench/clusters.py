"""What an optimizer step costs on several devices: links, the exchange of gradients, the slowest process. Arithmetic; no model, no data.

The speeds of devices and links at the end are assumptions; `scale_out.py` prints them with what follows from them, and draws the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlxtune.backends.processes import SLOT_BYTES
from mlxtune.errors import Misuse

AllReduce = Literal["ring", "nccl"]


@dataclass(frozen=True)
class Link:
    """A connection between two processes.

    Attributes:
        bytes_per_second: In one direction, while the other one is used as much.
        latency_s: Of a message that is small.
    """

    bytes_per_second: float
    latency_s: float

    def seconds(self, n_bytes: float) -> float:
        """Of one message."""
        return n_bytes / self.bytes_per_second + self.latency_s


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind, a process each, and what connects them.

    Attributes:
        positions_per_second: That a device trains on: tokens, and the padding beside them.
        pass_s: What a forward and backward pass takes beside its positions, seconds.
        step_s: What a step takes beside its passes and the exchange: the optimizer, Python.
        inside: Between processes of a machine.
        between: Between machines; each process has one.
        per_machine: Processes of a machine.
        all_reduce: 'ring' is one ring of all processes, as fast as its slowest link. 'nccl' adds up inside each machine first, then each
            process its part of the gradients with those of the other machines, then all have all again.
        gather: What the processes tell each other of a step goes over.
    """

    positions_per_second: float
    pass_s: float
    step_s: float
    inside: Link
    between: Link
    per_machine: int
    all_reduce: AllReduce
    gather: Link


@dataclass(frozen=True)
class Share:
    """What one process computes of a step.

    Attributes:
        positions: Of all its passes, padding included; what opens every row counts once.
        passes: Forward and backward passes; without one it waits for the others.
    """

    positions: int
    passes: int


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step.

    Attributes:
        computing: Of the slowest process, the others wait for it.
        exchange: Of gradients, and of what the processes tell each other.
        rest: What every step takes.
    """

    computing: float
    exchange: float
    rest: float

    @property
    def total(self) -> float:
        """From one step to the next."""
        return self.computing + self.exchange + self.rest


def step_time(shares: Sequence[Share], buckets: Sequence[int], cluster: Cluster) -> StepTime:
    """The time of a step.

    Args:
        shares: Of each process.
        buckets: Bytes of each array of gradients that is exchanged.
        cluster: What computes it.

    >>> link = Link(1e9, 0.0)
    >>> cluster = Cluster(100.0, 0.0, 0.0, link, link, 1, "ring", link)
    >>> step_time([Share(200, 1)], [], cluster).total, step_time([Share(120, 1), Share(80, 1)], [], cluster).computing
    (2.0, 1.2)
    """
    computing = max(computing_seconds(share, cluster) for share in shares)
    return StepTime(computing, exchange_seconds(buckets, len(shares), cluster), cluster.step_s)


def computing_seconds(share: Share, cluster: Cluster) -> float:
    """Of the passes of one process."""
    return share.positions / cluster.positions_per_second + share.passes * cluster.pass_s


def exchange_seconds(buckets: Sequence[int], n_processes: int, cluster: Cluster) -> float:
    """Of all that the processes send each other in a step; nothing where there is one."""
    if n_processes == 1:
        return 0.0
    told = (n_processes - 1) * cluster.gather.seconds(SLOT_BYTES)  # of its loss and tokens by each, around a ring
    return told + sum(all_reduce_seconds(n_bytes, n_processes, cluster) for n_bytes in buckets)


def all_reduce_seconds(n_bytes: float, n_processes: int, cluster: Cluster) -> float:
    """Until every process has the sum of an array.

    Raises:
        Misuse: With 'nccl', the last machine would not be full.
    """
    if n_processes <= cluster.per_machine:
        return ring_seconds(n_bytes, n_processes, cluster.inside)
    if cluster.all_reduce == "ring":
        return ring_seconds(n_bytes, n_processes, _slowest(cluster))
    machines, left = divmod(n_processes, cluster.per_machine)
    if left:
        raise Misuse(
            f"{n_processes} processes do not fill machines of {cluster.per_machine}; give a multiple, or --all-reduce ring"
        )
    within = ring_seconds(n_bytes, cluster.per_machine, cluster.inside)
    return within + ring_seconds(n_bytes / cluster.per_machine, machines, cluster.between)


def _slowest(cluster: Cluster) -> Link:
    """What a ring over several machines waits for."""
    inside, between = cluster.inside, cluster.between
    if cluster.per_machine == 1:
        return between
    return Link(min(inside.bytes_per_second, between.bytes_per_second), max(inside.latency_s, between.latency_s))


def ring_seconds(n_bytes: float, n_processes: int, link: Link) -> float:
    """Of an all-reduce around a ring: the n-th parts of the array go around twice, once to be added up and once to be told.

    Source:
        2 (n - 1) messages of bytes / n, one after the other: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
        workstations", 2009.

    >>> ring_seconds(8e9, 4, Link(1e9, 0.5))
    15.0
    """
    return 2 * (n_processes - 1) * link.seconds(n_bytes / n_processes) if n_processes > 1 else 0.0


# What is assumed ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assumption:
    """A number that the simulation is given, and why that one; the number is what its option takes."""

    value: float
    why: str


@dataclass(frozen=True)
class Usual:
    """What is assumed of a kind of cluster.

    Attributes:
        backend: That trains there.
        all_reduce: How arrays are added up.
        processes: Numbers of them that are of interest.
        assumed: Each number, by its option of scale_out.py.
    """

    backend: str
    all_reduce: AllReduce
    processes: tuple[int, ...]
    assumed: Mapping[str, Assumption]


MAC = {
    "teraflops": Assumption(9.2, "475 tokens/s of Llama 7B with LoRA in its upper half on an M2 Ultra (page of mlx-examples/lora), in these terms"),
    "pass-ms": Assumption(15, "assumed"),
    "step-ms": Assumption(10, "assumed"),
    "per-machine": Assumption(1, "a Mac has one GPU"),
}  # fmt: skip
# What `--cluster` names. Published figures are those of 2026-11; none was measured by us.
CLUSTERS = {
    "macs-ring": Usual("mlx", "ring", (1, 2, 4, 8), {
        **MAC,
        "between-gb": Assumption(3, "assumed of one Thunderbolt 4 cable; its specification: 5 GB/s in each direction"),
        "between-us": Assumption(300, "as users report of TCP over Thunderbolt"),
    }),
    "macs-jaccl": Usual("mlx", "ring", (1, 2, 4, 8), {
        **MAC,
        "between-gb": Assumption(7, "assumed of RDMA over one Thunderbolt 5 cable; its specification: 10 GB/s in each direction; users report 3.5 to 9"),
        "between-us": Assumption(50, "as users report of RDMA over Thunderbolt, at most"),
    }),
    "gpus": Usual("torch", "nccl", (1, 8, 16, 32, 64), {
        "teraflops": Assumption(93, "Qwen-7B, LoRA, A100: 1.2 s for 8 passes of 256 tokens and 5.2 s for 8 of 2,048 (README of Qwen-7B), in these terms"),
        "pass-ms": Assumption(80, "from the same two numbers"),
        "step-ms": Assumption(10, "assumed"),
        "inside-gb": Assumption(235, "as users report of 8 A100s; NVLink 3's specification: 300 GB/s in each direction"),
        "inside-us": Assumption(3, "assumed"),
        "per-machine": Assumption(8, "as in a DGX or HGX"),
        "between-gb": Assumption(20, "assumed of a 200 Gb/s InfiniBand port for each GPU; its specification: 25 GB/s"),
        "between-us": Assumption(15, "assumed"),
        "gather-gb": Assumption(1, "assumed of gloo over Ethernet"),
        "gather-us": Assumption(100, "assumed of gloo over Ethernet"),
    }),
}  # fmt: skip
HELP = {
    "tokens-per-second": "tokens, padding included, that a device trains on in a second",
    "teraflops": "... or 10^12 floating-point operations, of those that a token needs",
    "pass-ms": "milliseconds of a forward and backward pass beside its positions",
    "step-ms": "milliseconds of a step beside its passes and the exchange",
    "inside-gb": "GB/s in one direction between processes of a machine",
    "inside-us": "microseconds of a small message there",
    "per-machine": "processes a machine",
    "between-gb": "GB/s in one direction between machines, for each process",
    "between-us": "microseconds of a small message there",
    "gather-gb": "GB/s of what processes tell each other of a step",
    "gather-us": "microseconds of a small message there",
}


def cluster_of(all_reduce: AllReduce, assumed: Mapping[str, Assumption]) -> Cluster:
    """Devices and links as the numbers of options say; a link that none is about is as the one between machines."""

    def link(where: str) -> Link:
        gigabytes, microseconds = (assumed.get(f"{where}-{unit}", assumed[f"between-{unit}"]) for unit in ("gb", "us"))
        return Link(1e9 * gigabytes.value, 1e-6 * microseconds.value)

    return Cluster(
        positions_per_second=assumed["tokens-per-second"].value,
        pass_s=1e-3 * assumed["pass-ms"].value,
        step_s=1e-3 * assumed["step-ms"].value,
        inside=link("inside"),
        between=link("between"),
        per_machine=int(assumed["per-machine"].value),
        all_reduce=all_reduce,
        gather=link("gather"),
    )
