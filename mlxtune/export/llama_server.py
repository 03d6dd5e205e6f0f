"""llama.cpp as a `llama-server` on the PATH runs it: greedy replies over HTTP on this machine.

    with LlamaServer(Path("intent.gguf")) as model:
        model.generate(prompts, 32, tokenizer.stop_tokens)

Source:
    tools/server/README.md of llama.cpp: /health and /completion, whose prompt may be token ids.
"""

from __future__ import annotations

import contextlib
import http
import http.client
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mlxtune.backends.base import Generation
from mlxtune.errors import ExportError

PROGRAM = "llama-server"
HOST = "127.0.0.1"
START_S = 120.0  # a 7B model from a slow disk
REPLY_S = 600.0  # of one reply on a slow CPU


def found() -> bool:
    """Whether the program is there."""
    return shutil.which(PROGRAM) is not None


class LlamaServer:
    """A model file, loaded by llama-server; a context manager, and ready when it is entered.

    Args:
        model: A .gguf file.
        context: Tokens of a prompt with its reply at most.

    Raises:
        ExportError: The program is not here, or does not get ready.
    """

    def __init__(self, model: Path, *, context: int) -> None:
        self._name = str(model)
        if not found():
            raise ExportError(f"{model}: cannot be loaded by llama.cpp: no {PROGRAM} on the PATH")
        self._port = _free_port()
        words = [PROGRAM, "-m", str(model), "-c", str(context), "--host", HOST, "--port", str(self._port)]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> LlamaServer:
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int]
    ) -> list[Generation]:
        """Greedy replies to prompts of token ids, one after the other, as `backends.base.Model.generate` gives them."""
        replies = []
        for prompt in prompts:
            answer = self._post(
                {"prompt": list(prompt), "n_predict": max_new_tokens, "temperature": 0, "return_tokens": True}
            )
            tokens = tuple(map(int, answer["tokens"]))
            ends = [at for at, token in enumerate(tokens) if token in stop_tokens]
            stopped = bool(ends) or answer.get("stop_type") in ("eos", "word")
            replies.append(Generation(tokens[: ends[0]] if ends else tokens, "stop" if stopped else "length"))
        return replies

    def _wait(self) -> None:
        """Until the model is loaded."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ExportError(f"{self._name}: {PROGRAM} ended with exit code {self._process.returncode}")
            with contextlib.suppress(OSError, http.client.HTTPException):  # it does not listen yet
                if self._ask("GET", "/health", None, 5)[0] == http.HTTPStatus.OK:  # 503 while it loads
                    return
            time.sleep(0.1)
        raise ExportError(f"{self._name}: {PROGRAM} was not ready after {START_S:.0f} s")

    def _post(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            status, body = self._ask("POST", "/completion", json.dumps(request), REPLY_S)
            answer = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ExportError(f"{self._name}: {PROGRAM}: {error}") from error
        if status != http.HTTPStatus.OK:
            raise ExportError(
                f"{self._name}: {PROGRAM} refuses the prompt ({status}): {body[:200].decode(errors='replace')}"
            )
        if not isinstance(answer, dict) or "tokens" not in answer:
            raise ExportError(f"{self._name}: {PROGRAM} answered without tokens; a newer llama.cpp gives them")
        return answer

    def _ask(self, method: str, path: str, body: str | None, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])
