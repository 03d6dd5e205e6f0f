"""What raters said, as values. `to_json` of the whole is human_eval.json, `from_json` reads it. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlxtune.evaluation.metrics.agreement import Correlation
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.json_values import each, mapping, read_dataclass, required, typed

RATING = "rating"  # what a difference of ratings is called as a metric


@dataclass(frozen=True)
class Rater:
    """Who rated, how much, and how severely.

    Attributes:
        name: From the sheet's file.
        file: The sheet.
        sha256: Of it.
        cases: Lines with a score.
        scores: Scores given.
        means: Dimension -> mean of the scores; None of none.
    """

    name: str
    file: str
    sha256: str
    cases: int
    scores: int
    means: Mapping[str, float | None]


@dataclass(frozen=True)
class MeanScore:
    """The mean over cases in one dimension, None where no case is rated, and how many are."""

    mean: Estimate | None
    cases: int


@dataclass(frozen=True)
class DimensionScores(MeanScore):
    """The same with how many scores there are, and how many of each score, as text."""

    scores: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class RatedRun:
    """What raters said of one run.

    Attributes:
        about: Of the key: "run", as the user called it, "evaluation" and "predictions".
        dimensions: Dimension -> its scores.
        buckets: Bucket of ROUGE-L -> dimension -> mean over the cases in it.
        rouge: Dimension -> correlation of a case's mean with its ROUGE-L.
    """

    about: Mapping[str, Any]
    dimensions: Mapping[str, DimensionScores]
    buckets: Mapping[str, Mapping[str, MeanScore]]
    rouge: Mapping[str, Correlation]

    @property
    def name(self) -> str:
        """As the user called it."""
        return str(self.about["run"])

    def to_json(self) -> dict[str, Any]:
        """As human_eval.json has it."""
        return {
            **self.about,
            "dimensions": {name: asdict(one) for name, one in self.dimensions.items()},
            "buckets": {
                bucket: {name: asdict(one) for name, one in means.items()} for bucket, means in self.buckets.items()
            },
            "rouge": {name: asdict(one) for name, one in self.rouge.items()},
        }

    @classmethod
    def from_json(cls, content: Any) -> RatedRun:
        """What `to_json` says."""
        required(content, "run", typed(str))
        own = ("dimensions", "buckets", "rouge")
        return cls(
            {name: one for name, one in mapping(content).items() if name not in own},
            required(content, "dimensions", typed(dict[str, DimensionScores])),
            required(content, "buckets", typed(dict[str, dict[str, MeanScore]])),
            required(content, "rouge", typed(dict[str, Correlation])),
        )


@dataclass(frozen=True)
class RaterAgreement:
    """How far raters agree in one dimension, over the lines that two or more scored; None where it is not defined."""

    lines: int
    alpha_ordinal: Estimate | None
    alpha_interval: Estimate | None
    exact: Estimate | None


@dataclass(frozen=True)
class DimensionDifference:
    """One run less the first in one dimension, over the cases in which one rater scored both; None of no case."""

    cases: int
    compared: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """As human_eval.json has it."""
        return {"cases": self.cases, **(self.compared.to_json() if self.compared else {})}

    @classmethod
    def from_json(cls, content: Any, other: str) -> DimensionDifference:
        """What `to_json` says of a difference from the run of that name."""
        cases = required(content, "cases", typed(int))
        if "difference" not in mapping(content):
            return cls(cases, None)
        compared = Comparison.from_json(content, RATING, other)
        too_few = compared.verdict == "too few rows"
        return cls(cases, replace(compared, verdict="too few cases", mark=None) if too_few else compared)


@dataclass(frozen=True)
class RunDifference:
    """One run less the first: dimension -> difference."""

    run: str
    against: str
    dimensions: Mapping[str, DimensionDifference]

    def to_json(self) -> dict[str, Any]:
        """As human_eval.json has it."""
        dimensions = {name: one.to_json() for name, one in self.dimensions.items()}
        return {"run": self.run, "against": self.against, "dimensions": dimensions}

    @classmethod
    def from_json(cls, content: Any) -> RunDifference:
        """What `to_json` says."""
        run, against = (required(content, key, typed(str)) for key in ("run", "against"))
        read = each(lambda one: DimensionDifference.from_json(one, against))
        return cls(run, against, required(content, "dimensions", read))


@dataclass(frozen=True)
class RatedLine:
    """A line of the sheet: whose reply to which row, and how near the reference it is."""

    case: str
    run: str
    row: int
    rouge_l: float
    bucket: str

    def to_json(self) -> dict[str, Any]:
        """As human_eval.json has it."""
        return {
            "case": self.case,
            "run": self.run,
            "row": self.row,
            "rougeL": self.rouge_l,
            "bucket": self.bucket,
        }

    @classmethod
    def from_json(cls, content: Any) -> RatedLine:
        """What `to_json` says."""
        text = typed(str)
        case, run, bucket = (required(content, key, text) for key in ("case", "run", "bucket"))
        return cls(case, run, required(content, "row", typed(int)), required(content, "rougeL", typed(float)), bucket)


@dataclass(frozen=True)
class LowLine:
    """A line that raters liked little, and the mean of its overall scores."""

    line: RatedLine
    overall: float

    def to_json(self) -> dict[str, Any]:
        """As human_eval.json has it."""
        return {**self.line.to_json(), "overall": self.overall}

    @classmethod
    def from_json(cls, content: Any) -> LowLine:
        """What `to_json` says."""
        return cls(RatedLine.from_json(content), required(content, "overall", typed(float)))


@dataclass(frozen=True)
class Comment:
    """What a rater wrote of a line."""

    line: RatedLine
    rater: str
    comment: str

    def to_json(self) -> dict[str, Any]:
        """As human_eval.json has it."""
        return {**self.line.to_json(), "rater": self.rater, "comment": self.comment}

    @classmethod
    def from_json(cls, content: Any) -> Comment:
        """What `to_json` says."""
        rater, comment = (required(content, key, typed(str)) for key in ("rater", "comment"))
        return cls(RatedLine.from_json(content), rater, comment)


@dataclass(frozen=True)
class Sample:
    """The draw of the sheet: from how many test rows, by which seed, bucket of ROUGE-L -> its rows and cases."""

    rows: int
    seed: int
    buckets: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class HumanEvaluation:
    """What raters said of the runs on a sheet.

    Attributes:
        tag: Of the sheet.
        field: The text field that was rated; None is the whole reply.
        read: When, in ISO 8601.
        cases: On the sheet.
        rated: Of them, with a score.
        scores: Given in all.
        sample: The draw of the sheet.
        raters: One a sheet.
        runs: The first is what the others are compared with.
        agreement: Dimension -> agreement; None of one rater.
        differences: Of each run after the first from the first.
        lowest: The lines with the lowest overall means, the worst first.
        comments: In the order of the sheets.
    """

    tag: str
    field: str | None
    read: str
    cases: int
    rated: int
    scores: int
    sample: Sample
    raters: Sequence[Rater]
    runs: Sequence[RatedRun]
    agreement: Mapping[str, RaterAgreement] | None
    differences: Sequence[RunDifference]
    lowest: Sequence[LowLine]
    comments: Sequence[Comment]

    def to_json(self) -> dict[str, Any]:
        """The content of human_eval.json."""
        agreement = None if self.agreement is None else {name: asdict(one) for name, one in self.agreement.items()}
        return {
            "tag": self.tag,
            "field": self.field,
            "read": self.read,
            "cases": self.cases,
            "rated": self.rated,
            "scores": self.scores,
            "sample": asdict(self.sample),
            "raters": [asdict(one) for one in self.raters],
            "runs": [one.to_json() for one in self.runs],
            "agreement": agreement,
            "differences": [one.to_json() for one in self.differences],
            "lowest": [one.to_json() for one in self.lowest],
            "comments": [one.to_json() for one in self.comments],
        }

    @classmethod
    def from_json(cls, content: Any) -> HumanEvaluation:
        """What `to_json` says."""
        return read_dataclass(cls, content)
