"""Answers kept between runs, so that each is paid for once. Asks no server."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from mlxtune.chat.question import Answer, ChatFailure, Question
from mlxtune.files import cache_folder, write_json

CACHE_VERSION = 1

log = logging.getLogger(__name__)


def answers_folder() -> Path:
    """Where answers are kept between runs, beside the converted models: `answers` in $MLXTUNE_CACHE or ~/.cache/mlxtune."""
    return cache_folder() / "answers"


def question_hash(url: str, model: str, question: Question) -> str:
    """SHA-256 of all that an answer depends on.

    Args:
        url: The server's address without credentials, so that no secret is in it.
        model: Its name there.
        question: What it is asked.
    """
    messages = [dict(message) for message in question.messages]
    settings = [question.max_tokens, question.temperature, question.seed]
    content = json.dumps([CACHE_VERSION, url, model, messages, settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerCache:
    """A folder of answers, one file each; several processes may share it.

    Args:
        folder: Made when needed. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._has_warned = False

    def get(self, name: str) -> Answer | None:
        """What was answered before; None if nothing was, or the file holds something else and will be rewritten.

        Args:
            name: The question's hash.
        """
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

    def put(self, name: str, answer: Answer) -> None:
        """Keep what the model said. A request that failed is no answer, and is asked again the next time."""
        file = self._file(name)
        if file is None or (isinstance(answer, ChatFailure) and answer.kind == "failed"):
            return
        said = {"kind": "answer", "text": answer} if isinstance(answer, str) else vars(answer)
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(file, {"question": name, **said})
        except OSError as error:  # a full disk loses the next run's savings, not this run's answers
            if not self._has_warned:
                log.warning(
                    "%s: cannot be written: %s; answers are not cached, so the next run asks for them again",
                    self.folder,
                    error,
                )
            self._has_warned = True

    def _file(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name[:2] / f"{name}.json"
