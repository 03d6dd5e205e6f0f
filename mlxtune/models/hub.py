"""Models from the Hugging Face Hub: one download, and one clear message for each way it can fail.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean here what they mean everywhere. Downloads resume.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from mlxtune.errors import ModelError

CONFIG_PATTERNS = ["*.json", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*", "NOTICE*"]
WEIGHT_PATTERNS = ["model*.safetensors"]


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
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = not (progress and sys.stderr.isatty()) and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=CONFIG_PATTERNS + (WEIGHT_PATTERNS if need == "all" else []),
                ignore_patterns=["*/*"],
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{repository}: gated: its owner asks you to accept conditions first; accept them on its page, "
            "then set HF_TOKEN or run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{repository}: no such model on the Hub, or a private one; check the spelling, "
            "and for a private model set HF_TOKEN or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{repository}: has no revision {revision!r}; give a branch, tag or commit that exists"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(_unreachable(repository, revision)) from error
    except HFValidationError as error:
        raise ModelError(f"{repository}: not a Hub id, which is OWNER/NAME: {error}") from error
    except HfHubHTTPError as error:
        raise ModelError(f"{repository}: the Hub refused: {_first_line(error)}") from error
    except OSError as error:
        raise ModelError(f"{repository}: the download failed: {_first_line(error)}; run it again to resume") from error
    except (
        Exception
    ) as error:  # the HTTP library's own kinds, which huggingface-hub lets through and changes with versions
        if not type(error).__module__.startswith(
            ("httpx", "httpcore", "requests", "urllib3", "hf_xet", "huggingface_hub")
        ):
            raise
        raise ModelError(f"{repository}: the download failed: {_first_line(error)}; run it again to resume") from error
    finally:
        if quiet:
            enable_progress_bars()


def _unreachable(repository: str, revision: str | None) -> str:
    from huggingface_hub import constants

    at = f" at {revision}" if revision else ""
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hub ({constants.ENDPOINT}) cannot be reached"
    return (
        f"{repository}{at}: not (or not wholly) in the cache, and {why}; on a machine that reaches it run "
        f"`hf download {repository} --local-dir {repository.rpartition('/')[2]}`, copy the folder here and give its "
        "path instead"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
