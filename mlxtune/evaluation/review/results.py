"""Filled sheets and their key to a human evaluation: what raters said of each run. Reads no model and no predictions.

The unit is the case: its ratings by several raters are averaged first, so that a case that more people rated counts no
more than another, and every interval is over cases. Agreement is between raters, on the same line of the sheet.

    summarise(key, sheets).runs[0].dimensions["tone"].mean  # Estimate(value=4.2, low=4.0, high=4.4)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlxtune.errors import DataError, RunError
from mlxtune.evaluation.metrics.agreement import alpha, correlate, draws_of, exact_agreement, mean_rating
from mlxtune.evaluation.metrics.estimates import Floats
from mlxtune.evaluation.metrics.paired import Comparison, bootstrap_p, with_verdict
from mlxtune.evaluation.metrics.text_overlap import ROUGE_L_BUCKETS
from mlxtune.evaluation.review.draw import RESULT_FILE, Key
from mlxtune.evaluation.review.human_evaluation import (
    RATING,
    Comment,
    DimensionDifference,
    DimensionScores,
    HumanEvaluation,
    LowLine,
    MeanScore,
    RatedLine,
    RatedRun,
    Rater,
    RaterAgreement,
    RunDifference,
    Sample,
)
from mlxtune.evaluation.review.sheet import DIMENSIONS, HIGHEST, LOWEST, Sheet
from mlxtune.files import write_json

BOUNDS = (float(LOWEST), float(HIGHEST))
LOW_SCORE = 3  # of a line worth reading: its overall mean is below this
N_LOWEST = 10


def summarise(key: Key, sheets: Sequence[Sheet]) -> HumanEvaluation:
    """What the raters said.

    Args:
        key: Of the sheet.
        sheets: One a rater; those without a score are left out.

    Raises:
        DataError: No sheet holds a score.
    """
    sheets = [sheet for sheet in sheets if sheet.n_scores]
    if not sheets:
        raise DataError("no score in any of the sheets; fill in the columns " + ", ".join(DIMENSIONS))
    names = list(key.cases)
    place = {name: position for position, name in enumerate(names)}
    ratings: Floats = np.full((len(DIMENSIONS), len(sheets), len(names)), np.nan)
    for rater, sheet in enumerate(sheets):
        for rating in sheet.ratings:
            for dimension, score in rating.scores.items():
                ratings[DIMENSIONS.index(dimension), rater, place[rating.case]] = score
    run_of = np.array([case.run for case in key.cases.values()])
    row_of = np.array([case.row for case in key.cases.values()])
    means = _means(ratings, axis=1)  # (dimensions, lines)
    return HumanEvaluation(
        tag=key.tag,
        field=key.field,
        read=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        cases=len(np.unique(row_of)),
        rated=len(np.unique(row_of[~np.isnan(ratings).all((0, 1))])),
        scores=int((~np.isnan(ratings)).sum()),
        sample=Sample(key.rows, key.seed, key.buckets),
        raters=[_rater(sheet, ratings[:, rater]) for rater, sheet in enumerate(sheets)],
        runs=[
            _run(key, ratings[:, :, run_of == number], means[:, run_of == number], number)
            for number in range(len(key.runs))
        ],
        agreement=None if len(sheets) < 2 else _agreement(ratings, row_of, key.seed),
        differences=_differences(key, ratings, run_of, row_of),
        lowest=_lowest(key, means[DIMENSIONS.index("overall")], names),
        comments=[
            Comment(_line(key, rating.case), sheet.rater, rating.comment)
            for sheet in sheets
            for rating in sheet.ratings
            if rating.comment
        ],
    )


def paired_difference(values: Floats, reach: float, name: str, seed: int = 0) -> Comparison | None:
    """The mean of one difference a case, and whether it is a real one; None of no case.

    Args:
        values: Ours less theirs, (cases,).
        reach: The largest difference there can be.
        name: What theirs is called.
        seed: Of the resampling.
    """
    estimate = mean_rating(values, (-reach, reach), seed)
    if estimate is None:
        return None
    if estimate.low is None or estimate.high is None:
        return Comparison(estimate.value, None, None, None, "too few cases", name)
    drawn = draws_of(lambda draws: (draws.astype(np.float64) @ values) / draws.sum(1), len(values), seed)
    p_value = bootstrap_p(drawn, len(values))
    found = with_verdict(RATING, estimate.value, estimate.low, estimate.high, p_value, name)
    return replace(found, verdict="too few cases", mark=None) if found.verdict == "too few rows" else found


def write_result(result: HumanEvaluation, folder: Path, force: bool = False) -> Path:
    """Write human_eval.json beside the key.

    Args:
        result: Of `summarise`.
        folder: The key's.
        force: Replace a result that was made of more raters' sheets. One whose raters are all in this one is replaced anyway:
            that is how a sheet that arrives late is added.

    Raises:
        RunError: The existing result has raters that are missing now, or cannot be read.
    """
    file = folder / RESULT_FILE
    if file.exists() and not force:
        try:
            before = [str(rater["name"]) for rater in json.loads(file.read_text(encoding="utf-8"))["raters"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}: cannot be read; --force replaces it") from error
        now = {rater.name for rater in result.raters}
        missing = [name for name in before if name not in now]
        if missing:
            raise RunError(
                f"{file}: was made with the sheets of {', '.join(missing)} too; give all sheets at once, or --force to replace it"
            )
    write_json(file, result.to_json())
    return file


# Parts of the result ---------------------------------------------------------------------------------------------


def _rater(sheet: Sheet, ratings: Floats) -> Rater:
    means = {
        name: float(np.nanmean(ratings[i])) if not np.isnan(ratings[i]).all() else None
        for i, name in enumerate(DIMENSIONS)
    }
    n_cases = int((~np.isnan(ratings)).any(0).sum())
    return Rater(sheet.rater, str(sheet.path), sheet.sha256, n_cases, sheet.n_scores, means)


def _run(key: Key, ratings: Floats, means: Floats, number: int) -> RatedRun:
    """One run's lines, of which there is one a case: (dimensions, raters, lines) and (dimensions, lines)."""
    cases = [case for case in key.cases.values() if case.run == number]
    rouge_l = np.array([case.rouge_l for case in cases])
    bucket_of_line = np.array([case.bucket for case in cases])
    dimensions, rouge = {}, {}
    for i, name in enumerate(DIMENSIONS):
        mean, rated = _mean(means[i], key.seed), ~np.isnan(means[i])
        counts = {str(score): int((ratings[i] == score).sum()) for score in range(LOWEST, HIGHEST + 1)}
        dimensions[name] = DimensionScores(mean.mean, mean.cases, int((~np.isnan(ratings[i])).sum()), counts)
        rouge[name] = correlate(means[i][rated], rouge_l[rated], seed=key.seed)
    buckets = {
        bucket: {name: _mean(means[i, bucket_of_line == bucket], key.seed) for i, name in enumerate(DIMENSIONS)}
        for bucket in ROUGE_L_BUCKETS
        if (bucket_of_line == bucket).any()
    }
    return RatedRun(key.runs[number], dimensions, buckets, rouge)


def _mean(per_case: Floats, seed: int) -> MeanScore:
    rated = per_case[~np.isnan(per_case)]
    return MeanScore(mean_rating(rated, BOUNDS, seed), len(rated))


def _agreement(ratings: Floats, row_of: NDArray[np.int_], seed: int) -> dict[str, RaterAgreement]:
    return {
        name: RaterAgreement(
            int(((~np.isnan(ratings[i])).sum(0) > 1).sum()),
            alpha(ratings[i], "ordinal", row_of, seed),
            alpha(ratings[i], "interval", row_of, seed),
            exact_agreement(ratings[i], row_of, seed),
        )
        for i, name in enumerate(DIMENSIONS)
    }


def _differences(key: Key, ratings: Floats, run_of: NDArray[np.int_], row_of: NDArray[np.int_]) -> list[RunDifference]:
    """Each later run less the first.

    A rater's two scores of one case are subtracted first, so that a severe rater counts against no run; then a case's
    differences are averaged over raters.
    """

    def ordered(number: int) -> Floats:
        """A run's ratings in the order of the rows, (dimensions, raters, cases): each run has a line for every case."""
        lines = np.flatnonzero(run_of == number)
        return ratings[:, :, lines[np.argsort(row_of[lines])]]

    first, found = ordered(0), []
    for number, run in enumerate(key.runs[1:], start=1):
        apart = _means(ordered(number) - first, axis=1)  # (dimensions, cases)
        dimensions = {}
        for i, name in enumerate(DIMENSIONS):
            both = apart[i][~np.isnan(apart[i])]
            compared = paired_difference(both, HIGHEST - LOWEST, str(key.runs[0]["run"]), key.seed)
            dimensions[name] = DimensionDifference(len(both), compared)
        found.append(RunDifference(run["run"], key.runs[0]["run"], dimensions))
    return found


def _lowest(key: Key, overall: Floats, names: Sequence[str]) -> list[LowLine]:
    """The lines that raters liked least, the worst first."""
    rated = [i for i in np.argsort(overall, kind="stable").tolist() if overall[i] < LOW_SCORE]
    return [LowLine(_line(key, names[i]), float(overall[i])) for i in rated[:N_LOWEST]]


def _line(key: Key, name: str) -> RatedLine:
    case = key.cases[name]
    return RatedLine(name, key.runs[case.run]["run"], case.row, case.rouge_l, case.bucket)


def _means(ratings: Floats, axis: int) -> Floats:
    """Means over what is not NaN; NaN where nothing is."""
    given = ~np.isnan(ratings)
    n = given.sum(axis)
    total = np.where(given, ratings, 0.0).sum(axis)
    means: Floats = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return means
