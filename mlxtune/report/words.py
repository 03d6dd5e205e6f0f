"""Every word of a report that is not the run's own, in each language. The one place for them.

    say = Words("zh")
    say("losses.best", step=40)  # "第 40 步的验证损失最低"

A key is SECTION.NAME; a phrase's {placeholders} are the same in all languages. What a run, a recipe or a row says
(labels, texts, keys of the recipe, notes of the evaluation) stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Phrase:
    """The same words in each language."""

    en: str
    zh: str


PHRASES: dict[str, Phrase] = {
    # Metrics, by the names in scores.json, are under "metric.NAME".
    "metric.exact_match": Phrase("exact match", "完全匹配率"),
}


class Words:
    """The words of one language.

    Args:
        language: "en" or "zh".
    """

    def __init__(self, language: str) -> None:
        self.language = language

    def __call__(self, key: str, **values: Any) -> str:
        """A phrase with its placeholders filled in, by `str.format`: `{share:.1%}` works."""
        phrase: str = getattr(PHRASES[key], self.language)
        return phrase.format(**values) if values else phrase
