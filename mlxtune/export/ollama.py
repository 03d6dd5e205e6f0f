"""`ollama`: a folder with a GGUF and the Modelfile that makes Ollama ask it as the recipe does.

The TEMPLATE is not written by hand for each family: the base model's own chat template is rendered with marks in place of
the messages, and what stands between the marks becomes the Go template.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.errors import ExportError
from mlxtune.export.exported import Exported, check_folder_free, new_folder, size_on_disk
from mlxtune.export.gguf_adapter import export_gguf_lora
from mlxtune.export.gguf_model import context_length, export_gguf
from mlxtune.export.source import ExportSource
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import PLACEHOLDER, Recipe

MODELFILE = "Modelfile"
END_OF_TEXT = "<|endoftext|>"
# What stands for a message while the chat template is looked at: nothing that a template would trim or escape.
_MARK = "mlxtune-message-{number}-"


@dataclass(frozen=True)
class Turns:
    """What a chat template writes around the messages of a conversation.

    Attributes:
        system: Before a system message that opens it.
        opening: Before a user message that opens it, where there is no system message.
        after_system: Before the user message after the system message. Gemma's opens no turn: the system message opened it.
        user: Before any other user message, the end of the turn before it included.
        assistant: Between a user message and the assistant's reply to it, in a turn that is past.
        reply: Between the last user message and the reply that is to be written.
        trimmed: Roles whose messages lose the white space at their ends.
    """

    system: str
    opening: str
    after_system: str
    user: str
    assistant: str
    reply: str
    trimmed: frozenset[str] = frozenset()


def export_ollama(
    source: ExportSource,
    out: Path,
    quantization: str = "f16",
    *,
    adapter_only: str | None = None,
    force: bool = False,
) -> Exported:
    """Write a folder that `ollama create` makes a model from.

    Args:
        source: The run, with an adapter.
        out: Folder to write.
        quantization: Type of the GGUF's weights; of a whole model only.
        adapter_only: Name of a model that Ollama has, such as qwen3:0.6b; the folder then holds the adapter alone.
        force: Replace such a folder that lies there.

    Raises:
        ExportError: `out` is taken or cannot be written, or the prompt cannot be written as a Modelfile.
    """
    check_folder_free(out, MODELFILE, force=force)
    recipe = source.recipe
    tokenizer = load_tokenizer(source.base)
    with new_folder(out, MODELFILE, force=force) as new:
        if adapter_only is None:
            file = f"{recipe.name}-{quantization.upper()}.gguf"
            artifact = export_gguf(source, new / file, quantization)
            origin = f"FROM ./{file}"
        else:
            file = f"{recipe.name}-lora.gguf"
            artifact = export_gguf_lora(source, new / file)
            origin = f"FROM {adapter_only}\nADAPTER ./{file}"
        text = modelfile(origin, recipe, tokenizer, context_length(source.config))
        (new / MODELFILE).write_text(text, encoding="utf-8")
    notes = list(artifact.notes)
    columns = PLACEHOLDER.findall(recipe.prompt.user)
    if len(columns) > 1:
        notes.append(f"the prompt shows several columns; write the message as the recipe does: {recipe.prompt.user!r}")
    if adapter_only is not None:
        notes.append(
            f"{adapter_only} must be the model that the adapter was trained on ({recipe.model.path}), best unquantized: "
            "Ollama does not check it"
        )
    load = f"cd {shlex.quote(str(out))} && ollama create {recipe.name} && ollama run {recipe.name}"
    return Exported("ollama", out, size_on_disk(out), load, tuple(notes))


def modelfile(origin: str, recipe: Recipe, tokenizer: Tokenizer, n_positions: int) -> str:
    """The Modelfile of a recipe.

    Args:
        origin: Its FROM line, and ADAPTER where there is one.
        recipe: Whose prompt, thinking and limits count.
        tokenizer: Has the chat template and the stop tokens.
        n_positions: Tokens that the model may attend to.

    Raises:
        ExportError: The system prompt cannot be quoted.
    """
    around = turns(tokenizer, recipe.prompt.thinking)
    lines = [origin, f'TEMPLATE """{go_template(around, recipe.prompt.user)}"""']
    if recipe.prompt.system is not None:
        if '"""' in recipe.prompt.system:
            raise ExportError('prompt.system holds """, which a Modelfile cannot quote; reword it and train again')
        system = recipe.prompt.system.strip() if "system" in around.trimmed else recipe.prompt.system
        lines.append(f'SYSTEM """{system}"""')
    stops = [str(tokenizer.hf.convert_ids_to_tokens(token)) for token in tokenizer.stop_tokens]
    if END_OF_TEXT in tokenizer.control_texts:  # base models of this kind may write it where a turn ends
        stops.append(END_OF_TEXT)
    lines += [f'PARAMETER stop "{stop}"' for stop in dict.fromkeys(stops)]
    if recipe.output.label_fields:
        lines.append("PARAMETER temperature 0")
    lines.append(f"PARAMETER num_ctx {n_positions}")
    lines.append(f"PARAMETER num_predict {recipe.evaluate.max_new_tokens}")
    return "\n".join(lines) + "\n"


def turns(tokenizer: Tokenizer, thinking: bool) -> Turns:
    """What a tokenizer's chat template writes around messages.

    Args:
        tokenizer: Whose template.
        thinking: Passed to it as `enable_thinking`.

    Raises:
        ExportError: The template does more than put fixed text around messages.
    """

    def written(roles: Sequence[str], texts: Sequence[str]) -> str:
        messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        return tokenizer.prompt_text(messages, thinking)

    def between(*roles: str) -> list[str]:
        """What stands before, between and after messages of these roles."""
        marks = [_MARK.format(number=number) for number in range(len(roles))]
        text = written(roles, marks)
        if re.findall("|".join(marks), text) != marks:
            raise ExportError(f"{tokenizer.source}: its chat template leaves messages out, or moves or repeats them")
        return re.split("|".join(marks), text)

    opening, reply = between("user")
    system, after_system, _ = with_system = between("system", "user")
    *_, assistant, user, _ = without_system = between("user", "assistant", "user")
    turn = [assistant, user]
    if (
        without_system != [opening, *turn, reply]
        or with_system != [system, after_system, reply]
        or between("system", *["user", "assistant"] * 2, "user") != [system, after_system, *turn, *turn, reply]
    ):
        raise ExportError(
            f"{tokenizer.source}: its chat template writes a turn in more ways than one, which no Ollama template can say"
        )
    spaced = {role: f" {_MARK.format(number=role)} " for role in ("system", "user")}
    with_spaces = written(list(spaced), list(spaced.values()))
    bos = tokenizer.hf.bos_token
    if tokenizer.adds_bos and bos:  # llama.cpp writes it by itself
        system, opening = system.removeprefix(bos), opening.removeprefix(bos)
    return Turns(
        system, opening, after_system, user, assistant, reply,
        frozenset(role for role, text in spaced.items() if text not in with_spaces),
    )  # fmt: skip


def go_template(around: Turns, user: str = "{text}") -> str:
    """A template of Ollama's, in Go's language, that writes what a chat template writes.

    Args:
        around: What stands around messages.
        user: The recipe's prompt.user. What stands around its only column is written here, so that whoever asks types the
            column alone; a prompt of several columns is left to whoever asks.
    """
    columns = PLACEHOLDER.findall(user)
    before, after = ("", "")
    if len(columns) == 1:
        before, after = user.split(f"{{{columns[0]}}}")
    if "user" in around.trimmed:
        before, after = before.lstrip(), after.rstrip()
    before, after = _literal(before), _literal(after)
    system, opening, after_system, later, assistant, reply = map(
        _literal, (around.system, around.opening, around.after_system, around.user, around.assistant, around.reply)
    )
    if after_system != later:
        later = f'{{{{ if and (eq $i 1) (eq (index $.Messages 0).Role "system") }}}}{after_system}{{{{ else }}}}{later}{{{{ end }}}}'
    return (
        "{{- range $i, $_ := .Messages }}\n"
        f'{{{{- if eq .Role "system" }}}}{system}{{{{ .Content }}}}\n'
        f'{{{{- else if eq .Role "user" }}}}{{{{ if eq $i 0 }}}}{opening}{{{{ else }}}}{later}{{{{ end }}}}'
        f"{before}{{{{ .Content }}}}{after}\n"
        f'{{{{- else if eq .Role "assistant" }}}}{assistant}{{{{ .Content }}}}\n'
        "{{- end }}\n"
        "{{- end }}"
        f"{reply}"
    )


def _literal(text: str) -> str:
    """Text as it stands in a Go template, where {{ begins an action, and {{- trims the white space before it."""
    if text != text.strip() or "{{" in text or '"""' in text:
        quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'{{{{ "{quoted}" }}}}'
    return text
