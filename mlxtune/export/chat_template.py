"""The chat template of an exported model: the base model's own, with the recipe's thinking as what is done unasked."""

from __future__ import annotations

from mlxtune.recipe.sections import Recipe

SWITCH = "enable_thinking"  # the variable by which Qwen's templates are told


def exported_chat_template(template: str, recipe: Recipe) -> str:
    """A Jinja chat template that opens the reply as the recipe trained it, where its user does not say otherwise.

    Args:
        template: The base model's.
        recipe: Its prompt.thinking counts.

    Returns:
        The template; unchanged where it knows no thinking, or was given this default before.

    >>> from mlxtune.recipe.sections import PromptSection
    >>> recipe = Recipe.model_construct(prompt=PromptSection(user="{text}", thinking=False))
    >>> exported_chat_template("{{ enable_thinking }}", recipe)
    '{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}{{ enable_thinking }}'
    """
    if SWITCH not in template:
        return template
    for said in (_default(True), _default(False)):
        template = template.removeprefix(said)
    return _default(recipe.prompt.thinking) + template


def _default(thinking: bool) -> str:
    value = "true" if thinking else "false"
    return f"{{%- if {SWITCH} is not defined %}}{{%- set {SWITCH} = {value} %}}{{%- endif %}}"
