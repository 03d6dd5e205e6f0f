"""SentencePiece tokenizers of .gguf files, rebuilt: the ids are those of SentencePiece itself, and a base model gets its turns."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mlxtune.models import gguf
from mlxtune.models.gguf_tokenizer_files import write_tokenizer
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from tests.tiny import CORPUS, tiny_config, tiny_gguf, tiny_model

sentencepiece = pytest.importorskip("sentencepiece")

BLANKS = [*("\n" * length for length in (1, 2, 3)), *("▁" * length for length in (2, 3, 4)), "<h1>"]
TURNS = ["<start_of_turn>", "<end_of_turn>"]
TEXTS = [
    *CORPUS,
    "Hello world, it's 2024-11-21! I'LL pay $1,234.50...",
    "查询账户余额,转账 12345 元。付款失败了怎么办？",
    "😀👩‍👩‍👧 emoji 🇨🇳 and ƏΩж \u3000\u200b",
    "  leading   spaces\n\n\n\n\ttabs\r\nCRLF  end   ",
    "if x:\n    return 1\n\n\nelse:\n  y",
    "<h1>a title</h1>",
    " ",
    "",
]


def trained(prefix: bool) -> Any:
    """SentencePiece itself, with a vocabulary of the kind that Gemma's is."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, model_type="bpe", vocab_size=620, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, add_dummy_prefix=prefix, user_defined_symbols=BLANKS, control_symbols=TURNS,
        pad_id=0, pad_piece="<pad>", eos_id=1, eos_piece="<eos>", bos_id=2, bos_piece="<bos>", unk_id=3, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def described(own: Any, prefix: bool) -> dict[str, Any]:
    """tokenizer.ggml.* as llama.cpp's converter writes it: added tokens scored -1000, spaces in them written as such."""
    types = []
    for index in range(own.vocab_size()):
        is_added = own.id_to_piece(index) in BLANKS
        types.append(
            6 if own.is_byte(index) else 2 if own.is_unknown(index) else 3 if own.is_control(index) else 4 if is_added else 1
        )  # fmt: skip
    pieces = [own.id_to_piece(index) for index in range(len(types))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [
            piece.replace("▁", " ") if kind == 4 else piece for piece, kind in zip(pieces, types, strict=True)
        ],
        "tokenizer.ggml.scores": [-1000.0 if kind in (3, 4) else own.get_score(at) for at, kind in enumerate(types)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def read_back(folder: Path, metadata: dict[str, Any], without: tuple[str, ...] = ()) -> Tokenizer:
    """The tokenizer of a file with some metadata, as it is loaded."""
    base = tiny_model(folder / "base", "llama")
    file = tiny_gguf(folder / "model.gguf", base, metadata=metadata, without=("tokenizer.chat_template", *without))
    write_tokenizer(file, folder / "out")
    return load_tokenizer(folder / "out")


@pytest.mark.parametrize("prefix", [False, True])
def test_ids_are_those_of_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    own = trained(prefix)
    tokenizer = read_back(tmp_path, described(own, prefix))
    # After an added token transformers and llama.cpp open with a space again, SentencePiece does not.
    texts = [text for text in TEXTS if not (prefix and any(symbol.replace("▁", " ") in text for symbol in BLANKS))]
    for text, ids in zip(texts, tokenizer.ids(texts), strict=True):
        assert ids == own.encode(text), text
        assert tokenizer.decode(ids) == text
    assert len({token for ids in tokenizer.ids(texts) for token in ids}) > 140 and len(texts) >= 10


def test_a_text_opens_with_bos_and_characters_know_their_tokens(tmp_path: Path) -> None:
    tokenizer = read_back(tmp_path, described(trained(False), False))
    assert tokenizer.adds_bos
    text = "pay  the 账单 😀 now"
    spans = tokenizer.encode([text])[0].offsets
    assert sorted(set(spans)) == list(dict.fromkeys(spans))  # in order; the bytes of 😀 have the same one
    assert "".join(text[start:stop] for start, stop in dict.fromkeys(spans)) == text


def test_without_any_word_on_them_llama_cpps_defaults_count(tmp_path: Path) -> None:
    silent = ("add_bos_token", "add_space_prefix", "bos_token_id", "eos_token_id", "unknown_token_id")
    metadata = described(trained(True), True)
    for name in silent:
        del metadata[f"tokenizer.ggml.{name}"]
    tokenizer = read_back(tmp_path, metadata, tuple(f"tokenizer.ggml.{name}" for name in silent))
    assert tokenizer.adds_bos
    assert (tokenizer.hf.bos_token_id, tokenizer.hf.eos_token_id, tokenizer.hf.unk_token_id) == (1, 2, 0)
    assert tokenizer.hf.convert_ids_to_tokens(tokenizer.ids(["pay"])[0])[0].startswith("▁")


CHAT = [{"role": "system", "content": "Classify."}, {"role": "user", "content": " pay \n"}]


def test_a_base_model_gets_the_turns_of_its_vocabulary(tmp_path: Path) -> None:
    tokenizer = read_back(tmp_path, described(trained(False), False))
    text = "<bos><start_of_turn>user\nClassify.\n\npay<end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.prompt_text(CHAT) == text
    assert (
        tokenizer.conversation_text([*CHAT, {"role": "assistant", "content": "payment"}])
        == f"{text}payment<end_of_turn>\n"
    )
    turn, eos = tokenizer.hf.convert_tokens_to_ids(["<end_of_turn>", "<eos>"])
    assert tokenizer.end_of_turn == turn and tokenizer.stop_tokens == (turn, eos)
    assert tokenizer.prompt(CHAT)[:2] == tokenizer.hf.convert_tokens_to_ids(["<bos>", "<start_of_turn>"])


def test_a_base_model_of_byte_level_bpe_gets_chatml(tmp_path: Path) -> None:
    prompt = read_back(tmp_path, {}).prompt_text(CHAT)
    assert (
        prompt
        == "<|im_start|>system\nClassify.<|im_end|>\n<|im_start|>user\n pay \n<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_files_own_template_is_kept(tmp_path: Path) -> None:
    metadata = {**described(trained(False), False), "tokenizer.chat_template": "own"}
    file = tiny_gguf(tmp_path / "model.gguf", tiny_model(tmp_path / "base", "llama"), metadata=metadata)
    write_tokenizer(file, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"] == "own"


def test_quantized_weights_of_a_gemma_become_bfloat16(tmp_path: Path) -> None:
    llama = tiny_gguf(tmp_path / "llama.gguf", tiny_model(tmp_path / "llama", "llama"), "Q8_0")
    gemma = tiny_gguf(tmp_path / "gemma.gguf", tmp_path / "llama", "Q8_0", metadata={"general.architecture": "gemma3"})
    assert (gguf.own_dtype(llama), gguf.own_dtype(gemma)) == ("float16", "bfloat16")
    assert tiny_config("llama")["torch_dtype"] == "float32"
