"""A Modelfile asks a model as its recipe does: its template is run by Go's own text/template where Go is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxtune.errors import ExportError
from mlxtune.export.ollama import Turns, go_template, modelfile, turns
from mlxtune.models.chat_templates import GEMMA
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from tests.conftest import write_recipe
from tests.tiny import tiny_tokenizer

QWEN2 = (  # as Qwen2.5's: a system message of its own where there is none
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
GO = """package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	var in struct {
		Template string
		Cases    [][]message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		panic(err)
	}
	made := template.Must(template.New("").Parse(in.Template))
	for _, one := range in.Cases {
		if err := made.Execute(os.Stdout, map[string]any{"Messages": one}); err != nil {
			panic(err)
		}
		os.Stdout.WriteString("\\x00")
	}
}
"""
CONVERSATIONS = [
    [("user", "where is my order?")],
    [("system", "Name the {{ intents }}.\n"), ("user", "  你好 ")],
    [("system", "S"), ("user", "one"), ("assistant", "two"), ("user", "three\n\nfour")],
    [("user", "one"), ("assistant", "two"), ("user", "three")],
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Of a tiny Qwen3."""
    return load_tokenizer(tiny_tokenizer(tmp_path_factory.mktemp("qwen3")))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path, tmp_path / "base"))


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that runs a Go template."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed, so no Ollama template can be run (Debian: golang-go)")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(GO)
    subprocess.run(["go", "build", "-o", "render", "main.go"], cwd=folder, check=True)
    return folder / "render"


def with_template(folder: Path, template: str) -> Tokenizer:
    """A tiny tokenizer with a chat template."""
    file = tiny_tokenizer(folder) / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
    return load_tokenizer(folder)


def rendered(go: Path, template: str) -> list[str]:
    """The conversations as Go writes them."""
    cases = [[{"Role": role, "Content": text} for role, text in one] for one in CONVERSATIONS]
    content = json.dumps({"Template": template, "Cases": cases})
    run = subprocess.run([go], input=content, capture_output=True, text=True, check=True)
    return run.stdout.split("\0")[:-1]


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("family", ["qwen3", "qwen2", "gemma"])
def test_go_writes_what_the_chat_template_writes(tmp_path: Path, go: Path, family: str, thinking: bool) -> None:
    own = {"qwen2": QWEN2, "gemma": GEMMA.text}.get(family)
    tokenizer = with_template(tmp_path, own) if own else load_tokenizer(tiny_tokenizer(tmp_path))

    expected = [
        tokenizer.prompt_text([{"role": role, "content": text} for role, text in one], thinking)
        for one in CONVERSATIONS
    ]
    if family == "gemma":  # no Ollama template can trim what is typed
        expected = [text.replace("你好", "  你好 ") for text in expected]

    assert rendered(go, go_template(turns(tokenizer, thinking))) == expected


def test_gemmas_system_message_opens_the_first_turn_of_the_user(tmp_path: Path) -> None:
    assert turns(with_template(tmp_path, GEMMA.text), False) == Turns(
        system="<start_of_turn>user\n",
        opening="<start_of_turn>user\n",
        after_system="\n\n",
        user="<end_of_turn>\n<start_of_turn>user\n",
        assistant="<end_of_turn>\n<start_of_turn>model\n",
        reply="<end_of_turn>\n<start_of_turn>model\n",
        trimmed=frozenset({"user"}),
    )


def test_what_a_chat_template_trims_is_trimmed(tmp_path: Path, go: Path, recipe: Recipe) -> None:
    trimming = QWEN2.replace("message.content", "message.content | trim")
    tokenizer, user = with_template(tmp_path / "qwen", trimming), "\nText: {text}\nIntents:\n"

    written = rendered(go, go_template(turns(tokenizer, False), user))

    asked = user.format(text="where is my order?")
    assert written[0] == tokenizer.prompt_text([{"role": "user", "content": asked}], False)
    assert written[0].endswith("Intents:<|im_end|>\n<|im_start|>assistant\n")
    spaced = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"system": "Name the intents.\n"})})
    assert 'SYSTEM """Name the intents."""' in modelfile("FROM x", spaced, tokenizer, 4096)
    assert 'SYSTEM """Name the intents.\n"""' in modelfile("FROM x", spaced, with_template(tmp_path, QWEN2), 4096)


def test_go_writes_what_stands_around_the_only_column(tokenizer: Tokenizer, go: Path) -> None:
    written = rendered(go, go_template(turns(tokenizer, False), 'Text: "{text}"\nIntents:\n'))

    asked = 'Text: "where is my order?"\nIntents:\n'
    assert written[0] == tokenizer.prompt_text([{"role": "user", "content": asked}], False)


def test_a_closed_thinking_block_opens_the_reply_where_thinking_is_off(tokenizer: Tokenizer) -> None:
    assert turns(tokenizer, False) == Turns(
        system="<|im_start|>system\n",
        opening="<|im_start|>user\n",
        after_system="<|im_end|>\n<|im_start|>user\n",
        user="<|im_end|>\n<|im_start|>user\n",
        assistant="<|im_end|>\n<|im_start|>assistant\n",
        reply="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    )


def test_a_system_message_of_the_templates_own_is_written_where_there_is_none(tmp_path: Path) -> None:
    opening = turns(with_template(tmp_path, QWEN2), False).opening

    assert opening == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"


def test_a_template_that_writes_a_turn_in_two_ways_is_refused(tmp_path: Path) -> None:
    numbered = "{% for m in messages %}[{{ loop.index }}]{{ m.content }}{% endfor %}<|im_end|>"

    with pytest.raises(ExportError, match="writes a turn in more ways than one"):
        turns(with_template(tmp_path, numbered), False)


def test_a_template_that_leaves_the_system_message_out_is_refused(tmp_path: Path) -> None:
    deaf = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}<|im_end|>"

    with pytest.raises(ExportError, match="leaves messages out"):
        turns(with_template(tmp_path, deaf), False)


def test_the_modelfile_of_a_label_recipe_as_a_whole(tokenizer: Tokenizer, recipe: Recipe) -> None:
    text = modelfile("FROM ./tiny-F16.gguf", recipe, tokenizer, 4096)

    assert text == (
        "FROM ./tiny-F16.gguf\n"
        'TEMPLATE """{{- range $i, $_ := .Messages }}\n'
        '{{- if eq .Role "system" }}{{ "<|im_start|>system\\n" }}{{ .Content }}\n'
        '{{- else if eq .Role "user" }}{{ if eq $i 0 }}{{ "<|im_start|>user\\n" }}{{ else }}'
        '{{ "<|im_end|>\\n<|im_start|>user\\n" }}{{ end }}{{ .Content }}\n'
        '{{- else if eq .Role "assistant" }}{{ "<|im_end|>\\n<|im_start|>assistant\\n" }}{{ .Content }}\n'
        "{{- end }}\n"
        '{{- end }}{{ "<|im_end|>\\n<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n" }}"""\n'
        'SYSTEM """You are a support system. Name the intents."""\n'
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "<|endoftext|>"\n'
        "PARAMETER temperature 0\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER num_predict 40\n"
    )


def test_three_quotes_in_a_system_prompt_are_refused(tokenizer: Tokenizer, recipe: Recipe) -> None:
    quoted = recipe.model_copy(update={"prompt": recipe.prompt.model_copy(update={"system": 'say """hi"""'})})

    with pytest.raises(ExportError, match="which a Modelfile cannot quote"):
        modelfile("FROM x", quoted, tokenizer, 4096)
