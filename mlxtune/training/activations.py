"""What a training keeps of a forward pass for the backward one, counted from the model's shape. No weights, no backend.

The counts are of arrays that a block of mlx-lm's or transformers' model classes leaves for the backward pass, checked against MLX's
own peak and torch's saved tensors by varying one width of a small model at a time. Per position of a pass, in the type that is computed in:

    each of hidden width   what each norm needs: the block's input and its middle, and where results are normalized, these
    each of MLP width      gate, up, and what SwiGLU makes of them: MLX keeps the sigmoid and SiLU (in the place of the gate where
                           `backends/mlx/exponential.py` computes them), torch SiLU alone; of GELU MLX keeps six
    each of query width    what RoPE leaves; on torch the attention's result; before RoPE, where a norm stands there (Qwen3); an output gate
                           and its product (Qwen3.5)
    each of key width      keys and values, those of a prefix too; keys before RoPE, where a norm stands there
    heads x keys           attention's probabilities: MLX has no fused attention that is differentiable

An adapted layer keeps its input, which several layers may share. Dropout makes a masked copy for each layer and keeps
the mask. In 16 bits, MLX keeps a float32 copy for each layer as well, since the adapter is float32. With DoRA, the gradient of an adapted
layer's magnitudes needs what they multiply: as wide as the layer's output.

A position passes through each expert that it goes to: what these keep counts that many times, and what they give is kept, too.

A gated delta net attends to no keys and computes in float32, in chunks. On torch, transformers' rule and the layer around it keep eleven
arrays as wide as the keys of all heads, seven as wide as the values, five of a chunk's length for each head, and a state for each chunk. On
MLX ours keep two as wide as the keys, five as wide as the values, four of a chunk's length, a state for each chunk, and what the
convolution's SiLU needs: two as wide as all of its channels; where MLX's own exponentials are used (a GPU, a Mac), three, and one as wide as the values.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlxtune.backends.architecture import BLOCKS, Architecture, DeltaNet, block_of, last_part
from mlxtune.backends.base import Device, FullSpec, LoraSpec, TuningSpec
from mlxtune.backends.experts import EXPERTS, is_expert
from mlxtune.backends.shapes import SEQUENCE_TOKENS

FLOAT32 = 4  # bytes
SILU = "silu"
DELTA_CHUNK = 64  # tokens, of transformers' rule
DELTA_CHUNK_OF_MLX = 32  # of our rule (`backends/mlx/delta_rule.py`)
# Of a block's arrays, while its gradient is computed. MLX allocates up to a hundred operations ahead of the one that runs, more than a
# block has, so gradients wait beside what they are computed from; torch frees each as soon as it has been used.
GRADIENTS_OF_A_BLOCK = {"mlx": 1.5, "torch": 0.75}
# As much again of these operations belongs to the next block's forward pass where that is run again.
NEXT_BLOCK_AHEAD = {"mlx": 0.5, "torch": 0.0}
SHARED_INPUTS = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "in_proj_qkv": "attention",
    "in_proj_z": "attention",
    "in_proj_b": "attention",
    "in_proj_a": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    f"{EXPERTS}.gate_proj": EXPERTS,
    f"{EXPERTS}.up_proj": EXPERTS,
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


@dataclass(frozen=True)
class _Block:
    """What a block's memory depends on, widths for each position.

    Attributes:
        inner: Of its MLP; of all experts that a position goes to.
        routed: Of what these experts give; 0 in a block without.
        adapted: Of the inputs of each adapted layer, by the last part of its name, of experts "experts.gate_proj".
        products: Adapted layers that a position passes through.
        outputs: Width of what these give.
        delta_net: What it has in the place of attention; None where it has attention.
    """

    inner: int
    routed: int
    adapted: Mapping[str, int]
    products: int
    outputs: int
    delta_net: DeltaNet | None

    @property
    def plain(self) -> _Block:
        """The same without adapters."""
        return replace(self, adapted={}, products=0, outputs=0)


class Activations:
    """The bytes that one forward pass of a training keeps.

    Args:
        architecture: The base model's.
        spec: What is trained.
        backend: 'mlx' or 'torch'.
        device: Where it computes.
        width: Bytes of a value of the type that is computed in.
        recomputes: Gradient checkpointing: a block keeps its input, and the rest of it is computed again.
        activation: Of the MLP's gate, as config.json names it.
    """

    def __init__(
        self,
        architecture: Architecture,
        spec: TuningSpec,
        backend: str,
        device: Device,
        width: int,
        recomputes: bool,
        activation: str = SILU,
    ) -> None:
        self._spec, self._backend, self._device, self._width, self._recomputes = (
            spec,
            backend,
            device,
            width,
            recomputes,
        )
        self._hidden = architecture.hidden_size
        self._heads, head_dim = architecture.n_heads, architecture.head_dim
        self._queries, self._keys = self._heads * head_dim, architecture.n_kv_heads * head_dim
        block = architecture.delta_nets.index(None)
        projected = architecture.weights.get(f"{BLOCKS}.{block}.self_attn.q_proj.weight", (0,))[0]
        self._gates = self._queries if projected == 2 * self._queries else 0  # Qwen3.5's, of the attention's result
        self._norms = sum(
            name.startswith(f"{BLOCKS}.0.") and name.endswith("layernorm.weight") for name in architecture.weights
        )
        self._is_silu = activation == SILU
        # As `has_fast_exp` of backends/mlx/exponential.py says.
        self._by_powers = device.kind == "cpu" and sys.platform != "darwin"
        self._has_gates_apart = any(name.endswith("mlp.gate_proj") for name in architecture.linear_layers)
        self._has_head_norms = any(name.endswith("self_attn.q_norm.weight") for name in architecture.weights)
        self._delta_nets, self._is_recurrent = architecture.delta_nets, architecture.is_recurrent
        # Blocks below the first one that is trained keep nothing: no gradient goes there.
        self._blocks = _blocks(architecture, spec)

    def kept(self, shape: PassShape) -> int:
        """What all blocks keep until the backward pass comes to them, bytes."""
        if not self._recomputes:
            return sum(self._of_block(shape, block) for block in self._blocks)
        inputs = sum(one.positions for one in self._sequences(shape)) * self._hidden * self._width
        # Rows go on from a prefix without computing it again.
        return sum(inputs + self._of_prefix(shape, block.delta_net, self._width) for block in self._blocks)

    def without_adapters(self, shape: PassShape) -> int:
        """What all blocks need for their gradient, kept or computed again, beside their adapters' share, bytes."""
        return sum(self._of_block(shape, block.plain) for block in self._blocks)

    def at_once(self, shape: PassShape) -> int:
        """What computing the gradient of one block takes beside that, bytes."""
        largest = max(self._of_block(shape, block) for block in self._blocks)
        plain = max(self._of_block(shape, block.plain) for block in self._blocks)
        gradients = int(GRADIENTS_OF_A_BLOCK[self._backend] * plain)
        if not self._recomputes:
            return gradients
        return gradients + largest + int(NEXT_BLOCK_AHEAD[self._backend] * plain)

    def states(self, shape: PassShape) -> int:
        """What all blocks keep of a prefix that several passes share, and its gradient in float32, bytes."""
        return sum(self._of_prefix(shape, net, width) for net in self._delta_nets for width in (self._width, FLOAT32))

    def _of_prefix(self, shape: PassShape, delta_net: DeltaNet | None, width: int) -> int:
        """Keys and values of a prefix in a block, or the state after it, bytes."""
        if delta_net is not None:
            return delta_net.state_bytes(width) if shape.prefix else 0
        return shape.prefix * 2 * self._keys * width

    def _of_block(self, shape: PassShape, block: _Block) -> int:
        """What one block keeps, bytes."""
        return sum(
            self._of_sequences(one, block) + int(one.positions * self._of_adapters(block))
            for one in self._sequences(shape)
        )

    def _of_sequences(self, one: Sequences, block: _Block) -> int:
        """What a block without adapters keeps of sequences, bytes."""
        mixer = self._of_attention(one) if block.delta_net is None else self._of_delta_net(one, block.delta_net)
        if self._backend == "mlx":
            of_mlp = 4 if self._is_silu else 6
            if self._is_silu and self._by_powers and self._has_gates_apart and not block.routed:
                of_mlp = 3
            outside = self._norms * self._hidden + of_mlp * block.inner + block.routed
            return mixer + one.positions * outside * self._width
        # transformers' norms compute in float32, and keep what they normalize in it.
        norms = self._norms * self._hidden * FLOAT32
        return mixer + one.positions * ((3 * block.inner + block.routed) * self._width + norms)

    def _of_attention(self, one: Sequences) -> int:
        """What attention keeps of sequences, bytes."""
        norms = one.positions * (self._queries + self._keys) if self._has_head_norms else 0
        if self._backend == "mlx":
            values = (
                one.positions * (self._queries + 2 * self._gates) + 2 * one.keys * self._keys + one.pairs * self._heads
            )
            return (values + norms) * self._width
        # With a mask, keys and values are repeated for each head of the queries, and the mask becomes numbers.
        attended = 2 * one.keys * (self._queries if one.is_masked else self._keys) + (one.pairs if one.is_masked else 0)
        results = 2 * one.positions * (self._queries + self._gates)
        return (results + attended) * self._width + norms * FLOAT32

    def _of_delta_net(self, one: Sequences, net: DeltaNet) -> int:
        """What a gated delta net keeps of sequences, bytes."""
        heads = net.n_value_heads
        keys, values = heads * net.key_dim, heads * net.value_dim
        if self._backend == "mlx":
            inside = DELTA_CHUNK_OF_MLX * (3 * heads + net.n_key_heads)
            exact = one.positions * (2 * net.n_key_heads * net.key_dim + 5 * values + 6 * heads + inside)
            states = one.count * (-(-one.length // DELTA_CHUNK_OF_MLX)) * keys * net.value_dim
            mixed = 2 * net.channels if self._by_powers else 3 * net.channels + values
            return (exact + states) * FLOAT32 + one.positions * mixed * self._width
        n_chunks = -(-one.length // DELTA_CHUNK)
        in_chunks = one.count * n_chunks * DELTA_CHUNK * (5 * heads * DELTA_CHUNK + 9 * keys + 2 * values + 8 * heads)
        states = one.count * (n_chunks + 1) * keys * net.value_dim
        outside = one.positions * (2 * keys + 5 * values + 4 * heads)
        return (in_chunks + states + outside) * FLOAT32 + one.positions * 2 * net.channels * self._width

    def _of_adapters(self, block: _Block) -> float:
        """What the adapters of a block keep, or the training of its own weights, bytes a position."""
        if isinstance(self._spec, FullSpec):
            # The gradients of norms' weights need what these multiply, of which torch keeps a copy.
            normalized = self._normalized(block) if self._backend == "torch" else 0
            return self._inputs_once(block.adapted) * self._width + normalized * FLOAT32
        if not self._spec.has_magnitudes:
            return self._of_factors(block, self._spec)
        is_float32 = self._backend == "mlx" or self._device.kind == "cpu"
        return self._of_factors(block, self._spec) + block.outputs * (FLOAT32 if is_float32 else self._width)

    def _normalized(self, block: _Block) -> int:
        """Widths of what a block's norms give."""
        if block.delta_net is not None:
            return self._norms * self._hidden + block.delta_net.n_value_heads * block.delta_net.value_dim
        return self._norms * self._hidden + (self._queries + self._keys if self._has_head_norms else 0)

    def _of_factors(self, block: _Block, spec: LoraSpec) -> float:
        """What A and B of a block's layers need, bytes a position."""
        adapted = block.adapted
        has_dropout, is_narrow = spec.dropout > 0, self._width < FLOAT32
        each, shared = sum(adapted.values()), self._inputs_once(adapted)
        inside = block.products * spec.rank * FLOAT32
        if self._backend == "mlx":
            mask = each * self._width if has_dropout else 0
            if is_narrow:  # the float32 copy of the product of gate and up takes the place of the product
                products_of_gates = sum(width for name, width in adapted.items() if name.endswith("down_proj"))
                return inside + mask + each * FLOAT32 + (shared - products_of_gates) * self._width
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
        rows = rows_computed(shape, self._backend, self._device, self._is_recurrent)
        holds_prefix = rows.before < shape.prefix  # in the rows' own sequence
        keeps_prefix = shape.prefix and not holds_prefix and (shape.is_alone or self._backend == "torch")
        return [rows, Sequences(1, shape.prefix, 0)] if keeps_prefix else [rows]


def _blocks(architecture: Architecture, spec: TuningSpec) -> list[_Block]:
    """The blocks from the first one on that is trained."""
    per_token, shapes, inner = architecture.experts_per_token, architecture.linear_layers, architecture.inner_sizes
    sparse = {block_of(layer) for layer in shapes if is_expert(layer)}
    adapted: list[dict[str, int]] = [{} for _ in range(architecture.n_blocks)]
    outputs: list[dict[str, int]] = [{} for _ in range(architecture.n_blocks)]
    for layer in spec.layers:
        name, times, (n_in, n_out) = last_part(layer), 1, shapes[layer]
        if is_expert(layer):
            name, times = f"{EXPERTS}.{name}", per_token
        adapted[block_of(layer)][name], outputs[block_of(layer)][name] = times * n_in, times * n_out
    return [
        _Block(
            inner=inner[block],
            routed=per_token * architecture.hidden_size if block in sparse else 0,
            adapted=adapted[block],
            products=sum(per_token if name.startswith(EXPERTS) else 1 for name in adapted[block]),
            outputs=sum(outputs[block].values()),
            delta_net=architecture.delta_nets[block],
        )
        for block in range(min(map(block_of, spec.layers)), architecture.n_blocks)
    ]


def rows_computed(shape: PassShape, backend: str, device: Device, is_recurrent: bool) -> Sequences:
    """A pass's rows as a backend computes them: MLX a rectangle, torch packed (`backends/torch/packing.py`) or, of a recurrent model, not."""
    width = max(1, shape.width - 1)  # the last token of a row predicts nothing
    if backend == "mlx":
        return Sequences(device.padding.rows(shape.rows), device.padding.width(shape.width) - 1, shape.prefix)
    if is_recurrent:
        inside = shape.prefix if shape.is_alone and shape.rows == 1 else 0
        return Sequences(shape.rows, inside + width, shape.prefix - inside, is_masked=shape.prefix > inside)
    computed, length = max(1, shape.tokens - shape.rows), max(SEQUENCE_TOKENS, width)
    if computed <= length:  # one sequence, which holds the prefix as well where no other pass needs it
        inside = shape.prefix if shape.is_alone else 0
        before = shape.prefix - inside
        return Sequences(1, inside + computed, before, is_masked=shape.rows > 1 or before > 0)
    if 2 * width > length:  # too long for two of the longest to share a sequence
        count = min(shape.rows, -(-2 * computed // length))  # shorter rows share sequences
        return Sequences(count, width, shape.prefix, is_masked=shape.prefix > 0 or count < shape.rows)
    count = -(-computed // length)
    return Sequences(count, -(-computed // count), shape.prefix, is_masked=True)
