"""The sections of an evaluation's fields, in the recipe's order. Says which parts belong to a field, and makes none of them."""

from __future__ import annotations

from dataclasses import replace

from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.labels import LabelScores
from mlxtune.evaluation.metrics.mistakes import set_confusion
from mlxtune.evaluation.score import column
from mlxtune.recipe.conditions import BEFORE
from mlxtune.report.blocks import Block, Paragraph, Section
from mlxtune.report.contents.run import EvaluationContents
from mlxtune.report.sections.calibration import calibration_blocks, threshold_blocks
from mlxtune.report.sections.field_results import field_results, own_system, system_title
from mlxtune.report.sections.labels import LabelErrors, label_section
from mlxtune.report.sections.predictions import predictions_section
from mlxtune.report.sections.texts import text_section
from mlxtune.report.words import Words


def field_sections(tuned: EvaluationContents, base: EvaluationContents | None, say: Words) -> list[Section]:
    """A section for each field.

    Args:
        tuned: The evaluation that the report is of.
        base: Of the model before tuning on the same questions; None where there is none.
        say: The words.
    """
    found = field_results(tuned.result, None if base is None else base.result)
    sections = []
    for name, results in found.items():
        if isinstance(results.scores, LabelScores):
            errors = _errors(name, results.scores, tuned)
            one = label_section(results, errors, say, _parts(name, results.scores, tuned, say))
        else:
            one = text_section(results, tuned.errors.cases.get(name) if tuned.predictions else None, say)
        if one is not None:
            sections.append(one)
    return sections


def all_predictions(tuned: EvaluationContents, base: EvaluationContents | None, say: Words) -> Section | None:
    """Every prediction, before tuning beside after it; None where the files of predictions are gone."""
    others = {} if base is None else {system_title(BEFORE, say): base.predictions}
    own = system_title(own_system(tuned.result), say)
    section = predictions_section({**others, own: tuned.predictions}, tuned.recipe, say)
    if section is None or base is None or not base.predictions or base.shown.decoding == tuned.shown.decoding:
        return section
    note = Paragraph(say("field.other_decoding", decoding=base.shown.decoding), "warning")
    return replace(section, blocks=[note, *section.blocks])


def _errors(name: str, scores: LabelScores, tuned: EvaluationContents) -> LabelErrors | None:
    """What the predictions say in the place of what; None where their file is gone."""
    mistakes = tuned.errors.fields.get(name) if tuned.predictions else None
    if mistakes is None:
        return None
    of_field = column(tuned.predictions, name)
    is_set = scores.confusion is None
    return LabelErrors(
        mistakes, set_confusion(of_field.expected, of_field.predicted, list(scores.labels)) if is_set else None
    )


def _parts(name: str, scores: Scores, tuned: EvaluationContents, say: Words) -> list[Block]:
    """What else is known of a field with labels: its probabilities and its thresholds."""
    top = tuned.result.top
    blocks: list[Block] = []
    if name in top.calibration:
        blocks += calibration_blocks(name, top.calibration[name], say)
    if name in top.thresholds:
        blocks += threshold_blocks(name, scores, top.thresholds[name], say)
    return blocks
