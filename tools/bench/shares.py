"""What each process computes of each optimizer step of a recipe: drawn as training draws it, from data or from lengths. No weights.

training = training_of(backend, recipe, 4096, "torch")
for shares in training.epoch(rows_per_step=16, n_processes=4): ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlxtune.backends.adapter import part_shapes
from mlxtune.backends.base import UNSUPERVISED, Backend, Batch, FullSpec
from mlxtune.backends.processes import buckets
from mlxtune.backends.shapes import sequence_tokens
from mlxtune.data.examples import Example
from mlxtune.data.packing import step_rows
from mlxtune.data.passes import pass_positions
from mlxtune.data.prepared_cache import cached_prepare
from mlxtune.models.base_model import config_and_tokenizer
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import AUTO, Recipe
from mlxtune.training.loop import BatchSampler
from mlxtune.training.tune import tuning_spec
from tools.bench.clusters import Share
from tools.bench.training_speed import flops_per_position

GRADIENT_BYTES = 4  # gradients are exchanged in float32


@dataclass(frozen=True)
class Training:
    """What is trained, as far as its time depends on it.

    Attributes:
        name: Of the recipe.
        examples: Training examples.
        gradients: Elements of each array that is trained.
        rows_per_step: Of the recipe.
        tokens_per_pass: Most positions of a pass.
        seed: Of the order of rows.
        pack_to: As `train.pack_to`.
        flops_per_position: Operations that a token needs; 0 where no model is known.
        backend: Name of the one that trains.
        is_recurrent: The model has delta nets, whose rows share no sequence.
    """

    name: str
    examples: Sequence[Example]
    gradients: Sequence[int]
    rows_per_step: int
    tokens_per_pass: int
    seed: int
    pack_to: int | None
    flops_per_position: float
    backend: str = "mlx"
    is_recurrent: bool = False

    @property
    def sequence_tokens(self) -> int:
        """As `plan_passes` takes it."""
        return sequence_tokens(self.backend, self.is_recurrent)

    @property
    def bucket_bytes(self) -> list[int]:
        """Bytes of each array of gradients that is exchanged."""
        return [GRADIENT_BYTES * sum(self.gradients[part]) for part in buckets(self.gradients)]

    def sampler(self, rows_per_step: int, rank: int, n_processes: int) -> BatchSampler:
        """The passes of one of the processes."""
        return BatchSampler(
            self.examples,
            rows_per_step,
            self.tokens_per_pass,
            self.seed,
            self.pack_to,
            rank,
            n_processes,
            self.sequence_tokens,
        )

    def epoch(self, rows_per_step: int, n_processes: int) -> Iterator[list[Share]]:
        """What each process computes of each step of the first epoch."""
        samplers = [self.sampler(rows_per_step, rank, n_processes) for rank in range(n_processes)]
        n_steps = math.ceil(len(step_rows(self.examples, self.pack_to)) / rows_per_step)
        for step in range(1, n_steps + 1):
            yield [self.share_of(sampler.step(step)) for sampler in samplers]

    def share_of(self, batches: Sequence[Batch]) -> Share:
        """What the passes of a process compute; there may be none."""
        prefix = len(batches[0].prefix) if batches else 0
        positions = sum(pass_positions(batch.lengths.tolist(), self.sequence_tokens) for batch in batches)
        return Share(prefix + positions, len(batches))


def training_of(backend: Backend, recipe: Recipe, tokens_per_pass: int, trains: str) -> Training:
    """A recipe's training, from its data and its model's config.json and tokenizer.

    Args:
        backend: Knows what the model is made of.
        recipe: What is trained.
        tokens_per_pass: Where the recipe leaves that to memory.
        trains: Name of the backend that trains.
    """
    config, folder = config_and_tokenizer(recipe.model)
    architecture = backend.architecture(config)
    spec = tuning_spec(recipe, architecture, config)
    if isinstance(spec, FullSpec):
        gradients = [math.prod(architecture.weights[name]) for name in spec.names]
    else:
        shapes = [architecture.linear_layers[layer] for layer in spec.layers]
        gradients = [math.prod(part) for shape in shapes for part in part_shapes(spec, shape).values()]
    examples = cached_prepare(recipe, load_tokenizer(folder), ask=False).training.examples
    found = _training(recipe, examples, gradients, tokens_per_pass, trains)
    flops = flops_per_position(architecture, spec)
    return replace(found, flops_per_position=flops, is_recurrent=architecture.is_recurrent)


def made_up_training(
    recipe: Recipe, examples: Sequence[Example], n_parameters: int, tokens_per_pass: int, trains: str
) -> Training:
    """A recipe's training on rows of given lengths, with an adapter of a given size, of a model without delta nets."""
    return _training(recipe, examples, [n_parameters], tokens_per_pass, trains)


def _training(
    recipe: Recipe, examples: Sequence[Example], gradients: Sequence[int], tokens_per_pass: int, trains: str
) -> Training:
    train = recipe.train
    size = tokens_per_pass if train.tokens_per_pass == AUTO else train.tokens_per_pass
    return Training(recipe.name, examples, gradients, train.rows_per_step, size, train.seed, train.pack_to, 0.0, trains)


def made_up_rows(n_rows: int, median: float, sigma: float, prefix: int) -> list[Example]:
    """Rows whose own tokens are log-normally distributed, behind a prefix that all share; of each the last token is trained on."""
    lengths = np.random.default_rng(0).lognormal(math.log(median), sigma, n_rows)
    none, last = np.full(1, UNSUPERVISED + 1, np.int16), np.zeros(1, np.int32)
    return [
        Example(row, np.concatenate([np.zeros(prefix, np.int32), np.full(max(1, round(length) - 1), row + 1, np.int32)]), last, np.ones(1, np.float32), none)
        for row, length in enumerate(lengths)
    ]  # fmt: skip
