"""mlx-lm's own server as a process, for tests of what it answers and of adapters that it loads."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mlx_lm_server(log: Path, model: Path, *options: object) -> Iterator[str]:
    """The address of a server of a model, ready when the block begins.

    Args:
        log: File that it writes to.
        model: Model folder.
        options: Of `mlx_lm.server`, words.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--model", model, "--port", port, *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_lm", "server", *map(str, words)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        deadline = time.monotonic() + 150  # it takes 5 s to begin, and longer beside other work
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=10)
