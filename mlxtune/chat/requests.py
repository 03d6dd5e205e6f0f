"""Questions sent to a chat server: several at a time, repeated where that may help, at a common pace. Keeps no answer."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlxtune.chat.address import Address
from mlxtune.chat.credentials import Redaction
from mlxtune.chat.dialect import Dialect
from mlxtune.chat.question import Answer, ChatFailure, ChatServerError, Question
from mlxtune.chat.reply import AskedOtherwise, HttpReply, ReplyReader, Retriable

if TYPE_CHECKING:
    import httpx2

CONNECT_S = 10.0
FIRST_WAIT_S = 0.5  # before the first repetition; doubled before each further one
MAX_WAIT_S = 30.0
SLOW_RETRIES = 1  # of requests that were not answered in time
MAX_LOGGED = 5  # reasons logged while it goes on
MAX_BYTES = 16_000_000  # of one reply; a chat answer has thousands

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Endpoint:
    """Where questions go, and how they are put there.

    Attributes:
        address: The server's.
        key: Sent as bearer token; None sends none.
        redaction: Takes secrets out of what the server says.
        dialect: What the server takes.
        reader: Reads its replies.
    """

    address: Address
    key: str | None
    redaction: Redaction
    dialect: Dialect
    reader: ReplyReader

    @property
    def url(self) -> str:
        """Its address, for messages."""
        return self.address.shown


@dataclass(frozen=True)
class Pace:
    """How fast questions are asked, and how long they are waited for.

    Attributes:
        timeout_s: For one request, from sending it to the last byte of its reply.
        retries: Repetitions of a request that failed for a reason that may pass.
        parallel: Requests at a time.
        gap_s: Between two requests at least.
        deadline_s: For one question with all its repetitions: none is begun later.
        sleep: Waits.
        clock: Seconds, as `sleep` counts them.
    """

    timeout_s: float
    retries: int
    parallel: int
    gap_s: float
    deadline_s: float
    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float]


class Requests:
    """The requests of one call for answers: their common pace, and whether the server is still there.

    Args:
        endpoint: Asked.
        pace: How fast.
        put: Called with the name of a question and what became of it.
        is_known: The server has answered such questions before, so that what it refuses is the question's fault.
    """

    def __init__(self, endpoint: Endpoint, pace: Pace, put: Callable[[str, Answer], None], is_known: bool) -> None:
        self._endpoint, self._pace, self._put, self._is_known = endpoint, pace, put, is_known
        self._next_turn = float("-inf")  # on the pace's clock
        self._reached = False
        self._n_answered = self._n_refused = 0
        self._lost_in_a_row = 0
        self._why_gone: str | None = None  # why nothing more is asked
        self._logged: set[str] = set()

    async def run(self, questions: Mapping[str, Question]) -> None:
        """Ask `parallel` questions at a time; what becomes of each goes to `put`."""
        import httpx2

        endpoint, pace = self._endpoint, self._pace
        left = iter(questions.items())

        async def work() -> None:
            for name, question in left:
                if self._why_gone is not None:
                    self._put(name, ChatFailure("failed", f"not asked: {self._why_gone}"))
                else:
                    self._put(name, await self._answer(client, question))

        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if endpoint.key is not None:
            headers["Authorization"] = f"Bearer {endpoint.key}"
        limits = httpx2.Limits(max_connections=pace.parallel)
        timeout = httpx2.Timeout(pace.timeout_s, connect=min(CONNECT_S, pace.timeout_s), pool=None)
        uses_proxy = (
            not endpoint.address.is_loopback
        )  # one in the environment is for other machines, never for this one
        async with httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=timeout, follow_redirects=False, trust_env=uses_proxy
        ) as client:
            workers = [asyncio.ensure_future(work()) for _ in range(min(pace.parallel, len(questions)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _answer(self, client: httpx2.AsyncClient, question: Question) -> Answer:
        """One question, its request repeated as often as that may help."""
        pace = self._pace
        begun: float | None = None
        attempt = n_slow = 0
        while True:
            await self._turn()
            begun = pace.clock() if begun is None else begun
            body = self._endpoint.dialect.body(question)
            try:
                answer = self._endpoint.reader.read(await self._post(client, body), body)
            except AskedOtherwise:
                continue
            except Retriable as error:
                failed = error
            else:
                self._count(answer)
                return answer
            self._reached = self._reached or failed.reached
            wait_s = min(MAX_WAIT_S, FIRST_WAIT_S * 2**attempt) * (0.5 + random.random() / 2)  # noqa: S311
            if failed.after_s is not None:
                wait_s = failed.after_s
            attempt += 1
            n_slow += failed.too_slow
            too_late = pace.clock() - begun + wait_s > pace.deadline_s
            if attempt > pace.retries or n_slow > SLOW_RETRIES or too_late:
                waits = f", which asks to wait {wait_s:.0f} s" if failed.after_s and attempt <= pace.retries else ""
                return self._lost(f"{failed}{waits}", attempt, failed.too_slow)
            self._log_once(str(failed))
            if failed.after_s is not None:  # a wait that the server asks for is meant for all
                self._next_turn = max(self._next_turn, pace.clock() + wait_s)
            else:
                await pace.sleep(wait_s)

    async def _turn(self) -> None:
        """Wait until the rate and the server allow one more request."""
        pace = self._pace
        while (left_s := self._next_turn - pace.clock()) > 0:
            await pace.sleep(left_s)
        self._next_turn = max(self._next_turn, pace.clock()) + pace.gap_s

    def _log_once(self, reason: str) -> None:
        """Say, once a reason, that something is asked again: the wait may be long."""
        if reason not in self._logged and len(self._logged) < MAX_LOGGED:
            log.info("%s: %s; trying again", self._endpoint.url, reason)
        self._logged.add(reason)

    def _count(self, answer: Answer) -> None:
        """Note that the server has replied.

        Raises:
            ChatServerError: It refuses one request after another before it has answered any: it is not the question.
        """
        self._reached, self._lost_in_a_row = True, 0
        if not (isinstance(answer, ChatFailure) and answer.kind == "failed"):
            self._n_answered += 1
            return
        self._n_refused += 1
        if not (self._is_known or self._n_answered) and self._n_refused >= self._patience:
            raise ChatServerError(
                f"{self._endpoint.url}: refused each of the first {self._n_refused} requests; the last reason: {answer.reason}"
            )

    def _lost(self, reason: str, n_requests: int, too_slow: bool) -> ChatFailure:
        """A question given up. After several in a row without an answer between them, the server is taken for gone."""
        url = self._endpoint.url
        self._lost_in_a_row += 1
        asked = f"asked {n_requests} time{'' if n_requests == 1 else 's'}"
        if not self._reached:
            hint = "raise the timeout, or use a smaller model" if too_slow else "is it a chat server?"
            raise ChatServerError(f"{url}: {reason} ({asked}); {hint}")
        if self._lost_in_a_row >= self._patience:
            why = f"{self._lost_in_a_row} questions in a row got no answer; the last reason: {reason}"
            if not self._n_answered:
                raise ChatServerError(f"{url}: {why}")
            self._why_gone = why
        return ChatFailure("failed", f"{reason} ({asked})")

    @property
    def _patience(self) -> int:
        """Questions in a row without an answer after which the server is given up."""
        return max(2 * self._pace.parallel, 5)

    async def _post(self, client: httpx2.AsyncClient, body: Mapping[str, Any]) -> HttpReply:
        """One request and its whole reply, within the timeout."""
        import httpx2

        endpoint, timeout_s = self._endpoint, self._pace.timeout_s
        try:
            return await asyncio.wait_for(self._fetch(client, body), timeout_s)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            reason = endpoint.redaction.line(str(error)) or type(error).__name__
            if not self._reached:
                raise ChatServerError(
                    f"{endpoint.url}: expected a chat server, cannot connect: {reason}; start one there (for example "
                    "`mlx_lm.server --model MODEL --port PORT`) or give its address"
                ) from None
            raise Retriable(f"cannot connect: {reason}", reached=False) from None
        except (httpx2.TimeoutException, asyncio.TimeoutError):
            raise Retriable(f"no answer within {timeout_s:g} s", reached=False, too_slow=True) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            reason = endpoint.redaction.line(str(error)) or type(error).__name__
            raise Retriable(f"the connection broke: {reason}", reached=False) from None

    async def _fetch(self, client: httpx2.AsyncClient, body: Mapping[str, Any]) -> HttpReply:
        endpoint = self._endpoint
        content, n_bytes = [], 0
        async with client.stream("POST", endpoint.address.endpoint, content=json.dumps(body).encode()) as response:
            async for chunk in response.aiter_bytes():
                n_bytes += len(chunk)
                if n_bytes > MAX_BYTES:
                    raise Retriable(f"a reply of more than {MAX_BYTES // 1_000_000} MB")
                content.append(chunk)
            text = b"".join(content).decode("utf-8", errors="replace")
            return HttpReply(response.status_code, response.headers, endpoint.redaction.text(text))
