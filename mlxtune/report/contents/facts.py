"""run.json as typed values. Of an older version, or of a training that goes on, what is not there is None."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxtune.errors import RunError
from mlxtune.json_values import JsonError, mapping, optional, read_dataclass, required, typed
from mlxtune.recipe.sections import VALID_LOSS
from mlxtune.runs.folder import RunFolder


@dataclass(frozen=True)
class DeviceFacts:
    """What computed."""

    description: str | None = None


@dataclass(frozen=True)
class StepFacts:
    """Optimizer steps planned."""

    per_epoch: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class BaseFacts:
    """The base model: as the recipe names it, the folder that was loaded, and what its weights are known by."""

    path: str | None = None
    folder: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class SplitFacts:
    """Rows of a split.

    Attributes:
        file: Where they were read; None of rows that were held out of others.
        sha256: Of that file.
        rows: That training used.
        held_out_of: The file of the training rows that they were taken out of.
    """

    file: str | None = None
    sha256: str | None = None
    rows: int | None = None
    held_out_of: str | None = None


@dataclass(frozen=True)
class BestFacts:
    """The best validation: of which metric, its value, after which step; the step is None of older runs."""

    metric: str
    value: float
    step: int | None = None

    @classmethod
    def from_json(cls, content: Any) -> BestFacts:
        """What run.json says; one of an older version has the loss alone."""
        step = optional(content, "step", typed(int))
        if "metric" not in mapping(content) and "valid_loss" in content:
            return cls(VALID_LOSS, required(content, "valid_loss", typed(float)), step)
        return cls(required(content, "metric", typed(str)), required(content, "value", typed(float)), step)


@dataclass(frozen=True)
class DiagnosisFacts:
    """What the losses say, as training wrote it: a verdict, its evidence as a clause, what to try next."""

    verdict: str
    evidence: str
    suggestions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmentFacts:
    """One part of the reply: its loss a token; how many tokens, and what share of them and of its labels is right (teacher-forced)."""

    loss: float
    tokens: int | None = None
    accuracy: float | None = None
    label_accuracy: float | None = None


@dataclass(frozen=True)
class LossFacts:
    """Losses by segment of the adapter that the run has, after a step; None where they were not measured."""

    train: Mapping[str, SegmentFacts] | None = None
    valid: Mapping[str, SegmentFacts] | None = None
    step: int | None = None


@dataclass(frozen=True)
class ResumedFacts:
    """One time that a run was resumed: when, by which command, with which keys of the recipe changed."""

    at: str | None = None
    command: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFacts:
    """run.json; its keys are those that training writes."""

    status: str | None = None
    created: str | None = None
    finished: str | None = None
    error: str | None = None
    mlxtune: str | None = None
    python: str | None = None
    platform: str | None = None
    backend: str | None = None
    reason: str | None = None
    device: DeviceFacts = DeviceFacts()
    versions: Mapping[str, str | None] = field(default_factory=dict)
    steps: StepFacts = StepFacts()
    tokens_per_pass: int | None = None
    seed: int | None = None
    base: BaseFacts = BaseFacts()
    data: Mapping[str, SplitFacts] = field(default_factory=dict)
    parameters: int | None = None
    trainable_parameters: int | None = None
    begun_from: str | None = None
    command: tuple[str, ...] = ()
    resumed: tuple[ResumedFacts, ...] = ()
    step: int | None = None
    stopped: str | None = None
    adapter_step: int | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    best: BestFacts | None = None
    seconds: float | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    peak_memory_gb: float | None = None
    losses: LossFacts = LossFacts()
    diagnosis: DiagnosisFacts | None = None


def run_facts(run: RunFolder) -> RunFacts:
    """What a run's run.json says.

    Raises:
        RunError: It cannot be read, or a key holds something of another type.
    """
    content = run.info()
    try:
        return read_dataclass(RunFacts, {key: one for key, one in content.items() if one is not None})
    except JsonError as error:
        raise RunError(f"{run.run_file}: {error}") from error
