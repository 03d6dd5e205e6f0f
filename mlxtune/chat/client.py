"""Questions to a chat server that speaks OpenAI's protocol (mlx_lm.server, vLLM, Ollama, OpenAI), each paid for once. No prompts.

    server = ChatServer("http://127.0.0.1:8080", "default_model", cache=Path("answers"), key=chat_key())
    server.answers([Question(({"role": "user", "content": "Say yes."},), max_tokens=8)])  # ['Yes.']

Requests go out a few at a time from an event loop in a thread of its own, so that a notebook, which has a loop already,
can call this too, and Ctrl-C ends them at once. Answers lie in the cache before the next one is waited for.

The key goes to the given host alone: redirects are refused, not followed. It is in no message, no cache entry, no repr.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import logging
import os
import queue
import random
import re
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from mlxtune.errors import Misuse, MlxtuneError
from mlxtune.files import cache_folder, write_json

if TYPE_CHECKING:
    import httpx2

KEYS = ("MLXTUNE_API_KEY", "OPENAI_API_KEY")  # where a key is looked for, in this order
CACHE_VERSION = 1
CONNECT_S = 10.0
FIRST_WAIT_S = 0.5  # before the first repetition; doubled before each further one
MAX_WAIT_S = 30.0
SLOW_RETRIES = 1  # of requests that were not answered in time
MAX_TOLD = 5  # reasons said while it goes on
MAX_BYTES = 16_000_000  # of one reply; a chat answer has thousands
SECRET_CHARS = 12  # shorter "keys" are placeholders, such as EMPTY, and words of answers
AGAIN = (408, 409, 425, 429)  # worth another try, as every 5xx is
OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached")  # 429s that no waiting helps
# A server that does not know one of these says so, and is asked without it (or by its other name) from then on.
OTHER_NAMES = {"max_tokens": "max_completion_tokens"}
OPTIONAL = ("temperature", "seed")

log = logging.getLogger(__name__)


class ChatServerError(MlxtuneError):
    """A chat server that cannot be reached, or that refuses every question: a wrong address, key or model."""


@dataclass(frozen=True)
class Question:
    """One conversation to be answered.

    Attributes:
        messages: In order, each {"role": "system" | "user" | "assistant", "content": text}.
        max_tokens: Where the answer is cut.
        temperature: 0 is greedy.
        seed: Of the sampling, where the server has one. Equal questions have one answer: give sampled ones seeds of
            their own to have several.
    """

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class ChatFailure:
    """A question without a whole answer.

    Attributes:
        kind: 'refused' by the model or its filter; 'cut' at max_tokens; 'failed' requests, each with its repetitions.
        reason: Why, on one line.
        text: What there is of the answer.
    """

    kind: Literal["refused", "cut", "failed"]
    reason: str
    text: str = ""


Answer = str | ChatFailure


def chat_key() -> str | None:
    """The key from the environment: $MLXTUNE_API_KEY, else $OPENAI_API_KEY, else None."""
    return next((key for name in KEYS if (key := os.environ.get(name, "").strip())), None)


def answers_folder() -> Path:
    """Where answers are kept between runs, beside the converted models: `answers` in $MLXTUNE_CACHE or ~/.cache/mlxtune."""
    return cache_folder() / "answers"


class ChatServer:
    """A chat server, one model on it, and what it has answered.

    Args:
        url: http://HOST:PORT, with or without /v1 and /chat/completions. User and password in it are sent as such; they
            and a query are never shown.
        model: Its name there.
        cache: Folder of answers, made when needed; several processes may share it. None keeps nothing.
        key: Sent as bearer token; None sends none.
        timeout_s: For one request, from sending it to the last byte of its answer.
        retries: Repetitions of a request that failed for a reason that may pass.
        parallel: Requests at a time.
        requests_per_minute: Highest rate, repetitions included; None is as fast as answers come.
        deadline_s: For one question with all its repetitions: none is begun later. None allows for every timeout.
        sleep: Waits; tests bring their own.
        clock: Seconds, as `sleep` counts them.

    Raises:
        Misuse: The URL is none, or a number is out of its range.
        ChatServerError: The key cannot be sent.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        cache: Path | None,
        key: str | None = None,
        timeout_s: float = 60,
        retries: int = 4,
        parallel: int = 4,
        requests_per_minute: float | None = None,
        deadline_s: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint, self.url, secrets = _addresses(url)
        key = (key or "").strip() or None
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ChatServerError(f"{self.url}: the key has characters that cannot be sent; set {KEYS[0]} anew")
        if not model.strip():
            raise Misuse(f"{self.url}: expected the name of a model there, got {model!r}")
        for name, value, lowest in (("timeout_s", timeout_s, 1e-3), ("retries", retries, 0), ("parallel", parallel, 1)):
            if value < lowest:
                raise Misuse(f"{name}: expected {lowest:g} or more, got {value:g}")
        if requests_per_minute is not None and requests_per_minute <= 0:
            raise Misuse(f"requests_per_minute: expected more than 0, got {requests_per_minute:g}")
        self.model = model.strip()
        self.cache = cache
        self._key = key
        self._secrets = [text for text in (key, *secrets) if text and len(text) >= SECRET_CHARS]
        self._timeout_s, self._retries, self._parallel = timeout_s, retries, parallel
        self._gap_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self._deadline_s = deadline_s if deadline_s is not None else (retries + 1) * (timeout_s + MAX_WAIT_S)
        self._sleep, self._clock = sleep, clock
        self._left_out: set[str] = set()  # settings that the server does not know
        self._uncached = False  # said already
        parts = urlsplit(self.url)
        self._loopback = _is_loopback(parts.hostname or "")
        if key is not None and parts.scheme == "http" and not self._loopback:
            log.warning("%s: the key goes over plain http and can be read on its way; use https", self.url)

    def __repr__(self) -> str:
        return f"ChatServer({self.url!r}, {self.model!r})"

    def answers(
        self, questions: Sequence[Question], on_answer: Callable[[int], None] = lambda n_questions: None
    ) -> list[Answer]:
        """Ask every question that the cache does not answer.

        Args:
            questions: Equal ones are asked once.
            on_answer: Called with the number of questions just answered, or given up.

        Returns:
            Answers in the order of the questions. What one question's request came to is a `ChatFailure` in its place.

        Raises:
            ChatServerError: No question can be answered: nothing is reached there, or the key, the model or the address
                is wrong. What was answered before is in the cache.
        """
        places: dict[str, list[int]] = {}
        for place, question in enumerate(questions):
            places.setdefault(self._name(question), []).append(place)
        found = {name: answer for name in places if (answer := self._cached(name)) is not None}
        n_cached = sum(len(places[name]) for name in found)
        if n_cached:
            on_answer(n_cached)
        missing = {name: questions[where[0]] for name, where in places.items() if name not in found}

        def keep(name: str, answer: Answer) -> None:
            found[name] = answer
            self._put(name, answer)
            on_answer(len(places[name]))

        if missing:
            self._ask(missing, keep, known=bool(found))
        of_place = {place: found[name] for name, where in places.items() for place in where}
        return [of_place[place] for place in range(len(questions))]

    # Asking ----------------------------------------------------------------------------------------------------------

    def _ask(self, questions: Mapping[str, Question], keep: Callable[[str, Answer], None], known: bool) -> None:
        """Ask from a thread with a loop, and hand every answer to `keep` in this one; `known` as `_Asking` has it.

        Where an error or Ctrl-C ends it, what has arrived by then goes to the cache alone.
        """
        arrived: queue.SimpleQueue[tuple[str, Answer] | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        asking = _Asking(self, lambda name, answer: arrived.put((name, answer)), known)
        task = loop.create_task(asking.all(questions))

        def work() -> None:
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # whatever it is, it is raised where the caller can see it
                arrived.put(error)
            finally:
                arrived.put(None)
                with suppress(RuntimeError):
                    loop.run_until_complete(loop.shutdown_asyncgens())
                loop.close()

        thread = threading.Thread(target=work, name="chat-server", daemon=True)
        thread.start()
        try:
            while (item := arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                keep(*item)
        finally:
            with suppress(RuntimeError):  # the loop is closed: all is done
                loop.call_soon_threadsafe(task.cancel)
            thread.join(timeout=2)
            while not arrived.empty():
                item = arrived.get()
                if isinstance(item, tuple):
                    self._put(*item)

    def _body(self, question: Question) -> dict[str, Any]:
        settings = {"max_tokens": question.max_tokens, "temperature": question.temperature, "seed": question.seed}
        if "max_tokens" in self._left_out:
            settings[OTHER_NAMES["max_tokens"]] = settings.pop("max_tokens")
        settings = {name: value for name, value in settings.items() if value is not None and name not in self._left_out}
        return {"model": self.model, "messages": [dict(message) for message in question.messages], **settings}

    def _shown(self, text: str, length: int = 200) -> str:
        """Text of a server for a message: one line, without secrets, without control characters."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self._without_secrets(text)).split())
        return line if len(line) <= length else line[: length - 3] + "..."

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    # The cache -------------------------------------------------------------------------------------------------------

    def _name(self, question: Question) -> str:
        """SHA-256 of all that an answer depends on. The address stands without credentials, so no secret is in it."""
        messages = [dict(message) for message in question.messages]
        settings = [question.max_tokens, question.temperature, question.seed]
        content = json.dumps([CACHE_VERSION, self.url, self.model, messages, settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _file(self, name: str) -> Path | None:
        return None if self.cache is None else self.cache / name[:2] / f"{name}.json"

    def _cached(self, name: str) -> Answer | None:
        """What was answered before; None if nothing, or a file that says something else, which is then written anew."""
        file = self._file(name)
        if file is None:
            return None
        try:
            entry = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(entry, dict) or entry.get("question") != name:
            return None
        kind, text, reason = entry.get("kind"), entry.get("text"), entry.get("reason")
        if not isinstance(text, str):
            return None
        if kind == "answer":
            return text
        if kind in ("refused", "cut") and isinstance(reason, str):
            return ChatFailure(kind, reason, text)
        return None

    def _put(self, name: str, answer: Answer) -> None:
        """Keep what the model said. A request that failed is no answer, and is asked again the next time."""
        file = self._file(name)
        if file is None or (isinstance(answer, ChatFailure) and answer.kind == "failed"):
            return
        said = {"kind": "answer", "text": answer} if isinstance(answer, str) else vars(answer)
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(file, {"question": name, **said})
        except OSError as error:  # a full disk loses the next run's savings, not this run's answers
            if not self._uncached:
                log.warning("%s: cannot be written: %s; answers are not kept for the next time", self.cache, error)
            self._uncached = True


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: Mapping[str, str]
    text: str


class _Again(Exception):
    """A request that may succeed when repeated.

    Args:
        reason: What happened.
        after_s: When the server wants to be asked again; None leaves that to us.
        reached: Whether something answered there at all.
        too_slow: It was the time that ran out: a server that is too slow becomes slower by being asked over and over.
    """

    def __init__(self, reason: str, after_s: float | None = None, reached: bool = True, too_slow: bool = False) -> None:
        super().__init__(reason)
        self.after_s, self.reached, self.too_slow = after_s, reached, too_slow


class _Otherwise(Exception):
    """The server does not know a setting, which is left out from now on."""


class _Asking:
    """One call of `answers`: the requests' common pace, and whether the server is still there.

    Args:
        server: Asked.
        put: Called with the name of a question and what became of it.
        known: The server has answered such questions before, so that what it refuses is the question's fault.
    """

    def __init__(self, server: ChatServer, put: Callable[[str, Answer], None], known: bool) -> None:
        self._server, self._put, self._known = server, put, known
        self._next_turn = float("-inf")  # on the server's clock
        self._reached = False
        self._n_answered = self._n_refused = 0
        self._lost_in_a_row = 0
        self._gone: str | None = None  # why nothing more is asked
        self._told: set[str] = set()

    async def all(self, questions: Mapping[str, Question]) -> None:
        """Ask `parallel` questions at a time; what becomes of each goes to `put`."""
        import httpx2

        server = self._server
        left = iter(questions.items())

        async def work() -> None:
            for name, question in left:
                if self._gone is not None:
                    self._put(name, ChatFailure("failed", f"not asked: {self._gone}"))
                else:
                    self._put(name, await self._answer(client, question))

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if server._key is not None:
            headers["Authorization"] = f"Bearer {server._key}"
        limits = httpx2.Limits(max_connections=server._parallel)
        timeout = httpx2.Timeout(server._timeout_s, connect=min(CONNECT_S, server._timeout_s), pool=None)
        # A proxy of the environment is for other machines, never for this one.
        async with httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=timeout, follow_redirects=False, trust_env=not server._loopback
        ) as client:
            workers = [asyncio.ensure_future(work()) for _ in range(min(server._parallel, len(questions)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, client: httpx2.AsyncClient, question: Question) -> Answer:
        """One question, its request repeated as often as that may help."""
        server = self._server
        begun: float | None = None
        attempt = n_slow = 0
        while True:
            await self._turn()
            begun = server._clock() if begun is None else begun
            body = server._body(question)
            try:
                answer = self._read(await self._post(client, body), body)
            except _Otherwise:
                continue
            except _Again as error:
                again = error
            else:
                self._reached, self._lost_in_a_row = True, 0
                if isinstance(answer, ChatFailure) and answer.kind == "failed":
                    self._count_refused(answer)
                else:
                    self._n_answered += 1
                return answer
            self._reached = self._reached or again.reached
            wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2**attempt) * (0.5 + random.random() / 2)  # noqa: S311
            if again.after_s is not None:
                wait_s = again.after_s
            attempt += 1
            n_slow += again.too_slow
            if (
                attempt > server._retries
                or n_slow > SLOW_RETRIES
                or server._clock() - begun + wait_s > server._deadline_s
            ):
                waits = f", which asks to wait {wait_s:.0f} s" if again.after_s and attempt <= server._retries else ""
                return self._lost(f"{again}{waits}", attempt, again.too_slow)
            self._tell(str(again))
            if again.after_s is not None:  # a wait that the server asks for is meant for all
                self._next_turn = max(self._next_turn, server._clock() + wait_s)
            else:
                await server._sleep(wait_s)

    async def _turn(self) -> None:
        """Wait until the rate and the server allow one more request."""
        server = self._server
        while (left_s := self._next_turn - server._clock()) > 0:
            await server._sleep(left_s)
        self._next_turn = max(self._next_turn, server._clock()) + server._gap_s

    def _tell(self, reason: str) -> None:
        """Say, once a reason, that something is tried again: the wait may be long."""
        if reason not in self._told and len(self._told) < MAX_TOLD:
            log.info("%s: %s; asked again", self._server.url, reason)
        self._told.add(reason)

    def _lost(self, reason: str, n_requests: int, too_slow: bool) -> ChatFailure:
        """A question given up. After several in a row without an answer between them, the server is taken for gone."""
        server = self._server
        self._lost_in_a_row += 1
        asked = f"asked {n_requests} time{'' if n_requests == 1 else 's'}"
        if not self._reached:
            hint = "give it more time for an answer, or take a smaller model" if too_slow else "is it a chat server?"
            raise ChatServerError(f"{server.url}: {reason} ({asked}); {hint}")
        if self._lost_in_a_row >= self._patience:
            why = f"the server answered none of {self._lost_in_a_row} questions in a row; the last one: {reason}"
            if not self._n_answered:
                raise ChatServerError(f"{server.url}: {why}")
            self._gone = why
        return ChatFailure("failed", f"{reason} ({asked})")

    def _count_refused(self, failure: ChatFailure) -> None:
        """Stop where the server refuses one request after another before it has answered any: it is not the question."""
        self._n_refused += 1
        if not (self._known or self._n_answered) and self._n_refused >= self._patience:
            raise ChatServerError(
                f"{self._server.url}: refused each of the first {self._n_refused} requests; the last one: {failure.reason}"
            )

    @property
    def _patience(self) -> int:
        """Questions in a row without an answer after which the server is given up."""
        return max(2 * self._server._parallel, 5)

    async def _post(self, client: httpx2.AsyncClient, body: Mapping[str, Any]) -> _Reply:
        """One request and its whole reply, within the timeout."""
        import httpx2

        server = self._server
        try:
            return await asyncio.wait_for(self._fetch(client, body), server._timeout_s)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            reason = server._shown(str(error)) or type(error).__name__
            if not self._reached:
                raise ChatServerError(
                    f"{server.url}: expected a chat server, cannot connect: {reason}; start one there (for example "
                    "`mlx_lm.server --model MODEL --port PORT`) or give its address"
                ) from None
            raise _Again(f"cannot connect: {reason}", reached=False) from None
        except (httpx2.TimeoutException, asyncio.TimeoutError):
            raise _Again(f"no answer within {server._timeout_s:g} s", reached=False, too_slow=True) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            reason = server._shown(str(error)) or type(error).__name__
            raise _Again(f"the connection broke: {reason}", reached=False) from None

    async def _fetch(self, client: httpx2.AsyncClient, body: Mapping[str, Any]) -> _Reply:
        server = self._server
        content, n_bytes = [], 0
        async with client.stream("POST", server._endpoint, content=json.dumps(body).encode()) as response:
            async for chunk in response.aiter_bytes():
                n_bytes += len(chunk)
                if n_bytes > MAX_BYTES:
                    raise _Again(f"a reply of more than {MAX_BYTES // 1_000_000} MB")
                content.append(chunk)
            text = b"".join(content).decode("utf-8", errors="replace")
            return _Reply(response.status_code, response.headers, server._without_secrets(text))

    def _read(self, reply: _Reply, sent: Mapping[str, Any]) -> Answer:
        """The answer in a reply, or what it says instead."""
        server, status = self._server, reply.status
        content = _json(reply.text)
        error = content.get("error") if isinstance(content, dict) else None
        said = error.get("message") if isinstance(error, dict) else error
        message = server._shown(said if isinstance(said, str) and said else reply.text) or "an empty reply"
        if 300 <= status < 400:
            target = _without_credentials(server._without_secrets(reply.headers.get("location", "")))
            raise ChatServerError(
                f"{server.url}: expected an answer, got a redirect to {server._shown(target)!r}, which is not followed, as "
                "the key and the texts are meant for this address alone; give the other one if you trust it"
            )
        if status in (401, 403):
            key = "no key was sent" if server._key is None else "the key was refused"
            raise ChatServerError(
                f"{server.url}: {key} (status {status}: {message}); set {KEYS[0]} to a key of this server"
            )
        if status in (404, 405):
            raise ChatServerError(
                f"{server.url}: expected model {server.model!r} there, got status {status}: {message}; check the address "
                "and the model's name (its /v1/models lists them)"
            )
        code = error.get("code") if isinstance(error, dict) else None
        if status == 402 or (status == 429 and code in OUT_OF_MONEY):
            raise ChatServerError(f"{server.url}: the account has nothing left to spend (status {status}: {message})")
        if status in AGAIN or status >= 500:
            raise _Again(f"status {status}: {message}", _retry_after_s(reply.headers))
        if status >= 400:
            self._leave_out(message, error, sent)
            return ChatFailure("failed", f"status {status}: {message}")
        if content is None:
            kind = server._shown(reply.headers.get("content-type", "no content type"))
            raise _Again(f"expected JSON, got {kind}: {message}")
        if error:
            raise _Again(f"status {status} with an error: {message}")
        return self._choice(content, sent)

    def _choice(self, content: Any, sent: Mapping[str, Any]) -> Answer:
        try:
            choice = content["choices"][0]
            said = choice["message"]
            text, refusal, end = said.get("content"), said.get("refusal"), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            shown = self._server._shown(json.dumps(content))
            raise _Again(f"expected choices[0].message.content, got {shown}") from None
        if text is not None and not isinstance(text, str):
            raise _Again(f"expected choices[0].message.content to be text, got {self._server._shown(repr(text))}")
        text = (text or "").encode("utf-8", errors="replace").decode()  # half a surrogate pair fits in no file
        if isinstance(refusal, str) and refusal:
            return ChatFailure("refused", self._server._shown(refusal), text)
        if end == "content_filter":
            return ChatFailure("refused", "held back by the server's content filter", text)
        if end == "length":
            limit = sent.get("max_tokens", sent.get(OTHER_NAMES["max_tokens"]))
            return ChatFailure("cut", f"cut at {limit} tokens", text)
        return text

    def _leave_out(self, message: str, error: Any, sent: Mapping[str, Any]) -> None:
        """Give up a setting that the server refuses by name, once; the question is then asked anew."""
        server = self._server
        parameter, code = (error.get("param"), error.get("code")) if isinstance(error, dict) else (None, None)
        for name, other in OTHER_NAMES.items():
            if name in sent and other in message:
                server._left_out.add(name)
                raise _Otherwise
        if parameter in OPTIONAL and parameter in sent and str(code).startswith("unsupported"):
            if parameter not in server._left_out:
                log.warning("%s: %s does not take %s; asked without it", server.url, server.model, parameter)
            server._left_out.add(parameter)
            raise _Otherwise


def _addresses(url: str) -> tuple[str, str, list[str]]:
    """Where requests go, how that is shown (no credentials, no query), and what of it is secret.

    Raises:
        Misuse: Not the address of a server.
    """
    expected = "expected the address of a chat server, such as http://127.0.0.1:8080"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Misuse(f"{expected}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Misuse(f"{expected}, got {_without_credentials(url)!r}")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    whole = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path.removesuffix("/chat/completions"), "", ""))
    values = [value for pair in parts.query.split("&") for value in (pair.partition("=")[2],)]
    return whole, shown, [parts.password or "", parts.query, *values]


def _without_credentials(url: str) -> str:
    """An address without user, password, query and fragment, also where it is no proper one.

    >>> _without_credentials("https://me:secret@host/v1?key=secret")
    'https://host/v1'
    """
    return re.sub(r"^([^/?#]*//)?[^/?#]*@", r"\1", re.split(r"[?#]", url.strip(), maxsplit=1)[0])


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None without a readable one."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
