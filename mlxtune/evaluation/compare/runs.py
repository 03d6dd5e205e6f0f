"""Several evaluated runs side by side: what was set, how they trained, every figure with what is and is not a real
difference to the first, and what each cost. Reads run folders; trains nothing, asks no model, prints nothing.

    runs = [open_evaluation(Path("runs/demo-intent/a")), open_evaluation(Path("runs/demo-intent/b"))]
    compare_runs(runs).figures[0].comparisons  # (None, {"difference": 0.03, ..., "mark": "no real difference"})

Rows are matched by their text and right values, so a test file that was copied or put into another order is the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.errors import DataError, RunError
from mlxtune.evaluation.compare.facts import Fact, cost_facts, differing_settings, training_facts
from mlxtune.evaluation.metrics.estimates import Means, mean_estimate
from mlxtune.evaluation.metrics.labels import label_figures, label_set_figures
from mlxtune.evaluation.metrics.paired import LEVEL, NO_DIRECTION, Comparison, compare_figures
from mlxtune.evaluation.metrics.text_overlap import rouge_rows
from mlxtune.evaluation.metrics.texts import bucket_figures
from mlxtune.evaluation.paired_predictions import compare, compare_replies
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions
from mlxtune.evaluation.run import score
from mlxtune.evaluation.stored import Evaluated, short_names
from mlxtune.recipe.sections import LabelField, LabelsField, Recipe, TextField

REPLY = "reply"  # what figures of whole replies stand under, where fields' stand under the field
OF_REPLIES = "repeated_rate"  # counted in every field, although it is of the whole reply
MARKS = ("better", "worse", "no real difference", "too few rows")
MAX_LABELS = 20  # whose recall is compared; of more, a table of them says nothing any more
# Parts of scores.json that hold figures of something else, or the same ones again.
NOT_FIGURES = (
    "baselines",
    "baseline_speed",
    "comparisons",
    "decodings",
    "limits",
    "speed",
    "data",
    "fields",
    "replies",
)
ESTIMATE = {"value", "low", "high"}
# What is not tested against the first run, by the first part of a figure's name: what a reader calls it, and why.
_OTHER_ROWS = ("figures of the rows with all labels right, or not", "these are other rows in each run")
UNTESTED = {
    "when_right": _OTHER_ROWS,
    "when_wrong": _OTHER_ROWS,
    "length_ratio": ("length ratio", "neither more nor less of it is better"),
    "bertscore": ("BERTScore", "predictions do not hold it row by row"),
    "judge": (
        "a judge's marks",
        "it may have marked other rows in each run; `mlxtune compare --judge` has it choose between replies",
    ),
    "consistency": ("agreement of samples", "predictions do not hold the samples"),
}
UNTESTED_OTHERWISE = ("other figures", "they need more than the predictions")


@dataclass(frozen=True)
class Figure:
    """One metric by run.

    Attributes:
        field: The field that it is of; REPLY for whole replies.
        name: As scores.json names it; nested ones joined with a dot, as when_right.rougeL.
        values: {"value", "low", "high"} by run; None where a run has none.
        comparisons: The difference to the first run by run, {"difference", "low", "high", "p_value", "sentence", "mark"};
            None for the first, and where the difference is not tested. The mark is None where neither more nor less is
            better.
        untested: Why no run's difference is tested; None where one is, or fewer than two runs have the figure.
    """

    field: str
    name: str
    values: tuple[Mapping[str, Any] | None, ...]
    comparisons: tuple[Mapping[str, Any] | None, ...]
    untested: str | None = None


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side; the first is what the others are compared with.

    Attributes:
        names: Short names of the runs, none twice.
        runs: Their folders; None where an evaluation lies outside of any.
        evaluations: Their evaluation folders.
        rows: Rows that all figures are over; None where nothing was evaluated.
        rows_evaluated: Rows that each run was evaluated on.
        settings: Those that differ.
        training: Steps, losses and what they say.
        figures: Every metric.
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
    figures: tuple[Figure, ...]
    cost: tuple[Fact, ...]
    notes: tuple[str, ...]

    @property
    def n_comparisons(self) -> int:
        """Differences that were tested."""
        return sum(one is not None and one["p_value"] is not None for line in self.figures for one in line.comparisons)

    def as_json(self) -> dict[str, Any]:
        """Everything, for --json."""
        content = asdict(self)
        for name in ("runs", "evaluations"):
            content[name] = [None if path is None else str(path) for path in content[name]]
        return {**content, "comparisons": self.n_comparisons, "level": LEVEL}


@dataclass(frozen=True)
class SameRows:
    """Predictions of the same rows by several evaluations.

    Attributes:
        recipe: Says what the fields are.
        parts: Of each scores.json the part in the decoding that is compared.
        predictions: By evaluation, numbered alike.
        whole: Whether these are all rows of all of them, which `parts` are the scores of.
        notes: What a reader should know of it.
    """

    recipe: Recipe
    parts: Sequence[Mapping[str, Any]]
    predictions: Sequence[Sequence[Prediction]]
    whole: bool
    notes: Sequence[str]


def compare_runs(
    evaluations: Sequence[Evaluated], intersection: bool = False, recipe: Recipe | None = None
) -> RunComparison:
    """Compare evaluations with the first of them.

    Args:
        evaluations: At least one, each of other predictions; where one has no scores, no figure of any is compared.
        intersection: Compare on the rows that all of them answered, where they answered different ones.
        recipe: Says what the fields are, for evaluations outside of a run; None is that of the first run.

    Raises:
        DataError: They answered other rows or other questions, or predictions are missing or damaged.
        RunError: Nothing says what the fields are.
    """
    names = short_names(evaluations)
    notes: list[str] = []
    figures: tuple[Figure, ...] = ()
    rows = None
    speeds: list[Mapping[str, Any]] = [{} for _ in evaluations]
    if all(one.scores is not None for one in evaluations):
        same = same_rows(evaluations, intersection, recipe)
        notes += same.notes
        speeds = [part.get("speed") or {} for part in same.parts]
        parts = same.parts if same.whole else [score(predictions, same.recipe) for predictions in same.predictions]
        rows = len(same.predictions[0])
        figures = tuple(map(_with_reason, _figures(names, parts, same.predictions, same.recipe)))
        notes += [*_on_measures(names, parts), *_on_untested(figures, names[0])]
    elif any(one.scores is not None for one in evaluations):
        missing = [name for name, one in zip(names, evaluations, strict=True) if one.scores is None]
        notes.append(f"not evaluated, so no figures are compared: {', '.join(missing)}")
    compared = RunComparison(
        names=tuple(names),
        runs=tuple(one.run.path if one.run else None for one in evaluations),
        evaluations=tuple(one.folder for one in evaluations),
        rows=rows,
        rows_evaluated=tuple(None if one.scores is None else one.scores["rows"] for one in evaluations),
        settings=tuple(differing_settings(evaluations)),
        training=tuple(training_facts(evaluations)),
        figures=figures,
        cost=tuple(cost_facts(evaluations, speeds)),
        notes=(),
    )
    return replace(compared, notes=(*notes, *_on_chance(compared.n_comparisons)))


def same_rows(evaluations: Sequence[Evaluated], intersection: bool = False, recipe: Recipe | None = None) -> SameRows:
    """What evaluations answered to the rows that all of them have; arguments and errors as for `compare_runs`."""
    known = recipe or next((one.recipe for one in evaluations if one.recipe is not None), None)
    if known is None:
        raise RunError(
            f"{evaluations[0].folder}: lies in no run folder, so nothing says what its fields are; add --recipe RECIPE"
        )
    _require_same_fields(evaluations, known)
    notes: list[str] = []
    parts = _in_one_decoding([one.scores or {} for one in evaluations], notes)
    answered = [
        read_predictions(one.folder / str(part.get("predictions", "predictions.jsonl")))
        for one, part in zip(evaluations, parts, strict=True)
    ]
    for one, predictions in zip(evaluations, answered, strict=True):
        _require_fields(one, predictions, known)
    taken, whole = _matched(evaluations, short_names(evaluations), answered, intersection, notes)
    return SameRows(known, parts, taken, whole, notes)


# Rows and questions ----------------------------------------------------------------------------------------------


def _require_same_fields(evaluations: Sequence[Evaluated], known: Recipe) -> None:
    """Refuse runs that answer other fields, or choose from other labels; the prompt may differ, that can be compared."""

    def asked(recipe: Recipe) -> dict[str, tuple[str, frozenset[str] | None]]:
        return {
            name: (field.kind, frozenset(labels) if (labels := getattr(field, "labels", None)) else None)
            for name, field in recipe.output.fields.items()
        }

    wanted = asked(known)
    for one in evaluations:
        got = wanted if one.recipe is None else asked(one.recipe)
        for name in [*wanted, *got]:
            if wanted.get(name) == got.get(name):
                continue
            if name not in got:
                said = f"has no output field {name!r}"
            elif name not in wanted:
                said = f"has an output field {name!r} that the first has not"
            elif wanted[name][0] != got[name][0]:
                said = f"output field {name!r} is of kind {got[name][0]}, the first one's of kind {wanted[name][0]}"
            else:
                mine, other = got[name][1] or frozenset(), wanted[name][1] or frozenset()
                unlike = ", ".join(map(repr, sorted(mine ^ other))) or "one list is open"
                said = f"output field {name!r} has other labels than the first one's ({unlike})"
            raise DataError(f"{one.title}: {said}; only runs that answer the same question can be compared")


def _require_fields(one: Evaluated, predictions: Sequence[Prediction], known: Recipe) -> None:
    if not predictions:
        raise DataError(f"{one.folder}: holds no predictions; evaluate it again with --force")
    if set(predictions[0].expected) != set(known.output.fields):
        fields, wanted = (", ".join(map(repr, names)) for names in (predictions[0].expected, known.output.fields))
        raise DataError(f"{one.title}: its predictions are of the fields {fields}, the recipe's are {wanted}")


def _in_one_decoding(scores: Sequence[Mapping[str, Any]], notes: list[str]) -> list[Mapping[str, Any]]:
    """Of each scores.json the part in a decoding that all have, the first one's own if they do; else their tops."""
    by_decoding = [{one["decoding"]: one for one in (*top.get("decodings", {}).values(), top)} for top in scores]
    tops = [top["decoding"] for top in scores]
    common = [name for name in dict.fromkeys(tops) if all(name in found for found in by_decoding)]
    common += [name for name in by_decoding[0] if all(name in found for found in by_decoding)]
    if not common:
        notes.append(f"the decoding differs: {', '.join(tops)}; what differs may be due to that alone")
        return list(scores)
    if len(set(tops)) > 1:
        notes.append(f"compared in {common[0]} decoding, which all of them have")
    return [found[common[0]] for found in by_decoding]


def _keys(predictions: Sequence[Prediction]) -> list[tuple[str, str, int]]:
    """What tells rows apart: text, right values, and which of equal ones it is."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for prediction in predictions:
        key = (prediction.input, json.dumps(prediction.expected, sort_keys=True, ensure_ascii=False))
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _matched(
    evaluations: Sequence[Evaluated],
    names: Sequence[str],
    answered: Sequence[Sequence[Prediction]],
    intersection: bool,
    notes: list[str],
) -> tuple[list[list[Prediction]], bool]:
    """The predictions of the same rows in the first one's order, numbered alike; and whether these are all rows of all."""
    by_key = [dict(zip(_keys(predictions), predictions, strict=True)) for predictions in answered]
    shared = [key for key in by_key[0] if all(key in found for found in by_key)]
    whole = all(len(found) == len(shared) for found in by_key)
    if not whole and not intersection:
        one = next(i for i, found in enumerate(by_key) if set(found) != set(by_key[0]))
        both = len(by_key[0].keys() & by_key[one].keys())
        there = f"; --intersection compares them on the {len(shared)} rows that all have" if shared else ""
        raise DataError(
            f"{evaluations[one].title}: was evaluated on other rows than {evaluations[0].title}: it answered "
            f"{len(by_key[one])}, that one {len(by_key[0])}, and {both} are in both{there}"
        )
    if not shared:
        raise DataError("they have no row in common, by text and right values; evaluate them on the same rows")
    if not whole:
        counted = ", ".join(f"{len(found)} of {name}" for name, found in zip(names, by_key, strict=True))
        notes.append(f"every figure is over the {len(shared)} rows that all have, of {counted}")
        notes.append("what needs more than the predictions (probabilities, samples, judges) is left out on such a part")
    elif intersection:
        notes.append(f"all were evaluated on the same {len(shared)} rows; --intersection leaves none out")
    # Comparing checks that rows are the same by number and text too: here they are, under one numbering.
    return [[replace(found[key], row=i) for i, key in enumerate(shared)] for found in by_key], whole


# Figures ---------------------------------------------------------------------------------------------------------


def _figures(
    names: Sequence[str],
    parts: Sequence[Mapping[str, Any]],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> Iterator[Figure]:
    """Every figure of every part of scores.json that has an interval, and its difference to the first run's."""
    against = [None, *(_compared(one, answered[0], recipe, names[0]) for one in answered[1:])]
    fields = [field for field in recipe.output.fields if any(field in part["fields"] for part in parts)]
    for field in (REPLY, *fields):
        found = [
            dict(_estimates(part["replies"] if field == REPLY else part["fields"].get(field, {}))) for part in parts
        ]
        for name in dict.fromkeys(name for one in found for name in one):
            if field != REPLY and name == OF_REPLIES:  # the same in every field, and there already
                continue
            tested = [None if one is None else one.get(field, {}).get(name) for one in against]
            marked = [_marked(one, name) for one in tested]
            yield Figure(field, name, tuple(one.get(name) for one in found), tuple(marked))
        if field != REPLY:
            labels = [part["fields"].get(field, {}).get("labels") or {} for part in parts]
            yield from _recalls(field, names, labels, answered, recipe)
    other = [
        dict(_estimates({name: value for name, value in part.items() if name not in NOT_FIGURES})) for part in parts
    ]
    for path in dict.fromkeys(path for one in other for path in one):
        field, name = _of_field(path, fields)
        yield Figure(field, name, tuple(one.get(path) for one in other), (None,) * len(parts))


def _of_field(path: str, fields: Sequence[str]) -> tuple[str, str]:
    """The field that a figure of judge.fields.response.accuracy is of, and its name without that: judge.accuracy."""
    field = next((field for field in fields if f".{field}." in path), None)
    if field is None:
        return REPLY, path
    before, after = path.split(f".{field}.", 1)
    return field, f"{before.removesuffix('.fields')}.{after}"


def _compared(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], recipe: Recipe, name: str
) -> dict[str, dict[str, Comparison]]:
    """Field -> figure -> comparison, REPLY -> figure -> comparison."""
    found = compare(ours, theirs, recipe, name)
    of_replies = [figures[OF_REPLIES] for figures in found.values() if OF_REPLIES in figures][:1]
    faults = compare_figures(_faults(ours), _faults(theirs), name, recipe.train.seed)
    replies = {**faults, **compare_replies(ours, theirs, recipe, name)}
    for field, section in recipe.output.fields.items():
        if isinstance(section, TextField):
            found[field] |= _compared_buckets(ours, theirs, field, name, recipe.train.seed)
        elif isinstance(section, LabelsField):
            found[field] |= _compared_by_count(ours, theirs, field, name, recipe.train.seed)
    return {**found, REPLY: {**dict(zip([OF_REPLIES], of_replies, strict=False)), **replies}}


def _faults(predictions: Sequence[Prediction]) -> Means:
    """What is wrong with whole replies, at each row: not valid, in a loop, cut."""
    flags = {
        "invalid_rate": [not one.valid for one in predictions],
        "loop_rate": [one.loop for one in predictions],
        "cut_rate": [one.stop == "length" for one in predictions],
    }
    return Means({name: np.array(of_rows, dtype=np.float64) for name, of_rows in flags.items()})


def _compared_buckets(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], field: str, name: str, seed: int
) -> dict[str, Comparison]:
    """The shares of rows in each bucket of ROUGE-L: a row is in it or not, which is tested like right or wrong."""
    expected = [str(one.expected[field]) for one in theirs]
    said: list[list[Any]] = [[one.predicted[field] for one in side] for side in (ours, theirs)]
    mine, other = (bucket_figures(rouge_rows(expected, texts)["rougeL"]) for texts in said)
    return compare_figures(mine, other, name, seed)


def _compared_by_count(
    ours: Sequence[Prediction], theirs: Sequence[Prediction], field: str, name: str, seed: int
) -> dict[str, Comparison]:
    """Exact match over the rows that expect equally many labels, which are the same rows on both sides."""
    expected = [tuple(one.expected[field] or ()) for one in theirs]
    sizes = np.array([len(set(labels)) for labels in expected])
    said: list[list[Any]] = [[one.predicted[field] for one in side] for side in (ours, theirs)]
    mine, other = (
        label_set_figures(expected, labels, [False] * len(labels), None).rows["exact_match"] for labels in said
    )
    return {
        f"by_count.{size}.exact_match": compare_figures(
            Means({"exact_match": mine[sizes == size]}), Means({"exact_match": other[sizes == size]}), name, seed
        )["exact_match"]
        for size in sorted(set(sizes.tolist()))
    }


def _recalls(
    field: str,
    names: Sequence[str],
    scores: Sequence[Mapping[str, Any]],
    answered: Sequence[Sequence[Prediction]],
    recipe: Recipe,
) -> Iterator[Figure]:
    """Of each label of a closed list, the share of the rows expecting it that were answered with it.

    Args:
        field: With labels.
        names: Of the runs.
        scores: Label -> its scores, by run; evaluations of earlier versions have no interval in them.
        answered: The predictions of each run.
        recipe: Whose label list and seed count.
    """
    section = recipe.output.fields[field]
    if isinstance(section, TextField) or not section.labels or len(section.labels) > MAX_LABELS:
        return
    single = isinstance(section, LabelField)

    def has(value: Any, label: str) -> bool:
        return bool(value == label if single else label in (value or ()))

    for label in section.labels:
        expecting = [i for i, one in enumerate(answered[0]) if has(one.expected[field], label)]
        if not expecting:
            continue
        said = [[has(predictions[i].predicted[field], label) for i in expecting] for predictions in answered]
        figures = [
            label_figures([label] * len(hits), [label if hit else None for hit in hits], [False] * len(hits), [label])
            for hits in said
        ]
        values = []
        for got, hits in zip((one.get(label) or {} for one in scores), said, strict=True):
            if interval := got.get("recall_interval"):
                values.append({"value": got["recall"], "low": interval[0], "high": interval[1]})
            else:
                values.append(asdict(mean_estimate(np.array(hits, dtype=float), recipe.train.seed)))
        compared = [
            compare_figures(one, figures[0], names[0], recipe.train.seed)["accuracy"] for one in figures[1:]
        ]  # the share that is right, of rows that all expect the label: its recall
        yield Figure(field, f"recall.{label}", tuple(values), (None, *(_marked(one) for one in compared)))


def _estimates(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every {"value", "low", "high"} in a part of scores.json by its dotted name; labels are left to `_recalls`."""
    for name, value in content.items():
        if not isinstance(value, Mapping) or (name == "labels" and not prefix):
            continue
        if value.keys() >= ESTIMATE:
            yield prefix + name, {key: value[key] for key in ("value", "low", "high")}
        else:
            yield from _estimates(value, f"{prefix}{name}.")


def _marked(one: Comparison | None, name: str = "") -> dict[str, Any] | None:
    """A comparison with its mark: the word that its sentence begins with, if the figure can be better or worse."""
    if one is None:
        return None
    marks = () if name in NO_DIRECTION else MARKS
    return {**asdict(one), "mark": next((mark for mark in marks if one.sentence.startswith(mark)), None)}


def _with_reason(figure: Figure) -> Figure:
    """A figure of several runs that is shown without a test says why."""
    if any(figure.comparisons) or sum(value is not None for value in figure.values) < 2:
        return figure
    return replace(figure, untested=_untested(figure)[1])


def _untested(figure: Figure) -> tuple[str, str]:
    return UNTESTED.get(figure.name.partition(".")[0], UNTESTED_OTHERWISE)


def _on_untested(figures: Sequence[Figure], first: str) -> list[str]:
    kinds = dict.fromkeys(_untested(figure) for figure in figures if figure.untested)
    if not kinds:
        return []
    said = "; ".join(f"{what} ({why.replace('; ', ', ')})" for what, why in kinds)
    return [f"shown without a test of the difference to {first}: {said}"]


def _on_measures(names: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Which runs were measured by another judge or encoder: their figures stand side by side and are of other scales."""
    judges: dict[str, list[str]] = {}
    encoders: dict[str, list[str]] = {}
    for name, part in zip(names, parts, strict=True):
        if judge := part.get("judge"):
            judges.setdefault(f"{judge.get('model')} (rubric {judge.get('rubric')})", []).append(name)
        for field in part["fields"].values():
            if signature := (field.get("signatures") or {}).get("bertscore"):
                encoders.setdefault(str(signature), []).append(name)
    for what, measured in (("a judge's marks", judges), ("BERTScore", encoders)):
        if len(measured) > 1:
            by = "; ".join(f"{', '.join(dict.fromkeys(of))} by {measure}" for measure, of in measured.items())
            yield f"{what} cannot be compared where they are not by the same one: {by}"


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
