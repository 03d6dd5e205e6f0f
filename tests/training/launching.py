"""Starts tests' processes with the real launchers, waits for them, and compares what they trained with what one process did; not a test."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mlxtune.backends.adapter import read_adapter
from mlxtune.runs.events import read_events
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import MODEL_WEIGHTS
from tests.conftest import ROOT

TIMEOUT_S = 240  # of a launch on a machine that is busy with ten others; alone it takes ten seconds
END_S = 30  # within which the rest ends where one process was killed
PIPE_BYTES = 1 << 18  # more than a pipe holds


@dataclass(frozen=True)
class Launch:
    """Processes that a launcher has started, and what they made.

    Attributes:
        folder: With the runs.
        process: The launcher.
        ranks: What each process saw.
    """

    folder: Path
    process: subprocess.Popen[str]
    ranks: list[dict[str, Any]]

    def run(self, name: str) -> RunFolder:
        """One of the runs."""
        return RunFolder(self.folder / name)


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nothing listens on now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        if first + count < 65536:
            return first


def launched(launcher: str, size: int, *command: str) -> subprocess.Popen[str]:
    """Python with these arguments, started so many times by a launcher.

    Skips the test where the launcher is not there.
    """
    pytest.importorskip("torch" if launcher == "torchrun" else "mlx")
    script = Path(sys.executable).with_name(launcher)
    if not script.exists():
        pytest.skip(f"{launcher} is not installed beside Python")
    words = {
        "torchrun": [str(script), "--standalone", "--nproc-per-node", str(size), *command],
        "mlx.launch": [str(script), "-n", str(size), "--backend", "ring", "--starting-port", str(free_ports(size)),
                       "--", sys.executable, *command],
    }[launcher]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("MLXTUNE_BACKEND", None)
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None
    threading.Thread(target=_fill, args=(process.stdin,), daemon=True).start()
    return process


def _fill(stdin: IO[str]) -> None:
    """Fill the pipes to processes that read nothing from them, and leave this one open.

    mlx.launch keeps a core busy by asking whether they can be written to, and whether its own stdin is at its end.
    """
    with contextlib.suppress(OSError, ValueError):  # it has ended
        os.write(stdin.fileno(), bytes(PIPE_BYTES))


def launcher_breaks() -> bool:
    """Whether mlx.launch itself breaks when a process of its is killed, so that what the others say is lost, as with MLX 0.32.0."""
    return importlib.metadata.version("mlx") == "0.32.0"


def ended(process: subprocess.Popen[str]) -> str:
    """What a launch printed, once it has ended; it is killed where it does not."""
    assert process.stdout is not None
    limit = threading.Timer(TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    output = process.stdout.read()
    process.wait()
    if not limit.is_alive():
        pytest.fail(f"the launch hangs: {output}")
    limit.cancel()
    return output


def wait_for(process: subprocess.Popen[str], is_there: Callable[[], object]) -> None:
    """Until something is there; fails where the launch ends before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not is_there():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(process.communicate()[0])
        time.sleep(0.1)


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """Ids of the processes that a launcher has started, by rank; read as on Linux. mlx.launch starts them in any order."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True, check=True
    )
    found = {}
    for process in map(int, listed.stdout.split()):
        variables = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
        environment = dict(variable.split("=", 1) for variable in variables if variable)
        found[int(environment.get("MLX_RANK") or environment["RANK"])] = process
    return [process for _, process in sorted(found.items())]


def trained_values(run: RunFolder) -> Mapping[str, NDArray[np.float32]]:
    """What a run has trained, by name: its adapter, or its model's weights."""
    return load_file(run.model / MODEL_WEIGHTS) if run.is_full else read_adapter(run.adapter).weights


def require_same_numbers(one: RunFolder, other: RunFolder, steps: range) -> None:
    """Compare what two trainings computed, to rounding."""
    pairs = [
        [event for event in read_events(run.metrics_file, "step") if event["step"] in steps] for run in (one, other)
    ]
    assert len(pairs[0]) == len(pairs[1]) == len(steps)
    for mine, theirs in zip(*pairs, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-6), mine["step"]
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-5)
        assert (theirs["tokens"], theirs["epoch"]) == (mine["tokens"], mine["epoch"])
        assert {name: one["tokens"] for name, one in theirs["segments"].items()} == {
            name: one["tokens"] for name, one in mine["segments"].items()
        }
    first, second = (trained_values(run) for run in (one, other))
    assert first.keys() == second.keys() and first
    for name, weights in first.items():
        np.testing.assert_allclose(second[name], weights, atol=2e-5, err_msg=name)
