"""A model folder's tokenizer as the metadata of a GGUF: tokens, merges, special ids, and how llama.cpp shall split text.

Byte-level BPE, as Qwen's, Llama 3's and SmolLM's are, and SentencePiece's BPE, as Gemma's is (`gguf_pieces.py`). How text is
split before byte-level BPE is named, not described, in a GGUF; a tokenizer that splits in a way that llama.cpp has no known
name for is refused, because it would read other tokens than the model was trained on. The reader of the same metadata is
`models/gguf_vocabulary.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import ExportError
from mlxtune.export.gguf_pieces import opens_with_space, piece_scores, piece_texts, piece_types
from mlxtune.models.gguf_probe import PROBE, probed_split
from mlxtune.models.gguf_tokens import (
    CONTROL,
    DIGIT_SPLIT,
    GPT2_SPLIT,
    LLAMA3_SPLITS,
    NORMAL,
    SPLITS,
    UNUSED,
    USER_DEFINED,
)
from mlxtune.models.gguf_vocabulary import BYTE_LEVEL, SENTENCEPIECE
from mlxtune.models.tokenizer import load_tokenizer

_REMEDY = "export to another format (hf, mlx, peft), or take the base model's own GGUF and export gguf-lora"


@dataclass(frozen=True)
class GgufTokenizer:
    """The tokenizer.ggml.* metadata of a tokenizer.

    Attributes:
        kind: Of tokenizer.ggml.model.
        split: Of tokenizer.ggml.pre: the name of the rules by which text is split before BPE.
        tokens: Text of each id; ids without a token, up to the width of the embedding, are called [PADn].
        types: Type of each id.
        merges: Of byte-level BPE, "left right".
        scores: Of SentencePiece, of each id.
        adds_space: Whether a text opens with a space, of SentencePiece; None of byte-level BPE.
        special_ids: bos, eos, eot, unknown, padding -> id, as far as there are.
        adds_bos: Whether a text opens with BOS.
        adds_eos: Whether a text ends with EOS.
        composes: Whether the tokenizer composes Unicode (NFC) before it splits; llama.cpp does not.
        chat_template: The base model's own; None where there is none.
    """

    kind: str
    split: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    adds_space: bool | None
    special_ids: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    composes: bool
    chat_template: str | None

    def metadata(self) -> dict[str, Any]:
        """Key -> value, without the chat template."""
        ids = {f"tokenizer.ggml.{name}_token_id": value for name, value in self.special_ids.items()}
        joined: dict[str, Any] = {"tokenizer.ggml.merges": self.merges}
        if self.adds_space is not None:
            joined = {"tokenizer.ggml.scores": self.scores, "tokenizer.ggml.add_space_prefix": self.adds_space}
        return {
            "tokenizer.ggml.model": self.kind,
            "tokenizer.ggml.pre": self.split,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
            **joined,
            **ids,
            "tokenizer.ggml.add_bos_token": self.adds_bos,
            "tokenizer.ggml.add_eos_token": self.adds_eos,
        }


def gguf_tokenizer(folder: Path, config: Mapping[str, Any]) -> GgufTokenizer:
    """The tokenizer of a model folder, for a GGUF.

    Args:
        folder: The model folder.
        config: Its config.json.

    Raises:
        ModelError: The folder has no tokenizer that can be read.
        ExportError: It is neither byte-level nor SentencePiece's BPE, splits text in a way that llama.cpp has no known name for, or
            has more tokens than the model.
    """
    tokenizer = load_tokenizer(folder)
    hf = tokenizer.hf
    definition = _definition(folder, hf)
    tokens, types = _tokens(folder, definition, int(config["vocab_size"]))
    merges = _merges(definition["model"]["merges"])
    adds_space = opens_with_space(definition)
    is_byte_level = adds_space is None
    split = _split(folder, definition, list(hf(PROBE)["input_ids"])) if is_byte_level else "default"
    scores: tuple[float, ...] = ()
    if not is_byte_level:
        types = piece_types(tokens, types)
        scores = piece_scores(tokens, types, [merge.split(" ", 1) for merge in merges])
        tokens = piece_texts(tokens, types)
    plain, whole = (list(hf("a", add_special_tokens=special)["input_ids"]) for special in (False, True))
    before, after = _added(folder, plain, whole)
    special = {
        "bos": before[0] if before else _first(hf.bos_token_id, config.get("bos_token_id")),
        "eos": after[0] if after else _first(hf.eos_token_id, config.get("eos_token_id")),
        "eot": tokenizer.end_of_turn if hf.chat_template else None,
        "unknown": hf.unk_token_id,
        "padding": _first(hf.pad_token_id, config.get("pad_token_id")),
    }
    return GgufTokenizer(
        kind=BYTE_LEVEL if is_byte_level else SENTENCEPIECE,
        split=split,
        tokens=tokens,
        types=types,
        merges=merges if is_byte_level else (),
        scores=scores,
        adds_space=adds_space,
        special_ids={name: value for name, value in special.items() if value is not None and value < len(tokens)},
        adds_bos=bool(before),
        adds_eos=bool(after),
        composes=_normalizers(definition) == ["NFC"],
        chat_template=_template(hf.chat_template),
    )


def _definition(folder: Path, hf: Any) -> dict[str, Any]:
    """tokenizer.json, where it is byte-level or SentencePiece's BPE."""
    backend = getattr(hf, "backend_tokenizer", None)
    definition: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    model = definition.get("model", {})
    is_byte_level = model.get("type") == "BPE" and not model.get("byte_fallback") and _is_byte_level(definition)
    if not is_byte_level and opens_with_space(definition) is None:
        raise ExportError(
            f"{folder}: its tokenizer is {model.get('type', 'of an unknown kind')!r}; only byte-level BPE (as Qwen's, Llama "
            f"3's and SmolLM's) and SentencePiece BPE (as Gemma's) can be written into a GGUF: {_REMEDY}"
        )
    return definition


def _is_byte_level(definition: Mapping[str, Any]) -> bool:
    decoders = _parts(definition.get("decoder"), "decoders")
    return any(part.get("type") == "ByteLevel" for part in decoders)


def _tokens(folder: Path, definition: Mapping[str, Any], vocab_size: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Text and type of each id below `vocab_size`.

    What looks like <|this|> is CONTROL even where the tokenizer does not call it special, as in llama.cpp's own converter:
    llama.cpp warns of another type and overrides it.
    """
    known = {index: (token, NORMAL) for token, index in definition["model"]["vocab"].items()}
    for added in definition.get("added_tokens", []):
        text = added["content"]
        is_control = added["special"] or (text.startswith("<|") and text.endswith("|>"))
        known[added["id"]] = (text, CONTROL if is_control else USER_DEFINED)
    if known and max(known) >= vocab_size:
        raise ExportError(
            f"{folder}: the tokenizer has the id {max(known):,}, the model's embedding only {vocab_size:,} rows; take the "
            "tokenizer that belongs to the model"
        )
    entries = [known.get(index, (f"[PAD{index}]", UNUSED)) for index in range(vocab_size)]
    return tuple(text for text, _ in entries), tuple(kind for _, kind in entries)


def _merges(merges: Sequence[str | Sequence[str]]) -> tuple[str, ...]:
    """Merges as "left right"; tokenizer.json has them so, or as pairs, of which each part may hold a space."""
    return tuple(
        merge if isinstance(merge, str) else " ".join(part.replace(" ", "\u0120") for part in merge) for merge in merges
    )


def _added(folder: Path, plain: Sequence[int], whole: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """What the tokenizer by itself puts before and after a text: one token each at most."""
    at = next((at for at in range(len(whole)) if list(whole[at : at + len(plain)]) == list(plain)), None)
    before, after = ((), ()) if at is None else (whole[:at], whole[at + len(plain) :])
    if at is None or len(before) > 1 or len(after) > 1:
        raise ExportError(
            f"{folder}: the tokenizer puts more than one token before or after a text, which a GGUF cannot say: {_REMEDY}"
        )
    return before, after


def _split(folder: Path, definition: Mapping[str, Any], probe: Sequence[int]) -> str:
    """tokenizer.ggml.pre: by what the probe becomes; else the name of the same rules, where they are known."""
    if (name := probed_split(probe)) is not None:
        return name
    patterns = _patterns(definition)
    takes_whole = bool(definition["model"].get("ignore_merges"))
    for name, known in SPLITS.items():
        if name != "default" and known == patterns and takes_whole == (name in LLAMA3_SPLITS):
            return name
    raise ExportError(
        f"{folder}: its tokenizer splits text in a way that llama.cpp has no known name for (known: "
        f"{', '.join(name for name in SPLITS if name != 'default')}); it would read other tokens than the model was trained "
        f"on: {_REMEDY}"
    )


def _patterns(definition: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The regular expressions by which a tokenizer.json splits, one after the other; None where it does so otherwise."""
    if _normalizers(definition) not in ([], ["NFC"]):
        return None
    patterns: list[str] = []
    for part in _parts(definition.get("pre_tokenizer"), "pretokenizers"):
        kind = part.get("type")
        pattern = (part.get("pattern") or {}).get("Regex")
        if kind == "Split" and pattern and part.get("behavior") == "Isolated" and not part.get("invert"):
            patterns.append(pattern)
        elif kind == "Digits" and part.get("individual_digits"):
            patterns.append(DIGIT_SPLIT)
        elif kind == "ByteLevel" and not part.get("add_prefix_space"):
            patterns += [GPT2_SPLIT] if part.get("use_regex", True) else []
        else:
            return None
    return tuple(patterns)


def _normalizers(definition: Mapping[str, Any]) -> list[str]:
    return [str(part.get("type")) for part in _parts(definition.get("normalizer"), "normalizers")]


def _parts(step: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    """The steps of a step of tokenizer.json that may be a sequence of several, or none."""
    if not step:
        return []
    return list(step[key]) if step.get("type") == "Sequence" else [step]


def _first(*values: Any) -> int | None:
    """The first id that is said, alone or in a list."""
    for value in values:
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, int):
            return first
    return None


def _template(said: Any) -> str | None:
    """A chat template, where there may be several by name."""
    template = said.get("default") if isinstance(said, Mapping) else said
    return template if isinstance(template, str) else None
