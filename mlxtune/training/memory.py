"""What memory a training takes, by estimate, and how large its forward passes may be for it. No weights, no backend."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlxtune.backends.adapter import part_shapes
from mlxtune.backends.architecture import BLOCKS, Architecture, block_of
from mlxtune.backends.base import Batch, Device, FullSpec, LoraSpec, TuningSpec
from mlxtune.backends.shapes import BLOCK_ELEMENTS, LOGITS_BYTES, POSITIONS_AT_ONCE, positions_at_once, sequence_tokens
from mlxtune.backends.tensor_parallel import part_of
from mlxtune.data.batches import shared_prefix
from mlxtune.data.examples import Example
from mlxtune.data.packing import step_rows
from mlxtune.recipe.sections import AUTO, Recipe, TrainSection
from mlxtune.training.activations import FLOAT32, SILU, Activations, PassShape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAPTER_BYTES = 16  # a trainable parameter: its value, gradient and AdamW's two moments, float32 each
FULL_BYTES = 12  # of a parameter where all are trained: gradient and moments, beside the weight
LOGITS_COPIES = {
    "mlx": 3,
    "torch": 1,
}  # the logits, their exponentials and their gradient; torch writes each over the one before
# A weight's element while torch dequantizes it: the float32 value, and twice its byte before that.
DEQUANTIZED_BYTES = 6
# torch on a CPU has no count of its own, so the measured peak is the whole process's: Python, torch, transformers and PEFT take this before
# a weight is read (torch 2.13 and transformers 5.24 on Linux).
PROCESS_BYTES = 440_000_000
PROCESS = "Python and libraries"  # its name among the parts
GATHERED = "gathered weights"  # likewise: of a base model of which each process holds a part
# Gaps in glibc's heap, which does not find freed aligned memory again: about as much as all blocks compute, kept or computed again, beside
# their adapters' share (measured with 2.36). With every array in pages of its own (MALLOC_MMAP_THRESHOLD_=131072) there were none, and
# a step took two thirds more time.
HEAP_GAPS = 1.0
HEAP_ARRAY_BYTES = 32 << 20  # glibc gives a larger array pages of its own

# Positions of a pass that `auto` chooses among. Past the largest, a pass costs what its positions cost: to double it saves
# PASS_COST of 4,096, 2%, for twice the memory. Powers of two, so that machines that differ little agree.
PASS_SIZES = (4096, 2048, 1024, 512, 256)
# Share of the device's memory that the estimate may reach when passes are sized. The estimate is right to 15% (tools/bench/plan_memory.py);
# the rest is for other programs, whose memory it does not know.
MEMORY_SHARE = 0.75


@dataclass(frozen=True)
class Workload:
    """What a training's memory depends on beside its rows.

    Attributes:
        recipe: With its settings.
        config: The base model's config.json.
        architecture: What it is made of.
        spec: What is trained.
        device: Where training runs.
        backend: 'mlx' or 'torch'.
        rank: Of the process whose memory it is.
        processes: Those that train together; with `model.shard` each holds a part of the base model's weights.
    """

    recipe: Recipe
    config: Mapping[str, Any]
    architecture: Architecture
    spec: TuningSpec
    device: Device
    backend: str
    rank: int = 0
    processes: int = 1

    @property
    def shards(self) -> int:
        """Parts that the base model's weights are in, a process each."""
        return self.processes if self.recipe.model.shard else 1

    @property
    def splits_layers(self) -> bool:
        """Whether a process computes a part of every layer, of all rows, as with MLX, and not whole layers of a part of the rows."""
        return self.shards > 1 and self.backend == "mlx"

    @property
    def row_share(self) -> tuple[int, int]:
        """Which share of the rows of each step this process computes, and how many shares there are."""
        return (0, 1) if self.splits_layers else (self.rank, self.processes)

    @property
    def sequence_tokens(self) -> int:
        """Tokens of a sequence that several rows share; 0 where they share none."""
        return sequence_tokens(self.backend, self.architecture.is_recurrent)

    @property
    def computed(self) -> Architecture:
        """What this process computes with: all of the model, or its part of every layer."""
        return part_of(self.architecture, self.shards) if self.splits_layers else self.architecture

    def with_recipe(self, recipe: Recipe) -> Workload:
        """The same under another recipe, whose adapter is the same."""
        return replace(self, recipe=recipe)


def resolve_tokens_per_pass(workload: Workload, examples: Sequence[Example]) -> int:
    """`train.tokens_per_pass` as a number: the recipe's own, or for `auto` the largest of PASS_SIZES that memory allows.

    A size is allowed where the estimate for the largest pass that it can make of the longest rows of the data stays within
    MEMORY_SHARE of the device's memory. Where none is, it is the smallest: rows longer than it are passes of their own.
    """
    train = workload.recipe.train
    if train.tokens_per_pass != AUTO:
        return train.tokens_per_pass
    allowed = MEMORY_SHARE * workload.device.memory_bytes
    for size in PASS_SIZES:
        largest = largest_passes(examples, train, size)
        if sum(estimated_memory(workload, largest).values()) <= allowed:
            return size
    return PASS_SIZES[-1]


def pass_shapes(step_batches: Sequence[Batch]) -> list[PassShape]:
    """Those of the passes of one optimizer step."""
    return [
        PassShape(
            rows=batch.tokens.shape[0],
            width=batch.tokens.shape[1],
            prefix=len(batch.prefix),
            supervised=int(batch.supervised.sum()),
            tokens=int(batch.lengths.sum()),
            is_alone=len(step_batches) == 1,
        )
        for batch in step_batches
    ]


def largest_passes(examples: Sequence[Example], train: TrainSection, size: int) -> list[PassShape]:
    """The largest passes of up to `size` positions that a step could hold: of the longest rows, with the longest replies.

    A step that is one pass keeps what is computed of the prefix, others do not; so there are two where both may be.
    """
    prefix = len(shared_prefix(examples))
    width = max(example.n_tokens for example in examples) - prefix
    most = sorted((len(row) for row in step_rows(examples, train.pack_to)), reverse=True)
    in_step = sum(most[: train.rows_per_step])
    rows = max(1, min(in_step, size // width))
    replies = sorted((example.n_supervised for example in examples), reverse=True)
    supervised = min(sum(replies[:in_step]), max(size, replies[0]))  # of shorter rows, a pass holds more than `rows`
    largest = PassShape(rows, width, prefix, supervised, rows * width)
    return [largest] if rows == in_step else [largest, replace(largest, is_alone=False)]


def adapter_size(spec: LoraSpec, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Parameters of an adapter, given (in, out) of each layer."""
    return sum(math.prod(shape) for layer in spec.layers for shape in part_shapes(spec, shapes[layer]).values())


def n_trained(spec: TuningSpec, architecture: Architecture) -> int:
    """Values that are trained: the adapter's, or all of the model's."""
    return architecture.n_parameters if isinstance(spec, FullSpec) else adapter_size(spec, architecture.linear_layers)


def estimated_memory(workload: Workload, passes: Iterable[PassShape]) -> dict[str, int]:
    """An estimate of the peak that training reports, by part, in bytes.

    The peak lies at the start of the backward pass of the largest pass: all that it keeps is there (`activations.py`), and beside it
    either the logits of as many positions as the head computes at once, or the gradient of one block. MLX and CUDA report their
    arrays, and freed memory that they keep for reuse is given back where it is needed; torch on a CPU reports the process.

    Args:
        workload: What is trained, and where.
        passes: Those of training, or the largest.
    """
    recipe, architecture, device = workload.recipe, workload.architecture, workload.device
    width = value_bytes(workload)
    config = workload.config
    activations = Activations(
        workload.computed,
        workload.spec,
        workload.backend,
        device,
        width,
        recipe.train.gradient_checkpointing,
        config.get("hidden_activation") or config.get("hidden_act") or SILU,
    )
    shapes = set(passes)
    gathers = workload.shards > 1 and not workload.splits_layers
    if gathers:  # a prefix is computed before the rows, as other processes may have several passes
        shapes = {replace(shape, is_alone=False) for shape in shapes}
    peaks = [_of_pass(workload, activations, shape) for shape in shapes]
    kept, beside, again = max(
        (_with_second_gradient(workload, *one) for one in zip(shapes, peaks, strict=True)), key=sum
    )
    is_full = isinstance(workload.spec, FullSpec)
    bytes_each = FULL_BYTES if is_full else ADAPTER_BYTES
    of_trained = n_trained(workload.spec, architecture) * bytes_each + again
    parts = {
        "weights": math.ceil(_weight_bytes(workload, width) / (workload.shards if gathers else 1)),
        **({GATHERED: _gathered_bytes(workload, width)} if gathers else {}),
        "gradients and optimizer" if is_full else "adapter and optimizer": of_trained,
        "activations": kept,
        "gradients or logits": beside,
    }
    if workload.backend == "torch" and device.kind == "cpu":
        parts["gaps in the heap"] = max(_heap_gaps(workload, activations, shape) for shape in shapes)
        parts[PROCESS] = PROCESS_BYTES
    return parts


def value_bytes(workload: Workload) -> int:
    """Bytes of a value of the type that is computed in."""
    if isinstance(workload.spec, FullSpec):
        return FLOAT32
    named = workload.recipe.model.dtype
    if named is None and workload.device.kind == "cpu":
        return FLOAT32
    stored = workload.config.get("torch_dtype") or workload.config.get("dtype") or "bfloat16"
    return BYTES.get(named or str(stored), FLOAT32)


def _of_pass(workload: Workload, activations: Activations, shape: PassShape) -> tuple[int, int]:
    """What a pass keeps, and what its logits or the gradient of a block take beside that, bytes."""
    kept, logits = activations.kept(shape), _logits_bytes(workload, shape)
    beside = max(activations.at_once(shape), logits) + _dequantized_bytes(workload)
    if shape.is_alone or not shape.prefix or workload.backend == "torch":
        return kept, beside
    # MLX keeps a shared prefix's keys and values and gathers their gradient over the passes; then it runs the prefix anew.
    of_prefix = PassShape(1, shape.prefix + 1, 0, 0, shape.prefix + 1)
    again = activations.kept(of_prefix), activations.at_once(of_prefix)
    states = activations.states(shape)
    largest = max((kept, beside), again, key=sum)
    return largest[0] + states, largest[1]


def _with_second_gradient(workload: Workload, shape: PassShape, peak: tuple[int, int]) -> tuple[int, int, int]:
    """A pass's peak, and beside it what MLX has of all weights a second time: the gradient of a pass while that of the passes before it is
    added, or, when no activations are there any longer, the gradient while the optimizer scales it, bytes. torch does both in place.
    """
    if workload.backend == "torch" or not isinstance(workload.spec, FullSpec):
        return (*peak, 0)
    gradient = workload.architecture.n_parameters * FLOAT32
    return (*peak, max(0, gradient - sum(peak)) if shape.is_alone else gradient)


def _heap_gaps(workload: Workload, activations: Activations, shape: PassShape) -> int:
    """Freed memory of a pass that glibc neither uses again nor gives back, bytes."""
    array = shape.rows * shape.width * workload.architecture.hidden_size * FLOAT32
    if platform.libc_ver()[0] != "glibc" or array > HEAP_ARRAY_BYTES:
        return 0
    return int(HEAP_GAPS * activations.without_adapters(shape))


def _weight_bytes(workload: Workload, width: int) -> int:
    """Weights as they lie in memory: scales and offsets of a quantized base have the type that is computed in."""
    architecture, quantization = workload.computed, _quantization(workload)
    if quantization is None:
        # MLX makes a float32 copy of a 16-bit head; torch casts it block by block.
        head_copy = (
            architecture.vocabulary * architecture.hidden_size * FLOAT32
            if workload.backend == "mlx" and width < FLOAT32
            else 0
        )
        return architecture.n_parameters * width + head_copy
    bits: float = quantization["bits"] + 2 * 8 * width / quantization["group_size"]
    return math.ceil(architecture.n_parameters * bits / 8)


def _gathered_bytes(workload: Workload, width: int) -> int:
    """Of weights that processes hold parts of: the largest block, embedding or head whole, and once more as it arrives."""
    sizes: Counter[str] = Counter()
    for name, shape in workload.architecture.weights.items():
        unit = f"{BLOCKS}.{block_of(name)}" if name.startswith(f"{BLOCKS}.") else name
        sizes[unit] += math.prod(shape)
    return math.ceil(2 * max(sizes.values()) * _weight_bytes(workload, width) / workload.architecture.n_parameters)


def _logits_bytes(workload: Workload, shape: PassShape) -> int:
    """The float32 logits that exist at a time, and what becomes of them."""
    vocabulary, kind = workload.architecture.vocabulary, workload.device.kind
    positions: int = workload.device.padding.positions(max(1, shape.supervised))
    if workload.backend == "mlx":
        positions = min(positions, positions_at_once(vocabulary, LOGITS_BYTES[kind]))
    else:
        positions = min(positions, POSITIONS_AT_ONCE)
    return positions * vocabulary * FLOAT32 * LOGITS_COPIES[workload.backend]


def _dequantized_bytes(workload: Workload) -> int:
    """The block of a weight that torch dequantizes to multiply by it."""
    if workload.backend != "torch" or _quantization(workload) is None:
        return 0
    largest = max(math.prod(shape) for shape in workload.architecture.weights.values())
    return min(largest, BLOCK_ELEMENTS) * DEQUANTIZED_BYTES


def _quantization(workload: Workload) -> Mapping[str, Any] | None:
    """Bits and group size of the base that is trained on; None where it is not quantized."""
    asked = workload.recipe.model.quantize
    found: Mapping[str, Any] | None = asked.model_dump() if asked else workload.config.get("quantization")
    return None if found is None else {"bits": 4, "group_size": 64, **found}
