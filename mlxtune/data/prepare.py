"""A recipe's data, ready: rows read, cleaned, some held out, the rest augmented, balanced and turned into examples that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlxtune.data.augment import Augmented, augment
from mlxtune.data.balance import Balanced, balance, balance_labels
from mlxtune.data.class_weights import ClassWeights, class_weights
from mlxtune.data.cleaning import Account, Cleaned, clean_rows
from mlxtune.data.examples import Example, build_examples, check_lengths, expected_values, weigh_examples
from mlxtune.data.labels import split_labels
from mlxtune.data.rows import Row, read_rows
from mlxtune.data.splitting import HeldOut, hold_out
from mlxtune.errors import DataError
from mlxtune.files import cache_folder
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Clean, LabelField, LabelsField, Recipe, TextField


@dataclass(frozen=True)
class Split:
    """Rows of one split and the examples made of them; an example's `row` is an index into `rows`.

    Attributes:
        rows: As read, cleaned, without those held out, and with those rewritten from them at the end.
        examples: Those that fit into `train.max_tokens`, balanced: a row may have several examples, or none.
        account: What cleaning did; None where the recipe does not clean.
        left_out: "file:line: N tokens" of each row that did not fit.
        balanced: What balancing did; None where the recipe does not balance.
        held_out: Rows taken out of these to validate with.
        augmented: What was rewritten; None where the recipe does not augment.
        class_weights: Of the fields that have any, counted over `examples`; None of rows that are not trained on.
    """

    rows: Sequence[Row]
    examples: list[Example]
    account: Account | None
    left_out: list[str]
    balanced: Balanced | None = None
    held_out: int = 0
    class_weights: Mapping[str, ClassWeights] | None = None
    augmented: Augmented | None = None


def training_split(recipe: Recipe, tokenizer: Tokenizer, ask: bool = True) -> Split:
    """Training rows, cleaned as `data.clean` says, without those held out, augmented and balanced as `data` says.

    Args:
        recipe: Names the rows, and says what is done with them.
        tokenizer: The model's.
        ask: Have rows rewritten that were not yet; else their sources stand in for them.

    Raises:
        DataError: The file cannot be read, rows are wrong, none is left, or rows cannot be rewritten.
    """
    seen = _rows_to_train_on(recipe, ask)
    split = _split(seen.rows, recipe, tokenizer, seen.account, recipe.data.train)
    examples, balanced, weights = balance_and_weigh(split.examples, seen.rows, recipe, tokenizer)
    return replace(
        split,
        examples=examples,
        balanced=balanced,
        held_out=seen.held_out,
        class_weights=weights,
        augmented=seen.augmented,
    )


def validation_split(recipe: Recipe, tokenizer: Tokenizer) -> Split | None:
    """Validation rows: those of `data.valid` as they are, or those held out of the training rows, or None.

    Raises:
        DataError: As for the training rows.
    """
    rows = validation_rows(recipe)
    return None if rows is None else _split(rows, recipe, tokenizer, None, recipe.data.valid or recipe.data.train)


def training_rows(recipe: Recipe, rewritten: bool = True) -> Sequence[Row]:
    """The rows that training may see: cleaned, without those held out, augmented; not balanced, however long.

    Args:
        rewritten: With those that `data.augment` makes; without them no server is asked.

    Raises:
        DataError: The file cannot be read, a row has no text in the text column, or rows cannot be rewritten.
    """
    if not rewritten:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"augment": None})})
    return _rows_to_train_on(recipe).rows


def validation_rows(recipe: Recipe) -> Sequence[Row] | None:
    """The rows of `data.valid` as they are, or those held out of the training rows, or None; however long.

    Raises:
        DataError: The file cannot be read, or no row can be held out.
    """
    if recipe.data.valid_fraction is not None:
        rows, _ = _cleaned_training_rows(recipe)
        return [rows[index] for index in part_rows(rows, recipe).held_out]
    return None if recipe.data.valid is None else read_rows(Path(recipe.data.valid), recipe.data.columns)


def clean(rows: Sequence[Row], recipe: Recipe, settings: Clean) -> Cleaned:
    """The rows cleaned by `settings`, their labels judged by the recipe's fields.

    Raises:
        DataError: A row has no text in the text column; all are listed.
    """
    fields = recipe.output.fields
    return clean_rows(
        rows,
        text_column=recipe.data.text,
        label_columns={
            name: field.labels if isinstance(field, (LabelField, LabelsField)) else None
            for name, field in fields.items()
        },
        settings=settings,
        free_text=[name for name, field in fields.items() if isinstance(field, TextField)],
        separators={name: field.separator for name, field in fields.items() if isinstance(field, LabelsField)},
    )


def part_rows(rows: Sequence[Row], recipe: Recipe) -> HeldOut:
    """Which rows `data.valid_fraction` holds out, label sets of closed fields in proportion.

    Raises:
        DataError: All rows are near-duplicates of one another, so that none can be held out.
    """
    assert recipe.data.valid_fraction is not None
    closed = [name for name, field in recipe.output.fields.items() if not isinstance(field, TextField) and field.labels]
    texts = [_text(row, recipe) for row in rows]
    strata = [tuple(label_class(row, recipe, name) for name in closed) for row in rows]
    parted = hold_out(texts, strata, recipe.data.valid_fraction, recipe.train.seed)
    if not parted.held_out:
        raise DataError(
            f"{recipe.data.train}: data.valid_fraction can hold out none of {len(rows)} rows: all are near-duplicates of "
            "one another; add rows, or name others in data.valid"
        )
    return parted


def augment_rows(
    rows: Sequence[Row], valid: Sequence[Row], test: Sequence[Row], recipe: Recipe, ask: bool = True
) -> Augmented | None:
    """What `data.augment` rewrites of training rows; None where the recipe does not augment.

    Args:
        rows: Cleaned, without those held out.
        valid: Rows to validate with, which no rewrite may be near to.
        test: Rows to test with, likewise.
        recipe: Says what is rewritten, and where.
        ask: As for `augment`.

    Raises:
        DataError: No row has the label, or the server cannot be asked.
    """
    if recipe.data.augment is None:
        return None
    named = [name for name, field in recipe.output.fields.items() if not isinstance(field, TextField)]
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
    if wanted.by == "labels" and isinstance(recipe.output.fields[wanted.field], LabelsField):
        return balance_labels([_labels(row, recipe, wanted.field) for row in rows], *how)
    return balance([label_class(row, recipe, wanted.field) for row in rows], *how)


def label_class(row: Row, recipe: Recipe, name: str) -> str:
    """The label of a field in a row, or its set of labels in one order, as one text."""
    return ", ".join(_labels(row, recipe, name))


def _labels(row: Row, recipe: Recipe, name: str) -> list[str]:
    """The labels of a field in a row, each once, in one order."""
    field = recipe.output.fields[name]
    value = row.fields.get(name)
    if not isinstance(field, LabelsField):
        return [str("" if value is None else value).strip()]
    found = set(split_labels(value, field.separator, field.labels))
    order = [label for label in field.labels or [] if label in found]
    return [*order, *sorted(found.difference(order))]


def require_every_label(recipe: Recipe, account: Account) -> None:
    """Refuse data whose rows of some label were all dropped for labels that the recipe does not know: a typo in it.

    Raises:
        DataError: Names the label and what was dropped.
    """
    unknown = [drop for drop in account.dropped if drop.reason == "unknown_label"]
    for name, field in recipe.output.fields.items():
        for label in (field.labels if isinstance(field, (LabelField, LabelsField)) else None) or []:
            if unknown and not account.labels.get(name, {}).get(label):
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


@dataclass(frozen=True)
class _Trained:
    """Rows to train on before balancing, and what was done to get them."""

    rows: Sequence[Row]
    account: Account | None
    held_out: int
    augmented: Augmented | None


def _rows_to_train_on(recipe: Recipe, ask: bool = True) -> _Trained:
    rows, account = _cleaned_training_rows(recipe)
    valid: Sequence[Row] = ()
    held_out = 0
    if recipe.data.valid_fraction is not None:
        parted = part_rows(rows, recipe)
        valid = [rows[index] for index in parted.held_out]
        rows, held_out = [rows[index] for index in parted.kept], len(valid)
    if recipe.data.augment is None:
        return _Trained(rows, account, held_out, None)
    if recipe.data.valid is not None:
        valid = read_rows(Path(recipe.data.valid), recipe.data.columns)
    test = () if recipe.data.test is None else read_rows(Path(recipe.data.test), recipe.data.columns)
    augmented = augment_rows(rows, valid, test, recipe, ask)
    return _Trained([*rows, *(augmented.rows if augmented else ())], account, held_out, augmented)


def _text(row: Row, recipe: Recipe) -> str:
    return str(row.fields.get(recipe.data.text, "")).strip()


def _cleaned_training_rows(recipe: Recipe) -> tuple[Sequence[Row], Account | None]:
    rows = read_rows(Path(recipe.data.train), recipe.data.columns)
    if recipe.data.clean == Clean():
        require_text_column(rows, recipe, recipe.data.train)
        return rows, None
    cleaned = clean(rows, recipe, recipe.data.clean)
    require_every_label(recipe, cleaned.account)
    return cleaned.rows, cleaned.account


def _split(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, account: Account | None, file: str) -> Split:
    require_text_column(rows, recipe, file)
    examples, left_out = check_lengths(build_examples(rows, recipe, tokenizer), rows, recipe)
    if not examples:
        why = (
            "cleaning dropped all of them"
            if not rows
            else f"all are longer than train.max_tokens = {recipe.train.max_tokens}"
        )
        raise DataError(f"{file}: no row is left; {why}")
    return Split(rows, examples, account, left_out)
