"""Where torch computes, in which types, and what running out of memory means. Nothing here knows a model."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mlxtune.backends.torch.gpus import find_gpus
from mlxtune.errors import BackendError, OutOfMemory

CUDA_DEVICE = re.compile(r"(?:cuda|gpu)(?::(\d+))?")
TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"  # torch's own variable
# What torch's CPU allocator says; CUDA's has an exception of its own.
CPU_SHORTAGE = ("can't allocate memory", "not enough memory")


def pick_device(wanted: str) -> torch.device:
    """The device that a word means: "auto" (CUDA, else the CPU), "cpu", "gpu", "cuda" or "cuda:N".

    Raises:
        BackendError: No such device here, and why.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    found = re.fullmatch(CUDA_DEVICE, "cuda" if wanted == "auto" else wanted)
    if found is None:
        raise BackendError(f"unknown torch device {wanted!r}; expected auto, cpu, gpu, cuda or cuda:N")
    gpus = find_gpus()
    if not gpus.found:
        if wanted == "auto":
            return torch.device("cpu")
        raise BackendError(f"--device {wanted}: {gpus.why_none}; use --device cpu")
    number = int(found[1] or 0)
    if number >= len(gpus.found):
        there = ", ".join(f"cuda:{index} ({gpu.name})" for index, gpu in enumerate(gpus.found))
        raise BackendError(f"--device {wanted}: no such GPU; there is {there}")
    return torch.device("cuda", number)


def exact_products() -> str | None:
    """Let float32 matrix products be float32, not TF32, unless the user has set otherwise.

    Returns:
        The setting by which they are TF32; None where they are float32.
    """
    if os.environ.get(TF32) == "1":
        return f"{TF32}=1"
    torch.set_float32_matmul_precision("highest")
    return None


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself."""
    return device.type == "cuda" and find_gpus().found[device.index].bfloat16


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Matrix products in bfloat16 on a GPU that computes with bfloat16 weights; nothing elsewhere."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory_bytes(device: torch.device) -> int:
    """Memory of a device that nothing holds; of a CPU's what this process has not needed so far."""
    if device.type != "cuda":
        return machine_bytes() - peak_resident_bytes()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)


def peak_resident_bytes() -> int:
    """Most memory that this process has had since the last reset; on Linux the kernel keeps the mark."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def memory_for(what: str, device: torch.device) -> Iterator[None]:
    """Raise OutOfMemory, which says what to lower, where memory does not suffice for `what`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        detail = str(error).partition(". GPU")[0]
        torch.cuda.empty_cache()
        raise OutOfMemory(what, f"the GPU ({detail})") from error
    except MemoryError as error:
        raise OutOfMemory(what, "this machine") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in CPU_SHORTAGE):
            raise
        raise OutOfMemory(what, "this machine" if device.type == "cpu" else "the host") from error
