"""What `verify` found: the recipe's scores on each exported artifact, beside those of base plus adapter."""

from __future__ import annotations

from mlxtune.export.verification import WHOLE_REPLY, HeadlineMetric, Verification, Verified
from mlxtune.report.blocks import Block, Cell, Column, Paragraph, Section, Table
from mlxtune.report.sections.pieces import estimate_cell, metric_title, numeric, together, verdict_cells
from mlxtune.report.values import size_text
from mlxtune.report.words import Words


def verification_section(found: Verification | None, say: Words) -> Section | None:
    """The artifacts of a run; None where none was verified."""
    if found is None or not (found.artifacts or found.failed):
        return None
    blocks: list[Block] = [*_verdict(found, say), _artifact_table(found, say)]
    titles = dict.fromkeys(one.title for artifact in _rows(found) for one in artifact.metrics)
    blocks += [_metric_table(title, found, say) for title in titles]
    blocks += [Paragraph(note) for note in found.notes]
    return Section("verification", say("verify.title"), blocks)


def _verdict(found: Verification, say: Words) -> list[Block]:
    """Whether every artifact kept what tuning gave; else what each lost."""
    lost = [
        say(
            "verify.lost",
            artifact=artifact.name,
            metric=_title(metric, say),
            fell=metric.fell_by(),
            value=metric.estimate.value,
        )
        for artifact in found.artifacts
        for metric in artifact.lost(found.tolerance)
    ]
    rows = say("count.rows", n=found.rows)
    blocks: list[Block] = []
    if lost:
        blocks.append(
            Paragraph(together([*lost, say("verify.tolerance", tolerance=found.tolerance, rows=rows)], say), "bad")
        )
    elif found.artifacts:
        text = say("verify.kept", n=len(found.artifacts), tolerance=found.tolerance, rows=rows)
        blocks.append(Paragraph(text, "good"))
    return blocks + [
        Paragraph(say("verify.failed", artifact=name, why=why), "bad") for name, why in found.failed.items()
    ]


def _rows(found: Verification) -> list[Verified]:
    """Base plus adapter, in each decoding that it was asked in, then the artifacts."""
    return [*found.adapter.values(), *found.artifacts]


def _name(one: Verified, found: Verification, say: Words) -> str:
    """What a row is called; base plus adapter with its decoding, where it was asked in two."""
    adapters = list(found.adapter.values())
    if one not in adapters:
        return one.name
    return say("verify.adapter.decoding", decoding=one.decoding) if len(adapters) > 1 else say("verify.adapter")


def _artifact_table(found: Verification, say: Words) -> Table:
    """How each was loaded, how far it is from base plus adapter, its size and speed."""
    columns = (
        Column(say("verify.artifact")),
        Column(say("verify.loaded_by")),
        *numeric(*(say(f"verify.{one}") for one in ("same", "logits", "size", "seconds"))),
    )
    rows = []
    for one in _rows(found):
        is_artifact = one in found.artifacts
        logits = one.logit_difference if is_artifact else None
        rows.append(
            [
                Cell(_name(one, found, say)),
                Cell(one.loaded_by),
                Cell(f"{one.agreement.value:.1%}", share=one.agreement.value) if is_artifact else Cell(""),
                Cell("" if logits is None else f"{logits:.2g}"),
                Cell(size_text(one.n_bytes)),
                Cell("" if one.seconds_per_row is None else f"{one.seconds_per_row:.3f}"),
            ]
        )
    return Table(say("verify.artifacts"), columns, rows, say("verify.artifacts.note"))


def _metric_table(title: str, found: Verification, say: Words) -> Table:
    """A metric of each, and the difference to base plus adapter, paired by row."""
    rows = []
    shown = title
    for one in _rows(found):
        metric = next((metric for metric in one.metrics if metric.title == title), None)
        if metric is not None:
            shown = _title(metric, say)
            cells = verdict_cells(metric.difference, say)
            rows.append([Cell(_name(one, found, say)), estimate_cell(metric.estimate, bar=True), *cells])
    columns = (
        Column(say("verify.artifact")),
        *numeric(say("field.value"), say("verify.difference")),
        Column(say("field.verdict")),
    )
    return Table(shown, columns, rows)


def _title(metric: HeadlineMetric, say: Words) -> str:
    """Field and metric, or the metric of whole replies."""
    title = metric_title(metric.name, say)
    return title if metric.field == WHOLE_REPLY else say("verify.metric", field=metric.field, metric=title)
