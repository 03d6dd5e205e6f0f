"""Several evaluated runs side by side: what was set, how they trained, every metric with what is and is not a real
difference to the first, and what each cost. Reads run folders; trains nothing, asks no model, prints nothing.

    runs = [open_evaluation(Path("runs/demo-intent/a")), open_evaluation(Path("runs/demo-intent/b"))]
    compare_runs(runs).metrics[0].comparisons[1].verdict  # 'no real difference'
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.evaluation.compare.facts import Fact, cost_facts, differing_settings, training_facts
from mlxtune.evaluation.compare.metrics import ComparedMetric, compared_metrics, untested_note
from mlxtune.evaluation.compare.rows import same_rows
from mlxtune.evaluation.judge.ratings import Ratings
from mlxtune.evaluation.metrics.paired import LEVEL
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.results import DecodingResult, Speed
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import StoredEvaluation, short_names
from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; the first is what the others are compared with.

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
    """Compare evaluations with the first of them.

    Args:
        evaluations: At least one, each of other predictions; where one has no scores, no metric of any is compared.
        intersection: Compare on the rows that all of them answered, where they answered different ones.
        recipe: Says what the fields are, for evaluations outside of a run; None is that of the first run.

    Raises:
        DataError: They answered other rows or other questions, or predictions are missing or damaged.
        RunError: Nothing says what the fields are.
    """
    names = short_names(evaluations)
    notes: list[str] = []
    metrics: tuple[ComparedMetric, ...] = ()
    rows = None
    speeds: list[Speed | None] = [None] * len(evaluations)
    if all(one.result is not None for one in evaluations):
        same = same_rows(evaluations, intersection, recipe)
        notes += same.notes
        speeds = [result.speed for result in same.results]
        results, judges = same.results, [_ratings(*one) for one in zip(evaluations, same.results, strict=True)]
        if not same.whole:
            results, judges = [score(one, same.recipe) for one in same.predictions], [None] * len(evaluations)
        rows = len(same.predictions[0])
        metrics = compared_metrics(names, results, judges, same.predictions, same.recipe)
        notes += [*_on_measures(names, results, judges), *untested_note(metrics, names[0])]
    elif any(one.result is not None for one in evaluations):
        missing = [name for name, one in zip(names, evaluations, strict=True) if one.result is None]
        notes.append(f"not evaluated, so no metrics are compared: {', '.join(missing)}")
    compared = RunComparison(
        names=tuple(names),
        runs=tuple(one.run.path if one.run else None for one in evaluations),
        evaluations=tuple(one.folder for one in evaluations),
        rows=rows,
        rows_evaluated=tuple(None if one.result is None else one.result.top.rows for one in evaluations),
        settings=tuple(differing_settings(evaluations)),
        training=tuple(training_facts(evaluations)),
        metrics=metrics,
        cost=tuple(cost_facts(evaluations, speeds)),
        notes=(),
    )
    return replace(compared, notes=(*notes, *_on_conditions(names, evaluations), *_on_chance(compared.n_comparisons)))


def _ratings(one: StoredEvaluation, compared: DecodingResult) -> Ratings | None:
    """A judge's ratings of what is compared: a judge reads the replies of the decoding that counts."""
    return one.result.judge if one.result is not None and compared is one.result.top else None


def _on_measures(
    names: Sequence[str], results: Sequence[DecodingResult], ratings: Sequence[Ratings | None]
) -> Iterator[str]:
    """Which runs were measured by another judge or encoder: their metrics stand side by side and are of other scales."""
    judges: dict[str, list[str]] = {}
    encoders: dict[str, list[str]] = {}
    for name, result, judge in zip(names, results, ratings, strict=True):
        if judge is not None:
            judges.setdefault(f"{judge.model} (rubric {judge.rubric})", []).append(name)
        for scores in result.fields.values():
            if isinstance(scores, TextScores) and (signature := scores.signatures.get("bertscore")):
                encoders.setdefault(signature, []).append(name)
    for what, measured in (("a judge's marks", judges), ("BERTScore", encoders)):
        if len(measured) > 1:
            by = "; ".join(f"{', '.join(dict.fromkeys(of))} by {measure}" for measure, of in measured.items())
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
