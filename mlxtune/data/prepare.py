"""A recipe's data, ready: rows read, cleaned, split, augmented, balanced and turned into examples that fit. Trains nothing.

prepared = prepare(recipe, tokenizer)     # prepared.training.examples, prepared.validation
rows = RecipeRows(recipe)                 # rows.training, rows.validation: without a tokenizer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlxtune.data.augment import Augmented, augment
from mlxtune.data.balance import Balanced, balance, balance_labels
from mlxtune.data.class_weights import ClassWeights, class_weights
from mlxtune.data.cleaning import Cleaned, CleaningReport, clean_rows
from mlxtune.data.examples import Example, build_examples, check_lengths, expected_values, weigh_examples
from mlxtune.data.labels import split_labels
from mlxtune.data.reading import joined, read_recipe_rows
from mlxtune.data.rows import Row
from mlxtune.data.splitting import SplitPositions, split_positions
from mlxtune.errors import DataError
from mlxtune.files import cache_folder
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Clean, Recipe


@dataclass(frozen=True)
class Split:
    """Rows of one split and the examples made of them; an example's `row` is an index into `rows`.

    Attributes:
        rows: As read, cleaned, without those to validate with, and with those rewritten from them at the end.
        examples: Those that fit into `train.max_tokens`, balanced: a row may have several examples, or none.
        cleaning: What cleaning did; None where the recipe does not clean.
        left_out: "file:line: N tokens" of each row that did not fit.
        balanced: What balancing did; None where the recipe does not balance.
        n_validation: Rows taken out of these to validate with.
        augmented: What was rewritten; None where the recipe does not augment.
        class_weights: Of the fields that have any, counted over `examples`; None of rows that are not trained on.
    """

    rows: Sequence[Row]
    examples: list[Example]
    cleaning: CleaningReport | None
    left_out: list[str]
    balanced: Balanced | None = None
    n_validation: int = 0
    class_weights: Mapping[str, ClassWeights] | None = None
    augmented: Augmented | None = None


@dataclass(frozen=True)
class Prepared:
    """What is trained on, and what is validated with, if anything."""

    training: Split
    validation: Split | None


def prepare(recipe: Recipe, tokenizer: Tokenizer, ask: bool = True) -> Prepared:
    """Training rows, cleaned, without those to validate with, augmented and balanced, and validation rows as they are.

    Args:
        recipe: Names the rows, and says what is done with them.
        tokenizer: The model's.
        ask: Have rows rewritten that were not yet; else their sources stand in for them.

    Raises:
        DataError: A file cannot be read, rows are wrong, none is left, or rows cannot be rewritten.
    """
    rows = RecipeRows(recipe, ask)
    return Prepared(training_split(rows, tokenizer), validation_split(rows, tokenizer))


class RecipeRows:
    """The rows that a recipe names, each file read once and each step done once, on first use.

    Args:
        recipe: Names the rows, and says what is done with them.
        ask: Have rows rewritten that were not yet; else their sources stand in for them.

    Every property raises DataError: a file cannot be read, a row has no text in the text column, no row can be taken out to
    validate with, or rows cannot be rewritten.
    """

    def __init__(self, recipe: Recipe, ask: bool = True) -> None:
        self.recipe, self._ask = recipe, ask
        self._read: dict[str, Sequence[Row]] = {}

    @property
    def training(self) -> Sequence[Row]:
        """The rows that training may see: cleaned, without those to validate with, augmented; not balanced, however long."""
        augmented = self.augmented
        return [*self.not_rewritten, *augmented.rows] if augmented else self.not_rewritten

    @property
    def validation(self) -> Sequence[Row] | None:
        """The rows of `data.valid` as they are, or those taken out of the training rows, or None; however long."""
        if self._positions is not None:
            rows, _ = self._cleaned
            return [rows[position] for position in self._positions.validation]
        return self._rows_of(self.recipe.data.valid)

    @property
    def not_rewritten(self) -> Sequence[Row]:
        """The training rows without those that `data.augment` makes, for which no server is asked."""
        rows, _ = self._cleaned
        return rows if self._positions is None else [rows[position] for position in self._positions.training]

    @property
    def n_validation(self) -> int:
        """Rows taken out of the training rows to validate with."""
        return 0 if self._positions is None else len(self._positions.validation)

    @property
    def cleaning(self) -> CleaningReport | None:
        """What cleaning did; None where the recipe does not clean."""
        return self._cleaned[1]

    @cached_property
    def augmented(self) -> Augmented | None:
        """What was rewritten of the training rows; None where the recipe does not augment."""
        if self.recipe.data.augment is None:
            return None
        rows, valid = self.not_rewritten, self.validation or ()
        return augment_rows(rows, valid, self._rows_of(self.recipe.data.test) or (), self.recipe, self._ask)

    @cached_property
    def _cleaned(self) -> tuple[Sequence[Row], CleaningReport | None]:
        recipe = self.recipe
        rows = joined([self._rows_of(file) or () for file in recipe.data.training_files])
        if recipe.data.clean == Clean():
            require_text_column(rows, recipe, recipe.data.train)
            return rows, None
        cleaned = clean(rows, recipe, recipe.data.clean)
        require_every_label(recipe, cleaned.report)
        return cleaned.rows, cleaned.report

    @cached_property
    def _positions(self) -> SplitPositions | None:
        return None if self.recipe.data.valid_fraction is None else split_rows(self._cleaned[0], self.recipe)

    def _rows_of(self, file: str | None) -> Sequence[Row] | None:
        if file is None:
            return None
        if file not in self._read:
            self._read[file] = read_recipe_rows(Path(file), self.recipe)
        return self._read[file]


def training_split(rows: RecipeRows, tokenizer: Tokenizer) -> Split:
    """What is trained on.

    Raises:
        DataError: As `RecipeRows`; or rows are wrong, or none is left.
    """
    recipe, used = rows.recipe, rows.training
    split = _split(used, recipe, tokenizer, rows.cleaning, recipe.data.train)
    examples, balanced, weights = balance_and_weigh(split.examples, used, recipe, tokenizer)
    return replace(
        split,
        examples=examples,
        balanced=balanced,
        n_validation=rows.n_validation,
        class_weights=weights,
        augmented=rows.augmented,
    )


def validation_split(rows: RecipeRows, tokenizer: Tokenizer) -> Split | None:
    """What is validated with; None where the recipe has no validation rows.

    Raises:
        DataError: As for the training rows.
    """
    recipe, used = rows.recipe, rows.validation
    return None if used is None else _split(used, recipe, tokenizer, None, recipe.data.valid or recipe.data.train)


def training_rows(recipe: Recipe, rewritten: bool = True) -> Sequence[Row]:
    """The rows that training may see: cleaned, without those to validate with, augmented; not balanced, however long.

    Args:
        recipe: Names them.
        rewritten: With those that `data.augment` makes; without them no server is asked.

    Raises:
        DataError: As `RecipeRows`.
    """
    rows = RecipeRows(recipe)
    return rows.training if rewritten else rows.not_rewritten


def validation_rows(recipe: Recipe) -> Sequence[Row] | None:
    """The rows of `data.valid` as they are, or those taken out of the training rows, or None; however long.

    Raises:
        DataError: As `RecipeRows`.
    """
    return RecipeRows(recipe).validation


def clean(rows: Sequence[Row], recipe: Recipe, settings: Clean) -> Cleaned:
    """The rows cleaned by `settings`, their labels judged by the recipe's fields.

    Raises:
        DataError: A row has no text in the text column; all are listed.
    """
    fields = recipe.output.fields
    return clean_rows(
        rows,
        text_column=recipe.data.text,
        label_columns={name: field.closed_labels for name, field in fields.items()},
        settings=settings,
        free_text=recipe.output.text_fields,
        separators={name: field.label_separator for name, field in fields.items() if field.label_separator},
    )


def split_rows(rows: Sequence[Row], recipe: Recipe) -> SplitPositions:
    """Which rows `data.valid_fraction` takes out to validate with, label sets of closed fields in proportion.

    Raises:
        DataError: All rows are near-duplicates of one another, so that none can be taken.
    """
    assert recipe.data.valid_fraction is not None
    closed = [name for name, field in recipe.output.fields.items() if field.closed_labels]
    texts = [_text(row, recipe) for row in rows]
    strata = [tuple(label_class(row, recipe, name) for name in closed) for row in rows]
    positions = split_positions(texts, strata, recipe.data.valid_fraction, recipe.train.seed)
    if not positions.validation:
        raise DataError(
            f"{recipe.data.train}: data.valid_fraction can hold out none of {len(rows)} rows: all are near-duplicates of "
            "one another; add rows, or name others in data.valid"
        )
    return positions


def augment_rows(
    rows: Sequence[Row], valid: Sequence[Row], test: Sequence[Row], recipe: Recipe, ask: bool = True
) -> Augmented | None:
    """What `data.augment` rewrites of training rows; None where the recipe does not augment.

    Args:
        rows: Cleaned, without those to validate with.
        valid: Rows to validate with, which no rewrite may be near to.
        test: Rows to test with, likewise.
        recipe: Says what is rewritten, and where.
        ask: As for `augment`.

    Raises:
        DataError: No row has the label, or the server cannot be asked.
    """
    if recipe.data.augment is None:
        return None
    named = recipe.output.label_fields
    return augment(
        rows,
        [{name: _labels(row, recipe, name) for name in named} for row in rows],
        recipe.data.augment,
        recipe_name=recipe.name,
        text_column=recipe.data.text,
        others={name: [_text(row, recipe) for row in some] for name, some in (("valid", valid), ("test", test))},
        min_chars=recipe.data.clean.min_chars,
        seed=recipe.train.seed,
        folder=cache_folder() / "augment",
        ask=ask,
    )


def balance_and_weigh(
    examples: Sequence[Example], rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer
) -> tuple[list[Example], Balanced | None, dict[str, ClassWeights]]:
    """What is trained on: examples repeated or left out as `data.balance` says, weights as their own counts say.

    Args:
        examples: Of training rows, each once.
        rows: What they were built of.
        recipe: What they were built by.
        tokenizer: What they were built with.
    """
    balanced = balance_rows([rows[example.row] for example in examples], recipe)
    positions = range(len(examples)) if balanced is None else balanced.positions
    values = expected_values([rows[example.row] for example in examples], recipe)
    weights = class_weights(recipe.output, [values[position] for position in positions])
    counted = {name: one.weights for name, one in weights.items() if one.balanced}
    if counted:
        examples = weigh_examples(examples, rows, recipe, tokenizer, counted)
    return [examples[position] for position in positions], balanced, weights


def balance_rows(rows: Sequence[Row], recipe: Recipe) -> Balanced | None:
    """Which of these rows `data.balance` trains on, and how often; None where the recipe does not balance."""
    wanted = recipe.data.balance
    if wanted is None:
        return None
    how = (wanted.method, recipe.train.seed, wanted.ratio, wanted.max_repeats)
    if wanted.by == "labels" and recipe.output.fields[wanted.field].label_separator:
        return balance_labels([_labels(row, recipe, wanted.field) for row in rows], *how)
    return balance([label_class(row, recipe, wanted.field) for row in rows], *how)


def label_class(row: Row, recipe: Recipe, name: str) -> str:
    """The label of a field in a row, or its set of labels in one order, as one text."""
    return ", ".join(_labels(row, recipe, name))


def _labels(row: Row, recipe: Recipe, name: str) -> list[str]:
    """The labels of a field in a row, each once, in one order."""
    field = recipe.output.fields[name]
    value = row.fields.get(name)
    if field.label_separator is None:
        return [str("" if value is None else value).strip()]
    found = set(split_labels(value, field.label_separator, field.closed_labels))
    order = [label for label in field.closed_labels or [] if label in found]
    return [*order, *sorted(found.difference(order))]


def require_every_label(recipe: Recipe, report: CleaningReport) -> None:
    """Refuse data whose rows of some label were all dropped for labels that the recipe does not know: a typo in it.

    Raises:
        DataError: Names the label and what was dropped.
    """
    unknown = [drop for drop in report.dropped if drop.reason == "unknown_label"]
    for name, field in recipe.output.fields.items():
        for label in field.closed_labels or []:
            if unknown and not report.labels.get(name, {}).get(label):
                first = unknown[0]
                raise DataError(
                    f"{recipe.data.train}: no row has the label {label!r} of {name!r}, while {len(unknown)} rows were "
                    f"dropped for labels that the recipe does not list, first {first.file}:{first.line}: {first.detail}; "
                    f"correct output.fields.{name}.labels"
                )


def require_text_column(rows: Sequence[Row], recipe: Recipe, file: str) -> None:
    """Refuse rows none of which has the text column.

    Raises:
        DataError: Names the columns that there are.
    """
    if rows and not any(recipe.data.text in row.fields for row in rows):
        has = ", ".join(map(repr, rows[0].fields))
        raise DataError(
            f"{file}: data.text names {recipe.data.text!r}, but no row has that column; the first has {has}"
        )


def _text(row: Row, recipe: Recipe) -> str:
    return str(row.compared(recipe.data.text) or "").strip()


def _split(
    rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, cleaning: CleaningReport | None, file: str
) -> Split:
    require_text_column(rows, recipe, file)
    examples, left_out = check_lengths(build_examples(rows, recipe, tokenizer), rows, recipe)
    if not examples:
        why = (
            "cleaning dropped all of them"
            if not rows
            else f"all are longer than train.max_tokens = {recipe.train.max_tokens}"
        )
        raise DataError(f"{file}: no row is left; {why}")
    return Split(rows, examples, cleaning, left_out)
