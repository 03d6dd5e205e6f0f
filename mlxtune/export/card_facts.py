"""What a model card is written from, read from a run: recipe, results, verification, license. Writes no Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxtune.evaluation.results import EvaluationResult
from mlxtune.evaluation.stored import comparable, is_of_adapter, read_result
from mlxtune.evaluation.subject import Subject
from mlxtune.export.card_usage import HubArtifact
from mlxtune.export.gguf_model import context_length
from mlxtune.export.ollama import modelfile
from mlxtune.export.source import ExportSource
from mlxtune.export.verification import Verification, read_verification
from mlxtune.models.license import License, license_of
from mlxtune.models.source import find
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import TUNED


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from.

    Attributes:
        repository: OWNER/NAME.
        artifact: What is in it.
        recipe: The run's.
        info: run.json.
        result: The evaluation with the adapter; None where there is none of this adapter.
        before: That of the base model on the same questions.
        verification: What verify.json says.
        license: The base model's.
        modelfile: For Ollama, of a repository with a GGUF.
        notes: What could not be said in the card, for whoever uploads it.
    """

    repository: str
    artifact: HubArtifact
    recipe: Recipe
    info: Mapping[str, Any]
    result: EvaluationResult | None = None
    before: EvaluationResult | None = None
    verification: Verification | None = None
    license: License | None = None
    modelfile: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)


def card_facts(run: RunFolder, source: ExportSource, artifact: HubArtifact, repository: str) -> CardFacts:
    """Read what a card is written from.

    Args:
        run: With an adapter.
        source: The same run, opened.
        artifact: What is in the repository.
        repository: OWNER/NAME.

    Raises:
        RunError: scores.json or verify.json cannot be read.
    """
    recipe, notes = source.recipe, []
    result = read_result(run.evaluation(TUNED))
    if result is not None and not is_of_adapter(result, run):
        notes.append("the evaluation is of an earlier adapter; the card leaves it out, evaluate the run again")
        result = None
    elif result is None:
        notes.append(f"the run was not evaluated, and the card says so; `mlxtune evaluate {run}` evaluates it")
    before = None if result is None else _before(Subject(recipe, run, base=False), result)
    verification = read_verification(run)
    if verification is not None and run.verify_file.stat().st_mtime < run.trained_file.stat().st_mtime:
        notes.append("verify.json is of an earlier adapter; the card leaves it out, verify the run again")
        verification = None
    own = find(recipe.model.path, revision=recipe.model.revision, need="config").path
    license_found = license_of(own)
    if license_found is None:
        notes.append("the base model's files name no license that the Hub knows; the card names none: add it")
    ollama = None
    if artifact.format == "gguf":
        n_positions = context_length(source.config)
        ollama = modelfile(f"FROM ./{artifact.file}", recipe, load_tokenizer(source.base), n_positions)
    return CardFacts(
        repository, artifact, recipe, run.info(), result, before, verification, license_found, ollama, tuple(notes)
    )


def _before(subject: Subject, result: EvaluationResult) -> EvaluationResult | None:
    """The base model's evaluation on the same questions, where there is one."""
    for folder in subject.counterparts():
        other = read_result(folder)
        if other is not None and comparable(result.evaluated, other.evaluated):
            return other
    return None
