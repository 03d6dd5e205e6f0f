"""The part of a model card that says how the model is loaded and asked: code that runs as it stands. Reads no run."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from mlxtune.export.options import GGUF_TYPE, ExportOptions
from mlxtune.export.peft_adapter import network_of
from mlxtune.markdown import markdown_block, markdown_code, markdown_text
from mlxtune.models.source import HUB_ID
from mlxtune.recipe.sections import PLACEHOLDER, Recipe, is_local_model


@dataclass(frozen=True)
class HubArtifact:
    """What a repository holds.

    Attributes:
        format: "peft", "hf", "mlx", "gguf" or "gguf-lora".
        options: As `mlxtune export` takes them.
        file: Name of its file, where the format is one.
        is_nested: Whether the base model is multimodal, so that PEFT needs the whole of it.
    """

    format: str
    options: ExportOptions = field(default_factory=ExportOptions)
    file: str | None = None
    is_nested: bool = False

    @property
    def is_adapter(self) -> bool:
        """Whether it needs the base model beside it."""
        return self.format in ("peft", "gguf-lora")


def is_hub_model(path: str) -> bool:
    """Whether a recipe's model.path is a Hub id that a card may link to."""
    return bool(HUB_ID.fullmatch(path)) and not is_local_model(path) and not Path(path).parent.is_dir()


def base_reference(recipe: Recipe) -> str:
    """The base model in Markdown: linked where it is on the Hub, else its name without folders."""
    model = recipe.model
    if is_hub_model(model.path):
        revision = f" at {markdown_code(model.revision)}" if model.revision else ""
        return f"[{markdown_text(model.path)}](https://huggingface.co/{model.path}){revision}"
    return markdown_text(Path(model.path).name)


def usage_lines(artifact: HubArtifact, recipe: Recipe, repository: str, modelfile: str | None) -> list[str]:
    """How each program that reads the artifact is asked.

    Args:
        artifact: What is in the repository.
        recipe: Whose prompt counts.
        repository: OWNER/NAME.
        modelfile: For Ollama, of a GGUF.
    """
    if artifact.format == "peft":
        return [
            *_titled("transformers and PEFT", _peft(recipe, repository, network_of(artifact.is_nested)), "python"),
            "",
            *_titled("mlx-lm", _mlx_adapter(recipe, repository), "python"),
        ]
    if artifact.format == "hf":
        return _titled("transformers", _transformers(recipe, repository), "python")
    if artifact.format == "mlx":
        return _titled("mlx-lm", _mlx(recipe, repository), "python")
    file = artifact.file or ""
    if artifact.format == "gguf-lora":
        thinking = "" if recipe.prompt.thinking else " --reasoning-budget 0"  # the base model's template may ask for it
        ask = _llama_cli(recipe, f"-m BASE.gguf --lora {file}{thinking}")
        return [
            *_titled("llama.cpp", f"hf download {repository} {file} --local-dir .\n{ask}", "sh"),
            "",
            f"BASE.gguf is {base_reference(recipe)} as a GGUF, best unquantized.",
        ]
    kind = (artifact.options.type or GGUF_TYPE).upper()
    lines = _titled("llama.cpp", _llama_cli(recipe, f"-hf {repository}:{kind}"), "sh")
    if modelfile is not None:
        create = f"hf download {repository} {file} --local-dir .\nollama create {recipe.name} -f Modelfile"
        lines += ["", *_titled("Ollama", f"{create}\nollama run {recipe.name}", "sh"), ""]
        lines += ["The Modelfile, which asks as the recipe does:", "", markdown_block(modelfile.rstrip("\n"), "text")]
    return lines


def load_line(artifact: HubArtifact, recipe: Recipe, repository: str) -> str:
    """What loads the artifact, in one line."""
    base = recipe.model.path if is_hub_model(recipe.model.path) else "BASE"
    kind = (artifact.options.type or GGUF_TYPE).upper()
    return {
        "peft": f"PeftModel.from_pretrained({network_of(artifact.is_nested)}.from_pretrained({_literal(base)}), {_literal(repository)})",
        "hf": f"AutoModelForCausalLM.from_pretrained({_literal(repository)})",
        "mlx": f'mlx_lm.generate --model {repository} --prompt "..."',
        "gguf": f"llama-cli -hf {repository}:{kind} --jinja",
        "gguf-lora": f"hf download {repository} {artifact.file} --local-dir . && llama-cli -m BASE.gguf --lora {artifact.file}",
    }[artifact.format]


def _titled(title: str, code: str, language: str) -> list[str]:
    return [f"### {title}", "", markdown_block(code, language)]


def _peft(recipe: Recipe, repository: str, network: str) -> str:
    revision = f", revision={_literal(recipe.model.revision)}" if recipe.model.revision else ""
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {network}, AutoTokenizer",
            "",
            _base_line(recipe),
            f"base = {network}.from_pretrained(BASE{revision})",
            f"model = PeftModel.from_pretrained(base, {_literal(repository)})",
            f"tokenizer = AutoTokenizer.from_pretrained(BASE{revision})",
            *_ask_transformers(recipe),
        ]
    )


def _transformers(recipe: Recipe, repository: str) -> str:
    return "\n".join(
        [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"model = AutoModelForCausalLM.from_pretrained({_literal(repository)})",
            f"tokenizer = AutoTokenizer.from_pretrained({_literal(repository)})",
            *_ask_transformers(recipe),
        ]
    )


def _ask_transformers(recipe: Recipe) -> list[str]:
    return [
        *_messages(recipe),
        "inputs = tokenizer.apply_chat_template(",
        f"    messages, add_generation_prompt=True, enable_thinking={recipe.prompt.thinking}, return_dict=True, "
        'return_tensors="pt"',
        ")",
        f"ids = model.generate(**inputs, max_new_tokens={recipe.evaluate.max_new_tokens}, do_sample=False)",
        'reply = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
    ]


def _mlx_adapter(recipe: Recipe, repository: str) -> str:
    return "\n".join(
        [
            "from huggingface_hub import snapshot_download",
            "from mlx_lm import generate, load",
            "",
            _base_line(recipe),
            f'folder = snapshot_download({_literal(repository)}, allow_patterns="mlx/*")',
            'model, tokenizer = load(BASE, adapter_path=f"{folder}/mlx")',
            *_ask_mlx(recipe),
        ]
    )


def _mlx(recipe: Recipe, repository: str) -> str:
    return "\n".join(
        [
            "from mlx_lm import generate, load",
            "",
            f"model, tokenizer = load({_literal(repository)})",
            *_ask_mlx(recipe),
        ]
    )


def _ask_mlx(recipe: Recipe) -> list[str]:
    return [
        *_messages(recipe),
        f"prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, enable_thinking={recipe.prompt.thinking})",
        f"reply = generate(model, tokenizer, prompt, max_tokens={recipe.evaluate.max_new_tokens})",
    ]


def _messages(recipe: Recipe) -> list[str]:
    """The messages of a row, as Python."""
    columns = _columns(recipe)
    if recipe.prompt.user == f"{{{columns[0]}}}":
        user = _literal(_example(columns[0]))
    else:
        filled = "".join(f".replace({_literal(f'{{{name}}}')}, {_literal(_example(name))})" for name in columns)
        user = f"{_literal(recipe.prompt.user)}{filled}"
    system = recipe.prompt.system
    first = [] if system is None else [f'    {{"role": "system", "content": {_literal(system)}}},']
    return ["messages = [", *first, f'    {{"role": "user", "content": {user}}},', "]"]


def _llama_cli(recipe: Recipe, model: str) -> str:
    """One question to llama.cpp, by the chat template in the GGUF."""
    system = "" if recipe.prompt.system is None else f" -sys {shlex.quote(recipe.prompt.system)}"
    user = recipe.prompt.user
    for name in _columns(recipe):
        user = user.replace(f"{{{name}}}", _example(name))
    limits = f"-n {recipe.evaluate.max_new_tokens} --temp 0"
    return f"llama-cli {model} --jinja {limits} -st{system} -p {shlex.quote(user)}"


def _columns(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user)))


def _example(column: str) -> str:
    return f"the {re.sub(r'[^A-Za-z0-9 _-]', ' ', column)}"


def _base_line(recipe: Recipe) -> str:
    path = recipe.model.path
    if is_hub_model(path):
        return f"BASE = {_literal(path)}"
    return f"BASE = {_literal('path/to/the/base/model')}  # in Hugging Face's format; see above which one"


def _literal(text: str | None) -> str:
    """Text as a literal of Python."""
    return json.dumps(text, ensure_ascii=False)
