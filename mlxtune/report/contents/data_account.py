"""What a run's rows were, as `mlxtune data` shows them: figures without the rows themselves. Kept in the run folder, so that a report
still has them when the files are gone.

    account = data_account(run, recipe, facts)
    account.splits["train"].labels["intents"]["payment"]  # 240
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mlxtune.data.reading import rows_files, rows_hash
from mlxtune.data.report import DataReport, read_splits, report_data
from mlxtune.errors import MlxtuneError, RunError
from mlxtune.files import write_json
from mlxtune.json_values import JsonError, read_dataclass, required, typed
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.report.contents.facts import RunFacts
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import DATA_FILE

log = logging.getLogger(__name__)

FORMAT = 1  # raise it when data.json says something else than before
MANY_ROWS = 5_000  # are looked at for seconds, which a user is told
SPLITS = ("train", "valid", "test")

# Why a split is not accounted for: its file is gone; it is not the one that was trained with or tested on; it cannot be
# read; or the base model's tokenizer, which counts tokens, is gone.
Missing = Literal["gone", "changed", "unreadable", "no_tokenizer"]


@dataclass(frozen=True)
class LengthAccount:
    """Token counts over rows."""

    median: float
    p95: float
    max: float


@dataclass(frozen=True)
class CleaningAccount:
    """Rows that cleaning removed, by why."""

    duplicates: int
    near_duplicates: int
    low_quality: int
    low_quality_reasons: Mapping[str, int]


@dataclass(frozen=True)
class AugmentAccount:
    """Rows that a model rewrote of those with one value of a field."""

    field: str
    value: str
    model: str
    rows_before: int
    wanted: int
    made: int


@dataclass(frozen=True)
class BalanceAccount:
    """What balancing did: label, or set of labels -> rows before and after; the rarest / the most frequent; rows in all."""

    before: Mapping[str, int]
    after: Mapping[str, int]
    ratio_before: float
    ratio_reached: float
    rows_before: int
    rows_after: int
    left_out: int
    most_repeats: int


@dataclass(frozen=True)
class LabelWeight:
    """Rows of a label, and its weight in the loss."""

    count: int
    weight: float


@dataclass(frozen=True)
class ClassWeightAccount:
    """Class weights of a field."""

    balanced: bool
    loss_weight: float
    labels: Mapping[str, LabelWeight]


@dataclass(frozen=True)
class SeveralAccount:
    """Share of rows with several labels: of those read, and of those used."""

    before: float
    after: float


@dataclass(frozen=True)
class PairAccount:
    """Rows in which two labels stand together."""

    labels: tuple[str, ...]
    rows: int


@dataclass(frozen=True)
class SplitAccount:
    """One split; what each figure counts, `SplitReport` says.

    Attributes:
        duplicates: Found with all cleaning switched on, removed or not; likewise the two that follow.
        removed: What the recipe's cleaning removed; None where it does not clean this split.
        rows: That are trained on, validated with or tested on.
    """

    file: str
    read: int
    duplicates: int
    near_duplicates: int
    low_quality: int
    low_quality_reasons: Mapping[str, int]
    removed: CleaningAccount | None
    kept: int
    unusable: int
    too_long: int
    held_out: int
    augment: AugmentAccount | None
    synthetic: int
    balance: BalanceAccount | None
    class_weights: Mapping[str, ClassWeightAccount]
    rows: int
    tokens: LengthAccount
    reply_tokens: LengthAccount
    several_labels: Mapping[str, SeveralAccount]
    labels: Mapping[str, Mapping[str, int]]
    label_sets: Mapping[str, Mapping[str, int]]
    cooccurrence: Mapping[str, Sequence[PairAccount]]


@dataclass(frozen=True)
class PlaceAccount:
    """Where a row stands; the split is None where that is known already."""

    file: str
    line: int
    split: str | None = None


@dataclass(frozen=True)
class LeakAccount:
    """A row of a split that stands in an earlier one."""

    split: str
    file: str
    line: int
    other: PlaceAccount
    exact: bool
    similarity: float
    same_labels: bool
    text: str
    other_text: str


@dataclass(frozen=True)
class ConflictAccount:
    """Two rows of one split with the same text, or nearly, under different labels."""

    split: str
    file: str
    line: int
    other: PlaceAccount
    exact: bool
    labels: str
    other_labels: str
    text: str
    other_text: str


@dataclass(frozen=True)
class UnseenAccount:
    """A label without a training row; the split that has it, None where only the recipe lists it."""

    field: str
    label: str
    split: str | None
    rows: int
    file: str | None
    line: int | None


@dataclass(frozen=True)
class CollisionAccount:
    """Labels of a field that begin with the same token."""

    field: str
    where: str
    token: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class DataAccount:
    """A run's data.

    Attributes:
        splits: Name -> split, those that are accounted for.
        leaks: Exact ones first.
        conflicts: Exact ones first.
        unseen_labels: Labels without a training row.
        first_token_collisions: Labels that begin alike.
        missing: Split -> why it is not among `splits`.
    """

    splits: Mapping[str, SplitAccount] = field(default_factory=dict)
    leaks: Sequence[LeakAccount] = ()
    conflicts: Sequence[ConflictAccount] = ()
    unseen_labels: Sequence[UnseenAccount] = ()
    first_token_collisions: Sequence[CollisionAccount] = ()
    missing: Mapping[str, Missing] = field(default_factory=dict)


def account_of(report: DataReport, missing: Mapping[str, Missing] = {}) -> DataAccount:
    """The figures of a report on data.

    Args:
        report: Of the splits that are there.
        missing: The others.
    """
    return read_dataclass(DataAccount, {**report.as_json(), "missing": dict(missing)})


def data_account(run: RunFolder, recipe: Recipe, facts: RunFacts, test_sha256: str | None = None) -> DataAccount:
    """What a run's rows were: as kept in its folder, or else computed from the recipe's files and kept.

    Args:
        run: The run.
        recipe: Its recipe.
        facts: Its run.json: which rows it was trained with.
        test_sha256: Of the test rows that it was evaluated on; None accepts the file as it is.

    Raises:
        RunError: What is kept is corrupt.
    """
    trained = {split: one.sha256 for split, one in facts.data.items()}
    wanted = {**trained, "test": test_sha256}
    kept = _kept(run)
    if kept is not None and all(kept.sha256.get(split) == one for split, one in wanted.items() if one is not None):
        return kept.account
    present, missing = _files(recipe, wanted)
    if kept is not None and kept.sha256 == present:  # and what else is wanted is still not there
        return kept.account
    tokenizer_folder = Path(facts.base.folder or "")
    if facts.base.folder is None or not tokenizer_folder.is_dir():
        missing |= dict.fromkeys(present, "no_tokenizer")
    elif "train" in present:
        try:
            account = _computed(recipe, present, missing, tokenizer_folder)
        except (MlxtuneError, OSError) as error:
            log.info("the report goes without an account of the data: %s", error)
            missing |= dict.fromkeys(present, "unreadable")
        else:
            _keep(run, _Kept(FORMAT, present, account))
            return account
    return DataAccount(missing=missing)


def _files(recipe: Recipe, wanted: Mapping[str, str | None]) -> tuple[dict[str, str], dict[str, Missing]]:
    """Split -> SHA-256 of the files that are those that were used, and why the others are not."""
    present: dict[str, str] = {}
    missing: dict[str, Missing] = {}
    for split in SPLITS:
        if not rows_files(recipe, split):
            continue
        try:
            found = rows_hash(recipe, split)
        except FileNotFoundError:
            missing[split] = "gone"
        except (MlxtuneError, OSError):
            missing[split] = "unreadable"
        else:
            if wanted.get(split) in (None, found):
                present[split] = found
            else:
                missing[split] = "changed"
    return present, missing


def _computed(
    recipe: Recipe, present: Mapping[str, str], missing: Mapping[str, Missing], tokenizer_folder: Path
) -> DataAccount:
    """The account of the files that are there, as training would use them; no server is asked to rewrite rows."""
    paths = {split: getattr(recipe.data, split) if split in present else None for split in SPLITS}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=paths)})
    read = read_splits(recipe)
    n_rows = sum(map(len, read.values()))
    if n_rows > MANY_ROWS:
        log.info("looking at %s rows for the report; this happens once", f"{n_rows:,}")
    return account_of(report_data(recipe, read, load_tokenizer(tokenizer_folder), ask=False), missing)


# Kept --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """data.json: its format, SHA-256 by split of what was looked at, and the account."""

    format: int
    sha256: Mapping[str, str]
    account: DataAccount


def _kept(run: RunFolder) -> _Kept | None:
    """What data.json says; None where there is none, or one of another format."""
    file = run.path / DATA_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return read_dataclass(_Kept, content) if required(content, "format", typed(int)) == FORMAT else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = f"not an account of data: {error}" if isinstance(error, JsonError) else f"cannot be read: {error}"
        raise RunError(f"{file}: {problem}; delete it, and it is made again") from error


def _keep(run: RunFolder, kept: _Kept) -> None:
    """Write data.json; a report is made all the same where that cannot be done."""
    try:
        write_json(run.path / DATA_FILE, asdict(kept))
    except OSError as error:
        log.info("%s: the account of the data cannot be kept: %s", run, error.strerror or error)
