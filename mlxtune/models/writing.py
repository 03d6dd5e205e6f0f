"""Folders that appear whole or not at all. No model is read here."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mlxtune.errors import ModelError


@contextlib.contextmanager
def whole_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its name when the block ends without an error.

    Args:
        out: The folder to write.
        force: Replace a model folder that lies there; it goes only once the new one is whole.

    Yields:
        The folder to write into.

    Raises:
        ModelError: `out` is taken, or (with `force`) holds something other than a model.
    """
    check_free(out, force=force)
    name = f".{out.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = out.parent / f"{name}.new"
        new.mkdir()
    except OSError as error:
        raise ModelError(f"{out}: cannot be written: {error.strerror or error}") from error
    old = out.parent / f"{name}.old"
    try:
        yield new
        check_free(out, force=force)  # someone else may have been faster
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_free(out: Path, *, force: bool = False) -> None:
    """Raise ModelError unless `out` may be written: absent, an empty folder, or with `force` a model folder."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ModelError(f"{out}: already exists; choose another --out, or replace it with --force")
    if not (out / "config.json").is_file():
        raise ModelError(f"{out}: is not a model folder (it has no config.json), so --force will not replace it")
