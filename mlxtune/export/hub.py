"""A folder uploaded to a model repository on the Hugging Face Hub, in one commit. Knows no format and makes no file.

    repository = open_repository("owner/intent")     # token, owner and visibility are checked, nothing is changed
    uploaded = repository.upload(folder)             # makes the repository where there is none, and commits

What arrived before a connection broke is kept by the Hub under its hash and not sent again, so an upload goes on where it
stopped, in this process or the next. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean here what they mean everywhere.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.errors import ExportError, Misuse
from mlxtune.models.hub import first_line, is_of_http_library, progress_bars, why_unreachable
from mlxtune.models.source import HUB_ID

if TYPE_CHECKING:
    from huggingface_hub import HfApi

log = logging.getLogger(__name__)

MESSAGE = "Upload by mlxtune"
WAITS_S = (2.0, 10.0, 30.0)  # before the second attempt, the third, ...; the client itself retries each request as well
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)  # statuses after which the same request may succeed
# Weights of a model that is replaced: left beside new ones with other names they would be loaded with them.
MODEL_WEIGHTS = re.compile(r"model[^/]*\.safetensors(?:\.index\.json)?")
SHOWN = 5  # names in a message
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Uploaded:
    """What an upload came to.

    Attributes:
        url: Page of the repository.
        commit: Hash of its newest commit.
        is_public: Whether everybody may read it.
        replaced: Files that were there with other content, or were removed with the model that they belonged to.
        kept: Files that were there and stay as they are.
        unchanged: The repository held all of it already, so that there is no new commit.
    """

    url: str
    commit: str | None
    is_public: bool
    replaced: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unchanged: bool = False


def check_repository_name(name: str) -> None:
    """Raise Misuse unless a name may be that of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not HUB_ID.fullmatch(name):
        raise Misuse(f"expected OWNER/NAME, a repository on the Hub, got {name!r}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise Misuse(f"{name}: no name for a repository on the Hub: {first_line(error)}") from error


def open_repository(
    name: str, *, public: bool = False, force: bool = False, known: Mapping[str, bytes] | None = None
) -> HubRepository:
    """A repository that may be uploaded to: everything is checked that can be known before there is anything to upload.

    Args:
        name: OWNER/NAME; it need not exist.
        public: Whether it shall be public.
        force: Replace files that are there.
        known: Path in the repository -> content of files that will be among those uploaded.

    Raises:
        Misuse: The name is none.
        ExportError: The Hub cannot be reached, or refuses the token; the repository is another owner's, has another
            visibility, or holds one of the known files with other content, without `force`.
    """
    from huggingface_hub import HfApi, constants

    check_repository_name(name)
    if constants.HF_HUB_OFFLINE:
        raise ExportError(f"{name}: {why_unreachable()}; unset it to upload, or look at what would be with --dry-run")
    api = HfApi()
    with _translated(name, "asked nothing yet of the repository"):
        _check_owner(name, api.whoami())
    with _translated(name, "nothing was uploaded"):
        repository = HubRepository(api, name, public, force, _visibility(api, name))
        if repository.exists:
            repository.check_visibility()
            repository.check_replaced(known or {})
        return repository


class HubRepository:
    """A model repository on the Hub; made by `open_repository`.

    Args:
        api: The Hub's client.
        name: OWNER/NAME.
        public: Whether it shall be public.
        force: Replace files that are there.
        is_public: Whether it is; None where it does not exist.
    """

    def __init__(self, api: HfApi, name: str, public: bool, force: bool, is_public: bool | None) -> None:
        self._api, self.name, self._public, self._force, self._is_public = api, name, public, force, is_public

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self._is_public is not None

    @property
    def url(self) -> str:
        """Its page."""
        return f"{self._api.endpoint}/{self.name}"

    def check_visibility(self) -> None:
        """Refuse to make a run public unasked; and to leave one private that shall be public."""
        if self._is_public and not self._public:
            raise ExportError(
                f"{self.name}: is public already, so that everybody could read the upload; say --public, or choose another name"
            )
        if not self._is_public and self._public:
            raise ExportError(
                f"{self.name}: exists and is private, which --public does not change; leave --public out, or make it public in "
                f"{self.url}/settings"
            )

    def check_replaced(self, files: Mapping[str, Path | bytes]) -> dict[str, bool]:
        """Which of some files are there, and whether with the same content.

        Args:
            files: Path in the repository -> file, or its content.

        Raises:
            ExportError: Some have other content, and they are not to be replaced.
        """
        there = {
            one.path: one for one in self._api.get_paths_info(self.name, list(files)) if hasattr(one, "blob_id")
        }  # folders have none
        same = {path: _is_same(one, files[path]) for path, one in there.items()}
        other = [path for path, is_same in same.items() if not is_same]
        if other and not self._force:
            raise ExportError(
                f"{self.name}: exists and holds {_some(other)} with other content; replace with --force (earlier commits "
                "keep what was there), or choose another name"
            )
        return same

    def upload(self, folder: Path, message: str = MESSAGE) -> Uploaded:
        """Commit a folder's files, all in one commit. The repository is made where there is none.

        Raises:
            ExportError: The Hub refuses, or the connection broke too often; what arrived is not lost then.
        """
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        if not self.exists:
            with _translated(self.name, "nothing was uploaded"):
                self._api.create_repo(self.name, private=not self._public, exist_ok=True)
        for attempt, wait_s in enumerate([*WAITS_S, None], start=1):
            try:
                with progress_bars(sys.stderr.isatty()), _warnings_logged():
                    return self._commit(files, message)
            except Exception as error:
                if not is_connection_error(error):
                    with _translated(self.name, "nothing was committed"):
                        raise
                why = first_line(_innermost(error))
                if wait_s is None:
                    raise ExportError(
                        f"{self.name}: the upload failed {attempt} times, lastly by {why}; the same command goes on: what "
                        "arrived is not sent again, and nothing shows in the repository before all of it is there"
                    ) from error
                log.info("the upload was interrupted (%s); going on in %g s", why, wait_s)
                time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _commit(self, files: Mapping[str, Path], message: str) -> Uploaded:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        info = self._api.model_info(self.name)
        others = [one.rfilename for one in info.siblings or [] if one.rfilename not in files]
        same = self.check_replaced(files)
        stale = [name for name in others if MODEL_WEIGHTS.fullmatch(name)]
        stale = stale if any(MODEL_WEIGHTS.fullmatch(name) for name in files) else []
        if stale and not self._force:
            raise ExportError(
                f"{self.name}: exists and holds weights of another model, {_some(stale)}; replace them with --force (earlier "
                "commits keep what was there), or choose another name"
            )
        kept = tuple(name for name in others if name not in stale and name != ".gitattributes")
        replaced = (*(name for name, is_same in same.items() if not is_same), *stale)
        if not stale and all(same.get(name) for name in files):
            return Uploaded(self.url, info.sha, self._public, kept=kept, unchanged=True)
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items() if not same.get(name)]
        operations += [CommitOperationDelete(name) for name in stale]
        commit = self._api.create_commit(self.name, operations, commit_message=message)
        return Uploaded(self.url, commit.oid, self._public, replaced, kept)


# What the Hub says -------------------------------------------------------------------------------------------------


def is_connection_error(error: Exception) -> bool:
    """Whether an error, or what caused it, is of the kind that goes away: no connection, or a Hub that is busy."""
    from huggingface_hub.errors import HfHubHTTPError

    for one in _causes(error):
        if isinstance(one, HfHubHTTPError):
            return _status(one) in TEMPORARY
        if isinstance(one, (ConnectionError, TimeoutError)) or _is_transport(one):
            return True
    return False


@contextmanager
def _translated(name: str, state: str) -> Iterator[None]:
    """Errors of the Hub's client as one sentence each.

    Args:
        name: The repository.
        state: What there is so far, for a message about a connection.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except ExportError:
        raise
    except LocalTokenNotFoundError as error:
        raise ExportError(
            f"{name}: you are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN to a token with write permission "
            f"from {constants.ENDPOINT}/settings/tokens"
        ) from error
    except Exception as error:
        refused = next((one for one in _causes(error) if isinstance(one, HfHubHTTPError)), None)
        if refused is not None:
            raise ExportError(_refusal(name, refused)) from error
        if is_connection_error(error):
            raise ExportError(f"{name}: {why_unreachable()} ({first_line(_innermost(error))}); {state}") from error
        if isinstance(error, (OSError, ValueError, RuntimeError)):
            raise ExportError(
                f"{name}: the upload failed: {first_line(_innermost(error))}; {state}, and the same command tries again"
            ) from error
        raise


def _refusal(name: str, error: Any) -> str:
    """What the Hub refused, and what to do."""
    from huggingface_hub import constants

    status = _status(error)
    said = " ".join((error.server_message or "").split())
    why = f" ({said})" if said else ""
    tokens = f"{constants.ENDPOINT}/settings/tokens"
    if status == 401:
        return (
            f"{name}: the Hub refused the token{why}; make one with write permission in {tokens}, then run `hf auth login` or "
            "set HF_TOKEN, which comes first where both are there"
        )
    if status == 403:
        return (
            f"{name}: the Hub does not let you write there{why}; choose a name under your own account, or take a token that "
            f"may write to {name.partition('/')[0]}: {tokens}"
        )
    if status in TEMPORARY:
        return f"{name}: the Hub is busy or out of order (status {status}){why}; try again later"
    return f"{name}: the Hub refused: status {status}{why}"


def _check_owner(name: str, who: Mapping[str, Any]) -> None:
    """Refuse what the token's own facts rule out, before anything is made. The Hub has the last word."""
    from huggingface_hub import constants

    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise ExportError(
            f"{name}: the token of {who.get('name')} may only read; make one with write permission in "
            f"{constants.ENDPOINT}/settings/tokens, then run `hf auth login` or set HF_TOKEN"
        )
    owners = [str(who.get("name")), *(str(one.get("name")) for one in who.get("orgs") or [])]
    owner = name.partition("/")[0]
    if role == "write" and owner.casefold() not in [one.casefold() for one in owners]:
        raise ExportError(
            f"{name}: {owner} is not you: you are logged in as {owners[0]}"
            + (f", a member of {', '.join(owners[1:])}" if owners[1:] else "")
            + f"; take {owners[0]}/{name.partition('/')[2]}"
        )


def _visibility(api: HfApi, name: str) -> bool | None:
    """Whether a repository is public; None where there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return not api.model_info(name).private
    except RepositoryNotFoundError:
        return None


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_transport(error: Exception) -> bool:
    """Whether an error is the HTTP library's kind for a connection that failed, broke or took too long."""
    return is_of_http_library(error) and any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _causes(error: Exception) -> Iterator[Exception]:
    """An error and what it was raised from, as far back as is known."""
    one: BaseException | None = error
    while isinstance(one, Exception):
        yield one
        one = one.__cause__


def _innermost(error: Exception) -> Exception:
    """The first cause: the client wraps errors in others that say less. Those below the HTTP library say too little."""
    found = list(_causes(error))
    ours = [one for one in found if not type(one).__module__.startswith(("httpcore", "urllib3", "builtins"))]
    return (ours or found)[-1]


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """The client's warnings, such as of the card's metadata, as sentences among the others."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    for one in found:
        log.warning("%s", " ".join(str(one.message).split()))


# Content -----------------------------------------------------------------------------------------------------------


def _is_same(there: Any, ours: Path | bytes) -> bool:
    """Whether a file of the repository has some content; nothing is read where sizes differ."""
    n_bytes = len(ours) if isinstance(ours, bytes) else ours.stat().st_size
    if there.size != n_bytes:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == _digest(ours, hashlib.sha256()))
    git = hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False)
    return bool(there.blob_id == _digest(ours, git))


def _digest(content: Path | bytes, digest: Any) -> str:
    """The hash of a file or of bytes."""
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    return str(digest.hexdigest())


def _some(names: Sequence[str]) -> str:
    """Some names, and how many more."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
