"""A conversation: the messages before a reply, the tools that the model may call, and the rules that messages keep.

Read from what users' files hold, of whatever format (`formats.py`); no tokenizer and no chat template here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
# What files call the roles, in messages and in ShareGPT's turns.
ROLES = {
    "system": SYSTEM, "developer": SYSTEM, "user": USER, "human": USER, "assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT,
    "chatgpt": ASSISTANT, "bot": ASSISTANT, "function_call": ASSISTANT, "tool": TOOL, "function": TOOL, "observation": TOOL,
    "function_response": TOOL, "tool_response": TOOL,
}  # fmt: skip
MAY_FOLLOW: dict[str | None, tuple[str, ...]] = {
    None: (SYSTEM, USER),
    SYSTEM: (USER,),
    USER: (ASSISTANT,),
    ASSISTANT: (USER, TOOL),
    TOOL: (TOOL, ASSISTANT),
}
THINKING_BEGIN, THINKING_END = "<think>", "</think>"
TOOL_CALL = '<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'  # as Qwen's and Hermes' templates write one
_UNTRAINED = "weight"  # OpenAI's key: 0 on an assistant message that is shown and not trained


@dataclass(frozen=True)
class FoundFormat:
    """The format of a file's records, and how it is known."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What stands before a reply.

    Attributes:
        messages: As chat templates take them, the system message first if there is one; none where the reply is a document.
        tools: JSON schemas of the functions that the model may call.
        thinking: What the file has the model think before the reply.
        called: The reply's message, where it calls tools: their text is the chat template's to write.
        found: The format of its file.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: str = ""
    called: Message | None = None
    found: FoundFormat = field(default=FoundFormat("messages", "made in memory"))

    @property
    def is_document(self) -> bool:
        """Whether nothing is asked: the text itself is trained on."""
        return not self.messages

    @property
    def system(self) -> str | None:
        """Its own system message."""
        first = self.messages[0] if self.messages else {}
        return str(first["content"]) if first.get("role") == SYSTEM else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system message."""
        return self.messages if self.system is None else self.messages[1:]

    @property
    def question(self) -> str:
        """What the user said last."""
        return next((str(one["content"]) for one in reversed(self.messages) if one["role"] == USER), "")

    @property
    def transcript(self) -> str | None:
        """All turns, each after its role; None where there is one alone."""
        turns = self.turns
        return "\n\n".join(f"{one['role']}: {_shown(one)}" for one in turns) if len(turns) > 1 else None

    @property
    def compared(self) -> str:
        """The text by which two conversations are the same: all that was said but the system message."""
        return "\n".join(_shown(one) for one in self.turns)

    @property
    def task(self) -> tuple[str, str]:
        """What else must be the same for that: another system message or other tools ask for another reply."""
        return self.system or "", json.dumps(self.tools, sort_keys=True, ensure_ascii=False) if self.tools else ""

    @property
    def supervised(self) -> tuple[int, ...]:
        """Places of the assistant's messages among `messages`, but those that the file marks as not to be trained."""
        return tuple(
            at for at, one in enumerate(self.messages) if one["role"] == ASSISTANT and one.get(_UNTRAINED, 1) != 0
        )

    def as_record(self, reply: str) -> dict[str, Any]:
        """The conversation with its reply, in the format `messages`."""
        thought = f"{THINKING_BEGIN}\n{self.thinking}\n{THINKING_END}\n\n" if self.thinking else ""
        content = f"{thought}{self.called['content'] if self.called else reply}"
        last = {**(self.called or {"role": ASSISTANT}), "content": content}
        tools = {"tools": list(self.tools)} if self.tools else {}
        return {"messages": [*self.messages, last], **tools}


@dataclass(frozen=True)
class Answered:
    """A conversation and the reply that ends it."""

    conversation: Conversation
    reply: str


def answered(turns: Sequence[Message], tools: Any, found: FoundFormat) -> Answered:
    """A conversation up to its last assistant message, which is the reply; what comes after that is left out.

    Args:
        turns: Messages with `role` and `content`, as a file has them.
        tools: JSON schemas, or their JSON text, or nothing.
        found: The format of the file.

    Raises:
        ValueError: They are no conversation; says which message is wrong.
    """
    messages = [message(one, at) for at, one in enumerate(turns, start=1)]
    _check_order(messages)
    last = max((at for at, one in enumerate(messages) if one["role"] == ASSISTANT), default=None)
    if last is None:
        raise ValueError("expected a turn of the assistant, got none; there is nothing to learn")
    reply = messages[last]
    if reply.get(_UNTRAINED, 1) == 0:
        raise ValueError("the last turn of the assistant has weight 0; there is nothing to learn, leave the row out")
    thinking, said = _thought(reply)
    calls = reply.get("tool_calls", ())
    text = "\n".join([*([said] if said else []), *map(_call_text, calls)])
    called = {"role": ASSISTANT, "content": said, "tool_calls": calls} if calls else None
    return Answered(Conversation(tuple(messages[:last]), _tools(tools), thinking, called, found), text)


def asked(turns: Sequence[Message], tools: Any = None) -> Conversation:
    """A conversation whose reply is still to come.

    Args:
        turns: Messages with `role` and `content`; the last is the user's, or a tool's.
        tools: As for `answered`.

    Raises:
        ValueError: They are no such conversation.
    """
    messages = [message(one, at) for at, one in enumerate(turns, start=1)]
    _check_order(messages)
    if messages[-1]["role"] not in (USER, TOOL):
        raise ValueError(
            f"message {len(messages)}: expected the last to be of user or tool, got {messages[-1]['role']}"
        )
    return Conversation(tuple(messages), _tools(tools))


def message(given: Any, at: int) -> dict[str, Any]:
    """A message as chat templates take it.

    Args:
        given: As a file has it.
        at: Its place, from 1, for messages.

    Raises:
        ValueError: It has no role that is known, or its content is no text.
    """
    place = f"message {at}"
    if not isinstance(given, Mapping) or "role" not in given:
        raise ValueError(f"{place}: expected an object with role and content, got {_short(given)}")
    role = ROLES.get(str(given["role"]).lower())
    if role is None:
        raise ValueError(
            f"{place}: expected the role {', '.join(dict.fromkeys(ROLES.values()))}, got {given['role']!r}"
        )
    found: dict[str, Any] = {"role": role, "content": _text(given.get("content"), place)}
    if calls := given.get("tool_calls"):
        found["tool_calls"] = [_call(one, place) for one in _parsed(calls, list, f"{place}: tool_calls")]
    elif given.get("content") is None:
        raise ValueError(f"{place}: expected text as its content, got none")
    for key in ("name", "tool_call_id", "reasoning_content", _UNTRAINED):
        if given.get(key) not in (None, ""):
            found[key] = given[key]
    if role == ASSISTANT and given.get("thinking"):
        found["reasoning_content"] = given["thinking"]
    return found


def _check_order(messages: Sequence[Message]) -> None:
    if not messages:
        raise ValueError("expected messages, got an empty list")
    before = None
    for at, one in enumerate(messages, start=1):
        role = one["role"]
        if role == SYSTEM and at > 1:
            twice = messages[0]["role"] == SYSTEM
            raise ValueError(
                f"message {at}: expected one system message, the first, got {'a second one' if twice else 'one here'}"
            )
        if role not in MAY_FOLLOW[before]:
            after = f"after {before}" if before else "first"
            raise ValueError(f"message {at}: expected {' or '.join(MAY_FOLLOW[before])} {after}, got {role}")
        before = role


def _text(content: Any, place: str) -> str:
    """Text, or the texts of parts that are all text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise ValueError(f"{place}: expected text as its content, got {_short(content)}")
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text" or not isinstance(text, str):
            raise ValueError(
                f"{place}: expected text as its content, got a part of type {kind!r}; only text is trained on"
            )
        texts.append(text)
    return "".join(texts)


def _call(given: Any, place: str) -> dict[str, Any]:
    """A call of a tool in OpenAI's form, its arguments an object: templates write them as JSON themselves."""
    function = given.get("function", given) if isinstance(given, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"{place}: expected calls of tools as {{function: {{name, arguments}}}}, got {_short(given)}")
    arguments = _parsed(function.get("arguments") or {}, dict, f"{place}: arguments of {function['name']}")
    identity = {"id": given["id"]} if given.get("id") else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return TOOL_CALL.format(name=json.dumps(function["name"], ensure_ascii=False), arguments=arguments)


def _tools(given: Any) -> tuple[Mapping[str, Any], ...]:
    """Schemas in OpenAI's form, from that or from bare functions."""
    if not given:
        return ()
    schemas = _parsed(given, list, "tools")
    if not all(isinstance(one, Mapping) for one in schemas):
        raise ValueError(f"tools: expected a list of objects, got {_short(schemas)}")
    return tuple(one if "function" in one else {"type": "function", "function": one} for one in schemas)


def _thought(reply: Message) -> tuple[str, str]:
    """What a message thinks, and what it says."""
    content = str(reply["content"])
    before, end, after = content.partition(THINKING_END)
    if end and before.lstrip().startswith(THINKING_BEGIN):
        return before.lstrip().removeprefix(THINKING_BEGIN).strip(), after.strip()
    return str(reply.get("reasoning_content", "")).strip(), content.strip()


def _shown(one: Message) -> str:
    return "\n".join([*([str(one["content"])] if one["content"] else []), *map(_call_text, one.get("tool_calls", ()))])


def _parsed(value: Any, kind: type, name: str) -> Any:
    """A value, or what its JSON text says."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"{name}: expected JSON, got {_short(value)}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected {'a list' if kind is list else 'an object'}, got {_short(value)}")
    return value


def _short(value: Any, limit: int = 60) -> str:
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."
