"""A Hub on 127.0.0.1 that can be uploaded to, as the real client calls it: accounts, repositories, LFS, commits, and faults.

with hub_server(monkeypatch, tmp_path) as hub:
    hub.log_in("alice")
    hub.drop("commit", times=1)      # the connection breaks when a commit is sent
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

LARGE = re.compile(r".*\.(?:safetensors|gguf)")  # what the Hub keeps in LFS whatever its size
MODEL = re.compile(r"/api/models/(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<verb>[\w-]+)/main)?")


@dataclass
class Repository:
    """What the Hub has under a name.

    Attributes:
        private: Whether only its owner sees it.
        files: Path -> content.
        commits: Of each commit, the paths that it added and that it removed.
    """

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[set[str], set[str]]] = field(default_factory=list)


class Hub:
    """The state of the server, for tests to set up and look at.

    Attributes:
        repositories: OWNER/NAME -> what is there.
        objects: SHA-256 -> large files that arrived.
        asked: The requests, as METHOD VERB, in order.
        roles: Token -> who it belongs to and what it may do.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.roles: dict[str, tuple[str, str]] = {}
        self.orgs: list[str] = []
        self.url = ""
        self._drops: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._late: Counter[str] = Counter()

    def log_in(self, name: str, role: str = "write", orgs: tuple[str, ...] = ()) -> None:
        """The user has a token of this account."""
        self.roles["hf_token"] = (name, role)
        self.orgs = list(orgs)
        self.monkeypatch.setenv("HF_TOKEN", "hf_token")

    def drop(self, verb: str, times: int = 1) -> None:
        """The connection breaks before requests of a kind are answered, so many times."""
        self._drops[verb] += times

    def drop_late(self, verb: str) -> None:
        """The connection breaks once a request of a kind has done its work."""
        self._late[verb] += 1

    def be_busy(self, verb: str, times: int = 1) -> None:
        """Requests of a kind are answered with 503, so many times."""
        self._busy[verb] += times

    def sent(self, verb: str) -> int:
        """How often a kind of request came."""
        return sum(one == verb for one in self.asked)

    def take(self, what: str, verb: str) -> bool:
        """Whether a fault of a kind is due."""
        faults = {"drop": self._drops, "late": self._late, "busy": self._busy}[what]
        due = faults[verb] > 0
        faults[verb] -= due
        return due


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        verb, name = _verb(path)
        self.hub.asked.append(verb)
        if self.hub.take("drop", verb):
            return self._hang_up()
        if self.hub.take("busy", verb):
            return self._answer(503, {"error": "overloaded"})
        who = self.hub.roles.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))
        if verb != "put" and who is None:
            return self._answer(401, {"error": "Invalid username or password."})
        status, content, code = self._respond(verb, name, path, body, who)
        if self.hub.take("late", verb):
            return self._hang_up()
        self._answer(status, content, code)

    def _respond(
        self, verb: str, name: str, path: str, body: bytes, who: tuple[str, str] | None
    ) -> tuple[int, Any, str | None]:
        """Status, content and error code of a request."""
        hub, repository = self.hub, self.hub.repositories.get(name)
        if verb == "put":
            hub.objects[path.rpartition("/")[2]] = body
            return 200, {}, None
        assert who is not None
        account, role = who
        if verb == "whoami":
            orgs = [{"name": one} for one in hub.orgs]
            return 200, {"name": account, "orgs": orgs, "auth": {"accessToken": {"role": role}}}, None
        if verb == "validate":
            return 200, {"warnings": [], "errors": []}, None
        if verb == "create":
            asked = json.loads(body)
            owner, new = asked["organization"] or account, asked["name"]
            if owner not in (account, *hub.orgs):
                return (
                    403,
                    {"error": f"You don't have the rights to create a model under the namespace {owner!r}"},
                    None,
                )
            if f"{owner}/{new}" in hub.repositories:
                return 409, {"error": "You already created this model repo"}, None
            private = asked.get("private") or asked.get("visibility") == "private"
            hub.repositories[f"{owner}/{new}"] = Repository(bool(private), {".gitattributes": b"*.gguf filter=lfs\n"})
            return 200, {"url": f"{hub.url}/{owner}/{new}"}, None
        if repository is None or (repository.private and name.split("/")[0] not in (account, *hub.orgs)):
            return 404, {"error": "Repository not found"}, "RepoNotFound"
        if verb == "info":
            siblings = [{"rfilename": file} for file in repository.files]
            sha = f"{len(repository.commits):040d}"
            facts = {
                "id": name,
                "sha": sha,
                "private": repository.private,
                "siblings": siblings,
                "tags": [],
                "downloads": 0,
            }
            return 200, facts, None
        if verb == "paths-info":
            files = [file for file in _form(self.headers, body) if file in repository.files]
            return 200, [_facts(file, repository.files[file]) for file in files], None
        if name.split("/")[0] not in (account, *hub.orgs):
            return 403, {"error": "You have no access to this repository"}, None
        if verb == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": _mode(one["path"]), "shouldIgnore": False} for one in asked]
            return 200, {"files": modes}, None
        if verb == "batch":
            objects = [self._object(one["oid"], one["size"]) for one in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}, None
        assert verb == "commit"
        return self._commit(repository, name, [json.loads(line) for line in body.splitlines()])

    def _object(self, oid: str, size: int) -> dict[str, Any]:
        upload = {"actions": {"upload": {"href": f"{self.hub.url}/put/{oid}"}}}
        return {"oid": oid, "size": size, **({} if oid in self.hub.objects else upload)}

    def _commit(self, repository: Repository, name: str, lines: list[Any]) -> tuple[int, Any, str | None]:
        added, removed = {}, set()
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                added[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                removed.add(value["path"])
        repository.files = {file: text for file, text in repository.files.items() if file not in removed} | added
        repository.commits.append((set(added), removed))
        commit = f"{len(repository.commits):040d}"
        return 200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit}, None

    def _answer(self, status: int, content: Any, code: str | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()


def _verb(path: str) -> tuple[str, str]:
    """What a request asks for, and of which repository."""
    known = {"/api/whoami-v2": "whoami", "/api/validate-yaml": "validate", "/api/repos/create": "create"}
    if path in known:
        return known[path], ""
    if path.startswith("/put/"):
        return "put", ""
    if path.endswith(".git/info/lfs/objects/batch"):
        return "batch", path[1:].partition(".git/")[0]
    found = MODEL.fullmatch(path)
    assert found is not None, f"the stand-in does not know {path}"
    return found["verb"] or "info", found["name"]


def _mode(path: str) -> str:
    return "lfs" if LARGE.fullmatch(path) else "regular"


def _facts(path: str, content: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git}
    if _mode(path) == "lfs":
        facts["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return facts


def _form(headers: Any, body: bytes) -> list[str]:
    """The paths that are asked about, in a form or as JSON."""
    from urllib.parse import parse_qs

    if "json" in (headers.get("Content-Type") or ""):
        return list(json.loads(body)["paths"])
    return parse_qs(body.decode()).get("paths", [])


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Hub]:
    """Run one, as the only Hub that the client knows; nobody is logged in.

    Args:
        monkeypatch: Points the client at it.
        folder: Empty; the client's home.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

    hub = Hub(monkeypatch)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    # Read from the environment when the library is imported, which other tests have done.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose server is no part of this
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    close_session()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        close_session()
        server.shutdown()
        server.server_close()
