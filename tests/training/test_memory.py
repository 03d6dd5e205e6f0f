"""How large forward passes may be: the recipe's number, or what the estimate says of the device."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends.base import Device
from mlxtune.backends.tensor_parallel import part_of
from mlxtune.data.examples import Example
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.training.activations import PassShape
from mlxtune.training.loop import BatchSampler
from mlxtune.training.memory import (
    GATHERED,
    MEMORY_SHARE,
    PASS_SIZES,
    Workload,
    estimated_memory,
    pass_shapes,
    resolve_tokens_per_pass,
)
from mlxtune.training.tune import lora_spec
from tests.architectures import architecture_of
from tests.conftest import write_recipe
from tests.tiny import tiny_config

CONFIG = tiny_config("qwen3", hidden=64, layers=12)
MACHINE = Device("cpu", "a machine", 1 << 40)
RANDOM = np.random.default_rng(0)


def example(n_prompt: int, n_reply: int) -> Example:
    prompt = np.concatenate([np.arange(20), RANDOM.integers(20, 400, n_prompt)]).astype(np.int32)
    reply = np.full(n_reply, 7, np.int32)
    return Example(0, prompt, reply, np.ones(n_reply, np.float32), np.zeros(n_reply, np.int16))


EXAMPLES = [example(int(RANDOM.integers(5, 200)), int(RANDOM.integers(1, 50))) for _ in range(300)]


@pytest.fixture
def many_rows(tmp_path: Path, base: Path) -> Recipe:
    return load_recipe(write_recipe(tmp_path, base, train={"batch_size": 64, "gradient_accumulation": 1}))


def workload_of(recipe: Recipe, device: Device) -> Workload:
    architecture = architecture_of(CONFIG)
    return Workload(recipe, CONFIG, architecture, lora_spec(recipe, architecture), device, "mlx")


def resolved(recipe: Recipe, memory_bytes: float, **train: Any) -> int:
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    device = replace(MACHINE, memory_bytes=int(memory_bytes))
    return resolve_tokens_per_pass(workload_of(recipe, device), EXAMPLES)


def test_a_number_in_the_recipe_is_taken_as_it_is(many_rows: Recipe) -> None:
    assert resolved(many_rows, 1, tokens_per_pass=700) == 700


def test_where_memory_is_plenty_passes_are_as_large_as_pays(many_rows: Recipe) -> None:
    assert resolved(many_rows, 1 << 40) == PASS_SIZES[0] == max(PASS_SIZES)


def test_where_nothing_fits_passes_are_the_smallest(many_rows: Recipe) -> None:
    assert resolved(many_rows, 1) == PASS_SIZES[-1] == min(PASS_SIZES)


def test_less_memory_never_makes_larger_passes(many_rows: Recipe) -> None:
    sizes = [resolved(many_rows, memory) for memory in np.geomspace(1e6, 1e10, 60)]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(PASS_SIZES)


@pytest.mark.parametrize("size", PASS_SIZES[:-1])
def test_all_passes_of_the_size_it_takes_stay_within_the_share_of_memory(many_rows: Recipe, size: int) -> None:
    least = min(memory for memory in np.geomspace(1e6, 1e10, 300) if resolved(many_rows, memory) == size)
    sampler = BatchSampler(EXAMPLES, many_rows.train.rows_per_step, size, seed=0)
    passes = [shape for step in range(1, 21) for shape in pass_shapes(sampler.step(step))]
    workload = workload_of(many_rows, MACHINE)
    parts = estimated_memory(workload, passes)
    assert 0.5 * MEMORY_SHARE * least < sum(parts.values()) <= MEMORY_SHARE * least


def test_gradient_checkpointing_makes_room_for_larger_passes(many_rows: Recipe) -> None:
    least = min(memory for memory in np.geomspace(1e6, 1e10, 300) if resolved(many_rows, memory) == 2048)
    assert resolved(many_rows, least, gradient_checkpointing=True) == 4096


def test_a_process_that_holds_a_part_of_the_weights_has_its_part_and_one_block_whole(many_rows: Recipe) -> None:
    shapes = [PassShape(rows=4, width=64, prefix=20, supervised=40, tokens=256, is_alone=False)]
    whole = replace(workload_of(many_rows, MACHINE), backend="torch", processes=4)
    model = many_rows.model.model_copy(update={"shard": True})
    in_parts = whole.with_recipe(many_rows.model_copy(update={"model": model}))
    before, after = estimated_memory(whole, shapes), estimated_memory(in_parts, shapes)
    assert after["weights"] == before["weights"] / 4
    blocks = [f"model.layers.{number}." for number in range(12)]
    weights = whole.architecture.weights
    sizes = [sum(math.prod(weights[name]) for name in weights if name.startswith(one)) for one in blocks]
    assert after.pop(GATHERED) == 2 * 4 * max(*sizes, math.prod(weights["model.embed_tokens.weight"]))
    assert {name: after[name] for name in after if name != "weights"} == {
        name: before[name] for name in before if name != "weights"
    }


def test_where_processes_share_layers_each_holds_and_computes_its_part_of_all_rows(many_rows: Recipe) -> None:
    sharded = many_rows.model_copy(update={"model": many_rows.model.model_copy(update={"shard": True})})
    alone, one_of_two = (replace(workload_of(one, MACHINE), rank=1, processes=2) for one in (many_rows, sharded))
    assert (alone.row_share, one_of_two.row_share) == ((1, 2), (0, 1))
    passes = pass_shapes(BatchSampler(EXAMPLES, 64, 1024, 0).step(1))
    whole, part = (estimated_memory(one, passes) for one in (alone, one_of_two))
    assert part["weights"] == 4 * part_of(one_of_two.architecture, 2).n_parameters < whole["weights"]
    assert part["activations"] < whole["activations"]
    assert part["adapter and optimizer"] == whole["adapter and optimizer"]
    assert part.keys() == whole.keys()
