"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends import choose
from mlxtune.backends import torch as torch_backend
from mlxtune.backends.base import ChosenBackend
from mlxtune.cli import main
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.tiny import tiny_model

ROOT = Path(__file__).parent.parent  # of the repository
LABELS = ["user_auth", "order_management", "payment", "none"]
ROWS: list[dict[str, Any]] = [
    {"text": "pay the bill and open an account", "intents": ["user_auth", "payment"]},
    {"text": "cancel the payment", "intents": ["payment"]},
    {"text": "你好", "intents": ["none"]},
    {"text": "where is my order, it has been 3 days now and nobody answers", "intents": ["order_management"]},
    {"text": "I can't log in", "intents": ["user_auth"]},
    {"text": "the order was not paid; send the invoice", "intents": ["order_management", "payment"]},
    {"text": "hi", "intents": ["none"]},
]


# Command lines compute with the same backend on every machine, those in subprocesses too. `MLXTUNE_BACKEND=torch
# tools/test` runs them on the other; tests that say --backend or call `choose` say themselves what they test.
os.environ.setdefault("MLXTUNE_BACKEND", "mlx")
os.environ.pop("MLXTUNE_DEVICE", None)
# Reports at the end of commands take longer than the commands do here; tests of them ask for them.
os.environ["MLXTUNE_REPORT"] = "0"
os.environ.pop("MLXTUNE_LANGUAGE", None)


# Tests of both backends in one process: torch computes many times slower if MLX's OpenBLAS was loaded before it.
assert torch_backend
with contextlib.suppress(ImportError):
    import torch  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those of minutes come first: the others then fill the rest of the time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("real") is None)


@pytest.fixture(scope="session")
def backend_name() -> str:
    """The backend that command lines compute with."""
    return os.environ["MLXTUNE_BACKEND"]


def chosen() -> ChosenBackend:
    """The backend that command lines compute with, for tests that call what they call."""
    return choose(os.environ["MLXTUNE_BACKEND"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache, nor reaches a hub."""
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _messages() -> None:
    """What the library reports reaches `caplog`, also after a command line of an earlier test showed it on stderr."""
    ours = logging.getLogger("mlxtune")
    ours.handlers.clear()
    ours.propagate = True


@pytest.fixture(scope="session", params=["qwen2", "qwen3", "llama", "qwen3_5_text"])
def any_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model folder of each family."""
    return tiny_model(tmp_path_factory.mktemp("base") / request.param, request.param)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 model folder."""
    return tiny_model(tmp_path_factory.mktemp("base") / "qwen3", "qwen3")


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL file of rows."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def write_recipe(folder: Path, base: Path, **sections: Any) -> Path:
    """A small intent recipe with its data beside it; `sections` override keys: train={"epochs": 2}."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        write_rows(folder / f"{name}.jsonl", ROWS)
    content: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(base)},
        "data": {"train": "train.jsonl", "valid": "valid.jsonl", "test": "test.jsonl"},
        "prompt": {"system": "You are a support system. Name the intents.", "user": "{text}"},
        "output": {
            "template": "{intents}",
            "fields": {"intents": {"kind": "labels", "labels": LABELS, "exclusive": "none"}},
        },
        "lora": {"rank": 4, "alpha": 8, "targets": "all"},
        "train": {"epochs": 1, "batch_size": 2, "gradient_accumulation": 2, "learning_rate": 1.0e-2},
        "evaluate": {"max_new_tokens": 40, "batch_size": 4},
    }
    for section, keys in sections.items():
        content[section] = {**content.get(section, {}), **keys} if isinstance(keys, dict) else keys
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture
def recipe(tmp_path: Path, base: Path) -> Recipe:
    """The small intent recipe on the tiny Qwen3 model."""
    return load_recipe(write_recipe(tmp_path / "recipe", base))


def snapshot(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name, with what they hold."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Result:
    """What a command line ended with."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def mlxtune(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process; exit code, stdout and stderr apart. `stdin` is text, or a file to read."""

    def run(*words: object, stdin: str | io.StringIO = "") -> Result:
        lines = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8") if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", ["mlxtune", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", lines)
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def mlxtune_run(mlxtune: Run) -> Run:
    """`mlxtune` under a name that leaves the package's own free."""
    return mlxtune


@contextlib.contextmanager
def heard(name: str = "mlxtune") -> Iterator[list[str]]:
    """What the library reports while a block runs, a sentence each."""
    said: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, handler = logging.getLogger(name), Heard()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
