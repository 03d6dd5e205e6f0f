"""What a training keeps of a forward pass for the backward one, counted from the model's shape. No weights, no backend.

The counts are of arrays that a block of mlx-lm's or transformers' model classes leaves for the backward pass, checked against MLX's
own peak and torch's saved tensors by varying one width of a small model at a time. Per position of a pass, in the type that is computed in:

    each of hidden width   the block's input and its middle, which the norms need
    each of MLP width      gate, up, and what SwiGLU makes of them: MLX keeps the sigmoid and SiLU, torch SiLU alone
    each of query width    what RoPE leaves; on torch the attention's result; before RoPE, where a norm stands there (Qwen3)
    each of key width      keys and values, those of a prefix too; keys before RoPE, where a norm stands there
    heads x keys           attention's probabilities: MLX has no fused attention that is differentiable

An adapted layer keeps its input, which several layers may share. Dropout makes a masked copy for each layer and keeps
the mask. In 16 bits, MLX keeps a float32 copy for each layer as well, since the adapter is float32. With DoRA, the gradient of an adapted
layer's magnitudes needs what they multiply: as wide as the layer's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlxtune.backends.architecture import BLOCKS, Architecture, block_of, last_part
from mlxtune.backends.base import Device, FullSpec, TuningSpec
from mlxtune.backends.shapes import SEQUENCE_TOKENS

FLOAT32 = 4  # bytes
# Of a block's arrays, while its gradient is computed. MLX allocates up to a hundred operations ahead of the one that runs, more than a
# block has, so gradients wait beside what they are computed from; torch frees each as soon as it has been used.
GRADIENTS_OF_A_BLOCK = {"mlx": 1.5, "torch": 0.75}
# As much again of these operations belongs to the next block's forward pass where that is run again.
NEXT_BLOCK_AHEAD = {"mlx": 0.5, "torch": 0.0}
SHARED_INPUTS = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
}


@dataclass(frozen=True)
class PassShape:
    """What a forward pass's memory depends on.

    Attributes:
        rows: How many.
        width: Tokens of the longest, without the prefix.
        prefix: Tokens that open every row.
        supervised: Supervised tokens of all rows.
        tokens: Tokens of all rows, without the prefix and without padding.
        is_alone: It is the whole step; otherwise the prefix is computed before the step's passes, and kept for all of them.
    """

    rows: int
    width: int
    prefix: int
    supervised: int
    tokens: int
    is_alone: bool = True


@dataclass(frozen=True)
class Sequences:
    """Rows as a backend computes them: how many sequences, of how many positions, and how many come before them.

    Attributes:
        count: Sequences.
        length: Positions of each.
        before: Positions that each attends to beside its own.
        is_masked: Which positions attend to which is an array; torch then has no kernel for grouped heads.
    """

    count: int
    length: int
    before: int
    is_masked: bool = False

    @property
    def positions(self) -> int:
        """Of all sequences."""
        return self.count * self.length

    @property
    def keys(self) -> int:
        """Keys of all sequences, each with its own copy of those before it."""
        return self.count * (self.before + self.length)

    @property
    def pairs(self) -> int:
        """Positions times the keys that each may attend to."""
        return self.positions * (self.before + self.length)


class Activations:
    """The bytes that one forward pass of a training keeps.

    Args:
        architecture: The base model's.
        spec: What is trained.
        backend: 'mlx' or 'torch'.
        device: Where it computes.
        width: Bytes of a value of the type that is computed in.
        recomputes: Gradient checkpointing: a block keeps its input, and the rest of it is computed again.
    """

    def __init__(
        self, architecture: Architecture, spec: TuningSpec, backend: str, device: Device, width: int, recomputes: bool
    ) -> None:
        self._spec, self._backend, self._device, self._width, self._recomputes = (
            spec,
            backend,
            device,
            width,
            recomputes,
        )
        self._rank = 0 if isinstance(spec, FullSpec) else spec.rank
        self._hidden, self._inner = architecture.hidden_size, architecture.inner_size
        self._heads, head_dim = architecture.n_heads, architecture.head_dim
        self._queries, self._keys = self._heads * head_dim, architecture.n_kv_heads * head_dim
        self._has_head_norms = f"{BLOCKS}.0.self_attn.q_norm.weight" in architecture.weights
        self._normalized = 2 * self._hidden + (self._queries + self._keys if self._has_head_norms else 0)
        self._n_blocks = architecture.n_blocks
        shapes = architecture.linear_layers
        of_blocks: dict[int, dict[str, tuple[int, int]]] = {}
        for layer in spec.layers:
            of_blocks.setdefault(block_of(layer), {})[last_part(layer)] = shapes[layer]
        # Blocks below the first one that is trained keep nothing: no gradient goes there.
        self._blocks = [of_blocks.get(block, {}) for block in range(min(of_blocks), self._n_blocks)]

    def kept(self, shape: PassShape) -> int:
        """What all blocks keep until the backward pass comes to them, bytes."""
        if not self._recomputes:
            return sum(self._of_block(shape, adapted) for adapted in self._blocks)
        states = shape.prefix * 2 * self._keys  # of a prefix, which rows attend to without computing it again
        positions = sum(one.positions for one in self._sequences(shape))
        return len(self._blocks) * (positions * self._hidden + states) * self._width

    def without_adapters(self, shape: PassShape) -> int:
        """What all blocks need for their gradient, kept or computed again, beside their adapters' share, bytes."""
        return len(self._blocks) * self._of_block(shape, {})

    def at_once(self, shape: PassShape) -> int:
        """What computing the gradient of one block takes beside that, bytes."""
        largest = max(self._of_block(shape, adapted) for adapted in self._blocks)
        plain = self._of_block(shape, {})
        gradients = int(GRADIENTS_OF_A_BLOCK[self._backend] * plain)
        if not self._recomputes:
            return gradients
        return gradients + largest + int(NEXT_BLOCK_AHEAD[self._backend] * plain)

    def states(self, shape: PassShape) -> int:
        """Keys and values of a prefix that several passes share, and their gradient in float32, bytes."""
        return self._n_blocks * shape.prefix * 2 * self._keys * (self._width + FLOAT32)

    def _of_block(self, shape: PassShape, adapted: Mapping[str, tuple[int, int]]) -> int:
        """What one block keeps, bytes; `adapted` is (in, out) of each of its adapted layers."""
        return sum(
            self._of_sequences(one) + int(one.positions * self._of_adapters(adapted)) for one in self._sequences(shape)
        )

    def _of_sequences(self, one: Sequences) -> int:
        """What a block without adapters keeps of sequences, bytes."""
        if self._backend == "mlx":
            per_position = 2 * self._hidden + 4 * self._inner + self._queries
            values = one.positions * per_position + 2 * one.keys * self._keys + one.pairs * self._heads
            norms = one.positions * (self._queries + self._keys) if self._has_head_norms else 0
            return (values + norms) * self._width
        per_position = 3 * self._inner + 2 * self._queries
        # transformers' norms compute in float32, and keep what they normalize in it.
        normalized = one.positions * self._normalized
        # With a mask, keys and values are repeated for each head of the queries, and the mask becomes numbers.
        attended = 2 * one.keys * (self._queries if one.is_masked else self._keys) + (one.pairs if one.is_masked else 0)
        return (one.positions * per_position + attended) * self._width + normalized * FLOAT32

    def _of_adapters(self, adapted: Mapping[str, tuple[int, int]]) -> float:
        """What the adapters of a block keep, bytes a position."""
        inputs = {name: n_in for name, (n_in, _) in adapted.items()}
        if isinstance(self._spec, FullSpec):
            # The gradients of norms' weights need what these multiply, of which torch keeps a copy.
            normalized = self._normalized if self._backend == "torch" else 0
            return self._inputs_once(inputs) * self._width + normalized * FLOAT32
        if not self._spec.has_magnitudes:
            return self._of_factors(inputs)
        is_float32 = self._backend == "mlx" or self._device.kind == "cpu"
        outputs = sum(n_out for _, n_out in adapted.values())
        return self._of_factors(inputs) + outputs * (FLOAT32 if is_float32 else self._width)

    def _of_factors(self, adapted: Mapping[str, int]) -> float:
        """What A and B of a block's layers need, bytes a position; `adapted` is the input width of each."""
        has_dropout, is_narrow = self._spec.dropout > 0, self._width < FLOAT32
        each, shared = sum(adapted.values()), self._inputs_once(adapted)
        inside = len(adapted) * self._rank * FLOAT32
        if self._backend == "mlx":
            mask = each * self._width if has_dropout else 0
            if is_narrow:  # the float32 copy of the product of gate and up takes the place of the product
                return inside + mask + each * FLOAT32 + (shared - adapted.get("down_proj", 0)) * self._width
            return inside + mask + (each if has_dropout else shared) * self._width
        # On a GPU the mask is of bytes, and autocast makes each layer's copy 16 bits wide.
        mask = each * (FLOAT32 if self._device.kind == "cpu" else 1) if has_dropout else 0
        copied = has_dropout or is_narrow
        copy = FLOAT32 if self._device.kind == "cpu" else self._width
        return inside + mask + (each * copy if copied else shared * self._width)

    def _inputs_once(self, adapted: Mapping[str, int]) -> int:
        """Widths of the inputs of some layers, those that several layers share once."""
        distinct = {SHARED_INPUTS.get(name, name): width for name, width in adapted.items()}
        if self._backend == "torch":
            distinct.pop("o_proj", None)  # the attention's result, which attention keeps already
        return sum(distinct.values())

    def _sequences(self, shape: PassShape) -> Sequence[Sequences]:
        """The rows, and the prefix where this pass keeps what is computed of it."""
        rows = rows_computed(shape, self._backend, self._device)
        holds_prefix = rows.before < shape.prefix  # in the rows' own sequence
        keeps_prefix = shape.prefix and not holds_prefix and (shape.is_alone or self._backend == "torch")
        return [rows, Sequences(1, shape.prefix, 0)] if keeps_prefix else [rows]


def rows_computed(shape: PassShape, backend: str, device: Device) -> Sequences:
    """A pass's rows as a backend computes them: MLX a rectangle, torch packed (`backends/torch/packing.py`)."""
    width = max(1, shape.width - 1)  # the last token of a row predicts nothing
    if backend == "mlx":
        return Sequences(device.padding.rows(shape.rows), device.padding.width(shape.width) - 1, shape.prefix)
    computed, length = max(1, shape.tokens - shape.rows), max(SEQUENCE_TOKENS, width)
    if computed <= length:  # one sequence, which holds the prefix as well where no other pass needs it
        inside = shape.prefix if shape.is_alone else 0
        before = shape.prefix - inside
        return Sequences(1, inside + computed, before, is_masked=shape.rows > 1 or before > 0)
    if 2 * width > length:  # too long for two of them to share a sequence
        return Sequences(shape.rows, width, shape.prefix, is_masked=shape.prefix > 0)
    return Sequences(-(-computed // length), length, shape.prefix, is_masked=True)
