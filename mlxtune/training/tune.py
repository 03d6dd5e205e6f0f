"""One training from recipe to run folder: data, base model, what is trained of it, loop, and the facts of it in run.json."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.architecture import Architecture
from mlxtune.backends.base import Backend, ChosenBackend, FullSpec, LoraSpec, Model, TuningSpec
from mlxtune.backends.experts import is_expert
from mlxtune.backends.group import in_turns, require_same, together
from mlxtune.data.cleaning import CleaningReport
from mlxtune.data.examples import within_positions
from mlxtune.data.packing import step_rows
from mlxtune.data.prepare import Split
from mlxtune.data.prepared_cache import cached_prepare
from mlxtune.data.reading import format_of, rows_hash
from mlxtune.data.rows import Row
from mlxtune.errors import ModelError, RunError
from mlxtune.files import write_text
from mlxtune.models.base_model import base_folder, config_and_tokenizer, fingerprint, require_base
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.events import Event
from mlxtune.runs.folder import RunFolder, new_run
from mlxtune.runs.layout import FAILED, FINISHED, INTERRUPTED, TRAINING
from mlxtune.training.agreement import training_facts
from mlxtune.training.checkpoints import Checkpoints
from mlxtune.training.diagnosis import diagnose
from mlxtune.training.fit import agreed_fit, fitted
from mlxtune.training.loop import Measure, Outcome, Steps, train
from mlxtune.training.memory import Workload, n_trained
from mlxtune.training.resume import (
    adapter_to_begin_from,
    check_data,
    check_recipe,
    measured_anew,
    model_to_begin_from,
    require_trained,
)
from mlxtune.training.selection import Selection
from mlxtune.training.trackers import Trackers, require
from mlxtune.version import __version__

log = logging.getLogger(__name__)

FLOAT32 = "float32"  # the type that all weights are trained in


@dataclass(frozen=True)
class Tuned:
    """A training that ended: its run folder, how it ended, and run.json's content."""

    run: RunFolder
    outcome: Outcome
    info: dict[str, Any]


def tune(
    recipe: Recipe,
    choice: ChosenBackend,
    out: Path | None = None,
    force: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    *,
    resume: RunFolder | None = None,
    begin_from: RunFolder | None = None,
    measures: Callable[[Recipe, Tokenizer, Sequence[Row]], Measure] | None = None,
    profile: bool = False,
) -> Tuned:
    """Train a recipe's adapter, or its whole model.

    Args:
        recipe: What to train.
        choice: The backend.
        out: Run folder; None makes one under runs/.
        force: Replace a run that lies at `out`.
        on_event: Called with each event of metrics.jsonl.
        resume: A run to resume from its last intact checkpoint; `out` and `force` are ignored then.
        begin_from: A run from whose adapter or model the new one starts.
        measures: Makes what measures replies to the validation rows, for recipes that select by a metric of them.
        profile: Measure where the time goes, for run.json's "profile".

    Returns:
        The run; its outcome says whether it was interrupted.

    Raises:
        MlxtuneError: Data, model or settings cannot be used; nothing was written unless training had begun.
    """
    require(recipe.track)
    backend = choice.backend
    group = backend.group()
    read = in_turns(group, lambda: _read(recipe, backend, resume))
    recipe, training, validation = read.recipe, read.training, read.validation
    device = backend.device()
    with together(group):
        workload = Workload(
            recipe, read.config, read.architecture, read.spec, device, backend.name, group.rank, group.size
        )
        fit = fitted(workload, training.examples)
        fit.require()
    if note := fit.note():
        log.info(note)
    recipe = agreed_fit(group, fit)
    steps = Steps.of(len(step_rows(training.examples, recipe.train.pack_to)), recipe)
    with together(group):
        data = _data_facts(recipe, training, validation)
        if resume:
            check_data(resume, data)
            _require_something_left(resume, recipe, steps)
        measure = None
        if measures and Selection.of(recipe).needs_replies:
            measure = measures(recipe, read.tokenizer, validation.rows if validation else ())
    folder = in_turns(group, lambda: base_folder(recipe.model, backend))
    splits = {"train": training.examples, "valid": validation.examples if validation else []}
    if group.size > 1:
        require_same(group, training_facts(backend, recipe, folder, splits))
    with together(group):
        model = _load(recipe, backend, folder, read, resume, begin_from)
    trainable = n_trained(read.spec, read.architecture)
    again = ", with gradient checkpointing" if recipe.train.gradient_checkpointing else ""
    shared = f", shared by {group.size} processes" if group.size > 1 else ""
    log.info(
        f"training {trainable:,} of {read.architecture.n_parameters:,} parameters for {steps.total:,} steps, {steps.per_epoch:,} an epoch, "
        f"in forward passes of up to {recipe.train.tokens_per_pass:,} positions{again}{shared}",
    )
    if read.architecture.experts_per_token:
        log.info(
            f"a token is computed with {read.architecture.n_active_parameters:,} of them; routers stay as they are, without an auxiliary loss"
        )

    with contextlib.ExitStack() as stack:
        with together(group) as report:
            if group.rank == 0:
                run = resume or new_run(recipe, out, force)
                stack.enter_context(run.locked())
                facts: dict[str, Any] = {
                    "status": TRAINING,
                    "mlxtune": __version__,
                    "python": platform.python_version(),
                    "platform": platform.platform(),
                    "backend": backend.name,
                    "device": asdict(device),
                    "processes": group.size,
                    "reason": choice.reason,
                    "versions": backend.versions(),
                    "steps": {"per_epoch": steps.per_epoch, "total": steps.total},
                    "tokens_per_pass": recipe.train.tokens_per_pass,
                    "memory": {
                        "planned_gb": round(fit.n_bytes / 1e9, 4),
                        "available_gb": round(fit.available_bytes / 1e9, 4),
                        "checkpointing_chosen": fit.plain_bytes is not None
                        or (resume is not None and _chose_checkpointing(resume)),
                    },
                }
                if resume:
                    _write_resumed(run, recipe, facts, read.changed)
                else:
                    run.update_info(
                        created=_now(),
                        **facts,
                        seed=recipe.train.seed,
                        base={"path": recipe.model.path, "folder": str(folder), "fingerprint": fingerprint(folder)},
                        data=data,
                        parameters=read.architecture.n_parameters,
                        trainable_parameters=trainable,
                        begun_from=None if begin_from is None else str(begin_from.path.resolve()),
                        command=_command(),
                    )
                report.value = str(run.path)
        run = RunFolder(Path(report.values[0]))  # of the other processes to name it alone

        def trained(observe: Callable[[Event], None]) -> Outcome:
            return train(
                model, backend, recipe, read.spec, training.examples, splits["valid"], run, observe, measure,
                resume is not None, measured_anew(read.changed), profile, base=folder,
            )  # fmt: skip

        if group.rank != 0:
            return Tuned(run, trained(lambda event: None), {})
        outcome = _recorded(run, recipe, on_event, trained)
        progress = outcome.progress
        run.update_info(
            status=outcome.status,
            finished=_now(),
            step=progress.step,
            stopped=outcome.stopped,
            adapter_step=outcome.adapter_step,
            train_loss=progress.train_loss,
            valid_loss=progress.valid_loss,
            best=None if progress.best is None else progress.best.as_json(),
            seconds=round(progress.seconds, 3),
            tokens=progress.tokens,
            tokens_per_second=round(progress.tokens / progress.seconds, 1) if progress.seconds else 0.0,
            peak_memory_gb=round(backend.peak_memory_bytes() / 1e9, 4),
            losses=outcome.losses.to_json(),
            profile=None if outcome.profile is None else outcome.profile.to_json(),
            diagnosis=diagnose(progress.validations, recipe).as_json() if progress.validations else None,
        )
    return Tuned(run, outcome, run.info())


@dataclass(frozen=True)
class _Read:
    """What a training takes from files before it loads weights.

    Attributes:
        recipe: As the model and the run that is resumed limit it.
        config: The base model's config.json.
        architecture: What it is made of.
        spec: What is trained.
        tokenizer: The base model's.
        training: Rows to train on.
        validation: Rows to validate with.
        changed: Recipe keys that changed since the run that is resumed started.
    """

    recipe: Recipe
    config: Mapping[str, Any]
    architecture: Architecture
    spec: TuningSpec
    tokenizer: Tokenizer
    training: Split
    validation: Split | None
    changed: list[str]


def _read(recipe: Recipe, backend: Backend, resume: RunFolder | None) -> _Read:
    """Read and prepare what is there before the weights; each is downloaded where it must be."""
    if resume:
        require_trained(resume)
    config, tokenizer_folder = config_and_tokenizer(recipe.model)
    given, recipe = recipe, within_positions(recipe, config)
    if recipe != given:
        log.info(
            f"train.max_tokens is lowered to {recipe.train.max_tokens:,}, the number of positions that the model has"
        )
    architecture = backend.architecture(config)
    spec = tuning_spec(recipe, architecture, config)
    require_shardable(recipe, backend, config, spec)
    if recipe.model.shard and backend.group().size == 1:
        log.info("model.shard: this is one process, which holds all weights of the base model")
    changed: list[str] = []
    if resume:
        recipe = resume.with_its_passes(recipe)
        changed = check_recipe(recipe, resume)
    tokenizer = load_tokenizer(tokenizer_folder)
    prepared = cached_prepare(recipe, tokenizer)
    training, validation = prepared.training, prepared.validation
    log.info(describe_data(training, validation, recipe))
    if training.augmented is not None:
        log.info(training.augmented.summary())
    for line in [*training.left_out, *(validation.left_out if validation else [])]:
        log.info(f"left out, longer than train.max_tokens: {line}")
    return _Read(recipe, config, architecture, spec, tokenizer, training, validation, changed)


def _load(
    recipe: Recipe, backend: Backend, folder: Path, read: _Read, resume: RunFolder | None, begin_from: RunFolder | None
) -> Model:
    """The base model, ready to be trained from where this training begins."""
    if before_this := resume or begin_from:
        require_base(folder, before_this.info().get("base", {}).get("fingerprint"), str(before_this))
    return ready_model(backend, folder, recipe, read.spec, read.architecture, begin_from)


def _write_resumed(run: RunFolder, recipe: Recipe, facts: Mapping[str, Any], changed: Sequence[str]) -> None:
    """Say in a run's files that it goes on, and what is different from when it started."""
    before = run.info()
    if before["backend"] != facts["backend"]:
        log.info(f"{run} was started with {before['backend']}; with {facts['backend']} the numbers differ by rounding")
    if (processes := before.get("processes", 1)) != facts["processes"]:
        masks = "; dropout draws other masks than without the change" if recipe.lora.dropout else ""
        log.info(f"{run}: processes so far: {processes}, from here on: {facts['processes']}{masks}")
    if changed:
        log.info(f"resuming with changed recipe keys: {', '.join(changed)}")
    if recipe != run.recipe():
        write_text(run.recipe_file, recipe.to_yaml())
    resumed = {"at": _now(), "command": _command(), "changed": list(changed), "processes": facts["processes"]}
    run.update_info(**facts, resumed=[*before.get("resumed", []), resumed], error=None)


def _recorded(
    run: RunFolder,
    recipe: Recipe,
    on_event: Callable[[Event], None],
    trained: Callable[[Callable[[Event], None]], Outcome],
) -> Outcome:
    """A training whose events go to trackers, too, and whose failure run.json says."""
    try:
        with Trackers(recipe.track, run.path, recipe, run.info()) as trackers:

            def observe(event: Event) -> None:
                on_event(event)
                trackers.event(event)

            return trained(observe)
    except BaseException as error:
        with contextlib.suppress(OSError):  # as on a disk that is full
            status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            run.update_info(status=status, finished=_now(), error=str(error) or type(error).__name__)
        raise


def _require_something_left(run: RunFolder, recipe: Recipe, steps: Steps) -> None:
    """Raise RunError where a finished run has no steps left under a recipe.

    A run killed after its last checkpoint may resume: its best adapter and the end of run.json are still to be written.
    """
    last = Checkpoints(run.checkpoints).last()
    if last is None or run.info().get("status") != FINISHED:
        return
    if last.step >= steps.total:
        limit = "train.max_steps" if recipe.train.max_steps == steps.total else "train.epochs"
        raise RunError(
            f"{run}: finished at step {last.step} of {steps.total}; to train further, raise {limit}: --set {limit}=N"
        )
    stopping = recipe.train.early_stopping
    if stopping is not None and last.since_best >= stopping.patience:
        raise RunError(
            f"{run}: stopped early at step {last.step}, {last.since_best} validations after the best; to train further, raise "
            "train.early_stopping.patience, or --set train.early_stopping=null"
        )


def _chose_checkpointing(run: RunFolder) -> bool:
    """Whether `train.fit: auto` turned gradient checkpointing on when a run was started."""
    return bool(run.info().get("memory", {}).get("checkpointing_chosen", False))


def _command() -> list[str]:
    return ["mlxtune", *sys.argv[1:]]


def ready_model(
    backend: Backend,
    folder: Path,
    recipe: Recipe,
    spec: TuningSpec,
    architecture: Architecture,
    begin_from: RunFolder | None = None,
) -> Model:
    """A base model, loaded, with its adapter or with all of its weights to be trained.

    Args:
        backend: Computes.
        folder: The base model.
        recipe: What it is trained with.
        spec: What is trained.
        architecture: Of the base.
        begin_from: A run from whose adapter or model the training starts.

    Raises:
        MlxtuneError: The model cannot be loaded, or the other run does not fit.
    """
    if isinstance(spec, FullSpec):
        model = backend.load(model_to_begin_from(begin_from) if begin_from else folder, dtype=FLOAT32)
        model.train_all()
        return model
    shapes = architecture.linear_layers
    weights = (
        adapter_to_begin_from(begin_from, spec, shapes, recipe.model.path)
        if begin_from
        else initial_weights(spec, shapes, recipe.train.seed)
    )
    model = backend.load(folder, dtype=recipe.model.dtype, shard=recipe.model.shard)
    model.attach_lora(spec, weights)
    return model


def require_shardable(recipe: Recipe, backend: Backend, config: Mapping[str, Any], spec: TuningSpec) -> None:
    """Refuse a recipe whose base model its processes shall hold parts of, where the backend does not offer that.

    Raises:
        BackendError: Names what is not offered.
    """
    if recipe.model.shard and isinstance(spec, LoraSpec):  # the recipe refuses all other training
        backend.check_shard(config, spec.kind)


def tuning_spec(recipe: Recipe, architecture: Architecture, config: Mapping[str, Any]) -> TuningSpec:
    """What a recipe trains of a model: an adapter, or all weights.

    Args:
        recipe: The recipe.
        architecture: Of its model.
        config: The model's config.json.

    Raises:
        ModelError: All weights of a quantized model, or layers that the model does not have.
    """
    if not recipe.lora.is_full:
        return lora_spec(recipe, architecture)
    if "quantization" in config or "quantization_config" in config:
        raise ModelError(
            f"{recipe.model.path}: is quantized, and quantized weights cannot be trained (lora.type: full); name the unquantized model, or "
            "train an adapter with lora.type: lora"
        )
    if architecture.experts_per_token:
        raise ModelError(
            f"{recipe.model.path}: has experts, which are not trained whole (lora.type: full); train an adapter with lora.type: lora"
        )
    return FullSpec(tuple(architecture.weights), tuple(architecture.linear_layers))


def lora_spec(recipe: Recipe, architecture: Architecture) -> LoraSpec:
    """The adapter that a recipe asks for on a model."""
    lora = recipe.lora
    if lora.type == "full":
        raise ValueError("lora.type: full has no adapter")
    layers = architecture.lora_layers(lora.targets, lora.layers)
    if lora.type == "dora" and any(map(is_expert, layers)):
        raise ModelError(
            f"{recipe.model.path}: lora.type: dora adapts no layers of experts, and lora.targets ({lora.targets}) names some; set lora.targets "
            "to attention, or lora.type to lora"
        )
    return LoraSpec(lora.rank, lora.scale, lora.dropout, layers, lora.type)


def describe_data(training: Split, validation: Split | None, recipe: Recipe) -> str:
    """One line on the rows: how many, what cleaning did, how many to validate with."""
    report = training.cleaning
    cleaned = (
        f" of {report.read:,} read; dropped {report.duplicates} duplicates, {report.near_duplicates} near-duplicates, "
        f"{report.low_quality} low-quality rows ({_reasons(report)})"
        if report and report.read != report.kept
        else ""
    )
    rewritten = ""
    if (augmented := training.augmented) is not None:
        n_rows = f"{len(augmented.rows):,}"
        rewritten = (
            f"; with up to {n_rows} still to be rewritten" if augmented.is_estimate else f"; with {n_rows} rewritten"
        )
    to_validate = f", {len(validation.examples):,} to validate" if validation else ", none to validate"
    balanced = f"; balanced from {training.balanced.n_before:,}" if training.balanced else ""
    of_documents = sum(row.is_document for row in training.rows)
    noun = "document" if of_documents == 1 else "documents"
    kind = f"pieces of {of_documents:,} {noun}" if of_documents else "rows"
    n_joined = len(step_rows(training.examples, recipe.train.pack_to))
    if n_joined != len(training.examples):
        kind += f", joined into {n_joined:,} rows,"
    return f"{len(training.examples):,} {kind} to train{cleaned}{rewritten}{balanced}{to_validate}"


def _reasons(report: CleaningReport) -> str:
    counted = [f"{count} {reason.replace('_', ' ')}" for reason, count in report.low_quality_reasons.items() if count]
    return ", ".join(counted) or "none"


def _data_facts(recipe: Recipe, training: Split, validation: Split | None) -> dict[str, Any]:
    rows = len(training.examples)
    facts: dict[str, Any] = {"train": {"file": recipe.data.train, "sha256": rows_hash(recipe, "train"), "rows": rows}}
    facts["train"]["format"] = _format(training)
    if recipe.data.more:
        facts["train"]["more"] = list(recipe.data.more)
    if report := training.cleaning:
        facts["train"]["cleaning"] = {
            "read": report.read,
            "duplicates": report.duplicates,
            "near_duplicates": report.near_duplicates,
            "low_quality": report.low_quality,
            "low_quality_reasons": dict(report.low_quality_reasons),
            "kept": report.kept,
            "labels": {name: dict(counts) for name, counts in report.labels.items()},
            "dropped": [f"{drop.file}:{drop.line}: {drop.reason} {drop.detail}".rstrip() for drop in report.dropped],
            "conflicts": [f"{one.file}:{one.line}: as {one.conflicts_with}" for one in report.conflicts],
        }
    if augmented := training.augmented:
        facts["train"]["augment"] = augmented.as_json()
    if balanced := training.balanced:
        facts["train"]["balance"] = balanced.as_json()
    facts["train"]["loss_weights"] = {name: field.loss_weight for name, field in recipe.output.fields.items()}
    if weights := training.class_weights:
        facts["train"]["class_weights"] = {name: dict(one.weights) for name, one in weights.items()}
        facts["train"]["labels_without_rows"] = {n: one.without_rows for n, one in weights.items() if one.without_rows}
    if validation and recipe.data.valid is None:
        facts["valid"] = {"held_out_of": recipe.data.train, "rows": len(validation.examples)}
    elif validation and recipe.data.valid:
        rows = len(validation.examples)
        facts["valid"] = {"file": recipe.data.valid, "sha256": rows_hash(recipe, "valid"), "rows": rows}
        facts["valid"]["format"] = _format(validation)
    return facts


def _format(split: Split) -> dict[str, str]:
    """The format of a split's file, and how it is known."""
    found = format_of(split.rows)
    return {"name": found.name, "reason": found.reason}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
