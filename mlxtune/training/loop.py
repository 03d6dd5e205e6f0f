"""The training loop: batches in, metrics, checkpoints and an adapter out. NumPy and a `Model`; no backend is imported."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.base import Backend, Batch, Group, Model, OptimizerSpec, StepResult, StepShare, TuningSpec
from mlxtune.backends.group import share_rows, together
from mlxtune.backends.shapes import sequence_tokens
from mlxtune.backends.shared_model import shared_model
from mlxtune.data.batches import build_batches, epoch_order, shared_prefix
from mlxtune.data.examples import Example
from mlxtune.data.packing import step_rows
from mlxtune.data.passes import PASS_COST, plan_passes
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import TrainingError
from mlxtune.files import to_disk, write_text
from mlxtune.models.base_model import is_nested
from mlxtune.recipe.sections import AUTO, VALID_LOSS, Recipe, TrainSection
from mlxtune.runs.events import Event, read_events, read_lines
from mlxtune.runs.folder import RunFolder
from mlxtune.runs.layout import FINISHED, INTERRUPTED, RunStatus, checkpoint_name
from mlxtune.training.checkpoints import Best, Checkpoints, Progress, last_good, n_kept, share_state
from mlxtune.training.diagnosis import Point, diagnose, fixed_sample
from mlxtune.training.interrupt import Interrupt
from mlxtune.training.profile import DATA, SAVING, VALIDATION, PartClock, Profile
from mlxtune.training.result import TrainedBase, write_result
from mlxtune.training.schedule import Schedule
from mlxtune.training.selection import Selection
from mlxtune.training.validation import segment_losses, validate

messages = logging.getLogger(__name__)

# Most positions of a pass that validates. Larger ones save little time, and the plan of memory is one of training's passes, which may be small.
SCORED_POSITIONS = 1024
# Metrics by name ("intents.exact_match") of the replies that a model now gives.
Measure = Callable[[Model], Mapping[str, float]]


@dataclass(frozen=True)
class Steps:
    """How many optimizer steps a training takes."""

    per_epoch: int
    total: int
    planned: int  # without train.max_steps: what the schedule is laid out for

    @classmethod
    def of(cls, n_rows: int, recipe: Recipe) -> Steps:
        """The last short step of an epoch counts."""
        train = recipe.train
        per_epoch = math.ceil(n_rows / train.rows_per_step)
        planned = per_epoch * train.epochs
        return cls(per_epoch, min(planned, train.max_steps or planned), planned)


@dataclass(frozen=True)
class SegmentLosses:
    """Loss and accuracy by segment, of a sample of the training rows and of the validation rows, after a step; None where
    it was not measured.
    """

    train: Mapping[str, Mapping[str, float]] | None
    valid: Mapping[str, Mapping[str, float]] | None
    step: int

    def to_json(self) -> dict[str, Any]:
        """As run.json has it under "losses"."""
        return {"train": self.train, "valid": self.valid, "step": self.step}


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
        status: FINISHED or INTERRUPTED.
        progress: How far it came.
        adapter_step: Step whose adapter the run has.
        losses: At the last validation that the adapter has seen; of the training rows alone, after the last step, where
            nothing was validated.
        stopped: Why it ended before its last step, as a clause; None if it did not.
        profile: Where the time went; None unless asked for.
    """

    status: RunStatus
    progress: Progress
    adapter_step: int
    losses: SegmentLosses
    stopped: str | None
    profile: Profile | None = None


def train(
    model: Model,
    backend: Backend,
    recipe: Recipe,
    spec: TuningSpec,
    examples: Sequence[Example],
    validation: Sequence[Example],
    run: RunFolder,
    on_event: Callable[[Event], None],
    measure: Measure | None = None,
    resume: bool = False,
    forget_best: bool = False,
    profile: bool = False,
    *,
    base: Path,
) -> Outcome:
    """Train the adapter that is attached to `model`, or all of its weights, and write them with metrics into the run folder.

    Of several processes each computes its share of every step and of the validation rows, and rank 0 alone reads and writes files.

    Args:
    Of several processes each computes its share of every step and of the validation rows, and rank 0 alone reads and writes files.

    Args:
        model: With its adapter attached, or with all weights to be trained.
        backend: For its peak memory, and the processes that train together.
        recipe: Training settings.
        spec: What is trained.
        examples: Training examples.
        validation: Validation examples; may be empty.
        run: Where metrics.jsonl, checkpoints/ and adapter/ (or model/) go.
        on_event: Called with each event that metrics.jsonl gets.
        measure: Metrics of the replies that the model now gives; needed where the recipe selects by one.
        resume: Go on from the run's last intact checkpoint.
        forget_best: The metric changed, or what it is measured on: the previous best is discarded.
        profile: Measure where the time goes.
        base: Folder of the base model.

    Raises:
        TrainingError: A loss or gradient is not finite, or a checkpoint cannot be written; the last good one stays.
        RunError: There is no checkpoint to resume from.
    """
    group = backend.group()
    trained_base = TrainedBase(recipe.model.path, base, is_nested(recipe.model))
    training = _Training(model, backend, recipe, spec, trained_base, examples, validation, run, measure)
    model.prepare_training(optimizer_spec(recipe.train), recipe.train.gradient_checkpointing, timed=profile)
    if resume:
        training.restore(forget_best)
    backend.peak_memory_bytes(reset=True)
    mode = "a" if resume else "w"
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(run.metrics_file.open(mode, encoding="utf-8")) if group.rank == 0 else None
        interrupt = stack.enter_context(Interrupt())
        outcome = training.run(_Log(stream, on_event), interrupt)
    return replace(outcome, profile=training.profile()) if profile else outcome


class _Training:
    """One training; arguments as for `train`. Its progress is all of its state beside the model's."""

    def __init__(
        self,
        model: Model,
        backend: Backend,
        recipe: Recipe,
        spec: TuningSpec,
        base: TrainedBase,
        examples: Sequence[Example],
        validation: Sequence[Example],
        run: RunFolder,
        measure: Measure | None,
    ) -> None:
        settings = recipe.train
        self._model, self._backend, self._spec, self._base, self._run = model, backend, spec, base, run
        self._recipe, self._settings, self._measure = recipe, settings, measure
        self._steps = steps = Steps.of(len(step_rows(examples, settings.pack_to)), recipe)
        warmup = round(settings.warmup_ratio * steps.planned)
        self._schedule = Schedule(settings.schedule, settings.learning_rate, steps.planned, warmup)
        template = ReplyTemplate(recipe.output)
        self._segments, self._label_fields = template.segments, template.label_fields
        at_once = _tokens_per_pass(settings)
        self._group, rows_group = backend.group(), model.rows_group
        self._answering = shared_model(model)
        in_sequence = sequence_tokens(backend.name, model.architecture.is_recurrent)
        self._sampler = BatchSampler(
            examples, settings.rows_per_step, at_once, settings.seed, settings.pack_to,
            rank=rows_group.rank, size=rows_group.size, sequence_tokens=in_sequence,
        )  # fmt: skip
        self._validates = bool(validation)
        scored_at_once = min(at_once, SCORED_POSITIONS)
        self._validation = fixed_batches(_own_share(validation, rows_group), scored_at_once, in_sequence)
        sample = [examples[index] for index in fixed_sample(len(examples), settings.seed)]
        self._sample = fixed_batches(_own_share(sample, rows_group), scored_at_once, in_sequence)
        self._selection = Selection.of(recipe)
        self._checkpoints = Checkpoints(run.checkpoints, n_kept(spec))
        self._progress = Progress()
        self._clock = PartClock()
        self._begun_at = 0  # step that this process went on from
        self._saved = 0  # step of the last checkpoint
        self._losses: list[SegmentLosses] = []  # of each validation

    def restore(self, forget_best: bool) -> None:
        """Go back to the last intact checkpoint, in the model, in metrics.jsonl and here."""
        with together(self._group) as report:
            if self._writes:
                self._progress = self._checkpoints.restore(self._model)
                _truncate_metrics(self._run, self._progress, self._steps)
                self._losses = [
                    SegmentLosses(event["train"]["segments"], event["segments"], event["step"])
                    for event in read_events(self._run.metrics_file, "validation")
                ]  # of the processes before this one
                report.value = asdict(self._progress)
        self._progress = Progress.from_json(report.values[0])
        share_state(self._group, self._model, self._checkpoints.folder_of(self._progress.step))
        self._saved = self._begun_at = self._progress.step
        best = self._progress.best
        if best is not None and (forget_best or self._recipe.metric_name(best.metric) != self._selection.metric):
            was = f"{best.metric} {best.value:.4g} at step {best.step}"
            messages.info("the metric changed, so the previous best is discarded: %s", was)
            self._progress = replace(self._progress, best=None, since_best=0)

    def run(self, log: _Log, interrupt: Interrupt) -> Outcome:
        """Train to the end, or until told to stop."""
        begin = {"event": "begin", "steps": self._steps.total, "steps_per_epoch": self._steps.per_epoch}
        if self._progress.step:
            log.notify({**begin, "step": self._progress.step})  # the file has it
        else:
            log.write(**begin)
        # An interruption may have left the validation undone that was due after its step.
        stop = _AgreedStop(interrupt, self._group)
        stopped = self._follow_up(log, stop) if self._progress.step else None
        while self._progress.step < self._steps.total and not stop.requested and not stopped:
            self._step(log, stop)
            stopped = self._follow_up(log, stop)
        progress = self._progress
        is_interrupted = progress.step < self._steps.total and not stopped
        status: RunStatus = INTERRUPTED if is_interrupted else FINISHED
        best = self._settings.load_best and not is_interrupted
        with together(self._group, patient=True):
            adapter_step = self._write_result(best) if progress.step else 0
        log.write(
            event="end", step=progress.step, status=status, seconds=round(progress.seconds, 3), tokens=progress.tokens,
            adapter_step=adapter_step, stopped=stopped,
        )  # fmt: skip
        return Outcome(status, progress, adapter_step, self._losses_at(adapter_step), stopped)

    def profile(self) -> Profile:
        """Where the time of this process's steps went."""
        return self._clock.profile(self._progress.step - self._begun_at)

    def _step(self, log: _Log, stop: _AgreedStop) -> None:
        """One optimizer step."""
        step = self._progress.step + 1
        started = time.perf_counter()
        with self._clock.part(DATA):
            whole, step_batches = self._sampler.whole(step), self._sampler.step(step)
        share = None if self._group.size == 1 else StepShare(whole.total_weight, stop.own)
        result = self._model.train_step(step_batches, self._schedule.rate(step), step, len(self._segments), share)
        stop.agreed = result.stop
        self._clock.add(result.phase_seconds)
        if not _is_finite(result):
            with together(self._group):  # all have the same
                raise TrainingError(_not_finite_step(result, step, whole, self._run))
        seconds = time.perf_counter() - started
        tokens = whole.n_tokens
        self._progress = replace(
            self._progress,
            step=step,
            tokens=self._progress.tokens + tokens,
            seconds=self._progress.seconds + seconds,
            train_loss=result.loss,
        )
        log.write(
            event="step",
            step=step,
            epoch=self._epoch,
            loss=result.loss,
            learning_rate=self._schedule.rate(step),
            grad_norm=result.grad_norm,
            tokens=tokens,
            seconds=round(seconds, 4),
            peak_memory_gb=round(self._backend.peak_memory_bytes() / 1e9, 4),
            cache_memory_gb=round(self._backend.cache_memory_bytes() / 1e9, 4),
            segments=segment_losses(result.segment_nats, result.segment_tokens, self._segments),
        )

    def _follow_up(self, log: _Log, stop: _AgreedStop) -> str | None:
        """Validate and save where it is due after a step; why training stops early, if it does."""
        step = self._progress.step
        last = step == self._steps.total
        validates = self._validates and (last or step % (self._settings.evaluate_every or self._steps.per_epoch) == 0)
        improved = False
        # A validation that an interruption skips is done when the run resumes, but a run does not resume after its last step.
        if validates and self._progress.validated != step and (last or not stop.requested):
            with self._clock.part(VALIDATION):
                improved = self._validate(log)
        stopped = self._out_of_patience()
        saves = step % self._settings.save_every == 0 if self._settings.save_every else validates
        if improved or (self._saved != step and (saves or last or stopped or stop.requested)):
            with self._clock.part(SAVING):
                self._save(log)
        return stopped

    def _validate(self, log: _Log) -> bool:
        """Measure the validation rows; whether they are the best so far."""
        step = self._progress.step
        started = time.perf_counter()
        found, on_train = (
            validate(self._model, batches, self._segments, self._label_fields, self._model.rows_group)
            for batches in (self._validation, self._sample)
        )
        if not math.isfinite(found.loss):
            with together(self._group):  # all have the same
                raise TrainingError(_not_finite(step, f"validation loss {found.loss:.4g}", self._run))
        metrics = dict(self._measure(self._answering)) if self._measure and self._selection.needs_replies else {}
        point = Point(step, self._epoch, on_train.loss, found.loss)
        points = (*self._progress.validations, point)
        value = {VALID_LOSS: found.loss, **metrics}[self._selection.metric]
        log.write(
            event="validation",
            step=step,
            epoch=self._epoch,
            loss=found.loss,
            segments=found.segments,
            metrics=metrics,
            selected={"metric": self._selection.metric, "value": value},
            train={"loss": on_train.loss, "segments": on_train.segments},
            ratio=point.ratio if math.isfinite(point.ratio) else None,
            diagnosis=diagnose(points, self._recipe).as_json(),
            seconds=round(time.perf_counter() - started, 4),
        )
        self._losses.append(SegmentLosses(on_train.segments, found.segments, step))
        best = self._progress.best
        improved = self._selection.improves(value, best.value if best else None)
        self._progress = replace(
            self._progress,
            valid_loss=found.loss,
            best=Best(self._selection.metric, value, step) if improved else best,
            since_best=0 if improved else self._progress.since_best + 1,
            validated=step,
            validations=points,
        )
        return improved

    def _losses_at(self, adapter_step: int) -> SegmentLosses:
        """At the last validation up to the adapter's step; of the training rows alone where nothing was validated."""
        step, on_train = self._progress.step, None
        if step and not self._progress.validations:
            with self._clock.part(VALIDATION):
                on_train = validate(
                    self._model, self._sample, self._segments, self._label_fields, self._model.rows_group
                ).segments
        seen = [losses for losses in self._losses if losses.step <= adapter_step]
        return seen[-1] if seen else SegmentLosses(on_train, None, step)

    def _save(self, log: _Log) -> None:
        """A checkpoint, and the adapter or model as it is now."""
        step = self._progress.step
        with together(self._group, patient=True):
            if self._writes:
                if not all(np.isfinite(value).all() for value in self._model.trained_weights().values()):
                    raise TrainingError(_not_finite(step, "what is trained has NaN or infinite values", self._run))
                log.sync()  # what a checkpoint follows from is on the disk before it
                self._checkpoints.save(self._model, self._progress)
                self._write_result(best=False)
        self._saved = step
        log.write(event="checkpoint", step=step, name=checkpoint_name(step))

    def _write_result(self, best: bool) -> int:
        """The run's adapter or model: the best one or that of now, of which there is a checkpoint; the step it is of."""
        progress = self._progress
        chosen = progress.best if best and progress.best and progress.best.step != progress.step else None
        if self._writes:
            folder = self._checkpoints.folder_of(progress.step) if chosen is None else self._checkpoints.path_of(chosen)
            write_result(self._run, folder, self._spec, self._base, self._model.config)
        return progress.step if chosen is None else chosen.step

    def _out_of_patience(self) -> str | None:
        """Why training stops early, if it does."""
        best, since, patience = self._progress.best, self._progress.since_best, self._selection.patience
        if patience is None or since < patience or best is None:
            return None
        return f"{best.metric} was best at step {best.step} ({best.value:.4g}) and has not improved for {since} validations"

    @property
    def _writes(self) -> bool:
        """Whether this process is the one that reads and writes files."""
        return self._group.rank == 0

    @property
    def _epoch(self) -> float:
        return round(self._progress.step / self._steps.per_epoch, 4)


class _AgreedStop:
    """Whether training is to end after the present step; several processes agree on it in every step.

    Args:
        interrupt: Of this process.
        group: The processes.

    Attributes:
        agreed: What the last step came to.
    """

    def __init__(self, interrupt: Interrupt, group: Group) -> None:
        self._interrupt, self._alone = interrupt, group.size == 1
        self.agreed = False

    @property
    def own(self) -> bool:
        """Whether this process was asked to end."""
        return self._interrupt.requested

    @property
    def requested(self) -> bool:
        """Whether to end: the same on all processes."""
        return self.own if self._alone else self.agreed


@dataclass(frozen=True)
class WholeStep:
    """An optimizer step over all processes.

    Attributes:
        rows: Index of each of its rows in the data.
        n_tokens: As `count_tokens` counts them.
        total_weight: Sum of the loss weights of its tokens.
    """

    rows: tuple[int, ...]
    n_tokens: int
    total_weight: float


class BatchSampler:
    """Which rows each optimizer step takes, and in which passes: a pure function of the arguments and the step.

    Args:
        examples: Training examples.
        rows_per_step: Rows a step, over all processes.
        tokens_per_pass: Most positions of a pass, the shared prefix not counted.
        seed: The run's seed.
        pack_to: Most tokens of a row of joined documents; None joins none.
        rank: Whose passes.
        size: Processes that share the rows of each step.
        sequence_tokens: As `plan_passes` takes it.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        rows_per_step: int,
        tokens_per_pass: int,
        seed: int,
        pack_to: int | None = None,
        rank: int = 0,
        size: int = 1,
        sequence_tokens: int = 0,
    ) -> None:
        self._examples = examples
        self._prefix = shared_prefix(examples)
        self._lengths = _own_lengths(examples, self._prefix)
        self._rows_per_step, self._tokens_per_pass, self._seed = rows_per_step, tokens_per_pass, seed
        self._rows = step_rows(examples, pack_to)
        self._rank, self._size, self._sequence_tokens = rank, size, sequence_tokens
        self._per_epoch = math.ceil(len(self._rows) / rows_per_step)
        self._epoch = -1
        self._steps: list[list[int]] = []

    def step(self, step: int) -> list[Batch]:
        """Passes of a step counted from 1; those of `rank`, which may be none. No step reaches over the end of an epoch."""
        examples = self._examples_of(step)
        if self._size > 1:
            own = share_rows([self._lengths[example] for example in examples], self._size)[self._rank]
            examples = [examples[at] for at in own]
        # Of several passes, none keeps the prefix's graph: MLX runs it forward again to go back through it.
        again = len(self._prefix) // 2
        lengths = [self._lengths[example] for example in examples]
        passes = plan_passes(lengths, self._tokens_per_pass, split_cost=again, sequence_tokens=self._sequence_tokens)
        return build_batches(self._examples, [[examples[at] for at in one] for one in passes], self._prefix)

    def whole(self, step: int) -> WholeStep:
        """What a step is over all processes."""
        examples = [self._examples[index] for index in self._examples_of(step)]
        return WholeStep(
            rows=tuple(example.row for example in examples),
            n_tokens=sum(example.n_tokens for example in examples),
            total_weight=math.fsum(float(example.weights.sum(dtype=np.float64)) for example in examples),
        )

    def _examples_of(self, step: int) -> list[int]:
        """Indices of the examples of a step over all processes."""
        epoch, place = divmod(step - 1, self._per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._steps = epoch_order(len(self._rows), self._rows_per_step, self._seed, epoch)
        return [example for row in self._steps[place] for example in self._rows[row]]


def _own_share(examples: Sequence[Example], group: Group) -> list[Example]:
    """What this process scores of examples that are scored together."""
    lengths = [example.n_tokens for example in examples]
    return [examples[index] for index in share_rows(lengths, group.size)[group.rank]]


def fixed_batches(examples: Sequence[Example], tokens_per_pass: int, sequence_tokens: int = 0) -> list[Batch]:
    """All examples in passes to score them in, in a fixed order; each computes the shared prefix for itself.

    Args:
        examples: To score.
        tokens_per_pass: As `plan_passes` takes it.
        sequence_tokens: Likewise.
    """
    prefix = shared_prefix(examples)
    lengths, pass_cost = _own_lengths(examples, prefix), PASS_COST + len(prefix)
    passes = plan_passes(lengths, tokens_per_pass, pass_cost, sequence_tokens=sequence_tokens)
    return build_batches(examples, passes, prefix)


def _own_lengths(examples: Sequence[Example], prefix: NDArray[np.int32]) -> list[int]:
    return [example.n_tokens - len(prefix) for example in examples]


def optimizer_spec(settings: TrainSection) -> OptimizerSpec:
    """The optimizer that a recipe asks for."""
    return OptimizerSpec(settings.weight_decay, settings.max_grad_norm, settings.seed)


def _tokens_per_pass(settings: TrainSection) -> int:
    """The number that the recipe states, or that `auto` was resolved to before training."""
    if settings.tokens_per_pass == AUTO:
        raise ValueError("train.tokens_per_pass: auto must be resolved before training (training/memory.py)")
    return settings.tokens_per_pass


def count_tokens(batch: Batch) -> int:
    """Tokens of the rows, prompt and reply, as if each row carried the prefix itself; padding is not counted."""
    return int(batch.lengths.sum()) + len(batch.rows) * len(batch.prefix)


class _Log:
    """metrics.jsonl, a line an event, and whoever is called with each; without a stream neither, as in all processes but rank 0."""

    def __init__(self, stream: IO[str] | None, on_event: Callable[[Event], None]) -> None:
        self._stream, self._on_event = stream, on_event

    def write(self, **event: Any) -> None:
        if self._stream is not None:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()
        self.notify(event)

    def notify(self, event: Event) -> None:
        if self._stream is not None:
            self._on_event(event)

    def sync(self) -> None:
        if self._stream is not None:
            to_disk(self._stream.fileno())


def _truncate_metrics(run: RunFolder, progress: Progress, steps: Steps) -> None:
    """Leave in metrics.jsonl what led to a checkpoint, that checkpoint included, and nothing after.

    A validation of the checkpoint's own step stays only if the checkpoint knows of it; one made up for later does not.
    """
    step = progress.step
    kept: list[str] = []
    for line, event in read_lines(run.metrics_file):
        kind = event.get("event")
        if kind == "end" or event.get("step", 0) > (progress.validated if kind == "validation" else step):
            continue
        kept.append(json.dumps({**event, "steps": steps.total}) if kind == "begin" else line)
    if not any(json.loads(line).get("name") == checkpoint_name(step) for line in kept):
        kept.append(json.dumps({"event": "checkpoint", "step": step, "name": checkpoint_name(step)}))
    write_text(run.metrics_file, "".join(line + "\n" for line in kept))


def _is_finite(result: StepResult) -> bool:
    return math.isfinite(result.total_nats) and math.isfinite(result.grad_norm)


def _not_finite_step(result: StepResult, step: int, whole: WholeStep, run: RunFolder) -> str:
    rows = sorted(row + 1 for row in whole.rows)
    what = f"loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}"
    which = f"rows of this step, of the cleaned data: {', '.join(map(str, rows[:32]))}"
    return _not_finite(step, f"{what}; the step was not applied; {which}", run)


def _not_finite(step: int, what: str, run: RunFolder) -> str:
    return (
        f"step {step}: {what}. Training stopped at a value that is not finite. "
        f"Last good checkpoint: {last_good(run.checkpoints)}. Lower train.learning_rate, or set model.dtype: float32"
    )
