"""A chat server on loopback that answers, or misbehaves, as a test scripts it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Sent:
    """What the server sends back: a status, headers and bytes; `length` is the length it claims, if another."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None
    seconds: float = 0.0  # waited before
    hang_up: bool = False  # closes the connection without a word


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: Any


Script = Callable[[Request, int], Sent]  # of a request and its number, from 0


def answer(text: str | None, **choice: Any) -> Sent:
    """A proper answer."""
    message = {"role": "assistant", "content": text, **choice.pop("message", {})}
    content = {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    return Sent(headers={"Content-Type": "application/json"}, body=json.dumps(content).encode())


def error(status: int, message: str, headers: Mapping[str, str] | None = None, **more: Any) -> Sent:
    """An error as OpenAI words it."""
    content = {"error": {"message": message, **more}}
    return Sent(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(content).encode())


@dataclass
class Scripted:
    """A running server: where it is, and what it was asked."""

    url: str
    requests: list[Request] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def serve(script: Script) -> Iterator[Scripted]:
    """A server that sends what `script` says to each request."""
    lock = threading.Lock()
    stopped = threading.Event()
    running = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and body in one packet

        def do_POST(self) -> None:
            nonlocal running
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.path, {key.lower(): value for key, value in self.headers.items()}, json.loads(body))
            with lock:
                number = len(found.requests)
                found.requests.append(request)
                running += 1
                found.most_at_once = max(found.most_at_once, running)
            try:
                self.reply(script(request, number))
            except OSError:  # the client left
                self.close_connection = True
            finally:
                with lock:
                    running -= 1

        do_GET = do_POST

        def reply(self, sent: Sent) -> None:
            if sent.seconds:
                stopped.wait(sent.seconds)
            if sent.hang_up:
                self.close_connection = True
                return
            self.send_response(sent.status)
            for name, value in sent.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(sent.body) if sent.length is None else sent.length))
            self.end_headers()
            self.wfile.write(sent.body)
            if sent.length is not None:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    found = Scripted(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()


class Time:
    """A clock that sleeping moves, and nothing else: waits are counted, not waited."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    @property
    def waited(self) -> float:
        return sum(self.waits)
