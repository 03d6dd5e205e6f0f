"""A chat server that speaks OpenAI's protocol (mlx_lm.server, vLLM, Ollama, OpenAI), each question paid for once. No prompts.

    server = ChatServer("http://127.0.0.1:8080", "default_model", cache=Path("answers"), key=chat_key())
    server.answers([Question(({"role": "user", "content": "Say yes."},), max_tokens=8)])  # ['Yes.']

Requests go out a few at a time from an event loop in a thread of its own, so that a notebook, which has a loop already,
can call this too, and Ctrl-C ends them at once. Answers lie in the cache before the next one is waited for.

The key goes to the given host alone: redirects are refused, not followed. It is in no message, no cache entry, no repr.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mlxtune.chat.address import Address
from mlxtune.chat.cache import AnswerCache, answers_folder, question_hash
from mlxtune.chat.credentials import KEYS, Redaction, chat_key
from mlxtune.chat.dialect import Dialect
from mlxtune.chat.question import Answer, ChatFailure, ChatServerError, Question
from mlxtune.chat.reply import ReplyReader
from mlxtune.chat.requests import MAX_WAIT_S, Endpoint, Pace, Requests
from mlxtune.errors import Misuse

# What crosses the room's door.
__all__ = ["Answer", "ChatFailure", "ChatServer", "ChatServerError", "Question", "answers_folder", "chat_key"]

log = logging.getLogger(__name__)


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
        address = Address.of(url)
        self.url = address.shown
        key = (key or "").strip() or None
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ChatServerError(
                f"{self.url}: the API key has characters that an HTTP header cannot hold; correct {KEYS[0]}"
            )
        if not model.strip():
            raise Misuse(f"{self.url}: expected the name of a model on this server, got {model!r}")
        for name, value, lowest in (("timeout_s", timeout_s, 1e-3), ("retries", retries, 0), ("parallel", parallel, 1)):
            if value < lowest:
                raise Misuse(f"{name}: expected {lowest:g} or more, got {value:g}")
        if requests_per_minute is not None and requests_per_minute <= 0:
            raise Misuse(f"requests_per_minute: expected more than 0, got {requests_per_minute:g}")
        self.model = model.strip()
        self.cache = cache
        self._answers = AnswerCache(cache)
        redaction, dialect = Redaction([key, *address.secrets]), Dialect(self.url, self.model)
        reader = ReplyReader(self.url, self.model, key is not None, redaction, dialect)
        self._endpoint = Endpoint(address, key, redaction, dialect, reader)
        gap_s = 60 / requests_per_minute if requests_per_minute else 0.0
        if deadline_s is None:
            deadline_s = (retries + 1) * (timeout_s + MAX_WAIT_S)
        self._pace = Pace(timeout_s, retries, parallel, gap_s, deadline_s, sleep, clock)
        if key is not None and address.is_plain and not address.is_loopback:
            log.warning("%s: the API key is sent unencrypted over http, where others can read it; use https", self.url)

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
            places.setdefault(question_hash(self.url, self.model, question), []).append(place)
        found = {name: answer for name in places if (answer := self._answers.get(name)) is not None}
        n_cached = sum(len(places[name]) for name in found)
        if n_cached:
            on_answer(n_cached)
        missing = {name: questions[where[0]] for name, where in places.items() if name not in found}

        def keep(name: str, answer: Answer) -> None:
            found[name] = answer
            self._answers.put(name, answer)
            on_answer(len(places[name]))

        if missing:
            self._ask(missing, keep, is_known=bool(found))
        of_place = {place: found[name] for name, where in places.items() for place in where}
        return [of_place[place] for place in range(len(questions))]

    def _ask(self, questions: Mapping[str, Question], keep: Callable[[str, Answer], None], is_known: bool) -> None:
        """Ask from a thread with a loop, and hand every answer to `keep` in this one; `is_known` as `Requests` has it.

        Where an error or Ctrl-C ends it, what has arrived by then goes to the cache alone.
        """
        arrived: queue.SimpleQueue[tuple[str, Answer] | BaseException | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        requests = Requests(self._endpoint, self._pace, lambda name, answer: arrived.put((name, answer)), is_known)
        task = loop.create_task(requests.run(questions))

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
                    self._answers.put(*item)
