"""The processes of mlx.launch, connected by mx.distributed: ring, JACCL, NCCL or MPI."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlxtune.backends.launch import Launch
from mlxtune.backends.processes import Processes, buckets
from mlxtune.backends.watchdog import Watchdog
from mlxtune.errors import BackendError

TRANSPORTS = ("[ring]", "[jaccl]", "[nccl]", "[mpi]")


class MlxWire:
    """Bytes between processes. Each exchange is evaluated at once, so that all have the same order on all of them."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._group = group

    def gather(self, own: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Every process's bytes, (size, n)."""
        found = mx.distributed.all_gather(mx.array(own)[None], group=self._group)
        mx.eval(found)
        return np.array(found)

    def broadcast(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of rank 0, (n,): MLX has no broadcast, so the others add zeros."""
        own = mx.array(content) if self.rank == 0 else mx.zeros(len(content), mx.uint8)
        found = mx.distributed.all_sum(own, group=self._group)
        mx.eval(found)
        return np.array(found)

    def is_broken_by(self, error: RuntimeError) -> bool:
        """Whether an error is one of the connection: MLX begins such a message with the transport, "[ring]"."""
        return str(error).lstrip().startswith(TRANSPORTS)

    def say(self, why: str) -> None:
        """Nothing: there is no place that outlives a process."""

    def said(self) -> str | None:
        """Likewise."""
        return None

    @property
    def connection(self) -> mx.distributed.Group:
        """What exchanges of a graph go through."""
        return self._group

    def sum(self, value: mx.array) -> mx.array:
        """An array added up over all processes."""
        found = mx.distributed.all_sum(value, group=self._group)
        mx.eval(found)
        return found


class MlxProcesses(Processes):
    """Processes that train one MLX model.

    Args:
        wire: Between them.
        watchdog: As of `Processes`.
    """

    def __init__(self, wire: MlxWire, watchdog: Watchdog) -> None:
        super().__init__(wire, watchdog)
        self._between = wire

    @property
    def connection(self) -> mx.distributed.Group:
        """What exchanges in the middle of a pass go through."""
        return self._between.connection

    def of_first(self, value: mx.array) -> mx.array:
        """What rank 0 has of an array of the same shape on all processes."""
        own = value if self.rank == 0 else mx.zeros_like(value)
        mx.eval(own)
        with self.exchange():
            return self._between.sum(own)

    def sum_gradients(self, gradients: Any) -> Any:
        """A tree of gradients, evaluated, added up over all processes in float32."""
        names, values = zip(*tree_flatten(gradients), strict=True)
        found: list[mx.array] = []
        for part in buckets([value.size for value in values]):
            own = values[part]
            flat = mx.concatenate([value.reshape(-1).astype(mx.float32) for value in own])
            mx.eval(flat)  # an exchange waits for the others, and no GPU should meanwhile
            with self.exchange():
                flat = self._between.sum(flat)
            parts = mx.split(flat, np.cumsum([value.size for value in own])[:-1].tolist())
            found += [one.reshape(value.shape).astype(value.dtype) for one, value in zip(parts, own, strict=True)]
        return tree_unflatten(list(zip(names, found, strict=True)))


def join_group(launch: Launch) -> MlxProcesses:
    """Connect the processes that mlx.launch started; all of them call it.

    Raises:
        BackendError: They cannot be connected.
    """
    try:
        group = mx.distributed.init(strict=True, backend=launch.transport or "any")
    except (RuntimeError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(
            f"process {launch.rank} of {launch.size} cannot be connected to the others: MLX ({launch.transport}): {first_line}"
        ) from error
    if (group.rank(), group.size()) != (launch.rank, launch.size):
        raise BackendError(
            f"MLX ({launch.transport}) is process {group.rank()} of {group.size()}, and mlx.launch started process {launch.rank} of "
            f"{launch.size}; start them again"
        )
    return MlxProcesses(MlxWire(group), Watchdog())
