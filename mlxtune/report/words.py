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
    """The same words in each language.

    Attributes:
        en: English.
        zh: Simplified Chinese.
        one: English where `n` is 1: "1 row"; "" where it is no other than `en`.
    """

    en: str
    zh: str
    one: str = ""


PHRASES: dict[str, Phrase] = {
    # Metrics, by the names in scores.json, are under "metric.NAME".
    "metric.exact_match": Phrase("exact match", "完全匹配率"),
    "metric.accuracy": Phrase("accuracy", "准确率"),
    "metric.partial_match": Phrase("partial match", "部分匹配率"),
    "metric.micro_f1": Phrase("micro F1", "微平均 F1"),
    "metric.macro_f1": Phrase("macro F1", "宏平均 F1"),
    "metric.sample_f1": Phrase("sample F1", "样本平均 F1"),
    "metric.length_ratio": Phrase("length ratio", "长度比"),
    "metric.placeholders_kept": Phrase("placeholders kept", "占位符保留率"),
    "metric.placeholders_invented": Phrase("placeholders invented", "虚构占位符的比例"),
    "metric.invalid_rate": Phrase("invalid replies", "无效回复率"),
    "metric.repeated_rate": Phrase("repeated labels or loops", "重复率"),
    "metric.loop_rate": Phrase("loops", "循环率"),
    "metric.cut_rate": Phrase("truncated replies", "截断率"),
    "metric.all_fields_correct": Phrase("all fields right", "全部字段正确率"),
    # Verdicts of comparisons, by the name that `Comparison.verdict` has.
    "verdict.better": Phrase("better", "更好"),
    "verdict.worse": Phrase("worse", "更差"),
    "verdict.higher": Phrase("higher", "更高"),
    "verdict.lower": Phrase("lower", "更低"),
    "verdict.no real difference": Phrase("no real difference", "无显著差异"),
    "verdict.too few rows": Phrase("too few rows to tell", "行数太少，无法判断"),
    "verdict.too few cases": Phrase("too few cases to tell", "样例太少，无法判断"),
    # Counts that stand alone or in a list.
    "count.rows": Phrase("{n:,} rows", "{n:,} 行", one="1 row"),
    "count.labels": Phrase("{n:,} labels", "{n:,} 个标签", one="1 label"),
    "count.left_out": Phrase(
        "The first {shown:,} are shown; {n:,} more are not.",
        "仅显示前 {shown:,} 项，其余 {n:,} 项未显示。",
        one="The first {shown:,} are shown; 1 more is not.",
    ),
    "list.separator": Phrase(", ", "、"),
    "list.sentences": Phrase(" ", ""),
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
        found = PHRASES[key]
        singular = self.language == "en" and values.get("n") == 1
        phrase: str = (found.one if singular else "") or getattr(found, self.language)
        return phrase.format(**values) if values else phrase
