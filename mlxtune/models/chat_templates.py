"""Chat templates for models whose files have none, found by the turn tokens of their vocabulary. No tokenizer is loaded here.

A base model was not tuned to chat, and its files often lack a template; its vocabulary has the tokens by which its family
writes turns all the same. Training with them teaches the model what they mean, and other programs know the form.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True)
class TurnTemplate:
    """How a family writes a conversation.

    Attributes:
        name: What messages call it.
        tokens: That the vocabulary has to have.
        text: In Jinja, as tokenizer_config.json holds it.
    """

    name: str
    tokens: tuple[str, ...]
    text: str

    @property
    def note(self) -> str:
        """What is said of a model that is written to with it."""
        return f"has no chat template; prompts are written with {self.name}, as its vocabulary has them"


CHATML = TurnTemplate(
    "ChatML's turns (<|im_start|>)",
    ("<|im_start|>", "<|im_end|>"),
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
)
# Gemma has no role for a system prompt: it opens the first turn of the user, as in Google's own template.
GEMMA = TurnTemplate(
    "Gemma's turns (<start_of_turn>)",
    ("<start_of_turn>", "<end_of_turn>"),
    "{{- bos_token }}"
    "{%- set opening = namespace(text='') %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}"
    "{%- if not loop.first %}{{- raise_exception('a system message can only be the first') }}{%- endif %}"
    "{%- set opening.text = message.content + '\n\n' %}"
    "{%- else %}"
    "{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{{- opening.text + message.content | trim + '<end_of_turn>\n' }}"
    "{%- set opening.text = '' %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}",
)


def template_of_turns(vocabulary: Container[str]) -> TurnTemplate | None:
    """The template whose turn tokens a vocabulary has; None where it has those of none.

    >>> template_of_turns({"<bos>", "<start_of_turn>", "<end_of_turn>"}).name
    "Gemma's turns (<start_of_turn>)"
    """
    for template in (CHATML, GEMMA):
        if all(token in vocabulary for token in template.tokens):
            return template
    return None
