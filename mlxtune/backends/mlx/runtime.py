"""What must happen before mlx is imported: a fast BLAS on Linux. Imports no mlx itself.

MLX's Linux CPU wheel carries the reference BLAS, whose float32 matmul is some eighty times slower than OpenBLAS's.
Symbols of a library loaded globally win over those of the wheel's own, so loading OpenBLAS first is enough. It is
loaded where the system has one (`apt install libopenblas0`); elsewhere MLX works as it comes.

`mlxtune/backends/mlx/__init__.py` calls `prepare()`, so that it has run before any module beside this one imports mlx.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import sys
from types import ModuleType

# 32-bit indices and unprefixed names, as MLX calls them; the copies inside NumPy's and SciPy's wheels have neither.
OPENBLAS = ("libopenblas.so.0", "libopenblas.so")


@functools.cache
def prepare() -> str | None:
    """Load OpenBLAS for MLX to use.

    Returns:
        The library loaded; None where there is none, it is not Linux, or mlx was imported before and cannot use it.
    """
    if not sys.platform.startswith("linux") or "mlx.core" in sys.modules:
        return None
    for name in OPENBLAS:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return None


def import_mlx() -> ModuleType:
    """mlx.core, imported after `prepare`."""
    prepare()
    return importlib.import_module("mlx.core")
