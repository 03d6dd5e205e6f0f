"""What several processes must have in common to train the same: recipe, rows, base model and versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxtune.backends.base import Backend
from mlxtune.data.examples import Example
from mlxtune.models.base_model import fingerprint
from mlxtune.recipe.sections import Recipe
from mlxtune.version import __version__

# Keys of a recipe that say where something lies on a machine: what lies there is compared.
PLACES = ("data.train", "data.more", "data.valid", "data.test", "model.path")


def training_facts(
    backend: Backend, recipe: Recipe, base: Path, splits: Mapping[str, Sequence[Example]]
) -> dict[str, Any]:
    """What must be the same on all processes, each under the name that a message has for it.

    Args:
        backend: What computes.
        recipe: As resolved.
        base: The folder of the base model.
        splits: Examples by split: what is trained and validated on.
    """
    keys = {f"recipe key {key}": value for key, value in recipe.flat().items() if key not in PLACES}
    tokens = {f"tokens of the rows of data.{name}": _hash(examples) for name, examples in splits.items()}
    versions = {f"version of {name}": version for name, version in backend.versions().items()}
    return {
        **keys,
        **tokens,
        "weights of the base model": fingerprint(base),
        "version of mlxtune": __version__,
        "backend": backend.name,
        **versions,
    }


def _hash(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        for array in (example.prompt, example.reply, example.weights, example.segments):
            digest.update(len(array).to_bytes(8, "little"))
            digest.update(array.tobytes())
    return f"{len(examples)} rows, {digest.hexdigest()}"
