"""Prepared data that is kept: a second start on the same rows reads its tokens instead of cleaning, splitting and tokenizing. Prepares nothing itself.

    prepared = cached_prepare(recipe, tokenizer)     # equal to prepare(recipe, tokenizer), read from the cache where it can be
    list_prepared()                                  # the files, their size, and when each was last used

One safetensors file holds the arrays of both splits, and as JSON what cleaning, balancing and class weights came to; rows are read again from the
recipe's own files. The file is named after everything that decides its content, and written whole or not at all; one that is damaged is made
again. Recipes with `data.augment` are not kept: what they train on depends on a server.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.balance import Balanced
from mlxtune.data.class_weights import ClassWeights
from mlxtune.data.cleaning import CleaningReport, Conflict, Dropped
from mlxtune.data.examples import Example
from mlxtune.data.hub_rows import hub_files
from mlxtune.data.prepare import Prepared, Split, prepare
from mlxtune.data.reading import read_recipe_rows, read_training_rows
from mlxtune.data.rows import Row, content_hash
from mlxtune.files import cache_folder, read_safetensors, write_safetensors
from mlxtune.models.conversions import CacheEntry
from mlxtune.models.tokenizer import Tokenizer
from mlxtune.recipe.sections import Recipe, is_on_hub

log = logging.getLogger(__name__)

MAX_FILES, MAX_BYTES = 16, 2 << 30  # that are kept, the last used first
ABANDONED_S = 24 * 3600  # a file that is older was not renamed when its writer died
LIBRARIES = ("numpy", "tokenizers", "transformers")  # whose versions may change a token or a draw
SUFFIX = ".safetensors"


def cached_prepare(recipe: Recipe, tokenizer: Tokenizer, ask: bool = True) -> Prepared:
    """As `prepare`, to the last bit, read from the cache folder where the same was prepared before.

    Raises:
        DataError: As `prepare`.
    """
    digest = None if recipe.data.augment else _digest(recipe, tokenizer)
    if digest is None:
        return prepare(recipe, tokenizer, ask)
    file = _folder() / f"{recipe.name}-{digest[:16]}{SUFFIX}"
    found = _read(file, digest, recipe)
    if found is None:
        found = prepare(recipe, tokenizer, ask)
        try:
            _write(file, digest, found)
        except OSError as error:
            log.info("prepared tokens cannot be kept in %s: %s", file.parent, error.strerror or error)
    return found


def list_prepared() -> list[CacheEntry]:
    """The files of prepared data, the one that was used last first."""
    folder = _folder()
    found = []
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.suffix == SUFFIX:
            status = file.stat()
            used = datetime.fromtimestamp(status.st_mtime, timezone.utc)
            unfinished = file.name.startswith(".")
            found.append(CacheEntry(file, status.st_size, used, in_use=False, unfinished=unfinished, kind="prepared"))
    return sorted(found, key=lambda one: one.last_used, reverse=True)


def _folder() -> Path:
    return cache_folder() / "prepared"


def _digest(recipe: Recipe, tokenizer: Tokenizer) -> str | None:
    """SHA-256 over everything that decides what is prepared; None where a tokenizer or a file cannot be told from another."""
    if tokenizer.identity is None:
        return None
    try:
        files = {file: _file_identity(file) for file in (*recipe.data.training_files, recipe.data.valid) if file}
    except OSError:  # `prepare` says what is wrong with it
        return None
    decisive = {
        "files": files,
        "data": recipe.data.model_dump(mode="json", exclude={"test"}),
        "prompt": recipe.prompt.model_dump(mode="json"),
        "output": recipe.output.model_dump(mode="json"),
        "train": {name: getattr(recipe.train, name) for name in ("max_tokens", "over_long", "seed", "supervise")},
        "tokenizer": tokenizer.identity,
        "code": _code(),
    }
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def _file_identity(file: str) -> list[str]:
    """A file's content, and the names that messages have for it."""
    return [content_hash(Path(file)), *([one.name for one in hub_files(file)] if is_on_hub(file) else [file])]


@functools.cache
def _code() -> list[str]:
    """What prepares: versions, and this room's own code, which changes between two versions, too."""
    own = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
    return [own.hexdigest(), platform.python_version(), *map(importlib.metadata.version, ("mlxtune", *LIBRARIES))]


# Reading and writing ---------------------------------------------------------------------------------------------------


def _read(file: Path, digest: str, recipe: Recipe) -> Prepared | None:
    """What a file holds, now used; None where it is not there, damaged, or of other content."""
    try:
        arrays = read_safetensors(file)
        facts = json.loads(arrays["facts"].tobytes())
        if int(arrays.pop("checksum")) != _checksum(arrays) or facts["digest"] != digest:
            return None
        os.utime(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    rows = read_training_rows(recipe)
    training = _split(rows, facts["training"], arrays, "training")
    if facts["validation"] is None:
        return Prepared(training, None)
    if recipe.data.valid is not None:
        rows = read_recipe_rows(Path(recipe.data.valid), recipe)
    return Prepared(training, _split(rows, facts["validation"], arrays, "validation"))


def _write(file: Path, digest: str, prepared: Prepared) -> None:
    splits = {"training": prepared.training, "validation": prepared.validation}
    arrays = {
        f"{name}.{key}": array for name, split in splits.items() if split for key, array in _arrays(split).items()
    }
    facts = {"digest": digest, **{name: split and _facts(split) for name, split in splits.items()}}
    arrays["facts"] = np.frombuffer(json.dumps(facts, ensure_ascii=False).encode(), np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}{SUFFIX}")
    try:
        write_safetensors(temporary, {**arrays, "checksum": np.asarray(_checksum(arrays), np.int64)})
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    _prune()


def _prune() -> None:
    """Remove the files beyond the bounds, and those that a process left that was killed while it wrote."""
    files = list_prepared()
    whole = [one for one in files if not one.unfinished]
    sums = np.cumsum([one.n_bytes for one in whole])
    surplus = [one for n, one in enumerate(whole) if n and (n >= MAX_FILES or sums[n] > MAX_BYTES)]
    abandoned = [one for one in files if one.unfinished and time.time() - one.last_used.timestamp() > ABANDONED_S]
    for one in (*surplus, *abandoned):
        one.path.unlink(missing_ok=True)


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    return functools.reduce(lambda found, name: zlib.crc32(arrays[name].tobytes(), found), sorted(arrays), 0)


def _arrays(split: Split) -> dict[str, NDArray[Any]]:
    """The examples of a split end to end; one that is repeated stands there once."""
    distinct = list({id(example): example for example in split.examples}.values())
    place = {id(example): number for number, example in enumerate(distinct)}
    return {
        "order": np.asarray([place[id(example)] for example in split.examples], np.int64),
        "row": np.asarray([example.row for example in distinct], np.int64),
        "prompt_lengths": np.asarray([len(example.prompt) for example in distinct], np.int64),
        "reply_lengths": np.asarray([len(example.reply) for example in distinct], np.int64),
        "prompt": np.concatenate([example.prompt for example in distinct]),
        "reply": np.concatenate([example.reply for example in distinct]),
        "weights": np.concatenate([example.weights for example in distinct]),
        "segments": np.concatenate([example.segments for example in distinct]),
    }


def _facts(split: Split) -> dict[str, Any]:
    """The rest of a split as JSON; its rows as places in their files."""
    weights = split.class_weights
    return {
        "rows": [[row.file, row.line] for row in split.rows],
        "left_out": split.left_out,
        "n_validation": split.n_validation,
        "cleaning": split.cleaning and asdict(split.cleaning),
        "balanced": split.balanced and asdict(split.balanced),
        "class_weights": None if weights is None else {name: asdict(one) for name, one in weights.items()},
    }


def _split(rows: Sequence[Row], facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], name: str) -> Split:
    """A split of what `_facts` and `_arrays` gave, and of the rows of its file."""
    by_place = {(row.file, row.line): row for row in rows}
    cleaning, balanced, weights = facts["cleaning"], facts["balanced"], facts["class_weights"]
    if cleaning is not None:
        cleaning["dropped"] = tuple(Dropped(**one) for one in cleaning["dropped"])
        cleaning["conflicts"] = tuple(Conflict(**one) for one in cleaning["conflicts"])
    if balanced is not None:
        balanced["positions"] = tuple(balanced["positions"])
    return Split(
        rows=[by_place[file, line] for file, line in facts["rows"]],
        examples=_examples({key.removeprefix(f"{name}."): array for key, array in arrays.items()}),
        cleaning=None if cleaning is None else CleaningReport(**cleaning),
        left_out=facts["left_out"],
        balanced=None if balanced is None else Balanced(**balanced),
        n_validation=facts["n_validation"],
        class_weights=None if weights is None else {field: ClassWeights(**one) for field, one in weights.items()},
    )


def _examples(arrays: Mapping[str, NDArray[Any]]) -> list[Example]:
    """The examples of `_arrays`, whose own arrays are views."""
    prompts = _parts(arrays["prompt"], arrays["prompt_lengths"])
    replies, weights, segments = (
        _parts(arrays[key], arrays["reply_lengths"]) for key in ("reply", "weights", "segments")
    )
    distinct = list(map(Example, arrays["row"].tolist(), prompts, replies, weights, segments))
    return [distinct[place] for place in arrays["order"].tolist()]


def _parts(array: NDArray[Any], lengths: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Views of an array, one after another."""
    ends = np.cumsum(lengths).tolist()
    return [array[start:end] for start, end in zip([0, *ends], ends, strict=False)]
