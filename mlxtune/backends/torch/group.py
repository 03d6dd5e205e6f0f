"""The processes of torchrun, connected by torch.distributed: gloo between CPUs, NCCL between GPUs."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from mlxtune.backends.launch import Launch
from mlxtune.backends.processes import Processes, buckets
from mlxtune.backends.watchdog import Watchdog
from mlxtune.errors import BackendError

# The watchdog says when waiting ends: rank 0 may download for hours, and a library's own limit cannot tell that from a stall.
NO_LIMIT = datetime.timedelta(days=30)
GLOO = "gloo"  # stands in what it says of a broken connection; NCCL's errors have a class
WHY = "mlxtune/why"  # a process left: key of the store


class TorchWire:
    """Bytes between processes, through the host's memory."""

    def __init__(self, launch: Launch) -> None:
        self.rank, self.size = launch.rank, launch.size

    def gather(self, own: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Every process's bytes, (size, n)."""
        found = [torch.empty(len(own), dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(found, torch.from_numpy(own.copy()))
        return torch.stack(found).numpy()

    def broadcast(self, content: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The bytes of rank 0, (n,)."""
        held = torch.from_numpy(content.copy())
        dist.broadcast(held, src=0)
        return held.numpy()

    def is_broken_by(self, error: RuntimeError) -> bool:
        """Whether an error is one of the connection."""
        return isinstance(error, dist.DistError) or GLOO in str(error)

    def say(self, why: str) -> None:
        """Leave why this process ends where the others find it: in the store by which they were connected."""
        with contextlib.suppress(RuntimeError):
            _store().set(WHY, why)

    def said(self) -> str | None:
        """What one of the others has left; None where it left nothing."""
        with contextlib.suppress(RuntimeError):  # the store ended with its process
            if _store().check([WHY]):
                return bytes(_store().get(WHY)).decode()
        return None


class TorchProcesses(Processes):
    """Processes that train one torch model.

    Args:
        launch: This process's place among them.
        device: That it computes on.
        watchdog: Ends this process where an exchange does not come to an end.
    """

    def __init__(self, launch: Launch, device: torch.device, watchdog: Watchdog) -> None:
        super().__init__(TorchWire(launch), watchdog)
        self._device = device

    @functools.cached_property
    def mesh(self) -> DeviceMesh:
        """The processes as those that hold parts of weights, with connections of their own; all ask for it together."""
        kind = self._device.type
        with self.exchange():
            own = dist.new_group(backend="nccl" if kind == "cuda" else "gloo", timeout=NO_LIMIT)
        return DeviceMesh.from_group(own, kind)

    def sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Add up gradients over all processes, in place, in float32."""
        for part in buckets([gradient.numel() for gradient in gradients]):
            own = gradients[part]
            flat = torch.cat([gradient.reshape(-1).float() for gradient in own])
            with self.exchange():
                dist.all_reduce(flat)
                if flat.device.type == "cuda":
                    torch.cuda.current_stream(flat.device).synchronize()  # while the watchdog looks on
            parts = flat.split([gradient.numel() for gradient in own])
            torch._foreach_copy_(list(own), [one.view_as(gradient) for one, gradient in zip(parts, own, strict=True)])


def join_group(launch: Launch, device: torch.device) -> TorchProcesses:
    """Connect the processes that torchrun started; all of them call it.

    Args:
        launch: This process's place among them.
        device: That it computes on.

    Raises:
        BackendError: They cannot be connected.
    """
    on_gpu = device.type == "cuda"
    try:
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=NO_LIMIT)
    except (RuntimeError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackendError(
            f"process {launch.rank} of {launch.size} cannot be connected to the others: {first_line}; check MASTER_ADDR and "
            "MASTER_PORT, and that nothing else uses that port"
        ) from error
    atexit.register(_leave)
    return TorchProcesses(launch, device, Watchdog())


def _store() -> Any:
    """Where the processes found each other: keys and values, which torchrun keeps until all have ended."""
    return dist.distributed_c10d._get_default_store()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
