"""The versions of libraries that this release was tested with, beside those installed. Imports none of these libraries.

versions_tested()["transformers"]   # '5.24.0'
hint(error)                         # what to say of an exception that comes out of a library newer than that, or None
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mlxtune.version import __version__

VERSIONS = Path(__file__).with_name("tested.txt")
# Errors that show at the place of a call or an import: the library has changed what it offers there.
_AT_THE_CALL = (TypeError, AttributeError, ImportError)


@dataclass(frozen=True)
class Newer:
    """An installed library that is newer than the one that was tested."""

    name: str
    installed: str
    tested: str

    @property
    def remedy(self) -> str:
        """The command that installs the tested one."""
        return f"pip install '{self.name}=={self.tested}'"


@functools.lru_cache(maxsize=1)
def versions_tested() -> dict[str, str]:
    """Distribution -> the version tested on this system and Python."""
    from packaging.requirements import Requirement

    versions: dict[str, str] = {}
    for line in VERSIONS.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate():
                versions[pin.name] = next(iter(pin.specifier)).version
    return versions


def newer_than_tested(name: str) -> Newer | None:
    """The library, if it is installed in a version above the tested one."""
    from packaging.version import InvalidVersion, Version

    tested = versions_tested().get(name)
    try:
        installed = importlib.metadata.version(name)
        # Without what stands behind a plus: 2.13.0+cpu is the CPU build of 2.13.0.
        is_newer = tested is not None and Version(Version(installed).public) > Version(tested)
    except (importlib.metadata.PackageNotFoundError, InvalidVersion):
        return None
    return Newer(name, installed, tested) if is_newer and tested is not None else None


def hint(error: BaseException) -> str | None:
    """A sentence for an exception that comes out of a library newer than tested; None for any other.

    Args:
        error: As it was caught; what it was raised from counts as well, the first cause first.
    """
    for cause in _causes(error):
        for module in _modules(cause):
            for name in importlib.metadata.packages_distributions().get(module, ()):
                if newer := newer_than_tested(name.lower().replace("_", "-")):
                    return (
                        f"{newer.name} {newer.installed} is newer than {newer.tested}, with which mlxtune "
                        f"{__version__} was tested. If this is the cause: {newer.remedy}"
                    )
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and what it was raised from, the first cause first."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.insert(0, one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return chain


def _modules(error: BaseException) -> Iterator[str]:
    """Top-level modules that an exception went through, the innermost first, then those that it is about."""
    frames = list(_frames(error.__traceback__))
    yield from (_top(frame.f_globals.get("__name__")) for frame in reversed(frames))
    if isinstance(error, _AT_THE_CALL) and frames:
        yield from (_top(name) for name in (getattr(error, "name", None), _owner(getattr(error, "obj", None))))
        yield from (_top(_owner(value)) for value in frames[-1].f_globals.values())


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _owner(value: Any) -> Any:
    """Name of the module that a module, class or function is or comes from."""
    return getattr(value, "__module__", None) or getattr(value, "__name__", None)


def _top(module: Any) -> str:
    return module.partition(".")[0] if isinstance(module, str) else ""
