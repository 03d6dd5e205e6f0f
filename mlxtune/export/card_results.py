"""The part of a model card that says how well the model does, from the report's own sections: metrics beside other systems, labels,
exports. Computes no metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mlxtune.evaluation.metrics.labels import LabelScores
from mlxtune.evaluation.results import EvaluationResult
from mlxtune.export.verification import Verification
from mlxtune.recipe.sections import Recipe
from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Table
from mlxtune.report.markdown_page import markdown_blocks
from mlxtune.report.sections.pieces import numeric
from mlxtune.report.sections.results import comparison_sentences, results_table
from mlxtune.report.sections.verification import verification_section
from mlxtune.report.words import Words

MAX_LABELS = 40  # of a table by label
SAY = Words("en")


def result_lines(
    result: EvaluationResult | None,
    base_result: EvaluationResult | None,
    recipe: Recipe,
    cleaned_counts: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """The results as Markdown: tables of metrics and labels, and what the comparisons say.

    Args:
        result: The evaluation with the adapter.
        base_result: That of the base model on the same questions.
        recipe: Of the run.
        cleaned_counts: Field -> label -> rows that cleaning left, where they were counted.
    """
    if result is None:
        return ["**This model was not evaluated.** How well it does what it was trained for is not known."]
    blocks: list[Block] = [results_table(result, base_result, SAY), *comparison_sentences(result, SAY)]
    blocks += _label_tables(result, recipe, cleaned_counts)
    return _lines([*blocks, *map(Paragraph, result.top.notes)])


def verification_lines(verification: Verification) -> list[str]:
    """What `mlxtune verify` found; why an artifact failed may name paths of the machine, and stays away."""
    shown = replace(verification, failed=dict.fromkeys(verification.failed, "could not be made or loaded"), notes=())
    section = verification_section(shown, SAY)
    return [] if section is None else _lines(section.blocks)


def _label_tables(
    result: EvaluationResult, recipe: Recipe, cleaned_counts: Mapping[str, Mapping[str, int]]
) -> Iterator[Table]:
    """A table by label of each field with a list of them; labels of an open list are text of the rows, and stay away."""
    for name, one in recipe.output.fields.items():
        scores = result.top.fields.get(name)
        if not isinstance(scores, LabelScores) or not one.closed_labels or len(one.closed_labels) > MAX_LABELS:
            continue
        counts = cleaned_counts.get(name)
        heads = [*(["rows after cleaning"] if counts else []), "test rows", "precision", "recall", "F1"]
        rows = []
        for label in one.closed_labels:
            score = scores.labels.get(label)
            if score is not None:
                trained_on = [f"{counts.get(label, 0):,}"] if counts else []
                figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
                rows.append([Cell(label), *map(Cell, (*trained_on, f"{score.support:,}", *figures))])
        yield Table(f"{name}, by label", (Column("label"), *numeric(*heads)), rows)


def _lines(blocks: Sequence[Block]) -> list[str]:
    """The blocks with an empty line between them."""
    return "\n\n".join(markdown_blocks(blocks, SAY)).split("\n")
