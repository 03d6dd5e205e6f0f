"""A recipe's training data, ready: rows read, cleaned and turned into examples that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.data.cleaning import Account, clean_rows
from mlxtune.data.examples import Example, build_examples, check_lengths
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe import Clean, LabelField, LabelsField, Recipe, TextField


@dataclass(frozen=True)
class Split:
    """Rows of one file and the examples made of them; an example's `row` is an index into `rows`.

    Attributes:
        rows: As read, cleaned.
        examples: Those that fit into `train.max_tokens`.
        account: What cleaning did; None where the recipe does not clean.
        left_out: "file:line: N tokens" of each row that did not fit.
    """

    rows: Sequence[Row]
    examples: list[Example]
    account: Account | None
    left_out: list[str]


def training_split(recipe: Recipe, tokenizer: Tokenizer) -> Split:
    """Training rows, cleaned as `data.clean` says.

    Raises:
        DataError: The file cannot be read, rows are wrong, or none is left.
    """
    rows: Sequence[Row] = read_rows(Path(recipe.data.train), recipe.data.columns)
    account = None
    if recipe.data.clean != Clean():
        cleaned = clean_rows(
            rows,
            text_column=recipe.data.text,
            label_columns={
                name: field.labels if isinstance(field, (LabelField, LabelsField)) else None
                for name, field in recipe.output.fields.items()
            },
            settings=recipe.data.clean,
            free_text=[name for name, field in recipe.output.fields.items() if isinstance(field, TextField)],
            separators={
                name: field.separator for name, field in recipe.output.fields.items() if isinstance(field, LabelsField)
            },
        )
        rows, account = cleaned.rows, cleaned.account
        _require_every_label(recipe, account)
    return _split(rows, recipe, tokenizer, account, recipe.data.train)


def validation_split(recipe: Recipe, tokenizer: Tokenizer) -> Split | None:
    """Validation rows as they are; None where the recipe names none."""
    if recipe.data.valid is None:
        return None
    rows = read_rows(Path(recipe.data.valid), recipe.data.columns)
    return _split(rows, recipe, tokenizer, None, recipe.data.valid)


def _require_every_label(recipe: Recipe, account: Account) -> None:
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


def _split(rows: Sequence[Row], recipe: Recipe, tokenizer: Tokenizer, account: Account | None, file: str) -> Split:
    if rows and not any(recipe.data.text in row.fields for row in rows):
        has = ", ".join(map(repr, rows[0].fields))
        raise DataError(
            f"{file}: data.text names {recipe.data.text!r}, but no row has that column; the first has {has}"
        )
    examples, left_out = check_lengths(build_examples(rows, recipe, tokenizer), rows, recipe)
    if not examples:
        why = (
            "cleaning dropped all of them"
            if not rows
            else f"all are longer than train.max_tokens = {recipe.train.max_tokens}"
        )
        raise DataError(f"{file}: no row is left; {why}")
    return Split(rows, examples, account, left_out)
