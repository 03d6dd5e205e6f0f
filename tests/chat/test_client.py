"""The chat server's client against a server that answers, and one that misbehaves in every way it can."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from mlxtune.chat.client import ChatFailure, ChatServer, ChatServerError, Question, chat_key
from mlxtune.errors import Misuse
from tests.chatting import Request, Scripted, Sent, Time, answer, error, serve

KEY = "sk-test-0123456789abcdef"


def ask(text: str = "hello", **settings: Any) -> Question:
    return Question(({"role": "user", "content": text},), **{"max_tokens": 16, **settings})


def said(request: Request) -> str:
    return str(request.body["messages"][-1]["content"])


def echo(request: Request, number: int) -> Sent:
    return answer(said(request).upper())


def client(server: Scripted, time_: Time | None = None, **settings: Any) -> ChatServer:
    time_ = time_ or Time()
    settings = {"cache": None, "timeout_s": 5, "parallel": 1, **settings}
    return ChatServer(server.url, "judge", sleep=time_.sleep, clock=time_.clock, **settings)


def only(server: Scripted, time_: Time | None = None, **settings: Any) -> str | ChatFailure:
    return client(server, time_, **settings).answers([ask()])[0]


# What is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_the_address_may_end_anywhere(ending: str) -> None:
    with serve(echo) as server:
        assert ChatServer(server.url + ending, "judge", cache=None).answers([ask()]) == ["HELLO"]
        assert server.requests[0].path == "/v1/chat/completions"


def test_a_path_of_its_own_is_kept() -> None:
    with serve(echo) as server:
        ChatServer(f"{server.url}/api/openai", "judge", cache=None).answers([ask()])
        assert server.requests[0].path == "/api/openai/chat/completions"


def test_answers_come_in_the_order_of_the_questions_and_each_is_counted() -> None:
    def slow_first(request: Request, number: int) -> Sent:
        reply = echo(request, number)
        return Sent(reply.status, reply.headers, reply.body, seconds=0.1 if said(request) == "q0" else 0)

    counted: list[int] = []
    with serve(slow_first) as server:
        found = client(server, parallel=4).answers([ask(f"q{i}") for i in range(12)], counted.append)
        assert found == [f"Q{i}" for i in range(12)]
        assert sum(counted) == 12
        assert 1 < server.most_at_once <= 4


def test_the_request_says_what_the_question_says() -> None:
    with serve(echo) as server:
        client(server).answers([ask("a", max_tokens=9, temperature=0.5, seed=3), ask("b")])
        sampled, greedy = (request.body for request in server.requests)
        assert sampled == {
            "model": "judge", "messages": [{"role": "user", "content": "a"}], "max_tokens": 9, "temperature": 0.5, "seed": 3
        }  # fmt: skip
        assert "seed" not in greedy and greedy["temperature"] == 0


def test_half_a_surrogate_pair_is_asked_and_answered(tmp_path: Path) -> None:
    with serve(lambda request, number: answer("\ud83d ok")) as server:
        assert client(server, cache=tmp_path).answers([ask("\ud83d")]) == ["? ok"]


def test_no_questions_ask_nothing() -> None:
    with serve(echo) as server:
        assert client(server).answers([]) == []
        assert server.requests == []


# The cache --------------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    questions = [ask(f"q{i}") for i in range(5)]
    with serve(echo) as server:
        first = client(server, cache=tmp_path).answers(questions)
        assert client(server, cache=tmp_path).answers(questions) == first
        assert len(server.requests) == 5


def test_equal_questions_are_asked_once_even_without_a_cache() -> None:
    counted: list[int] = []
    with serve(echo) as server:
        assert client(server).answers([ask(), ask("x"), ask()], counted.append) == ["HELLO", "X", "HELLO"]
        assert len(server.requests) == 2 and sum(counted) == 3


@pytest.mark.parametrize(
    "other",
    [ask("hello!"), ask(max_tokens=17), ask(temperature=0.1), ask(seed=1)],
    ids=["text", "limit", "heat", "seed"],
)
def test_another_question_is_another_entry(tmp_path: Path, other: Question) -> None:
    with serve(echo) as server:
        client(server, cache=tmp_path).answers([ask()])
        client(server, cache=tmp_path).answers([other])
        assert len(server.requests) == 2


def test_another_model_is_another_entry(tmp_path: Path) -> None:
    with serve(echo) as server:
        for model in ("a", "b"):
            ChatServer(server.url, model, cache=tmp_path).answers([ask()])
        assert len(server.requests) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"question": "other", "kind": "answer", "text": "wrong"}', "\xff"])
def test_a_damaged_entry_is_asked_again_and_mended(tmp_path: Path, damage: str) -> None:
    with serve(echo) as server:
        client(server, cache=tmp_path).answers([ask()])
        (entry,) = tmp_path.rglob("*.json")
        entry.write_bytes(damage.encode("latin-1"))
        for _ in range(2):
            assert client(server, cache=tmp_path).answers([ask()]) == ["HELLO"]
        assert len(server.requests) == 2


def test_a_failed_request_is_not_kept_and_a_refusal_is(tmp_path: Path) -> None:
    def script(request: Request, number: int) -> Sent:
        if said(request) == "refuse":
            return answer(None, message={"refusal": "I cannot judge this."})
        return error(400, "too long") if said(request) == "long" else answer("half", finish_reason="length")

    with serve(script) as server:
        for _ in range(2):
            refused, failed, cut = client(server, cache=tmp_path).answers([ask("refuse"), ask("long"), ask("cut")])
            assert refused == ChatFailure("refused", "I cannot judge this.", "")
            assert failed == ChatFailure("failed", "status 400: too long")
            assert cut == ChatFailure("cut", "cut at 16 tokens", "half")
        assert [said(request) for request in server.requests] == ["refuse", "long", "cut", "long"]


def test_a_cache_that_cannot_be_written_costs_no_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with serve(echo) as server:
        assert client(server, cache=tmp_path / "cache").answers([ask("a"), ask("b")]) == ["A", "B"]
    assert [record.message for record in caplog.records if "cannot be written" in record.message]
    assert len(caplog.records) == 1


# What may pass is tried again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        error(500, "oops"),
        error(503, "loading"),
        error(408, "slow"),
        error(429, "slow down"),
        Sent(body=b"{not json", headers={"Content-Type": "application/json"}),
        Sent(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
        Sent(body=b'{"choices": []}', headers={"Content-Type": "application/json"}),
        Sent(body=b'["choices"]', headers={"Content-Type": "application/json"}),
        Sent(body=b'{"choices": [{"message": {"content": 7}}]}'),
        Sent(body=b'{"error": {"message": "the model is busy"}}'),
        Sent(body=b'{"choices": [{"mess', length=500),
        Sent(body=b"\x1f\x8bgarbage", headers={"Content-Encoding": "gzip"}),
        Sent(hang_up=True),
        Sent(seconds=5),
    ],
    ids=[
        "500",
        "503",
        "408",
        "429",
        "garbage",
        "html",
        "no-choice",
        "list",
        "number",
        "error-200",
        "truncated",
        "bad-gzip",
        "hang-up",
        "hang",
    ],
)
def test_trouble_that_passes_is_tried_again(trouble: Sent) -> None:
    waits = Time()
    with serve(lambda request, number: trouble if number == 0 else answer("yes")) as server:
        assert only(server, waits, timeout_s=0.3 if trouble.seconds else 5) == "yes"
        assert len(server.requests) == 2
        assert 0.25 <= waits.waited <= 0.5


def test_trouble_that_stays_is_a_failure_of_that_question_alone() -> None:
    def script(request: Request, number: int) -> Sent:
        return error(500, "cannot do this one") if said(request) == "bad" else echo(request, number)

    waits = Time()
    with serve(script) as server:
        found = client(server, waits).answers([ask("a"), ask("bad"), ask("b")])
        assert found == ["A", ChatFailure("failed", "status 500: cannot do this one (asked 5 times)"), "B"]
        assert len(server.requests) == 7


def test_waits_double_and_differ() -> None:
    waits = Time()
    with serve(lambda request, number: answer("a") if number == 0 else error(500, "no")) as server:
        client(server, waits, retries=4).answers([ask("a"), ask("b")])
    bounds = [(0.25, 0.5), (0.5, 1), (1, 2), (2, 4)]
    assert len(waits.waits) == 4
    assert all(low <= wait <= high for wait, (low, high) in zip(waits.waits, bounds, strict=True))
    assert waits.waits != [high for _, high in bounds]


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_honoured_by_all(as_date: bool) -> None:
    after = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=21), usegmt=True) if as_date else "20"
    waits = Time()
    with serve(lambda r, n: error(429, "slow down", {"Retry-After": after}) if n == 0 else answer("yes")) as server:
        assert client(server, waits).answers([ask("a"), ask("b")]) == ["yes", "yes"]
    assert 18 <= waits.waited <= 21


def test_a_wait_that_one_is_asked_for_is_meant_for_all() -> None:
    times: list[float] = []

    def script(request: Request, number: int) -> Sent:
        times.append(time.monotonic())
        if number == 0:
            return error(429, "slow down", {"Retry-After": "0.6"})
        reply = echo(request, number)
        return Sent(reply.status, reply.headers, reply.body, seconds=0.4 if number == 1 else 0)

    with serve(script) as server:
        ChatServer(server.url, "judge", cache=None, parallel=2).answers([ask(str(i)) for i in range(4)])
    assert len(times) == 5  # the second of them was on its way already
    assert all(later - times[0] >= 0.59 for later in times[2:])


def test_a_wait_beyond_the_deadline_is_not_waited() -> None:
    waits = Time()
    script = [answer("yes"), error(429, "tomorrow", {"Retry-After": "86400"})]
    with serve(lambda request, number: script[number]) as server:
        _, failure = client(server, waits).answers([ask("a"), ask("b")])
    assert isinstance(failure, ChatFailure) and "asks to wait 86400 s" in failure.reason
    assert waits.waited == 0


def test_the_rate_is_kept() -> None:
    waits = Time()
    with serve(echo) as server:
        client(server, waits, requests_per_minute=30, parallel=3).answers([ask(str(i)) for i in range(5)])
    assert waits.now - 1000 == pytest.approx(8, abs=2.1)  # 4 gaps of 2 s; parallel waits move the one clock together
    assert waits.waited >= 8


def test_a_trickle_does_not_outlast_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        code = (
            "import socket, sys, time\ns = socket.socket(fileno=int(sys.argv[1]))\n"
            "while True:\n c, _ = s.accept()\n c.recv(65536)\n c.sendall(b'HTTP/1.1 200 OK\\r\\n')\n"
            " try:\n  while True:\n   c.sendall(b'X'); time.sleep(0.05)\n except OSError:\n  pass\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(listening.fileno())], pass_fds=[listening.fileno()])
        try:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            begin = time.monotonic()
            with pytest.raises(ChatServerError, match=r"no answer within 0\.4 s"):
                ChatServer(url, "judge", cache=None, timeout_s=0.4, retries=0).answers([ask()])
            assert time.monotonic() - begin < 3
        finally:
            process.kill()
            process.wait()


# What does not pass ends it at once --------------------------------------------------------------------------------


def test_nothing_listening_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    waits = Time()
    server = ChatServer(f"http://127.0.0.1:{port}", "judge", cache=None, sleep=waits.sleep, clock=waits.clock)
    with pytest.raises(ChatServerError, match=rf"http://127\.0\.0\.1:{port}/v1: .*cannot connect.*mlx_lm\.server"):
        server.answers([ask(str(i)) for i in range(100)])
    assert waits.waits == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "who are you"), "no key was sent .status 401: who are you.; set MLXTUNE_API_KEY"),
        (error(403, "not you"), "status 403"),
        (error(404, "no such model"), "expected the model 'judge' on this server, got status 404: no such model"),
        (Sent(405, body=b"POST what?"), "status 405: POST what?"),
        (error(402, "pay"), "no credit left"),
        (error(429, "you exceeded your quota", code="insufficient_quota"), "no credit left"),
    ],
    ids=["401", "403", "404", "405", "402", "quota"],
)
def test_what_no_question_can_pass_is_said_after_one_request(reply: Sent, message: str) -> None:
    with serve(lambda request, number: reply) as server:
        with pytest.raises(ChatServerError, match=message):
            client(server).answers([ask(str(i)) for i in range(50)])
        assert len(server.requests) == 1


def test_a_server_that_refuses_every_request_is_not_asked_to_the_end(tmp_path: Path) -> None:
    def script(request: Request, number: int) -> Sent:
        return answer("yes") if said(request) == "good" else error(422, "extra fields not permitted")

    long = [ask(str(i)) for i in range(50)]
    with serve(script) as server:
        asking = client(server, cache=tmp_path, parallel=4)
        with pytest.raises(ChatServerError, match=r"refused each of the first 8 requests; .*status 422: extra fields"):
            asking.answers(long)
        assert len(server.requests) < 20
        # Once it has answered something, what it refuses is the questions' fault, in later calls as well.
        assert asking.answers([ask("good")]) == ["yes"]
        first, *others = asking.answers([ask("good"), *long])
        assert first == "yes" and all(isinstance(one, ChatFailure) for one in others)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_never_followed(status: int) -> None:
    with serve(echo) as elsewhere:
        target = f"http://me:{KEY}@localhost:{elsewhere.url.rpartition(':')[2]}/v1/chat/completions?key={KEY}"
        with serve(lambda request, number: Sent(status, {"Location": target})) as server:
            with pytest.raises(ChatServerError, match="redirect to 'http://localhost:") as raised:
                client(server, key=KEY).answers([ask()])
            assert KEY not in str(raised.value)
        assert elsewhere.requests == []


def test_a_server_that_breaks_down_is_not_asked_to_the_end(tmp_path: Path) -> None:
    def script(request: Request, number: int) -> Sent:
        return echo(request, number) if number < 3 else error(500, "out of memory")

    with serve(script) as server:
        found = client(server, retries=1, cache=tmp_path).answers([ask(f"q{i}") for i in range(40)])
        assert found[:3] == ["Q0", "Q1", "Q2"]
        failures = [one for one in found[3:] if isinstance(one, ChatFailure)]
        assert len(failures) == 37
        assert failures[-1].reason.startswith("not asked: 5 questions in a row got no answer")
        assert len(server.requests) == 3 + 5 * 2


def test_a_server_that_never_answers_a_question_is_an_error() -> None:
    with serve(lambda request, number: error(500, "no weights")) as server:
        with pytest.raises(ChatServerError, match=r"5 questions in a row got no answer.*no weights"):
            client(server, retries=0).answers([ask(str(i)) for i in range(50)])
        assert len(server.requests) == 5


def test_a_server_that_hangs_from_the_start_is_an_error_after_two_requests(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mlxtune")
    with serve(lambda request, number: Sent(seconds=5)) as server:
        with pytest.raises(ChatServerError, match=r"no answer within 0\.1 s .asked 2 times.; raise the timeout"):
            client(server, timeout_s=0.1).answers([ask(str(i)) for i in range(50)])
        assert len(server.requests) == 2
    assert [record.message for record in caplog.records if "no answer within 0.1 s; trying again" in record.message]


# What servers differ in ---------------------------------------------------------------------------------------------


def test_a_server_that_knows_another_name_for_the_limit_is_asked_by_it() -> None:
    def script(request: Request, number: int) -> Sent:
        if "max_tokens" in request.body:
            why = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
            return error(400, why, param="max_tokens", code="unsupported_parameter")
        return echo(request, number)

    with serve(script) as server:
        assert client(server).answers([ask("a"), ask("b")]) == ["A", "B"]
        assert len(server.requests) == 3
        assert server.requests[-1].body["max_completion_tokens"] == 16


def test_a_server_that_takes_no_temperature_is_asked_without_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    def script(request: Request, number: int) -> Sent:
        if "temperature" in request.body:
            return error(400, "only the default", param="temperature", code="unsupported_value")
        return echo(request, number)

    with serve(script) as server:
        assert client(server).answers([ask("a"), ask("b")]) == ["A", "B"]
        assert len(server.requests) == 3
    assert [record.message for record in caplog.records if "does not support temperature" in record.message]


# The key ------------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLXTUNE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert chat_key() is None
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    assert chat_key() == "theirs"
    monkeypatch.setenv("MLXTUNE_API_KEY", " ours\n")
    assert chat_key() == "ours"
    monkeypatch.setenv("MLXTUNE_API_KEY", "")
    assert chat_key() == "theirs"


def test_the_key_is_sent_and_found_nowhere_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def tell(request: Request, number: int) -> Sent:  # a server that repeats all it was sent
        told = request.headers["authorization"]
        return answer(told) if said(request) == "a" else error(400, told)

    with serve(tell) as server:
        asking = client(server, key=KEY, cache=tmp_path)
        found = asking.answers([ask("a"), ask("b")])
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert found == ["Bearer ***", ChatFailure("failed", "status 400: Bearer ***")]
    with (
        serve(lambda request, number: error(401, request.headers["authorization"])) as server,
        pytest.raises(ChatServerError, match="the key was refused") as raised,
    ):
        client(server, key=KEY, cache=tmp_path).answers([ask("a")])
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert len(written) > 50
    for text in (str(found), repr(asking), str(raised.value), caplog.text, written.decode()):
        assert KEY not in text


def test_no_key_sends_none() -> None:
    with serve(echo) as server:
        client(server, key="  ").answers([ask()])
        assert "authorization" not in server.requests[0].headers


def test_credentials_in_the_address_are_sent_and_not_shown() -> None:
    with serve(lambda request, number: error(404, "nothing")) as server:
        url = server.url.replace("http://", "http://me:pass-word-0123@") + "/v1?token=0123456789abcdef"
        asking = ChatServer(url, "judge", cache=None)
        with pytest.raises(ChatServerError) as raised:
            asking.answers([ask()])
        assert server.requests[0].headers["authorization"].startswith("Basic ")
        assert server.requests[0].path == "/v1/chat/completions?token=0123456789abcdef"
    for text in (str(raised.value), repr(asking), asking.url):
        assert "pass-word" not in text and "0123456789" not in text and "me:" not in text


@pytest.mark.parametrize(
    ("url", "key", "warned"),
    [
        ("http://example.com", KEY, True),
        ("http://192.168.0.7:8080", KEY, True),
        ("http://example.com", None, False),
        ("https://example.com", KEY, False),
        ("http://localhost:1", KEY, False),
        ("http://127.0.0.9:1", KEY, False),
        ("http://[::1]:1", KEY, False),
    ],
)
def test_a_key_over_plain_http_is_warned_of_unless_it_stays_here(
    url: str, key: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ChatServer(url, "judge", cache=None, key=key)
    assert ("unencrypted over http" in caplog.text) is warned
    assert KEY not in caplog.text


def test_a_key_that_no_header_can_carry_is_not_shown() -> None:
    with pytest.raises(ChatServerError, match="characters that an HTTP header cannot hold") as raised:
        ChatServer("http://127.0.0.1:1", "judge", cache=None, key="ключ-секрет")
    assert "ключ" not in str(raised.value)


# Wrong settings, and the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://host", "http://", "http://host:port", "me:secret@host", "http://[::1"]
)
def test_what_is_no_address_is_misuse(url: str) -> None:
    with pytest.raises(Misuse, match="expected the address of a chat server") as raised:
        ChatServer(url, "judge", cache=None)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_s": 0}, {"retries": -1}, {"parallel": 0}, {"requests_per_minute": 0}],
    ids=lambda one: next(iter(one)),
)
def test_numbers_out_of_range_are_misuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match=next(iter(wrong))):
        ChatServer("http://127.0.0.1:1", "judge", **{"cache": None, **wrong})
    with pytest.raises(Misuse, match="name of a model"):
        ChatServer("http://127.0.0.1:1", " ", cache=None)


def test_a_proxy_of_the_environment_does_not_see_what_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(echo) as proxy, serve(echo) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert only(server, key=KEY) == "HELLO"
        assert proxy.requests == []


def test_an_interruption_is_prompt_and_keeps_what_was_answered(tmp_path: Path) -> None:
    def script(request: Request, number: int) -> Sent:
        return echo(request, number) if number < 2 else Sent(seconds=30)

    code = (
        "import sys; from pathlib import Path; from mlxtune.chat.client import ChatServer, Question\n"
        "questions = [Question(({'role': 'user', 'content': f'q{i}'},), max_tokens=16) for i in range(6)]\n"
        "ChatServer(sys.argv[1], 'judge', cache=Path(sys.argv[2]), parallel=2).answers(questions, lambda n: print(n, flush=True))\n"
    )
    with serve(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", code, server.url, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"1\n", b"1\n"]
        begin = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - begin < 4
        assert b"KeyboardInterrupt" in stderr
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_what_has_arrived_when_it_ends_is_kept(tmp_path: Path) -> None:
    def stop(n_questions: int) -> None:
        while len(server.requests) < 6:
            time.sleep(0.01)
        time.sleep(0.5)  # while the last answer arrives
        raise KeyboardInterrupt

    with serve(echo) as server:
        with pytest.raises(KeyboardInterrupt):
            client(server, cache=tmp_path, parallel=6).answers([ask(f"q{i}") for i in range(6)], stop)
        assert len(server.requests) == 6
    assert len(list(tmp_path.rglob("*.json"))) == 6


def test_two_writers_of_one_cache_leave_whole_entries(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlxtune.chat.client import ChatServer, Question\n"
        "questions = [Question(({'role': 'user', 'content': f'q{i}'},), max_tokens=16) for i in range(30)]\n"
        "print(ChatServer(sys.argv[1], 'judge', cache=Path(sys.argv[2])).answers(questions)[-1])\n"
    )
    with serve(echo) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        assert [process.communicate(timeout=30)[0] for process in both] == [b"Q29\n", b"Q29\n"]
    entries = [json.loads(file.read_text()) for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(entry["text"] for entry in entries) == sorted(f"Q{i}" for i in range(30))
