"""What two optimizer steps of a training take, and what the whole training would: weights are loaded, nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.backends.base import Backend, Batch
from mlxtune.data.examples import Example
from mlxtune.data.packing import step_rows
from mlxtune.data.passes import PASS_COST
from mlxtune.data.template import ReplyTemplate
from mlxtune.models.base_model import base_folder
from mlxtune.training.activations import rows_computed
from mlxtune.training.loop import BatchSampler, Steps, optimizer_spec
from mlxtune.training.memory import Workload, pass_shapes
from mlxtune.training.tune import ready_model


@dataclass(frozen=True)
class TimedStep:
    """An optimizer step that was run: which of the epoch, its cost in positions, and its time."""

    step: int
    positions: int
    seconds: float


@dataclass(frozen=True)
class Probe:
    """What two steps took, and what follows for the training.

    Seconds a position are those of both steps together; a step costs its positions, and PASS_COST more for each forward pass.

    Attributes:
        typical: The step of the first epoch whose cost is nearest to the mean.
        largest: The one that costs most, where memory peaks.
        epoch_positions: What all steps of the first epoch cost.
        steps_per_epoch: Optimizer steps an epoch.
        steps: Optimizer steps in all.
        peak_bytes: Most memory used by the two.
    """

    typical: TimedStep
    largest: TimedStep
    epoch_positions: int
    steps_per_epoch: int
    steps: int
    peak_bytes: int

    @property
    def seconds_per_position(self) -> float:
        """Of both steps together."""
        timed = (self.typical, self.largest)
        return sum(one.seconds for one in timed) / sum(one.positions for one in timed)

    @property
    def epoch_seconds(self) -> float:
        """Time of an epoch's steps; validations and checkpoints are not in it."""
        return self.seconds_per_position * self.epoch_positions

    @property
    def step_seconds(self) -> float:
        """Mean time of an optimizer step."""
        return self.epoch_seconds / self.steps_per_epoch

    @property
    def total_seconds(self) -> float:
        """Time of all optimizer steps."""
        return self.step_seconds * self.steps

    def to_json(self) -> dict[str, Any]:
        """With names that state their unit."""
        return {
            "seconds_per_step": round(self.step_seconds, 4),
            "seconds_per_epoch": round(self.epoch_seconds, 2),
            "seconds_total": round(self.total_seconds, 2),
            "peak_memory_gb": round(self.peak_bytes / 1e9, 4),
            "timed_steps": [
                {"step": one.step, "positions": one.positions, "seconds": round(one.seconds, 4)}
                for one in (self.typical, self.largest)
            ],
        }

    def lines(self, planned_bytes: int) -> list[tuple[str, str]]:
        """What the plan shows of it, a name and a text each."""
        typical, largest = self.typical, self.largest
        return [
            (
                "time",
                f"about {self.step_seconds:.2f} s a step, {duration(self.epoch_seconds)} an epoch, {duration(self.total_seconds)} in all, "
                "without validation",
            ),
            (
                "measured",
                f"step {typical.step}, the most typical, {typical.seconds:.2f} s; step {largest.step}, the largest, {largest.seconds:.2f} s; each after "
                f"a run that was not timed; scaled by positions ({self.epoch_positions:,} an epoch)",
            ),
            ("measured peak", f"{self.peak_bytes / 1e9:.2f} GB, {self.peak_bytes / planned_bytes:.0%} of the estimate"),
        ]


def probe_steps(
    backend: Backend, workload: Workload, examples: Sequence[Example], clock: Callable[[], float] = time.perf_counter
) -> Probe:
    """Load a training's model and run two steps of its first epoch, each twice; the first time compiles and allocates.

    What is trained is thrown away. A base that training would convert is converted, and kept in the cache as then.

    Args:
        backend: What computes.
        workload: With `train.tokens_per_pass` a number.
        examples: Training examples.
        clock: Seconds.

    Raises:
        MlxtuneError: The model cannot be loaded, or memory does not suffice.
    """
    recipe = workload.recipe
    train = recipe.train
    sampler = BatchSampler(
        examples, train.rows_per_step, int(train.tokens_per_pass), train.seed, train.pack_to,
        sequence_tokens=workload.sequence_tokens,
    )  # fmt: skip
    steps = Steps.of(len(step_rows(examples, train.pack_to)), recipe)
    costs = [step_cost(sampler.step(step), workload) for step in range(1, steps.per_epoch + 1)]
    mean = sum(costs) / len(costs)
    numbers = range(1, len(costs) + 1)
    typical = min(numbers, key=lambda step: abs(costs[step - 1] - mean))
    largest = max(numbers, key=lambda step: costs[step - 1])

    model = ready_model(backend, base_folder(recipe.model, backend), recipe, workload.spec, workload.architecture)
    model.prepare_training(optimizer_spec(train), train.gradient_checkpointing)
    n_segments = len(ReplyTemplate(recipe.output).segments)
    backend.peak_memory_bytes(reset=True)

    def timed(step: int) -> TimedStep:
        batches = sampler.step(step)
        begun = clock()
        model.train_step(batches, train.learning_rate, step, n_segments)
        return TimedStep(step, costs[step - 1], clock() - begun)

    for step in (typical, largest):
        timed(step)
    return Probe(timed(typical), timed(largest), sum(costs), steps.per_epoch, steps.total, backend.peak_memory_bytes())


def step_cost(step_batches: Sequence[Batch], workload: Workload) -> int:
    """Positions that a step computes, its prefix once, and PASS_COST for each pass."""
    shapes = pass_shapes(step_batches)
    rows = [
        rows_computed(shape, workload.backend, workload.device, workload.architecture.is_recurrent) for shape in shapes
    ]
    prefix = max(one.before for one in rows)  # 0 where the rows' sequence holds it
    return prefix + sum(one.positions + PASS_COST for one in rows)


def duration(seconds: float) -> str:
    """Time as people say it.

    >>> duration(42.4), duration(754), duration(7300)
    ('42 s', '13 min', '2 h 02 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
