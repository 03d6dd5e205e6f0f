"""A base model whose weights several processes hold in parts: FSDP2 gathers those of a block for as long as it computes with them.

All processes gather at the same time, so all make as many passes as the one with most. In a training step they know beforehand how many
these are. Elsewhere they tell each other before each: who has nothing to compute takes part with a token of its own.

Frozen weights only. An adapter that is attached later is no part of it: each process has all of that.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from mlxtune.backends.base import UNSUPERVISED, Batch
from mlxtune.backends.torch.prefix_cache import Prefix
from mlxtune.backends.torch.quantized_linear import QuantizedEmbedding, QuantizedLinear

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mlxtune.backends.torch.group import TorchProcesses

# What all processes gather weights for, in the order in which they do where they want different ones.
PASS, HEAD = "pass", "head"


# Loading -----------------------------------------------------------------------------------------------------------


def shard_empty(network: PreTrainedModel, mesh: DeviceMesh, is_tied: bool) -> None:
    """Say of a network without weights which are gathered together: embedding, each block, and a head of its own.

    Args:
        network: Its parameters on no device.
        mesh: The processes.
        is_tied: Its head is the embedding, and is put in the embedding's place here.
    """
    network.requires_grad_(False)
    embedding = network.model.embed_tokens
    if is_tied:
        is_packed = isinstance(embedding, QuantizedEmbedding)
        network.lm_head = QuantizedLinear(embedding.packed) if is_packed else embedding
    for unit in (embedding, *network.model.layers, *(() if is_tied else (network.lm_head,))):
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    embedding.set_unshard_in_backward(False)  # no gradient goes there
    fully_shard(network.model, mesh=mesh)


def put_own_rows(module: nn.Module, name: str, values: Tensor, first: int, kept: Callable[[Tensor], Tensor]) -> None:
    """Put those of some rows of a parameter that this process holds in the place of those without values.

    Args:
        module: Whose parameter it is.
        name: Of the parameter.
        values: Rows of it, of which a file's pages are read where they are needed.
        first: Which row of the parameter is the first of these.
        kept: What makes of rows of a file what the network keeps.
    """
    present: Any = getattr(module, name)
    own = own_rows(present)
    start, stop = max(own.start, first), min(own.stop, first + len(values))
    rows = kept(values[start - first : max(start, stop) - first])
    if len(values) == len(present):
        setattr(module, name, _placed(present, rows.contiguous()))
        return
    if present.is_meta:
        present = _placed(present, rows.new_empty(own.stop - own.start, *present.shape[1:]))
        setattr(module, name, present)
    if start < stop:
        present.to_local()[start - own.start : stop - own.start] = rows


def _placed(empty: DTensor, rows: Tensor) -> nn.Parameter:
    """A parameter with this process's rows, for the place of one without values."""
    mesh, placements = empty.device_mesh, empty.placements
    placed = DTensor.from_local(rows, mesh, placements, run_check=False, shape=empty.shape, stride=empty.stride())
    return nn.Parameter(placed, requires_grad=False)


def own_rows(parameter: DTensor) -> slice:
    """Which rows of a parameter this process holds: FSDP2 gives each as many, rounded up, and the last ones fewer or none."""
    n_rows, mesh = parameter.shape[0], parameter.device_mesh
    each = math.ceil(n_rows / mesh.size())
    start = min(n_rows, mesh.get_local_rank() * each)
    return slice(start, min(n_rows, start + each))


# Computing ---------------------------------------------------------------------------------------------------------


class WholeWeights:
    """Weights that are all here: there is nothing to gather, and no process waits for another before it computes."""

    is_sharded = False

    def passing(self) -> AbstractContextManager[None]:
        """A pass through the network."""
        return nullcontext()

    def head(self) -> AbstractContextManager[None]:
        """What is computed with the head's weights."""
        return nullcontext()

    def embedding(self) -> AbstractContextManager[None]:
        """What is computed with the embedding's weights outside of a pass; all processes do so at once."""
        return nullcontext()

    def step(self, batches: Sequence[Batch]) -> AbstractContextManager[list[Batch]]:
        """The passes of a training step, given those of this process's rows."""
        return nullcontext(list(batches))

    def side_by_side(self) -> AbstractContextManager[None]:
        """As `Model.side_by_side`."""
        return nullcontext()

    def before_backward(self, prefix: Prefix) -> None:
        """Have weights where the gradient of what layers keep of a prefix enters them."""

    def after_backward(self) -> None:
        """Give back what that needed."""


class Shards(WholeWeights):
    """Weights of which this process holds a part.

    Args:
        network: As `loading_parts.py` has left it.
        group: The processes.
        device: Where it computes.
        idle_pass: Takes part in a pass of the others.
    """

    is_sharded = True

    def __init__(
        self, network: PreTrainedModel, group: TorchProcesses, device: torch.device, idle_pass: Callable[[], None]
    ) -> None:
        self._blocks: list[FSDPModule] = list(network.model.layers)
        self._embedding: FSDPModule = network.model.embed_tokens
        own = network.lm_head.own
        is_own = isinstance(own, FSDPModule)  # a packed one that is tied has the embedding's weight
        self._head: FSDPModule = own if is_own else self._embedding
        self._group, self._device, self._idle_pass = group, device, idle_pass
        # FSDP2 makes the tensors that it gathers into once, and those of inference mode could not be trained with later.
        with torch.no_grad():
            self._take_part(PASS)
            self._take_part(HEAD)

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """A pass through the network, when all make one."""
        if torch.is_grad_enabled():  # of a step, which is watched as a whole
            yield
            return
        self._turn(PASS)
        with self._passes():
            yield

    @contextlib.contextmanager
    def head(self) -> Iterator[None]:
        """What is computed with the head's weights, which all gather for it."""
        if torch.is_grad_enabled():
            with _gathered(self._head):
                yield
            return
        self._turn(HEAD)
        with self._passes(), _gathered(self._head):
            yield

    @contextlib.contextmanager
    def embedding(self) -> Iterator[None]:
        """What is computed with the embedding's weights outside of a pass; all processes do so at once."""
        with self._passes(), _gathered(self._embedding):
            yield

    @contextlib.contextmanager
    def step(self, batches: Sequence[Batch]) -> Iterator[list[Batch]]:
        """The passes of a training step: behind this process's own as many idle ones as others have more."""
        with self._group.leaving():
            own = {"passes": len(batches), "prefix": any(len(batch.prefix) for batch in batches)}
            found = self._group.gather(own)
            prefix = batches[-1].prefix if batches else np.zeros(int(any(one["prefix"] for one in found)), np.int32)
            n_idle = max(one["passes"] for one in found) - len(batches)
            with self._passes():
                yield [*batches, *itertools.repeat(_idle_batch(prefix), n_idle)]

    @contextlib.contextmanager
    def side_by_side(self) -> Iterator[None]:
        """Compute as much as this process likes, and then take part in what the others still compute."""
        with self._group.leaving():
            yield
            self._turn(None)

    def before_backward(self, prefix: Prefix) -> None:
        """Gather a block's weights where the gradient of its keys and values enters it: FSDP2 knows of its hidden states alone."""

        def gather(block: FSDPModule, gradient: Tensor) -> None:
            block.unshard()

        for block, pair in zip(self._blocks, prefix.layers, strict=False):  # a prefix without tokens has no layers
            for tensor in pair:
                if tensor.requires_grad:
                    tensor.register_hook(functools.partial(gather, block))

    def after_backward(self) -> None:
        """Let go of the blocks that no gradient went through to the end."""
        for block in self._blocks:
            block.reshard()

    def _turn(self, wanted: str | None) -> None:
        """Wait until all compute what this process wants, and take part in what others want before; None waits until none wants any."""
        while True:
            asked = self._group.gather(wanted)
            present = next((kind for kind in (PASS, HEAD) if kind in asked), None)
            if present == wanted:
                return
            assert present is not None
            self._take_part(present)

    def _take_part(self, kind: str) -> None:
        with self._passes():
            if kind == HEAD:
                with _gathered(self._head):
                    return
            self._idle_pass()

    @contextlib.contextmanager
    def _passes(self) -> Iterator[None]:
        """What FSDP2 gathers weights for; a GPU is done at the end, for which the host would not wait otherwise."""
        with self._group.passes():
            yield
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()


@contextlib.contextmanager
def _gathered(unit: FSDPModule) -> Iterator[None]:
    """All weights of a unit, of all processes."""
    unit.unshard()
    try:
        yield
    finally:
        unit.reshard()


def _idle_batch(prefix: Any) -> Batch:
    """A pass of one token that trains nothing."""
    shape = (1, 2)  # the last token of a row predicts nothing
    return Batch(
        prefix=prefix,
        tokens=np.zeros(shape, np.int32),
        lengths=np.full(1, 2, np.int32),
        weights=np.zeros(shape, np.float32),
        segments=np.full(shape, UNSUPERVISED, np.int16),
        rows=(),
    )
