"""A model's chat template for other programs, which do not know the recipe: thinking is off where it was off in training."""

from __future__ import annotations

from mlxtune.recipe.sections import Recipe

_SWITCH = "enable_thinking"
_OFF_BY_DEFAULT = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
_OFF = "{%- set enable_thinking = false %}"


def exported_chat_template(template: str, recipe: Recipe) -> str:
    """A chat template that writes the recipe's prompt unless it is told whether to think.

    Args:
        template: The base model's own.
        recipe: What the model was trained by.

    Returns:
        The template; with `prompt.thinking` false and a template that knows `enable_thinking`, one whose default that is.
    """
    return _opened(template, recipe, _OFF_BY_DEFAULT)


def gguf_chat_template(template: str, recipe: Recipe) -> str:
    """`exported_chat_template` for llama.cpp, which asks every template that knows `enable_thinking` to think, unless its user
    says otherwise: a default would never count, so the template sets the switch itself."""
    return _opened(template, recipe, _OFF)


def _opened(template: str, recipe: Recipe, opening: str) -> str:
    thinks = recipe.prompt.thinking or _SWITCH not in template
    return template if thinks or template.startswith(opening) else opening + template
