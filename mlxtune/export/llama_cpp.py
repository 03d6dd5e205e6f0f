"""llama.cpp itself, to see what it makes of a GGUF: tokens and greedy replies. Runs the npm package node-llama-cpp in Node.js.

    with LlamaCpp(Path("intent.gguf")) as model:
        model.tokenize(["where is my parcel"])
        model.generate(prompts, 32, tokenizer.stop_tokens)

The package holds llama.cpp ready built, and needs no network once it is there. `INSTALL` puts it where it is looked for.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Generation
from mlxtune.errors import ExportError
from mlxtune.files import cache_folder

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGE = "node-llama-cpp"
CONTEXT = 4096  # tokens of a prompt with its reply


def package_folder() -> Path:
    """Where `PACKAGE` is installed: `llama.cpp` in the cache folder."""
    return cache_folder() / "llama.cpp"


def install_command() -> str:
    """The command that installs it; npm's install scripts would build llama.cpp, and stay off."""
    return f"npm install --ignore-scripts --prefix {package_folder()} {PACKAGE}"


def missing() -> str | None:
    """What llama.cpp cannot run here for, and what to do; None where it can."""
    if shutil.which("node") is None:
        return "Node.js is not installed (no `node` on the PATH)"
    if not (package_folder() / "node_modules" / PACKAGE).is_dir():
        return f"{PACKAGE} is not installed; run `{install_command()}`"
    return None


class LlamaCpp:
    """A model file, and an adapter file beside it, loaded by llama.cpp in a process of its own; a context manager.

    Args:
        model: A .gguf file.
        lora: A .gguf file of an adapter, applied at its own scale.
        context: Tokens of a prompt with its reply at most.

    Raises:
        ExportError: llama.cpp is not here, or refuses a file.
    """

    def __init__(self, model: Path, lora: Path | None = None, *, context: int = CONTEXT) -> None:
        self._name = str(model) if lora is None else f"{model} with {lora}"
        if (reason := missing()) is not None:
            raise ExportError(f"{self._name}: cannot be loaded by llama.cpp: {reason}")
        words = ["node", str(SCRIPT), str(package_folder()), str(context), str(model)]
        words += [] if lora is None else [str(lora)]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        try:
            self.release = str(self._read()["llama_cpp"])
        except BaseException:  # an interruption while a large model loads is one
            self.close()
            raise

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.kill()
        self._process.wait()

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; special tokens in it are read as such, and none is added."""
        return [list(self._ask({"tokenize": text})["tokens"]) for text in texts]

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int]
    ) -> list[Generation]:
        """Greedy replies to prompts of token ids, one after the other, as `backends.base.Model.generate` gives them."""
        replies = []
        for prompt in prompts:
            request = {"tokens": list(prompt), "max_new_tokens": max_new_tokens, "stop": list(stop_tokens)}
            answer = self._ask(request)
            replies.append(Generation(tuple(answer["tokens"]), answer["stop"]))
        return replies

    def logits(self, tokens: Sequence[int], positions: Sequence[int]) -> NDArray[np.float32]:
        """Logits of the token after each of some positions of a sequence, (positions, vocabulary)."""
        rows = self._ask({"tokens": list(tokens), "logits_at": list(positions)})["logits"]
        return np.stack([np.frombuffer(base64.b64decode(row), np.dtype("<f4")) for row in rows])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin: IO[str] = self._pipe(self._process.stdin)
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        except OSError as error:
            raise ExportError(f"{self._name}: llama.cpp ended: {error.strerror}") from error
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise ExportError(f"{self._name}: llama.cpp ended without an answer")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise ExportError(f"{self._name}: llama.cpp answered what is no JSON: {line[:80].rstrip()!r}") from error
        if "error" in answer:
            raise ExportError(f"{self._name}: llama.cpp: {answer['error']}")
        return answer

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe
