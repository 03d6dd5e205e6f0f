"""SentencePiece BPE, of a tokenizer.json, as a GGUF says it: pieces with scores in place of merges. No file is read here.

llama.cpp joins the two pieces whose text together is the piece of the highest score; a tokenizer.json that was made of such
a tokenizer has its merges in that order. So a piece's score is how early a merge makes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlxtune.models.gguf_tokens import BYTE, NORMAL, USER_DEFINED

SPACE = "▁"  # what SentencePiece writes for a space
NEVER = -1000.0  # the score of tokens that no merge is to make, as llama.cpp's converter has it

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_OPENING = {"type": "Prepend", "prepend": SPACE}
_SPLITTING = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def opens_with_space(definition: Mapping[str, Any]) -> bool | None:
    """Whether a SentencePiece tokenizer opens each text with a space; None where a tokenizer.json is no such tokenizer.

    Args:
        definition: tokenizer.json.
    """
    model = definition.get("model", {})
    normalizer, split = definition.get("normalizer"), definition.get("pre_tokenizer")
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        return None
    if normalizer == _SPACES and split in (None, _SPLITTING):
        return False
    is_opening = normalizer == {"type": "Sequence", "normalizers": [_OPENING, _SPACES]}
    return True if is_opening and split is None else None


def piece_types(tokens: Sequence[str], types: Sequence[int]) -> tuple[int, ...]:
    """The types of the tokens, those that stand for a byte told apart."""
    return tuple(
        BYTE if kind == NORMAL and _BYTE.fullmatch(token) else kind for token, kind in zip(tokens, types, strict=True)
    )


def piece_texts(tokens: Sequence[str], types: Sequence[int]) -> tuple[str, ...]:
    """The tokens, spaces of added ones written as such: llama.cpp looks for these in the text as it is."""
    return tuple(
        token.replace(SPACE, " ") if kind == USER_DEFINED else token for token, kind in zip(tokens, types, strict=True)
    )


def piece_scores(tokens: Sequence[str], types: Sequence[int], merges: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """The score of each token.

    Args:
        tokens: Text of each id.
        types: Type of each id.
        merges: In order, left and right.
    """
    made = dict.fromkeys("".join(merge) for merge in merges)
    rank = {piece: -float(place) for place, piece in enumerate(made)}
    return tuple(
        rank.get(token, NEVER) if kind == NORMAL else 0.0 if kind == BYTE else NEVER
        for token, kind in zip(tokens, types, strict=True)
    )
