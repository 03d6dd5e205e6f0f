"""The base model of a recipe as a folder that a backend loads; converted once and kept, where that is needed.

Folders and Hub snapshots without `quantize` are used as they are. A GGUF, or `quantize`, is converted into
$MLXTUNE_CACHE or ~/.cache/mlxtune, and found there the next time; `conversions.py` keeps them.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxtune.backends.base import Backend, ConvertSpec
from mlxtune.errors import AdapterError
from mlxtune.models import gguf
from mlxtune.models.conversions import kept, model_hash, models_cache
from mlxtune.models.source import (
    LeftOut,
    ModelSource,
    find,
    left_out,
    planned_left_out,
    read_config,
    stored_config,
    text_weights,
)
from mlxtune.models.text_part import is_multimodal
from mlxtune.models.writing import model_folder
from mlxtune.recipe.sections import ModelSection

logger = logging.getLogger(__name__)

FINGERPRINT = "2:"  # which kind of fingerprint it is; change it with what it is computed from
FINGERPRINT_BYTES = 1 << 14  # of each weight: enough to tell models apart, little enough for 15 GB of them


def base_folder(section: ModelSection, backend: Backend, *, progress: bool = True) -> Path:
    """The model folder to load.

    Args:
        section: The recipe's `model`.
        backend: Converts, where needed.
        progress: Show a download's progress, on a terminal.

    Raises:
        ModelError: The model cannot be found, read or converted.
    """
    source = find(section.path, revision=section.revision, progress=progress, check=backend.architecture)
    if source.kind == "folder":
        _log_left_out(source.path, source.name)
    if source.kind == "folder" and section.quantize is None:
        return source.path
    quantize = section.quantize
    spec = ConvertSpec() if quantize is None else ConvertSpec(quantize.bits, quantize.group_size)
    what = "plain" if quantize is None else f"{quantize.bits}bit-g{quantize.group_size}"

    def convert(folder: Path) -> None:
        to = f" to {quantize.bits} bits" if quantize else ""
        logger.info("converting %s%s; this happens once, the result is kept in %s", source.name, to, folder)
        backend.convert(source.path, folder, spec)

    return _cached(source, what, convert)


def config_and_tokenizer(section: ModelSection, *, progress: bool = True) -> tuple[dict[str, Any], Path]:
    """config.json and the folder with the tokenizer, without the weights, as planning needs them.

    Raises:
        ModelError: The model cannot be found or read.
    """
    source = find(section.path, revision=section.revision, need="config", progress=progress)
    folder = source.path
    if source.kind == "gguf":

        def extract(out: Path) -> None:
            with model_folder(out) as new:
                gguf.write_config_and_tokenizer(source.path, new)

        folder = _cached(source, "tokenizer", extract)
    return read_config(folder), folder


def weights_to_leave_out(section: ModelSection) -> LeftOut | None:
    """What of a recipe's model is not of its text part, without the weights; None where that is nothing, or nothing tells before them.

    Raises:
        ModelError: The model cannot be found or read.
    """
    return planned_left_out(find(section.path, revision=section.revision, need="config", progress=False))


def is_nested(section: ModelSection) -> bool:
    """Whether a recipe's model is multimodal, so that other programs have the layers of its text part under longer names.

    Raises:
        ModelError: The model cannot be found or read.
    """
    source = find(section.path, revision=section.revision, need="config", progress=False)
    return source.kind == "folder" and is_multimodal(stored_config(source.path))


def fingerprint(folder: Path) -> str:
    """SHA-256 over the name, type, shape and first bytes of each weight: what an adapter was trained on.

    The files' number, names and headers do not count, nor do parts of a multimodal model that are not text: they differ between
    programs that write the same model.
    """
    digest = hashlib.sha256()
    for name, stored in sorted(text_weights(folder).items()):
        place = stored.place
        digest.update(f"{name} {place.dtype} {place.shape}".encode())
        with stored.file.open("rb") as stream:
            stream.seek(place.start)
            digest.update(stream.read(min(FINGERPRINT_BYTES, place.stop - place.start)))
    return f"{FINGERPRINT}{digest.hexdigest()}"


def require_base(folder: Path, trained_on: object, run: str) -> None:
    """Refuse a base model that is not the one a run was trained on.

    Args:
        folder: The base model at hand.
        trained_on: Fingerprint in run.json; nothing is refused where it is missing.
        run: The run, for the message.

    Raises:
        AdapterError: Other weights.
    """
    known = isinstance(trained_on, str) and trained_on.startswith(FINGERPRINT)  # an earlier kind says nothing
    if known and trained_on != fingerprint(folder):
        raise AdapterError(
            f"{run}: was trained on other weights than those in {folder}; give the base model it was trained on, or name "
            "another one on purpose with --set model.path=..."
        )


@functools.cache
def _log_left_out(folder: Path, name: str) -> None:
    """Once a process, however often it loads the model."""
    if others := left_out(folder):
        logger.info("%s: %s", name, others.as_text())


def _cached(source: ModelSource, what: str, make: Callable[[Path], None]) -> Path:
    """The cache's folder for a source, made by `make` unless it is there."""
    cache = models_cache()
    identity = source.identity or model_hash(source.path, cache)
    return kept(cache, source.name, identity, what, make)
