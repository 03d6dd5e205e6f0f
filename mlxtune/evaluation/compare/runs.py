"""Several evaluated runs side by side: what was set, how they trained, every metric with what is and is not a real
difference to the first, and what each cost. Reads run folders; trains nothing, asks no model, prints nothing.

    runs = [open_evaluation(Path("runs/demo-intent/a")), open_evaluation(Path("runs/demo-intent/b"))]
    compare_runs(runs).metrics[0].comparisons[1].verdict  # 'no real difference'
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.evaluation.compare.facts import Fact, cost_facts, differing_settings, training_facts
from mlxtune.evaluation.compare.metrics import ComparableMetrics, ComparedMetric, comparable_metrics, untested_note
from mlxtune.evaluation.compare.rows import SameRows, same_rows
from mlxtune.evaluation.judge.ratings import Ratings
from mlxtune.evaluation.metrics.paired import LEVEL
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.results import DecodingResult, Speed
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import StoredEvaluation, short_names
from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; one of them, the baseline, is what the others are compared with.

    Attributes:
        names: Short names of the runs, none twice.
        runs: Their folders; None where an evaluation lies outside of any.
        evaluations: Their evaluation folders.
        rows: Rows that all metrics are over; None where nothing was evaluated.
        rows_evaluated: Rows that each run was evaluated on.
        settings: Those that differ.
        training: Steps, losses and what they say.
        metrics: Every metric.
        cost: Time, memory and size.
        notes: What a reader should know of it.
        baseline: Its place among the runs.
    """

    names: tuple[str, ...]
    runs: tuple[Path | None, ...]
    evaluations: tuple[Path, ...]
    rows: int | None
    rows_evaluated: tuple[int | None, ...]
    settings: tuple[Fact, ...]
    training: tuple[Fact, ...]
    metrics: tuple[ComparedMetric, ...]
    cost: tuple[Fact, ...]
    notes: tuple[str, ...]
    baseline: int = 0

    @property
    def n_comparisons(self) -> int:
        """Differences that were tested."""
        return sum(one is not None and one.p_value is not None for line in self.metrics for one in line.comparisons)

    def to_json(self) -> dict[str, Any]:
        """Everything, for --json."""

        def facts(of: Sequence[Fact]) -> list[dict[str, Any]]:
            return [asdict(fact) for fact in of]

        return {
            "names": list(self.names),
            "runs": [None if path is None else str(path) for path in self.runs],
            "evaluations": [str(path) for path in self.evaluations],
            "rows": self.rows,
            "rows_evaluated": list(self.rows_evaluated),
            "settings": facts(self.settings),
            "training": facts(self.training),
            "figures": [one.to_json() for one in self.metrics],
            "cost": facts(self.cost),
            "notes": list(self.notes),
            "comparisons": self.n_comparisons,
            "level": LEVEL,
        }


def compare_runs(
    evaluations: Sequence[StoredEvaluation], intersection: bool = False, recipe: Recipe | None = None
) -> RunComparison:
    """Compare evaluations with the first of them; arguments and errors as for `comparable_runs`."""
    return comparable_runs(evaluations, intersection, recipe).with_baseline(0)


@dataclass(frozen=True)
class ComparableRuns:
    """Runs that can be compared with any of them.

    Attributes:
        names: Short names of the runs, none twice.
        evaluations: The runs.
        same: Their predictions of the same rows; None where one was not evaluated.
        results: What is compared, by run: of all their rows, or of those that all have; empty where one was not evaluated.
        judges: Their ratings of these rows, by run.
        metrics: Theirs; None where one was not evaluated.
    """

    names: Sequence[str]
    evaluations: Sequence[StoredEvaluation]
    same: SameRows | None
    results: Sequence[DecodingResult]
    judges: Sequence[Ratings | None]
    metrics: ComparableMetrics | None

    def with_baseline(self, baseline: int) -> RunComparison:
        """The runs compared with one of them, which is named by its place."""
        names, evaluations, same = self.names, self.evaluations, self.same
        metrics = () if self.metrics is None else self.metrics.with_baseline(baseline)
        compared = RunComparison(
            names=tuple(names),
            runs=tuple(one.run.path if one.run else None for one in evaluations),
            evaluations=tuple(one.folder for one in evaluations),
            rows=None if same is None else len(same.predictions[0]),
            rows_evaluated=tuple(None if one.result is None else one.result.top.rows for one in evaluations),
            settings=tuple(differing_settings(evaluations)),
            training=tuple(training_facts(evaluations)),
            metrics=metrics,
            cost=tuple(cost_facts(evaluations, self.speeds)),
            notes=(),
            baseline=baseline,
        )
        notes = (*self._notes(), *untested_note(metrics, names[baseline]))
        notes = (*notes, *_on_conditions(names, evaluations), *_on_chance(compared.n_comparisons))
        return replace(compared, notes=notes)

    @property
    def speeds(self) -> list[Speed | None]:
        """Of the replies that are compared, by run."""
        return [None] * len(self.evaluations) if self.same is None else [one.speed for one in self.same.results]

    def _notes(self) -> Iterator[str]:
        """What a reader should know, whichever run is the baseline."""
        if self.same is not None:
            yield from self.same.notes
            yield from _on_measures(measures_of(self.names, self.results, self.judges))
        elif any(one.result is not None for one in self.evaluations):
            missing = [name for name, one in zip(self.names, self.evaluations, strict=True) if one.result is None]
            yield f"not evaluated, so no metrics are compared: {', '.join(missing)}"


def comparable_runs(
    evaluations: Sequence[StoredEvaluation],
    intersection: bool = False,
    recipe: Recipe | None = None,
    names: Sequence[str] | None = None,
) -> ComparableRuns:
    """Make evaluations ready to be compared.

    Args:
        evaluations: At least one, each of other predictions; where one has no scores, no metric of any is compared.
        intersection: Compare on the rows that all of them answered, where they answered different ones.
        recipe: Says what the fields are, for evaluations outside of a run; None is that of the first run.
        names: What they are called; None is by their folders.

    Raises:
        DataError: They answered other rows or other questions, or predictions are missing or damaged.
        RunError: Nothing says what the fields are.
    """
    names = short_names(evaluations) if names is None else names
    if any(one.result is None for one in evaluations):
        return ComparableRuns(names, evaluations, None, [], [], None)
    same = same_rows(evaluations, intersection, recipe)
    results, judges = same.results, [_ratings(*one) for one in zip(evaluations, same.results, strict=True)]
    if not same.whole:
        results, judges = [score(one, same.recipe) for one in same.predictions], [None] * len(evaluations)
    metrics = comparable_metrics(names, results, judges, same.predictions, same.recipe)
    return ComparableRuns(names, evaluations, same, results, judges, metrics)


def _ratings(one: StoredEvaluation, compared: DecodingResult) -> Ratings | None:
    """A judge's ratings of what is compared: a judge reads the replies of the decoding that counts."""
    return one.result.judge if one.result is not None and compared is one.result.top else None


@dataclass(frozen=True)
class Measures:
    """What runs were measured with, where metrics of different ones are of other scales: measure -> names of the runs."""

    judges: Mapping[str, Sequence[str]]
    encoders: Mapping[str, Sequence[str]]


def measures_of(names: Sequence[str], results: Sequence[DecodingResult], ratings: Sequence[Ratings | None]) -> Measures:
    """Which runs were measured by which judge and by which encoder; arguments by run."""
    judges: dict[str, list[str]] = {}
    encoders: dict[str, list[str]] = {}
    for name, result, judge in zip(names, results, ratings, strict=True):
        if judge is not None:
            judges.setdefault(f"{judge.model} (rubric {judge.rubric})", []).append(name)
        for scores in result.fields.values():
            if isinstance(scores, TextScores) and (signature := scores.signatures.get("bertscore")):
                of_signature = encoders.setdefault(signature, [])
                of_signature += [] if name in of_signature else [name]
    return Measures(judges, encoders)


def _on_measures(measures: Measures) -> Iterator[str]:
    """Which metrics stand side by side and are of other scales."""
    for what, measured in (("a judge's marks", measures.judges), ("BERTScore", measures.encoders)):
        if len(measured) > 1:
            by = "; ".join(f"{', '.join(of)} by {measure}" for measure, of in measured.items())
            yield f"{what} cannot be compared, because the runs used different models for it: {by}"


def _on_conditions(names: Sequence[str], evaluations: Sequence[StoredEvaluation]) -> list[str]:
    """How many of its recipe's conditions each run's own evaluation meets."""
    found = [() if one.result is None else one.result.expectations for one in evaluations]
    met = [
        f"{name} {sum(one.met for one in of_run)} of {len(of_run)}"
        for name, of_run in zip(names, found, strict=True)
        if of_run
    ]
    return [f"conditions of evaluate.expect met: {', '.join(met)}"] if met else []


def _on_chance(n_comparisons: int) -> list[str]:
    if not n_comparisons:
        return []
    expected = n_comparisons * LEVEL
    about = "fewer than one" if expected < 0.95 else f"about {expected:.0f}"
    counted = "1 comparison was" if n_comparisons == 1 else f"{n_comparisons} comparisons were"
    return [
        f"{counted} made, each at the {LEVEL:.0%} level: were there no difference anywhere, {about} of them would still "
        "seem real by chance"
    ]
