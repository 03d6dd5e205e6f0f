"""What this machine can run, and what slows it: checks that each say what is there and the next step. Prints nothing.

    diagnosis = examine(choose, cuda_gpus)
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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.backends import INSTALL, INTEL_MAC, LIBRARIES, NotInstalled, is_intel_mac
from mlxtune.backends.base import Backend, ChosenBackend, Device, Gpus
from mlxtune.errors import BackendError
from mlxtune.models.conversions import count as count_conversions
from mlxtune.models.conversions import models_cache
from mlxtune.tested import newer_than_tested, versions_tested
from mlxtune.version import __version__

OK, SLOW, MISSING = "ok", "slow", "missing"
PYTHON = (3, 10)
HUB_SECONDS = 4.0  # a name server may take longer than any limit of the HTTP library
SLOW_HUB_SECONDS = 2.0
CACHE_SECONDS = 1.0  # for adding up one cache, which may hold a million files
NVIDIA_SECONDS = 3.0
SLOW_GFLOPS = 20.0  # one core with any tuned BLAS exceeds it
# A 135M-parameter model trains in 1.1 GB (batch 8, float32), 0.6B parameters in about 5 GB.
LEAST_MEMORY, AMPLE_MEMORY = 2e9, 6e9
LEAST_DISK, AMPLE_DISK = 1e9, 5e9
_ALWAYS_NEEDED = ("transformers", "numpy", "llguidance", "gguf", "huggingface-hub")
_INSTALL_MLX = "pip install 'mlx[cpu]'; on a Mac mlx, with an NVIDIA GPU 'mlx[cuda]'"
_INSTALL_CUDA_TORCH = "pip install --force-reinstall torch, the build with CUDA"
_INSTALL_CPU_TORCH = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
_NO_ANSWER = f"the NVIDIA driver gives no answer within {NVIDIA_SECONDS:.0f} s (nvidia-smi)"
_RESTART_DRIVER = "restart the driver or the machine, or use --device cpu"
_UPDATE_DRIVER = "update the NVIDIA driver, or take a torch built for it: https://pytorch.org/get-started/locally"
_AS_IT_COMES = "leave out --device and --backend, and mlxtune chooses what this machine has"
PROBE = "Qwen/Qwen3-0.6B"  # the Hub is asked about it, as a download would
PLAN = "`mlxtune lora RECIPE --plan` estimates the memory that a training takes"


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
class Examination:
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


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says: its first GPU with its memory, None without one; and whether it gave no answer."""

    gpu: str | None = None
    hangs: bool = False


def examine(
    choose: Callable[[], ChosenBackend], cuda_gpus: Callable[[], Gpus | None] = lambda: None, on_cpu: bool = False
) -> Examination:
    """Look at everything.

    Args:
        choose: Takes the backend.
        cuda_gpus: The GPUs that torch sees; None where torch is not installed.
        on_cpu: --device cpu was given, so that a broken GPU driver does not matter.
    """
    hub = _InBackground(check_hub, HUB_SECONDS)
    driver = ask_driver()  # a library that asks a driver that hangs would hang, and us with it
    choice = _choose(choose, driver, on_cpu)
    backend = choice.backend if isinstance(choice, ChosenBackend) else None
    device = backend.device() if backend else None
    checks = {
        "python": check_python(),
        "mlxtune": Check(OK, __version__, facts={"version": __version__}),
        **check_libraries(backend.name if backend else None, on_gpu=device is not None and device.kind == "gpu"),
    }
    if isinstance(choice, Check):
        checks["device"] = choice
    else:
        device = choice.backend.device()
        facts = {"kind": device.kind, "backend": choice.backend.name, "reason": choice.reason}
        checks["device"] = Check(OK, choice.reason, facts=facts)
        checks["gpu"] = check_gpu(device, choice.backend.name, driver, on_cpu)
    checks["cuda"] = check_cuda(cuda_gpus, driver)
    if backend is not None:
        checks["blas"] = check_blas(backend)
    checks["memory"] = check_memory(device.memory_bytes if device else None)
    checks["disk"] = check_disk(models_cache())
    checks["models"] = check_conversions(models_cache())
    checks["hub cache"] = check_cache(_hub_cache(), "the Hub's cache", "HF_HOME")
    checks["hub"] = hub.result() or Check(
        MISSING, f"{_endpoint()} gave no answer within {HUB_SECONDS:.0f} s", _without_hub(), facts={"url": _endpoint()}
    )
    return Examination(checks)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Python is new enough."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    facts = {"version": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    if version < PYTHON:
        return Check(MISSING, found, f"install Python {PYTHON[0]}.{PYTHON[1]} or newer", True, facts)
    return Check(OK, found, None, True, facts)


def check_libraries(computes: str | None, on_gpu: bool) -> dict[str, Check]:
    """The libraries of both backends: those of the one that computes are needed, those of the other may be absent.

    Args:
        computes: The backend taken; None if none could be.
        on_gpu: It computes on a GPU.
    """
    needed = {*LIBRARIES.get(computes or "", {}).values(), *_ALWAYS_NEEDED}
    # On a CPU torch is taken where it is installed; where torch or a GPU computes, the other backend has no part.
    useful = computes is None or (computes == "mlx" and not on_gpu)
    names = dict.fromkeys([*LIBRARIES["mlx"].values(), *LIBRARIES["torch"].values(), *_ALWAYS_NEEDED])
    return {name: check_library(name, name in needed, useful) for name in names}


def check_library(name: str, needed: bool = True, useful: bool = True) -> Check:
    """A library is installed; one that is neither needed nor useful may be absent. Beside it, the version that was tested."""
    tested = versions_tested().get(name)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name in LIBRARIES["mlx"].values() and is_intel_mac():
            return Check(OK, "not installed: it does not exist for Intel Macs", facts={"tested": tested})
        if not (needed or useful):
            return Check(OK, "not installed, and not needed: the other backend is used", facts={"tested": tested})
        return Check(MISSING, "not installed", _install(name), needed, {"tested": tested})
    facts = {"version": version, "tested": tested}
    if newer := newer_than_tested(name):
        found = f"{version}, newer than the tested {newer.tested}"
        return Check(OK, found, f"if it causes an error: {newer.remedy}", needed, facts)
    return Check(OK, version if tested is None else f"{version} (tested: {tested})", None, needed, facts)


def check_gpu(device: Device, computes: str, driver: Driver, on_cpu: bool = False) -> Check:
    """There is a GPU, and the backend uses it, unless the CPU was asked for."""
    facts = {"used": device.kind == "gpu", "nvidia": driver.gpu}
    if device.kind == "gpu":
        return Check(OK, device.description, facts=facts)
    if driver.gpu and on_cpu:
        return Check(OK, f"{driver.gpu}, not used, because --device cpu was given", facts=facts)
    if driver.gpu:
        step = _INSTALL_CUDA_TORCH if computes == "torch" else "pip install 'mlx[cuda]'"
        return Check(MISSING, f"{driver.gpu}, not used: {computes} computes on the CPU", step, facts=facts)
    step = f"small models train on the CPU; {PLAN}"
    return Check(SLOW, "none: the CPU is used", step, facts=facts)


def check_cuda(cuda_gpus: Callable[[], Gpus | None], driver: Driver) -> Check:
    """What torch sees of NVIDIA's GPUs, and why nothing where it sees nothing."""
    if driver.hangs:
        return Check(MISSING, _NO_ANSWER, _RESTART_DRIVER, facts={"available": False, "why": _NO_ANSWER})
    if sys.platform == "darwin":  # importing torch to hear this takes seconds
        return Check(OK, "none on a Mac, whose GPU MLX uses", facts={"available": False, "why": "a Mac has none"})
    gpus = cuda_gpus()
    if gpus is None:
        return Check(OK, "torch is not installed", facts={"available": False, "why": "torch is not installed"})
    if gpus.found:
        seen = [
            f"{gpu.name}, {gpu.memory_bytes / 1e9:.1f} GB, {'bfloat16' if gpu.bfloat16 else 'no bfloat16'}"
            for gpu in gpus.found
        ]
        facts: dict[str, Any] = {
            "available": True,
            "devices": [
                {"name": gpu.name, "memory_gb": _gb(gpu.memory_bytes), "bfloat16": gpu.bfloat16} for gpu in gpus.found
            ],
        }
        if all(gpu.bfloat16 for gpu in gpus.found):
            return Check(OK, "; ".join(seen), facts=facts)
        step = "GPUs of compute capability 8.0 (Ampere) or newer compute in bfloat16, which is faster and takes less memory"
        return Check(SLOW, "; ".join(seen), step, facts=facts)
    facts = {"available": False, "why": gpus.why_none}
    if driver.gpu is None and "too old" not in str(gpus.why_none):
        return Check(OK, f"none: {gpus.why_none}", facts=facts)
    step = _INSTALL_CUDA_TORCH if "built without CUDA" in str(gpus.why_none) else _UPDATE_DRIVER
    return Check(MISSING, f"{driver.gpu or 'a driver'}, not seen: {gpus.why_none}", step, facts=facts)


def check_blas(backend: Backend) -> Check:
    """Matrix products are as fast as this machine allows, and float32 ones exact unless the user wants otherwise."""
    speed = backend.matmul_speed()
    found = f"{speed.blas}: {speed.gflops:,.0f} GFLOP/s (float32 matrix product)"
    facts = {"blas": speed.blas, "gflops": round(speed.gflops, 1)}
    device = backend.device()
    facts["tf32"] = device.tf32
    if device.rounding:
        found += f"; {device.rounding}"
    if speed.remedy:
        return Check(SLOW, found, speed.remedy, facts=facts)
    if speed.gflops < SLOW_GFLOPS:
        return Check(SLOW, found, "is another program keeping the processor busy? run doctor again", facts=facts)
    step = (
        f"unset {device.tf32.partition('=')[0]} for full float32 precision"
        if device.tf32 and device.kind == "gpu"
        else None
    )
    return Check(OK, found, step, facts=facts)


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


def check_conversions(folder: Path) -> Check:
    """How many converted models are kept, how much they take, and how to be rid of them."""
    n_kept = count_conversions(folder)
    check = check_cache(folder, "converted models", "MLXTUNE_CACHE")
    found, step = check.found, None
    if n_kept:
        found = f"{n_kept} {found if n_kept > 1 else found.replace('models', 'model', 1)}"
        step = "`mlxtune runs clean --cache` lists them, says when each was last used, and removes them"
    return Check(check.status, found, step, facts={**check.facts, "conversions": n_kept})


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


def ask_driver() -> Driver:
    """The first NVIDIA GPU that the driver knows, with its memory."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Driver()
    try:
        asked = subprocess.Popen(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        answer, _ = asked.communicate(timeout=NVIDIA_SECONDS)
    except OSError:
        return Driver()
    except subprocess.TimeoutExpired:
        asked.kill()  # and no wait for it: what hangs inside a driver cannot be ended
        return Driver(hangs=True)
    lines = answer.strip().splitlines()
    return Driver(lines[0].strip() if asked.returncode == 0 and lines else None)


def _choose(choose: Callable[[], ChosenBackend], driver: Driver, on_cpu: bool) -> ChosenBackend | Check:
    """The choice, or the check that says why there is none."""
    if driver.hangs and not on_cpu:
        return Check(MISSING, _NO_ANSWER, _RESTART_DRIVER, True)
    try:
        return choose()
    except NotInstalled as error:
        step = INTEL_MAC if is_intel_mac() else f"{_INSTALL_MLX}, or {_install('torch')}"
        return Check(MISSING, str(error), step, True)
    except BackendError as error:
        return Check(MISSING, str(error), _AS_IT_COMES, True)


def _install(name: str) -> str:
    if name in LIBRARIES["torch"].values() and is_intel_mac():
        return INTEL_MAC
    if name == "mlx" and sys.platform == "linux":
        return "pip install 'mlx[cpu]'"
    if name == "torch" and sys.platform == "linux":
        return f"{INSTALL['torch']}; without an NVIDIA GPU first {_INSTALL_CPU_TORCH}, some GB less"
    return f"pip install {name}"


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
