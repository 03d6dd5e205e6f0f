"""Predictions to a sheet that people rate, and the key that says what each line is. Reads and writes no ratings.

Cases are drawn by ROUGE-L bucket, in proportion, so that a hundred of them stand for the test rows and each bucket is
seen. The lines are shuffled and their ids say nothing: with several runs nobody can tell whose reply a line is. What
tells it, the key, lies in a file of its own and stays with whoever made the sheet.

    review = make_review([Path("runs/ticket/a"), Path("runs/ticket/b")], sample=100)
    write_review(review, default_folder(review.key.evaluations()))
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.data.field_forms import Value
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError, Misuse, RunError, did_you_mean
from mlxtune.evaluation.metrics.text_overlap import ROUGE_L_BUCKETS, bucket_of, rouge_rows
from mlxtune.evaluation.metrics.texts import TextScores
from mlxtune.evaluation.predict.predictions import Prediction, read_predictions, require_same_rows
from mlxtune.evaluation.review.sheet import MAX_CELL, Line, fingerprint, is_filled, sheet_text
from mlxtune.evaluation.stored import identity, lies_in_a_run, read_result
from mlxtune.files import heal, write_json, write_text
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import open_run
from mlxtune.runs.layout import PREDICTIONS_FILE, RECIPE_FILE, RUN_FILE, TUNED
from mlxtune.version import __version__

SHEET_FILE = "human_eval_template.csv"
KEY_FILE = "human_eval_template.key.json"
RESULT_FILE = "human_eval.json"
EMPTY_REPLY = "(empty reply)"
TAG_LETTERS = "bcdfghjkmnpqrstvwxz"  # no word and no month comes out, which a spreadsheet would take for a date


@dataclass(frozen=True)
class RatedReplies:
    """Replies that can be rated.

    Attributes:
        name: As the user called it.
        folder: The evaluation folder, with predictions.jsonl.
        run: The run folder around it, if it lies in one.
    """

    name: str
    folder: Path
    run: Path | None

    @property
    def predictions(self) -> Path:
        """Its file of predictions."""
        return self.folder / PREDICTIONS_FILE


@dataclass(frozen=True)
class Case:
    """What a line of the sheet is: whose reply to which row, and how near the reference it is."""

    run: int
    row: int
    bucket: str
    rouge_l: float
    texts: Mapping[str, str]


@dataclass(frozen=True)
class Key:
    """What tells the lines of a sheet apart.

    Attributes:
        tag: Begins every case id of the sheet.
        runs: {"run": as the user called it, "evaluation": its folder, "predictions": {"file", "sha256"}}, where the file is
            named from the key's folder.
        field: The text field that is rated; None is the whole reply.
        seed: Of the draw.
        rows: Test rows that it was drawn from.
        buckets: ROUGE-L bucket -> {"rows": test rows in it, "cases": those drawn}, by the mean over the runs.
        cases: Case id -> what it is.
    """

    tag: str
    runs: tuple[Mapping[str, Any], ...]
    field: str | None
    seed: int
    rows: int
    buckets: Mapping[str, Mapping[str, int]]
    cases: Mapping[str, Case]

    def fingerprints(self) -> dict[str, Mapping[str, str]]:
        """Case id -> column -> fingerprint of the text that was written."""
        return {name: case.texts for name, case in self.cases.items()}


@dataclass(frozen=True)
class Review:
    """A sheet to be written, and its key."""

    evaluations: tuple[RatedReplies, ...]
    lines: tuple[Line, ...]
    key: Key

    @property
    def n_cases(self) -> int:
        """Rows drawn; each has a line a run."""
        return len(self.lines) // len(self.evaluations)

    @property
    def n_long(self) -> int:
        """Texts longer than a cell of Excel holds."""
        return sum(len(text) > MAX_CELL for line in self.lines for text in line.texts().values())


def find_replies(path: Path) -> RatedReplies:
    """The replies that a path names: those of a run's tuned model, or an evaluation folder's own.

    Raises:
        RunError: There are none.
    """
    if path.is_file():
        raise RunError(f"{path}: expected a run folder, this is a file; filled sheets are read with --scores {path}")
    heal(path.parent, path.name)
    if not path.exists():
        raise RunError(f"{path}: no such run folder")
    if _holds_replies(path):
        return RatedReplies(str(path), path, path.parent.parent if lies_in_a_run(path) else None)
    if not (path / RUN_FILE).is_file() and read_result(path) is not None:
        raise RunError(f"{path}: its {PREDICTIONS_FILE} is missing; evaluate again")
    run = open_run(path)
    tuned = run.evaluation(TUNED)
    if not _holds_replies(tuned):
        others = sorted(str(file.parent) for file in tuned.parent.glob(f"*/{PREDICTIONS_FILE}"))
        advice = f"or name one of {', '.join(others)}" if others else "then review it"
        raise RunError(f"{path}: has no replies of the tuned model to rate; `mlxtune evaluate {path}` first, {advice}")
    return RatedReplies(str(path), tuned, run.path)


def find_all_replies(paths: Sequence[Path]) -> tuple[RatedReplies, ...]:
    """The replies that several paths name.

    Raises:
        Misuse: None, or one of them twice.
        RunError: One has no replies.
    """
    if not paths:
        raise Misuse("which run's replies? name a run folder: mlxtune review RUN")
    found = tuple(find_replies(path) for path in paths)
    for position, one in enumerate(found):
        twin = next((other for other in found[:position] if other.folder.resolve() == one.folder.resolve()), None)
        if twin is not None:
            raise Misuse(f"{one.name}: the same replies as {twin.name}; name each once")
    return found


def default_folder(evaluations: Sequence[RatedReplies]) -> Path:
    """Where a sheet lies unless the user says otherwise: with one run its evaluation, with several a folder beside the
    first one's evaluation that names the others.
    """
    first, *others = evaluations
    if not others:
        return first.folder
    names = {id(one): _short_name(one, first) for one in others}
    own = first.folder.absolute().name
    return first.folder.parent / f"{'' if own == TUNED else f'{own}-'}with-{'-'.join(sorted(names.values()))}"


def make_review(paths: Sequence[Path], sample: int = 100, seed: int = 0, field: str | None = None) -> Review:
    """Draw cases of runs' replies for people to rate.

    Args:
        paths: Run or evaluation folders; all must have answered the same rows.
        sample: Cases; all rows where there are fewer. With several runs each case has a line a run.
        seed: Of the draw and the order.
        field: The text field to rate; None is the only one there is, or the whole reply where there is none.

    Raises:
        Misuse: No path, one twice, or a field that the replies do not have.
        RunError: A path without replies.
        DataError: Predictions that cannot be read, or of different rows.
    """
    evaluations = find_all_replies(paths)
    answers = [read_predictions(one.predictions) for one in evaluations]
    if not answers[0]:
        raise DataError(f"{evaluations[0].predictions}: no predictions to rate")
    for one, predictions in zip(evaluations[1:], answers[1:], strict=True):
        require_same_rows(answers[0], predictions, one.name)
    recipe = _recipe(evaluations[0])
    field = _field(field, evaluations[0], recipe, answers[0][0])
    references = [_reference(prediction, field, recipe) for prediction in answers[0]]
    # A reply whose field cannot be read scores 0, as in scores.json.
    compared = [
        rouge_rows(references, [_reply(one, field) for one in predictions])["rougeL"] for predictions in answers
    ]
    buckets = [bucket_of(float(mean)) for mean in np.mean(compared, axis=0)]
    rows = draw(buckets, sample, seed)
    drawn = [(run, row) for row in rows for run in range(len(evaluations))]
    texts = [(answers[run][row].whole_input, references[row], _shown(answers[run][row], field)) for run, row in drawn]
    tag = _tag([seed, *(list(text) for text in texts)])
    order = np.random.default_rng([seed, 1]).permutation(len(drawn))
    width = len(str(len(drawn)))
    lines: list[Line] = []
    cases: dict[str, Case] = {}
    for number, position in enumerate(order.tolist(), start=1):
        run, row = drawn[position]
        shown, reference, reply = texts[position]
        line = Line(f"{tag}-{number:0{width}}", shown, reference, reply)
        rouge_l = float(compared[run][row])
        prints = {name: fingerprint(text) for name, text in line.texts().items()}
        lines.append(line)
        cases[line.case] = Case(run, answers[run][row].row, bucket_of(rouge_l), rouge_l, prints)
    there, taken = Counter(buckets), Counter(buckets[row] for row in rows)
    counted = {name: {"rows": there[name], "cases": taken[name]} for name in ROUGE_L_BUCKETS}
    runs = tuple(
        {"run": one.name, "evaluation": str(one.folder), "predictions": identity(one.predictions).to_json()}
        for one in evaluations
    )
    return Review(evaluations, tuple(lines), Key(tag, runs, field, seed, len(buckets), counted, cases))


def draw(buckets: Sequence[str], sample: int, seed: int) -> list[int]:
    """Rows drawn by bucket: in proportion, by largest remainder, and at least one of each bucket that has any.

    Args:
        buckets: Bucket of each row.
        sample: Rows to draw, at least 1; all where there are fewer. With fewer than buckets, the largest are drawn from.
        seed: Of the draw.

    Returns:
        Indices, ascending.

    >>> len(draw([">0.5"] * 98 + ["<0.3"] * 2, 10, 0)), max(draw([">0.5"] * 98 + ["<0.3"] * 2, 10, 0)) >= 98
    (10, True)
    """
    sizes = Counter(buckets)
    names = sorted(sizes, key=lambda name: (-sizes[name], name))
    sample = min(sample, len(buckets))
    wanted = {name: sizes[name] * sample / len(buckets) for name in names}
    shares = {name: max(int(wanted[name]), 1) for name in names[:sample]}
    while (missing := sample - sum(shares.values())) != 0:
        if missing > 0:
            shares[max(shares, key=lambda name: wanted[name] - shares[name])] += 1
        else:
            able = [name for name in shares if shares[name] > 1]
            shares[min(able, key=lambda name: wanted[name] - shares[name])] -= 1
    rng = np.random.default_rng(seed)
    drawn: list[int] = []
    for name in shares:
        rows = np.array([row for row, bucket in enumerate(buckets) if bucket == name])
        drawn += rng.choice(rows, size=shares[name], replace=False).tolist()
    return sorted(drawn)


def write_review(review: Review, folder: Path, force: bool = False) -> None:
    """Write the sheet and its key.

    Args:
        review: Of `make_review`.
        folder: Where to.
        force: Replace an existing sheet, if nobody has filled it in. Ratings are hours of somebody's work and a key
            that is replaced makes copies of its sheet worthless, so that a filled sheet or its result is never replaced.

    Raises:
        RunError: The folder holds a sheet.
    """
    sheet, key, result = (folder / name for name in (SHEET_FILE, KEY_FILE, RESULT_FILE))
    if result.exists():
        raise RunError(
            f"{folder}: holds {RESULT_FILE}, the result of filled sheets; choose another --out, or move it away"
        )
    if sheet.exists() and is_filled(sheet):
        raise RunError(
            f"{sheet}: is filled in, and is not replaced even with --force; choose another --out, or move it away"
        )
    if (sheet.exists() or key.exists()) and not force:
        there = sheet if sheet.exists() else key
        raise RunError(
            f"{there}: exists already, and filled copies of the old sheet cannot be read once it is replaced; "
            "choose another --out, or replace it with --force"
        )
    folder.mkdir(parents=True, exist_ok=True)
    sheet.unlink(missing_ok=True)  # never a sheet beside the key of another
    write_json(key, _key_record(review.key, folder))
    write_text(sheet, sheet_text(review.lines))


def read_key(file: Path) -> Key:
    """The key of a sheet.

    Raises:
        RunError: It cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        cases = {
            name: Case(int(one["run"]), int(one["row"]), str(one["bucket"]), float(one["rouge_l"]), dict(one["texts"]))
            for name, one in content["cases"].items()
        }
        runs = tuple(dict(run) for run in content["runs"])
        if not cases or not all(0 <= case.run < len(runs) and "run" in runs[case.run] for case in cases.values()):
            raise ValueError("a case names no run of the key")
        return Key(
            content["tag"],
            runs,
            content["field"],
            int(content["seed"]),
            int(content["rows"]),
            content["buckets"],
            cases,
        )
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{file}: not the key of a sheet, or damaged: {error!r}") from error


def find_key(paths: Sequence[Path], out: Path | None, sheets: Sequence[Path]) -> Path:
    """The key of filled sheets: in `out`, in the default place of the runs, or beside the sheets.

    Raises:
        RunError: There is none, or the one beside the sheets is of other runs.
    """
    if out is not None:
        if not (out / KEY_FILE).is_file():
            raise RunError(f"{out}: holds no {KEY_FILE}; --out names the folder that the sheet was written to")
        return out / KEY_FILE
    evaluations = find_all_replies(paths) if paths else ()
    places = [default_folder([one, *(other for other in evaluations if other is not one)]) for one in evaluations]
    beside = list(dict.fromkeys(sheet.parent for sheet in sheets))
    for place in (*places, *([] if places else beside)):
        if (place / KEY_FILE).is_file():
            return place / KEY_FILE
    for place in beside if places else ():
        if (place / KEY_FILE).is_file():
            wanted = {one.folder.resolve() for one in evaluations}
            if {Path(run["evaluation"]).resolve() for run in read_key(place / KEY_FILE).runs} != wanted:
                raise RunError(f"{place / KEY_FILE}: is the key of other runs than {', '.join(map(str, paths))}")
            return place / KEY_FILE
    looked = ", ".join(str(place) for place in dict.fromkeys([*places, *beside]))
    advice = (
        "name the folder that the sheet was written to with --out"
        if paths
        else "name the RUN, or that folder with --out"
    )
    raise RunError(f"no {KEY_FILE} in {looked}: without it the cases are unknown; {advice}")


def changed_predictions(key: Key, folder: Path) -> list[str]:
    """The runs whose predictions are no longer those that were rated. One whose predictions are gone is not one of them."""
    changed = []
    for run in key.runs:
        file = folder / str(run["predictions"]["file"])
        if file.is_file() and identity(file).sha256 != run["predictions"]["sha256"]:
            changed.append(str(run["run"]))
    return changed


# Details ---------------------------------------------------------------------------------------------------------


def _holds_replies(folder: Path) -> bool:
    """Whether the folder holds replies, or the key of replies that were rated: reading scores needs only the key."""
    return any((folder / name).is_file() for name in (PREDICTIONS_FILE, KEY_FILE))


def _key_record(key: Key, folder: Path) -> dict[str, Any]:
    """The key as its file holds it; predictions are named from its folder, so that both may move together."""
    runs = [
        {**run, "predictions": {**run["predictions"], "file": os.path.relpath(run["predictions"]["file"], folder)}}
        for run in key.runs
    ]
    about = {
        "sheet": SHEET_FILE,
        "mlxtune": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return {**about, **asdict(key), "runs": runs}


def _short_name(evaluation: RatedReplies, first: RatedReplies) -> str:
    """What a folder's name calls another evaluation: its run, then its own name unless that is the tuned model's."""
    own = evaluation.folder.absolute().name
    run = evaluation.run and evaluation.run.absolute()
    if run is None:
        return own
    if first.run is not None and run == first.run.absolute():
        return own
    name = run.name
    if first.run is not None and name == first.run.absolute().name:
        name = f"{run.parent.name}-{name}"
    return name if own == TUNED else f"{name}-{own}"


def _recipe(evaluation: RatedReplies) -> Recipe | None:
    """The recipe of the run around the replies; replies of another system have none."""
    if evaluation.run is None or not (evaluation.run / RECIPE_FILE).is_file():
        return None
    return load_recipe(evaluation.run / RECIPE_FILE)


def _field(asked: str | None, evaluation: RatedReplies, recipe: Recipe | None, first: Prediction) -> str | None:
    """The text field to rate; None is the whole reply."""
    if recipe is not None:
        texts = recipe.output.text_fields
    else:  # scores.json says which fields are text, by what they were scored with
        result = read_result(evaluation.folder)
        scored = {} if result is None else result.top.fields
        texts = [name for name, scores in scored.items() if isinstance(scores, TextScores)]
    texts = [name for name in texts if name in first.expected]
    if asked is not None:
        if asked not in texts:
            known = (
                f"the text fields are {', '.join(texts)}"
                if texts
                else "there is no text field; leave --field out to rate the whole reply"
            )
            raise Misuse(f"--field {asked}: not a text field of {evaluation.name}; {known}{did_you_mean(asked, texts)}")
        return asked
    if len(texts) > 1:
        raise Misuse(f"{evaluation.name} has several text fields; say which with --field: {', '.join(texts)}")
    return texts[0] if texts else None


def _reference(prediction: Prediction, field: str | None, recipe: Recipe | None) -> str:
    """What is expected: of a field, or as the whole reply would have been written."""
    if field is not None:
        return _text(prediction.expected[field])
    if recipe is not None:
        return ReplyTemplate(recipe.output).format(prediction.expected)[0]
    values = {name: _text(value) for name, value in prediction.expected.items()}
    return (
        next(iter(values.values()))
        if len(values) == 1
        else "\n".join(f"{name}: {value}" for name, value in values.items())
    )


def _reply(prediction: Prediction, field: str | None) -> str | None:
    """What was answered: the value of a field, None where the reply holds none; or the whole reply."""
    if field is None:
        return prediction.prediction
    value = prediction.predicted[field]
    return None if value is None else _text(value)


def _shown(prediction: Prediction, field: str | None) -> str:
    """What a rater sees: the reply, or all that was written where the field cannot be read in it, as its reader would."""
    reply = _reply(prediction, field)
    return (prediction.prediction if reply is None else reply).strip() or EMPTY_REPLY


def _text(value: Value) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _tag(content: Sequence[Any]) -> str:
    """Four letters that a sheet with other texts hardly shares."""
    number = int(hashlib.sha256(json.dumps(content).encode()).hexdigest(), 16)
    return "".join(TAG_LETTERS[number // len(TAG_LETTERS) ** place % len(TAG_LETTERS)] for place in range(4))
