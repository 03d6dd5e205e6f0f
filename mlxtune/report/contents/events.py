"""metrics.jsonl as typed values: the steps and validations of a training that goes on, ended or was killed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mlxtune.errors import RunError
from mlxtune.json_values import JsonError, read_dataclass
from mlxtune.report.contents.facts import DiagnosisFacts, SegmentFacts
from mlxtune.runs.events import read_events
from mlxtune.runs.folder import RunFolder

Event = TypeVar("Event")


@dataclass(frozen=True)
class StepEvent:
    """One optimizer step.

    Attributes:
        loss: Weighted, with dropout, over the rows of this step, nats a token.
        grad_norm: Before it is clipped.
        tokens: Of its rows, a shared prompt counted in each.
        peak_memory_gb: So far.
        segments: Part of the reply -> its loss.
    """

    step: int
    loss: float
    epoch: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    seconds: float | None = None
    peak_memory_gb: float | None = None
    segments: Mapping[str, SegmentFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleEvent:
    """The fixed sample of training rows, scored as validation rows are."""

    loss: float
    segments: Mapping[str, SegmentFacts] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectedEvent:
    """The metric by which checkpoints are selected, and its value."""

    metric: str
    value: float


@dataclass(frozen=True)
class ValidationEvent:
    """One validation.

    Attributes:
        loss: Of the validation rows, unweighted, without dropout, nats a token.
        train: The same of a fixed sample of the training rows.
        ratio: Validation loss / training loss.
        metrics: Of the replies, where the recipe selects by one.
        diagnosis: What the losses said until then.
    """

    step: int
    loss: float
    epoch: float | None = None
    segments: Mapping[str, SegmentFacts] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    selected: SelectedEvent | None = None
    train: SampleEvent | None = None
    ratio: float | None = None
    diagnosis: DiagnosisFacts | None = None
    seconds: float | None = None


def step_events(run: RunFolder) -> tuple[StepEvent, ...]:
    """The steps in their order.

    Raises:
        RunError: An event is not what training writes.
    """
    return _events(run, "step", StepEvent)


def validation_events(run: RunFolder) -> tuple[ValidationEvent, ...]:
    """The validations in their order; raises as `step_events`."""
    return _events(run, "validation", ValidationEvent)


def _events(run: RunFolder, name: str, kind: type[Event]) -> tuple[Event, ...]:
    found = []
    for content in read_events(run.metrics_file, name):
        try:
            found.append(read_dataclass(kind, content))
        except JsonError as error:
            which = _which(content)
            raise RunError(f"{run.metrics_file}: the {name}{which}: {error}") from error
    return tuple(found)


def _which(content: Mapping[str, Any]) -> str:
    return f" event of step {content['step']}" if isinstance(content.get("step"), int) else " event"
