"""How training went: its losses, whether it over-fitted and what to try, then learning rate, gradients, speed and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mlxtune.recipe.sections import VALID_LOSS
from mlxtune.recipe.yaml_text import flow_text
from mlxtune.report.blocks import Block, Cell, Column, Folded, Paragraph, Section, Table, Tone
from mlxtune.report.charts import Axis, LineChart, Mark, Series
from mlxtune.report.contents.events import StepEvent, ValidationEvent
from mlxtune.report.contents.facts import DiagnosisFacts, SegmentFacts
from mlxtune.report.contents.run import RunContents
from mlxtune.report.sections.over_steps import FEW_POINTS, finite_mean, mean_of_each
from mlxtune.report.sections.pieces import numeric, together
from mlxtune.report.words import PHRASES, Words

MAX_POINTS = 400  # of a line over the steps: more than a page has pixels to tell apart
LEVEL = 0.005  # a rise of the validation loss by a smaller share is none
TONES: dict[str, Tone] = {
    "healthy": "good",
    "over-fitting": "bad",
    "under-fitting": "warning",
    "diverging": "bad",
    "too few validations to tell": "warning",
}
WARNED_OF = ("over-fitting", "under-fitting", "diverging")


def training_section(contents: RunContents, say: Words) -> Section | None:
    """How training went; None of a run that has no step and no validation, as an imported one."""
    if not contents.steps and not contents.validations:
        return None
    blocks: list[Block] = [*_verdict(contents, say), _losses(contents, say)]
    blocks += _segments(contents, say)
    blocks += _over_steps(contents.steps, say)
    return Section("training", say("training.title"), blocks)


def training_warning(contents: RunContents, say: Words) -> Iterator[Paragraph]:
    """The verdict, where it is one that a reader should know before anything else."""
    diagnosis = _diagnosis(contents)
    if diagnosis is not None and diagnosis.verdict in WARNED_OF:
        yield Paragraph(say(f"training.verdict.{diagnosis.verdict}"), TONES[diagnosis.verdict])


# Verdict -----------------------------------------------------------------------------------------------------------


def _verdict(contents: RunContents, say: Words) -> Iterator[Block]:
    """What the losses say, the numbers behind it, and what to try next."""
    validations, facts, diagnosis = contents.validations, contents.facts, _diagnosis(contents)
    if diagnosis is None:
        yield Paragraph(say("training.no_validation" if not validations else "training.no_diagnosis"), "warning")
    else:
        key = f"training.verdict.{diagnosis.verdict}"
        verdict = say(key) if key in PHRASES else diagnosis.verdict
        yield Paragraph(together([verdict, *_evidence(validations, say)], say), TONES.get(diagnosis.verdict, "neutral"))
    if facts.stopped is not None:
        yield Paragraph(_stopped(contents, say))
    if facts.adapter_step is not None and facts.step is not None and facts.adapter_step != facts.step:
        yield Paragraph(say("training.adapter_step", step=facts.adapter_step))
    if diagnosis is not None and diagnosis.suggestions:
        yield _suggestions(diagnosis, contents, say)


def _diagnosis(contents: RunContents) -> DiagnosisFacts | None:
    """As run.json has it; of a training that goes on, as its last validation."""
    last = contents.validations[-1].diagnosis if contents.validations else None
    return contents.facts.diagnosis or last


def _evidence(validations: Sequence[ValidationEvent], say: Words) -> Iterator[str]:
    """Sentences with the numbers that the verdict rests on."""
    if not validations:
        return
    first, last = validations[0], validations[-1]
    best = min(validations, key=lambda one: one.loss)
    if last.train is not None and last.ratio is not None:
        yield say("training.ratio", valid=last.loss, train=last.train.loss, ratio=last.ratio, step=last.step)
        if first is not last and first.ratio is not None:
            yield say("training.ratio_before", ratio=first.ratio, step=first.step)
    if len(validations) < 2:
        return
    rise = (last.loss - best.loss) / best.loss if best.loss > 0 else 0.0
    key = "at_end" if best is last else "level" if rise < LEVEL else "rose"
    yield say(f"training.best.{key}", loss=best.loss, step=best.step, rise=rise)


def _stopped(contents: RunContents, say: Words) -> str:
    best, step = contents.facts.best, contents.facts.step or 0
    if best is None or best.step is None:
        return say("training.stopped", step=step)
    since = sum(one.step > best.step for one in contents.validations)
    return say(
        "training.stopped_since", step=step, metric=best.metric, value=best.value, best=best.step, validations=since
    )


def _suggestions(diagnosis: DiagnosisFacts, contents: RunContents, say: Words) -> Table:
    settings = contents.recipe.model_dump(mode="json")
    rows = []
    for key, value in diagnosis.suggestions.items():
        section, _, name = key.partition(".")
        now = settings.get(section, {}).get(name)
        rows.append([Cell(key), Cell(flow_text(now)), Cell(flow_text(value))])
    columns = (Column(say("training.key")), Column(say("training.now")), Column(say("training.try")))
    return Table(say("training.suggestions"), columns, rows)


# Losses ------------------------------------------------------------------------------------------------------------


def _losses(contents: RunContents, say: Words) -> LineChart:
    """Losses of the steps, of the validation rows and of the fixed sample of training rows."""
    steps, validations = contents.steps, contents.validations
    series = [_line(say("training.loss.step"), steps, lambda one: one.loss)] if steps else []
    sampled = [one for one in validations if one.train is not None]
    if sampled:
        series.append(
            _validated(say("training.loss.sample"), sampled, lambda one: one.train.loss if one.train else None)
        )
    if validations:
        series.append(_validated(say("training.loss.valid"), validations, lambda one: one.loss))
    marks = list(_marks(contents, say))
    described = _described_losses(steps, validations, say)
    axes = Axis(say("training.step")), Axis(say("training.loss"), say("training.nats"), low=0.0)
    return LineChart("losses", say("training.losses"), described, *axes, series, marks)


def _marks(contents: RunContents, say: Words) -> Iterator[Mark]:
    """Where the checkpoints' metric was best, and where training stopped before its last step."""
    facts = contents.facts
    if facts.best is not None and facts.best.step is not None and len(contents.validations) > 1:
        metric = say("training.loss.valid") if facts.best.metric == VALID_LOSS else facts.best.metric
        yield Mark(facts.best.step, say("training.mark.best", metric=metric, value=facts.best.value))
    planned = facts.steps.total
    if facts.step is not None and planned is not None and facts.step < planned:
        yield Mark(facts.step, say("training.mark.stopped"))


def _described_losses(steps: Sequence[StepEvent], validations: Sequence[ValidationEvent], say: Words) -> str:
    sentences = []
    if steps:
        first, last = steps[0], steps[-1]
        sentences.append(say("training.described", first=first.loss, at=first.step, last=last.loss, step=last.step))
    if validations:
        best = min(validations, key=lambda one: one.loss)
        last_loss = validations[-1].loss
        sentences.append(say("training.described_valid", best=best.loss, step=best.step, last=last_loss))
    return together(sentences, say)


def _segments(contents: RunContents, say: Words) -> Iterator[Block]:
    """Loss and accuracy of each part of the reply, at the adapter's step, and the validation loss of each over the steps."""
    losses = contents.facts.losses
    names = list(dict.fromkeys([*(losses.train or {}), *(losses.valid or {})]))
    if len(names) > 1:
        columns = (
            Column(say("training.segment")),
            *numeric(*(say(f"training.segment.{key}") for key in _SEGMENT_KEYS)),
        )
        rows = [[Cell(name), *_segment_cells(name, losses.train, losses.valid)] for name in names]
        note = "" if losses.step is None else say("training.segments.note", step=losses.step)
        yield Table(say("training.segments"), columns, rows, note)
    validations = contents.validations
    parts = list(dict.fromkeys(name for one in validations for name in one.segments))
    if len(validations) > 1 and len(parts) > 1:
        series = [_validated(name, validations, _segment_loss(name)) for name in parts]
        last = validations[-1]
        said = [
            say("training.segment.said", name=name, loss=one.loss, step=last.step)
            for name, one in last.segments.items()
        ]
        axes = Axis(say("training.step")), Axis(say("training.loss"), say("training.nats"), low=0.0)
        yield LineChart("segment-losses", say("training.segment_losses"), together(said, say), *axes, series)


_SEGMENT_KEYS = ("train", "valid", "accuracy", "label_accuracy")


def _segment_cells(
    name: str, train: Mapping[str, SegmentFacts] | None, valid: Mapping[str, SegmentFacts] | None
) -> list[Cell]:
    """Losses of training and validation rows; accuracies of the validation rows, else of the training rows."""
    on_train, on_valid = (train or {}).get(name), (valid or {}).get(name)
    shown = on_valid or on_train
    assert shown is not None
    losses = [Cell("" if one is None else f"{one.loss:.4f}") for one in (on_train, on_valid)]
    shares = [shown.accuracy, shown.label_accuracy]
    return [*losses, *(Cell("" if share is None else f"{share:.1%}", share=share) for share in shares)]


def _segment_loss(name: str) -> Callable[[ValidationEvent], float | None]:
    return lambda event: event.segments[name].loss if name in event.segments else None


# Over the steps ----------------------------------------------------------------------------------------------------


def _over_steps(steps: Sequence[StepEvent], say: Words) -> Iterator[Block]:
    """What else was recorded of each step."""
    wanted: tuple[tuple[str, str, Callable[[StepEvent], float | None]], ...] = (
        ("learning_rate", "", lambda one: one.learning_rate),
        ("grad_norm", "", lambda one: one.grad_norm),
        ("tokens", say("training.tokens_per_second"), _tokens_per_second),
        ("memory", "GB", lambda one: one.peak_memory_gb),
    )
    found = []
    for name, unit, value in wanted:
        line = _line(say(f"training.{name}"), steps, value)
        numbers = [one for one in line.y if one is not None]
        if numbers:
            described = say("training.range", low=min(numbers), high=max(numbers), last=numbers[-1])
            axes = Axis(say("training.step")), Axis(say(f"training.{name}"), unit, low=0.0)
            found.append(LineChart(name.replace("_", "-"), say(f"training.{name}"), described, *axes, [line]))
    if found:
        yield Folded(say("training.over_steps"), found)


def _tokens_per_second(event: StepEvent) -> float | None:
    return event.tokens / event.seconds if event.tokens is not None and event.seconds else None


def _line(name: str, steps: Sequence[StepEvent], value: Callable[[StepEvent], float | None]) -> Series:
    """A value of each step; of many steps, means."""
    return Series(name, *mean_of_each(steps, value, MAX_POINTS))


def _validated(
    name: str, validations: Sequence[ValidationEvent], value: Callable[[ValidationEvent], float | None]
) -> Series:
    values = [finite_mean([value(one)]) for one in validations]
    return Series(name, [one.step for one in validations], values, points=len(validations) <= FEW_POINTS)
