"""A folder of rows as mlx-lm reads them: prompt and completion as they are, chats of one turn rewritten, the rest refused.

mlx-lm tells the form by the first row: `prompt` with `completion`, else `messages`, else `text`. A recipe has columns, one
user message and one reply. Chats with another system message by row, or with several turns, do not fit into that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError, Problem
from mlxtune.export.import_source import SPLITS

PROMPT, COMPLETION = "prompt", "completion"  # the columns of rewritten rows, and the names of a recipe


@dataclass(frozen=True)
class MlxLmRows:
    """Rows of mlx-lm.

    Attributes:
        folder: Where they lie.
        form: Whether a recipe reads them as they are, or as rewritten.
        splits: Those that there are, train among them, and the number of rows of each.
        columns: Our name -> the files' name, where they differ.
        system: The system message of all chats.
        rewritten: Split -> rows with `prompt` and `completion`; empty where the files are read as they are.
        longest_completion: Bytes in UTF-8.
        n_trimmed: Completions that begin or end with white space, which a reply here does not.
    """

    folder: Path
    form: Literal["completions", "chats"]
    splits: Mapping[str, int]
    columns: Mapping[str, str]
    system: str | None
    rewritten: Mapping[str, Sequence[Mapping[str, str]]]
    longest_completion: int
    n_trimmed: int


@dataclass
class _Chats:
    """What is read of chats, row by row."""

    systems: dict[str | None, str] = field(default_factory=dict)  # each, with the place where it stands first
    problems: list[Problem] = field(default_factory=list)


def read_mlx_lm_rows(folder: Path, features: Mapping[str, str]) -> MlxLmRows:
    """Read train.jsonl, valid.jsonl and test.jsonl, as far as they are there.

    Args:
        folder: Where they lie.
        features: Names of columns: prompt_feature, completion_feature, chat_feature and text_feature of a config.

    Raises:
        DataError: train.jsonl is missing, a file cannot be read, or rows have a form that a recipe cannot express.
    """
    files = {split: folder / f"{split}.jsonl" for split in SPLITS if (folder / f"{split}.jsonl").is_file()}
    if "train" not in files:
        raise DataError(f"{folder}: has no train.jsonl, which a recipe needs; found {', '.join(files) or 'no rows'}")
    rows = {split: read_rows(file) for split, file in files.items()}
    prompt, completion, chat = (features[f"{name}_feature"] for name in ("prompt", "completion", "chat"))
    first = rows["train"][0].fields
    problems = [
        Problem(_place(row), "has tools, which no recipe has; leave these rows out")
        for some in rows.values()
        for row in some
        if row.fields.get("tools")
    ]
    if problems:
        raise DataError(str(folder), problems)
    counts = {split: len(some) for split, some in rows.items()}
    if prompt in first and completion in first:
        replies = [str(row.fields.get(completion, "")) for some in rows.values() for row in some]
        names = {ours: theirs for ours, theirs in ((PROMPT, prompt), (COMPLETION, completion)) if ours != theirs}
        return MlxLmRows(folder, "completions", counts, names, None, {}, *_sizes(replies))
    if chat in first:
        chats = _Chats()
        rewritten = {split: [turn for row in some if (turn := _turn(row, chat, chats))] for split, some in rows.items()}
        if len(chats.systems) > 1:
            (one, here), (other, there) = list(chats.systems.items())[:2]
            chats.problems.append(
                Problem(there, f"expected the system message {_short(one)} of {here}, got {_short(other)}")
            )
        if chats.problems:
            advice = (
                "a recipe has one system message for all rows and one user message a row: make a row of each turn (with what "
                "came before it in the user message), or a recipe for each system message"
            )
            raise DataError(f"{folder}: chats that no recipe can express", chats.problems, advice)
        replies = [turn[COMPLETION] for some in rewritten.values() for turn in some]
        return MlxLmRows(folder, "chats", counts, {}, next(iter(chats.systems)), rewritten, *_sizes(replies))
    if features["text_feature"] in first:
        raise DataError(
            f"{_place(rows['train'][0])}: rows with {features['text_feature']!r} alone train on whole texts; a recipe trains "
            f"on replies: split each into {PROMPT!r} and {COMPLETION!r}"
        )
    raise DataError(
        f"{_place(rows['train'][0])}: expected {prompt!r} with {completion!r}, or {chat!r}, got {', '.join(map(repr, first))}"
    )


def _turn(row: Row, chat: str, chats: _Chats) -> dict[str, str] | None:
    """The user's and the assistant's message of a chat of one turn; None where it is none, which is noted."""
    messages = row.fields.get(chat)
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        chats.problems.append(Problem(_place(row), f"expected a list of messages under {chat!r}"))
        return None
    roles = [str(one.get("role")) for one in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        chats.problems.append(
            Problem(_place(row), f"expected system (or none), user and assistant, got {', '.join(roles) or 'none'}")
        )
        return None
    contents = [one.get("content") for one in messages]
    if not all(isinstance(content, str) for content in contents):
        chats.problems.append(Problem(_place(row), "expected text as the content of each message"))
        return None
    *system, user, assistant = map(str, contents)
    chats.systems.setdefault(system[0] if system else None, _place(row))
    return {PROMPT: user, COMPLETION: assistant}


def _sizes(replies: Sequence[str]) -> tuple[int, int]:
    """Bytes of the longest, and how many have white space at an end."""
    return max(len(reply.encode()) for reply in replies), sum(reply != reply.strip() for reply in replies)


def _place(row: Row) -> str:
    return f"{Path(row.file).name}:{row.line}"


def _short(text: str | None) -> str:
    if text is None:
        return "(none)"
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
