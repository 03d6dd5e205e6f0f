"""A text field: its metrics, how many replies are near their reference, lengths and placeholders, and replies to read."""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.evaluation.error_analysis import TextCase, TextCases
from mlxtune.evaluation.metrics.texts import Bucket, TextScores
from mlxtune.report.blocks import Block, Cell, Column, Facts, Folded, Paragraph, Section, Table
from mlxtune.report.charts import Axis, BarChart, Bars
from mlxtune.report.sections.field_results import FieldResults, baseline_table, metric_table, summary
from mlxtune.report.sections.pieces import estimate_cell, in_order, listed, metric_title, numeric, place, together
from mlxtune.report.values import clipped, count_text, value_text
from mlxtune.report.words import Words

MAX_CASES = 3  # of each kind; all replies are among the predictions
MAX_CASE_CHARS = 2_000
SAME_LENGTH = 0.1  # as long as the reference, but for a tenth


def text_section(results: FieldResults, cases: TextCases | None, say: Words) -> Section | None:
    """A text field.

    Args:
        results: Its scores.
        cases: Its best, middle and worst texts; None where the predictions are missing.
        say: The words.

    Returns:
        None of a field with labels.
    """
    scores = results.scores
    if not isinstance(scores, TextScores):
        return None
    blocks: list[Block] = [*summary(results, say), *_in_words(scores, say), metric_table(results, say)]
    blocks += [Paragraph(say("texts.rouge.note")), *baseline_table(results, say)]
    blocks += _bucket_chart(results, scores, say)
    blocks += _conditions(scores, say)
    if cases is not None:
        blocks += _cases(cases, say)
    if scores.signatures:
        blocks.append(Folded(say("texts.signatures"), [Facts(scores.signatures)]))
    return Section(f"field-{results.name}", say("labels.title", field=results.name), blocks)


def _in_words(scores: TextScores, say: Words) -> list[Block]:
    """Lengths, placeholders and replies without a text, in sentences."""
    values = {name: one.value for name, one in scores.metrics.items()}
    sentences = []
    if (ratio := values.get("length_ratio")) is not None:
        kind = "same" if abs(ratio - 1) <= SAME_LENGTH else "longer" if ratio > 1 else "shorter"
        sentences.append(say(f"texts.length.{kind}", ratio=f"{ratio:.2f}"))
    kept, invented = values.get("placeholders_kept"), values.get("placeholders_invented", 0.0)
    if kept is not None:
        sentences.append(say("texts.placeholders.kept", share=kept))
    if invented:
        sentences.append(say("texts.placeholders.invented", share=invented))
    elif kept is not None:
        sentences.append(say("texts.placeholders.none"))
    if invalid := values.get("invalid_rate"):
        sentences.append(say("texts.invalid", share=invalid))
    return [Paragraph(together(sentences, say))] if sentences else []


def _bucket_chart(results: FieldResults, scores: TextScores, say: Words) -> list[Block]:
    """How many rows are in each bucket of ROUGE-L, before and after tuning."""
    if not scores.buckets:
        return []
    names = {bucket: say(f"texts.bucket.{bucket}") for bucket in scores.buckets}
    theirs = None if results.before is None else results.before.scores
    before = theirs.buckets if isinstance(theirs, TextScores) else {}
    groups = [_bars(say("field.after"), list(scores.buckets.values()))]
    if before.keys() == scores.buckets.keys():
        groups.append(_bars(say("field.before"), list(before.values())))
    texts = [count_text(one.rows, results.rows) for one in scores.buckets.values()]
    said = [say("texts.bucket.said", bucket=name, rows=text) for name, text in zip(names.values(), texts, strict=True)]
    axis = Axis(say("texts.buckets.share"), low=0.0, high=1.0)
    description = say("list.clauses").join(said)
    return [
        BarChart(f"rouge-{results.name}", say("texts.buckets"), description, list(names.values()), groups, axis, texts)
    ]


def _bars(name: str, buckets: Sequence[Bucket]) -> Bars:
    shares = [one.share for one in buckets]
    intervals = [None if one.low is None or one.high is None else (one.low, one.high) for one in shares]
    return Bars(name, [one.value for one in shares], intervals)


def _conditions(scores: TextScores, say: Words) -> list[Block]:
    """The metrics of the rows whose labels are right, beside those of the others."""
    right, wrong = scores.when_right, scores.when_wrong
    if right is None or wrong is None:
        return []
    columns = (Column(say("field.metric")), *numeric(say("texts.right"), say("texts.wrong")))
    rows = [[Cell(say("texts.conditions.rows")), Cell(f"{right.rows:,}"), Cell(f"{wrong.rows:,}")]]
    for name in in_order([*right.metrics, *wrong.metrics]):
        parts = [estimate_cell(part.metrics.get(name), bar=True) for part in (right, wrong)]
        rows.append([Cell(metric_title(name, say)), *parts])
    return [Table(say("texts.conditions"), columns, rows, say("texts.conditions.note"))]


def _cases(cases: TextCases, say: Words) -> list[Block]:
    """A few of the best, middle and worst replies, folded."""
    kinds = {"best": cases.best, "middle": cases.middle, "worst": cases.worst}
    return [
        Folded(say(f"texts.cases.{kind}"), [block for one in of_kind[:MAX_CASES] for block in _case(one, say)])
        for kind, of_kind in kinds.items()
        if of_kind
    ]


def _case(case: TextCase, say: Words) -> list[Block]:
    one = case.prediction
    right = [field for field, is_right in case.right.items() if is_right]
    wrong = [_wrong(case, field, say) for field, is_right in case.right.items() if not is_right]
    sentences = [
        say("texts.case", row=one.row, place=place(one.file, one.line), closeness=case.rouge_l),
        say("texts.case.right", fields=listed(right, say)) if right else "",
        say("texts.case.wrong", fields=listed(wrong, say)) if wrong else "",
    ]
    said = one.predicted[case.field]
    title, text = (say("texts.unreadable"), one.prediction) if said is None else (say("texts.reply"), value_text(said))
    texts = {
        say("texts.input"): one.whole_input,
        say("texts.reference"): value_text(one.expected[case.field]),
        title: text,
    }
    return [
        Paragraph(together(sentences, say)),
        Facts({name: clipped(text, MAX_CASE_CHARS) for name, text in texts.items()}),
    ]


def _wrong(case: TextCase, field: str, say: Words) -> str:
    said = case.prediction.predicted[field]
    text = say("texts.case.nothing") if said is None else value_text(said)
    return say("texts.case.wrong.one", field=field, said=text, expected=value_text(case.prediction.expected[field]))
