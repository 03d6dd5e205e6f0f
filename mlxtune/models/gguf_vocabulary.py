"""The tokenizer that a .gguf file describes: its tokens with their types, and what they are split and joined by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import ModelError
from mlxtune.models.gguf_config import read_family, token_id
from mlxtune.models.gguf_file import read_list, read_value
from mlxtune.models.gguf_tokens import CONTROL, LLAMA3_SPLITS, NORMAL, SPLITS, UNKNOWN, UNUSED, USER_DEFINED

BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # of tokenizer.ggml.model
# What llama.cpp takes for a SentencePiece tokenizer where the file names none.
_SENTENCEPIECE_IDS = {"unknown": 0, "bos": 1, "eos": 2}


@dataclass(frozen=True)
class Vocabulary:
    """tokenizer.ggml.* of a file, checked.

    Attributes:
        kind: BYTE_LEVEL or SENTENCEPIECE.
        tokens: Text of each id.
        types: Type of each id, as `gguf_tokens` names them.
        scores: Of each id; the pieces of SentencePiece with the highest are joined first. Empty of byte-level BPE.
        merges: Of byte-level BPE, "left right".
        split: Key of SPLITS: how byte-level BPE splits text first.
        named: "bos", "eos", "unknown", "padding" -> id, as far as there are.
        adds_bos: Whether a text opens with BOS.
        adds_space: Whether a text opens with a space, of SentencePiece.
        chat_template: None where there is none.
    """

    kind: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    split: str
    named: dict[str, int]
    adds_bos: bool
    adds_space: bool
    chat_template: str | None

    @property
    def ids(self) -> dict[str, int]:
        """Token -> id. Unused ids only pad the embedding; the model's own tokenizer does not have them."""
        return {token: index for index, token in enumerate(self.tokens) if self.types[index] != UNUSED}

    @property
    def added(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text before it is split, as tokenizer.json has them."""
        return [
            {
                "id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": self.types[index] in (CONTROL, UNKNOWN),
            }
            for index, token in enumerate(self.tokens)
            if self.types[index] in (CONTROL, UNKNOWN, USER_DEFINED)
        ]  # fmt: skip

    def text_of(self, name: str) -> str | None:
        """The token that is named so."""
        index = self.named.get(name)
        return None if index is None else self.tokens[index]


def read_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer of a GGUF.

    Raises:
        ModelError: It is of a kind that is not known, damaged, or split in a way that is not known.
    """
    kind = read_value(path, "tokenizer.ggml.model")
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        raise ModelError(
            f"{path}: its tokenizer is of kind {kind!r}; only byte-level BPE ({BYTE_LEVEL!r}, as Qwen's and SmolLM's) and "
            f"SentencePiece BPE ({SENTENCEPIECE!r}, as Gemma's) are supported; use the model's own folder or Hub id"
        )
    is_byte_level = kind == BYTE_LEVEL
    tokens = read_list(path, "tokenizer.ggml.tokens", str)
    types = read_list(path, "tokenizer.ggml.token_type", int) or [NORMAL] * len(tokens)
    scores = [] if is_byte_level else read_list(path, "tokenizer.ggml.scores", float)
    if not tokens or len(types) != len(tokens) or not (is_byte_level or len(scores) == len(tokens)):
        counted = "" if is_byte_level else f" and {len(scores):,} scores"
        raise ModelError(
            f"{path}: the GGUF is damaged: it has {len(tokens):,} tokens, {len(types):,} types of tokens{counted}"
        )
    if not is_byte_level:  # llama.cpp's converter writes spaces into the added tokens, and into these alone
        tokens = [
            token.replace(" ", "▁") if types[index] == USER_DEFINED else token for index, token in enumerate(tokens)
        ]
    split = _splitting(path) if is_byte_level else ""
    found = {name: token_id(path, name) for name in ("bos", "eos", "unknown", "padding")}
    defaults = {} if is_byte_level else _SENTENCEPIECE_IDS
    ids = {name: defaults.get(name) if index is None else index for name, index in found.items()}
    named = {name: index for name, index in ids.items() if index is not None and index < len(tokens)}
    # Where the file does not say, llama.cpp opens a text with BOS for Llama 3 and SentencePiece only.
    adds_bos = read_value(path, "tokenizer.ggml.add_bos_token")
    by_default = not is_byte_level or split in LLAMA3_SPLITS
    adds_space = read_value(path, "tokenizer.ggml.add_space_prefix")
    template = read_value(path, "tokenizer.chat_template")
    return Vocabulary(
        kind=kind,
        tokens=tuple(tokens),
        types=tuple(types),
        scores=tuple(scores),
        merges=tuple(read_list(path, "tokenizer.ggml.merges", str)),
        split=split,
        named=named,
        adds_bos="bos" in named and (by_default if adds_bos is None else bool(adds_bos)),
        adds_space=not is_byte_level and (adds_space is None or bool(adds_space)),
        chat_template=template if isinstance(template, str) else None,
    )


def _splitting(path: Path) -> str:
    split = read_value(path, "tokenizer.ggml.pre")
    if split in (None, "default") and read_family(path).architecture.startswith("qwen"):
        return "qwen2"  # files from before llama.cpp told pre-tokenizers apart
    split = split or "default"
    if not isinstance(split, str) or split not in SPLITS:
        raise ModelError(f"{path}: its text is split as {split!r}, which is not known here; known: {', '.join(SPLITS)}")
    return str(split)
