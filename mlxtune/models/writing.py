"""Where a model folder may be written. No model is read here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mlxtune.errors import ModelError
from mlxtune.files import heal, whole_folder


class CannotWrite(ModelError):
    """A model folder cannot be written: a full disk, missing permissions."""

    def __init__(self, out: Path, cause: OSError) -> None:
        super().__init__(f"{out}: cannot be written: {cause.strerror or cause}")
        self.cause = cause


@contextlib.contextmanager
def model_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its name when the block ends without an error.

    Args:
        out: The folder to write.
        force: Replace an existing model folder; it is removed only once the new one is complete.

    Yields:
        The folder to write into.

    Raises:
        ModelError: `out` is taken, or (with `force`) holds something other than a model, or cannot be written.
    """
    check_free(out, force=force)
    try:
        with whole_folder(out) as new:
            yield new
            check_free(out, force=force)  # someone else may have been faster
    except OSError as error:
        raise CannotWrite(out, error) from error
    except CannotWrite as error:  # of a folder within, whose temporary name says nothing to a user
        raise CannotWrite(out, error.cause) from error.cause


def check_free(out: Path, *, force: bool = False) -> None:
    """Raise ModelError unless `out` may be written: absent, an empty folder, or with `force` a model folder."""
    heal(out.parent, out.name)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        raise ModelError(f"{out}: already exists; choose another --out, or replace it with --force")
    if not (out / "config.json").is_file():
        raise ModelError(f"{out}: is not a model folder (it has no config.json), so --force will not replace it")
