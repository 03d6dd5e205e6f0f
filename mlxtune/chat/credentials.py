"""The key of a chat server, and texts without it. Sends nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable

KEYS = ("MLXTUNE_API_KEY", "OPENAI_API_KEY")  # where a key is looked for, in this order
SECRET_CHARS = 12  # shorter "keys" are placeholders, such as EMPTY, and words of answers


def chat_key() -> str | None:
    """The key from the environment: $MLXTUNE_API_KEY, else $OPENAI_API_KEY, else None."""
    return next((key for name in KEYS if (key := os.environ.get(name, "").strip())), None)


class Redaction:
    """Takes secrets out of what a server sends, which may repeat them.

    Args:
        secrets: Key, password, query; short ones are no secrets.

    >>> Redaction(["sk-0123456789"]).line("bad key sk-0123456789,\\n try again")
    'bad key ***, try again'
    """

    def __init__(self, secrets: Iterable[str | None]) -> None:
        self._secrets = [text for text in secrets if text and len(text) >= SECRET_CHARS]

    def text(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def line(self, text: str, length: int = 200) -> str:
        """A text for a message: one line, without secrets, without control characters, shortened to a length."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self.text(text)).split())
        return line if len(line) <= length else line[: length - 3] + "..."
