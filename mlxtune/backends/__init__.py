"""Backends: what computes. `choose` imports one lazily; nothing else in the project imports a backend."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from mlxtune.backends.base import Backend
from mlxtune.errors import BackendError

NAMES = ("auto", "mlx")


@dataclass(frozen=True)
class Choice:
    """A backend, and why it was taken."""

    backend: Backend
    reason: str


def choose(name: str = "auto") -> Choice:
    """The backend to compute with.

    Raises:
        BackendError: It is not installed here.
    """
    if name not in NAMES:
        raise BackendError(f"no backend {name!r}; there is {', '.join(NAMES)}")
    if importlib.util.find_spec("mlx") is None:
        raise BackendError("mlx is not installed; on a Mac run `pip install mlx`, on Linux `pip install 'mlx[cpu]'`")
    try:
        from mlxtune.backends.mlx.backend import MlxBackend

        backend = MlxBackend()
        device = backend.device()
    except ImportError as error:
        raise BackendError(
            f"mlx is installed but cannot be loaded: {error}; on Linux it needs `pip install 'mlx[cpu]'` or 'mlx[cuda]'"
        ) from error
    asked = "asked for" if name == "mlx" else "the backend of this version"
    return Choice(backend, f"mlx on {device.description} ({asked})")
