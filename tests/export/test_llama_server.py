"""llama-server, asked over HTTP: a stand-in on the PATH answers as the program's documentation says."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from mlxtune.backends.base import Generation
from mlxtune.errors import ExportError
from mlxtune.export.llama_server import LlamaServer

# Loads for three requests, then answers token ids by token ids: each one more than the prompt's, and token 9 ends a reply.
STAND_IN = """#!{python}
import http.server, json, sys

words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if words["-m"] == "broken.gguf":
    sys.exit(3)
asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        self.answer(503 if asked < 3 else 200, {{}})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["temperature"] == 0
        tokens = [token + 1 for token in request["prompt"]][: request["n_predict"]]
        kind = "eos" if 9 in tokens else "limit"
        self.answer(200, {{"content": "", "tokens": tokens, "stop_type": kind}} if words["-m"] != "old.gguf" else {{}})

    def answer(self, status, content):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_):
        pass


http.server.HTTPServer((words["--host"], int(words["--port"])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "llama-server"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_replies_end_at_a_stop_token_or_at_their_length() -> None:
    with LlamaServer(Path("model.gguf"), context=64) as model:
        replies = model.generate([[1, 2, 8, 5], [3, 4, 5]], 3, [9])

    assert replies == [Generation((2, 3), "stop"), Generation((4, 5, 6), "length")]


def test_a_file_that_it_does_not_load_is_named() -> None:
    with (
        pytest.raises(ExportError, match=r"broken\.gguf: llama-server ended with exit code 3"),
        LlamaServer(Path("broken.gguf"), context=64),
    ):
        pass


def test_one_too_old_to_give_tokens_is_said_to_be_so() -> None:
    with (
        LlamaServer(Path("old.gguf"), context=64) as model,
        pytest.raises(ExportError, match=r"answered without tokens; a newer llama.cpp gives them"),
    ):
        model.generate([[1]], 3, [9])
