"""The MLX backend: one object that loads, converts and fuses, with this machine's device."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.backends.adapter import check_fits, read_adapter
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import STORED, AdapterKind, ConvertSpec, Device, MatmulSpeed, Model, WrittenModel
from mlxtune.backends.group import ALONE, Alone
from mlxtune.backends.launch import launched
from mlxtune.backends.mlx.runtime import import_mlx, memory_bytes, prepare, tf32_setting, use_device
from mlxtune.backends.shapes import BUCKETED
from mlxtune.models.source import read_config

if TYPE_CHECKING:  # it imports mlx
    from mlxtune.backends.mlx.group import MlxProcesses

MATMUL_SIZES = {"gpu": 4096, "cpu": 1024}  # rows and columns; 0.7 s on MLX's reference BLAS
MATMUL_SECONDS = 0.5
REFERENCE_BLAS = "MLX's own reference BLAS, some eighty times slower than OpenBLAS"
INSTALL_OPENBLAS = "apt install libopenblas0-pthread, or your system's OpenBLAS as libopenblas.so.0; mlxtune finds it"


class MlxBackend:
    """`backends.base.Backend` on MLX: Metal on a Mac, CUDA or the CPU elsewhere.

    Args:
        device: 'auto' (MLX's own default), 'cpu', 'gpu', 'cuda' or 'cuda:1'; MLX has one device for the whole process.

    Raises:
        BackendError: There is no such device.
    """

    name = "mlx"

    def __init__(self, device: str = "auto") -> None:
        use_device(device)

    @functools.cache  # noqa: B019 - one backend lives as long as the process
    def device(self) -> Device:
        """Where it computes on this machine."""
        mx = import_mlx()
        launch = launched()
        memory = memory_bytes() // (1 if launch is None else launch.local_size)
        if mx.default_device().type == mx.DeviceType.gpu:
            described = f"the GPU ({mx.device_info().get('device_name', platform.processor())})"
            return Device("gpu", described, memory, tf32_setting(), BUCKETED)
        blas = prepare()
        how = f"with {blas}" if blas else "with MLX's own BLAS"
        where = f"the CPU, {how if platform.system() == 'Linux' else platform.processor()}"
        return Device("cpu", where, memory, tf32_setting())

    @functools.cache  # noqa: B019 - as above; processes are connected once
    def group(self) -> Alone | MlxProcesses:
        """The processes that mlx.launch started with this one, or it alone.

        Raises:
            BackendError: They cannot be connected.
        """
        launch = launched()
        if launch is None or launch.size == 1:
            return ALONE
        import_mlx()
        from mlxtune.backends.mlx.group import join_group

        return join_group(launch)

    def versions(self) -> dict[str, str]:
        """Versions of the libraries it computes with, for run.json."""
        return {name: importlib.metadata.version(name) for name in ("mlx", "mlx-lm")}

    def peak_memory_bytes(self, reset: bool = False) -> int:
        """Most memory used since the last reset."""
        mx = import_mlx()
        peak = int(mx.get_peak_memory())
        if reset:
            mx.reset_peak_memory()
        return peak

    def cache_memory_bytes(self) -> int:
        """Freed memory that is kept for reuse."""
        return int(import_mlx().get_cache_memory())

    def matmul_speed(self) -> MatmulSpeed:
        """Time a float32 matrix product, a second or two at most."""
        mx = import_mlx()
        on_gpu = self.device().kind == "gpu"
        size = MATMUL_SIZES[self.device().kind]
        left, right = (mx.random.normal((size, size), key=mx.random.key(seed)) for seed in (0, 1))
        mx.eval(left, right)
        best = 0.0
        begun = time.perf_counter()
        while best == 0.0 or time.perf_counter() - begun < MATMUL_SECONDS:  # the first one also warms up
            start = time.perf_counter()
            mx.eval(left @ right)
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
        if on_gpu:
            return MatmulSpeed(best, "Metal" if mx.metal.is_available() else "CUDA", None)
        if platform.system() != "Linux":
            return MatmulSpeed(best, "Accelerate", None)
        blas = prepare()
        return MatmulSpeed(best, blas, None) if blas else MatmulSpeed(best, REFERENCE_BLAS, INSTALL_OPENBLAS)

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        """What a model of a config.json is made of, as its class in mlx-lm says; no weight is read."""
        from mlxtune.backends.mlx.architecture import architecture

        return architecture(config)

    def check_shard(self, config: Mapping[str, Any], kind: AdapterKind) -> None:
        """Refuse what several processes do not share a base model for, or a model that they cannot share evenly.

        Raises:
            BackendError: DoRA.
            ModelError: The family is not sharded, or the number of processes does not divide the model.
        """
        if (size := self.group().size) == 1:
            return
        from mlxtune.backends.mlx.sharding import require_shardable

        require_shardable(config, kind, self.architecture(config), size)

    def load(self, folder: Path, adapter: Path | None = None, dtype: str | None = None, shard: bool = False) -> Model:
        """Load a model folder, quantized or not, and an adapter folder onto it.

        Args:
            folder: MLX or Hugging Face layout.
            adapter: Adapter folder.
            dtype: Type to compute in, or STORED; None is float32 on a CPU, where MLX's bfloat16 is slow, and on a GPU the model's own,
                or bfloat16 for float16, whose range gradients leave.
            shard: Each of several processes holds its heads and its part of every MLP, and all compute the same rows.

        Raises:
            ModelError: The folder cannot be loaded.
            AdapterError: The adapter cannot be read or does not fit.
            BackendError: A variable that limits MLX's memory (`memory.py`) has an impossible value.
        """
        mx = import_mlx()
        from mlxtune.backends.mlx.loading import load_network, require_float32_experts
        from mlxtune.backends.mlx.memory import set_limits
        from mlxtune.backends.mlx.model import MlxModel
        from mlxtune.backends.mlx.sharding import WHOLE, Parts, Whole, shard_network

        found = None if adapter is None else read_adapter(adapter)
        if shard:
            self.check_shard(read_config(folder), "lora" if found is None else found.spec.kind)
        limits = set_limits()
        network, config = load_network(folder)
        group = self.group()
        parts: Whole | Parts = WHOLE
        if shard and not isinstance(group, Alone):
            parts = shard_network(network, config, self.architecture(config), group)
        wanted = dtype or ("float32" if self.device().kind == "cpu" else None)
        if wanted is None and network.model.norm.weight.dtype == mx.float16:
            wanted = "bfloat16"
        if wanted not in (None, STORED):
            network.set_dtype(getattr(mx, wanted))
        if self.device().kind == "cpu" and wanted not in (None, "float32", STORED):
            require_float32_experts(network, wanted)
        for block in network.layers:  # one after the other, so that no more than a block is there whole
            mx.eval(block.parameters())
        mx.eval(network.parameters())
        model = MlxModel(network, config, compiled=self.device().kind == "gpu", limits=limits, group=group, parts=parts)
        if found is not None:
            check_fits(found, model.architecture.linear_layers, str(adapter), str(folder))
            model.attach_lora(found.spec, found.weights)
        return model

    def convert(self, source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
        """Turn a model folder or a .gguf file into an MLX model folder."""
        from mlxtune.backends.mlx.convert import convert

        return convert(source, out, spec)

    def fuse(self, base: Path, adapter: Path, out: Path, requantize: bool, dtype: str | None = None) -> WrittenModel:
        """Fold an adapter into its base model."""
        from mlxtune.backends.mlx.fuse import fuse

        return fuse(base, adapter, out, requantize, dtype)
