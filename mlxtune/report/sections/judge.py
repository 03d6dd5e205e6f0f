"""A model judge's ratings of written replies: their means, what could not be counted, and whether they go with ROUGE-L."""

from __future__ import annotations

from mlxtune.evaluation.judge.ratings import HIGHEST, LOWEST, STATUSES, Ratings
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Section, Table
from mlxtune.report.sections.pieces import metric_title, numeric, rating_cell
from mlxtune.report.values import estimate_text
from mlxtune.report.words import PHRASES, Words


def judge_section(ratings: Ratings | None, say: Words) -> Section | None:
    """What a model judge said; None where none was asked."""
    if ratings is None:
        return None
    blocks: list[Block] = [Paragraph(say("judge.intro", model=ratings.model, rows=say("count.rows", n=ratings.rows)))]
    apart = [say(f"judge.{one}", n=ratings.counts[one]) for one in STATUSES if one != "judged" and ratings.counts[one]]
    if apart:
        judged = say("judge.judged", n=ratings.counts["judged"])
        blocks.append(Paragraph(say("judge.counts", counts=say("list.clauses").join([judged, *apart])), "warning"))
    blocks.append(_mean_table(ratings, say))
    for field, metrics in ratings.agreement.items():
        blocks += [Paragraph(_correlation(field, name, one, say)) for name, one in metrics.items() if one is not None]
    return Section("judge", say("judge.title"), blocks)


def criterion_title(name: str, say: Words) -> str:
    """What a report calls a criterion, or a dimension that people rate."""
    key = f"criterion.{name}"
    return say(key) if key in PHRASES else name


def _mean_table(ratings: Ratings, say: Words) -> Table:
    rows = [
        [Cell(field), Cell(criterion_title(name, say)), rating_cell(mean, LOWEST, HIGHEST, say("judge.nothing"))]
        for field, of_field in ratings.fields.items()
        for name, mean in of_field.items()
    ]
    columns = (Column(say("judge.field")), Column(say("judge.criterion")), *numeric(say("judge.mean")))
    return Table(say("judge.means"), columns, rows, say("field.intervals"))


def _correlation(field: str, metric: str, estimate: Estimate, say: Words) -> str:
    return say("judge.correlation", field=field, metric=metric_title(metric, say), value=estimate_text(estimate))
