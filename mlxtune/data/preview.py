"""Examples token by token: which are prompt, which are trained on, with what weight and in which segment.

Shown with marks, or with colours on a terminal; nothing here decides what is trained on: it reads examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mlxtune.backends.base import UNSUPERVISED
from mlxtune.data.examples import Example
from mlxtune.data.rows import Row
from mlxtune.models.tokenizer import Tokenizer

MORE_TO_COME = "\u2025"  # stands for a token that ends inside a character
NEW_LINE = "\u21b5"
INDENT = "  "
BORDER = "|"
# Neighbouring tokens take turns, so that their border shows.
DIM = ("2", "2;4")
STYLES = {"plain": ("30;42", "30;102"), "weighted": ("30;43", "30;103"), "unweighted": ("30;47", "30;107")}


@dataclass(frozen=True)
class PreviewToken:
    """One token of an example.

    Attributes:
        id: Its id.
        text: What it adds to the text; MORE_TO_COME where it ends inside a character.
        weight: Its loss weight; None for what is not trained on: the prompt, and others' turns between two replies.
        segment: "template" or the output field that it belongs to; None likewise.
    """

    id: int
    text: str
    weight: float | None
    segment: str | None


@dataclass(frozen=True)
class Preview:
    """One example, with the place of its row."""

    file: str
    line: int
    tokens: tuple[PreviewToken, ...]

    def as_json(self) -> dict[str, Any]:
        """An object a token; the keys `weight` and `segment` are null in the prompt."""
        tokens = [
            {"id": token.id, "text": token.text, "supervised": token.segment is not None, "weight": token.weight,
             "segment": token.segment}
            for token in self.tokens
        ]  # fmt: skip
        return {"file": self.file, "line": self.line, "tokens": tokens}

    def as_text(self, color: bool = False, place: str | None = None) -> str:
        """The prompt token|by|token, then the supervised tokens, a line for each run of one segment and weight.

        Without colour each supervised token stands in [brackets]; with it the prompt is dim, every other token of it
        underlined, and supervised tokens have backgrounds: green, yellow where the weight is not 1, grey where it is 0. `place` is what to
        call the row's file and line.
        """
        n_prompt = sum(token.segment is None for token in self.tokens)
        lines = [
            f"{place or f'{self.file}:{self.line}'}: {n_prompt} prompt tokens, {len(self.tokens) - n_prompt} supervised"
        ]
        runs = [list(run) for _, run in groupby(self.tokens, key=lambda token: (token.segment, token.weight))]
        names = ["" if run[0].weight is None else f"{run[0].segment} x{run[0].weight:g}" for run in runs]
        width = max(map(len, names), default=0)
        for name, run in zip(names, runs, strict=True):
            if not name:
                lines += _prompt_lines(run, color)
                continue
            shown = [_styled(token, position, color) for position, token in enumerate(run)]
            lines.append(f"{INDENT}{name:<{width}}  {''.join(shown)}")
        return "\n".join(lines)


def preview(example: Example, row: Row, segments: Sequence[str], tokenizer: Tokenizer) -> Preview:
    """An example as its tokens.

    Args:
        example: Of the row.
        row: Says where it was read.
        segments: `ReplyTemplate.segments`.
        tokenizer: The model's.
    """
    prompt, reply = example.prompt.tolist(), example.reply.tolist()
    texts = pieces([*prompt, *reply], tokenizer)
    tokens = [PreviewToken(*pair, None, None) for pair in zip(prompt, texts, strict=False)]
    marks = zip(reply, texts[len(prompt) :], example.weights.tolist(), example.segments.tolist(), strict=True)
    tokens += [
        PreviewToken(token, text, None, None)
        if at == UNSUPERVISED
        else PreviewToken(token, text, round(weight, 6), segments[at])
        for token, text, weight, at in marks
    ]
    return Preview(row.file, row.line, tuple(tokens))


def pieces(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text, control tokens by their names; joined without MORE_TO_COME, the text."""
    texts: list[str] = []
    pending: list[int] = []
    for token in ids:
        pending.append(token)
        text = str(tokenizer.hf.decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        whole = not text.endswith("\ufffd") or len(pending) > 4  # no character has more than four bytes
        texts.append(text if whole else MORE_TO_COME)
        if whole:
            pending = []
    return texts


def _prompt_lines(tokens: Sequence[PreviewToken], color: bool) -> list[str]:
    """Lines broken where the prompt's own lines end, which is shown; tokens parted by BORDER, or underlined by turns."""
    lines: list[list[str]] = [[]]
    for position, token in enumerate(tokens):
        text = _visible(token.text)
        lines[-1].append(f"\x1b[{DIM[position % 2]}m{text}\x1b[0m" if color else text)
        if token.text.endswith("\n"):
            lines.append([])
    return [INDENT + ("" if color else BORDER).join(line) for line in lines if line]


def _styled(token: PreviewToken, position: int, color: bool) -> str:
    text = _visible(token.text)
    if not color:
        return f"[{text}]"
    kind = "plain" if token.weight == 1 else "weighted" if token.weight else "unweighted"
    return f"\x1b[{STYLES[kind][position % 2]}m{text}\x1b[0m"


def _visible(text: str) -> str:
    """On one line, and commanding no terminal: a text may hold escape codes."""
    return "".join(NEW_LINE if c == "\n" else c if c.isprintable() else "\ufffd" for c in text)
