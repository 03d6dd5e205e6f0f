"""What users call their data: messages, completions, Alpaca, ShareGPT, documents. Each turns a record into turns; one tells which it is.

    find_format({"instruction": "Say hi", "input": "", "output": "Hi."}, recipe).name   # "alpaca"

The names of columns and roles are those that mlx-lm, TRL, LLaMA-Factory and OpenAI's fine-tuning files have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mlxtune.data.conversation import ASSISTANT, ROLES, SYSTEM, USER, Answered, Conversation, FoundFormat, answered
from mlxtune.recipe.sections import AUTO, DOCUMENTS, PLACEHOLDER, ROWS, Recipe, free_reply

MESSAGES, COMPLETIONS, ALPACA, SHAREGPT = "messages", "completions", "alpaca", "sharegpt"
Record = Mapping[str, Any]
# Columns that corpora have beside a document's text; any other may be a label, and the recipe's `output` was forgotten.
ABOUT_DOCUMENTS = frozenset(
    [
        "id",
        "url",
        "title",
        "source",
        "meta",
        "metadata",
        "date",
        "timestamp",
        "added",
        "created",
        "lang",
        "language",
        "language_score",
        "token_count",
        "dump",
        "file_path",
        "path",
    ]
)


def find_format(record: Record, recipe: Recipe) -> FoundFormat:
    """The format of the file whose first record this is.

    Args:
        record: Under the names that `data.columns` gives.
        recipe: Says the format, or `auto`; and which columns rows would have.

    Raises:
        ValueError: It is of none.
    """
    if recipe.data.format != AUTO:
        return FoundFormat(recipe.data.format, "as data.format says")
    needed = [*PLACEHOLDER.findall(recipe.prompt.user), *recipe.output.fields]
    if all(name in record for name in needed):
        return FoundFormat(ROWS, f"the recipe's own columns are there: {', '.join(needed)}")
    for name in (MESSAGES, "conversations"):
        turns = _list(record.get(name))
        if turns is not None:
            is_sharegpt = bool(turns) and isinstance(turns[0], Mapping) and "from" in turns[0]
            keys = "from and value" if is_sharegpt else "role and content"
            return FoundFormat(SHAREGPT if is_sharegpt else MESSAGES, f"a column {name!r} of turns with {keys}")
    for pair, name in ((("prompt", "completion"), COMPLETIONS), (("instruction", "output"), ALPACA)):
        if all(column in record for column in pair):
            return FoundFormat(name, f"columns {pair[0]!r} and {pair[1]!r}")
    is_free = recipe.output == free_reply()
    others = [name for name in record if name != "text" and name not in ABOUT_DOCUMENTS]
    if is_free and isinstance(record.get("text"), str) and not others:
        return FoundFormat(DOCUMENTS, "a column 'text', and no output")
    if not is_free:
        return FoundFormat(ROWS, "no other format's columns are there")  # whose problems say what is missing
    raise ValueError(
        f"no format that is known: expected 'messages', 'conversations', 'prompt' with 'completion', 'instruction' with "
        f"'output', or 'text'; got {', '.join(map(repr, record))}; name yours in data.columns, or say in `output` what a "
        "row's reply is made of; documents with further columns need data.format: text"
    )


def read_record(record: Record, found: FoundFormat) -> Answered:
    """A record of a format as the conversation that it is, and its reply.

    Raises:
        ValueError: It is none; the message says what was expected and what arrived.
    """
    return _READERS[found.name](record, found)


def _messages(record: Record, found: FoundFormat) -> Answered:
    """`messages` or `conversations`, of role and content each."""
    name = "conversations" if MESSAGES not in record and "conversations" in record else MESSAGES
    turns = _required_list(record, name, found)
    if turns and isinstance(turns[0], Mapping) and "from" in turns[0]:
        raise ValueError(f"expected {found.name}, with role and content, got turns with 'from' and 'value'")
    return answered(_with_system(record, turns), record.get("tools"), found)


def _sharegpt(record: Record, found: FoundFormat) -> Answered:
    """`conversations`, of from and value each; the call of a tool is a turn of its own."""
    turns = []
    for at, one in enumerate(_required_list(record, "conversations", found), start=1):
        if not isinstance(one, Mapping) or "from" not in one:
            raise ValueError(f"turn {at}: expected an object with from and value, got {str(one)[:60]!r}")
        role = str(one["from"]).lower()
        turn = {"role": role if role in ROLES else one["from"], "content": one.get("value")}
        if role == "function_call":
            turn = {"role": role, "content": "", "tool_calls": _calls(one.get("value"))}
        turns.append(turn)
    return answered(_with_system(record, turns), record.get("tools"), found)


def _completions(record: Record, found: FoundFormat) -> Answered:
    """`prompt` and `completion`, each a text, which is a message, or messages."""
    parts: list[Any] = []
    for name, role in (("prompt", USER), ("completion", ASSISTANT)):
        value = _required(record, name, found)
        turns = _list(value) if not isinstance(value, str) or value.lstrip().startswith("[{") else None
        if turns is None and not isinstance(value, str):
            raise ValueError(f"{name!r}: expected text or messages, got {str(value)[:60]!r}")
        parts += [{"role": role, "content": value}] if turns is None else turns
    return answered(_with_system(record, parts), record.get("tools"), found)


def _alpaca(record: Record, found: FoundFormat) -> Answered:
    """`instruction`, with `input` on the next line if there is one, and `output`; `system` and earlier turns in `history`."""
    texts = {name: record.get(name) or "" for name in ("instruction", "input", "output", "system")}
    for name in ("instruction", "output"):
        _required(record, name, found)
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name!r}: expected text, got {str(text)[:60]!r}")
    turns: list[Any] = []
    for pair in _list(record.get("history") or []) or []:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError(f"'history': expected pairs of an instruction and its answer, got {str(pair)[:60]!r}")
        turns += [{"role": USER, "content": pair[0]}, {"role": ASSISTANT, "content": pair[1]}]
    asked = "\n".join(text for text in (texts["instruction"], texts["input"]) if text.strip())
    turns += [{"role": USER, "content": asked}, {"role": ASSISTANT, "content": texts["output"]}]
    return answered(_with_system(record, turns), None, found)


def _document(record: Record, found: FoundFormat) -> Answered:
    text = _required(record, "text", found)
    if not isinstance(text, str):
        raise ValueError(f"'text': expected text, got {str(text)[:60]!r}")
    return Answered(Conversation((), found=found), text)


_READERS: Mapping[str, Callable[[Record, FoundFormat], Answered]] = {
    MESSAGES: _messages,
    COMPLETIONS: _completions,
    ALPACA: _alpaca,
    SHAREGPT: _sharegpt,
    DOCUMENTS: _document,
}


def _with_system(record: Record, turns: list[Any]) -> list[Any]:
    """The turns with the system message of a column of its own, if the record has one."""
    system = record.get("system")
    return [{"role": SYSTEM, "content": system}, *turns] if isinstance(system, str) and system.strip() else turns


def _calls(value: Any) -> list[Any]:
    """Calls of tools as ShareGPT has them: JSON of one, or of a list."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"function_call: expected JSON with name and arguments, got {str(value)[:60]!r}") from None
    return calls if isinstance(calls, list) else [calls]


def _required(record: Record, name: str, found: FoundFormat) -> Any:
    if name not in record:
        raise ValueError(
            f"expected the column {name!r}, since the file's format is {found}; got {', '.join(map(repr, record)) or 'none'}"
        )
    return record[name]


def _required_list(record: Record, name: str, found: FoundFormat) -> list[Any]:
    value = _required(record, name, found)
    turns = _list(value)
    if turns is None:
        raise ValueError(f"{name!r}: expected a list of turns, got {str(value)[:60]!r}")
    return turns


def _list(value: Any) -> list[Any] | None:
    """A list, or the one that a text holds as JSON, as cells of .csv files do; None of anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, list) else None
