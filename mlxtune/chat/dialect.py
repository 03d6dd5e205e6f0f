"""How one server's dialect of the protocol differs: the settings that it does not know, or by another name. Sends nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mlxtune.chat.question import Question

# A server that does not know one of these says so, and is asked without it (or by its other name) from then on.
OTHER_NAMES = {"max_tokens": "max_completion_tokens"}
OPTIONAL = ("temperature", "seed")

log = logging.getLogger(__name__)


class Dialect:
    """What a server takes, as far as it is known; its refusals teach the rest.

    Args:
        url: The server's address, for messages.
        model: Its name there.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model
        self._left_out: set[str] = set()

    def body(self, question: Question) -> dict[str, Any]:
        """A request's body."""
        settings = {"max_tokens": question.max_tokens, "temperature": question.temperature, "seed": question.seed}
        if "max_tokens" in self._left_out:
            settings[OTHER_NAMES["max_tokens"]] = settings.pop("max_tokens")
        settings = {name: value for name, value in settings.items() if value is not None and name not in self._left_out}
        return {"model": self._model, "messages": [dict(message) for message in question.messages], **settings}

    def learn(self, message: str, error: Any, body: Mapping[str, Any]) -> bool:
        """Give up a setting that the server refuses by name, once; whether the question should be sent again.

        Args:
            message: What the server says.
            error: The same as it sent it.
            body: What it was sent.
        """
        parameter, code = (error.get("param"), error.get("code")) if isinstance(error, dict) else (None, None)
        for name, other in OTHER_NAMES.items():
            if name in body and other in message:
                self._left_out.add(name)
                return True
        if parameter in OPTIONAL and parameter in body and str(code).startswith("unsupported"):
            if parameter not in self._left_out:
                log.warning(
                    "%s: %s does not support %s; requests are sent without it", self._url, self._model, parameter
                )
            self._left_out.add(parameter)
            return True
        return False


def max_tokens_of(body: Mapping[str, Any]) -> Any:
    """The limit of an answer that a request names, by whichever name."""
    return body.get("max_tokens", body.get(OTHER_NAMES["max_tokens"]))
