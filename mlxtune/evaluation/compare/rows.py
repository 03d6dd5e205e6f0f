"""The rows that several evaluations answered, matched: by their text and references, in a decoding that all of them have.

A test file that was copied or put into another order is the same rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlxtune.errors import DataError, RunError
from mlxtune.evaluation.predict.predictions import Prediction
from mlxtune.evaluation.results import DecodingResult, EvaluationResult
from mlxtune.evaluation.stored import StoredEvaluation, short_names, stored_predictions
from mlxtune.recipe.sections import Recipe


@dataclass(frozen=True)
class SameRows:
    """Predictions of the same rows by several evaluations.

    Attributes:
        recipe: Says what the fields are.
        results: Of each evaluation the result in the decoding that is compared.
        predictions: By evaluation, numbered alike.
        whole: Whether these are all rows of all of them, which `results` are of.
        notes: What a reader should know of it.
    """

    recipe: Recipe
    results: Sequence[DecodingResult]
    predictions: Sequence[Sequence[Prediction]]
    whole: bool
    notes: Sequence[str]


def same_rows(
    evaluations: Sequence[StoredEvaluation], intersection: bool = False, recipe: Recipe | None = None
) -> SameRows:
    """What evaluations answered to the rows that all of them have; arguments and errors as for `compare.runs.compare_runs`."""
    known = recipe or next((one.recipe for one in evaluations if one.recipe is not None), None)
    if known is None:
        raise RunError(
            f"{evaluations[0].folder}: is not in a run folder, so its output fields are unknown; add --recipe RECIPE"
        )
    _require_same_fields(evaluations, known)
    notes: list[str] = []
    results = _in_one_decoding([one.result for one in evaluations if one.result is not None], notes)
    answered = [stored_predictions(one.folder, result) for one, result in zip(evaluations, results, strict=True)]
    for one, predictions in zip(evaluations, answered, strict=True):
        _require_fields(one, predictions, known)
    taken, whole = _matched(evaluations, short_names(evaluations), answered, intersection, notes)
    return SameRows(known, results, taken, whole, notes)


def _require_same_fields(evaluations: Sequence[StoredEvaluation], known: Recipe) -> None:
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
                said = f"has an output field {name!r} that the first run does not have"
            elif wanted[name][0] != got[name][0]:
                said = f"output field {name!r} is of kind {got[name][0]}, in the first run of kind {wanted[name][0]}"
            else:
                mine, other = got[name][1] or frozenset(), wanted[name][1] or frozenset()
                unlike = ", ".join(map(repr, sorted(mine ^ other))) or "one of the two has no list of labels"
                said = f"output field {name!r} has other labels than in the first run ({unlike})"
            raise DataError(f"{one.title}: {said}; only runs that answer the same question can be compared")


def _require_fields(one: StoredEvaluation, predictions: Sequence[Prediction], known: Recipe) -> None:
    if not predictions:
        raise DataError(f"{one.folder}: holds no predictions; evaluate it again with --force")
    if set(predictions[0].expected) != set(known.output.fields):
        fields, wanted = (", ".join(map(repr, names)) for names in (predictions[0].expected, known.output.fields))
        raise DataError(f"{one.title}: its predictions have the fields {fields}, but the recipe has {wanted}")


def _in_one_decoding(evaluations: Sequence[EvaluationResult], notes: list[str]) -> list[DecodingResult]:
    """Of each evaluation the result in a decoding that all have, the first one's own if they do; else those that count."""
    by_decoding = [dict(reversed(one.by_decoding.items())) for one in evaluations]
    tops = [one.top.decoding for one in evaluations]
    common = [name for name in dict.fromkeys(tops) if all(name in found for found in by_decoding)]
    common += [name for name in by_decoding[0] if all(name in found for found in by_decoding)]
    if not common:
        notes.append(f"the decoding differs: {', '.join(tops)}; this alone may explain differences")
        return [one.top for one in evaluations]
    if len(set(tops)) > 1:
        notes.append(f"compared in {common[0]} decoding, which all of them have")
    return [found[common[0]] for found in by_decoding]


def _keys(predictions: Sequence[Prediction]) -> list[tuple[str, str, int]]:
    """What tells rows apart: text, references, and which of equal ones it is."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for prediction in predictions:
        key = (prediction.whole_input, json.dumps(prediction.expected, sort_keys=True, ensure_ascii=False))
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _matched(
    evaluations: Sequence[StoredEvaluation],
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
        there = f"; --intersection compares on the {len(shared)} rows that all runs have" if shared else ""
        raise DataError(
            f"{evaluations[one].title} was evaluated on {len(by_key[one])} rows and {evaluations[0].title} on "
            f"{len(by_key[0])}, of which {both} are the same{there}"
        )
    if not shared:
        raise DataError(
            "the runs have no row with the same text and references in common; evaluate them on the same rows"
        )
    if not whole:
        counted = ", ".join(f"{len(found)} of {name}" for name, found in zip(names, by_key, strict=True))
        notes.append(f"every metric is over the {len(shared)} rows that all runs have: {counted}")
        notes.append(
            "metrics that need more than the predictions (probabilities, samples, judges) are left out, as only some rows are compared"
        )
    elif intersection:
        notes.append(f"all runs were evaluated on the same {len(shared)} rows, so --intersection changes nothing")
    # Comparing checks that rows are the same by number and text too: here they are, under one numbering.
    return [[replace(found[key], row=i) for i, key in enumerate(shared)] for found in by_key], whole
