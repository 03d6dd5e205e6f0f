"""Which metrics of an evaluation are shown where there is little room, and their values in any of its systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.registry import METRICS, headline
from mlxtune.evaluation.results import Against, DecodingResult, EvaluationResult

WHOLE_REPLY = "whole reply"  # what stands in the place of a field


@dataclass(frozen=True)
class SystemScores:
    """Scores under the title of a system."""

    title: str
    fields: Mapping[str, Scores]
    replies: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricLine:
    """A metric of a field, or of whole replies."""

    field: str
    metric: str
    is_headline: bool

    def of(self, system: SystemScores | DecodingResult) -> Estimate | None:
        """Its value; None where a system has none."""
        scores = system.fields.get(self.field)
        found = system.replies if self.field == WHOLE_REPLY else {} if scores is None else scores.metrics
        return found.get(self.metric)

    def against(self, other: Against) -> Comparison | None:
        """Its comparison with another system."""
        found = other.replies if self.field == WHOLE_REPLY else other.fields.get(self.field, {})
        return found.get(self.metric)


def metric_lines(result: EvaluationResult) -> list[MetricLine]:
    """Of each field its headline, the one beside it, and the rate of invalid values; of several fields the whole reply's, too."""
    found = []
    for name, scores in result.top.fields.items():
        best = headline(scores.metrics)
        if best is not None:
            shown = dict.fromkeys([best, METRICS[best].beside, "invalid_rate"])
            found += [MetricLine(name, metric, metric == best) for metric in shown if metric in scores.metrics]
    best = headline(result.top.replies)
    if best is not None and len(result.top.fields) > 1:
        found.append(MetricLine(WHOLE_REPLY, best, True))
    return found


def leading_lines(result: EvaluationResult, n: int) -> list[MetricLine]:
    """The `n` metrics that matter most: of whole replies, then the fields' headlines, then those beside them."""
    lines = metric_lines(result)
    return sorted(lines, key=lambda line: (not line.is_headline, line.field != WHOLE_REPLY))[:n]
