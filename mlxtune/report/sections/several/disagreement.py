"""Rows on which runs disagree: how many each has right, and every prediction of all of them to search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mlxtune.evaluation.compare.rows import SameRows
from mlxtune.evaluation.fields.kinds import scorers
from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Section, Table
from mlxtune.report.sections.pieces import count_cell, numeric
from mlxtune.report.sections.predictions import predictions_block
from mlxtune.report.sections.several.runs import SeveralRuns
from mlxtune.report.values import count_text
from mlxtune.report.words import Words

MAX_SYSTEMS = 6  # whose predictions are shown
MAX_ALONE = 4  # runs with a column for the rows that they alone have right

Right = NDArray[np.bool_]  # (runs, rows)


def disagreement_section(runs: SeveralRuns, say: Words) -> Section | None:
    """How many rows all runs have right, some or none, and their predictions; None where fewer than two were evaluated."""
    same = None if runs.compared is None else runs.compared.same
    if same is None or len(runs.evaluated) < 2:
        return None
    right = _right(same, say)
    blocks: list[Block] = [Paragraph(_sentence(field, of_field, say)) for field, of_field in right.items()]
    if right:
        blocks.append(_table(right, runs.evaluated_names, say))
    shown = _shown(runs)
    if len(shown) < len(runs.evaluated):
        blocks.append(Paragraph(say("several.rows.systems", shown=len(shown), n=len(runs.evaluated))))
    systems = {runs.evaluated_names[place]: same.predictions[place] for place in shown}
    blocks.append(predictions_block(systems, same.recipe))
    return Section("disagreement", say("several.rows"), blocks)


def _right(same: SameRows, say: Words) -> dict[str, Right]:
    """Field with labels -> whether each run has it right at each row; of several fields, all of them together as well."""
    found = {
        name: np.array(
            [
                [scorer.is_right(one.expected[name], one.predicted[name]) for one in predictions]
                for predictions in same.predictions
            ]
        )
        for name, scorer in scorers(same.recipe).items()
        if scorer.has_labels
    }
    if len(found) > 1:
        found[say("results.whole_reply")] = np.all(list(found.values()), axis=0)
    return found


def _sentence(field: str, right: Right, say: Words) -> str:
    n_runs, n_rows = right.shape
    times = right.sum(axis=0)
    some = int(((times > 0) & (times < n_runs)).sum())
    if not some:
        return say("several.rows.none", field=field)
    return say("several.rows.said", field=field, rows=count_text(some, n_rows))


def _table(right: Mapping[str, Right], names: Sequence[str], say: Words) -> Table:
    """A field a row: rows that all have right, some, none, and one run alone."""
    alone = names if len(names) <= MAX_ALONE else ()
    columns = (
        Column(say("results.field")),
        *numeric(*(say(f"several.rows.{key}") for key in ("all", "some", "no"))),
        *numeric(*(say("several.rows.only", run=name) for name in alone)),
    )
    rows = [[Cell(field), *_counts(of_field, len(alone))] for field, of_field in right.items()]
    return Table(say("several.rows.table"), columns, rows)


def _counts(right: Right, n_alone: int) -> Iterator[Cell]:
    n_runs, n_rows = right.shape
    times = right.sum(axis=0)
    masks = [times == n_runs, (times > 0) & (times < n_runs), times == 0]
    masks += [(times == 1) & right[run] for run in range(n_alone)]
    for mask in masks:
        yield count_cell(int(mask.sum()), n_rows)


def _shown(runs: SeveralRuns) -> list[int]:
    """Places of the runs whose predictions are shown: the best ones by the first metric that matters, in their order but the best
    last, which is the one that a page shows first."""
    places = list(range(len(runs.evaluated)))
    best = runs.headlines[0].ranking if runs.headlines else []
    first, *others = [*best, *(place for place in places if place not in best)][:MAX_SYSTEMS]
    return [*sorted(others), first]
