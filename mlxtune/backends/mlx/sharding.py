"""A network of which this process has its heads and its part of every MLP: split by mlx-lm's `shard`, in a form that trains.

mlx-lm's sharded layers each exchange for themselves, and know nothing of an adapter. Here each is a plain layer again, of its own
part, and attention or MLP as a whole exchanges: what it computes is added up over the processes, and so is the gradient by its input. So
what lies inside computes a part of a sum, an adapter's update too. Each process has the whole adapter, and uses the part that belongs to
its part of a layer: the gradient is the sum of what all have of it, as where processes share out rows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.nn.layers.distributed import sum_gradients
from mlx.utils import tree_unflatten
from mlx_lm.tuner.lora import LoRASwitchLinear

from mlxtune.backends.architecture import BUILD_ERRORS, GROUPS, Architecture, is_in_block
from mlxtune.backends.base import AdapterKind
from mlxtune.backends.experts import stack_of
from mlxtune.backends.group import require_same
from mlxtune.backends.mlx.architecture import classes_of
from mlxtune.backends.mlx.delta_net import chunk_delta_nets
from mlxtune.backends.mlx.group import MlxProcesses
from mlxtune.backends.mlx.lora import LoraLinear
from mlxtune.backends.mlx.swiglu import use_faster_swiglu
from mlxtune.backends.tensor_parallel import FactorPart, factor_part, part_of, require_parts, splits_inputs
from mlxtune.errors import BackendError, ModelError
from mlxtune.models.text_part import text_config

# mlx-lm's layers that exchange, quantized or not.
EXCHANGING = (
    nn.AllToShardedLinear,
    nn.ShardedToAllLinear,
    nn.QuantizedAllToShardedLinear,
    nn.QuantizedShardedToAllLinear,
)


class Whole:
    """The parts of a network that is whole on this process."""

    is_whole = True

    def architecture_of(self, whole: Architecture) -> Architecture:
        """What this process has of a model."""
        return whole

    def adapted(self, lora: nn.Module, layer: str) -> nn.Module:
        """An adapted layer, which computes with its whole factors."""
        return lora

    def require_same(self, asked: Any) -> None:
        """What is asked of this process is asked of no other."""

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Around passes; no process waits for another in them."""
        yield

    def of_first(self, value: Any) -> Any:
        """A value of passes, NumPy's or MLX's."""
        return value

    def fewest(self, number: int) -> int:
        """A number."""
        return number


WHOLE = Whole()


class Parts:
    """The part of a network that this process has, and how it computes with those of the others.

    Args:
        architecture: Of the whole model.
        group: The processes.
    """

    is_whole = False

    def __init__(self, architecture: Architecture, group: MlxProcesses) -> None:
        self._architecture, self._group = architecture, group

    def architecture_of(self, whole: Architecture) -> Architecture:
        """What this process has of a model."""
        return part_of(whole, self._group.size)

    def adapted(self, lora: nn.Module, layer: str) -> nn.Module:
        """An adapted layer, which computes with the part of its factors that belongs to its part of the layer."""
        lora.__class__ = PART_LORA[type(lora)]
        lora.own_part = factor_part(self._architecture, layer, self._group.rank, self._group.size)
        lora.dropout.draw_for(lora.own_part.n_inputs, lora.own_part.inputs)
        return lora

    def require_same(self, asked: Any) -> None:
        """Refuse passes that the other processes do not compute at the same time: each would wait for a part of something else.

        Args:
            asked: What the passes are of; its `repr` says it whole.

        Raises:
            BackendError: Something else is asked of another process.
        """
        require_same(self._group, {"what is asked of the model": hashlib.sha256(repr(asked).encode()).hexdigest()})

    @contextlib.contextmanager
    def exchanging(self) -> Iterator[None]:
        """Around passes, in the middle of which the processes wait for each other; errors as of `Processes.passes`."""
        with self._group.passes():
            yield

    def of_first(self, value: Any) -> Any:
        """What rank 0 has of a value that all have computed: sums of several processes may differ in their last bits, and decisions may not."""
        found = self._group.of_first(mx.array(value))
        return np.array(found) if isinstance(value, np.ndarray) else found

    def fewest(self, number: int) -> int:
        """The smallest that a process has of a number."""
        return min(map(int, self._group.gather(number)))


def require_shardable(config: Mapping[str, Any], kind: AdapterKind, architecture: Architecture, size: int) -> None:
    """Refuse a model that so many processes cannot share, or that kind of adapter on it; no weight is read.

    Args:
        config: Its config.json.
        kind: Of the adapter.
        architecture: Of the whole model.
        size: Processes.

    Raises:
        BackendError: It is DoRA.
        ModelError: The family is not sharded, or the number of processes does not divide the model.
    """
    if kind != "lora":
        raise BackendError(
            f"model.shard: MLX trains and loads lora.type: lora on a base that processes share, got {kind}: the length of a row is of all its parts; "
            "set lora.type to lora, or model.shard to false"
        )
    packed = config.get("quantization") or config.get("quantization_config")
    require_parts(architecture, size, packed.get("group_size") if packed else None)


def shard_network(
    network: nn.Module, config: Mapping[str, Any], architecture: Architecture, group: MlxProcesses
) -> Parts:
    """Leave of a network, its weights not yet read, the part of this process, in place.

    Args:
        network: mlx-lm's, of a model that `require_shardable` lets pass.
        config: Its config.json.
        architecture: Of the whole model.
        group: The processes.

    Raises:
        ModelError: mlx-lm splits the model in another way than is known here.
    """
    whole = dict(network.named_modules())
    _shard(network, config, group.connection)
    for name, module in network.named_modules():
        if isinstance(module, EXCHANGING):
            own = whole[name]
            if is_in_block(name):  # a head stays whole
                own.update(module.parameters())
            network.update_modules(tree_unflatten([(name, own)]))
    for module in network.modules():
        if hasattr(module, "sharding_group"):  # what mlx-lm's own code exchanges is exchanged below
            module.sharding_group = None
    _require_parts(network, part_of(architecture, group.size))
    if group.rank:
        _drop_biases(network, architecture)
    chunk_delta_nets(network.layers)
    use_faster_swiglu(network.layers)
    for block in network.layers:
        for name in (name for names in GROUPS.values() for name in names if name in block):
            _let_exchange(block[name], group.connection)
    return Parts(architecture, group)


def _shard(network: nn.Module, config: Mapping[str, Any], connection: mx.distributed.Group) -> None:
    """Call `shard` of mlx-lm's class, which some families have on a class around the text part."""
    shard: Callable[[Any, mx.distributed.Group], None] = classes_of(text_config(config))[0].shard
    around = network if hasattr(network, "shard") else SimpleNamespace(language_model=network, layers=network.layers)
    try:
        shard(around, connection)
    except BUILD_ERRORS as error:
        raise ModelError(f"model.shard: mlx-lm cannot shard this model: {error}") from error


def _require_parts(network: nn.Module, part: Architecture) -> None:
    """Refuse a network whose layers are not those of the part that is expected."""
    modules = dict(network.named_modules())
    for layer, expected in part.linear_layers.items():
        module = modules[stack_of(layer)]
        rows, columns = module.weight.shape[-2:]
        if "scales" in module:
            columns = module.scales.shape[-1] * module.group_size
        if (columns, rows) != expected:
            raise ModelError(
                f"model.shard: mlx-lm leaves {rows} x {columns} of {layer} on each process, and {expected[1]} x {expected[0]} was expected; "
                "set model.shard to false"
            )


def _drop_biases(network: nn.Module, architecture: Architecture) -> None:
    """Leave to rank 0 the biases of layers whose products are added up."""
    modules = dict(network.named_modules())
    for layer in architecture.linear_layers:
        module = modules[stack_of(layer)]
        if splits_inputs(layer) and "bias" in module:
            module.bias = mx.zeros_like(module.bias)


def _let_exchange(module: nn.Module, connection: mx.distributed.Group) -> None:
    """Let attention or an MLP add up what it computes over the processes, and the gradient by its input; it gets a class of its own model,
    mlx-lm's stays as it is.
    """
    plain, summing_gradients = type(module), sum_gradients(connection)

    def call(self: Any, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        part = plain.__call__(self, summing_gradients(x), *args, **kwargs)
        return mx.distributed.all_sum(part, group=connection)

    module.__class__ = type(plain.__name__, (plain,), {"__call__": call})


class _OwnPart:
    """In front of mlx-lm's layers with an update: they compute with the part of the factors that belongs to the part of the layer."""

    own_part: FactorPart

    def __call__(self, *args: Any, **kwargs: Any) -> mx.array:
        """As the layer."""
        layer: Any = self
        whole = layer.lora_a, layer.lora_b
        layer.lora_a, layer.lora_b = self._own(*whole)
        try:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        finally:
            layer.lora_a, layer.lora_b = whole

    def _own(self, a: mx.array, b: mx.array) -> tuple[mx.array, mx.array]:
        """Own columns of A and rows of B, which lie as in mlx-lm: (in, r) and (r, out), of experts (experts, r, in) and (experts, out, r)."""
        of_experts = a.ndim == 3
        if self.own_part.inputs is not None:
            return a[..., self.own_part.inputs] if of_experts else a[self.own_part.inputs], b
        parts = [b[:, place] for place in self.own_part.outputs]
        return a, mx.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


class PartLoraLinear(_OwnPart, LoraLinear):
    """A part of a linear layer with an update."""


class PartLoRASwitchLinear(_OwnPart, LoRASwitchLinear):  # type: ignore[misc]
    """A part of a stack of experts with updates."""


PART_LORA = {LoraLinear: PartLoraLinear, LoRASwitchLinear: PartLoRASwitchLinear}
