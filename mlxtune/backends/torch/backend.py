"""The PyTorch backend: one object that loads, converts and fuses, with this machine's device."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mlxtune.backends.adapter import check_fits, read_adapter
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import AdapterKind, ConvertSpec, Device, MatmulSpeed, Model, WrittenModel
from mlxtune.backends.group import ALONE, Alone
from mlxtune.backends.heap import free_at_once
from mlxtune.backends.launch import Launch, launched
from mlxtune.backends.torch.gpus import find_gpus
from mlxtune.backends.torch.runtime import (
    exact_products,
    machine_bytes,
    memory_for,
    peak_resident_bytes,
    pick_device,
)
from mlxtune.errors import BackendError, Misuse
from mlxtune.models.source import read_config

if TYPE_CHECKING:  # one process needs none of torch.distributed
    from mlxtune.backends.torch.group import TorchProcesses

MATMUL_SIZES = {"gpu": 8192, "cpu": 1024}  # rows and columns
MATMUL_SECONDS = 0.5
LIBRARIES = ("torch", "transformers", "peft")


class TorchBackend:
    """`backends.base.Backend` on PyTorch: an NVIDIA GPU, or the CPU.

    Args:
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "gpu", "cuda" or "cuda:N".

    Raises:
        BackendError: No such device here.
    """

    name = "torch"

    def __init__(self, device: str = "auto") -> None:
        self._launch = launched()
        self._device = pick_device(_of_process(device, self._launch))
        self._tf32 = exact_products()

    @functools.cache  # noqa: B019 - one backend lives as long as the process
    def device(self) -> Device:
        """Where it computes on this machine."""
        if self._device.type == "cuda":
            facts = torch.cuda.get_device_properties(self._device)
            return Device("gpu", f"the GPU ({facts.name})", facts.total_memory, self._tf32)
        threads = torch.get_num_threads()
        memory = machine_bytes() // (1 if self._launch is None else self._launch.local_size)
        return Device("cpu", f"the CPU, {threads} thread{'' if threads == 1 else 's'}", memory, self._tf32)

    @functools.cache  # noqa: B019 - as above; processes are connected once
    def group(self) -> Alone | TorchProcesses:
        """The processes that torchrun started with this one, or it alone.

        Raises:
            BackendError: They cannot be connected.
        """
        if self._launch is None or self._launch.size == 1:
            return ALONE
        from mlxtune.backends.torch.group import join_group

        return join_group(self._launch, self._device)

    def versions(self) -> dict[str, str]:
        """Versions of the libraries it computes with, for run.json."""
        return {name: importlib.metadata.version(name) for name in LIBRARIES}

    def peak_memory_bytes(self, reset: bool = False) -> int:
        """Most memory used since the last reset: of the GPU's tensors, or on a CPU of the whole process."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            if reset:
                torch.cuda.reset_peak_memory_stats(self._device)
            return int(peak)
        peak = peak_resident_bytes()
        if reset:
            _reset_peak_resident()
        return peak

    def cache_memory_bytes(self) -> int:
        """Freed memory of the GPU that is kept for reuse; 0 on a CPU."""
        if self._device.type != "cuda":
            return 0
        return int(torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device))

    def matmul_speed(self) -> MatmulSpeed:
        """Time a float32 matrix product, a second or two at most."""
        size = MATMUL_SIZES[self.device().kind]
        left, right = (torch.randn(size, size, device=self._device) for _ in range(2))
        best = 0.0
        begun = time.perf_counter()
        while best == 0.0 or time.perf_counter() - begun < MATMUL_SECONDS:  # the first one also warms up
            start = time.perf_counter()
            product = left @ right
            product[0, 0].item()  # waits for it
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
        if self._device.type == "cuda":
            return MatmulSpeed(best, f"CUDA {torch.version.cuda}", None)
        return MatmulSpeed(best, "MKL" if torch.backends.mkl.is_available() else "torch's own BLAS", None)

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        """What a model of a config.json is made of, as its class in transformers says; no weight is read."""
        from mlxtune.backends.torch.architecture import architecture

        return architecture(config)

    def check_shard(self, config: Mapping[str, Any], kind: AdapterKind) -> None:
        """Refuse several processes that each hold a part of the base model's weights."""
        if self.group().size == 1:
            return
        if kind == "dora":
            raise BackendError(
                "model.shard: the PyTorch backend trains no DoRA on a base model of which processes hold parts, as it needs the lengths of "
                "whole rows after each step; set lora.type: lora, or model.shard to false"
            )

    def load(self, folder: Path, adapter: Path | None = None, dtype: str | None = None, shard: bool = False) -> Model:
        """Load a model folder, quantized or not, and an adapter folder onto it.

        Args:
            folder: MLX or Hugging Face layout.
            adapter: Adapter folder.
            dtype: Type of the weights, or STORED; None is float32 on a CPU, and on a GPU the model's own, or bfloat16 for float16,
                whose range gradients leave.
            shard: Each of several processes holds a part of the weights.

        Raises:
            BackendError: It is not offered (`check_shard`).
            ModelError: The folder cannot be loaded.
            AdapterError: The adapter cannot be read or does not fit.
            OutOfMemory: It is too large for the device.
        """
        from mlxtune.backends.torch.loading import load_network
        from mlxtune.backends.torch.model import TorchModel

        found = None if adapter is None else read_adapter(adapter)
        if shard:
            self.check_shard(read_config(folder), "lora" if found is None else found.spec.kind)
        group = self.group()
        mesh = group.mesh if shard and not isinstance(group, Alone) else None
        if mesh is not None and self._device.type == "cpu":
            free_at_once()
        with memory_for(f"loading {folder}", self._device):
            network, config = load_network(folder, self._device, dtype, mesh)
            model = TorchModel(network, config, self._device, group, is_sharded=mesh is not None)
        if found is not None:
            check_fits(found, model.architecture.linear_layers, str(adapter), str(folder))
            model.attach_lora(found.spec, found.weights)
        return model

    def convert(self, source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
        """Turn a model folder or a .gguf file into an MLX model folder."""
        from mlxtune.backends.torch.convert import convert

        return convert(source, out, spec)

    def fuse(self, base: Path, adapter: Path, out: Path, requantize: bool, dtype: str | None = None) -> WrittenModel:
        """Fold an adapter into its base model."""
        from mlxtune.backends.torch.fuse import fuse

        return fuse(base, adapter, out, requantize, dtype)


def _of_process(device: str, launch: Launch | None) -> str:
    """A device's word, with the GPU that a process of several on a machine has for itself.

    Raises:
        Misuse: One GPU is named for all of them.
    """
    if launch is None or launch.size == 1 or device == "cpu":
        return device
    if ":" in device:
        raise Misuse(
            f"--device {device}: torchrun started {launch.size} processes, and each takes a GPU of its own; leave out --device, or use "
            "--device cuda"
        )
    if device == "auto" and not find_gpus().found:
        return "cpu"
    return f"cuda:{launch.local_rank or 0}"


def _reset_peak_resident() -> None:
    """Lower the kernel's mark to the memory in use; where that is not allowed, it stays."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
