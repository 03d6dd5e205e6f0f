"""A field with labels: its metrics, each label, which labels are taken for which, and where it is weak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.labels import Confusion, LabelScore, LabelScores
from mlxtune.evaluation.metrics.mistakes import BesideMistake, Confused, LabelMistakes, SetConfusion
from mlxtune.evaluation.metrics.paired import LEVEL, mcnemar
from mlxtune.report.blocks import Block, Cell, Column, Folded, Paragraph, Section, Table
from mlxtune.report.charts import Axis, BarChart, Bars, HeatMap
from mlxtune.report.sections.field_results import FieldResults, baseline_table, metric_table, summary
from mlxtune.report.sections.pieces import estimate_cell, left_out, listed, numeric, share_cell, some_listed, together
from mlxtune.report.values import count_text
from mlxtune.report.words import Words

MAX_LABELS = 40  # rows of the table of labels; of an open set there may be thousands
MAX_FOLDED = 500  # of those that are folded away
MAX_CHART_LABELS = 20  # bars that a reader takes in
MAX_CONFUSED = 16  # rows of a confusion matrix that fit on a page
MAX_ERRORS = 12
MAX_NAMED = 3  # in a sentence
WEAK_RECALL = 0.5  # fewer than half of a label's rows are found
RARE = 0.75  # of an even share of the rows
_UNDEFINED = Cell("–")  # a score of a label that no row has


@dataclass(frozen=True)
class LabelErrors:
    """What was answered in the place of what.

    Attributes:
        mistakes: The most frequent errors.
        sets: Of label sets, label by label; None of one label a row, whose scores hold their confusion matrix.
    """

    mistakes: LabelMistakes
    sets: SetConfusion | None = None


def label_section(
    results: FieldResults, errors: LabelErrors | None, say: Words, parts: Sequence[Block] = ()
) -> Section | None:
    """A field with labels.

    Args:
        results: Its scores.
        errors: Of its predictions; None where these are missing.
        say: The words.
        parts: What else belongs to the field: its calibration.

    Returns:
        None of a field without labels.
    """
    scores = results.scores
    if not isinstance(scores, LabelScores):
        return None
    said = None if errors is None else _said(scores, errors)
    blocks: list[Block] = [
        *summary(results, say),
        *_findings(results.rows, scores, errors, said, say),
        metric_table(results, say),
    ]
    blocks += baseline_table(results, say)
    blocks += _label_tables(results, scores, said, say)
    blocks += _recall_chart(results, scores, say)
    blocks += _count_table(results, scores, say)
    if scores.confusion is not None:
        blocks += _confusion_map(results.name, scores.confusion, say)
    elif errors is not None and errors.sets is not None:
        blocks += _set_map(results.name, errors.sets, say)
    if errors is not None:
        blocks += _error_table(errors.mistakes, say)
    return Section(f"field-{results.name}", say("labels.title", field=results.name), [*blocks, *parts])


# In words ----------------------------------------------------------------------------------------------------------


def _findings(
    n_rows: int, scores: LabelScores, errors: LabelErrors | None, said: Mapping[str, int] | None, say: Words
) -> list[Block]:
    """What a reader should see first: the most frequent errors, weak labels, labels that are said too often."""
    paragraphs = [
        "" if errors is None else _frequent_errors(errors.mistakes, say),
        _weak_labels(scores, n_rows, say),
        "" if said is None else _leaning(scores, said, say),
    ]
    return [Paragraph(text, "warning" if i else "neutral") for i, text in enumerate(paragraphs) if text]


def _frequent_errors(mistakes: LabelMistakes, say: Words) -> str:
    """ "Most frequent errors: 40.6% of low are taken for medium (13 of 32)." """
    shown = _ranked(mistakes)[:MAX_NAMED]
    if not shown:
        return ""
    sentences = [
        say(
            "labels.error.counted", error=_error_text(one, kind, say), share=one.rows / one.of, rows=one.rows, of=one.of
        )
        for one, kind in shown
    ]
    return say("labels.errors.first", errors=say("list.clauses").join(sentences))


def _weak_labels(scores: LabelScores, n_rows: int, say: Words) -> str:
    """The labels of which fewer than half of the rows are found, and which of them are rare."""
    total = sum(one.support for one in scores.labels.values())
    weak = [label for label, one in scores.labels.items() if one.support and one.recall < WEAK_RECALL]
    weak.sort(key=lambda label: -scores.labels[label].support)
    if not weak:
        return ""
    even = total / len(scores.labels)
    rare = [label for label in weak if scores.labels[label].support < RARE * even]

    def named(label: str) -> str:
        one = scores.labels[label]
        return say(
            "labels.weak.one",
            label=label,
            recall=one.recall,
            rows=say("count.rows", n=one.support),
            share=one.support / n_rows,
        )

    sentences = [say("labels.weak", labels=some_listed(list(map(named, weak)), say, MAX_NAMED))]
    if rare:
        sentences.append(say("labels.rare", labels=some_listed(rare, say, MAX_NAMED)))
    return together(sentences, say)


def _leaning(scores: LabelScores, said: Mapping[str, int], say: Words) -> str:
    """Labels that are said more, or less, often than they are expected, by more than chance."""
    sentences = []
    for label, one in scores.labels.items():
        hits = round(one.recall * one.support)
        too_many, too_few = said.get(label, 0) - hits, one.support - hits
        if too_many != too_few and mcnemar(too_many, too_few) < LEVEL:
            key = "labels.too_often" if too_many > too_few else "labels.too_seldom"
            sentences.append(
                (abs(too_many - too_few), say(key, label=label, said=said.get(label, 0), expected=one.support))
            )
    sentences.sort(key=lambda pair: -pair[0])
    return together([text for _, text in sentences[:MAX_NAMED]], say)


def _ranked(mistakes: LabelMistakes) -> list[tuple[BesideMistake | Confused, str]]:
    """Mistakes of all kinds with their kind, the most frequent first."""
    found = [(one, kind) for kind in mistakes.kinds for one in mistakes[kind]]
    return sorted(found, key=lambda pair: -pair[0].rows)


def _error_text(mistake: BesideMistake | Confused, kind: str, say: Words) -> str:
    if isinstance(mistake, Confused):
        return say("labels.error.confused", label=mistake.label, taken_for=mistake.taken_for)
    if mistake.beside is None:
        return say(f"labels.error.{kind}.alone", label=mistake.label)
    return say(f"labels.error.{kind}", label=mistake.label, beside=mistake.beside)


# Tables ------------------------------------------------------------------------------------------------------------


def _label_tables(
    results: FieldResults, scores: LabelScores, said: Mapping[str, int] | None, say: Words
) -> list[Block]:
    """Precision, recall and F1 of each label; the most frequent first where there are too many to show."""
    labels = list(scores.labels)
    if not labels:
        return []
    by_support = sorted(labels, key=lambda label: -scores.labels[label].support)
    shown = labels if len(labels) <= MAX_LABELS else by_support[:MAX_LABELS]
    title = say("labels.table")
    nowhere = any(not one.support for one in scores.labels.values())
    notes = [
        say("labels.table.note"),
        say("labels.table.nowhere") if nowhere else "",
        left_out(len(shown), len(labels), say),
    ]
    note = together(notes, say)
    blocks: list[Block] = [_label_table(title, shown, note, results, scores, said, say)]
    if rest := by_support[len(shown) : MAX_FOLDED]:
        note = left_out(MAX_FOLDED, len(labels), say)
        table = _label_table(say("labels.table.rest"), rest, note, results, scores, said, say)
        blocks.append(Folded(say("labels.table.rest"), [table]))
    return blocks


def _label_table(
    title: str,
    labels: Sequence[str],
    note: str,
    results: FieldResults,
    scores: LabelScores,
    said: Mapping[str, int] | None,
    say: Words,
) -> Table:
    before = _before(results)
    heads = [say("labels.support"), *([] if said is None else [say("labels.said")])]
    heads += [say("labels.precision"), say("labels.recall"), say("labels.f1")]
    if before is not None:
        heads.append(say("labels.f1.before"))
    rows = []
    for label in labels:
        one = scores.labels[label]
        cells = [Cell(label), Cell(count_text(one.support, results.rows))]
        if said is not None:
            cells.append(Cell(f"{said.get(label, 0):,}"))
        cells += _score_cells(one, None if said is None else said.get(label, 0))
        if before is not None:
            theirs = before.labels.get(label)
            cells.append(share_cell(theirs.f1) if theirs is not None and one.support else _UNDEFINED)
        rows.append(cells)
    return Table(title, (Column(say("labels.label")), *numeric(*heads)), rows, note)


def _score_cells(one: LabelScore, said: int | None) -> list[Cell]:
    """Precision, recall and F1 of a label; what would be 0 / 0 is none."""
    recall = Estimate(one.recall, *(one.recall_interval or (None, None)))
    return [
        _UNDEFINED if said == 0 else share_cell(one.precision),
        estimate_cell(recall, bar=True) if one.support else _UNDEFINED,
        _UNDEFINED if said == 0 and not one.support else share_cell(one.f1),
    ]


def _recall_chart(results: FieldResults, scores: LabelScores, say: Words) -> list[Block]:
    """The recall of each label before and after tuning, where both are known."""
    before = _before(results)
    expected = [label for label, one in scores.labels.items() if one.support]
    if before is None or not expected:
        return []
    by_support = sorted(expected, key=lambda label: -scores.labels[label].support)
    kept = set(by_support[:MAX_CHART_LABELS])
    shown = [label for label in expected if label in kept]
    groups = [
        Bars(name, [recall for recall, _ in pairs], [interval for _, interval in pairs])
        for name, of in ((say("field.after"), scores), (say("field.before"), before))
        for pairs in [[_recall(of, label) for label in shown]]
    ]
    values = [
        say("labels.recall.change", label=label, before=_recall(before, label)[0], after=scores.labels[label].recall)
        for label in shown
    ]
    title = say("labels.recall.chart")
    if len(shown) < len(by_support):
        title = say("labels.recall.chart.some", n=len(shown))
    axis = Axis(say("labels.recall"), low=0.0, high=1.0)
    return [BarChart(f"recall-{results.name}", title, say("list.clauses").join(values), shown, groups, axis)]


def _count_table(results: FieldResults, scores: LabelScores, say: Words) -> list[Block]:
    """Exact match by how many labels a row expects."""
    if scores.by_count is None or len(scores.by_count) < 2:
        return []
    before = _before(results)
    heads = [say("field.rows"), say("metric.exact_match")]
    if before is not None:
        heads.append(say("labels.exact.before"))
    total = sum(one.rows for one in scores.by_count.values())
    rows = []
    for count, group in scores.by_count.items():
        cells = [Cell(count), Cell(count_text(group.rows, total)), estimate_cell(group.exact_match, bar=True)]
        if before is not None:
            theirs = (before.by_count or {}).get(count)
            cells.append(estimate_cell(None if theirs is None else theirs.exact_match, bar=True))
        rows.append(cells)
    return [Table(say("labels.by_count"), (Column(say("labels.by_count.count")), *numeric(*heads)), rows)]


def _error_table(mistakes: LabelMistakes, say: Words) -> list[Block]:
    """The most frequent errors of all kinds, as shares of the rows in which each could happen."""
    found = _ranked(mistakes)
    if not found:
        return []
    rows = [
        [
            Cell(_error_text(one, kind, say)),
            Cell(say("labels.error.rows", rows=one.rows, of=one.of)),
            Cell(f"{one.rows / one.of:.1%}", share=one.rows / one.of),
        ]
        for one, kind in found[:MAX_ERRORS]
    ]
    columns = (Column(say("labels.error")), *numeric(say("field.rows"), say("field.share")))
    note = left_out(MAX_ERRORS, len(found), say)
    return [Table(say("labels.errors"), columns, rows, note)]


# Confusion ---------------------------------------------------------------------------------------------------------


def _confusion_map(field: str, confusion: Confusion, say: Words) -> list[Block]:
    """Rows by expected and predicted label, the cells as dark as their share of the row."""
    if len(confusion.labels) < 2:
        return []
    shown = _most_confused(confusion)
    columns = [confusion.labels[i] for i in shown]
    counts = [[confusion.counts[e][p] for p in shown] for e in shown]
    title = say("labels.confusion")
    if len(shown) < len(confusion.labels):
        title = say("labels.confusion.some", n=len(shown))
        columns.append(say("labels.other"))
        for row, e in zip(counts, shown, strict=True):
            row.append(sum(confusion.counts[e]) - sum(row))
    if any(confusion.invalid):
        columns.append(say("labels.invalid"))
        for row, e in zip(counts, shown, strict=True):
            row.append(confusion.invalid[e])
    expected = [sum(confusion.counts[e]) + confusion.invalid[e] for e in shown]
    names = [confusion.labels[e] for e in shown]
    return [_heat_map(f"confusion-{field}", title, names, columns, counts, expected, say)]


def _set_map(field: str, sets: SetConfusion, say: Words) -> list[Block]:
    """The same of label sets: on the diagonal rows that say the label, beside it what was said instead of it."""
    labels = list(sets.expected)
    if not 2 <= len(labels) <= MAX_CONFUSED:
        return []
    columns = [*labels, say("labels.nothing")]
    counts = [
        [
            *(sets.hits[one] if one == other else sets.instead.get((one, other), 0) for other in labels),
            sets.nothing[one],
        ]
        for one in labels
    ]
    if any(sets.invalid.values()):
        columns.append(say("labels.invalid"))
        for row, label in zip(counts, labels, strict=True):
            row.append(sets.invalid[label])
    expected = list(sets.expected.values())
    chart = _heat_map(f"confusion-{field}", say("labels.set_confusion"), labels, columns, counts, expected, say)
    blocks: list[Block] = [chart, Paragraph(say("labels.set_confusion.note"))]
    if any(sets.added.values()):
        named = [say("labels.added.one", label=label, n=n) for label, n in sets.added.items() if n]
        blocks.append(Paragraph(say("labels.added", labels=listed(named, say))))
    return blocks


def _heat_map(
    name: str,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    counts: Sequence[Sequence[int]],
    expected: Sequence[int],
    say: Words,
) -> HeatMap:
    """Counts and their shares of the rows that expect each label; a label that no row expects has empty cells."""
    values = [[n / of if of else None for n in row] for row, of in zip(counts, expected, strict=True)]
    texts = [[_cell_text(n, of) for n in row] for row, of in zip(counts, expected, strict=True)]
    lines = []
    for i, (label, row) in enumerate(zip(rows, values, strict=True)):
        if not expected[i]:
            continue
        wrong = [(n, p) for p, n in enumerate(row) if p != i and n]
        text = say("labels.confusion.right", label=label, share=row[i] or 0.0, rows=say("count.rows", n=expected[i]))
        if wrong:
            most, place = max(wrong, key=lambda pair: (pair[0], -pair[1]))
            text = say("labels.confusion.most", right=text, share=most, other=columns[place])
        else:
            text = say("labels.confusion.only", right=text)
        lines.append(text)
    axes = Axis(say("labels.predicted")), Axis(say("labels.expected"))
    return HeatMap(name, title, together(lines, say), rows, columns, values, texts, *axes)


def _cell_text(n: int, of: int) -> str:
    return f"{n:,} ({n / of:.1%})" if n else ("0" if of else "")


def _most_confused(confusion: Confusion) -> list[int]:
    """The places of the labels that a matrix shows: all, or those in most errors, in their order."""
    n = len(confusion.labels)
    errors = [
        sum(confusion.counts[i])
        + sum(row[i] for row in confusion.counts)
        - 2 * confusion.counts[i][i]
        + confusion.invalid[i]
        for i in range(n)
    ]
    return sorted(sorted(range(n), key=lambda i: -errors[i])[:MAX_CONFUSED])


# Details -----------------------------------------------------------------------------------------------------------


def _before(results: FieldResults) -> LabelScores | None:
    """The scores before tuning, where they are known."""
    scores = None if results.before is None else results.before.scores
    return scores if isinstance(scores, LabelScores) else None


def _recall(scores: LabelScores, label: str) -> tuple[float, tuple[float, float] | None]:
    """A label's recall and its interval; 0 where it occurs nowhere."""
    one = scores.labels.get(label)
    if one is None:
        return 0.0, None
    return one.recall, None if one.recall_interval is None else (one.recall_interval[0], one.recall_interval[1])


def _said(scores: LabelScores, errors: LabelErrors) -> Mapping[str, int] | None:
    """How many rows were answered with each label."""
    if scores.confusion is not None:
        labels = scores.confusion.labels
        return {label: sum(row[p] for row in scores.confusion.counts) for p, label in enumerate(labels)}
    return None if errors.sets is None else errors.sets.said
