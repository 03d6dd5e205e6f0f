"""llama.cpp as a model that a `Predictor` can ask, by the program that is found here: node-llama-cpp, else llama-server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from mlxtune.backends.base import Constraint, Generation
from mlxtune.export import llama_cpp, llama_server


class Writer(Protocol):
    """What writes greedy replies: llama.cpp in either way."""

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int]
    ) -> list[Generation]:
        """Replies to prompts of token ids."""
        ...


class LlamaCppModel:
    """A model that llama.cpp holds, as far as a `Predictor` that decodes freely asks for one.

    Args:
        writer: Writes the replies.
        config: config.json of the model.
    """

    def __init__(self, writer: Writer, config: Mapping[str, Any]) -> None:
        self._writer, self.config = writer, config

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        slots: int | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Greedy replies to all prompts, each with its prompt's number; `slots` prompts are sent at a time.

        Raises:
            ValueError: A constraint, or a temperature.
        """
        if constraint is not None or temperature:
            raise ValueError("llama.cpp is asked freely and greedily here")
        size = slots or len(prompts)
        for start in range(0, len(prompts), size):
            written = self._writer.generate(prompts[start : start + size], max_new_tokens, stop_tokens)
            yield from enumerate(written, start)


def has_llama_cpp() -> bool:
    """Whether llama.cpp can be asked here, in one way or the other."""
    return llama_cpp.missing() is None or llama_server.found()


def load_in_llama_cpp(gguf: Path, context: int) -> AbstractContextManager[Writer]:
    """A GGUF in llama.cpp: by the npm package node-llama-cpp, or by llama-server where that is not here.

    Args:
        gguf: The file.
        context: Tokens of a prompt with its reply at most.
    """
    if llama_cpp.missing() is None:
        return llama_cpp.LlamaCpp(gguf, context=context)
    return llama_server.LlamaServer(gguf, context=context)
