"""The splits of a data report as .jsonl files: what is trained on, to look at, share or train on as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mlxtune.data.report import SPLITS, DataReport
from mlxtune.data.rows import SYNTHETIC, Row
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import DataError
from mlxtune.files import write_text
from mlxtune.recipe.sections import Recipe


def refuse_existing(folder: Path, recipe: Recipe, force: bool) -> None:
    """Refuse to overwrite files, before anything is computed.

    Raises:
        DataError: A file lies where a split would be written and `force` is off; or it is one that the recipe
            reads, which is never overwritten; or the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder to write to, this is a file; choose another --write")
    own = {os.path.realpath(file) for file in recipe.data.files}
    for file in _files(folder, [name for name in SPLITS if _has(recipe, name)]).values():
        if os.path.realpath(file) in own:
            raise DataError(f"{file}: the recipe reads this file, so it cannot be written; choose another --write")
        if file.exists() and not force:
            raise DataError(f"{file}: exists; choose another --write, or --force to replace it")


def write_splits(report: DataReport, folder: Path) -> dict[str, Path]:
    """Write the rows of each split, under the recipe's names for the columns, and conversations as messages; each file whole
    or not at all.

    Returns:
        Split -> file.

    Raises:
        DataError: A file cannot be written.
    """
    files = _files(folder, list(report.splits))
    template = ReplyTemplate(report.recipe.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            rows = report.splits[name].rows
            write_text(
                file,
                "".join(json.dumps(_record(row, template, report.recipe), ensure_ascii=False) + "\n" for row in rows),
            )
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}; choose another --write") from error
    return files


def _record(row: Row, template: ReplyTemplate, recipe: Recipe) -> dict[str, Any]:
    """The columns of a row, with the mark by which a synthetic one is known when it is read back."""
    if row.conversation is not None and not row.is_document:
        made = {recipe.data.text, *template.fields}
        rest = {name: value for name, value in row.fields.items() if name not in made}
        reply = template.format(template.read(row.fields)[0])[0]
        return {**rest, **row.conversation.as_record(reply)}
    return {**row.fields, SYNTHETIC: True} if row.synthetic else dict(row.fields)


def _files(folder: Path, names: list[str]) -> dict[str, Path]:
    return {name: folder / f"{name}.jsonl" for name in names}


def _has(recipe: Recipe, name: str) -> bool:
    return getattr(recipe.data, name) is not None or (name == "valid" and recipe.data.valid_fraction is not None)
