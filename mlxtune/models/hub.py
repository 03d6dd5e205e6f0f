"""Models from the Hugging Face Hub: one download, and one clear message for each way it can fail.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean here what they mean everywhere. Downloads resume.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml

from mlxtune.errors import ModelError
from mlxtune.recipe.yaml_text import YamlError, read_yaml

CONFIG_PATTERNS = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*", "NOTICE*"]
WEIGHT_PATTERNS = ["model*.safetensors"]
WHOLE = "model.safetensors"  # the weights of a model that is one file


def download(
    repository: str, *, revision: str | None = None, need: Literal["all", "config"] = "all", progress: bool = True
) -> Path:
    """The snapshot folder of a Hub model, downloaded as far as it is not cached.

    Args:
        repository: OWNER/NAME.
        revision: Branch, tag or commit.
        need: "config" leaves out the weights.
        progress: Show the library's progress bars, on a terminal.

    Raises:
        ModelError: It does not exist, is gated, or cannot be reached and is not cached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        with progress_bars(progress):
            return Path(
                snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=CONFIG_PATTERNS + (WEIGHT_PATTERNS if need == "all" else []),
                    ignore_patterns=["*/*"],
                )
            )
    except LocalEntryNotFoundError as error:
        raise ModelError(_unreachable(repository, revision)) from error
    except HFValidationError as error:
        raise ModelError(f"{repository}: not a Hub id, which is OWNER/NAME: {error}") from error
    except Exception as error:
        if sentence := refusal(error, repository, "model", revision):
            raise ModelError(sentence) from error
        if not (isinstance(error, OSError) or is_of_http_library(error)):
            raise
        raise ModelError(f"{repository}: the download failed: {first_line(error)}; run it again to resume") from error


@functools.cache
def bytes_of_weights(repository: str, commit: str) -> Mapping[str, int]:
    """Bytes of each weight by its name, of a model whose weights are one file: its header alone is read.

    Nothing where the Hub does not say: the download that follows is what has to succeed.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().parse_safetensors_file_metadata(repository, WHOLE, revision=commit)
    except Exception as error:
        if not (isinstance(error, OSError) or is_of_http_library(error)):
            raise
        return {}
    return {name: tensor.data_offsets[1] - tensor.data_offsets[0] for name, tensor in found.tensors.items()}


@contextmanager
def progress_bars(wanted: bool) -> Iterator[None]:
    """The Hub client's bars: on a terminal where they are wanted, else none."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = not (wanted and sys.stderr.isatty()) and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()


def front_matter(readme: str) -> dict[str, Any]:
    """What the README.md of a repository says between two lines of three dashes at its beginning; nothing if it cannot be read."""
    first, *lines = readme.split("\n")
    ends = (number for number, line in enumerate(lines) if line.rstrip() == "---")
    text = "\n".join(lines[: next(ends, 0)]) if first.rstrip() == "---" else ""
    try:
        said = read_yaml(text, yaml.SafeLoader)  # as the Hub reads it: YAML 1.1
    except YamlError:
        return {}
    return said if isinstance(said, dict) else {}


def refusal(error: Exception, name: str, kind: str, revision: str | None) -> str | None:
    """What the Hub refused, in a sentence; None for an error of another sort.

    Args:
        error: As the Hub's client raised it.
        name: What was asked for, as the user named it.
        kind: 'model' or 'dataset'.
        revision: That was asked for.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return (
            f"{name}: gated: its owner asks you to accept conditions first; accept them on its page, "
            "then set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{name}: no such {kind} on the Hub, or a private one; check the spelling, "
            f"and for a private {kind} set HF_TOKEN or run `hf auth login`"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: has no revision {revision!r}; give a branch, tag or commit that exists"
    return f"{name}: the Hub refused: {first_line(error)}" if isinstance(error, HfHubHTTPError) else None


def is_of_http_library(error: Exception) -> bool:
    """Whether an error is of the HTTP library's own kinds, which huggingface-hub lets through and changes with versions."""
    modules = ("httpx", "httpcore", "requests", "urllib3", "hf_xet", "huggingface_hub")
    return type(error).__module__.startswith(modules)


def why_unreachable() -> str:
    """Why the Hub was not asked."""
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hub ({constants.ENDPOINT}) cannot be reached"


def first_line(error: Exception) -> str:
    """An error by its kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")


def _unreachable(repository: str, revision: str | None) -> str:
    at = f" at {revision}" if revision else ""
    return (
        f"{repository}{at}: not, or only partly, in the cache, and {why_unreachable()}; on a machine that reaches it run "
        f"`hf download {repository} --local-dir {repository.rpartition('/')[2]}`, copy the folder here and give its "
        "path instead"
    )
