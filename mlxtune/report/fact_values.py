"""Facts of compared runs as text: settings, losses, costs. The same in a terminal and on a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mlxtune.report.values import clipped, size_text

if TYPE_CHECKING:
    from mlxtune.evaluation.compare.facts import Fact

MAX_SETTING_CHARS = 60  # of a value in a cell: a system prompt is long
# How a fact is shown; others as the recipe's YAML has them.
FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("steps", "steps planned", "adapter of step", "best step", "trainable parameters"), "{:,}".format),
    **dict.fromkeys(("train loss", "valid loss", "best value"), "{:.4f}".format),
    **dict.fromkeys(("valid/train", "valid/train at the end"), "{:.2f}".format),
    "training seconds": "{:,.0f}".format,
    "training tokens/s": "{:,.0f}".format,
    "training peak memory, GB": "{:.2f}".format,
    "evaluation peak memory, GB": "{:.2f}".format,
    "evaluation seconds a row": "{:.3f}".format,
    "adapter bytes": size_text,
}
# A line that says what another one says is left out of tables; --json and --csv have it.
SAYS_NO_MORE_THAN = {"steps planned": "steps", "valid/train at the end": "valid/train", "adapter of step": "steps"}


def worth_showing(facts: Sequence[Fact]) -> list[Fact]:
    """Without the lines that repeat another one."""
    values = {fact.name: fact.values for fact in facts}
    return [fact for fact in facts if values.get(SAYS_NO_MORE_THAN.get(fact.name, "")) != fact.values]


def fact_value(name: str, value: Any) -> str:
    """The value of a fact as a reader reads it; not None."""
    if name in FORMATS:
        return FORMATS[name](value)
    return clipped(" ".join(setting_value(value).split()), MAX_SETTING_CHARS)


def setting_value(value: Any) -> str:
    """A value as the recipe's YAML has it: 1e-4, true, [q_proj, v_proj]."""
    if value is None:
        return ""
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        digits, _, exponent = f"{value:e}".partition("e")
        return f"{float(digits):g}e{int(exponent)}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(setting_value, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
