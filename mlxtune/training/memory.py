"""What memory a training takes, by estimate, and how large its forward passes may be for it. No weights, no backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.backends.base import Batch, Device, LoraSpec
from mlxtune.backends.shapes import LOGITS_BYTES, positions_at_once
from mlxtune.data.batches import shared_prefix
from mlxtune.data.examples import Example
from mlxtune.models.architecture import linear_layers, n_parameters
from mlxtune.recipe.sections import AUTO, Recipe

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAPTER_BYTES = 16  # a trainable parameter: its value, gradient and AdamW's two moments, float32 each
GRADIENT_COPIES = 2  # of a block's activations, while its gradient is computed
QUANTIZATION_OVERHEAD_BITS = 32  # a group: one scale and one offset of 16 bits

# Positions of a pass that `auto` chooses among. Past the largest, a pass costs what its positions cost: to double it saves
# PASS_COST of 4,096, 2%, for twice the memory. Powers of two, so that machines that differ little agree.
PASS_SIZES = (4096, 2048, 1024, 512, 256)
# Share of the device's memory that the estimate may reach. It was right on a CPU and short by half on a GPU; and other programs
# run beside a training.
MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class PassShape:
    """What a forward pass's memory depends on.

    Attributes:
        rows: How many.
        width: Tokens of the longest, without the prefix.
        prefix: Tokens that open every row.
        supervised: Supervised tokens of all rows.
    """

    rows: int
    width: int
    prefix: int
    supervised: int

    @classmethod
    def of(cls, batch: Batch) -> PassShape:
        """That of a batch."""
        rows, width = batch.tokens.shape
        return cls(rows, width, len(batch.prefix), int(batch.supervised.sum()))


def resolve_tokens_per_pass(
    recipe: Recipe,
    examples: Sequence[Example],
    config: Mapping[str, Any],
    spec: LoraSpec,
    device: Device,
    copies_head: bool,
) -> int:
    """`train.tokens_per_pass` as a number: the recipe's own, or for `auto` the largest of PASS_SIZES that memory allows.

    A size is allowed where the estimate for the largest pass that it can make of the longest rows of the data stays within
    MEMORY_SHARE of the device's memory. Where none is, it is the smallest: rows longer than it are passes of their own.

    Args:
        recipe: With its settings.
        examples: Training examples.
        config: The base model's config.json.
        spec: The adapter.
        device: Where training runs.
        copies_head: As for `estimated_memory`.
    """
    if recipe.train.tokens_per_pass != AUTO:
        return recipe.train.tokens_per_pass
    allowed = MEMORY_SHARE * device.memory_bytes
    for size in PASS_SIZES:
        largest = _largest_pass(examples, recipe.train.rows_per_step, size)
        if sum(estimated_memory(recipe, config, spec, device, [largest], copies_head).values()) <= allowed:
            return size
    return PASS_SIZES[-1]


def _largest_pass(examples: Sequence[Example], rows_per_step: int, size: int) -> PassShape:
    """The largest pass of up to `size` positions that a step could hold: its rows the longest, their replies too."""
    prefix = len(shared_prefix(examples))
    width = max(example.n_tokens for example in examples) - prefix
    rows = max(1, min(rows_per_step, len(examples), size // width))
    replies = sorted((len(example.reply) for example in examples), reverse=True)
    in_step = sum(replies[:rows_per_step])  # of shorter rows, a pass holds more than `rows`
    return PassShape(rows, width, prefix, min(in_step, max(size, replies[0])))


def adapter_size(spec: LoraSpec, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Parameters of an adapter, given (in, out) of each layer."""
    return sum(spec.rank * sum(shapes[layer]) for layer in spec.layers)


def estimated_memory(
    recipe: Recipe,
    config: Mapping[str, Any],
    spec: LoraSpec,
    device: Device,
    passes: Iterable[PassShape],
    copies_head: bool,
) -> dict[str, int]:
    """An estimate of the peak, by part, in bytes.

    Activations are what the backward pass keeps of the largest pass, per position and block: the inputs of the
    linear layers and of the norms (about 9 x hidden), query, key, value and the attention's output, three MLP
    products, and the attention's probabilities where no fused kernel recomputes them (CPU). Blocks below the first
    adapted one keep nothing. With gradient checkpointing a block keeps its input, and keys and values of a shared prefix;
    all the rest is kept of one block at a time. While a block's gradient is computed it takes its activations twice
    more (measured, MLX on a CPU). The loss keeps logits, their exponentials and their gradient, float32, for the
    supervised positions only; MLX of a chunk of them.

    Args:
        recipe: With its settings.
        config: The base model's config.json.
        spec: The adapter.
        device: Where training runs.
        passes: Those of training, or the largest.
        copies_head: The backend makes a float32 copy of a 16-bit head, as MLX does; torch casts it block by block.
    """
    dtype = recipe.model.dtype or (
        "float32" if device.kind == "cpu" else str(config.get("torch_dtype") or config.get("dtype") or "bfloat16")
    )
    width = BYTES.get(dtype, 4)
    quantization = recipe.model.quantize.model_dump() if recipe.model.quantize else config.get("quantization")
    weight_bits = 8 * width
    if quantization:
        weight_bits = quantization["bits"] + QUANTIZATION_OVERHEAD_BITS / quantization["group_size"]
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    key_heads = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or hidden // heads)

    blocks = int(config["num_hidden_layers"]) - min(int(layer.split(".")[2]) for layer in spec.layers)

    def activations(shape: PassShape) -> int:
        width_computed = device.padding.width(shape.width)
        own = device.padding.rows(shape.rows) * width_computed
        positions = own + shape.prefix
        per_position = 9 * hidden + (2 * heads + 2 * key_heads) * head + 3 * inner
        attention = own * (shape.prefix + width_computed) + shape.prefix**2
        of_block = positions * per_position + (attention * heads if device.kind == "cpu" else 0)
        kept, at_once = blocks * of_block, GRADIENT_COPIES * of_block
        if recipe.train.gradient_checkpointing:
            kept = blocks * (positions * hidden + shape.prefix * 2 * key_heads * head)
            at_once += of_block
        return (kept + at_once) * width

    def logits(shape: PassShape) -> int:
        positions, vocabulary = shape.supervised, int(config["vocab_size"])
        if copies_head:
            positions = min(positions, positions_at_once(vocabulary, LOGITS_BYTES[device.kind]))
        return positions * vocabulary * 4 * 3

    # A 16-bit head is copied to float32 to compute the loss in.
    head_copy = int(config["vocab_size"]) * hidden * 4 if copies_head and width < 4 and not quantization else 0

    shapes = set(passes)
    return {
        "weights": int(n_parameters(config) * weight_bits / 8),
        "adapter and optimizer": adapter_size(spec, linear_layers(config)) * ADAPTER_BYTES,
        "activations": max(map(activations, shapes)),
        "logits": max(map(logits, shapes)) + head_copy,
    }
