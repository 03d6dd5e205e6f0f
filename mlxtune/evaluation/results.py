"""What an evaluation comes to, as values: one decoding scored, the baselines beside it, the whole. `to_json` is scores.json,
`from_json` reads it.

Nothing else makes the content of scores.json, and nothing is added to it afterwards. Every `from_json` raises JsonError for
content of another shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from mlxtune.evaluation.expectations import Expectation
from mlxtune.evaluation.fields.scorer import Scores, scores_from_json
from mlxtune.evaluation.judge.ratings import Ratings
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.thresholds import LabelThreshold
from mlxtune.evaluation.predict.consistency import Consistency
from mlxtune.evaluation.predict.probabilities import FieldCalibration
from mlxtune.json_values import each, inside, mapping, optional, read_dataclass, required, typed

PLAIN = "without thresholds"  # what replies as they are are called beside those with thresholds


@dataclass(frozen=True)
class FileIdentity:
    """A file, or rows on the Hub, by name and content."""

    file: str
    sha256: str
    rows: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        rows = {} if self.rows is None else {"rows": self.rows}
        return {"file": self.file, "sha256": self.sha256, **rows}

    @classmethod
    def from_json(cls, content: Any) -> FileIdentity:
        """What `to_json` says."""
        return read_dataclass(cls, content)


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that was asked.

    Attributes:
        path: Of the base model, as the recipe has it.
        revision: Of it.
        base: Fingerprint of its weights.
        task_hash: Of what decides how rows are asked and replies are read.
        adapter: Its adapter, or the weights of a model that was trained whole; None of the base model.
        data: The test rows.
        backend: That computed.
        overrides: The command's `--set`s.
    """

    path: str
    revision: str | None
    base: str
    task_hash: str
    adapter: FileIdentity | None
    data: FileIdentity
    backend: str
    overrides: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        return {
            "model": {"path": self.path, "revision": self.revision},
            "base": self.base,
            "asked": self.task_hash,
            "adapter": self.adapter and self.adapter.to_json(),
            "data": self.data.to_json(),
            "backend": self.backend,
            "overrides": list(self.overrides),
        }

    @classmethod
    def from_json(cls, content: Any) -> EvaluatedModel:
        """What `to_json` says."""
        text = typed(str)
        model = required(content, "model", mapping)
        with inside("model"):
            path, revision = required(model, "path", text), optional(model, "revision", text)
        return cls(
            path,
            revision,
            required(content, "base", text),
            required(content, "asked", text),
            optional(content, "adapter", FileIdentity.from_json),
            required(content, "data", FileIdentity.from_json),
            required(content, "backend", text),
            required(content, "overrides", typed(tuple[str, ...])),
        )


@dataclass(frozen=True)
class GivenReplies:
    """Replies that were there already: the test rows, and the file that they stand in."""

    data: FileIdentity
    replies: FileIdentity

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it."""
        return {"data": self.data.to_json(), "replies_of": self.replies.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> GivenReplies:
        """What `to_json` says."""
        read = FileIdentity.from_json
        return cls(required(content, "data", read), required(content, "replies_of", read))


Evaluated = EvaluatedModel | GivenReplies


def evaluated_from_json(content: Any) -> Evaluated | None:
    """What a scores.json says that it is of; None where it does not."""
    if "replies_of" in mapping(content):
        return GivenReplies.from_json(content)
    return EvaluatedModel.from_json(content) if {"model", "base", "asked"} & content.keys() else None


@dataclass(frozen=True)
class Speed:
    """Over the model's own seconds: reading, parsing and loading are not in it.

    Attributes:
        seconds_per_row: Seconds / rows.
        rows_per_second: Rows / seconds.
        tokens_per_second: Tokens generated / seconds.
        peak_memory_gb: The most memory that the backend used, weights included; None where it is not known.
    """

    seconds_per_row: float
    rows_per_second: float
    tokens_per_second: float
    peak_memory_gb: float | None = None

    def to_json(self) -> dict[str, float]:
        """As scores.json has it."""
        memory = {} if self.peak_memory_gb is None else {"peak_memory_gb": self.peak_memory_gb}
        return {
            "seconds_per_row": self.seconds_per_row,
            "rows_per_second": self.rows_per_second,
            "tokens_per_second": self.tokens_per_second,
            **memory,
        }

    @classmethod
    def from_json(cls, content: Any) -> Speed:
        """What `to_json` says."""
        return read_dataclass(cls, content)


@dataclass(frozen=True)
class FieldThresholds:
    """A field whose labels are said from thresholds of their probability on.

    Attributes:
        labels: Label -> its threshold, chosen on the validation rows.
        scores: Of the test rows with these thresholds.
        gain: Metric -> these scores compared with those of the replies as they are.
        validation_rows: Rows that chose the thresholds.
    """

    labels: Mapping[str, LabelThreshold]
    scores: Scores
    gain: Mapping[str, Comparison]
    validation_rows: int

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it under a field's "thresholds"."""
        return {
            "labels": {label: asdict(one) for label, one in self.labels.items()},
            "scores": self.scores.to_json(),
            "gain": comparisons_json(self.gain),
            "validation_rows": self.validation_rows,
        }

    @classmethod
    def from_json(cls, content: Any, other: str) -> FieldThresholds:
        """What `to_json` says.

        Args:
            content: The object.
            other: What the replies as they are are called.
        """
        return cls(
            required(content, "labels", typed(Mapping[str, LabelThreshold])),
            required(content, "scores", scores_from_json),
            required(content, "gain", partial(comparisons_from_json, other=other)),
            required(content, "validation_rows", typed(int)),
        )


@dataclass(frozen=True)
class DecodingResult:
    """One decoding's predictions, scored.

    Attributes:
        rows: How many.
        decoding: 'free', 'constrained' or 'best'.
        replies: Metrics of whole replies.
        fields: Field -> its scores.
        notes: Sentences that a reader should know.
        calibration: Field -> whether its probabilities hold; of the field that has them.
        consistency: Whether repeated samples agree; None where they were not asked for.
        thresholds: Field -> its labels' thresholds, where these were tuned.
        speed: None of replies that were there already.
        predictions: Name of their file; None where none was written.
    """

    rows: int
    decoding: str
    replies: Mapping[str, Estimate]
    fields: Mapping[str, Scores]
    notes: tuple[str, ...] = ()
    calibration: Mapping[str, FieldCalibration] = field(default_factory=dict)
    consistency: Consistency | None = None
    speed: Speed | None = None
    predictions: str | None = None
    thresholds: Mapping[str, FieldThresholds] = field(default_factory=dict)

    def noting(self, *notes: str) -> DecodingResult:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def to_json(self) -> dict[str, Any]:
        """As scores.json has it, at its top or under "decodings"."""
        fields = {name: scores.to_json() for name, scores in self.fields.items()}
        for name, one in self.calibration.items():
            fields[name]["calibration"] = one.to_json()
        for name, tuned in self.thresholds.items():
            fields[name]["thresholds"] = tuned.to_json()
        further = {"speed": self.speed and self.speed.to_json(), "predictions": self.predictions,
                   "consistency": self.consistency and self.consistency.to_json()}  # fmt: skip
        return {
            "rows": self.rows,
            "decoding": self.decoding,
            "replies": {name: one.to_json() for name, one in self.replies.items()},
            "fields": fields,
            "notes": list(self.notes),
            **{key: value for key, value in further.items() if value is not None},
        }

    @classmethod
    def from_json(cls, content: Any) -> DecodingResult:
        """What `to_json` says."""
        scores, calibration, thresholds = {}, {}, {}
        for name, of_field in required(content, "fields", each(mapping)).items():
            with inside("fields", name):
                further = ("calibration", "thresholds")
                scores[name] = scores_from_json({key: one for key, one in of_field.items() if key not in further})
                if (one := optional(of_field, "calibration", FieldCalibration.from_json)) is not None:
                    calibration[name] = one
                read_thresholds = partial(FieldThresholds.from_json, other=PLAIN)
                if (tuned := optional(of_field, "thresholds", read_thresholds)) is not None:
                    thresholds[name] = tuned
        return cls(
            required(content, "rows", typed(int)),
            required(content, "decoding", typed(str)),
            required(content, "replies", each(Estimate.from_json)),
            scores,
            required(content, "notes", typed(tuple[str, ...])),
            calibration,
            optional(content, "consistency", Consistency.from_json),
            optional(content, "speed", Speed.from_json),
            optional(content, "predictions", typed(str)),
            thresholds,
        )


@dataclass(frozen=True)
class Against:
    """The evaluated replies beside those of another system on the same rows.

    Attributes:
        fields: Field -> metric -> comparison.
        replies: Metric of whole replies -> comparison.
    """

    fields: Mapping[str, Mapping[str, Comparison]] = field(default_factory=dict)
    replies: Mapping[str, Comparison] = field(default_factory=dict)

    def fields_json(self) -> dict[str, Any]:
        """As scores.json has it under "comparisons"."""
        return {name: comparisons_json(of_field) for name, of_field in self.fields.items()}

    def replies_json(self) -> dict[str, Any]:
        """As scores.json has it under "reply_comparisons"."""
        return comparisons_json(self.replies)

    @classmethod
    def from_json(cls, fields: Any, replies: Any, other: str) -> Against:
        """What `fields_json` and `replies_json` say.

        Args:
            fields: Of `fields_json`.
            replies: Of `replies_json`.
            other: What the other system is called.
        """
        read = partial(comparisons_from_json, other=other)
        with inside("comparisons", other):
            by_field = each(read)(fields)
        with inside("reply_comparisons", other):
            return cls(by_field, read(replies))


@dataclass(frozen=True)
class BaselineResult:
    """One baseline: its scores by field, the model beside it, and how fast it was where a model was asked."""

    fields: Mapping[str, Scores]
    against: Against
    speed: Speed | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation, whole.

    Attributes:
        top: The decoding that counts; its notes are those of the evaluation.
        evaluated: What was evaluated; None leaves that out.
        decodings: All of them, where several were asked for.
        limits: Settings that bound replies; None of replies that were there already.
        baselines: Baseline -> its result; None where the recipe names none.
        before: The model before tuning, evaluated on the same rows; None where it was not, or could not be compared.
        ended: When, in ISO 8601; None of replies that were there already.
        judge: A model judge's ratings; None where none was asked.
        expectations: What came of the recipe's conditions, in their order.
    """

    top: DecodingResult
    evaluated: Evaluated | None = None
    decodings: Mapping[str, DecodingResult] | None = None
    limits: Mapping[str, int] | None = None
    baselines: Mapping[str, BaselineResult] | None = None
    before: Against | None = None
    ended: str | None = None
    judge: Ratings | None = None
    expectations: tuple[Expectation, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of scores.json."""
        content = {**self.top.to_json(), **(self.evaluated.to_json() if self.evaluated else {})}
        if self.decodings is not None:
            content["decodings"] = {name: one.to_json() for name, one in self.decodings.items()}
        if self.limits is not None:
            content["limits"] = dict(self.limits)
        baselines = self.baselines or {}
        if self.baselines is not None:
            content["baselines"] = {
                name: {one: scores.to_json() for one, scores in result.fields.items()}
                for name, result in baselines.items()
            }
        beside = {name: result.against for name, result in baselines.items()}
        if self.before is not None:
            beside["before"] = self.before
        compared = {name: one.fields_json() for name, one in beside.items() if one.fields}
        replies = {name: one.replies_json() for name, one in beside.items() if one.replies}
        if compared or self.baselines is not None:
            content["comparisons"] = compared
        if replies:
            content["reply_comparisons"] = replies
        if speeds := {name: one.speed.to_json() for name, one in baselines.items() if one.speed is not None}:
            content["baseline_speed"] = speeds
        if self.ended is not None:
            content["evaluated"] = self.ended
        if self.judge is not None:
            content["judge"] = self.judge.to_json()
        if self.expectations:
            content["expectations"] = [one.to_json() for one in self.expectations]
        return content

    @classmethod
    def from_json(cls, content: Any) -> EvaluationResult:
        """What a scores.json says."""
        compared = optional(content, "comparisons", each(mapping)) or {}
        replies = optional(content, "reply_comparisons", each(mapping)) or {}
        speeds = optional(content, "baseline_speed", each(Speed.from_json)) or {}
        against = {
            name: Against.from_json(compared.get(name, {}), replies.get(name, {}), name)
            for name in {**compared, **replies}
        }
        baselines = optional(content, "baselines", each(each(scores_from_json)))
        return cls(
            DecodingResult.from_json(content),
            evaluated_from_json(content),
            optional(content, "decodings", each(DecodingResult.from_json)),
            optional(content, "limits", each(typed(int))),
            None if baselines is None else {
                name: BaselineResult(fields, against.get(name, Against()), speeds.get(name))
                for name, fields in baselines.items()
            },
            against.get("before"),
            optional(content, "evaluated", typed(str)),
            optional(content, "judge", Ratings.from_json),
            optional(content, "expectations", typed(tuple[Expectation, ...])) or (),
        )  # fmt: skip

    @property
    def by_decoding(self) -> dict[str, DecodingResult]:
        """The results by decoding, that which counts first."""
        others = {} if self.decodings is None else {one.decoding: one for one in self.decodings.values()}
        return {self.top.decoding: self.top, **{name: one for name, one in others.items() if name != self.top.decoding}}


def comparisons_json(comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    """Metric -> comparison, as scores.json has it."""
    return {name: one.to_json() for name, one in comparisons.items()}


def comparisons_from_json(content: Any, other: str) -> dict[str, Comparison]:
    """What `comparisons_json` says.

    Args:
        content: The object.
        other: What the other system is called.
    """
    return {
        metric: required(content, metric, partial(Comparison.from_json, name=metric, other=other))
        for metric in mapping(content)
    }
