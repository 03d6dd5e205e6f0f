"""Backends: what computes. `choose` imports one lazily; nothing else in the project imports a backend.

    choose()                     # MLX where it has a GPU, else torch where installed, else MLX on the CPU
    choose("torch", "cuda:1")

Importing this file imports neither. What is installed is looked up without importing it; MLX is imported to ask for its
GPU only where it may have one, as it must not be loaded before its BLAS (`mlx/runtime.py`), and loading takes time.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtune.backends.launch import MLX_LAUNCH, TORCHRUN, Launch, launched
from mlxtune.errors import BackendError, Misuse

if TYPE_CHECKING:  # the seam needs NumPy, which no help text does
    from mlxtune.backends.base import Backend, ChosenBackend, Gpus

NAMES = ("auto", "mlx", "torch")
DEVICES = "auto, cpu, gpu, cuda or cuda:N"
# Backend -> the modules that it imports, each with the distribution that holds it.
LIBRARIES = {
    "mlx": {"mlx": "mlx", "mlx_lm": "mlx-lm"},
    "torch": {"torch": "torch", "transformers": "transformers", "peft": "peft", "accelerate": "accelerate"},
}
INSTALL = {
    "mlx": "on a Mac run `pip install mlx mlx-lm`, on Linux `pip install 'mlx[cpu]' mlx-lm`",
    "torch": "pip install 'mlxtune[torch]'",
}
# As PyPI has it: no MLX and no PyTorch after 2.2.2 is built for Intel Macs; transformers 5 needs a newer PyTorch.
INTEL_MAC = (
    "this Python is built for Intel Macs, where there is no MLX. On Apple silicon, take a Python built for arm64. On an Intel "
    "Mac, train on another machine, or get PyTorch 2.6 or newer from conda-forge (pip's last is 2.2.2) and then "
    "`pip install 'mlxtune[torch]'`"
)
MLX_CUDA = ("mlx-cuda-12", "mlx-cuda-13")  # what the extras cuda, cuda12 and cuda13 of mlx install


@dataclass(frozen=True)
class _MlxGpu:
    """The GPU that MLX has: 'Metal', 'CUDA' or None, and then why it has none."""

    kind: str | None
    why_none: str = "MLX has no GPU here"


class NotInstalled(BackendError):
    """A library that the backend needs is not there."""


class _CannotLoad(BackendError):
    """Installed, and importing it fails."""


def choose(name: str = "auto", device: str = "auto") -> ChosenBackend:
    """The backend to compute with: under a launcher the one whose processes it connects.

    Args:
        name: One of NAMES.
        device: 'auto', 'cpu', 'gpu' (the backend's own), 'cuda' or 'cuda:1'.

    Raises:
        Misuse: No such backend, or a word that names no device; or a launcher connects processes of another backend.
        NotInstalled: It is not installed here.
        BackendError: It cannot be loaded, or has no such device.
    """
    if name not in NAMES:
        raise Misuse(f"unknown backend {name!r}; expected {', '.join(NAMES)}")
    check_device(device)
    if (launch := launched()) is not None:
        if name not in ("auto", launch.backend):
            other = {"torch": TORCHRUN, "mlx": MLX_LAUNCH}[name]
            raise Misuse(
                f"--backend {name} cannot be used under {launch.launcher}, which connects processes of {launch.backend}; leave out "
                f"--backend, or start them with {other}"
            )
        return _open(launch.backend, device, f"{launch.launcher} started it, {_number_of(launch)}")
    if name == "auto":
        return _choose_any(device)
    return _open(name, device, "requested")


def _number_of(launch: Launch) -> str:
    return "one process" if launch.size == 1 else f"process {launch.rank} of {launch.size}"


def check_device(word: str) -> str:
    """The word, if it names a device.

    Raises:
        Misuse: It does not.
    """
    if not re.fullmatch(r"auto|cpu|gpu|cuda(:[0-9]{1,3})?", word):
        raise Misuse(f"unknown device {word!r}; expected {DEVICES}")
    return word


def is_intel_mac() -> bool:
    """Whether this Python runs on macOS as a program for Intel processors."""
    return sys.platform == "darwin" and platform.machine() == "x86_64"


def cuda_gpus() -> Gpus | None:
    """The GPUs that torch sees, or why it sees none; None where it is not installed. Imports torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    from mlxtune.backends.base import Gpus

    try:
        from mlxtune.backends.torch.gpus import find_gpus
    except (ImportError, OSError) as error:
        return Gpus((), f"torch cannot be loaded: {_first_line(error)}")
    return find_gpus()


def _choose_any(device: str) -> ChosenBackend:
    no_mlx, no_torch = _missing("mlx"), _missing("torch")
    why = "" if device == "auto" else f"{device} requested; "
    if device == "cpu":
        gpu = _MlxGpu(None, no_mlx or "torch is preferred to MLX where there is no GPU")
        if sys.platform == "darwin" and no_mlx is None:  # the backend that its GPU uses, and Apple's own BLAS
            return _open("mlx", device, f"{why}MLX is preferred to torch on a Mac")
    else:
        gpu = _MlxGpu(None, no_mlx) if no_mlx else _mlx_gpu()
    if gpu.kind and (gpu.kind == "CUDA" or not device.startswith("cuda")):
        return _open("mlx", device, f"{why}MLX has a GPU here")
    if gpu.kind:
        gpu = _MlxGpu(None, f"MLX uses {gpu.kind} here")
    if no_torch is None:
        try:
            return _open("torch", device, why + gpu.why_none)
        except _CannotLoad as error:
            no_torch = str(error)
    if no_mlx and is_intel_mac():
        raise NotInstalled(f"no backend is installed: {INTEL_MAC}")
    if no_mlx:
        raise NotInstalled(f"no backend can be used: {no_mlx}, {INSTALL['mlx']}; {no_torch}, or {INSTALL['torch']}")
    try:
        return _open("mlx", device, f"{why}{no_torch}")
    except BackendError as error:
        raise BackendError(f"{error}; {no_torch}") from error


def _open(name: str, device: str, why: str) -> ChosenBackend:
    from mlxtune.backends.base import ChosenBackend

    missing = _missing(name)
    if missing:
        raise NotInstalled(f"{missing}; {INTEL_MAC if is_intel_mac() else INSTALL[name]}")
    backend: Backend
    try:
        if name == "mlx":
            from mlxtune.backends.mlx.backend import MlxBackend

            backend = MlxBackend(device)
        else:
            from mlxtune.backends.torch.backend import TorchBackend

            backend = TorchBackend(device)
        where = backend.device().description
    except (ImportError, OSError) as error:  # OSError: a shared library of its own that is not there
        hint = "; on Linux it needs `pip install 'mlx[cpu]'` or 'mlx[cuda]'" if name == "mlx" else ""
        raise _CannotLoad(f"{name} is installed but cannot be loaded: {_first_line(error)}{hint}") from error
    return ChosenBackend(backend, f"{name} on {where} ({why})")


def _missing(name: str) -> str | None:
    """What a backend lacks, without importing it; None if nothing."""
    lacking = [library for module, library in LIBRARIES[name].items() if importlib.util.find_spec(module) is None]
    if not lacking:
        return None
    if name in lacking:
        return f"{name} is not installed"
    return f"{name} is installed, but mlxtune also needs {' and '.join(lacking)}"


def _mlx_gpu() -> _MlxGpu:
    """MLX's GPU. On Linux MLX is imported only where its CUDA part is installed."""
    if sys.platform != "darwin" and not any(map(_has_distribution, MLX_CUDA)):
        return _MlxGpu(None)
    try:
        from mlxtune.backends.mlx.runtime import gpu_kind

        return _MlxGpu(gpu_kind())
    except ImportError as error:
        return _MlxGpu(None, f"MLX cannot be loaded: {_first_line(error)}")


def _has_distribution(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
