"""The tokenizer of a model folder: prompts by its chat template, text to ids with character offsets, and its stops."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlxtune.errors import ModelError
from mlxtune.models.chat_templates import CHATML, GEMMA, TurnTemplate, template_of_turns
from mlxtune.models.text_part import TEXT_CONFIG

logger = logging.getLogger(__name__)

TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".jinja")  # of the files that a tokenizer is made of, or its stops
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")  # what pre-training puts between documents
TEMPLATE = "chat_template.jinja"
PROCESSOR_TEMPLATE = (
    "chat_template.json"  # of a multimodal model's processor, which transformers' tokenizers do not read
)
_BLOCK = 512  # texts encoded at a time: the tokenizer's own record of a text takes many times the text's memory
_SENTINEL = "mlxtune-reply"  # stands for an assistant's reply while we look at what the chat template puts after it


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text and, for each, the characters [start, end) it stands for."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


class Tokenizer:
    """A Hugging Face fast tokenizer, narrowed to what this project asks of one.

    Args:
        hf: The `PreTrainedTokenizerFast`.
        eos_tokens: Ids that the model's own configuration ends a reply with.
        source: Where it came from, for messages.
        folder: The model folder that all of it came from, if one.
        turns: Whose template `hf` has where the folder has none; the first prompt says so.
    """

    def __init__(
        self,
        hf: Any,
        eos_tokens: Sequence[int] = (),
        source: str = "the tokenizer",
        folder: Path | None = None,
        turns: TurnTemplate | None = None,
    ) -> None:
        self.hf = hf
        self._eos_tokens = tuple(eos_tokens)
        self.source = source
        self._folder = folder
        self._turns = self._untold_turns = turns

    @cached_property
    def identity(self) -> str | None:
        """SHA-256 of the folder's files but the weights: the same identity, the same tokens. None of a tokenizer without a folder."""
        if self._folder is None:
            return None
        digest = hashlib.sha256()
        for file in sorted(self._folder.iterdir()):
            if file.suffix in TOKENIZER_SUFFIXES and file.is_file():
                digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
        if self._turns is not None:
            digest.update(self._turns.text.encode())
        return digest.hexdigest()

    @property
    def vocabulary_size(self) -> int:
        """Ids that the tokenizer knows, added tokens included; a model's logits may be wider."""
        return len(self.hf)

    @cached_property
    def control_texts(self) -> tuple[str, ...]:
        """Texts that the tokenizer reads as one control token wherever they stand, such as <|im_end|>."""
        return tuple(str(token) for token in self.hf.added_tokens_decoder.values() if str(token).strip())

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """Those of `control_texts` that only a chat template writes: no <think> and no <tool_call>, which a reply may hold."""
        return tuple(
            str(token) for token in self.hf.added_tokens_decoder.values() if token.special and str(token).strip()
        )

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without any special token added."""
        return [
            list(ids)
            for start in range(0, len(texts), _BLOCK)
            for ids in self._call(texts[start : start + _BLOCK])["input_ids"]
        ]

    def prompt(self, messages: Sequence[Mapping[str, Any]], thinking: bool = False) -> list[int]:
        """Ids of `prompt_text`."""
        return self.ids([self.prompt_text(messages, thinking)])[0]

    def prompt_text(
        self, messages: Sequence[Mapping[str, Any]], thinking: bool = False, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """A conversation as inference writes it, up to and including the opening of the assistant's turn.

        Args:
            messages: With `role` and `content` each.
            thinking: Passed to the chat template as `enable_thinking`; templates that do not know it ignore it.
            tools: JSON schemas of what the model may call; likewise.

        Raises:
            ModelError: There is no chat template, or it refuses the conversation.
        """
        return self._render(messages, True, thinking, tools)

    def conversation_text(
        self, messages: Sequence[Mapping[str, Any]], thinking: bool = False, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """The same of a conversation that has its last reply, to the end of it."""
        return self._render(messages, False, thinking, tools)

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself opens a text with its beginning-of-text token, unless told not to."""
        bos = self.hf.bos_token_id
        return bos is not None and self.hf("a")["input_ids"][:1] == [bos]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Ids and offsets of plain texts, without any special token added."""
        encoded: list[Encoded] = []
        for start in range(0, len(texts), _BLOCK):
            found = self._call(texts[start : start + _BLOCK], return_offsets_mapping=True)
            pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
            encoded += [Encoded(tuple(ids), tuple(offsets)) for ids, offsets in pairs]
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out, spaces as the model wrote them."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @cached_property
    def end_of_turn(self) -> int:
        """The token that the chat template puts right after an assistant's reply, such as <|im_end|>."""
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        after = self._render(messages, False, False).rpartition(_SENTINEL)[2]
        special = set(self.hf.all_special_ids) | set(self.hf.added_tokens_decoder)
        for token in self.hf(after, add_special_tokens=False)["input_ids"]:
            if token in special:
                return int(token)
        if self.hf.eos_token_id is None:
            raise ModelError(f"{self.source}: no end-of-turn token: neither the chat template nor eos_token names one")
        return int(self.hf.eos_token_id)

    @cached_property
    def end_of_turn_text(self) -> str:
        """How the chat template writes `end_of_turn`."""
        return str(self.hf.convert_ids_to_tokens(self.end_of_turn))

    @cached_property
    def end_of_text(self) -> int:
        """The token between two documents: <|endoftext|> or <|end_of_text|> where there is one, else the tokenizer's EOS.

        The EOS of models that are tuned to chat is often their end of turn, which documents do not end with.
        """
        for token in END_OF_TEXT:
            if token in self.special_texts:
                return int(self.hf.convert_tokens_to_ids(token))
        return int(self.end_of_turn if self.hf.eos_token_id is None else self.hf.eos_token_id)

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether the chat template, asked for thinking, itself writes <think>, so that a reply begins inside the block."""
        return self._render([{"role": "user", "content": "?"}], True, True).rstrip().endswith("<think>")

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """Every token that ends a reply: the end of turn, the tokenizer's and the model's end of text."""
        own = [] if self.hf.eos_token_id is None else [int(self.hf.eos_token_id)]
        return tuple(dict.fromkeys([self.end_of_turn, *own, *self._eos_tokens]))

    def _call(self, texts: Sequence[str], **options: bool) -> Any:
        """The tokenizer's answer about texts, without the masks, which are all ones."""
        lean = {
            "add_special_tokens": False,
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "verbose": False,
        }
        return self.hf(list(texts), **lean, **options)

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        open_reply: bool,
        thinking: bool,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        if not self.hf.chat_template:
            raise ModelError(
                f"{self.source}: no chat template, and a vocabulary with the turn tokens of neither {CHATML.name} nor {GEMMA.name}, so "
                f"prompts cannot be written; use the model's -Instruct version, put {TEMPLATE} into its folder, or train on documents "
                "(data.format: text)"
            )
        if self._untold_turns is not None:
            logger.info("%s: %s", self.source, self._untold_turns.note)
            self._untold_turns = None
        try:
            text = self.hf.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=open_reply, enable_thinking=thinking,
                tools=list(tools) or None,
            )  # fmt: skip
        except Exception as error:  # jinja2's many kinds, and whatever a template raises on purpose
            raise ModelError(f"{self.source}: its chat template refuses the prompt: {error}") from error
        return str(text)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; a base model's without a chat template gets the one that its turn tokens mean.

    Raises:
        ModelError: The folder holds no tokenizer, or one that cannot be read.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise PyTorch, which MLX users lack
    if (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast as kind
    else:  # rebuilds the tokenizer of an older folder from vocabularies; importing it imports torch, where there is one
        from transformers import AutoTokenizer as kind
    try:
        hf = kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers raises OSError, ValueError and the tokenizers library's bare Exception
        raise ModelError(f"{folder}: its tokenizer cannot be read: {str(error).splitlines()[0]}") from error
    turns = None
    if not hf.chat_template and (template := processor_template(folder)) is not None:
        hf.chat_template = template
    elif not hf.chat_template and (turns := template_of_turns(hf.get_vocab())) is not None:
        hf.chat_template = turns.text
    return Tokenizer(hf, _model_eos(folder), str(folder), folder, turns)


def processor_template(folder: Path) -> str | None:
    """The chat template in the file of a multimodal model's processor; None where there is none."""
    template = _settings(folder / PROCESSOR_TEMPLATE).get("chat_template")
    return template if isinstance(template, str) else None


def has_own_template(folder: Path) -> bool:
    """Whether a folder has a chat template where transformers' tokenizers look for it."""
    return (folder / TEMPLATE).is_file() or bool(_settings(folder / "tokenizer_config.json").get("chat_template"))


def _model_eos(folder: Path) -> list[int]:
    """End-of-text ids that the model's configuration names, alone or in a list; a multimodal model's may be of its text part."""
    config = _settings(folder / "config.json")
    nested = config.get(TEXT_CONFIG)
    found: list[int] = []
    for settings in (_settings(folder / "generation_config.json"), config, nested if isinstance(nested, dict) else {}):
        value = settings.get("eos_token_id")
        found += value if isinstance(value, list) else [value] if isinstance(value, int) else []
    return found


def _settings(file: Path) -> dict[str, Any]:
    """A JSON file's keys with values; none where it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
