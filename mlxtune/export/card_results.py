"""The part of a model card that says how well the model does: metrics beside baselines, labels, exports. Computes no metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlxtune.evaluation.fields.scorer import Scores
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.labels import LabelScores
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.registry import METRICS, headline, title
from mlxtune.evaluation.predict.predictions import BEST, CONSTRAINED
from mlxtune.evaluation.results import Against, DecodingResult, EvaluationResult
from mlxtune.evaluation.stored import common_decoding
from mlxtune.export.verification import HeadlineMetric, Verification
from mlxtune.markdown import markdown_row, markdown_text
from mlxtune.recipe.sections import Recipe

MAX_LABELS = 40  # of a table by label
WHOLE_REPLY = "whole reply"


@dataclass(frozen=True)
class Column:
    """Scores under a title of the table."""

    title: str
    fields: Mapping[str, Scores]
    replies: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricLine:
    """A metric of a field, or of whole replies."""

    field: str
    metric: str
    is_headline: bool

    @property
    def title(self) -> str:
        """As text, without Markdown."""
        return f"{self.field}, {title(self.metric)}"

    def of(self, column: Column | DecodingResult) -> Estimate | None:
        """Its value; None where a column has none."""
        scores = column.fields.get(self.field)
        found = column.replies if self.field == WHOLE_REPLY else {} if scores is None else scores.metrics
        return found.get(self.metric)

    def against(self, other: Against) -> Comparison | None:
        """Its comparison with another system."""
        found = other.replies if self.field == WHOLE_REPLY else other.fields.get(self.field, {})
        return found.get(self.metric)


def metric_lines(result: EvaluationResult) -> list[MetricLine]:
    """The metrics that the card shows: of each field its headline, the one beside it, and the rate of invalid values."""
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


def result_lines(
    result: EvaluationResult | None,
    base_result: EvaluationResult | None,
    recipe: Recipe,
    cleaned_counts: Mapping[str, Mapping[str, int]],
) -> list[str]:
    """The results as Markdown: tables of metrics and labels, and what the comparisons say.

    Args:
        result: The evaluation with the adapter.
        base_result: That of the base model on the same questions.
        recipe: Of the run.
        cleaned_counts: Field -> label -> rows that cleaning left, where they were counted.
    """
    if result is None:
        return ["**This model was not evaluated.** How well it does what it was trained for is not known."]
    baselines = result.baselines or {}
    columns = [
        Column("this model" if len(result.by_decoding) == 1 else f"this model, {name}", one.fields, one.replies)
        for name, one in result.by_decoding.items()
    ]
    if base_result is not None:
        ours, theirs = common_decoding(result, base_result)
        columns.append(Column("base model" if ours.decoding == theirs.decoding else f"base model, {theirs.decoding}",
                               theirs.fields, theirs.replies))  # fmt: skip
    columns += [Column(name, one.fields) for name, one in baselines.items()]
    lines = [
        f"{result.top.rows:,} test rows, {_decoding_text(result)}. In brackets: 95% intervals over the rows.",
        "",
        markdown_row(["field", "metric", *(markdown_text(one.title) for one in columns)]),
        markdown_row(["---", "---", *["---:"] * len(columns)]),
    ]
    shown = metric_lines(result)
    for line in shown:
        cells = [_estimate_text(line.of(column)) for column in columns]
        lines.append(markdown_row([markdown_text(line.field), title(line.metric), *cells]))
    others = {name: one.against for name, one in baselines.items()}
    if result.before is not None:
        others = {"before": result.before, **others}
    verdicts = [
        f"- {markdown_text(line.title)}: {markdown_text('; '.join(said))}"
        for line in shown
        if line.is_headline
        and (said := [one.sentence for other in others.values() if (one := line.against(other)) is not None])
    ]
    if verdicts:
        before = " (`before` is the base model)" if result.before is not None else ""
        lines += ["", f"This model on the same rows, compared row by row{before}:", "", *verdicts]
    lines += _label_tables(result, recipe, cleaned_counts)
    notes = [f"- {markdown_text(note)}" for note in result.top.notes]
    return [*lines, "", *notes] if notes else lines


def _decoding_text(result: EvaluationResult) -> str:
    if len(result.by_decoding) > 1:
        return "asked twice: with decoding that allows only replies of the form above (constrained), and freely"
    return {
        CONSTRAINED: "constrained decoding: only replies of the form above could be written",
        BEST: "best decoding: of all replies of the form above the likeliest was taken",
    }.get(result.top.decoding, "free decoding")


def _label_tables(
    result: EvaluationResult, recipe: Recipe, cleaned_counts: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """A table by label of each field with a list of them; labels of an open list are text of the rows, and stay away."""
    lines: list[str] = []
    for name, one in recipe.output.fields.items():
        scores = result.top.fields.get(name)
        if not isinstance(scores, LabelScores) or not one.closed_labels or len(one.closed_labels) > MAX_LABELS:
            continue
        counts = cleaned_counts.get(name)
        head = ["label", *(["rows after cleaning"] if counts else []), "test rows", "precision", "recall", "F1"]
        lines += ["", f"By label of {markdown_text(name)}:", "", markdown_row(head)]
        lines.append(markdown_row(["---", *["---:"] * (len(head) - 1)]))
        for label in one.closed_labels:
            score = scores.labels.get(label)
            if score is not None:
                figures = [f"{value:.3f}" for value in (score.precision, score.recall, score.f1)]
                trained_on = [f"{counts.get(label, 0):,}"] if counts else []
                lines.append(markdown_row([markdown_text(label), *trained_on, f"{score.support:,}", *figures]))
    return lines


def _estimate_text(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def verification_lines(verification: Verification) -> list[str]:
    """What `mlxtune verify` found, a line an artifact."""
    rows = {f"base + adapter, {name}": one for name, one in verification.adapter.items()}
    rows |= {one.name: one for one in verification.artifacts}
    titles = list(dict.fromkeys((metric.field, metric.name) for one in rows.values() for metric in one.metrics))
    head = ["artifact", "loaded by", "same replies", *(f"{name}, {title(metric)}" for name, metric in titles), "size"]
    lines = [
        f"The run's exports were asked {verification.rows:,} test rows each and compared with base model plus adapter "
        "(in brackets: the difference, paired by row, with its 95% interval).",
        "",
        markdown_row(list(map(markdown_text, head))),
        markdown_row(["---", "---", *["---:"] * (len(head) - 2)]),
    ]
    for name, one in rows.items():
        same = f"{one.agreement.value:.1%}" if one in verification.artifacts else ""
        metrics = {(metric.field, metric.name): metric for metric in one.metrics}
        cells = [_verified_text(metrics.get(place)) for place in titles]
        size = f"{one.n_bytes / 1e6:,.1f} MB"
        lines.append(markdown_row([markdown_text(name), markdown_text(one.loaded_by), same, *cells, size]))
    if verification.failed:
        lines += ["", f"Could not be made or loaded: {', '.join(map(markdown_text, verification.failed))}."]
    return lines


def _verified_text(metric: HeadlineMetric | None) -> str:
    if metric is None:
        return ""
    value, difference = f"{metric.estimate.value:.3f}", metric.difference
    if difference is None:
        return value
    ends = "" if difference.low is None else f": {difference.low:+.3f} to {difference.high:+.3f}"
    return f"{value} [{difference.difference:+.3f}{ends}]"
