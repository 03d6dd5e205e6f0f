"""`mlxtune verify`: the recipe's own evaluation, run again on each artifact of a run, beside that of base plus adapter.

What a fused, quantized or converted model lost shows in its replies, so each artifact is loaded from its files, as its user
would load it, and asked the test rows. Differences are paired by row.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.adapter import WEIGHTS_FILE
from mlxtune.backends.base import Backend, Constraint, Generation, Model
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row
from mlxtune.errors import MlxtuneError, RunError
from mlxtune.evaluation.differences import compare
from mlxtune.evaluation.metrics.estimates import Estimate, mean_estimate
from mlxtune.evaluation.metrics.paired import Comparison
from mlxtune.evaluation.metrics.registry import headline, metric
from mlxtune.evaluation.predict.predictions import BOTH, CONSTRAINED, FREE, Prediction
from mlxtune.evaluation.predict.predictor import Predictor
from mlxtune.evaluation.predict.recording import record_predictions
from mlxtune.evaluation.score import score
from mlxtune.evaluation.stored import finished_evaluation, identity
from mlxtune.evaluation.subject import Subject, load_subject, read_test_rows
from mlxtune.export import llama_cpp, llama_server
from mlxtune.export.artifacts import Artifact, ArtifactKind, artifact, loaded
from mlxtune.export.exported import size_on_disk
from mlxtune.export.fuse import checked_logits, checked_prompts, largest_difference
from mlxtune.export.source import ExportSource, open_source
from mlxtune.files import write_json
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.progress import SILENT, Progress
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder

ADAPTER = "adapter"  # what base plus adapter is called in the table
WHOLE_REPLY = "reply"  # what metrics of whole replies stand under, where fields' stand under the field
TOLERANCE = 0.02

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadlineMetric:
    """The metric by which a field is called better or worse.

    Attributes:
        field: The field; WHOLE_REPLY for all fields together.
        name: The metric's, as scores.json has it.
        estimate: Of the artifact, with its interval.
        difference: Artifact less adapter, paired by row; None of the adapter itself.
    """

    field: str
    name: str
    estimate: Estimate
    difference: Comparison | None = None

    @property
    def title(self) -> str:
        """Field and metric: 'intents.exact_match'."""
        return f"{self.field}.{self.name}"

    def fell_by(self) -> float:
        """How much worse the artifact is than the adapter; negative where it is better."""
        if self.difference is None:
            return 0.0
        sign = -1 if metric(self.name).direction == "lower" else 1
        return -sign * self.difference.difference

    def to_json(self) -> dict[str, Any]:
        """As verify.json has it."""
        return {**self.estimate.to_json(), "difference": self.difference and self.difference.to_json()}


@dataclass(frozen=True)
class Verified:
    """One artifact, asked.

    Attributes:
        name: As `--artifacts` names it; ADAPTER for base plus adapter.
        path: Its file or folder; None where it was made for the occasion.
        loaded_by: "mlx", "torch" or "llama.cpp".
        decoding: 'free', 'constrained' or 'best'.
        n_bytes: Its size; of the adapter, without the base model.
        agreement: Share of rows whose reply says the same as the adapter's in every field.
        metrics: Of each field, and of whole replies.
        logit_difference: Largest of any logit on some prompts, to base plus adapter; None where logits are not to be had.
        seconds_per_row: Model time / rows.
    """

    name: str
    path: str | None
    loaded_by: str
    decoding: str
    n_bytes: int
    agreement: Estimate
    metrics: tuple[HeadlineMetric, ...]
    logit_difference: float | None
    seconds_per_row: float | None

    def lost(self, tolerance: float) -> list[HeadlineMetric]:
        """The metrics that fell by more than a tolerance."""
        return [one for one in self.metrics if one.fell_by() > tolerance]

    def to_json(self) -> dict[str, Any]:
        """As verify.json has it."""
        metrics: dict[str, dict[str, Any]] = {}
        for one in self.metrics:
            metrics.setdefault(one.field, {})[one.name] = one.to_json()
        return {
            "path": self.path,
            "loaded_by": self.loaded_by,
            "decoding": self.decoding,
            "bytes": self.n_bytes,
            "agreement": self.agreement.to_json(),
            "metrics": metrics,
            "largest_logit_difference": self.logit_difference,
            "seconds_per_row": self.seconds_per_row,
        }


@dataclass(frozen=True)
class Verification:
    """All of them.

    Attributes:
        run: The run.
        rows: Test rows asked.
        tolerance: How far a headline metric may fall.
        adapter: Base plus adapter, by decoding; an artifact is compared with the one of its own.
        artifacts: The artifacts, in the order asked for.
        failed: Artifact -> why it could not be made or loaded.
        notes: Sentences that a reader should know.
    """

    run: str
    rows: int
    tolerance: float
    adapter: Mapping[str, Verified]
    artifacts: tuple[Verified, ...]
    failed: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """A sentence for each headline metric that fell by more than the tolerance, and each artifact that failed."""
        fallen = [
            f"{one.name}: {lost.title} fell by {lost.fell_by():.3f}, to {lost.estimate.value:.3f}; "
            f"more than the tolerance of {self.tolerance:g}"
            for one in self.artifacts
            for lost in one.lost(self.tolerance)
        ]
        return [*fallen, *(f"{name}: {why}" for name, why in self.failed.items())]

    def to_json(self) -> dict[str, Any]:
        """The content of verify.json."""
        return {
            "run": self.run,
            "rows": self.rows,
            "tolerance": self.tolerance,
            "adapter": {name: one.to_json() for name, one in self.adapter.items()},
            "artifacts": {one.name: one.to_json() for one in self.artifacts},
            "failures": self.failures,
            "failed": dict(self.failed),
            "notes": list(self.notes),
        }


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
    """Evaluate artifacts of a run, and write verify.json into it.

    An artifact that lies in the run is taken; another is made for the occasion and removed again. One that cannot be made
    or loaded is a failure of its own and does not keep the others from being asked.

    Args:
        run: With an adapter and test rows.
        kinds: The artifacts, in the order of the table.
        backend: Computes.
        tolerance: How far a headline metric may fall.
        limit: Only the first so many test rows; None is all.
        progress: Told how far the rows are.

    Raises:
        RunError: The run has no adapter.
        RecipeError: The recipe names no test rows.
        DataError: The test rows cannot be read or used.
    """
    source = open_source(run, backend)
    subject = Subject(source.recipe, run, base=False)
    rows = read_test_rows(source.recipe)[:limit]
    ggufs = any(kind.to == "gguf" for kind in kinds)
    with_llama_cpp = ggufs and has_llama_cpp()
    asking = _Asking(source, rows, backend, progress)
    references = asking.references(subject, limit, free=with_llama_cpp)
    found: list[Verified] = []
    failed: dict[str, str] = {}
    notes: list[str] = []
    if ggufs and not with_llama_cpp:
        notes.append(
            f"GGUFs were read back by mlxtune alone: {llama_cpp.missing()}, and there is no {llama_server.PROGRAM} on the PATH"
        )
    for kind in kinds:
        try:
            with artifact(kind, run, backend) as one:
                found.append(asking.ask(one, references))
                if kind.to == "gguf" and with_llama_cpp:
                    found.append(asking.ask_llama_cpp(one, references))
        except MlxtuneError as error:
            failed[kind.name] = str(error)
    shown = {name: one.verified for name, one in references.items()}
    verification = Verification(str(run), len(rows), tolerance, shown, tuple(found), failed, tuple(notes))
    write_json(run.verify_file, verification.to_json())
    return verification


class _Asking:
    """One run's test rows, put to model after model; one model is in memory at a time."""

    def __init__(self, source: ExportSource, rows: Sequence[Row], backend: Backend, progress: Progress) -> None:
        self.source, self.rows, self.backend, self.progress = source, rows, backend, progress
        self.recipe: Recipe = source.recipe
        decoding = source.recipe.evaluate.decoding
        self.decoding: str = CONSTRAINED if decoding == BOTH else decoding
        self.prompts = checked_prompts(source.recipe, source.base)
        self.logits: list[NDArray[np.float32]] = []
        self.folder = source.run.verify
        self.adapter_hash = identity(source.run.adapter / WEIGHTS_FILE).sha256

    def references(self, subject: Subject, limit: int | None, free: bool) -> dict[str, _Reference]:
        """Base plus adapter, by decoding: its stored evaluation where that is whole and of these rows, else asked now.

        Args:
            subject: The run with its adapter.
            limit: As asked for.
            free: Whether free decoding is needed as well.
        """
        stored: dict[str, tuple[Sequence[Prediction], float | None]] = {}
        try:
            done = finished_evaluation(subject.evaluation(limit), subject, self.rows)
            if done is not None:
                top = done[0].top
                stored[top.decoding] = (done[1], None if top.speed is None else top.speed.seconds_per_row)
        except MlxtuneError as error:
            log.info("the run's own evaluation is not taken: %s", error)
        model, tokenizer = load_subject(subject, self.backend)
        self.logits = [checked_logits(model, prompt) for prompt in self.prompts]
        found = {}
        for decoding in dict.fromkeys([self.decoding, *([FREE] if free else [])]):
            predictions, seconds = stored.get(decoding) or self._asked(
                ADAPTER, model, tokenizer, decoding, self.adapter_hash
            )
            size = size_on_disk(self.source.run.adapter)
            shown = self._verified(ADAPTER, None, self.backend.name, size, predictions, predictions, 0.0, seconds)
            found[decoding] = _Reference(predictions, shown)
        return found

    def ask(self, one: Artifact, references: Mapping[str, _Reference]) -> Verified:
        """An artifact, loaded by the backend and asked in the recipe's decoding."""
        reference = references[self.decoding].predictions
        with loaded(one, self.source, self.backend) as (model, tokenizer, model_hash):
            distance = self._logit_difference(model)
            predictions, seconds = self._asked(one.kind.name, model, tokenizer, self.decoding, model_hash)
        del model
        gc.collect()
        path = str(one.path) if one.kept else None
        return self._verified(
            one.kind.name, path, self.backend.name, one.n_bytes, predictions, reference, distance, seconds
        )

    def ask_llama_cpp(self, one: Artifact, references: Mapping[str, _Reference]) -> Verified:
        """A GGUF, loaded by llama.cpp itself and asked the same prompts, greedily."""
        name = f"{one.kind.name} in llama.cpp"
        tokenizer = load_tokenizer(self.source.base)
        longest = max(map(len, prompt_ids(self.rows, self.recipe, tokenizer)))
        with load_in_llama_cpp(one.path, longest + self.recipe.evaluate.max_new_tokens) as writer:
            model = cast(Model, LlamaCppModel(writer, self.source.config))
            predictions, seconds = self._asked(name, model, tokenizer, FREE, None)
        path = str(one.path) if one.kept else None
        reference = references[FREE].predictions
        return self._verified(name, path, "llama.cpp", one.n_bytes, predictions, reference, None, seconds)

    def _logit_difference(self, model: Model) -> float:
        """Largest difference of any logit to base plus adapter; of a padded vocabulary the part that both have."""
        found = []
        for prompt, ours in zip(self.prompts, self.logits, strict=True):
            theirs = checked_logits(model, prompt)
            width = min(ours.shape[1], theirs.shape[1])
            found.append(largest_difference(theirs[:, :width], ours[:, :width]))
        return float(np.max(found))

    def _asked(
        self, name: str, model: Model, tokenizer: Tokenizer, decoding: str, model_hash: str | None
    ) -> tuple[list[Prediction], float]:
        """The model's replies, kept in the run, so that an interrupted verification goes on; and its seconds a row."""
        self.folder.mkdir(exist_ok=True)
        predictor = Predictor(self.recipe, model, tokenizer, decoding)
        file = self.folder / f"{name.replace(' in llama.cpp', '-llama.cpp')}-{decoding}.jsonl"
        self.progress.begin(f"{name}, {decoding} decoding", len(self.rows))
        recorded = record_predictions(file, self.rows, predictor, self.progress, model_hash=model_hash)
        return recorded.predictions, recorded.seconds / len(self.rows)

    def _verified(
        self,
        name: str,
        path: str | None,
        loaded_by: str,
        n_bytes: int,
        predictions: Sequence[Prediction],
        reference: Sequence[Prediction],
        logit_difference: float | None,
        seconds: float | None,
    ) -> Verified:
        """How an artifact stands beside base plus adapter."""
        seed = self.recipe.train.seed
        same = [ours.predicted == theirs.predicted for ours, theirs in zip(predictions, reference, strict=True)]
        return Verified(
            name,
            path,
            loaded_by,
            predictions[0].decoding,
            n_bytes,
            mean_estimate(same, seed),
            _headlines(predictions, None if predictions is reference else reference, self.recipe),
            logit_difference,
            seconds,
        )


class Writer(Protocol):
    """What writes greedy replies: llama.cpp in either way."""

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int]
    ) -> list[Generation]:
        """Replies to prompts of token ids."""
        ...


class LlamaCppModel:
    """A model that llama.cpp holds, as far as a `Predictor` that decodes freely asks for one.

    Args:
        writer: Writes the replies.
        config: config.json of the model.
    """

    def __init__(self, writer: Writer, config: Mapping[str, Any]) -> None:
        self._writer, self.config = writer, config

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Generation]:
        """Greedy replies to all prompts.

        Raises:
            ValueError: A constraint, or a temperature.
        """
        if constraint is not None or temperature:
            raise ValueError("llama.cpp is asked freely and greedily here")
        return self._writer.generate(prompts, max_new_tokens, stop_tokens)


def has_llama_cpp() -> bool:
    """Whether llama.cpp can be asked here, in one way or the other."""
    return llama_cpp.missing() is None or llama_server.found()


def load_in_llama_cpp(gguf: Path, context: int) -> AbstractContextManager[Writer]:
    """A GGUF in llama.cpp: by the npm package node-llama-cpp, or by llama-server where that is not here.

    Args:
        gguf: The file.
        context: Tokens of a prompt with its reply at most.
    """
    if llama_cpp.missing() is None:
        return llama_cpp.LlamaCpp(gguf, context=context)
    return llama_server.LlamaServer(gguf, context=context)


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


def read_verification(run: RunFolder) -> dict[str, Any] | None:
    """The content of a run's verify.json; None where it was not verified.

    Raises:
        RunError: The file cannot be read.
    """
    import json

    file: Path = run.verify_file
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}; run `mlxtune verify {run}` again") from error
