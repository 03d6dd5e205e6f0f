"""`mlxtune doctor`: what stands in the way is named with its next step, nothing hangs, and the exit code says if training can."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlxtune import doctor
from mlxtune.backends import choose
from mlxtune.backends.base import ChosenBackend, Device, Gpu, Gpus, MatmulSpeed
from mlxtune.doctor import MISSING, OK, SLOW, Check, Driver, Examination, examine
from mlxtune.errors import BackendError
from mlxtune.tested import versions_tested
from tests.conftest import Run

NAMES = [
    "python", "mlxtune", "mlx", "mlx-lm", "torch", "transformers", "peft", "accelerate", "numpy", "llguidance", "gguf",
    "huggingface-hub", "device", "gpu", "cuda", "blas", "memory", "disk", "models", "hub cache", "hub",
]  # fmt: skip
H100 = Driver("NVIDIA H100, 81559 MiB")


class FakeBackend:
    """A machine with the given arithmetic."""

    def __init__(self, kind: str = "cpu", gflops: float = 100.0, remedy: str | None = None, name: str = "fake") -> None:
        self.name = name
        self._device = Device(kind, f"the {kind}", 16 * 10**9)
        self._speed = MatmulSpeed(gflops, "some BLAS", remedy)

    def device(self) -> Device:
        return self._device

    def matmul_speed(self) -> MatmulSpeed:
        return self._speed


def chosen(**facts: Any) -> ChosenBackend:
    """A machine, taken."""
    return ChosenBackend(FakeBackend(**facts), "fake on the device (there is no other)")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads HF_HUB_OFFLINE when it is imported, which may have been before the tests set it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Points the Hub's client at an address."""
    from huggingface_hub import constants

    def at(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    return at


def serve(code: int, seconds: float = 0.0) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(seconds)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_everything_is_looked_at_in_under_ten_seconds_offline(mlxtune: Run) -> None:
    start = time.perf_counter()
    done = mlxtune("doctor", "--json")
    assert time.perf_counter() - start < 10
    found = json.loads(done.out)
    assert list(found["checks"]) == NAMES
    for name, check in found["checks"].items():
        assert check["status"] in (OK, SLOW, MISSING) and check["found"], name
        assert check["status"] == OK or check["next"], name
    assert found["checks"]["blas"]["facts"]["gflops"] > 0
    assert done.code == (0 if found["can_train"] else 1)


def test_the_table_goes_to_stdout_and_nothing_to_stderr(mlxtune: Run) -> None:
    done = mlxtune("doctor")
    assert done.err == ""
    named = [line.split("  ")[0].strip() for line in done.out.splitlines() if "->" not in line]
    assert named == NAMES
    assert done.code == 0, done.out


def test_without_a_backend_training_is_impossible_and_the_rest_is_still_said(
    mlxtune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = __import__("importlib.util", fromlist=["find_spec"]).find_spec
    absent = ("mlx", "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in absent else real(name, *rest))
    for backend in ("auto", "mlx", "torch"):
        done = mlxtune("doctor", "--json", "--backend", backend)
        found = json.loads(done.out)
        assert done.code == 1 and not found["can_train"] and "Traceback" not in done.err
        assert found["checks"]["device"]["status"] == MISSING and "pip install" in found["checks"]["device"]["next"]
        assert found["checks"]["disk"]["status"] == OK


def test_a_device_that_is_not_there_stops_training_and_is_said_once(mlxtune: Run) -> None:
    done = mlxtune("doctor", "--json", "--backend", "mlx", "--device", "cuda:99")
    device = json.loads(done.out)["checks"]["device"]
    assert done.code == 1 and done.err == ""
    assert device["status"] == MISSING and device["found"].startswith("--device cuda:99: ") and device["next"]


def test_the_backend_that_auto_takes_is_said_with_its_reason(mlxtune: Run) -> None:
    wanted = choose()
    device = json.loads(mlxtune("doctor", "--json", "--backend", "auto").out)["checks"]["device"]
    assert device["found"] == device["facts"]["reason"] == wanted.reason
    assert device["facts"]["backend"] == wanted.backend.name


@pytest.mark.parametrize(
    ("computes", "absent", "can_train"),
    [
        ("torch", "mlx", True),
        ("torch", "mlx-lm", True),
        ("torch", "torch", False),
        ("torch", "peft", False),
        ("torch", "accelerate", False),
        ("torch", "transformers", False),
        ("mlx", "mlx", False),
        ("mlx", "mlx-lm", False),
        ("mlx", "torch", True),
        ("mlx", "peft", True),
        ("mlx", "transformers", False),
        ("mlx", "numpy", False),
    ],
)
def test_only_the_libraries_of_the_backend_that_computes_are_needed(
    computes: str, absent: str, can_train: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.metadata

    def version(name: str) -> str:
        if name == absent:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    diagnosis = examine(lambda: chosen(name=computes))
    assert diagnosis.can_train is can_train
    assert diagnosis.checks[absent].found.startswith("not installed")


def test_the_other_backend_may_be_absent_and_torch_is_missed_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def version(name: str) -> str:
        if name in ("mlx", "torch"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(sys, "platform", "linux")
    assert doctor.check_libraries("torch", on_gpu=False)["mlx"].status == OK
    assert doctor.check_libraries("mlx", on_gpu=True)["torch"].status == OK
    torch = doctor.check_libraries("mlx", on_gpu=False)["torch"]
    assert torch.status == MISSING and not torch.needed and torch.next is not None
    assert "mlxtune[torch]" in torch.next and "https://download.pytorch.org/whl/cpu" in torch.next


def test_a_missing_library_is_named_with_its_install_line() -> None:
    check = doctor.check_library("no-such-library")
    assert (check.status, check.needed) == (MISSING, True) and check.next == "pip install no-such-library"
    assert not Examination({"x": check}).can_train


def test_what_is_missing_but_not_needed_does_not_stop_training() -> None:
    assert Examination({"hub": Check(MISSING, "offline"), "blas": Check(SLOW, "slow", needed=True)}).can_train


def test_the_reference_blas_is_slow_and_its_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.backends.mlx import backend as mlx_backend

    monkeypatch.setattr(mlx_backend, "prepare", lambda: None)
    monkeypatch.setattr(mlx_backend, "MATMUL_SIZES", {"cpu": 64, "gpu": 64})
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    machine = mlx_backend.MlxBackend()
    monkeypatch.setattr(type(machine), "device", lambda self: Device("cpu", "the CPU", 1))
    check = doctor.check_blas(machine)
    assert check.status == SLOW and "reference BLAS" in check.found
    assert check.next is not None and "apt install libopenblas0-pthread" in check.next


def test_a_rate_is_measured_and_a_low_one_is_slow() -> None:
    assert doctor.check_blas(FakeBackend(gflops=100)).status == OK  # type: ignore[arg-type]
    assert doctor.check_blas(FakeBackend(gflops=2)).status == SLOW  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mlx", "torch"])
def test_every_backend_measures_its_rate(name: str) -> None:
    pytest.importorskip(name)
    assert choose(name, "cpu").backend.matmul_speed().gflops > 0.1


def test_a_gpu_that_is_there_and_not_used_is_missing() -> None:
    cpu, gpu = Device("cpu", "the CPU", 1), Device("gpu", "the GPU", 1)
    check = doctor.check_gpu(cpu, "mlx", H100)
    assert check.status == MISSING and check.next == "pip install 'mlx[cuda]'" and not check.needed
    check = doctor.check_gpu(cpu, "torch", H100)
    assert check.status == MISSING and "torch, the build with CUDA" in str(check.next) and not check.needed
    assert doctor.check_gpu(cpu, "torch", H100, on_cpu=True).status == OK  # it was asked to
    assert doctor.check_gpu(gpu, "mlx", H100).status == OK
    assert doctor.check_gpu(cpu, "mlx", Driver()).status == SLOW


AMPERE, TURING = Gpu("NVIDIA A100", 80 * 10**9, True), Gpu("Tesla T4", 16 * 10**9, False)
OLD_DRIVER = "torch 2.13.0: The NVIDIA driver on your system is too old (found version 11040)."


@pytest.mark.parametrize(
    ("gpus", "driver", "status", "said"),
    [
        (Gpus((AMPERE,)), H100, OK, ["NVIDIA A100, 80.0 GB, bfloat16"]),
        (Gpus((AMPERE, TURING)), H100, SLOW, ["A100", "Tesla T4, 16.0 GB, no bfloat16", "capability 8.0"]),
        (Gpus((), "torch 2.13.0+cpu is built without CUDA"), Driver(), OK, ["none", "built without CUDA"]),
        (Gpus((), "torch 2.13.0+cpu is built without CUDA"), H100, MISSING, ["H100", "built without CUDA", "pip install"]),
        (Gpus((), OLD_DRIVER), H100, MISSING, ["too old", "update the NVIDIA driver"]),
        (Gpus((), OLD_DRIVER), Driver(), MISSING, ["a driver", "too old", "update the NVIDIA driver"]),
        (Gpus((), "torch 2.13.0: Found no NVIDIA driver"), Driver(), OK, ["Found no NVIDIA driver"]),
        (None, Driver(), OK, ["torch is not installed"]),
    ],
    ids=["present", "no bfloat16", "CPU build", "CPU build beside a GPU", "old driver", "old driver alone", "no driver", "no torch"],
)  # fmt: skip
def test_cuda_is_there_or_it_is_said_why_not(
    gpus: Gpus | None, driver: Driver, status: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    check = doctor.check_cuda(lambda: gpus, driver)
    assert check.status == status and not check.needed
    assert all(words in f"{check.found} {check.next}" for words in said), check
    assert check.facts["available"] is bool(gpus and gpus.found)
    if gpus and gpus.found:
        assert [gpu["bfloat16"] for gpu in check.facts["devices"]] == [gpu.bfloat16 for gpu in gpus.found]
    else:
        assert check.facts["why"]


def test_torch_is_not_imported_on_a_mac_to_say_that_it_has_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> Gpus:
        raise AssertionError("torch was imported")

    monkeypatch.setattr(sys, "platform", "darwin")
    assert doctor.check_cuda(asked, Driver()).status == OK


class FakeCuda:
    """torch.cuda of a machine with the GPUs given as (name, bytes, compute capability), or that fails with an error."""

    def __init__(self, *gpus: tuple[str, int, int], error: Exception | None = None) -> None:
        self._gpus, self._error = gpus, error

    def init(self) -> None:
        if self._error:
            raise self._error

    def device_count(self) -> int:
        return len(self._gpus)

    def get_device_properties(self, index: int) -> Any:
        name, total_memory, major = self._gpus[index]
        return type("Properties", (), {"name": name, "total_memory": total_memory, "major": major})


def gpus_of(monkeypatch: pytest.MonkeyPatch, built_with: str | None, cuda: FakeCuda) -> Gpus:
    torch = pytest.importorskip("torch")
    from mlxtune.backends.torch import gpus

    monkeypatch.setattr(torch.version, "cuda", built_with)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch, "cuda", cuda)
    return gpus.find_gpus()


def test_every_cuda_device_is_named_with_its_memory_and_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(("NVIDIA A100", 80 * 10**9, 8), ("Tesla T4", 16 * 10**9, 7))
    assert gpus_of(monkeypatch, "12.8", cuda) == Gpus((AMPERE, TURING))


@pytest.mark.parametrize(
    ("built_with", "cuda", "why"),
    [
        (None, FakeCuda(error=AssertionError("never asked")), "is built without CUDA"),
        ("12.8", FakeCuda(error=RuntimeError("Found no NVIDIA driver on your system.\nMore")), "Found no NVIDIA driver"),
        ("12.8", FakeCuda(error=RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")), "too old"),
        ("12.8", FakeCuda(error=RuntimeError("No CUDA GPUs are available")), "No CUDA GPUs are available"),
        ("12.8", FakeCuda(), "sees no CUDA device"),
    ],
    ids=["CPU build", "no driver", "old driver", "hidden", "none"],
)  # fmt: skip
def test_why_torch_sees_no_gpu_is_one_line(
    built_with: str | None, cuda: FakeCuda, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gpus_of(monkeypatch, built_with, cuda)
    assert found.found == () and found.why_none is not None
    assert why in found.why_none and found.why_none.startswith("torch 2") and "\n" not in found.why_none


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The driver's program, faked."""
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_the_driver_is_asked_for_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path / "bin", monkeypatch, "echo 'NVIDIA H100, 81559 MiB'; echo 'NVIDIA T4, 15360 MiB'")
    assert doctor.ask_driver() == H100
    nvidia_smi(tmp_path / "bin", monkeypatch, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert doctor.ask_driver() == Driver()


def test_a_driver_that_hangs_is_said_and_no_library_asks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path / "bin", monkeypatch, "exec sleep 20")
    monkeypatch.setattr(doctor, "NVIDIA_SECONDS", 0.2)

    def asked() -> Any:
        raise AssertionError("a library asked the driver")

    start = time.perf_counter()
    diagnosis = examine(asked, asked)
    assert time.perf_counter() - start < 5
    assert not diagnosis.can_train
    for name in ("device", "cuda"):
        assert diagnosis.checks[name].status == MISSING and "gives no answer" in diagnosis.checks[name].found
    on_cpu = examine(chosen, asked, on_cpu=True)  # which needs no driver
    assert on_cpu.checks["device"].status == OK and on_cpu.checks["cuda"].status == MISSING


def test_a_backend_that_fails_is_a_check_like_any_other() -> None:
    def fails() -> ChosenBackend:
        raise BackendError("--device cuda: there is none; use --device cpu")

    diagnosis = examine(fails)
    assert not diagnosis.can_train and "--device cuda: there is none" in diagnosis.checks["device"].found
    assert "gpu" not in diagnosis.checks and diagnosis.checks["disk"].found


@pytest.mark.parametrize(
    ("total", "free", "status"), [(16e9, 12e9, OK), (16e9, 1e9, SLOW), (4e9, 3e9, SLOW), (1e9, 9e8, MISSING)]
)
def test_memory_is_judged_by_what_training_takes(
    total: float, free: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (int(total), int(free)))
    assert doctor.check_memory().status == status
    assert doctor.check_memory(10**9).status == MISSING


def test_disk_is_judged_where_models_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    for free, status in ((10e9, OK), (2e9, SLOW), (1e8, MISSING)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
        assert doctor.check_disk(tmp_path / "not" / "there" / "yet").status == status
    (tmp_path / "file").write_text("")
    check = doctor.check_disk(tmp_path / "file" / "models")
    assert check.status == MISSING and not check.needed and "MLXTUNE_CACHE" in str(check.next)


def test_a_cache_is_counted_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "snapshot").symlink_to(tmp_path / "blobs")
    assert doctor.folder_bytes(tmp_path, 5.0) == (1000, True)
    assert doctor.folder_bytes(tmp_path / "absent", 5.0) == (0, True)
    assert doctor.folder_bytes(tmp_path, -1.0)[1] is False


def test_offline_mode_is_said_and_no_network_is_asked() -> None:
    check = doctor.check_hub()  # as all tests run
    assert check.status == MISSING and not check.needed and "HF_HUB_OFFLINE" in check.found


def test_the_hub_that_hf_endpoint_names_is_asked(hub: Any) -> None:
    server = serve(200)
    hub(f"http://127.0.0.1:{server.server_port}")
    check = doctor.check_hub()
    assert check.status == OK and str(server.server_port) in check.found
    server.shutdown()


def test_a_hub_that_refuses_or_is_not_there_is_missing_with_a_way_round(hub: Any) -> None:
    server = serve(503)
    hub(f"http://127.0.0.1:{server.server_port}")
    check = doctor.check_hub()
    assert check.status == MISSING and "503" in check.found
    server.shutdown()
    server.server_close()
    check = doctor.check_hub()
    assert check.status == MISSING and "cannot be reached" in check.found and "model folder" in str(check.next)


def test_a_hub_that_never_answers_ends_in_time(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "check_hub", lambda: time.sleep(3))
    start = time.perf_counter()
    diagnosis = examine(chosen)
    assert time.perf_counter() - start < 2.5
    assert diagnosis.checks["hub"].status == MISSING and "no answer" in diagnosis.checks["hub"].found


# Versions --------------------------------------------------------------------------------------------------------


def test_a_librarys_version_stands_beside_the_tested_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tested = versions_tested()["transformers"]
    monkeypatch.setattr("importlib.metadata.version", lambda name: tested)
    same = doctor.check_library("transformers")
    assert (same.status, same.found, same.next) == (OK, f"{tested} (tested: {tested})", None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.1")
    newer = doctor.check_library("transformers")
    assert newer.found == f"99.1, newer than the tested {tested}"
    assert newer.next == f"if it causes an error: pip install 'transformers=={tested}'"
    assert newer.facts == {"version": "99.1", "tested": tested}


def test_on_an_intel_mac_doctor_says_why_there_is_no_mlx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.version", _not_installed)
    checks = examine(choose).checks
    assert (checks["mlx"].status, checks["mlx"].found) == (OK, "not installed: it does not exist for Intel Macs")
    assert checks["device"].status == MISSING
    assert "pip's last is 2.2.2" in (checks["device"].next or "")
    assert "pip install mlx" not in (checks["device"].next or "")


def _not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)
