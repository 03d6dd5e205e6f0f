"""What a chat server's HTTP reply means: an answer, a failure of this question, or a reason to stop. Sends nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from mlxtune.chat.address import without_credentials
from mlxtune.chat.credentials import KEYS, Redaction
from mlxtune.chat.dialect import Dialect, max_tokens_of
from mlxtune.chat.question import Answer, ChatFailure, ChatServerError

RETRIABLE = (408, 409, 425, 429)  # worth another attempt, as every 5xx is
OUT_OF_MONEY = ("insufficient_quota", "billing_hard_limit_reached")  # 429s that no waiting helps


@dataclass(frozen=True)
class HttpReply:
    """A reply as it arrived, without secrets."""

    status: int
    headers: Mapping[str, str]
    text: str


class Retriable(Exception):
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


class AskedOtherwise(Exception):
    """The server does not know a setting, which is left out from now on."""


@dataclass(frozen=True)
class ReplyReader:
    """Reads the replies of one server.

    Attributes:
        url: Its address, for messages.
        model: Its name there.
        has_key: Whether a key is sent.
        redaction: Takes secrets out of what it says.
        dialect: Learns what it does not take.
    """

    url: str
    model: str
    has_key: bool
    redaction: Redaction
    dialect: Dialect

    def read(self, reply: HttpReply, body: Mapping[str, Any]) -> Answer:
        """The answer in a reply, or what it says instead.

        Args:
            reply: The reply.
            body: What was sent.

        Raises:
            ChatServerError: No question can be answered there.
            Retriable: The same request may succeed later.
            AskedOtherwise: Another request may succeed at once.
        """
        status = reply.status
        content = _json(reply.text)
        error = content.get("error") if isinstance(content, dict) else None
        said = error.get("message") if isinstance(error, dict) else error
        message = self.redaction.line(said if isinstance(said, str) and said else reply.text) or "an empty reply"
        self._require_possible(reply, error, message)
        if status in RETRIABLE or status >= 500:
            raise Retriable(f"status {status}: {message}", _retry_after_s(reply.headers))
        if status >= 400:
            if self.dialect.learn(message, error, body):
                raise AskedOtherwise
            return ChatFailure("failed", f"status {status}: {message}")
        if content is None:
            kind = self.redaction.line(reply.headers.get("content-type", "no content type"))
            raise Retriable(f"expected JSON, got {kind}: {message}")
        if error:
            raise Retriable(f"status {status} with an error: {message}")
        return self._answer(content, body)

    def _require_possible(self, reply: HttpReply, error: Any, message: str) -> None:
        """Raise ChatServerError where every question would have the same reply."""
        status = reply.status
        if 300 <= status < 400:
            target = without_credentials(self.redaction.text(reply.headers.get("location", "")))
            raise ChatServerError(
                f"{self.url}: expected an answer, got a redirect to {self.redaction.line(target)!r}; "
                "redirects are not followed, because they would send the key and the texts to another address; if you trust that "
                "address, give it instead"
            )
        if status in (401, 403):
            key = "the key was refused" if self.has_key else "no key was sent"
            raise ChatServerError(
                f"{self.url}: {key} (status {status}: {message}); set {KEYS[0]} to a key of this server"
            )
        if status in (404, 405):
            raise ChatServerError(
                f"{self.url}: expected the model {self.model!r} on this server, got status {status}: {message}; check the address "
                "and the model's name (its /v1/models lists them)"
            )
        code = error.get("code") if isinstance(error, dict) else None
        if status == 402 or (status == 429 and code in OUT_OF_MONEY):
            raise ChatServerError(f"{self.url}: the account has no credit left (status {status}: {message})")

    def _answer(self, content: Any, body: Mapping[str, Any]) -> Answer:
        try:
            choice = content["choices"][0]
            said = choice["message"]
            text, refusal, end = said.get("content"), said.get("refusal"), choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            shown = self.redaction.line(json.dumps(content))
            raise Retriable(f"expected choices[0].message.content, got {shown}") from None
        if text is not None and not isinstance(text, str):
            raise Retriable(f"expected choices[0].message.content to be text, got {self.redaction.line(repr(text))}")
        text = (text or "").encode("utf-8", errors="replace").decode()  # half a surrogate pair fits in no file
        if isinstance(refusal, str) and refusal:
            return ChatFailure("refused", self.redaction.line(refusal), text)
        if end == "content_filter":
            return ChatFailure("refused", "held back by the server's content filter", text)
        if end == "length":
            return ChatFailure("cut", f"cut at {max_tokens_of(body)} tokens", text)
        return text


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
