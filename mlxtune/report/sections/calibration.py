"""What probabilities are worth: reliability, thresholds and what they gain, and whether repeated samples agree."""

from __future__ import annotations

from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.calibration import Bin, Coverage
from mlxtune.evaluation.metrics.registry import headline
from mlxtune.evaluation.predict.consistency import Consistency, Flip
from mlxtune.evaluation.predict.probabilities import FieldCalibration
from mlxtune.evaluation.results import FieldThresholds
from mlxtune.report.blocks import Block, Cell, Column, Folded, Paragraph, Section, Table
from mlxtune.report.charts import Axis, LineChart, Series
from mlxtune.report.sections.pieces import (
    count_cell,
    estimate_cell,
    in_order,
    left_out,
    metric_title,
    numeric,
    place,
    share_cell,
    together,
    tone_of,
    verdict_cells,
)
from mlxtune.report.values import clipped, difference_text, estimate_text
from mlxtune.report.words import Words

MAX_FLIPS = 20
MAX_INPUT_CHARS = 200
EVEN = 0.02  # mean probability and accuracy as near as this lean to neither side


def calibration_blocks(field: str, found: FieldCalibration, say: Words) -> list[Block]:
    """Whether a field's probabilities hold, as part of that field's section."""
    error = found.calibration.expected_calibration_error
    if error is None:
        return [Paragraph(say("calibration.none"))]
    bins = [one for one in found.calibration.reliability if one.rows]
    rows = say("count.rows", n=found.calibration.rows)
    sentences = [say("calibration.ece", error=error, rows=rows), _leaning(bins, say)]
    if found.coverage is not None:
        sentences.append(_coverage(found.coverage, found.validation_rows, say))
    return [Paragraph(together(sentences, say)), _reliability(field, bins, say), _bin_table(bins, say)]


def threshold_blocks(field: str, scores: Scores, found: FieldThresholds, say: Words) -> list[Block]:
    """The thresholds of a field's labels, and its metrics with and without them."""
    blocks: list[Block] = []
    name = headline(found.gain)
    if name is not None:
        gain = found.gain[name]
        key = gain.verdict if gain.verdict in ("better", "worse") else "same"
        text = say(f"thresholds.{key}", field=field, metric=metric_title(name, say), change=difference_text(gain))
        blocks.append(Paragraph(text, tone_of(gain)))
    columns = (
        Column(say("field.metric")),
        *numeric(say("thresholds.without"), say("thresholds.with"), say("field.change")),
        Column(say("field.verdict")),
    )
    rows = [
        [
            Cell(metric_title(metric, say)),
            estimate_cell(scores[metric]),
            estimate_cell(found.scores[metric]),
            *verdict_cells(found.gain[metric], say),
        ]
        for metric in in_order(found.gain)
    ]
    blocks.append(Table(say("thresholds.gain"), columns, rows))
    columns = (
        Column(say("labels.label")),
        *numeric(*(say(f"thresholds.{one}") for one in ("threshold", "f1", "default")), say("labels.support")),
    )
    labels = [
        [
            Cell(label),
            share_cell(one.threshold),
            share_cell(one.f1),
            share_cell(one.default_f1),
            Cell(f"{one.support:,}"),
        ]
        for label, one in found.labels.items()
    ]
    title = say("thresholds.title", field=field, rows=say("count.rows", n=found.validation_rows))
    return [*blocks, Table(title, columns, labels, say("thresholds.note"))]


def consistency_section(found: Consistency | None, say: Words) -> Section | None:
    """Whether the model says the same each time; None where it was asked once, or has no field with labels."""
    if found is None or not found.fields:
        return None
    sentences = [say("consistency.intro", repeats=found.repeats, temperature=found.temperature)]
    sentences += [say("consistency.said", field=name, share=one.flip_rate.value) for name, one in found.fields.items()]
    columns = (
        Column(say("consistency.field")),
        *numeric(say("consistency.agreement"), say("consistency.entropy"), say("consistency.flips")),
    )
    rows = [
        [
            Cell(name),
            estimate_cell(one.agreement, bar=True),
            Cell(estimate_text(one.entropy_bits)),
            estimate_cell(one.flip_rate, bar=True),
        ]
        for name, one in found.fields.items()
    ]
    table = Table(say("consistency.table"), columns, rows, say("consistency.note"))
    blocks: list[Block] = [Paragraph(together(sentences, say)), table]
    if found.flips:
        flips = Table(
            say("consistency.rows"),
            (
                *numeric(say("field.row")),
                *(
                    Column(say(one))
                    for one in ("field.place", "consistency.field", "field.input", "consistency.values")
                ),
            ),
            [_flip(one, say) for one in found.flips[:MAX_FLIPS]],
            left_out(MAX_FLIPS, len(found.flips), say),
        )
        blocks.append(Folded(say("consistency.rows"), [flips]))
    return Section("consistency", say("consistency.title"), blocks)


# Details ---------------------------------------------------------------------------------------------------------


def _leaning(bins: list[Bin], say: Words) -> str:
    """Whether the model is too sure, or not sure enough, over all rows."""
    gap = sum(one.rows * ((one.confidence or 0.0) - (one.accuracy or 0.0)) for one in bins) / sum(
        one.rows for one in bins
    )
    return "" if abs(gap) <= EVEN else say("calibration.over" if gap > 0 else "calibration.under")


def _coverage(found: Coverage, validation_rows: int, say: Words) -> str:
    if found.threshold is None:
        return say("calibration.coverage.none")
    if found.precision is None:
        return say("calibration.coverage.empty", threshold=found.threshold)
    return say(
        "calibration.coverage",
        threshold=found.threshold,
        coverage=found.coverage,
        precision=found.precision,
        rows=say("count.rows", n=validation_rows),
    )


def _reliability(field: str, bins: list[Bin], say: Words) -> LineChart:
    said = [
        say("calibration.bin.said", n=one.rows, low=one.low, high=one.high, accuracy=one.accuracy or 0.0)
        for one in bins
    ]
    return LineChart(
        f"reliability-{field}",
        say("calibration.chart", field=field),
        say("list.clauses").join(said),
        Axis(say("calibration.confidence"), low=0.0, high=1.0),
        Axis(say("calibration.accuracy"), low=0.0, high=1.0),
        [
            Series(say("calibration.diagonal"), [0.0, 1.0], [0.0, 1.0], dashed=True),
            Series(
                say("calibration.model"),
                [one.confidence or 0.0 for one in bins],
                [one.accuracy for one in bins],
                points=True,
            ),
        ],
    )


def _bin_table(bins: list[Bin], say: Words) -> Table:
    total = sum(one.rows for one in bins)
    rows = [
        [
            Cell(say("calibration.bin", low=one.low, high=one.high)),
            count_cell(one.rows, total),
            Cell(f"{one.confidence or 0.0:.3f}"),
            share_cell(one.accuracy or 0.0),
        ]
        for one in bins
    ]
    heads = numeric(say("field.rows"), say("calibration.confidence"), say("calibration.accuracy"))
    return Table(say("calibration.table"), (Column(say("calibration.range")), *heads), rows)


def _flip(flip: Flip, say: Words) -> list[Cell]:
    said = [f"{value or say('consistency.unreadable')} ×{times}" for value, times in flip.values.items()]
    values = say("list.clauses").join(said)
    text = clipped(flip.input, MAX_INPUT_CHARS)
    return [Cell(str(flip.row)), *map(Cell, (place(flip.file, flip.line), flip.field, text, values))]
