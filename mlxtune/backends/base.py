"""The seam: the Backend and Model protocols, and the values that cross them. NumPy arrays and plain numbers only.

Training, evaluation and export know a backend only through this file; no mlx or torch object crosses it. Optimizer
state stays inside the backend and is saved and loaded by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.architecture import Architecture
from mlxtune.backends.shapes import EXACT, PassPadding

AdapterKind = Literal["lora", "dora"]
STORED = "stored"  # the dtype of a model whose weights stay in the types that its files have them in
UNSUPERVISED = -1  # the segment of a token that is not trained on
FACTORS, MAGNITUDE = ("lora_A", "lora_B"), "magnitude"  # parts of an adapted layer, as values are named at the seam
# Phases of a timed step. A backend that computes the first three as one names them as one.
FORWARD, HEAD, BACKWARD, OPTIMIZER = "forward", "head", "backward", "optimizer"
EXCHANGE = "exchange"  # of gradients between processes, and the wait for them
GRADIENTS = "forward, head and backward"


@dataclass(frozen=True)
class Batch:
    """Rows of one forward pass, aligned so that `weights[b, t]` weighs predicting `tokens[b, t]`.

    Attributes:
        prefix: Token ids that open every row, (P,), int32; may be empty. Computed once, attended to by all rows.
        tokens: The rest of each row, padded on the right, (B, T), int32.
        lengths: Tokens of each row in `tokens` that are not padding, (B,), int32.
        weights: Loss weight of predicting each token, (B, T), float32, >= 0; 0 where unsupervised.
        segments: Index of the segment each token belongs to, (B, T), int16; UNSUPERVISED for prompt and padding.
        rows: Index of each row in the data, (B,), for messages.
    """

    prefix: NDArray[np.int32]
    tokens: NDArray[np.int32]
    lengths: NDArray[np.int32]
    weights: NDArray[np.float32]
    segments: NDArray[np.int16]
    rows: tuple[int, ...]

    @property
    def supervised(self) -> NDArray[np.bool_]:
        """Where a token is trained on, (B, T); never in the first column of a batch without prefix."""
        return np.not_equal(self.segments, UNSUPERVISED)


@dataclass(frozen=True)
class LoraSpec:
    """Which linear layers carry an update, and how it is scaled.

    Attributes:
        rank: r.
        scale: Factor on B A.
        dropout: Share of the layer's inputs zeroed for the update while training.
        layers: Names of the adapted layers, as in the model's weights: "model.layers.0.self_attn.q_proj".
        kind: With "dora" (Liu et al., 2024) each row of an adapted weight W + scale x B A also has a trained length.
    """

    rank: int
    scale: float
    dropout: float
    layers: tuple[str, ...]
    kind: AdapterKind = "lora"

    @property
    def has_magnitudes(self) -> bool:
        """Whether the lengths of rows are trained."""
        return self.kind == "dora"

    @property
    def parts(self) -> tuple[str, ...]:
        """What is trained of each layer: A (r, in), B (out, r), and with DoRA the magnitudes (out,)."""
        return (*FACTORS, MAGNITUDE) if self.has_magnitudes else FACTORS

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all values of the adapter, as `Model.attach_lora` takes them."""
        return tuple(f"{layer}.{part}" for layer in self.layers for part in self.parts)


NO_ADAPTER = LoraSpec(0, 0.0, 0.0, ())


@dataclass(frozen=True)
class FullSpec:
    """Full fine-tuning: all of a network's own weights are trained, in float32, and there is no adapter.

    Attributes:
        names: Of the weights, as in the model's files.
        layers: Of these, the linear layers of the blocks, whose inputs their gradient needs.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    kind: Literal["full"] = "full"

    @property
    def dropout(self) -> float:
        """None: what dropout spares is an adapter's input."""
        return 0.0


TuningSpec = LoraSpec | FullSpec


@dataclass(frozen=True)
class OptimizerSpec:
    """AdamW, decoupled and bias-corrected, after clipping the gradient's global L2 norm; weight decay is of matrices alone."""

    weight_decay: float
    max_grad_norm: float | None
    seed: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step saw.

    Attributes:
        total_nats: Sum over supervised tokens of weight x -log p, all micro-batches.
        total_weight: Sum of the weights.
        segment_nats: Sum of -log p by segment, unweighted, (S,).
        segment_tokens: Supervised tokens by segment, (S,).
        grad_norm: Global L2 norm of the gradient before clipping.
        phase_seconds: Seconds of each phase that the backend can tell apart; empty unless steps are timed.
        stop: A process was asked to end after the step.
    """

    total_nats: float
    total_weight: float
    segment_nats: NDArray[np.float64]
    segment_tokens: NDArray[np.int64]
    grad_norm: float
    stop: bool = False
    phase_seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Token-weighted mean, nats per unit of weight."""
        return self.total_nats / self.total_weight


@dataclass(frozen=True)
class TokenScores:
    """What a model makes of each token of a batch, given the right ones before it (teacher-forced).

    Attributes:
        nats: -log p of each token, (B, T), float32; 0 where unsupervised.
        correct: Whether it is the most probable token of its position, (B, T); False where unsupervised.
    """

    nats: NDArray[np.float32]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class Generation:
    """One generated reply: its token ids without the stop token, and why it ended ('stop' or 'length')."""

    tokens: tuple[int, ...]
    stop_reason: str


def in_order(found: Iterable[tuple[int, Generation]]) -> list[Generation]:
    """Replies in the order of their prompts, once all have ended."""
    by_number = dict(found)
    return [by_number[number] for number in range(len(by_number))]


class Matcher(Protocol):
    """Progress of one reply through a constraint."""

    def mask(self) -> NDArray[np.bool_]:
        """Tokens allowed next, (vocabulary,)."""
        ...

    def advance(self, token: int) -> None:
        """Take one generated token."""
        ...

    def forced(self) -> list[int]:
        """Take the tokens that come next whatever the model says, and return them; there may be none."""
        ...

    def is_done(self) -> bool:
        """Whether nothing but a stop token may follow."""
        ...


class Constraint(Protocol):
    """What replies may be written."""

    def start(self) -> Matcher:
        """A matcher at the beginning of a reply."""
        ...


class Group(Protocol):
    """The processes that compute one thing together, each with a whole model; `backends/group.py` builds on it.

    Every process makes the same calls in the same order, and each call waits for all of them.
    """

    rank: int  # which of them this is, from 0; rank 0 writes files and speaks
    size: int
    is_broken: bool  # another one left or is lost: nothing can be asked of the others any more

    def gather(self, value: Any, patient: bool = False) -> list[Any]:
        """Values of all processes, by rank.

        Args:
            value: This one's; JSON holds it.
            patient: The others may take as long as they like, as for a download.
        """
        ...

    def broadcast(self, content: bytes) -> bytes:
        """The content that rank 0 has, on all; what the others give is not looked at."""
        ...


@dataclass(frozen=True)
class StepShare:
    """That the batches of a step are what one of several processes computes of it.

    Attributes:
        total_weight: Sum of the weights of the whole step.
        stop: This process was asked to end after the step.
    """

    total_weight: float
    stop: bool = False


class Model(Protocol):
    """A loaded base model, with or without an adapter."""

    config: Mapping[str, Any]
    architecture: Architecture

    @property
    def rows_group(self) -> Group:
        """The processes that share rows, each computing its own; `ALONE` where all compute every row together."""
        ...

    def side_by_side(self) -> AbstractContextManager[None]:
        """A section in which each process of `rows_group` makes as many calls as it likes, and exchanges nothing itself.

        Where each holds a part of the weights, who is done takes part in what the others still compute.
        """
        ...

    def attach_lora(self, spec: LoraSpec, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Adapt the layers of `spec`.

        Args:
            spec: What.
            weights: First values, LAYER.lora_A (r, in) and LAYER.lora_B (out, r). With DoRA also LAYER.magnitude (out,); those
                of a layer that has none are the lengths of its weight's rows, so that nothing changes while B is zero.
        """
        ...

    def adapter_weights(self) -> dict[str, NDArray[np.float32]]:
        """The adapter's present values, named and shaped as `attach_lora` takes them."""
        ...

    def train_all(self) -> None:
        """Let training change all of the network's own weights, which are widened to float32 for it, as is all that is computed.

        Raises:
            ModelError: The model is quantized, or its library keeps weights in another form than the model's files.
        """
        ...

    def trained_weights(self) -> Mapping[str, NDArray[np.float32]]:
        """Present values of what is trained: of the adapter, or after `train_all` all weights, each copied when it is asked for."""
        ...

    def prepare_training(self, spec: OptimizerSpec, gradient_checkpointing: bool = False, timed: bool = False) -> None:
        """Freeze all but what is trained and make an optimizer.

        Preparing again replaces what was prepared before.

        Args:
            spec: The optimizer.
            gradient_checkpointing: Let the backward pass compute each block's activations again instead of keeping them:
                the same numbers, for less memory and more time.
            timed: Measure the phases of each step (`StepResult.phase_seconds`).
        """
        ...

    def train_step(
        self,
        batches: Sequence[Batch],
        learning_rate: float,
        step: int,
        n_segments: int,
        share: StepShare | None = None,
    ) -> StepResult:
        """One optimizer step over all rows of all micro-batches; dropout is a function of (seed, step, rank).

        Args:
            batches: Of several processes each has its own share of the step's rows, which may be none.
            learning_rate: Of this step.
            step: Counted from 1.
            n_segments: Segments to sum over.
            share: What a process must know of the whole step; None where `batches` is all of it.

        Returns:
            The same on all processes, of all rows.
        """
        ...

    def score(self, batch: Batch) -> TokenScores:
        """-log p of each supervised token, and whether none is likelier; dropout off, one forward pass for both."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_tokens: Sequence[int],
        constraint: Constraint | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        slots: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Replies to all prompts, each with its prompt's number, as they end; what all prompts open with is computed once.

        Args:
            prompts: Token ids, at least one each. The longest begin; where a reply ends, a prompt that waits takes its place.
            max_new_tokens: Tokens that a reply may have, as far as the model's positions reach.
            stop_tokens: Each ends a reply and does not belong to it.
            constraint: What may be written.
            temperature: 0 is greedy; else each token is sampled, a function of (seed, its prompt's number, its place).
            seed: Of the samples.
            slots: Replies that are written at a time, fewer where memory does not suffice for them; None is all.
            numbers: Of the prompts in the samples; None counts them from 0. Prompts that are a part of others keep theirs.
        """
        ...

    def choose(self, prompts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Log-probability of each option's tokens after each prompt, (B, n_options), nats, dropout off.

        An option is a whole reply with its end-of-turn token, so that no two can be true of one reply. Sums over
        tokens, not normalised over the options.
        """
        ...

    def logits(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Logits after some tokens of one sequence, (N, vocabulary), dropout off; None is after each.

        For comparing models: computed in float32 whatever type the weights have, each widened as it is used. The head runs
        on these positions alone.
        """
        ...

    def fold(self, types: Mapping[str, str]) -> None:
        """Fold the adapter into the weights, in place and layer by layer, each rounded once to the type it has in `types`.

        What is left is what a fused model of such types should be, made without the code and the files that fused it.

        Args:
            types: Name of each weight in a fused model's files -> its type as safetensors names it; U32 is packed.
        """
        ...

    def save_state(self, folder: Path) -> None:
        """Write the values of what is trained and the optimizer's state into an existing folder (`state.py`)."""
        ...

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote."""
        ...


@dataclass(frozen=True)
class Device:
    """Where a backend computes.

    Attributes:
        kind: 'gpu' or 'cpu'.
        description: Of the device.
        memory_bytes: What it may use.
        tf32: The setting by which float32 matrix products of a GPU are rounded to TF32; None where they are exact.
        padding: Up to what sizes forward passes are padded there.
    """

    kind: str
    description: str
    memory_bytes: int
    tf32: str | None = None
    padding: PassPadding = EXACT

    @property
    def rounding(self) -> str | None:
        """What `tf32` costs; None where nothing is set."""
        if self.tf32 is None:
            return None
        if self.kind == "cpu":
            return f"{self.tf32} changes nothing on a CPU"
        return f"{self.tf32}: float32 matrix products are rounded to TF32, so losses and probabilities are right to about 3 digits"


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, its memory in bytes, and whether it computes in bfloat16 itself."""

    name: str
    memory_bytes: int
    bfloat16: bool


@dataclass(frozen=True)
class Gpus:
    """The GPUs that a library sees, or why it sees none."""

    found: tuple[Gpu, ...]
    why_none: str | None = None


@dataclass(frozen=True)
class MatmulSpeed:
    """A timed float32 matrix product.

    Attributes:
        gflops: Best rate seen, 10^9 floating-point operations a second.
        blas: What multiplied.
        remedy: How to make it faster; None where nothing is known.
    """

    gflops: float
    blas: str
    remedy: str | None


@dataclass(frozen=True)
class ConvertSpec:
    """How to write a converted model: quantization bits (None: none) and group size, and the type of the rest."""

    bits: int | None = None
    group_size: int = 64
    dtype: str | None = None


@dataclass(frozen=True)
class WrittenModel:
    """A model folder that was written: where, its size, its parameters and, if quantized, bits a weight."""

    folder: Path
    n_bytes: int
    n_parameters: int
    bits_per_weight: float
    notes: tuple[str, ...] = field(default=())


class Backend(Protocol):
    """One way to compute: mlx or torch."""

    name: str

    def device(self) -> Device:
        """Where it computes on this machine."""
        ...

    def group(self) -> Group:
        """The processes that compute together with this one: those that a launcher started with it, or it alone."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the libraries it computes with, for run.json."""
        ...

    def peak_memory_bytes(self, reset: bool = False) -> int:
        """Most memory used since the last reset."""
        ...

    def cache_memory_bytes(self) -> int:
        """Freed memory that is kept for reuse, beside what is used; 0 where nothing is kept."""
        ...

    def matmul_speed(self) -> MatmulSpeed:
        """Time a float32 matrix product, a second or two at most."""
        ...

    def architecture(self, config: Mapping[str, Any]) -> Architecture:
        """What a model of a config.json is made of; its class is built without memory, and no weight is read.

        Raises:
            ModelError: The backend's library does not have this kind of model, or computes it in another way.
        """
        ...

    def check_shard(self, config: Mapping[str, Any], kind: AdapterKind) -> None:
        """Refuse to hold a part of a model's weights on each process of `group` where that is not offered; one process may always.

        Args:
            config: config.json of the base model.
            kind: Of the adapter that is trained on it, or carried by it.

        Raises:
            MlxtuneError: Names what is not offered.
        """
        ...

    def load(self, folder: Path, adapter: Path | None = None, dtype: str | None = None, shard: bool = False) -> Model:
        """Load a model folder (MLX or Hugging Face layout, quantized or not), and an adapter folder onto it.

        Args:
            folder: The model.
            adapter: Its adapter.
            dtype: Type to compute in; None is the backend's choice, STORED leaves each weight its own.
            shard: Each process of `group` holds a part of the weights; one process holds all. All call it together.

        Raises:
            BackendError: It is not offered (`check_shard`).
        """
        ...

    def convert(self, source: Path, out: Path, spec: ConvertSpec) -> WrittenModel:
        """Turn a model folder or a .gguf file into an MLX model folder."""
        ...

    def fuse(self, base: Path, adapter: Path, out: Path, requantize: bool, dtype: str | None = None) -> WrittenModel:
        """Fold an adapter into its base model."""
        ...


@dataclass(frozen=True)
class ChosenBackend:
    """A backend, and why it was taken."""

    backend: Backend
    reason: str
