"""An exported chat template writes the recipe's prompt for programs that know nothing of the recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.export.chat_template import exported_chat_template, gguf_chat_template
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.conftest import write_recipe
from tests.tiny import CHATML, CHATML_THINKING, tiny_tokenizer

MESSAGES = [{"role": "system", "content": "Name the intents."}, {"role": "user", "content": "你好"}]
# Qwen3.5's way: thinking has to be closed unless it is wanted.
THINKING_ASKED_FOR = CHATML_THINKING.replace(
    "enable_thinking is defined and enable_thinking is false", "not (enable_thinking is defined and enable_thinking)"
)


def recipe_of(folder: Path, base: Path, *, thinking: bool) -> Recipe:
    return load_recipe(write_recipe(folder / f"recipe-{thinking}", base, prompt={"thinking": thinking}))


def rendered(template: str, folder: Path, **options: bool) -> str:
    """The prompt, as transformers renders a template."""
    hf = load_tokenizer(tiny_tokenizer(folder)).hf
    return str(
        hf.apply_chat_template(MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True, **options)
    )


@pytest.mark.parametrize("template", [CHATML_THINKING, THINKING_ASKED_FOR])
def test_a_template_does_not_think_unless_asked(tmp_path: Path, base: Path, template: str) -> None:
    off = recipe_of(tmp_path, base, thinking=False)
    exported = exported_chat_template(template, off)
    prompt = rendered(template, tmp_path / "t", enable_thinking=False)
    assert prompt.endswith("<think>\n\n</think>\n\n")
    assert rendered(exported, tmp_path / "t") == prompt
    assert rendered(exported, tmp_path / "t", enable_thinking=False) == prompt
    asked = rendered(exported, tmp_path / "t", enable_thinking=True)
    assert asked == rendered(template, tmp_path / "t", enable_thinking=True) != prompt


@pytest.mark.parametrize("template", [CHATML_THINKING, THINKING_ASKED_FOR])
def test_in_a_gguf_a_template_does_not_think_even_where_llama_cpp_asks_for_it(
    tmp_path: Path, base: Path, template: str
) -> None:
    exported = gguf_chat_template(template, recipe_of(tmp_path, base, thinking=False))
    prompt = rendered(template, tmp_path / "t", enable_thinking=False)
    for options in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        assert rendered(exported, tmp_path / "t", **options) == prompt


@pytest.mark.parametrize("export", [exported_chat_template, gguf_chat_template])
def test_a_template_is_left_alone_where_there_is_nothing_to_say(tmp_path: Path, base: Path, export: object) -> None:
    assert callable(export)
    assert export(CHATML_THINKING, recipe_of(tmp_path, base, thinking=True)) == CHATML_THINKING
    assert export(CHATML, recipe_of(tmp_path, base, thinking=False)) == CHATML


@pytest.mark.parametrize("export", [exported_chat_template, gguf_chat_template])
def test_an_exported_template_is_not_changed_again(tmp_path: Path, base: Path, export: object) -> None:
    assert callable(export)
    off = recipe_of(tmp_path, base, thinking=False)
    once = export(CHATML_THINKING, off)
    assert once != CHATML_THINKING
    assert export(once, off) == once
