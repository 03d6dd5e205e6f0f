"""tokenizer.json and tokenizer_config.json of a model that a .gguf file holds. How the file says it is `gguf_vocabulary.py`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mlxtune.files import write_json
from mlxtune.models.chat_templates import template_of_turns
from mlxtune.models.gguf_config import read_config
from mlxtune.models.gguf_tokens import BYTE, COMPOSING_SPLITS, LLAMA3_SPLITS, NORMAL, SPLITS
from mlxtune.models.gguf_vocabulary import BYTE_LEVEL, Vocabulary, read_vocabulary

logger = logging.getLogger(__name__)

_SPACE = "▁"  # what SentencePiece writes for a space


def write_tokenizer(path: Path, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, with the chat template, from tokenizer.ggml.*.

    Args:
        path: The .gguf file.
        folder: Where; made if need be.

    Raises:
        ModelError: The tokenizer is of a kind that is not known, or split in a way that is not known.
    """
    vocabulary = read_vocabulary(path)
    added = vocabulary.added
    parts = _byte_level(vocabulary) if vocabulary.kind == BYTE_LEVEL else _sentencepiece(vocabulary)
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}
    text = {name: vocabulary.tokens[index] for name, index in vocabulary.named.items()}
    settings = {
        # Not the model's own class: those rebuild their splitting from the vocabulary; SmolLM's would lose its digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": vocabulary.adds_bos,
        "add_prefix_space": vocabulary.adds_space,
        "clean_up_tokenization_spaces": False,
        "model_max_length": read_config(path)["max_position_embeddings"],
        "bos_token": text.get("bos"),
        "eos_token": text.get("eos"),
        "unk_token": text.get("unknown"),
        "pad_token": text.get("padding", text.get("eos")),
        "additional_special_tokens": [
            token["content"] for token in added if token["special"] and token["content"] not in text.values()
        ],
        "added_tokens_decoder": {
            str(token["id"]): {key: item for key, item in token.items() if key != "id"} for token in added
        },
        "chat_template": vocabulary.chat_template or _template(path, vocabulary),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", settings)


def _template(path: Path, vocabulary: Vocabulary) -> str | None:
    """The chat template of a file without one, as a base model's is: its turn tokens say how its family writes turns."""
    found = template_of_turns(vocabulary.ids)
    if found is not None:
        logger.info("%s: %s", path.name, found.note)
    return None if found is None else found.text


def _byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    """Byte-level BPE: text is split by patterns, its bytes are written as letters, and merged by rank."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in SPLITS[vocabulary.split]
    ]
    opening = _opening(vocabulary)
    return {
        "normalizer": {"type": "NFC"} if vocabulary.split in COMPOSING_SPLITS else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": {"type": "Sequence", "processors": [byte_level, opening]} if opening else byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": vocabulary.split in LLAMA3_SPLITS,
            "vocab": vocabulary.ids, "merges": [merge.split(" ", 1) for merge in vocabulary.merges],
        },
    }  # fmt: skip


def _sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """SentencePiece's BPE: a space is a letter of its own, text is not split, and what is no piece falls back to its bytes.

    Source:
        GemmaConverter and LlamaConverter of transformers' convert_slow_tokenizer.py, which Google's and Meta's own
        tokenizer.json were made by.
    """
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    first = {"type": "Prepend", "prepend": _SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
    ]  # fmt: skip
    if vocabulary.adds_space:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": [first, spaces]} if vocabulary.adds_space else spaces,
        "pre_tokenizer": None,
        "post_processor": _opening(vocabulary),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": vocabulary.text_of("unknown"),
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
            "byte_fallback": BYTE in vocabulary.types, "ignore_merges": False,
            "vocab": vocabulary.ids, "merges": _merges(vocabulary),
        },
    }  # fmt: skip


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """The merges that SentencePiece makes by scores: two pieces whose text together is a piece, those of the best piece first.

    Pieces that are no normal ones count as the best (SentencePiece scores them 0; a GGUF's own numbers for them mean nothing).
    Among merges of the same score those of longer halves come first, and then those of earlier pieces.
    """
    ids = vocabulary.ids
    ranked = []
    for token, index in ids.items():
        score = vocabulary.scores[index] if vocabulary.types[index] == NORMAL else 0.0
        pairs = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        ranked += [(-score, -len(left), -len(right), left, right) for left, right in pairs]
    ranked.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in ranked]


def _opening(vocabulary: Vocabulary) -> dict[str, Any] | None:
    """What puts BOS before a text; None where the tokenizer does not."""
    bos = vocabulary.text_of("bos")
    if not vocabulary.adds_bos:
        return None
    before = {"SpecialToken": {"id": bos, "type_id": 0}}
    one, other = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    return {
        "type": "TemplateProcessing",
        "single": [before, one],
        "pair": [before, one, other],
        "special_tokens": {bos: {"id": bos, "ids": [vocabulary.named["bos"]], "tokens": [bos]}},
    }
