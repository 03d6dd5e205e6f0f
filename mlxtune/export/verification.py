"""What `mlxtune verify` found, as verify.json has it. Asks no model, computes no metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxtune.errors import RunError
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.registry import metric
from mlxtune.json_values import JsonError, each, inside, mapping, optional, required, typed
from mlxtune.runs.folder import RunFolder

ADAPTER = "adapter"  # what base plus adapter is called in the table
ROUNDING = 1e-9  # of a difference: 0.98 - 1 is a little more than a fall of 0.02
WHOLE_REPLY = "reply"  # what metrics of whole replies stand under, where fields' stand under the field


@dataclass(frozen=True)
class HeadlineMetric:
    """The metric by which a field is called better or worse.

    Attributes:
        field: The field; WHOLE_REPLY for all fields together.
        name: The metric's, as scores.json has it.
        estimate: Of the artifact, with its interval.
        difference: Artifact less adapter, paired by row; None of the adapter itself.
    """

    field: str
    name: str
    estimate: Estimate
    difference: Comparison | None = None

    @property
    def title(self) -> str:
        """Field and metric: 'intents.exact_match'."""
        return f"{self.field}.{self.name}"

    def fell_by(self) -> float:
        """How much worse the artifact is than the adapter; negative where it is better."""
        if self.difference is None:
            return 0.0
        sign = -1 if metric(self.name).direction == "lower" else 1
        return -sign * self.difference.difference

    def to_json(self) -> dict[str, Any]:
        """As verify.json has it."""
        return {**self.estimate.to_json(), "difference": self.difference and self.difference.to_json()}

    @classmethod
    def from_json(cls, content: Any, field: str, name: str) -> HeadlineMetric:
        """What `to_json` says of a field's metric."""
        difference = optional(content, "difference", lambda one: Comparison.from_json(one, name, ADAPTER))
        return cls(field, name, Estimate.from_json(content), difference)


@dataclass(frozen=True)
class Verified:
    """One artifact, asked.

    Attributes:
        name: As `--artifacts` names it; ADAPTER for base plus adapter.
        path: Its file or folder; None where it was temporary.
        loaded_by: "mlx", "torch" or "llama.cpp".
        decoding: 'free' or 'constrained'.
        n_bytes: Its size; of the adapter, without the base model.
        agreement: Share of rows whose reply says the same as the adapter's in every field.
        metrics: Of each field, and of whole replies.
        logit_difference: Largest of any logit on some prompts, to base plus adapter; None where logits are not to be had.
        seconds_per_row: Model time / rows.
    """

    name: str
    path: str | None
    loaded_by: str
    decoding: str
    n_bytes: int
    agreement: Estimate
    metrics: tuple[HeadlineMetric, ...]
    logit_difference: float | None
    seconds_per_row: float | None

    def lost(self, tolerance: float) -> list[HeadlineMetric]:
        """The metrics that fell by more than a tolerance."""
        return [one for one in self.metrics if one.fell_by() > tolerance + ROUNDING]

    def to_json(self) -> dict[str, Any]:
        """As verify.json has it."""
        metrics: dict[str, dict[str, Any]] = {}
        for one in self.metrics:
            metrics.setdefault(one.field, {})[one.name] = one.to_json()
        return {
            "path": self.path,
            "loaded_by": self.loaded_by,
            "decoding": self.decoding,
            "bytes": self.n_bytes,
            "agreement": self.agreement.to_json(),
            "metrics": metrics,
            "largest_logit_difference": self.logit_difference,
            "seconds_per_row": self.seconds_per_row,
        }

    @classmethod
    def from_json(cls, content: Any, name: str) -> Verified:
        """What `to_json` says of the artifact of a name."""
        metrics = []
        for field, of_field in required(content, "metrics", each(mapping)).items():
            for metric_name, one in of_field.items():
                with inside("metrics", field, metric_name):
                    metrics.append(HeadlineMetric.from_json(one, field, metric_name))
        return cls(
            name,
            optional(content, "path", typed(str)),
            required(content, "loaded_by", typed(str)),
            required(content, "decoding", typed(str)),
            required(content, "bytes", typed(int)),
            required(content, "agreement", Estimate.from_json),
            tuple(metrics),
            optional(content, "largest_logit_difference", typed(float)),
            optional(content, "seconds_per_row", typed(float)),
        )


@dataclass(frozen=True)
class Verification:
    """All of them.

    Attributes:
        run: The run.
        rows: Test rows asked.
        tolerance: How far a headline metric may fall.
        adapter: Base plus adapter, by decoding; an artifact is compared with the one of its own.
        artifacts: The artifacts, in the order asked for.
        failed: Artifact -> why it could not be made or loaded.
        notes: Sentences that a reader should know.
    """

    run: str
    rows: int
    tolerance: float
    adapter: Mapping[str, Verified]
    artifacts: tuple[Verified, ...]
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """A sentence for each headline metric that fell by more than the tolerance, and each artifact that failed."""
        fallen = [
            f"{one.name}: {lost.title} fell by {lost.fell_by():.3f}, to {lost.estimate.value:.3f}; "
            f"more than the tolerance of {self.tolerance:g}"
            for one in self.artifacts
            for lost in one.lost(self.tolerance)
        ]
        return [*fallen, *(f"{name}: {why}" for name, why in self.failed.items())]

    def to_json(self) -> dict[str, Any]:
        """The content of verify.json."""
        return {
            "run": self.run,
            "rows": self.rows,
            "tolerance": self.tolerance,
            "adapter": {name: one.to_json() for name, one in self.adapter.items()},
            "artifacts": {one.name: one.to_json() for one in self.artifacts},
            "failures": self.failures,
            "failed": dict(self.failed),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, content: Any) -> Verification:
        """What `to_json` says."""
        artifacts = required(content, "artifacts", each(mapping))
        adapter = required(content, "adapter", each(lambda one: Verified.from_json(one, ADAPTER)))
        found = []
        for name, one in artifacts.items():
            with inside("artifacts", name):
                found.append(Verified.from_json(one, name))
        return cls(
            required(content, "run", typed(str)),
            required(content, "rows", typed(int)),
            required(content, "tolerance", typed(float)),
            adapter,
            tuple(found),
            required(content, "failed", typed(dict[str, str])),
            required(content, "notes", typed(tuple[str, ...])),
        )


def read_verification(run: RunFolder) -> Verification | None:
    """What a run's verify.json says; None where it was not verified.

    Raises:
        RunError: The file cannot be read.
    """
    file = run.verify_file
    try:
        return Verification.from_json(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except JsonError as error:
        raise RunError(f"{file}: not what verify writes: {error}; run `mlxtune verify {run}` again") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; run `mlxtune verify {run}` again") from error
