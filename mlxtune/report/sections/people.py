"""What people said of replies: means, whether they agree, whether ROUGE-L says the same, and what they wrote."""

from __future__ import annotations

from collections.abc import Sequence

from mlxtune.evaluation.review.human_evaluation import (
    HumanEvaluation,
    RatedLine,
    RatedRun,
    RaterAgreement,
    RunDifference,
)
from mlxtune.evaluation.review.sheet import HIGHEST, LOWEST
from mlxtune.report.blocks import Block, Cell, Column, Folded, Paragraph, Section, Table
from mlxtune.report.sections.judge import criterion_title
from mlxtune.report.sections.pieces import left_out, numeric, rating_cell, verdict_cells
from mlxtune.report.values import estimate_text
from mlxtune.report.words import Words

MAX_COMMENTS = 20


def people_section(found: HumanEvaluation | None, say: Words) -> Section | None:
    """What people said; None where they were not asked."""
    if found is None or not found.runs:
        return None
    blocks: list[Block] = [
        Paragraph(
            say(
                "people.intro",
                rated=found.rated,
                cases=found.cases,
                raters=say("people.raters", n=len(found.raters)),
                what=say("people.whole_reply") if found.field is None else found.field,
            )
        ),
        _mean_table(found, say),
    ]
    blocks += [_difference_table(one, say) for one in found.differences]
    if found.agreement:
        blocks += [_agreement_table(found, say), Paragraph(say("people.alpha"))]
    else:
        blocks.append(Paragraph(say("people.one_rater")))
    for run in found.runs:
        blocks.append(_rouge_table(run, _rated(found), say))
    folded = [_rater_table(found, say), *_lowest_table(found, say), *_comment_table(found, say)]
    return Section("people", say("people.title"), [*blocks, Folded(say("people.more"), folded)])


def _rated(found: HumanEvaluation) -> list[str]:
    """The dimensions in which anybody gave a score."""
    return [name for name in found.runs[0].dimensions if any(run.dimensions[name].scores for run in found.runs)]


def _mean_table(found: HumanEvaluation, say: Words) -> Table:
    """Mean of each dimension, a column a run; of one run how often each score was given as well."""
    runs = found.runs
    scores = [str(score) for score in range(LOWEST, HIGHEST + 1)] if len(runs) == 1 else []
    rows = []
    for name in _rated(found):
        ones = [run.dimensions[name] for run in runs]
        cells = [rating_cell(one.mean, LOWEST, HIGHEST, say("people.not_rated")) for one in ones]
        counts = [Cell(f"{ones[0].counts.get(score, 0):,}") for score in scores]
        rows.append([Cell(criterion_title(name, say)), *cells, Cell(f"{sum(one.scores for one in ones):,}"), *counts])
    heads = numeric(*(run.name for run in runs), say("people.scores"), *scores)
    return Table(say("people.means"), (Column(say("people.dimension")), *heads), rows, say("field.intervals"))


def _difference_table(difference: RunDifference, say: Words) -> Table:
    rows = [
        [Cell(criterion_title(name, say)), Cell(f"{one.cases:,}"), *verdict_cells(one.compared, say)]
        for name, one in difference.dimensions.items()
        if one.cases
    ]
    columns = (
        Column(say("people.dimension")),
        *numeric(say("people.cases"), say("people.difference")),
        Column(say("field.verdict")),
    )
    return Table(say("people.differences", run=difference.run, against=difference.against), columns, rows)


def _agreement_table(found: HumanEvaluation, say: Words) -> Table:
    """How far the raters agree on what two or more of them rated."""

    def cells(one: RaterAgreement) -> list[Cell]:
        return [
            Cell(estimate_text(value) or say("people.no_variation"))
            for value in (one.alpha_ordinal, one.alpha_interval, one.exact)
        ]

    rows = [
        [Cell(criterion_title(name, say)), Cell(f"{one.lines:,}"), *cells(one)]
        for name, one in (found.agreement or {}).items()
        if one.lines
    ]
    heads = numeric(*(say(f"people.{one}") for one in ("lines", "alpha.ordinal", "alpha.interval", "equal")))
    return Table(say("people.agreement"), (Column(say("people.dimension")), *heads), rows)


def _rouge_table(run: RatedRun, dimensions: Sequence[str], say: Words) -> Table:
    """Means by bucket of ROUGE-L, and whether the two go together."""
    heads = numeric(*(f"ROUGE-L {bucket}" for bucket in run.buckets), say("people.spearman"), say("people.pearson"))
    rows = []
    for name in dimensions:
        none = say("people.not_rated")
        means = [rating_cell(of[name].mean, LOWEST, HIGHEST, none) for of in run.buckets.values()]
        found = run.rouge.get(name)
        pair = (None, None) if found is None else (found.spearman, found.pearson)
        cells = [Cell(estimate_text(one, 2) or say("people.no_variation")) for one in pair]
        rows.append([Cell(criterion_title(name, say)), *means, *cells])
    title = say("people.rouge", run=run.name)
    return Table(title, (Column(say("people.dimension")), *heads), rows, say("people.rouge.note"))


def _rater_table(found: HumanEvaluation, say: Words) -> Table:
    dimensions = _rated(found)
    rows = [
        [
            Cell(one.name),
            Cell(f"{one.cases:,}"),
            Cell(f"{one.scores:,}"),
            *(Cell("" if mean is None else f"{mean:.2f}") for mean in map(one.means.get, dimensions)),
        ]
        for one in found.raters
    ]
    heads = numeric(say("people.lines"), say("people.scores"), *(criterion_title(name, say) for name in dimensions))
    return Table(say("people.rater_means"), (Column(say("people.rater")), *heads), rows)


def _lowest_table(found: HumanEvaluation, say: Words) -> list[Block]:
    if not found.lowest:
        return []
    rows = [
        [*_line_cells(one.line), Cell(f"{one.overall:.2f}"), Cell(f"{one.line.rouge_l:.3f}")] for one in found.lowest
    ]
    heads = numeric(say("field.row"), say("criterion.overall"), "ROUGE-L")
    return [Table(say("people.lowest"), (Column(say("people.case")), Column(say("people.run")), *heads), rows)]


def _comment_table(found: HumanEvaluation, say: Words) -> list[Block]:
    if not found.comments:
        return []
    rows = [[*_line_cells(one.line), Cell(one.rater), Cell(one.comment)] for one in found.comments[:MAX_COMMENTS]]
    columns = (
        Column(say("people.case")),
        Column(say("people.run")),
        *numeric(say("field.row")),
        Column(say("people.rater")),
        Column(say("people.comment")),
    )
    return [Table(say("people.comments"), columns, rows, left_out(MAX_COMMENTS, len(found.comments), say))]


def _line_cells(line: RatedLine) -> list[Cell]:
    return [Cell(line.case), Cell(line.run), Cell(str(line.row))]
