"""What a recipe's data is, found before anything is trained: rows, labels, lengths, duplicates, leaks, conflicts.

Nothing is judged by hand here: cleaning, splitting, augmenting and balancing are what training itself does
(`prepare.py`), and a row that training or evaluation would refuse is a finding instead of an error, so that one run names all of them.

    report = report_data(recipe, read_splits(recipe), tokenizer)
    report.as_json()["splits"]["train"]["kept"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.data.augment import Augmented
from mlxtune.data.balance import Balanced
from mlxtune.data.class_weights import ClassWeights
from mlxtune.data.cleaning import Cleaned, CleaningReport
from mlxtune.data.conversation import FoundFormat
from mlxtune.data.examples import Example, build_examples, row_problems
from mlxtune.data.first_tokens import Collision, first_token_collisions
from mlxtune.data.labels import split_labels
from mlxtune.data.leaks import Leak, find_leaks
from mlxtune.data.prepare import (
    augment_rows,
    balance_and_weigh,
    clean,
    label_class,
    require_every_label,
    require_text_column,
    split_rows,
)
from mlxtune.data.reading import format_of, read_recipe_rows, read_training_rows, rows_files
from mlxtune.data.rows import Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError, DataErrors
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Clean, Recipe

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Finding:
    """Something to know about one row.

    Attributes:
        kind: A reason of `cleaning`; or "unusable" (training or evaluation would refuse the row), "too_long".
        detail: What was seen; "" where the kind says it all.
        same_as: "file:line" of the row kept in its stead, for duplicates.
        removed: Cleaning or `train.over_long: drop` takes the row out; else it stays in, or stops the training.
    """

    split: str
    kind: str
    file: str
    line: int
    detail: str
    same_as: str
    removed: bool


@dataclass(frozen=True)
class ConflictingRows:
    """Two rows of one split with the same text, or nearly the same, under different labels."""

    split: str
    row: Row
    other: Row
    exact: bool
    labels: str
    other_labels: str


@dataclass(frozen=True)
class Unseen:
    """A label that no training row has.

    Attributes:
        split: Where rows have it; None for one that only the recipe lists.
        rows: How many.
        first: The first of them, None where there is none.
    """

    field: str
    label: str
    split: str | None
    rows: int
    first: Row | None


@dataclass(frozen=True)
class Lengths:
    """Token counts over rows."""

    median: float
    p95: float
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Lengths:
        """Of no rows all are zero; the 95th percentile interpolates, as NumPy's does."""
        if not lengths:
            return cls(0.0, 0.0, 0)
        return cls(float(np.median(lengths)), float(np.percentile(lengths, 95)), max(lengths))

    def as_json(self) -> dict[str, float]:
        """Rounded to a tenth of a token."""
        return {"median": round(self.median, 1), "p95": round(self.p95, 1), "max": self.max}


@dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
        files: Where its rows were read.
        format: Of these files.
        read: Rows in them; of validation rows that `data.valid_fraction` takes, these.
        found: What cleaning finds with everything switched on, removed or not.
        removed: What the recipe's cleaning removes; None where it does not clean this split.
        unusable: Rows kept that training or evaluation would refuse.
        too_long: Rows longer than `train.max_tokens`.
        held_out: Rows taken out of it to validate with.
        augmented: What was rewritten; None where the recipe does not augment this split.
        balanced: What balancing did; None where the recipe does not balance this split.
        class_weights: Of the fields that have any, counted over `rows`; of the training rows only.
        rows: What is trained on, validated with or tested on; a row repeated to balance stands there repeatedly.
        lengths: Prompt and reply, of each usable row once, in tokens.
        reply_lengths: What is trained on: the reply with its end of turn, earlier turns where they are, too.
        several_before: Field -> share of the rows read with several labels, for fields where any row has several.
        several_after: The same over `rows`.
        labels: Field -> label -> rows, the recipe's order, else the most frequent first.
        label_sets: Field of label sets -> set, as text -> rows, most frequent first.
        cooccurrence: Field of label sets -> pair of labels -> rows with both, most frequent first.
    """

    files: tuple[str, ...]
    format: FoundFormat
    read: int
    found: CleaningReport
    removed: CleaningReport | None
    unusable: int
    too_long: int
    held_out: int
    augmented: Augmented | None
    balanced: Balanced | None
    class_weights: Mapping[str, ClassWeights]
    rows: Sequence[Row]
    lengths: Lengths
    reply_lengths: Lengths
    several_before: Mapping[str, float]
    several_after: Mapping[str, float]
    labels: Mapping[str, Mapping[str, int]]
    label_sets: Mapping[str, Mapping[str, int]]
    cooccurrence: Mapping[str, Mapping[tuple[str, str], int]]

    @property
    def synthetic(self) -> int:
        """Of `rows`, those that are marked as written by no person."""
        return sum(row.synthetic for row in self.rows)

    @property
    def kept(self) -> int:
        """Rows left by cleaning."""
        return self.read if self.removed is None else self.read - len(self.removed.dropped)

    def as_json(self) -> dict[str, Any]:
        """Its figures."""
        return {
            "file": ", ".join(self.files),
            "format": {"name": self.format.name, "reason": self.format.reason},
            "read": self.read,
            "duplicates": self.found.duplicates,
            "near_duplicates": self.found.near_duplicates,
            "low_quality": self.found.low_quality,
            "low_quality_reasons": dict(self.found.low_quality_reasons),
            "removed": None if self.removed is None else {
                "duplicates": self.removed.duplicates,
                "near_duplicates": self.removed.near_duplicates,
                "low_quality": self.removed.low_quality,
                "low_quality_reasons": dict(self.removed.low_quality_reasons),
            },
            "kept": self.kept,
            "unusable": self.unusable,
            "too_long": self.too_long,
            "held_out": self.held_out,
            "augment": None if self.augmented is None else self.augmented.as_json(),
            "synthetic": self.synthetic,
            "balance": None if self.balanced is None else self.balanced.as_json(),
            "class_weights": {name: weights.as_json() for name, weights in self.class_weights.items()},
            "rows": len(self.rows),
            "tokens": self.lengths.as_json(),
            "reply_tokens": self.reply_lengths.as_json(),
            "several_labels": {
                name: {"before": round(share, 4), "after": round(self.several_after[name], 4)}
                for name, share in self.several_before.items()
            },
            "labels": {name: dict(counts) for name, counts in self.labels.items()},
            "label_sets": {name: dict(counts) for name, counts in self.label_sets.items()},
            "cooccurrence": {
                name: [{"labels": list(pair), "rows": rows} for pair, rows in pairs.items()]
                for name, pairs in self.cooccurrence.items()
            },
        }  # fmt: skip


@dataclass(frozen=True)
class DataReport:
    """A recipe's data.

    Attributes:
        recipe: What was asked for.
        splits: Name -> split, those that the recipe has.
        leaks: Rows of a split that stand in an earlier one, exact ones first.
        conflicts: Rows with one text and different labels, exact ones first.
        findings: All else about single rows, by split and line.
        unseen: Labels without a training row.
        collisions: Labels that begin with the same token.
        refusals: Why training or evaluation would refuse this data; empty where it can be used.
        train_examples: What is trained on; an example's `row` is an index into `train_rows`.
        train_rows: Rows of these examples.
    """

    recipe: Recipe
    splits: Mapping[str, SplitReport]
    leaks: Sequence[Leak]
    conflicts: Sequence[ConflictingRows]
    findings: Sequence[Finding]
    unseen: Sequence[Unseen]
    collisions: Sequence[Collision]
    refusals: Sequence[str]
    train_examples: Sequence[Example]
    train_rows: Sequence[Row]

    def as_json(self) -> dict[str, Any]:
        """Everything, with file and line of each finding."""
        return {
            "recipe": self.recipe.name,
            "max_tokens": self.recipe.train.max_tokens,
            "loss_weights": {name: field.loss_weight for name, field in self.recipe.output.fields.items()},
            "splits": {name: split.as_json() for name, split in self.splits.items()},
            "leaks": [
                {
                    "split": leak.split, "file": leak.row.file, "line": leak.row.line,
                    "other": {"split": leak.other_split, "file": leak.other.file, "line": leak.other.line},
                    "exact": leak.exact, "similarity": round(leak.similarity, 4), "same_labels": leak.same_labels,
                    "text": self._text(leak.row), "other_text": self._text(leak.other),
                }
                for leak in self.leaks
            ],
            "conflicts": [
                {
                    "split": conflict.split, "file": conflict.row.file, "line": conflict.row.line,
                    "other": {"file": conflict.other.file, "line": conflict.other.line},
                    "exact": conflict.exact, "labels": conflict.labels, "other_labels": conflict.other_labels,
                    "text": self._text(conflict.row), "other_text": self._text(conflict.other),
                }
                for conflict in self.conflicts
            ],
            "findings": [
                {
                    "split": finding.split, "kind": finding.kind, "file": finding.file, "line": finding.line,
                    "detail": finding.detail, "same_as": finding.same_as, "removed": finding.removed,
                }
                for finding in self.findings
            ],
            "unseen_labels": [
                {
                    "field": unseen.field, "label": unseen.label, "split": unseen.split, "rows": unseen.rows,
                    "file": unseen.first and unseen.first.file, "line": unseen.first and unseen.first.line,
                }
                for unseen in self.unseen
            ],
            "first_token_collisions": [
                {"field": one.field, "where": one.where, "token": one.token, "labels": list(one.labels)}
                for one in self.collisions
            ],
            "refusals": list(self.refusals),
        }  # fmt: skip

    def _text(self, row: Row) -> str:
        return str(row.compared(self.recipe.data.text) or "").strip()


def read_splits(recipe: Recipe) -> dict[str, list[Row]]:
    """The rows of each file that the recipe names.

    Raises:
        DataError: Files that cannot be read, or hold malformed lines; all of them together.
    """
    files = {name: getattr(recipe.data, name) for name in SPLITS}
    rows: dict[str, list[Row]] = {}
    refused = []
    for name, file in files.items():
        if file is not None:
            try:
                rows[name] = read_training_rows(recipe) if name == "train" else read_recipe_rows(Path(file), recipe)
                require_text_column(rows[name], recipe, file)
            except DataError as error:
                refused.append(error)
    if refused:
        raise refused[0] if len(refused) == 1 else DataErrors(refused)
    return rows


def report_data(
    recipe: Recipe, read: Mapping[str, Sequence[Row]], tokenizer: Tokenizer, ask: bool = True
) -> DataReport:
    """What the data is, and what of it is trained on.

    Args:
        recipe: Says how rows are cleaned, split, balanced and written.
        read: Split -> rows as read; "train" is there.
        tokenizer: The model's.
        ask: Whether a server may be asked to rewrite rows; else rewrites that are not kept from before are estimated.
    """
    draft = _Draft(recipe, tokenizer, read, ask)
    for name in SPLITS:
        if name in read:
            draft.add(name, read[name])
    return draft.finish()


class _Draft:
    """The report while splits are added to it."""

    def __init__(
        self, recipe: Recipe, tokenizer: Tokenizer, given: Mapping[str, Sequence[Row]], ask: bool = True
    ) -> None:
        self.recipe, self.tokenizer, self._given, self._ask = recipe, tokenizer, given, ask
        self.template = ReplyTemplate(recipe.output)
        self.label_fields = list(self.template.label_fields)
        self.splits: dict[str, SplitReport] = {}
        self.findings: list[Finding] = []
        self.conflicts: list[ConflictingRows] = []
        self.refusals: list[str] = []
        self.used: dict[str, Sequence[Row]] = {}  # each row once, before balancing
        self.train: tuple[Sequence[Example], Sequence[Row]] = ((), ())

    def add(self, name: str, read: Sequence[Row]) -> None:
        """Clean, split, augment, measure and balance one split's rows."""
        recipe = self.recipe
        text = recipe.data.text
        no_text = [row for row in read if not isinstance(row.fields.get(text), str)]
        rows: Sequence[Row] = [row for row in read if isinstance(row.fields.get(text), str)]
        for row in no_text:
            columns = ", ".join(map(repr, row.fields)) or "no column"
            self._find(name, row, "unusable", f"expected text in the column {text!r}, the row has {columns}")
        everything = clean(rows, recipe, _everything(recipe.data.clean))
        removed = self._removed(name, rows, everything)
        rows = rows if removed is None else removed.rows
        usable, refused = self._usable(name, rows)
        if name in self._given:  # of rows taken out of the training rows, their findings tell already
            self._note(name, everything, removed, refused)

        valid: Sequence[Row] | None = None
        if name == "train" and recipe.data.valid_fraction is not None and usable:
            try:
                positions = split_rows(usable, recipe)
            except DataError as error:
                self.refusals.append(str(error))
            else:
                valid = [usable[position] for position in positions.validation]
                usable = [usable[position] for position in positions.training]
        augmented: Augmented | None = None
        if (
            name == "train" and usable and not (self.refusals or no_text or refused)
        ):  # else other rows would be rewritten
            augmented = self._augmented(usable, valid)
        if augmented is not None:
            further, not_usable = self._usable(name, augmented.rows)
            usable, refused = [*usable, *further], not_usable
        examples = build_examples(usable, recipe, self.tokenizer)
        fitting = self._fitting(name, usable, examples)
        used = [usable[index] for index in dict.fromkeys(example.row for example in fitting)]
        balanced: Balanced | None = None
        weights: Mapping[str, ClassWeights] = {}
        if name == "train" and used:
            fitting, balanced, weights = balance_and_weigh(fitting, usable, recipe, self.tokenizer)
        final = used if balanced is None else [usable[example.row] for example in fitting]
        if not final and name != "test":
            self.refusals.append(f"{getattr(recipe.data, name) or recipe.data.train}: no row is left to use")
        labels = [self._labels(row) for row in final]
        before = everything.report.multi_before
        self.used[name] = used
        if name == "train":
            self.train = (fitting, usable)
        self.splits[name] = SplitReport(
            files=rows_files(recipe, name) or tuple(recipe.data.training_files),
            format=format_of(read),
            read=len(read),
            found=everything.report,
            removed=None if removed is None else removed.report,
            unusable=len(no_text) + len(refused),
            too_long=sum(example.n_tokens > recipe.train.max_tokens for example in examples),
            held_out=len(valid or ()),
            augmented=augmented,
            balanced=balanced,
            class_weights=weights,
            rows=final,
            lengths=Lengths.of([example.n_tokens for example in examples]),
            reply_lengths=Lengths.of([example.n_supervised for example in examples]),
            several_before=before,
            several_after={n: sum(len(row[n]) > 1 for row in labels) / max(len(labels), 1) for n in before},
            labels={n: self._counts(n, [row[n] for row in labels]) for n in self.label_fields},
            label_sets={
                n: dict(Counter(label_class(row, recipe, n) for row in final).most_common())
                for n in self.label_fields
                if self.template.fields[n].label_separator
            },
            cooccurrence={
                n: dict(Counter(pair for row in labels for pair in combinations(row[n], 2)).most_common())
                for n in self.label_fields
                if self.template.fields[n].label_separator
            },
        )
        if valid is not None:
            self.add("valid", valid)

    def finish(self) -> DataReport:
        """Compare the splits with one another."""
        for name, split in self.splits.items():
            if split.unusable:
                rows = f"{split.unusable} row{'' if split.unusable == 1 else 's'}"
                self.refusals.append(f"{', '.join(split.files)}: {rows} cannot be used; correct or remove them")
            if name != "test" and split.too_long and self.recipe.train.over_long == "refuse":
                rows = f"{split.too_long} row{'' if split.too_long == 1 else 's'}"
                limit = f"train.max_tokens = {self.recipe.train.max_tokens}"
                advice = "raise it, shorten them, or leave them out with train.over_long: drop"
                self.refusals.append(f"{', '.join(split.files)}: {rows} longer than {limit}; {advice}")
        leaks = find_leaks(
            self.used,
            self.recipe.data.text,
            lambda row: [sorted(set(self._labels(row)[name])) for name in self.label_fields],
        )
        seen = {name: list(self.splits["train"].labels[name]) for name in self.label_fields}
        return DataReport(
            recipe=self.recipe,
            splits={name: self.splits[name] for name in SPLITS if name in self.splits},
            leaks=sorted(leaks, key=lambda leak: not leak.exact),
            conflicts=sorted(self.conflicts, key=lambda conflict: not conflict.exact),
            findings=tuple(self.findings),
            unseen=self._unseen(),
            collisions=first_token_collisions(self.recipe.output, self.tokenizer, seen),
            refusals=tuple(dict.fromkeys(self.refusals)),
            train_examples=self.train[0],
            train_rows=self.train[1],
        )

    def _removed(self, name: str, rows: Sequence[Row], everything: Cleaned) -> Cleaned | None:
        """What the recipe's own cleaning leaves; None where it leaves the split as it is."""
        settings = self.recipe.data.clean
        if name != "train" or settings == Clean():
            return None
        cleaned = everything if settings == _everything(settings) else clean(rows, self.recipe, settings)
        try:
            require_every_label(self.recipe, cleaned.report)
        except DataError as error:
            self.refusals.append(str(error))
        return cleaned

    def _augmented(self, rows: Sequence[Row], validation: Sequence[Row] | None) -> Augmented | None:
        """What is rewritten of training rows; a server that cannot be asked is a refusal."""
        valid = self._given.get("valid", ()) if validation is None else validation
        try:
            return augment_rows(rows, valid, self._given.get("test", ()), self.recipe, self._ask)
        except DataError as error:
            self.refusals.append(str(error))
            return None

    def _usable(self, name: str, rows: Sequence[Row]) -> tuple[list[Row], set[tuple[str, int]]]:
        """The rows that training and evaluation can use, and the places of the others."""
        usable: list[Row] = []
        refused: set[tuple[str, int]] = set()
        for row in rows:
            problems = row_problems(row, self.recipe, self.template, self.tokenizer)
            if problems:
                self._find(name, row, "unusable", "; ".join(problems))
                refused.add((row.file, row.line))
            else:
                usable.append(row)
        return usable, refused

    def _note(self, name: str, everything: Cleaned, removed: Cleaned | None, refused: set[tuple[str, int]]) -> None:
        """Findings of cleaning, removed or left in, and conflicts; what is refused is noted already."""
        gone = {} if removed is None else {(drop.file, drop.line): drop for drop in removed.report.dropped}
        both = {(drop.file, drop.line): drop for drop in everything.report.dropped} | gone
        for place in sorted(both):
            drop = both[place]
            if place not in refused:
                self.findings.append(
                    Finding(name, drop.reason, drop.file, drop.line, drop.detail, drop.same_as, place in gone)
                )
        rows = {f"{row.file}:{row.line}": row for row in everything.rows}
        for conflict in everything.report.conflicts:
            row, other = rows[f"{conflict.file}:{conflict.line}"], rows[conflict.conflicts_with]
            texts = [str(one.compared(self.recipe.data.text)).strip() for one in (row, other)]
            self.conflicts.append(
                ConflictingRows(name, row, other, texts[0] == texts[1], self._shown(row), self._shown(other))
            )

    def _fitting(self, name: str, rows: Sequence[Row], examples: Sequence[Example]) -> list[Example]:
        """Examples within `train.max_tokens`; the test split is not bound by it, but told of it."""
        limit = self.recipe.train.max_tokens
        dropped = self.recipe.train.over_long == "drop" and name != "test"
        for example in examples:
            if example.n_tokens > limit:
                self._find(name, rows[example.row], "too_long", f"{example.n_tokens} tokens", removed=dropped)
        return [example for example in examples if example.n_tokens <= limit or not dropped]

    def _unseen(self) -> list[Unseen]:
        trained = self.splits["train"].labels
        found: list[Unseen] = []
        elsewhere: set[tuple[str, str]] = set()
        for split in [name for name in ("valid", "test") if name in self.splits]:
            rows_with: dict[tuple[str, str], list[Row]] = {}
            for row in self.splits[split].rows:
                for name, labels in self._labels(row).items():
                    for label in labels:
                        if not trained[name].get(label):
                            rows_with.setdefault((name, label), []).append(row)
            elsewhere.update(rows_with)
            found += [Unseen(name, label, split, len(rows), rows[0]) for (name, label), rows in rows_with.items()]
        nowhere = [(name, label) for name, counts in trained.items() for label, count in counts.items() if not count]
        return found + [Unseen(*place, None, 0, None) for place in nowhere if place not in elsewhere]

    def _counts(self, name: str, values: Sequence[Sequence[str]]) -> dict[str, int]:
        field = self.template.fields[name]
        counts = Counter(label for labels in values for label in labels)
        if not field.closed_labels:
            return dict(counts.most_common())
        return {label: counts[label] for label in field.closed_labels}

    def _labels(self, row: Row) -> dict[str, list[str]]:
        """Field -> labels of a row, each once, in the recipe's order where it has one, else sorted."""
        found: dict[str, list[str]] = {}
        for name in self.label_fields:
            field = self.template.fields[name]
            allowed = field.closed_labels
            labels = set(split_labels(row.fields.get(name), field.label_separator, allowed))
            order = {label: place for place, label in enumerate(allowed or [])}
            found[name] = sorted(labels, key=lambda label, order=order: (order.get(label, len(order)), label))  # type: ignore[misc]
        return found

    def _shown(self, row: Row) -> str:
        labels = self._labels(row)
        if len(labels) == 1:
            return ", ".join(*labels.values())
        return "; ".join(f"{name}: {', '.join(values)}" for name, values in labels.items())

    def _find(self, split: str, row: Row, kind: str, detail: str, removed: bool = False) -> None:
        self.findings.append(Finding(split, kind, row.file, row.line, detail, "", removed))


def _everything(settings: Clean) -> Clean:
    """Cleaning with everything switched on, at the recipe's own least length."""
    return Clean(dedupe="near", min_chars=settings.min_chars, drop_garbled=True)
