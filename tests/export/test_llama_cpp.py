"""The process that runs llama.cpp is spoken to as llama_cpp.mjs says; what goes wrong there is said. A fake Node.js answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxtune.backends.base import Generation
from mlxtune.errors import ExportError
from mlxtune.export.llama_cpp import SCRIPT, LlamaCpp, missing, package_folder

NODE = """#!{python}
import json, sys
script, folder, context, model, *lora = sys.argv[1:]
if "chatty" in model:
    print("loading ...", flush=True)
    sys.stdin.read()
if "broken" in model:
    print(json.dumps({{"error": "Invalid GGUF magic"}}))
    sys.exit()
print(json.dumps({{"ready": True, "llama_cpp": "b1", "context": int(context)}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "tokenize" in request:
        answer = {{"tokens": [ord(letter) for letter in request["tokenize"]]}}
    elif len(request["tokens"]) > int(context):
        answer = {{"error": "too long"}}
    elif request["tokens"] == [0]:
        sys.exit()
    else:
        n_lora = len(lora)
        answer = {{"tokens": [n_lora, *request["tokens"], *request["stop"]][: request["max_new_tokens"]], "text": "", "stop": "stop"}}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the PATH, with a program called node; the package seems to be installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "node"
    program.write_text(NODE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    (package_folder() / "node_modules" / "node-llama-cpp").mkdir(parents=True)
    return folder


def test_texts_become_tokens_and_prompts_replies(node: Path) -> None:
    with LlamaCpp(Path("model.gguf")) as model:
        assert model.release == "b1"
        assert model.tokenize(["ab", "你"]) == [[97, 98], [0x4F60]]
        replies = model.generate([[5, 6], [7]], 3, [9])
    assert replies == [Generation((0, 5, 6), "stop"), Generation((0, 7, 9), "stop")]


def test_an_adapter_is_handed_over_beside_the_model(node: Path) -> None:
    with LlamaCpp(Path("model.gguf"), Path("lora.gguf")) as model:
        assert model.generate([[5]], 1, []) == [Generation((1,), "stop")]


def test_a_file_that_llama_cpp_refuses_is_named(node: Path) -> None:
    with pytest.raises(ExportError, match=r"broken\.gguf: llama\.cpp: Invalid GGUF magic"):
        LlamaCpp(Path("broken.gguf"))


def test_a_process_that_cannot_be_understood_is_ended(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*words: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(popen(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(ExportError, match=r"chatty\.gguf: llama\.cpp answered what is no JSON: 'loading \.\.\.'"):
        LlamaCpp(Path("chatty.gguf"))
    assert [one.poll() is None for one in started] == [False]


def test_a_prompt_that_llama_cpp_refuses_ends_nothing_else(node: Path) -> None:
    with LlamaCpp(Path("model.gguf"), context=4) as model:
        with pytest.raises(ExportError, match=r"model\.gguf: llama\.cpp: too long"):
            model.generate([[1, 2, 3, 4, 5]], 1, [])
        assert model.tokenize(["a"]) == [[97]]


def test_a_process_that_ends_is_said_to_have(node: Path) -> None:
    with LlamaCpp(Path("model.gguf")) as model, pytest.raises(ExportError, match="ended without an answer"):
        model.generate([[0]], 1, [])


def test_what_is_missing_is_said_with_the_command_that_installs_it(node: Path) -> None:
    assert missing() is None
    os.rmdir(package_folder() / "node_modules" / "node-llama-cpp")
    reason = missing()
    assert reason is not None
    assert f"npm install --ignore-scripts --prefix {package_folder()} node-llama-cpp" in reason
    with pytest.raises(
        ExportError, match=r"model\.gguf: cannot be loaded by llama\.cpp: node-llama-cpp is not installed"
    ):
        LlamaCpp(Path("model.gguf"))
    (node / "node").unlink()
    assert "Node.js is not installed" in str(missing())


def test_the_script_lies_beside_its_module() -> None:
    assert SCRIPT.name == "llama_cpp.mjs"
    assert SCRIPT.is_file()
