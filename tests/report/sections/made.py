"""Evaluations to make sections of, from the golden files, and what a section says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from mlxtune.evaluation.fields.scorer import Column
from mlxtune.evaluation.predict.predictions import read_predictions
from mlxtune.evaluation.results import EvaluationResult
from mlxtune.evaluation.score import column
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.report.blocks import Block, Folded, Paragraph, Section, Table
from mlxtune.report.contents.run import EvaluationContents

GOLDEN = Path(__file__).parents[2] / "evaluation" / "golden"
UNSTABLE = ("evaluated", "speed", "baseline_speed")  # "..." in the golden files
B = TypeVar("B", bound=Block)


@cache
def contents_of(language: str, case: str, name: str) -> EvaluationContents:
    """A golden evaluation."""
    folder = GOLDEN / language / "expected" / case / name
    content = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    for one in (content, *content.get("decodings", {}).values()):
        for key in UNSTABLE:
            one.pop(key, None)
    result = EvaluationResult.from_json(content)
    recipe = load_recipe(GOLDEN / language / "recipe.yaml")
    return EvaluationContents(folder, result, read_predictions(folder / "predictions.jsonl"), _only(recipe, result))


def _only(recipe: Recipe, result: EvaluationResult) -> Recipe:
    """The recipe with the fields that were evaluated; of one field, it is the whole reply."""
    names = list(result.top.fields)
    if len(names) == len(recipe.output.fields):
        return recipe
    found = {name: recipe.output.fields[name] for name in names}
    template = "\n".join(f"{{{name}}}" for name in names)
    return recipe.model_copy(
        update={"output": recipe.output.model_copy(update={"template": template, "fields": found})}
    )


def scores_of(contents: EvaluationContents, field: str) -> Any:
    """A field's scores, of whichever kind they are."""
    return contents.result.top.fields[field]


def column_of(contents: EvaluationContents, name: str) -> Column:
    """A field of an evaluation's predictions."""
    return column(contents.predictions, name)


def section_of(sections: Sequence[Section], field: str) -> Section:
    """The section of a field."""
    return next(section for section in sections if section.name == f"field-{field}")


def blocks_of(section: Section | None) -> Iterator[Block]:
    """The blocks of a section, those that are folded included."""
    assert section is not None
    waiting = list(section.blocks)
    while waiting:
        block = waiting.pop(0)
        yield block
        if isinstance(block, Folded):
            waiting = [*block.blocks, *waiting]


def one(section: Section | None, kind: type[B]) -> B:
    """The only block of a kind."""
    (found,) = [block for block in blocks_of(section) if isinstance(block, kind)]
    return found


def paragraphs(section: Section | None) -> list[Paragraph]:
    """The paragraphs of a section, those that are folded left out."""
    assert section is not None
    return [block for block in section.blocks if isinstance(block, Paragraph)]


def table(section: Section | None, title: str) -> Table:
    """The table of a title."""
    (found,) = [block for block in blocks_of(section) if isinstance(block, Table) and block.title == title]
    return found


def texts(value: Any) -> str:
    """Everything that a section says, a line each."""
    if isinstance(value, str):
        return value
    if is_dataclass(value):
        return "\n".join(texts(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, dict):
        return "\n".join(texts(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return "\n".join(map(texts, value))
    return ""
