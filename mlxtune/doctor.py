"""What this machine can run, and what slows it: checks that each say what is there and the next step. Prints nothing.

    diagnosis = examine(choose().backend)
    diagnosis.can_train, diagnosis.as_text()

The whole examination takes a few seconds, also where no network answers: whatever might hang has a limit.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlxtune
from mlxtune.backends.base import Backend
from mlxtune.models.base_model import cache_folder

OK, SLOW, MISSING = "ok", "slow", "missing"
PYTHON = (3, 10)
LIBRARIES = ("mlx", "mlx-lm", "transformers", "numpy")
HUB_SECONDS = 4.0  # a name server may take longer than any limit of the HTTP library
SLOW_HUB_SECONDS = 2.0
CACHE_SECONDS = 1.0  # for adding up one cache, which may hold a million files
NVIDIA_SECONDS = 3.0
SLOW_GFLOPS = 20.0  # one core with any tuned BLAS exceeds it
# A 135M-parameter model trains in 1.1 GB (batch 8, float32), 0.6B parameters in about 5 GB.
LEAST_MEMORY, AMPLE_MEMORY = 2e9, 6e9
LEAST_DISK, AMPLE_DISK = 1e9, 5e9
_INSTALL_MLX = "pip install 'mlx[cpu]'; on a Mac mlx, with an NVIDIA GPU 'mlx[cuda]'"
PROBE = "Qwen/Qwen3-0.6B"  # the Hub is asked about it, as a download would
PLAN = "`mlxtune lora RECIPE --plan` says what a training takes"


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        status: 'ok', 'slow' (works, and could be faster or roomier) or 'missing'.
        found: What is there.
        next: What to do about it; None where nothing is to be done.
        needed: Training is impossible while it is missing.
        facts: Figures, with names that state their unit.
    """

    status: str
    found: str
    next: str | None = None
    needed: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """All checks, by name."""

    checks: Mapping[str, Check]

    @property
    def can_train(self) -> bool:
        """Whether nothing is missing that training needs."""
        return not any(check.needed and check.status == MISSING for check in self.checks.values())

    def as_json(self) -> dict[str, Any]:
        """{"can_train", "checks": {name: {"status", "found", "next", "needed", "facts"}}}."""
        return {"can_train": self.can_train, "checks": {name: asdict(check) for name, check in self.checks.items()}}

    def as_text(self) -> str:
        """A line a check, the next step below it."""
        width = max(map(len, self.checks))
        lines = []
        for name, check in self.checks.items():
            lines.append(f"{name:<{width}}  {check.status:<{len(MISSING)}}  {check.found}")
            if check.next:
                lines.append(f"{'':<{width + len(MISSING) + 4}}-> {check.next}")
        return "\n".join(lines)


def examine(backend: Backend | None, problem: str | None = None) -> Diagnosis:
    """Look at everything.

    Args:
        backend: What would compute; None if there is none.
        problem: Why there is none.
    """
    hub = _InBackground(check_hub, HUB_SECONDS)
    checks = {
        "python": check_python(),
        "mlxtune": Check(OK, mlxtune.__version__, facts={"version": mlxtune.__version__}),
        **{name: check_library(name) for name in LIBRARIES},
    }
    if backend is None:
        checks["device"] = Check(MISSING, problem or "nothing to compute with", _INSTALL_MLX, True)
    else:
        device = backend.device()
        checks["device"] = Check(OK, device.description, facts={"kind": device.kind, "backend": backend.name})
        checks["gpu"] = check_gpu(device.kind, device.description)
        checks["blas"] = check_blas(backend)
    checks["memory"] = check_memory(None if backend is None else backend.device().memory_bytes)
    checks["disk"] = check_disk(cache_folder())
    checks["models"] = check_cache(cache_folder(), "converted models", "MLXTUNE_CACHE")
    checks["hub cache"] = check_cache(_hub_cache(), "the Hub's cache", "HF_HOME")
    checks["hub"] = hub.result() or Check(
        MISSING, f"{_endpoint()} gave no answer within {HUB_SECONDS:.0f} s", _without_hub(), facts={"url": _endpoint()}
    )
    return Diagnosis(checks)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Python is new enough."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    facts = {"version": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    if version < PYTHON:
        return Check(MISSING, found, f"install Python {PYTHON[0]}.{PYTHON[1]} or newer", True, facts)
    return Check(OK, found, None, True, facts)


def check_library(name: str) -> Check:
    """A library that training needs is installed."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        wanted = "'mlx[cpu]'" if name == "mlx" and sys.platform == "linux" else name
        return Check(MISSING, "not installed", f"pip install {wanted}", True)
    return Check(OK, version, None, True, {"version": version})


def check_gpu(kind: str, description: str) -> Check:
    """There is a GPU, and the backend uses it."""
    nvidia = _nvidia()
    facts = {"used": kind == "gpu", "nvidia": nvidia}
    if kind == "gpu":
        return Check(OK, description, facts=facts)
    if nvidia:
        return Check(MISSING, f"{nvidia}, not used: MLX computes on the CPU", "pip install 'mlx[cuda]'", facts=facts)
    step = f"small models train on the CPU; {PLAN}"
    return Check(SLOW, "none: the CPU computes", step, facts=facts)


def check_blas(backend: Backend) -> Check:
    """Matrix products are as fast as this machine allows."""
    speed = backend.matmul_speed()
    found = f"{speed.blas}: {speed.gflops:,.0f} GFLOP/s (float32 matrix product)"
    facts = {"blas": speed.blas, "gflops": round(speed.gflops, 1)}
    if speed.remedy:
        return Check(SLOW, found, speed.remedy, facts=facts)
    if speed.gflops < SLOW_GFLOPS:
        return Check(SLOW, found, "is another program keeping the processor busy? run doctor again", facts=facts)
    return Check(OK, found, facts=facts)


def check_memory(for_backend: int | None = None) -> Check:
    """Memory is enough for a small model.

    Args:
        for_backend: Bytes that the backend may use; None if unknown.
    """
    total, free = memory_bytes()
    usable = min(total, for_backend or total)
    facts = {"total_gb": _gb(total), "usable_gb": _gb(usable), "free_gb": None if free is None else _gb(free)}
    found = f"{usable / 1e9:.1f} GB for the device, " if usable < total else ""
    found += f"{total / 1e9:.1f} GB in this machine" + ("" if free is None else f", {free / 1e9:.1f} GB of these free")
    if usable < LEAST_MEMORY:
        return Check(MISSING, found, f"training takes {LEAST_MEMORY / 1e9:.0f} GB or more", True, facts)
    if free is not None and free < LEAST_MEMORY:
        return Check(SLOW, found, f"close other programs before training; {PLAN}", True, facts)
    if usable < AMPLE_MEMORY:
        return Check(SLOW, found, f"enough for models of some 100M parameters; {PLAN}", True, facts)
    return Check(OK, found, None, True, facts)


def check_disk(folder: Path) -> Check:
    """There is room for a model where models are kept, and we may write there."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    facts: dict[str, Any] = {"folder": str(folder)}
    if not (place.is_dir() and os.access(place, os.W_OK)):
        step = "set MLXTUNE_CACHE to a folder you may write into; converted models are kept there"
        return Check(MISSING, f"{place} cannot be written", step, facts=facts)
    free = shutil.disk_usage(place).free
    facts["free_gb"] = _gb(free)
    found = f"{free / 1e9:,.1f} GB free in {place}"
    if free < LEAST_DISK:
        return Check(MISSING, found, "make room, or set MLXTUNE_CACHE to a folder on another disk", True, facts)
    if free < AMPLE_DISK:
        return Check(SLOW, found, "room for small models only; Qwen3-0.6B takes 1.5 GB", True, facts)
    return Check(OK, found, None, True, facts)


def check_cache(folder: Path, what: str, variable: str) -> Check:
    """How much a cache holds, and where it is."""
    size, whole = folder_bytes(folder, CACHE_SECONDS)
    facts = {"folder": str(folder), "gb": _gb(size), "counted_whole": whole}
    found = f"{what}: {'' if whole else 'at least '}{size / 1e9:.1f} GB in {folder}"
    return Check(OK, found if size else f"{what}: nothing yet in {folder} ({variable} moves it)", facts=facts)


def check_hub() -> Check:
    """The Hub answers, as downloads will ask it: the same client, endpoint and offline mode."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    url = constants.ENDPOINT
    facts: dict[str, Any] = {"url": url, "offline": bool(constants.HF_HUB_OFFLINE)}
    if constants.HF_HUB_OFFLINE:
        step = "unset HF_HUB_OFFLINE to download models; cached ones and folders work as they are"
        return Check(MISSING, "offline mode (HF_HUB_OFFLINE)", step, facts=facts)
    start = time.perf_counter()
    try:
        answer = get_session().get(f"{url}/api/models/{PROBE}", timeout=HUB_SECONDS, follow_redirects=True)
    except Exception as error:  # the HTTP library's own kinds, which change with its versions; OSError
        return Check(MISSING, f"{url} cannot be reached: {_first_line(error)}", _without_hub(), facts=facts)
    seconds = time.perf_counter() - start
    facts["seconds"] = round(seconds, 3)
    found = f"{url} answers in {seconds:.1f} s"
    if answer.status_code >= 400:
        found = f"{url} answers {answer.status_code} about {PROBE}"
        return Check(MISSING, found, f"check HF_ENDPOINT and the proxy; {_without_hub()}", facts=facts)
    if seconds > SLOW_HUB_SECONDS:
        return Check(SLOW, found, "downloads may be slow; they resume where they stopped", facts=facts)
    return Check(OK, found, facts=facts)


def memory_bytes() -> tuple[int, int | None]:
    """Bytes of memory that this process may use at most, a container's limit counted, and those free now if known."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free: int | None = None
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or 'max'
        return total, free
    room = max(0, limit - used)
    return min(total, limit), room if free is None else min(free, room)


def folder_bytes(folder: Path, limit_s: float) -> tuple[int, bool]:
    """Bytes of the files below a folder, links not followed; and whether all were counted within the time."""
    deadline = time.monotonic() + limit_s
    total = 0
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # not there, not ours, or deleted meanwhile
            continue
        if time.monotonic() > deadline:
            return total, not folders
    return total, True


class _InBackground:
    """A check that may hang, run beside the others; the program ends without waiting for it."""

    def __init__(self, check: Any, limit_s: float) -> None:
        self._found: list[Check] = []
        self._deadline = time.monotonic() + limit_s
        self._thread = threading.Thread(target=lambda: self._found.append(check()), daemon=True)
        self._thread.start()

    def result(self) -> Check | None:
        """What it found, None if it took too long."""
        self._thread.join(max(0.0, self._deadline - time.monotonic()))
        return self._found[0] if self._found else None


def _nvidia() -> str | None:
    """The first NVIDIA GPU that the driver knows, with its memory."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=NVIDIA_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _without_hub() -> str:
    return "name a model folder or .gguf file that is here (model.path), or set HF_ENDPOINT to a mirror"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _gb(n_bytes: float) -> float:
    return round(n_bytes / 1e9, 3)
