"""A base model's folder without a chat template: its turn tokens say how its family writes turns, and a line says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.errors import ModelError
from mlxtune.models.chat_templates import CHATML, GEMMA, TurnTemplate
from mlxtune.models.companions import copy_companions
from mlxtune.models.tokenizer import load_tokenizer
from tests.conftest import heard
from tests.tiny import tiny_tokenizer

CHAT = [{"role": "system", "content": "Classify."}, {"role": "user", "content": "pay"}]
WRITTEN = {
    CHATML: "<|im_start|>system\nClassify.<|im_end|>\n<|im_start|>user\npay<|im_end|>\n<|im_start|>assistant\n",
    GEMMA: "<start_of_turn>user\nClassify.\n\npay<end_of_turn>\n<start_of_turn>model\n",
}


def base_model(folder: Path, tokens: tuple[str, str] = ("<|im_start|>", "<|im_end|>")) -> Path:
    """A folder as a base model's: a tokenizer with these tokens for turns, and no chat template."""
    tiny_tokenizer(folder, "llama")
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        for own, wanted in zip(CHATML.tokens, tokens, strict=True):
            text = text.replace(own, wanted)
        file.write_text(text, encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": None}))
    return folder


@pytest.mark.parametrize("turns", WRITTEN, ids=["chatml", "gemma"])
def test_prompts_are_written_with_the_turns_of_the_vocabulary_and_the_first_says_so(
    tmp_path: Path, turns: TurnTemplate
) -> None:
    folder = base_model(tmp_path / "base", turns.tokens)  # type: ignore[arg-type]
    with heard() as said:
        tokenizer = load_tokenizer(folder)
        assert said == []  # documents need none
        assert [tokenizer.prompt_text(CHAT) for _ in range(2)] == [WRITTEN[turns]] * 2
        assert tokenizer.end_of_turn_text == turns.tokens[1]
    assert said == [f"{folder}: {turns.note}"]


def test_what_is_made_of_it_has_the_template_for_other_programs(tmp_path: Path) -> None:
    folder, out = base_model(tmp_path / "base"), tmp_path / "out"
    out.mkdir()
    copy_companions(folder, out)
    assert (out / "chat_template.jinja").read_text() == CHATML.text
    with heard() as said:
        assert load_tokenizer(out).prompt_text(CHAT) == WRITTEN[CHATML]
    assert said == []


def test_a_vocabulary_of_other_turns_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base_model(tmp_path, ("<|start_header_id|>", "<|eot_id|>")))
    with pytest.raises(
        ModelError, match=r"no chat template.*neither ChatML.* nor Gemma.*-Instruct version, put chat_template"
    ):
        tokenizer.prompt_text(CHAT)


def test_tokens_that_another_template_makes_are_other_tokens(tmp_path: Path) -> None:
    folder = base_model(tmp_path)
    without = load_tokenizer(folder).identity
    (folder / "chat_template.jinja").write_text(CHATML.text)
    assert load_tokenizer(folder).identity != without
