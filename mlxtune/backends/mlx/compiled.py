"""A function compiled for each shape of its arguments, of which a bounded number is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

# On a 28-layer Qwen3 a training step takes about 18 MB of host memory a shape.
MAX_SHAPES = 96


class CompiledByShape:
    """`mx.compile` that forgets: MLX's own keeps what it traced for every shape until the function itself is gone.

    Args:
        function: Of arrays, and lists of them.
        inputs: What it reads beside its arguments, as for `mx.compile`.
        outputs: What it writes beside its result, as for `mx.compile`.
        max_shapes: Kept at most; the one not used for the longest time is dropped first.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Any = None, outputs: Any = None, max_shapes: int = MAX_SHAPES
    ) -> None:
        self._function, self._inputs, self._outputs = function, inputs, outputs
        self._max_shapes = max_shapes
        self._kept: dict[tuple[Any, ...], Callable[..., Any]] = {}  # the last used last
        self.n_compiled = 0

    def __call__(self, *arguments: Any) -> Any:
        """The function's result."""
        shapes = tuple((name, value.shape, value.dtype) for name, value in tree_flatten(list(arguments)))
        found = self._kept.pop(shapes, None)
        if found is None:
            found = self._compile()
            if len(self._kept) == self._max_shapes:
                del self._kept[next(iter(self._kept))]
        self._kept[shapes] = found
        return found(*arguments)

    def _compile(self) -> Callable[..., Any]:
        function = self._function

        def own(*arguments: Any) -> Any:  # MLX files what it traced under the function object, so each shape has one
            return function(*arguments)

        self.n_compiled += 1
        compiled: Callable[..., Any] = mx.compile(own, inputs=self._inputs, outputs=self._outputs)
        return compiled
