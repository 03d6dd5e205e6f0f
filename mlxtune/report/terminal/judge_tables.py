"""A judge's ratings and choices for the terminal, for Markdown and for a spreadsheet. Computes no metric.

print(to_text(judge_tables(result.judge, judgements, n_rows=5)))
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlxtune.evaluation.review.sheet import safe_cell
from mlxtune.markdown import markdown_row, markdown_text
from mlxtune.report.terminal.cells import cell_text, new_table, titled
from mlxtune.report.values import clipped, estimate_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlxtune.evaluation.judge.pairs import JudgedRuns, Outcome, PairScores
    from mlxtune.evaluation.judge.ratings import Judgement, Ratings, Status

DECIDED: tuple[Outcome, ...] = ("win", "loss", "tie", "order_decided")
UNDECIDED: tuple[Outcome, ...] = ("unparseable", "refused", "failed")
# What else than ratings came back, and what to call it.
APART: dict[Status, str] = {
    "missing": "without the text, which counts as the lowest marks",
    "unparseable": "without clear marks",
    "refused": "refused",
    "failed": "failed",
}
ADVICE: dict[Status, str] = {
    "unparseable": "a judge that often gives none is too small for this, or was cut while it was thinking",
    "failed": "the same command asks again for these alone",
}


def judge_tables(judge: Ratings, judgements: Sequence[Judgement], n_rows: int) -> list[RenderableType]:
    """The means of each text field, what could not be counted, and the rows with the lowest ratings.

    Args:
        judge: The means.
        judgements: What they are of.
        n_rows: Most rows to show.
    """
    table = new_table("field", "criterion")
    table.add_column("mean mark, 1 to 5", justify="right", no_wrap=True)
    for name, field in judge.fields.items():
        for position, (criterion, estimate) in enumerate(field.items()):
            shown = "nothing judged" if estimate is None else estimate_text(estimate)
            table.add_row(cell_text("" if position else name), criterion, shown)
    title = f"Judged by {judge.model}: {judge.rows} rows; 95% intervals over rows in brackets"
    tables = [titled(title, table), *map(cell_text, _counted(judge))]
    for name, metrics in judge.agreement.items():
        if metrics["rougeL"] is not None:
            how = "Spearman's correlation of the overall mark with ROUGE-L"
            tables.append(cell_text(f"{name}: {how}: {estimate_text(metrics['rougeL'])}"))
    rated = [(one, one.scores) for one in judgements if one.status == "judged" and one.scores is not None]
    lowest = sorted(rated, key=lambda pair: (sum(pair[1].values()), pair[0].row))[:n_rows]
    if lowest:
        worst = new_table("row", "field", "marks", "the judge's reason")
        for one, scores in lowest:
            marks = ", ".join(f"{name} {mark}" for name, mark in scores.items())
            worst.add_row(str(one.row), cell_text(one.field), marks, cell_text(clipped(one.reason)))
        tables.append(titled("The lowest marks", worst))
    return tables


def pair_tables(judged: JudgedRuns) -> list[RenderableType]:
    """Each run's replies beside the first run's, as the judge chose."""
    table = new_table("run", "field")
    for column in ("wins", "losses", "ties", "order decided", "not judged", "win rate", "first chosen"):
        table.add_column(column, justify="right")
    table.add_column("that is", overflow="fold")
    for name, field, one in _pairs(judged):
        counts = [*(one.counts[key] for key in DECIDED), sum(one.counts[key] for key in UNDECIDED)]
        estimates = [estimate_text(one.win_rate), estimate_text(one.first_chosen)]
        table.add_row(cell_text(name), cell_text(field), *map(str, counts), *estimates, cell_text(one.sentence))
    how = "each pair in both orders; a win needs both, first chosen would be 0.5 without a leaning"
    return [titled(f"Judged by {judged.model}: replies beside those of {judged.first}\n{how}", table)]


def pair_markdown(judged: JudgedRuns) -> str:
    """The same as a table to paste."""
    columns = ["run", "field", "wins", "losses", "ties", "order decided", "win rate", ""]
    lines = [markdown_row(columns), markdown_row(["---"] * len(columns))]
    for name, field, one in _pairs(judged):
        cells = [name, field, *(str(one.counts[key]) for key in DECIDED), estimate_text(one.win_rate), one.sentence]
        lines.append(markdown_row([*map(markdown_text, cells)]))
    judge = markdown_text(judged.model)
    return "\n".join([*lines, "", f"- judged by {judge}, each pair in both orders; a win needs both"])


def pair_csv(judged: JudgedRuns, columns: Sequence[str]) -> str:
    """The same as lines under a comparison's columns: a line for the win rate of each run and field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="")
    for name, field, one in _pairs(judged):
        rate = {} if one.win_rate is None else one.win_rate.to_json()
        shown = {key: value for key, value in rate.items() if value is not None}
        said = {"field": field, "run": name, "mark": one.sentence}
        said = {key: safe_cell(value) for key, value in said.items()}
        writer.writerow({"section": "judge", "name": "win_rate", **shown, "p_value": one.p_value, **said})
    return out.getvalue()


def _pairs(judged: JudgedRuns) -> list[tuple[str, str, PairScores]]:
    return [(name, field, one) for name, of_run in judged.runs.items() for field, one in of_run.fields.items()]


def _counted(judge: Ratings) -> list[str]:
    """What was judged and what was not, in words."""
    counts = judge.counts
    apart = [f"{counts[status]} {title}" for status, title in APART.items() if counts[status]]
    lines = ["; ".join([f"{counts['judged']} judged", *apart])] if apart else []
    return [*lines, *(f"{status}: {advice}" for status, advice in ADVICE.items() if counts[status])]
