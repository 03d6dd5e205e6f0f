"""The gradient of one optimizer step over its forward passes; the prefix that all rows share is computed once a step.

A step of one pass is one graph, prefix included. With several, keys and values of the prefix are computed first and cut from
their graph, so that no pass's activations outlive it; the gradient by them gathers over the passes and goes back through the
prefix once. The prefix runs forward again for that: its kept graph took 2.4 times the memory of computing it anew, and was
not helped by gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path, tree_unflatten
from numpy.typing import NDArray

from mlxtune.backends.mlx.compiled import CompiledByShape
from mlxtune.backends.mlx.head import to_numpy

Gradients = Any  # a tree of arrays like the network's trainable parameters
PrefixStates = list[
    mx.array
]  # keys and values of the prefix: of layer 0, of layer 1, ..., (1, heads, P, head_dim) each


@dataclass(frozen=True)
class Pass:
    """A forward pass as MLX arrays.

    Attributes:
        prefix: Token ids that open every row, (P,).
        rows: The rest, as the loss takes it: tokens, positions, targets, weights.
        n_supervised: Supervised tokens, without padding.
    """

    prefix: mx.array
    rows: tuple[mx.array, ...]
    n_supervised: int


class StepGradient:
    """Computes the gradients of steps.

    Args:
        network: Its trainable parameters are what the gradient is by.
        loss: Prefix (tokens, or keys and values), tokens, positions, targets, weights, total weight and dropout key ->
            loss and nats, (N,) in chunks.
        prefix_states: Tokens, (P,), and dropout key -> keys and values.
        compiled: Compile what is run, a shape each; the last shapes used are kept.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[..., tuple[mx.array, list[mx.array]]],
        prefix_states: Callable[[mx.array, mx.array], PrefixStates],
        compiled: bool,
    ) -> None:
        self._network, self._loss, self._prefix_states = network, loss, prefix_states

        def ready(function: Callable[..., Any]) -> Callable[..., Any]:
            return CompiledByShape(function, inputs=[network.state]) if compiled else function

        self._of_whole, self._of_rows = ready(self._whole), ready(self._rows)
        self._forward, self._backward = ready(prefix_states), ready(self._through_prefix)

    @property
    def n_compiled(self) -> int:
        """Shapes compiled so far, those that were dropped and met again counted again."""
        functions = (self._of_whole, self._of_rows, self._forward, self._backward)
        return sum(one.n_compiled for one in functions if isinstance(one, CompiledByShape))

    def __call__(
        self, passes: Sequence[Pass], total_weight: float, key: mx.array
    ) -> tuple[list[NDArray[np.float32]], Gradients]:
        """The nats of each pass's supervised tokens, (N,), and the gradient of the step's loss.

        Args:
            passes: In the order in which they run; without any, the gradient is zero.
            total_weight: Of the step, which each pass's weighted nats are divided by.
            key: Of the step's dropout.
        """
        total = mx.array(total_weight, mx.float32)
        nats: list[NDArray[np.float32]] = []
        gradients: Gradients = None
        for together in _of_one_prefix(passes):
            key, own = mx.random.split(key)
            if len(together) == 1 or not together[0].prefix.size:
                found, gradient = self._apart(together, total, own)
            else:
                found, gradient = self._sharing(together, total, own)
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            mx.eval(gradients)
            nats += found
        if gradients is None:
            gradients = tree_map(mx.zeros_like, self._network.trainable_parameters())
        return nats, gradients

    def _apart(
        self, passes: Sequence[Pass], total: mx.array, key: mx.array
    ) -> tuple[list[NDArray[np.float32]], Gradients]:
        """Passes that have nothing to share; one after the other, so that no pass's activations outlive it."""
        nats, gradients = [], None
        for one in passes:
            key, own = mx.random.split(key)
            found, gradient = self._of_whole(one.prefix, *one.rows, total, own)
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            nats.append(_supervised(found, one))
            mx.eval(gradients)
        return nats, gradients

    def _sharing(
        self, passes: Sequence[Pass], total: mx.array, key: mx.array
    ) -> tuple[list[NDArray[np.float32]], Gradients]:
        """Passes whose rows attend to one prefix, which has one dropout mask for all of them."""
        key, of_prefix = mx.random.split(key)
        states = self._forward(passes[0].prefix, of_prefix)
        mx.eval(states)
        nats, gradients, by_states = [], None, [mx.zeros(state.shape) for state in states]
        for one in passes:
            key, own = mx.random.split(key)
            by_own, gradient, found = self._of_rows(states, *one.rows, total, own)
            gradients = gradient if gradients is None else tree_map(mx.add, gradients, gradient)
            by_states = [gathered + value for gathered, value in zip(by_states, by_own, strict=True)]  # in float32
            nats.append(_supervised(found, one))
            mx.eval(by_states, gradients)
        through = self._backward(passes[0].prefix, of_prefix, by_states)
        return nats, tree_map(mx.add, gradients, through)

    # What is compiled: functions of arrays that leave the network as it was.

    def _whole(self, prefix: mx.array, *rows: mx.array) -> tuple[list[mx.array], Gradients]:
        """Nats of a pass, and its gradient, that of its prefix included."""

        def loss(parameters: Gradients) -> tuple[mx.array, list[mx.array]]:
            self._network.update(parameters)
            return self._loss(prefix, *rows)

        before = self._network.trainable_parameters()
        try:
            (_, nats), gradient = mx.value_and_grad(loss)(before)
        finally:
            self._network.update(before)
        return nats, gradient

    def _rows(self, states: PrefixStates, *rows: mx.array) -> tuple[PrefixStates, Gradients, list[mx.array]]:
        """Gradients of a pass by its prefix's keys and values and by the parameters, and its nats.

        MLX evaluates in this order. The other way round, all that gradient checkpointing computes again in a block would wait for
        the gradient by that block's keys and values: twice the memory.
        """

        def loss(parameters: Gradients, states: PrefixStates) -> tuple[mx.array, list[mx.array]]:
            self._network.update(parameters)
            return self._loss(states, *rows)

        before = self._network.trainable_parameters()
        try:
            (_, nats), (gradient, by_states) = mx.value_and_grad(loss, argnums=(0, 1))(before, states)
        finally:
            self._network.update(before)
        return by_states, gradient, nats

    def _through_prefix(self, tokens: mx.array, key: mx.array, by_states: PrefixStates) -> Gradients:
        """Gradient by the parameters through the prefix, given that by its keys and values."""
        before = self._network.trainable_parameters()
        names, values = zip(*tree_flatten(before), strict=True)

        def states(*parameters: mx.array) -> PrefixStates:
            self._network.update(tree_unflatten(list(zip(names, parameters, strict=True))))
            return [state.astype(mx.float32) for state in self._prefix_states(tokens, key)]

        try:
            _, gradients = mx.vjp(states, list(values), by_states)
        finally:
            self._network.update(before)
        of = dict(zip(names, gradients, strict=True))
        return tree_map_with_path(lambda name, _: of[name], before)


def _of_one_prefix(passes: Sequence[Pass]) -> list[list[Pass]]:
    """Passes in their order, those together that follow each other with the same prefix."""
    groups: list[list[Pass]] = []
    for one in passes:
        if not groups or not np.array_equal(groups[-1][0].prefix, one.prefix):
            groups.append([])
        groups[-1].append(one)
    return groups


def _supervised(nats: Sequence[mx.array], one: Pass) -> NDArray[np.float32]:
    """Nats of a pass without padding; evaluated before the gradient, so that the logits of one chunk exist at a time."""
    return to_numpy(nats)[: one.n_supervised]
