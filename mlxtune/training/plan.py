"""What a training would take: parameters, tokens, steps, padding, memory. Reads config.json, tokenizer and data; no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlxtune.backends.base import Batch, Device, LoraSpec
from mlxtune.backends.shapes import LOGITS_BYTES, positions_at_once
from mlxtune.data.examples import within_positions
from mlxtune.data.prepare import prepare
from mlxtune.models.architecture import linear_layers, n_parameters
from mlxtune.models.base_model import config_and_tokenizer
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe
from mlxtune.training.loop import BatchSampler, Steps, count_tokens
from mlxtune.training.tune import describe_data, lora_spec

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAPTER_BYTES = 16  # a trainable parameter: its value, gradient and AdamW's two moments, float32 each
GRADIENT_COPIES = 2  # of a block's activations, while its gradient is computed
QUANTIZATION_OVERHEAD_BITS = 32  # a group: one scale and one offset of 16 bits


@dataclass(frozen=True)
class Plan:
    """What a training would take.

    Attributes:
        trainable_parameters: Of the adapter.
        total_parameters: Of the base model.
        data: One line on the rows.
        rows: Rows trained on.
        rows_to_rewrite: Of these, those that a server rewrites when training starts; until then their source rows are counted instead.
        tokens_per_epoch: Tokens of all rows, prompt and reply.
        supervised_per_epoch: Those that are trained on.
        steps_per_epoch: Optimizer steps an epoch.
        steps: Optimizer steps in all.
        longest: Tokens of the longest row.
        padding: Share of the computed positions that are padding, first epoch.
        head_padding: Share of the head's positions that are padding, first epoch.
        shared_prefix_tokens: Tokens that open every row and are computed once a forward pass.
        shared_prefix_saved: Share of the rows' tokens that need no computing for it.
        memory_bytes: Estimated peak.
        available_bytes: What this machine's device may use.
        device: Which that is.
        rounding: What the device rounds float32 products to, where the user wants that.
        gradient_checkpointing: Whether activations are computed again rather than kept.
    """

    trainable_parameters: int
    total_parameters: int
    data: str
    rows: int
    tokens_per_epoch: int
    supervised_per_epoch: int
    steps_per_epoch: int
    steps: int
    longest: int
    padding: float
    head_padding: float
    shared_prefix_tokens: int
    shared_prefix_saved: float
    memory_bytes: Mapping[str, int]
    available_bytes: int
    device: str
    rounding: str | None = None
    gradient_checkpointing: bool = False
    rows_to_rewrite: int = 0

    @property
    def total_memory_bytes(self) -> int:
        """Sum of the estimate's parts."""
        return sum(self.memory_bytes.values())

    def as_json(self) -> dict[str, Any]:
        """The plan's figures, with names that state their unit."""
        return {
            "trainable_parameters": self.trainable_parameters,
            "total_parameters": self.total_parameters,
            "rows": self.rows,
            "rows_to_rewrite": self.rows_to_rewrite,
            "tokens_per_epoch": self.tokens_per_epoch,
            "supervised_tokens_per_epoch": self.supervised_per_epoch,
            "steps_per_epoch": self.steps_per_epoch,
            "steps": self.steps,
            "longest_row_tokens": self.longest,
            "padding_share": round(self.padding, 4),
            "head_padding_share": round(self.head_padding, 4),
            "shared_prefix_tokens": self.shared_prefix_tokens,
            "shared_prefix_saved_share": round(self.shared_prefix_saved, 4),
            "memory_gb": {name: round(value / 1e9, 3) for name, value in self.memory_bytes.items()},
            "memory_total_gb": round(self.total_memory_bytes / 1e9, 3),
            "memory_available_gb": round(self.available_bytes / 1e9, 3),
            "fits": self.total_memory_bytes <= self.available_bytes,
            "device": self.device,
            "rounding": self.rounding,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    def as_text(self) -> str:
        """The plan, a line a fact."""
        parts = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in self.memory_bytes.items())
        share = self.trainable_parameters / self.total_parameters
        remedies = ["lower train.batch_size or train.max_tokens", "set model.quantize"]
        if not self.gradient_checkpointing:
            remedies.insert(0, "set train.gradient_checkpointing: true")
        fits = self.total_memory_bytes <= self.available_bytes
        of_head = f", {self.head_padding:.1%} of those of the head" if self.head_padding else ""
        verdict = "fits" if fits else f"DOES NOT FIT: {', or '.join(remedies)}"
        lines = [
            ("parameters", f"{self.trainable_parameters:,} trainable of {self.total_parameters:,} ({share:.2%})"),
            ("data", self.data),
            ("tokens an epoch", f"{self.tokens_per_epoch:,}, {self.supervised_per_epoch:,} of them supervised"),
            ("longest row", f"{self.longest:,} tokens"),
            ("steps", f"{self.steps:,} ({self.steps_per_epoch:,} an epoch)"),
            ("padding", f"{self.padding:.1%} of the positions computed{of_head}"),
            (
                "shared prefix",
                f"{self.shared_prefix_tokens:,} tokens, computed once a forward pass: {self.shared_prefix_saved:.1%} of all tokens saved",
            ),
            ("memory", f"about {self.total_memory_bytes / 1e9:.2f} GB ({parts})"),
            ("this machine", f"{self.available_bytes / 1e9:.2f} GB for {self.device}: {verdict}"),
        ]
        if self.rounding:
            lines.append(("rounding", self.rounding))
        return "\n".join(f"{name:<17}{text}" for name, text in lines)


def plan(recipe: Recipe, device: Device, copies_head: bool = True) -> Plan:
    """Plan a recipe's training on a device.

    Args:
        recipe: What to train.
        device: Where.
        copies_head: The backend makes a float32 copy of a 16-bit head, as MLX does; torch casts it block by block.

    Raises:
        MlxtuneError: As training would, for data and configuration.
    """
    config, tokenizer_folder = config_and_tokenizer(recipe.model)
    recipe = within_positions(recipe, config)
    spec = lora_spec(recipe, config)
    tokenizer = load_tokenizer(tokenizer_folder)
    prepared = prepare(recipe, tokenizer, ask=False)
    training, validation = prepared.training, prepared.validation
    steps = Steps.of(len(training.examples), recipe)
    settings = recipe.train
    sampler = BatchSampler(training.examples, settings.batch_size, settings.gradient_accumulation, settings.seed)
    epoch = [batch for step in range(1, steps.per_epoch + 1) for batch in sampler.step(step)]
    tokens = sum(map(count_tokens, epoch))
    own_positions = sum(_positions(batch, device) for batch in epoch)
    supervised = sum(int(batch.supervised.sum()) for batch in epoch)
    head_positions = sum(device.padding.positions(int(batch.supervised.sum())) for batch in epoch)
    own_tokens = sum(int(batch.lengths.sum()) for batch in epoch)
    prefix = len(epoch[0].prefix)
    trainable = _adapter_size(spec, linear_layers(config))
    total = n_parameters(config)
    return Plan(
        trainable_parameters=trainable,
        total_parameters=total,
        data=describe_data(training, validation),
        rows=len(training.examples),
        tokens_per_epoch=tokens,
        supervised_per_epoch=supervised,
        steps_per_epoch=steps.per_epoch,
        steps=steps.total,
        longest=max(example.n_tokens for example in training.examples),
        padding=(own_positions - own_tokens) / (own_positions + prefix * len(epoch)),
        head_padding=1 - supervised / head_positions,
        shared_prefix_tokens=prefix,
        shared_prefix_saved=(tokens - own_tokens - prefix * len(epoch)) / tokens,
        memory_bytes=_memory(recipe, config, device, epoch, spec, trainable, total, copies_head),
        available_bytes=device.memory_bytes,
        device=device.description,
        rounding=device.rounding if device.kind == "gpu" else None,
        gradient_checkpointing=settings.gradient_checkpointing,
        rows_to_rewrite=augmented.wanted if (augmented := training.augmented) and augmented.is_estimate else 0,
    )


def _positions(batch: Batch, device: Device) -> int:
    """Positions of a batch's rows as the device computes them, padding included."""
    rows, width = batch.tokens.shape
    return device.padding.rows(rows) * device.padding.width(width)


def _adapter_size(spec: LoraSpec, shapes: Mapping[str, tuple[int, int]]) -> int:
    return sum(spec.rank * sum(shapes[layer]) for layer in spec.layers)


def _memory(
    recipe: Recipe,
    config: Mapping[str, Any],
    device: Device,
    epoch: list[Batch],
    spec: LoraSpec,
    trainable: int,
    total: int,
    copies_head: bool,
) -> dict[str, int]:
    """An estimate of the peak, by part, in bytes.

    Activations are what the backward pass keeps of the largest batch, per position and block: the inputs of the
    linear layers and of the norms (about 9 x hidden), query, key, value and the attention's output, three MLP
    products, and the attention's probabilities where no fused kernel recomputes them (CPU). Blocks below the first
    adapted one keep nothing. With gradient checkpointing a block keeps its input, and keys and values of a shared prefix;
    all the rest is kept of one block at a time. While a block's gradient is computed it takes its activations twice
    more (measured, MLX on a CPU). The loss keeps logits, their exponentials and their gradient, float32, for the
    supervised positions only; MLX of a chunk of them.
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

    def activations(batch: Batch) -> int:
        own = _positions(batch, device)
        positions = own + len(batch.prefix)
        per_position = 9 * hidden + (2 * heads + 2 * key_heads) * head + 3 * inner
        attended = len(batch.prefix) + device.padding.width(batch.tokens.shape[1])
        attention = own * attended + len(batch.prefix) ** 2
        of_block = positions * per_position + (attention * heads if device.kind == "cpu" else 0)
        kept, at_once = blocks * of_block, GRADIENT_COPIES * of_block
        if recipe.train.gradient_checkpointing:
            kept = blocks * (positions * hidden + len(batch.prefix) * 2 * key_heads * head)
            at_once += of_block
        return (kept + at_once) * width

    def logits(batch: Batch) -> int:
        positions, vocabulary = int(batch.supervised.sum()), int(config["vocab_size"])
        if copies_head:
            positions = min(positions, positions_at_once(vocabulary, LOGITS_BYTES[device.kind]))
        return positions * vocabulary * 4 * 3

    # A 16-bit head is copied to float32 to compute the loss in.
    head_copy = int(config["vocab_size"]) * hidden * 4 if copies_head and width < 4 and not quantization else 0

    return {
        "weights": int(total * weight_bits / 8),
        "adapter and optimizer": trainable * ADAPTER_BYTES,
        "activations": max(map(activations, epoch)),
        "logits": max(map(logits, epoch)) + head_copy,
    }
