"""What a training would take: parameters, tokens, steps, padding, memory. Reads config.json, tokenizer and data; weights only to probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.backends.base import Backend, Device
from mlxtune.data.examples import Example, within_positions
from mlxtune.data.packing import step_rows
from mlxtune.data.prepared_cache import cached_prepare
from mlxtune.models.base_model import config_and_tokenizer, weights_to_leave_out
from mlxtune.models.source import LeftOut
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.training.activations import PassShape, rows_computed
from mlxtune.training.checkpoints import disk_bytes
from mlxtune.training.fit import Remedy, fitted, gb
from mlxtune.training.loop import BatchSampler, Steps, count_tokens
from mlxtune.training.memory import Workload, estimated_memory, n_trained, pass_shapes
from mlxtune.training.probe import Probe
from mlxtune.training.tune import describe_data, require_shardable, tuning_spec


@dataclass(frozen=True)
class Plan:
    """What a training would take.

    Attributes:
        trainable_parameters: Of the adapter, or of the whole model.
        total_parameters: Of the base model.
        active_parameters: Those of it that a token is computed with: not those of the experts that it does not go to.
        data: One line on the rows.
        rows: Rows trained on.
        rows_to_rewrite: Of these, those that a server rewrites when training starts; until then their source rows are counted instead.
        tokens_per_epoch: Tokens of all rows, prompt and reply; passes, padding and memory are those of one process.
        supervised_per_epoch: Those that are trained on.
        steps_per_epoch: Optimizer steps an epoch.
        steps: Optimizer steps in all.
        longest: Tokens of the longest row.
        padding: Share of the computed positions that are padding, first epoch.
        tokens_per_pass: Most positions of a forward pass.
        passes_per_step: Mean number of forward passes of an optimizer step, first epoch.
        head_padding: Share of the head's positions that are padding, first epoch.
        shared_prefix_tokens: Tokens that open every row and are computed once an optimizer step.
        shared_prefix_saved: Share of the rows' tokens that need no computing for it.
        memory_bytes: Estimated peak, by part.
        disk_bytes: What checkpoints and adapter or model take on the disk, at most.
        available_bytes: What this machine's device may use.
        device: Which that is.
        rounding: What the device rounds float32 products to, where the user wants that.
        gradient_checkpointing: Whether activations are computed again rather than kept.
        note: What `train.fit: auto` changed, in a line; None where it changed nothing.
        remedies: What would lower the peak of a training that does not fit.
        probe: What two steps of the training took; None where none were run.
        left_out: Weights of the model that are not of its text part; None where there are none, or only they themselves would tell.
    """

    trainable_parameters: int
    total_parameters: int
    active_parameters: int
    data: str
    rows: int
    tokens_per_epoch: int
    supervised_per_epoch: int
    steps_per_epoch: int
    steps: int
    longest: int
    padding: float
    tokens_per_pass: int
    passes_per_step: float
    head_padding: float
    shared_prefix_tokens: int
    shared_prefix_saved: float
    memory_bytes: Mapping[str, int]
    disk_bytes: int
    available_bytes: int
    device: str
    rounding: str | None = None
    gradient_checkpointing: bool = False
    rows_to_rewrite: int = 0
    note: str | None = None
    remedies: tuple[Remedy, ...] = ()
    probe: Probe | None = None
    left_out: LeftOut | None = None

    @property
    def fits(self) -> bool:
        """Whether the estimated peak is no more than the device may use."""
        return self.total_memory_bytes <= self.available_bytes

    @property
    def total_memory_bytes(self) -> int:
        """Sum of the estimate's parts."""
        return sum(self.memory_bytes.values())

    def as_json(self) -> dict[str, Any]:
        """The plan's figures, with names that state their unit."""
        return {
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "active_parameters": self.active_parameters,
            "rows": self.rows,
            "rows_to_rewrite": self.rows_to_rewrite,
            "tokens_per_epoch": self.tokens_per_epoch,
            "supervised_tokens_per_epoch": self.supervised_per_epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.steps,
            "longest_row_tokens": self.longest,
            "padding_share": round(self.padding, 4),
            "tokens_per_pass": self.tokens_per_pass,
            "passes_per_step": round(self.passes_per_step, 2),
            "head_padding_share": round(self.head_padding, 4),
            "shared_prefix_tokens": self.shared_prefix_tokens,
            "shared_prefix_saved_share": round(self.shared_prefix_saved, 4),
            "memory_gb": {name: round(value / 1e9, 3) for name, value in self.memory_bytes.items()},
            "memory_total_gb": round(self.total_memory_bytes / 1e9, 3),
            "disk_gb": round(self.disk_bytes / 1e9, 3),
            "memory_available_gb": round(self.available_bytes / 1e9, 3),
            "fits": self.fits,
            "would_take_gb": {one.setting: round(one.n_bytes / 1e9, 3) for one in self.remedies},
            "device": self.device,
            "rounding": self.rounding,
            "gradient_checkpointing": self.gradient_checkpointing,
            "probe": None if self.probe is None else self.probe.to_json(),
            "left_out": None if self.left_out is None else self.left_out.to_json(),
        }

    def as_text(self) -> str:
        """The plan, a line a fact."""
        parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in self.memory_bytes.items())
        share = self.trainable_parameters / self.total_parameters
        of_head = f", {self.head_padding:.1%} of those of the head" if self.head_padding else ""
        verdict = "fits" if self.fits else "DOES NOT FIT"
        is_sparse = self.active_parameters < self.total_parameters
        active = f"; {self.active_parameters:,} of them compute a token" if is_sparse else ""
        lines = [
            (
                "parameters",
                f"{self.trainable_parameters:,} trainable of {self.total_parameters:,} ({share:.2%}){active}",
            ),
            *([("base model", self.left_out.as_text())] if self.left_out else []),
            ("data", self.data),
            ("tokens an epoch", f"{self.tokens_per_epoch:,}, {self.supervised_per_epoch:,} of them supervised"),
            ("longest row", f"{self.longest:,} tokens"),
            ("steps", f"{self.steps:,} ({self.steps_per_epoch:,} an epoch)"),
            (
                "forward passes",
                f"{self.passes_per_step:.2f} a step, of up to {self.tokens_per_pass:,} positions (train.tokens_per_pass)",
            ),
            ("padding", f"{self.padding:.1%} of the positions computed{of_head}"),
            (
                "shared prefix",
                f"{self.shared_prefix_tokens:,} tokens, computed once a step: {self.shared_prefix_saved:.1%} of all tokens saved",
            ),
            ("memory", f"about {self.total_memory_bytes / 1e9:.2f} GB ({parts})"),
            ("this machine", f"{self.available_bytes / 1e9:.2f} GB for {self.device}: {verdict}"),
            ("disk", f"up to {self.disk_bytes / 1e9:.2f} GB for checkpoints and result"),
            *(("", f"{one.setting} would take {gb(one.n_bytes)}") for one in self.remedies),
        ]
        if self.note:
            lines.append(("checkpointing", self.note))
        if self.rounding:
            lines.append(("rounding", self.rounding))
        if self.probe is not None:
            lines += self.probe.lines(self.total_memory_bytes)
        return "\n".join(f"{name:<17}{text}" for name, text in lines)


def plan(
    recipe: Recipe,
    backend: Backend,
    device: Device | None = None,
    probe: Callable[[Workload, Sequence[Example]], Probe] | None = None,
) -> Plan:
    """Plan a recipe's training.

    Args:
        recipe: What to train.
        backend: What with.
        device: Where; None is where the backend computes.
        probe: Runs some steps of it, with weights; None plans without.

    Raises:
        MlxtuneError: As training would, for data and configuration; for memory only where it is to be probed.
    """
    config, tokenizer_folder = config_and_tokenizer(recipe.model)
    recipe = within_positions(recipe, config)
    architecture, device = backend.architecture(config), device or backend.device()
    spec = tuning_spec(recipe, architecture, config)
    group = backend.group()
    require_shardable(recipe, backend, config, spec)
    tokenizer = load_tokenizer(tokenizer_folder)
    prepared = cached_prepare(recipe, tokenizer, ask=False)
    training, validation = prepared.training, prepared.validation
    steps = Steps.of(len(step_rows(training.examples, recipe.train.pack_to)), recipe)
    workload = Workload(recipe, config, architecture, spec, device, backend.name, group.rank, group.size)
    fit = fitted(workload, training.examples)
    if probe:
        fit.require()
    settings = fit.workload.recipe.train
    size = int(settings.tokens_per_pass)
    sampler = BatchSampler(
        training.examples, settings.rows_per_step, size, settings.seed, settings.pack_to, *workload.row_share,
        workload.sequence_tokens,
    )  # fmt: skip
    in_steps = [sampler.step(step) for step in range(1, steps.per_epoch + 1)]
    epoch = [batch for step_batches in in_steps for batch in step_batches]
    shapes = [shape for step_batches in in_steps for shape in pass_shapes(step_batches)]
    tokens = sum(map(count_tokens, epoch))
    of_all = [sampler.whole(step).n_tokens for step in range(1, steps.per_epoch + 1)]
    own_positions = sum(_positions(shape, workload) for shape in shapes)
    supervised = sum(int(batch.supervised.sum()) for batch in epoch)
    head_positions = sum(device.padding.positions(int(batch.supervised.sum())) for batch in epoch)
    own_tokens = sum(int(batch.lengths.sum()) for batch in epoch)
    computed_tokens = own_tokens - sum(len(batch.rows) for batch in epoch)  # the last of a row predicts nothing
    prefix = len(epoch[0].prefix)
    of_prefix = prefix * steps.per_epoch
    return Plan(
        trainable_parameters=n_trained(spec, architecture),
        total_parameters=architecture.n_parameters,
        active_parameters=architecture.n_active_parameters,
        data=describe_data(training, validation, recipe),
        rows=len(training.examples),
        tokens_per_epoch=sum(of_all),
        supervised_per_epoch=sum(example.n_supervised for example in training.examples),
        steps_per_epoch=steps.per_epoch,
        steps=steps.total,
        longest=max(example.n_tokens for example in training.examples),
        padding=(own_positions - computed_tokens) / (own_positions + of_prefix),
        head_padding=1 - supervised / head_positions,
        shared_prefix_tokens=prefix,
        shared_prefix_saved=(tokens - own_tokens - of_prefix) / tokens,
        tokens_per_pass=size,
        passes_per_step=len(epoch) / steps.per_epoch,
        memory_bytes=estimated_memory(fit.workload, shapes),
        disk_bytes=disk_bytes(n_trained(spec, architecture), spec),
        available_bytes=device.memory_bytes,
        device=device.description,
        rounding=device.rounding if device.kind == "gpu" else None,
        gradient_checkpointing=settings.gradient_checkpointing,
        rows_to_rewrite=augmented.wanted if (augmented := training.augmented) and augmented.is_estimate else 0,
        note=fit.note(),
        remedies=fit.remedies,
        probe=probe(fit.workload, training.examples) if probe else None,
        left_out=weights_to_leave_out(recipe.model),
    )


def _positions(shape: PassShape, workload: Workload) -> int:
    """Positions of a pass's rows as the backend computes them, padding included, without the prefix."""
    rows = rows_computed(shape, workload.backend, workload.device, workload.architecture.is_recurrent)
    return rows.positions - rows.count * (shape.prefix - rows.before)
