"""`mlxtune doctor`: what stands in the way is named with its next step, nothing hangs, and the exit code says if training can."""
# ruff: noqa: F811 - a fixture imported by its name

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlxtune import doctor
from mlxtune.backends import choose
from mlxtune.backends.base import Device, MatmulSpeed
from mlxtune.doctor import MISSING, OK, SLOW, Check, Diagnosis, examine
from tests.test_cli import Run, mlxtune  # noqa: F401 - a fixture

NAMES = [
    "python", "mlxtune", "mlx", "mlx-lm", "transformers", "numpy", "device", "gpu", "blas", "memory", "disk", "models",
    "hub cache", "hub",
]  # fmt: skip


class FakeBackend:
    """A machine with the given arithmetic."""

    name = "fake"

    def __init__(self, kind: str = "cpu", gflops: float = 100.0, remedy: str | None = None) -> None:
        self._device = Device(kind, f"the {kind}", 16 * 10**9)
        self._speed = MatmulSpeed(gflops, "some BLAS", remedy)

    def device(self) -> Device:
        return self._device

    def matmul_speed(self) -> MatmulSpeed:
        return self._speed


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
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "mlx" else real(name, *rest))
    done = mlxtune("doctor", "--json")
    found = json.loads(done.out)
    assert done.code == 1 and not found["can_train"] and "Traceback" not in done.err
    assert found["checks"]["device"]["status"] == MISSING and "pip install" in found["checks"]["device"]["next"]
    assert found["checks"]["disk"]["status"] == OK


def test_a_missing_library_is_named_with_its_install_line() -> None:
    check = doctor.check_library("no-such-library")
    assert (check.status, check.needed) == (MISSING, True) and check.next == "pip install no-such-library"
    assert not Diagnosis({"x": check}).can_train


def test_what_is_missing_but_not_needed_does_not_stop_training() -> None:
    assert Diagnosis({"hub": Check(MISSING, "offline"), "blas": Check(SLOW, "slow", needed=True)}).can_train


def test_the_reference_blas_is_slow_and_its_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.backends.mlx import backend as mlx_backend

    monkeypatch.setattr(mlx_backend, "prepare", lambda: None)
    monkeypatch.setattr(mlx_backend, "MATMUL_SIZES", {"cpu": 64, "gpu": 64})
    monkeypatch.setattr(mlx_backend.platform, "system", lambda: "Linux")
    machine = mlx_backend.MlxBackend()
    monkeypatch.setattr(type(machine), "device", lambda self: Device("cpu", "the CPU", 1))
    check = doctor.check_blas(machine)
    assert check.status == SLOW and "reference BLAS" in check.found
    assert check.next is not None and "apt install libopenblas0-pthread" in check.next


def test_a_rate_is_measured_and_a_low_one_is_slow() -> None:
    assert doctor.check_blas(FakeBackend(gflops=100)).status == OK  # type: ignore[arg-type]
    assert doctor.check_blas(FakeBackend(gflops=2)).status == SLOW  # type: ignore[arg-type]
    assert choose().backend.matmul_speed().gflops > 0.1


def test_a_gpu_that_is_there_and_not_used_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_nvidia", lambda: "NVIDIA H100, 81559 MiB")
    check = doctor.check_gpu("cpu", "the CPU")
    assert check.status == MISSING and check.next == "pip install 'mlx[cuda]'" and not check.needed
    assert doctor.check_gpu("gpu", "the GPU").status == OK
    monkeypatch.setattr(doctor, "_nvidia", lambda: None)
    assert doctor.check_gpu("cpu", "the CPU").status == SLOW


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
    usage = doctor.shutil.disk_usage(tmp_path)
    for free, status in ((10e9, OK), (2e9, SLOW), (1e8, MISSING)):
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: usage._replace(free=int(free)))
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
    diagnosis = examine(FakeBackend())  # type: ignore[arg-type]
    assert time.perf_counter() - start < 2.5
    assert diagnosis.checks["hub"].status == MISSING and "no answer" in diagnosis.checks["hub"].found
