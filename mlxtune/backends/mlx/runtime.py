"""What must happen before mlx is imported, and where it computes then. Importing it imports no mlx.

MLX's Linux CPU wheel carries the reference BLAS, whose float32 matmul is some eighty times slower than OpenBLAS's.
Symbols of a library loaded globally win over those of the wheel's own, so loading OpenBLAS first is enough. It is
loaded where the system has one (`apt install libopenblas0`); elsewhere MLX works as it comes.

MLX rounds float32 matrix products to TF32 on GPUs that know it (CUDA, and Metal from M5 on) unless MLX_ENABLE_TF32 is 0. Here
float32 means float32: it is set to 0, and a value that the user has set stays.

`mlxtune/backends/mlx/__init__.py` calls `prepare()`, so that it has run before any module beside this one imports mlx.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from mlxtune.backends.heap import keep_freed
from mlxtune.errors import BackendError, OutOfMemory

# 32-bit indices and unprefixed names, as MLX calls them; the copies inside NumPy's and SciPy's wheels have neither.
OPENBLAS = ("libopenblas.so.0", "libopenblas.so")

TF32 = "MLX_ENABLE_TF32"

# What MLX's messages have in common where memory ends: a buffer that is too large for Metal, a GPU that is full.
SHORTAGE = ("malloc", "insufficient memory", "out of memory", "unable to allocate")


@functools.cache
def prepare() -> str | None:
    """Turn TF32 off, unless the user has set it; on Linux, let freed memory be kept and load OpenBLAS for MLX to use.

    Returns:
        The library loaded; None where there is none, it is not Linux, or mlx was imported before and cannot use it.
    """
    os.environ.setdefault(TF32, "0")
    if not sys.platform.startswith("linux") or "mlx.core" in sys.modules:
        return None
    keep_freed()
    for name in OPENBLAS:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return None


def tf32_setting() -> str | None:
    """MLX_ENABLE_TF32 as the user has set it, where that turns TF32 on; None where it is off."""
    value = os.environ.get(TF32, "0")
    return f"{TF32}={value}" if re.match(r"\s*[+-]?0*[1-9]", value) else None  # as C's atoi reads it


def import_mlx() -> ModuleType:
    """mlx.core, imported after `prepare`."""
    prepare()
    return importlib.import_module("mlx.core")


def gpu_kind() -> str | None:
    """The GPU that mlx computes on: 'Metal', 'CUDA', or None."""
    mx = import_mlx()
    if not mx.is_available(mx.gpu):
        return None
    return "Metal" if mx.metal.is_available() else "CUDA"


def use_device(word: str) -> None:
    """Make 'cpu', 'gpu', 'cuda' or 'cuda:1' the device of all that follows; 'auto' leaves mlx's own.

    Raises:
        BackendError: There is none.
    """
    if word == "auto":
        return
    mx = import_mlx()
    if word == "cpu":
        mx.set_default_device(mx.cpu)
        return
    kind = gpu_kind()
    asked = f"--device {word}: MLX {mx.__version__}"
    if kind is None:
        raise BackendError(
            f"{asked} finds no GPU on this machine; for an NVIDIA GPU run `pip install 'mlx[cuda]'`, or use --device cpu"
        )
    if word != "gpu" and kind != "CUDA":
        raise BackendError(f"{asked} uses {kind} on this machine, not CUDA; use --device gpu")
    index, count = int(word.partition(":")[2] or 0), mx.device_count(mx.gpu)
    if index >= count:
        raise BackendError(f"{asked} finds {count} GPU{'' if count == 1 else 's'}; numbers start at cuda:0")
    mx.set_default_device(mx.Device(mx.gpu, index))


def memory_bytes() -> int:
    """Memory of the device that mlx computes on, as far as one process should use it."""
    mx = import_mlx()
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mx.default_device().type != mx.DeviceType.gpu:
        return machine
    facts = mx.device_info()
    sizes = ("max_recommended_working_set_size", "memory_size", "total_memory")  # Metal's, Metal's, CUDA's
    return int(next((facts[size] for size in sizes if facts.get(size)), machine))


def free_memory_bytes() -> int:
    """What of it no array holds."""
    return memory_bytes() - int(import_mlx().get_active_memory())


@contextlib.contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Raise OutOfMemory, which says what to lower, where memory does not suffice for `what`."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(what, "this machine") from error
    except RuntimeError as error:
        if not any(words in str(error).lower() for words in SHORTAGE):
            raise
        raise OutOfMemory(what, f"this machine (MLX: {str(error).strip().splitlines()[0]})") from error
