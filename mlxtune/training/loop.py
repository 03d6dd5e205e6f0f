"""The training loop: batches in, metrics, checkpoints and an adapter out. NumPy and a `Model`; no backend is imported."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from mlxtune.backends.adapter import Adapter, write_adapter
from mlxtune.backends.base import Backend, Batch, LoraSpec, Model, OptimizerSpec, StepResult
from mlxtune.data.batches import batches, epoch_order, sequential_order, shared_prefix
from mlxtune.data.examples import Example
from mlxtune.data.template import ReplyTemplate
from mlxtune.errors import TrainingError
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder
from mlxtune.training.checkpoints import Checkpoints, last_good
from mlxtune.training.interrupt import Interrupt
from mlxtune.training.schedule import Schedule
from mlxtune.training.validation import segment_losses, validate

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Steps:
    """How many optimizer steps a training takes."""

    per_epoch: int
    total: int
    planned: int  # without train.max_steps: what the schedule is laid out for

    @classmethod
    def of(cls, n_examples: int, recipe: Recipe) -> Steps:
        """The last short step of an epoch counts."""
        train = recipe.train
        per_epoch = math.ceil(n_examples / (train.batch_size * train.gradient_accumulation))
        planned = per_epoch * train.epochs
        return cls(per_epoch, min(planned, train.max_steps or planned), planned)


@dataclass(frozen=True)
class Outcome:
    """How training ended: 'finished' or 'interrupted', after which step, with which last losses."""

    status: str
    step: int
    train_loss: float
    valid_loss: float | None
    best: tuple[float, str] | None
    seconds: float
    tokens: int


def train(
    model: Model,
    backend: Backend,
    recipe: Recipe,
    spec: LoraSpec,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    run: RunFolder,
    watch: Callable[[Event], None],
) -> Outcome:
    """Train the adapter that is attached to `model`, and write it with its metrics into the run folder.

    Args:
        model: With its adapter attached.
        backend: For its peak memory.
        recipe: Training settings.
        spec: The adapter's spec, written beside its values.
        examples: Training examples.
        held_out: Validation examples; may be empty.
        run: Where metrics.jsonl, checkpoints/ and adapter/ go.
        watch: Called with each event that metrics.jsonl gets.

    Raises:
        TrainingError: A loss or gradient is not finite; the last good checkpoint stays.
    """
    settings = recipe.train
    steps = Steps.of(len(examples), recipe)
    schedule = Schedule(
        settings.schedule, settings.learning_rate, steps.planned, round(settings.warmup_ratio * steps.planned)
    )
    segments = ReplyTemplate(recipe.output).segments
    checkpoints = Checkpoints(run.checkpoints)
    order = Order(examples, settings.batch_size, settings.gradient_accumulation, settings.seed)
    validation = fixed_batches(held_out, settings.batch_size)
    optimizer = OptimizerSpec(settings.weight_decay, settings.max_grad_norm, settings.seed)
    model.prepare_training(optimizer, settings.gradient_checkpointing)
    backend.peak_memory_bytes(reset=True)

    started = time.perf_counter()
    tokens, train_loss, valid_loss, status = 0, math.nan, None, "finished"
    with run.metrics_file.open("w", encoding="utf-8") as stream, Interrupt() as interrupt:
        log = _Log(stream, watch)
        log.write(event="begin", steps=steps.total, steps_per_epoch=steps.per_epoch)
        step = 0
        while step < steps.total:
            step += 1
            step_started = time.perf_counter()
            step_batches = order.step(step)
            result = model.train_step(step_batches, schedule.rate(step), step, len(segments))
            _require_finite(result, step, step_batches, run)
            seconds = time.perf_counter() - step_started
            n_tokens = sum(count_tokens(batch) for batch in step_batches)
            tokens, train_loss = tokens + n_tokens, result.loss
            log.write(
                event="step",
                step=step,
                epoch=round(step / steps.per_epoch, 4),
                loss=result.loss,
                learning_rate=schedule.rate(step),
                grad_norm=result.grad_norm,
                tokens=n_tokens,
                seconds=round(seconds, 4),
                peak_memory_gb=round(backend.peak_memory_bytes() / 1e9, 4),
                segments=segment_losses(result.segment_nats, result.segment_tokens, segments),
            )
            last = step == steps.total or interrupt.requested
            validated = False
            if (
                validation
                and not interrupt.requested
                and (last or _due(step, settings.evaluate_every, steps.per_epoch))
            ):
                found = validate(model, validation, segments)
                if not math.isfinite(found.loss):
                    raise TrainingError(_not_finite(step, f"validation loss {found.loss:.4g}", run))
                valid_loss, validated = found.loss, True
                log.write(event="validation", step=step, loss=found.loss, segments=found.segments, metrics={})
            last |= interrupt.requested  # Ctrl-C may have come while validating
            if last or (_due(step, settings.save_every, steps.per_epoch) if settings.save_every else validated):
                weights = model.adapter_weights()
                if not all(np.isfinite(value).all() for value in weights.values()):
                    raise TrainingError(_not_finite(step, "the adapter holds a value that is no number", run))
                checkpoints.save(step, model, step / steps.per_epoch, valid_loss if validated else None)
                write_adapter(run.adapter, Adapter(spec, weights, recipe.model.path), _blocks(model))
                log.write(event="checkpoint", step=step, name=f"step-{step:06d}")
            if interrupt.requested:
                status = "interrupted" if step < steps.total else "finished"
                break
        seconds = time.perf_counter() - started
        log.write(event="end", step=step, status=status, seconds=round(seconds, 3), tokens=tokens)
    return Outcome(status, step, train_loss, valid_loss, checkpoints.best, seconds, tokens)


class Order:
    """Which batches each optimizer step takes: a pure function of the seed and the step.

    Args:
        examples: Training examples.
        batch_size: Examples a batch.
        accumulation: Batches a step.
        seed: The run's seed.
    """

    def __init__(self, examples: Sequence[Example], batch_size: int, accumulation: int, seed: int) -> None:
        self._examples = examples
        self._lengths = [example.n_tokens for example in examples]
        self._prefix = shared_prefix(examples)
        self._batch_size, self._accumulation, self._seed = batch_size, accumulation, seed
        self._per_epoch = math.ceil(len(examples) / (batch_size * accumulation))
        self._epoch = -1
        self._steps: list[list[list[int]]] = []

    def step(self, step: int) -> list[Batch]:
        """Batches of a step counted from 1. No step reaches over the end of an epoch."""
        epoch, place = divmod(step - 1, self._per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._steps = epoch_order(self._lengths, self._batch_size, self._accumulation, self._seed, epoch)
        return batches(self._examples, self._steps[place], self._prefix)


def fixed_batches(examples: Sequence[Example], batch_size: int) -> list[Batch]:
    """All examples in batches of similar length, in a fixed order."""
    order = sequential_order([example.n_tokens for example in examples], batch_size)
    return batches(examples, order, shared_prefix(examples))


def count_tokens(batch: Batch) -> int:
    """Tokens of the rows, prompt and reply, as if each row carried the prefix itself; padding is not counted."""
    return int(batch.lengths.sum()) + len(batch.rows) * len(batch.prefix)


class _Log:
    """metrics.jsonl, a line an event, and whoever watches."""

    def __init__(self, stream: TextIO, watch: Callable[[Event], None]) -> None:
        self._stream, self._watch = stream, watch

    def write(self, **event: Any) -> None:
        self._stream.write(json.dumps(event) + "\n")
        self._stream.flush()
        self._watch(event)


def _due(step: int, every: int | None, per_epoch: int) -> bool:
    return step % (every or per_epoch) == 0


def _blocks(model: Model) -> int:
    return int(model.config["num_hidden_layers"])


def _require_finite(result: StepResult, step: int, step_batches: Sequence[Batch], run: RunFolder) -> None:
    if math.isfinite(result.total_nats) and math.isfinite(result.grad_norm):
        return
    rows = sorted(row + 1 for batch in step_batches for row in batch.rows)
    what = f"loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}"
    which = f"rows of this step, of the cleaned data: {', '.join(map(str, rows[:32]))}"
    raise TrainingError(_not_finite(step, f"{what}; the step was not applied; {which}", run))


def _not_finite(step: int, what: str, run: RunFolder) -> str:
    return (
        f"step {step}: {what}. Training stopped at a value that is not finite. "
        f"Last good checkpoint: {last_good(run.checkpoints)}. Lower train.learning_rate, or set model.dtype: float32"
    )
