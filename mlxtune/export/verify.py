"""`mlxtune verify`: the recipe's own evaluation, run again on each artifact of a run, beside that of base plus adapter.

What a fused, quantized or converted model lost shows in its replies, so each artifact is loaded from its files, as its user
would load it, and asked the test rows. Differences are paired by row.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Backend, Model
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row
from mlxtune.errors import MlxtuneError, ModelError, ProcessLost
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.metrics.estimates import mean_estimate
from mlxtune.evaluation.metrics.registry import headline
from mlxtune.evaluation.predict.predictions import BOTH, CONSTRAINED, FREE, Prediction
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.recording import record_predictions
from mlxtune.evaluation.results import EvaluatedModel
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import find_evaluation, identity
from mlxtune.evaluation.subject import Subject, load_subject, read_test_rows
from mlxtune.export import llama_cpp, llama_server
from mlxtune.export.artifacts import Artifact, ArtifactKind, loaded, shared_artifact
from mlxtune.export.exported import ExportNotWritten, size_on_disk
from mlxtune.export.fuse import checked_logits, checked_prompts, largest_difference
from mlxtune.export.in_llama_cpp import LlamaCppModel, has_llama_cpp, load_in_llama_cpp
from mlxtune.export.source import ExportSource, open_source
from mlxtune.export.verification import ADAPTER, WHOLE_REPLY, HeadlineMetric, Verification, Verified
from mlxtune.files import write_json
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.models.writing import CannotWrite
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder, locked

TOLERANCE = 0.02
IN_LLAMA_CPP = " in llama.cpp"  # after the name of a GGUF that llama.cpp itself was asked about

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Asked:
    """What a model replied to the test rows.

    Attributes:
        predictions: In row order.
        loaded_by: "mlx", "torch" or "llama.cpp".
        seconds_per_row: Model time / rows; None where it was not measured.
    """

    predictions: Sequence[Prediction]
    loaded_by: str
    seconds_per_row: float | None


@dataclass(frozen=True)
class _Reference:
    """What base plus adapter replied in one decoding, and how it stands in the table."""

    predictions: Sequence[Prediction]
    verified: Verified


def verify_run(
    run: RunFolder,
    kinds: Sequence[ArtifactKind],
    backend: Backend,
    *,
    tolerance: float = TOLERANCE,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Evaluate artifacts of a run, and write what was found into it (`verification_file`).

    An artifact that is already in the run is used; any other is made, and removed afterwards. One that cannot be made
    or loaded is a failure of its own and does not keep the others from being asked.

    Args:
        run: With an adapter and test rows.
        kinds: The artifacts, in the order of the table.
        backend: Computes.
        tolerance: How far a headline metric may fall.
        limit: Only the first so many test rows; None is all.
        progress: Told how far the rows are.

    Raises:
        RunError: The run has no adapter, or is being verified by another process.
        ModelError: The logits of base plus adapter are no finite numbers.
        RecipeError: The recipe names no test rows.
        DataError: The test rows cannot be read or used.
    """
    source = open_source(run, backend)
    rows = read_test_rows(source.recipe)[:limit]
    file = verification_file(run, limit)
    folder = run.verify if limit is None else file.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder, "wait for it"):
            verification = _verify(
                source, rows, kinds, _Asking(source, rows, backend, folder, progress), tolerance, limit
            )
            write_json(file, verification.to_json())
    except KeyboardInterrupt:
        log.info("Replies so far are kept in %s; run the same command again to continue.", folder)
        raise
    return verification


def verification_file(run: RunFolder, limit: int | None = None) -> Path:
    """Where a verification is written; one of the first rows alone replaces none of all rows."""
    return run.verify_file if limit is None else run.verify / f"first-{limit}" / run.verify_file.name


def _verify(
    source: ExportSource,
    rows: Sequence[Row],
    kinds: Sequence[ArtifactKind],
    asking: _Asking,
    tolerance: float,
    limit: int | None,
) -> Verification:
    """Ask base plus adapter, then artifact after artifact."""
    ggufs = any(kind.to == "gguf" for kind in kinds)
    group = asking.backend.group()
    with_llama_cpp = bool(group.gather(ggufs and has_llama_cpp())[0])
    references = asking.references(limit, free=with_llama_cpp)
    found: list[Verified] = []
    failed: dict[str, str] = {}
    notes: list[str] = []
    if source.trained_base is not None:
        notes.append(f"`{ADAPTER}` stands for the run's own model here, which was trained whole and has no adapter")
    if ggufs and not with_llama_cpp:
        notes.append(
            f"GGUFs were read back by mlxtune alone: {llama_cpp.missing()}, and there is no {llama_server.PROGRAM} on the PATH"
        )
    for kind in kinds:
        name = kind.name
        try:
            with shared_artifact(kind, source.run, asking.backend) as one:
                found.append(asking.ask(one, references))
                if kind.to == "gguf" and with_llama_cpp:
                    name = f"{kind.name}{IN_LLAMA_CPP}"
                    if group.rank != 0:
                        continue  # it is asked by one process
                    found.append(asking.ask_llama_cpp(one, name, references))
        except ProcessLost:
            raise
        except (CannotWrite, ExportNotWritten) as error:  # its place is a temporary one, in the run
            failed[name] = str(ExportNotWritten(source.run.path, error.cause))
        except OSError as error:
            failed[name] = str(ExportNotWritten(source.run.path, error))
        except MlxtuneError as error:
            failed[name] = str(error)
    if taken := {one.name: one.path for one in found if one.path is not None and one.loaded_by == asking.backend.name}:
        notes.append(
            f"not made now but taken from the run: {', '.join(f'{name} ({path})' for name, path in taken.items())}"
        )
    shown = {name: one.verified for name, one in references.items()}
    return Verification(str(source.run), len(rows), tolerance, shown, tuple(found), failed, tuple(notes))


class _Asking:
    """One run's test rows, put to model after model; one model is in memory at a time.

    Args:
        source: The run.
        rows: Its test rows, or the first of them.
        backend: Computes.
        folder: Keeps the replies, so that an interrupted verification goes on.
        progress: Told how far the rows are.
    """

    def __init__(
        self, source: ExportSource, rows: Sequence[Row], backend: Backend, folder: Path, progress: Progress
    ) -> None:
        self.source, self.rows, self.backend, self.folder, self.progress = source, rows, backend, folder, progress
        self.recipe: Recipe = source.recipe
        decoding = source.recipe.evaluate.decoding
        self.decoding: str = CONSTRAINED if decoding == BOTH else decoding
        self.prompts = checked_prompts(source.recipe, source.base)
        self.logits: list[NDArray[np.float32]] = []

    def references(self, limit: int | None, free: bool) -> dict[str, _Reference]:
        """Base plus adapter, by decoding: its stored evaluation where that is whole and of these rows, else asked now.

        Args:
            limit: As asked for.
            free: Whether free decoding is needed as well.
        """
        subject = Subject(self.recipe, self.source.run, base=False)
        stored = self._stored(subject, limit)
        model, tokenizer = load_subject(subject, self.backend)
        self.logits = [checked_logits(model, prompt) for prompt in self.prompts]
        if not all(np.isfinite(one).all() for one in self.logits):
            raise ModelError(
                f"{self.source.run}: the logits of its adapter are no finite numbers, so there is nothing to compare with; "
                "verify another run, or train this one again"
            )
        adapter_hash = identity(self.source.run.trained_file).sha256
        size = size_on_disk(self.source.run.trained)
        found = {}
        for decoding in dict.fromkeys([self.decoding, *([FREE] if free else [])]):
            asked = stored.get(decoding) or self._asked(ADAPTER, model, tokenizer, decoding, adapter_hash)
            found[decoding] = _Reference(asked.predictions, self._verified(ADAPTER, None, size, asked, None, 0.0))
        return found

    def ask(self, one: Artifact, references: Mapping[str, _Reference]) -> Verified:
        """An artifact, loaded by the backend and asked in the recipe's decoding."""
        with loaded(one, self.source, self.backend) as (model, tokenizer, model_hash):
            distance = self._logit_difference(one, model)
            asked = self._asked(one.kind.name, model, tokenizer, self.decoding, model_hash)
        del model
        gc.collect()
        reference = references[self.decoding].predictions
        return self._verified(one.kind.name, one, one.n_bytes, asked, reference, distance)

    def ask_llama_cpp(self, one: Artifact, name: str, references: Mapping[str, _Reference]) -> Verified:
        """A GGUF, loaded by llama.cpp itself and asked the same prompts, greedily."""
        tokenizer = load_tokenizer(self.source.base)
        longest = max(map(len, prompt_ids(self.rows, self.recipe, tokenizer)))
        with load_in_llama_cpp(one.path, longest + self.recipe.evaluate.max_new_tokens) as writer:
            model = cast(Model, LlamaCppModel(writer, self.source.config))
            asked = self._asked(name, model, tokenizer, FREE, None)
        return self._verified(name, one, one.n_bytes, asked, references[FREE].predictions, None)

    def _stored(self, subject: Subject, limit: int | None) -> dict[str, _Asked]:
        """Decoding -> the run's own evaluation of these rows; empty where there is none."""
        folder = subject.evaluation(limit)
        try:
            found = find_evaluation(folder, subject, self.rows)
        except MlxtuneError as error:
            log.info("the adapter is asked again: %s", error)
            return {}
        if found is None:
            return {}
        if found.other:
            log.info("%s is of %s: the adapter is asked again", folder, ", ".join(found.other))
            return {}
        evaluated, top = found.result.evaluated, found.result.top
        by = evaluated.backend if isinstance(evaluated, EvaluatedModel) else self.backend.name
        return {top.decoding: _Asked(found.predictions, by, None if top.speed is None else top.speed.seconds_per_row)}

    def _logit_difference(self, one: Artifact, model: Model) -> float:
        """Largest difference of any logit to base plus adapter; of a padded vocabulary the part that both have.

        Raises:
            ModelError: Some logit is no finite number.
        """
        found = []
        for prompt, ours in zip(self.prompts, self.logits, strict=True):
            theirs = checked_logits(model, prompt)
            width = min(ours.shape[1], theirs.shape[1])
            found.append(largest_difference(theirs[:, :width], ours[:, :width]))
        if not np.isfinite(found).all():
            raise ModelError(f"{one.path}: its logits are no finite numbers")
        return float(np.max(found))

    def _asked(self, name: str, model: Model, tokenizer: Tokenizer, decoding: str, model_hash: str | None) -> _Asked:
        """The model's replies, kept in the folder; those of another backend, or of another model, are asked anew."""
        predictor = Predictor(self.recipe, model, tokenizer, decoding)
        by = self.backend.name if model_hash is not None else "llama.cpp"
        file = self.folder / f"{name.replace(IN_LLAMA_CPP, '-llama.cpp')}-{decoding}.jsonl"
        self.progress.begin(f"{name}, {decoding} decoding", len(self.rows))
        recorded = record_predictions(
            file, self.rows, predictor, self.progress, model_hash=model_hash and f"{by}:{model_hash}"
        )
        return _Asked(recorded.predictions, by, recorded.seconds / len(self.rows))

    def _verified(
        self,
        name: str,
        one: Artifact | None,
        n_bytes: int,
        asked: _Asked,
        reference: Sequence[Prediction] | None,
        logit_difference: float | None,
    ) -> Verified:
        """How an artifact stands beside base plus adapter; with no reference it is these themselves."""
        predictions = asked.predictions
        others = predictions if reference is None else reference
        same = [ours.predicted == theirs.predicted for ours, theirs in zip(predictions, others, strict=True)]
        return Verified(
            name,
            str(one.path) if one is not None and one.kept else None,
            asked.loaded_by,
            predictions[0].decoding,
            n_bytes,
            mean_estimate(same, self.recipe.train.seed),
            _headlines(predictions, reference, self.recipe),
            logit_difference,
            asked.seconds_per_row,
        )


def _headlines(
    predictions: Sequence[Prediction], reference: Sequence[Prediction] | None, recipe: Recipe
) -> tuple[HeadlineMetric, ...]:
    """The headline metric of each field, and of whole replies where there are several fields."""
    scored = score(predictions, recipe)
    against = None if reference is None else compare(predictions, reference, recipe, ADAPTER)
    found = []
    for field, scores in scored.fields.items():
        estimates = scores.metrics
        name = headline(estimates)
        if name is not None:
            difference = None if against is None else against.fields[field][name]
            found.append(HeadlineMetric(field, name, estimates[name], difference))
    name = headline(scored.replies)
    if name is not None and len(scored.fields) > 1:
        difference = None if against is None else against.replies[name]
        found.append(HeadlineMetric(WHOLE_REPLY, name, scored.replies[name], difference))
    return tuple(found)
