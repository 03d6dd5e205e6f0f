"""What human raters said, as tables for the terminal. Computes no statistic.

print(to_text(review_tables(result)))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlxtune.report.terminal.cells import cell_text, new_table, titled
from mlxtune.report.values import difference_text, estimate_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlxtune.evaluation.metrics.estimates import Estimate
    from mlxtune.evaluation.review.human_evaluation import (
        Comment,
        HumanEvaluation,
        LowLine,
        RatedRun,
        Rater,
        RaterAgreement,
        RunDifference,
    )

AGREEMENT_NOTE = "alpha: 1 is perfect agreement, 0 that of chance. Krippendorff draws conclusions from 0.8 on, tentative ones from 0.667."
MAX_COMMENTS = 10


def review_tables(result: HumanEvaluation) -> list[RenderableType]:
    """Everything worth reading: means, agreement, differences, ROUGE-L, raters, the lowest lines, comments."""
    from rich.text import Text

    tables: list[RenderableType] = [mean_table(result)]
    tables += [difference_table(one) for one in result.differences]
    if result.agreement:
        tables += [agreement_table(result.agreement), Text(AGREEMENT_NOTE)]
    else:
        tables.append(Text("Agreement: one rater; it takes two who rate the same cases."))
    for run in result.runs:
        tables += [bucket_table(run), rouge_table(run)]
    tables.append(rater_table(result.raters))
    if result.lowest:
        tables.append(lowest_table(result.lowest, several=len(result.runs) > 1))
    if result.comments:
        tables.append(comment_table(result.comments))
    return tables


def mean_table(result: HumanEvaluation) -> RenderableType:
    """Mean of each dimension, a column a run."""
    runs = result.runs
    table = new_table("dimension")
    for run in runs:
        table.add_column(cell_text(run.name), justify="right", overflow="fold")
    for label in ("scores", "1", "2", "3", "4", "5") if len(runs) == 1 else ("scores",):
        table.add_column(label, justify="right", no_wrap=True)
    for name in runs[0].dimensions:
        ones = [run.dimensions[name] for run in runs]
        counts = ones[0].counts.values() if len(runs) == 1 else ()
        n_scores = sum(one.scores for one in ones)
        table.add_row(name, *(_mean(one.mean) for one in ones), str(n_scores), *(str(count) for count in counts))
    raters = "1 rater" if len(result.raters) == 1 else f"{len(result.raters)} raters"
    what = "the whole reply" if result.field is None else result.field
    rated = f"{result.rated} of {result.cases} cases rated by {raters}"
    return titled(f"Human evaluation of {what}, 1 to 5: {rated}; 95% intervals in brackets", table)


def difference_table(difference: RunDifference) -> RenderableType:
    """One run less the first, and what that says."""
    table = new_table("dimension")
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("cases", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for name, one in difference.dimensions.items():
        if one.compared is not None:
            table.add_row(
                name, difference_text(one.compared, digits=2), str(one.cases), cell_text(one.compared.sentence)
            )
        else:
            table.add_row(name, "", "0", "no rater scored both")
    return titled(f"{difference.run} less {difference.against}, by raters who scored both replies to a case", table)


def agreement_table(agreement: Mapping[str, RaterAgreement]) -> RenderableType:
    """How far the raters agree."""
    table = new_table("dimension")
    for column in ("lines", "alpha, ordinal", "alpha, interval", "equal pairs"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in agreement.items():
        metrics = (one.alpha_ordinal, one.alpha_interval, one.exact)
        none = "no variation" if one.lines else ""
        table.add_row(name, str(one.lines), *(estimate_text(metric) or none for metric in metrics))
    return titled(
        "Agreement between raters on lines with two scores or more: Krippendorff's alpha; pairs that are equal", table
    )


def bucket_table(run: RatedRun) -> RenderableType:
    """Mean of each dimension by ROUGE-L bucket."""
    table = new_table("dimension")
    buckets = run.buckets
    for bucket in buckets:
        table.add_column(f"ROUGE-L {bucket}", justify="right")
    for name in run.dimensions:
        table.add_row(name, *(_mean(buckets[bucket][name].mean) for bucket in buckets))
    n_cases = [str(max(one.cases for one in dimensions.values())) for dimensions in buckets.values()]
    table.add_row("cases rated", *n_cases)
    return titled(f"{run.name}: means by ROUGE-L bucket", table)


def rouge_table(run: RatedRun) -> RenderableType:
    """Whether ROUGE-L says what the raters say."""
    table = new_table("dimension")
    for column in ("Spearman", "Pearson"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in run.rouge.items():
        table.add_row(name, *(estimate_text(kind) or "no variation" for kind in (one.spearman, one.pearson)))
    return titled(f"{run.name}: correlation of a case's mean score with its ROUGE-L", table)


def rater_table(raters: Sequence[Rater]) -> RenderableType:
    """Who rated how much, and how severely."""
    table = new_table("rater")
    for column in ("lines", "scores", *raters[0].means):
        table.add_column(column, justify="right", no_wrap=True)
    for rater in raters:
        means = ("" if mean is None else f"{mean:.2f}" for mean in rater.means.values())
        table.add_row(cell_text(rater.name), str(rater.cases), str(rater.scores), *means)
    return titled("Raters and the mean of what each gave", table)


def lowest_table(lowest: Sequence[LowLine], several: bool) -> RenderableType:
    """The lines that raters liked least."""
    table = new_table("case", *(["run"] if several else []))
    for column in ("test row", "overall", "ROUGE-L"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in lowest:
        run = [cell_text(one.line.run)] if several else []
        table.add_row(
            cell_text(one.line.case), *run, str(one.line.row), f"{one.overall:.2f}", f"{one.line.rouge_l:.3f}"
        )
    return titled("The lowest overall scores below 3", table)


def comment_table(comments: Sequence[Comment]) -> RenderableType:
    """What raters wrote."""
    table = new_table("case", "rater", "comment")
    for one in comments[:MAX_COMMENTS]:
        table.add_row(cell_text(one.line.case), cell_text(one.rater), cell_text(" ".join(one.comment.split())))
    left_out = len(comments) - MAX_COMMENTS
    return titled(f"Comments{f'; {left_out} more are in human_eval.json' if left_out > 0 else ''}", table)


def _mean(estimate: Estimate | None) -> str:
    return estimate_text(estimate, digits=2) or "not rated"
