"""How much memory MLX may hold on a Mac, where the system and MLX share it: wired memory, and buffers kept for reuse.

MLX frees no buffer until its cache is full, and its cache may take all memory; wired memory cannot be paged out. Both at their
maximum let one process freeze the Mac, so both have limits that leave room, and variables for those who know better.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.backends.mlx.runtime import gpu_kind, import_mlx
from mlxtune.errors import BackendError

messages = logging.getLogger(__name__)

WIRED = "MLXTUNE_WIRED_GB"  # memory that is never paged out
CACHE = "MLXTUNE_CACHE_LIMIT_GB"  # freed buffers that are kept for reuse
CLEAR = "MLXTUNE_CLEAR_CACHE_GB"  # kept buffers past which all are given back after a step
WIRED_SHARE = 0.75  # of what Metal recommends a process to use, itself about two thirds of a 16 GB Mac
CACHE_SHARE = 1 / 16  # of the Mac's memory: 1 GB of 16


@dataclass(frozen=True)
class MemoryLimits:
    """What MLX may hold, in bytes; None leaves MLX's own limit, or for `clear` never gives back.

    Attributes:
        wired: Never paged out.
        cache: Freed buffers, kept for reuse.
        clear: Freed buffers past which all are given back after a step.
    """

    wired: int | None
    cache: int | None
    clear: int | None


NO_LIMITS = MemoryLimits(None, None, None)


def memory_limits(environment: Mapping[str, str], kind: str | None, working_set: int, memory: int) -> MemoryLimits:
    """The limits on a device: those of the environment, or on Metal their defaults.

    Args:
        environment: Variables.
        kind: 'Metal', 'CUDA', or None for the CPU.
        working_set: Bytes that Metal recommends a process to use.
        memory: Bytes of the machine.

    Raises:
        BackendError: A variable is not a number of GB from 0 on, or wires more than the system allows.
    """
    wired, cache, clear = (_bytes_of(environment, name) for name in (WIRED, CACHE, CLEAR))
    if kind != "Metal":
        return MemoryLimits(None, cache if kind else None, clear if kind else None)
    if wired is not None and wired > working_set:
        raise BackendError(
            f"{WIRED}: expected at most {working_set / 1e9:.1f}, which the system allows, got {environment[WIRED]!r}; lower it, or raise "
            "the system's limit with `sudo sysctl iogpu.wired_limit_mb=N`"
        )
    cache = int(CACHE_SHARE * memory) if cache is None else cache
    return MemoryLimits(
        wired=int(WIRED_SHARE * working_set) if wired is None else wired,
        cache=cache,
        clear=cache if clear is None else clear,
    )


def set_limits() -> MemoryLimits:
    """Set this machine's limits in MLX, and return them; a variable that changes nothing here is named in a warning."""
    mx, kind = import_mlx(), gpu_kind()
    if mx.default_device().type != mx.DeviceType.gpu:
        kind = None
    facts = mx.device_info() if kind == "Metal" else {}
    limits = memory_limits(
        os.environ, kind, facts.get("max_recommended_working_set_size", 0), facts.get("memory_size", 0)
    )
    for name, value in ((WIRED, limits.wired), (CACHE, limits.cache), (CLEAR, limits.clear)):
        if name in os.environ and value is None:
            messages.warning("%s changes nothing: MLX computes on %s", name, kind or "the CPU")
    if limits.wired is not None:
        mx.set_wired_limit(limits.wired)
    if limits.cache is not None:
        mx.set_cache_limit(limits.cache)
    return limits


def give_back(limits: MemoryLimits) -> None:
    """Give all kept buffers back to the system where they are more than the limits want kept between steps."""
    mx = import_mlx()
    if limits.clear is not None and mx.get_cache_memory() > limits.clear:
        mx.clear_cache()


def _bytes_of(environment: Mapping[str, str], name: str) -> int | None:
    if name not in environment:
        return None
    try:
        value = float(environment[name])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise BackendError(f"{name}: expected a number of GB, 0 or more, got {environment[name]!r}; change or unset it")
    return int(value * 1e9)
