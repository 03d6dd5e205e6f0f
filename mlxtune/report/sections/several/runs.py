"""Several runs as every section about them sees them: their names, which of them were evaluated, and how these compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mlxtune.evaluation.compare.facts import Fact, cost_facts, differing_settings, training_facts
from mlxtune.evaluation.compare.metrics import ComparedMetric
from mlxtune.evaluation.compare.runs import ComparableRuns, comparable_runs
from mlxtune.evaluation.metrics.estimates import Estimate
from mlxtune.evaluation.metrics.metric import REPLY
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.registry import metric
from mlxtune.evaluation.results import Speed
from mlxtune.evaluation.stored import short_names
from mlxtune.report.contents.run import RunContents
from mlxtune.report.sections.metric_lines import WHOLE_REPLY, MetricLine, metric_lines

MAX_DRAWN = 6  # runs in a chart: as many as it has colours


@dataclass(frozen=True)
class LineOfRuns:
    """A metric that is shown where there is little room, of each evaluated run.

    Attributes:
        line: Which.
        values: By evaluated run; None where a run has none.
    """

    line: MetricLine
    values: Sequence[Estimate | None]

    @property
    def ranking(self) -> list[int]:
        """Places among the evaluated runs, the best first; those without a value are left out."""
        known = [(one.value, place) for place, one in enumerate(self.values) if one is not None]
        sign = 1 if metric(self.line.metric).direction == "lower" else -1
        return [place for value, place in sorted(known, key=lambda pair: (sign * pair[0], pair[1]))]

    @property
    def is_level(self) -> bool:
        """Whether every run has the same value."""
        return len({None if one is None else one.value for one in self.values}) == 1


@dataclass(frozen=True)
class SeveralRuns:
    """Runs of one report.

    Attributes:
        contents: The runs, two or more.
        names: What they are called, none twice.
        evaluated: Places of those that were evaluated.
        compared: These, ready to be compared with one another; None where none was.
    """

    contents: Sequence[RunContents]
    names: Sequence[str]
    evaluated: Sequence[int]
    compared: ComparableRuns | None

    @property
    def evaluated_names(self) -> list[str]:
        """Names of those that were evaluated."""
        return [self.names[place] for place in self.evaluated]

    @cached_property
    def lines(self) -> list[LineOfRuns]:
        """The metrics that are shown where there is little room; none where fewer than one run was evaluated."""
        if self.compared is None:
            return []
        result = self.contents[self.evaluated[0]].tuned
        assert result is not None
        found = {_name(one): one.values for one in self.metrics(0)}
        return [LineOfRuns(line, found[key]) for line in metric_lines(result.result) if (key := _key(line)) in found]

    @property
    def headlines(self) -> list[LineOfRuns]:
        """Those of the lines by which a run is called better or worse."""
        return [one for one in self.lines if one.line.is_headline]

    def metrics(self, baseline: int) -> tuple[ComparedMetric, ...]:
        """Every metric, compared with an evaluated run's, which is named by its place among these."""
        return (
            ()
            if self.compared is None or self.compared.metrics is None
            else self.compared.metrics.with_baseline(baseline)
        )

    def comparisons(self, line: MetricLine, baseline: int) -> Sequence[Comparison | None]:
        """Differences of a metric to an evaluated run's, by evaluated run."""
        return next(one.comparisons for one in self.metrics(baseline) if _name(one) == _key(line))

    @cached_property
    def settings(self) -> list[Fact]:
        """What was set differently, by run."""
        return list(differing_settings([one.stored for one in self.contents]))

    @cached_property
    def training(self) -> list[Fact]:
        """Steps and losses, by run."""
        return list(training_facts([one.stored for one in self.contents]))

    @cached_property
    def cost(self) -> list[Fact]:
        """Time, memory and size, by run."""
        speeds: list[Speed | None] = [None] * len(self.contents)
        if self.compared is not None:
            for place, speed in zip(self.evaluated, self.compared.speeds, strict=True):
                speeds[place] = speed
        return list(cost_facts([one.stored for one in self.contents], speeds))


def several_runs(contents: Sequence[RunContents], intersection: bool = False) -> SeveralRuns:
    """Runs to be shown together.

    Args:
        contents: Two or more.
        intersection: Compare metrics on the rows that all were evaluated on, where these differ.

    Raises:
        DataError: They were evaluated on other rows, or answer other fields.
    """
    stored = [one.stored for one in contents]
    names = short_names(stored)
    evaluated = [place for place, one in enumerate(stored) if one.result is not None]
    compared = None
    if evaluated:
        compared = comparable_runs([stored[i] for i in evaluated], intersection, names=[names[i] for i in evaluated])
    return SeveralRuns(contents, names, evaluated, compared)


def _key(line: MetricLine) -> tuple[str, str]:
    return REPLY if line.field == WHOLE_REPLY else line.field, line.metric


def _name(one: ComparedMetric) -> tuple[str, str]:
    return one.field, one.name
