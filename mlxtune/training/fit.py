"""Whether a training fits the device's memory, what `train.fit` does about it, and which recipe keys would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlxtune.backends.base import FullSpec, Group
from mlxtune.backends.tensor_parallel import require_parts
from mlxtune.data.examples import Example
from mlxtune.data.packing import step_rows
from mlxtune.errors import ModelError, TrainingError
from mlxtune.recipe.sections import ModelSection, Quantize, Recipe
from mlxtune.training.activations import PassShape
from mlxtune.training.loop import BatchSampler, Steps
from mlxtune.training.memory import (
    PASS_SIZES,
    Workload,
    estimated_memory,
    largest_passes,
    pass_shapes,
    resolve_tokens_per_pass,
)

HELPS = 0.98  # a remedy that leaves more of the peak than this is none


@dataclass(frozen=True)
class Remedy:
    """A change of the recipe, as one writes it, and the estimated peak with it in bytes."""

    setting: str
    n_bytes: int


@dataclass(frozen=True)
class Fit:
    """A training's settings as they are used, and whether memory suffices for them.

    A training fits where the estimate is no more than the device may use. Passes of `tokens_per_pass: auto` are sized for less
    (MEMORY_SHARE), so it comes near that only where its passes are the smallest already, or the recipe's own.

    Attributes:
        workload: With `train.tokens_per_pass` a number, and gradient checkpointing where it is used.
        parts: The estimated peak by part, bytes.
        plain_bytes: The estimated peak without gradient checkpointing, where `train.fit: auto` turned that on.
        remedies: What would lower the peak, where it is too high; the last is all of them together.
    """

    workload: Workload
    parts: Mapping[str, int]
    plain_bytes: int | None = None
    remedies: tuple[Remedy, ...] = ()

    @property
    def n_bytes(self) -> int:
        """The estimated peak."""
        return sum(self.parts.values())

    @property
    def available_bytes(self) -> int:
        """What the device may use."""
        return self.workload.device.memory_bytes

    @property
    def fits(self) -> bool:
        """Whether the estimated peak stays within that."""
        return self.n_bytes <= self.available_bytes

    def note(self) -> str | None:
        """One line on what `train.fit: auto` changed; None where it changed nothing."""
        if self.plain_bytes is None:
            return None
        return (
            f"train.fit: auto turns train.gradient_checkpointing on: about {gb(self.n_bytes)} with it, {gb(self.plain_bytes)} "
            f"without, of {gb(self.available_bytes)}"
        )

    def require(self) -> None:
        """Refuse a training that does not fit, unless the recipe says to ignore that.

        Raises:
            TrainingError: With the keys that would lower the peak, and to what.
        """
        if self.fits or self.workload.recipe.train.fit == "ignore":
            return
        what = f"training would take about {gb(self.n_bytes)}; {self.workload.device.description} has {gb(self.available_bytes)}"
        listed = "".join(f"\n  {one.setting} would take {gb(one.n_bytes)}" for one in self.remedies)
        is_full = isinstance(self.workload.spec, FullSpec)
        instead = "\nAn adapter takes much less than training all weights does: lora.type: lora" if is_full else ""
        raise TrainingError(
            f"{what}. No weights were loaded. {'These keys lower it:' if listed else 'Take a smaller base model.'}{listed}{instead}\n"
            "--set train.fit=ignore trains all the same; `mlxtune lora RECIPE --plan` shows the estimate by part"
        )


def fitted(workload: Workload, examples: Sequence[Example]) -> Fit:
    """A training with its passes sized, and with gradient checkpointing where the recipe leaves that to memory and needs it.

    Args:
        workload: With the recipe as it was read.
        examples: Training examples.
    """
    plain = _sized(workload, examples)
    train = workload.recipe.train
    if plain.fits or train.gradient_checkpointing or train.fit != "auto":
        return plain if plain.fits else replace(plain, remedies=_remedies(plain, examples))
    again = _sized(workload.with_recipe(workload.recipe.with_gradient_checkpointing()), examples)
    if again.fits:
        return replace(again, plain_bytes=plain.n_bytes)
    return replace(plain, remedies=_remedies(plain, examples))


def agreed_fit(group: Group, fit: Fit) -> Recipe:
    """The recipe that all processes train: the smallest passes, and gradient checkpointing where one of them needs it.

    Args:
        group: The processes.
        fit: What this one's memory allows.
    """
    recipe = fit.workload.recipe
    train = recipe.train
    fits = group.gather({"tokens_per_pass": train.tokens_per_pass, "checkpointing": train.gradient_checkpointing})
    recipe = recipe.with_tokens_per_pass(min(int(one["tokens_per_pass"]) for one in fits))
    return recipe.with_gradient_checkpointing() if any(one["checkpointing"] for one in fits) else recipe


def _sized(workload: Workload, examples: Sequence[Example]) -> Fit:
    """A training as its recipe says, passes sized.

    The passes of the first epoch are looked at only where the largest that could be would not fit.
    """
    size = resolve_tokens_per_pass(workload, examples)
    workload = workload.with_recipe(workload.recipe.with_tokens_per_pass(size))
    train = workload.recipe.train
    bound = Fit(workload, estimated_memory(workload, largest_passes(examples, train, size)))
    if bound.fits:
        return bound
    return Fit(workload, estimated_memory(workload, _first_epoch(workload, examples)))


def _first_epoch(workload: Workload, examples: Sequence[Example]) -> list[PassShape]:
    train, size = workload.recipe.train, int(workload.recipe.train.tokens_per_pass)
    sampler = BatchSampler(
        examples, train.rows_per_step, size, train.seed, train.pack_to, *workload.row_share, workload.sequence_tokens
    )
    steps = range(1, Steps.of(len(step_rows(examples, train.pack_to)), workload.recipe).per_epoch + 1)
    return [shape for step in steps for shape in pass_shapes(sampler.step(step))]


def _remedies(fit: Fit, examples: Sequence[Example]) -> tuple[Remedy, ...]:
    """What would lower the peak of a training that does not fit: each key alone, then all of them together."""
    workload = fit.workload
    smallest = PASS_SIZES[-1]
    ways = [
        ("train.gradient_checkpointing: true", Recipe.with_gradient_checkpointing),
        (f"train.tokens_per_pass: {smallest}", lambda recipe: recipe.with_tokens_per_pass(smallest)),
        ("model.quantize: {bits: 4, group_size: 64}", _quantized),
    ]
    if isinstance(workload.spec, FullSpec):  # whose weights are trained: neither quantized nor in parts
        ways = ways[:2]
    elif workload.processes > workload.shards and _can_share(workload):
        ways.append(("model.shard: true", _sharded))

    def n_bytes(recipe: Recipe) -> int:
        changed = workload.with_recipe(recipe)
        return sum(estimated_memory(changed, _first_epoch(changed, examples)).values())

    found, together = [], workload.recipe
    for setting, change in ways:
        alone = n_bytes(change(workload.recipe))
        if alone <= HELPS * fit.n_bytes:
            found.append(Remedy(setting, alone))
            together = change(together)
    return (*found, Remedy("all of them together", n_bytes(together))) if len(found) > 1 else tuple(found)


def _quantized(recipe: Recipe) -> Recipe:
    model: ModelSection = recipe.model.model_copy(update={"quantize": Quantize()})
    return recipe.model_copy(update={"model": model})


def _can_share(workload: Workload) -> bool:
    """Whether the processes can hold parts of the base model."""
    if workload.backend != "mlx":
        return True
    try:
        require_parts(workload.architecture, workload.processes)
    except ModelError:
        return False
    return True


def _sharded(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"shard": True})})


def gb(n_bytes: float) -> str:
    """Bytes as messages show them."""
    return f"{n_bytes / 1e9:.2f} GB"
