"""The license of a base model, as its own files say: README.md, a .gguf's metadata, or the text of a well-known license."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.models.gguf_file import read_value
from mlxtune.models.hub import front_matter

ID = re.compile(r"[a-z0-9][a-z0-9.+-]{0,59}")  # as the Hub writes them: apache-2.0, llama3.2, other
# Id on the Hub -> what its text begins with.
TEXTS = {
    "apache-2.0": re.compile(r"\s*Apache License\s+Version 2\.0, January 2004"),
    "mit": re.compile(r"\s*(?:The )?MIT License"),
}
LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
README_BYTES = 1 << 20


@dataclass(frozen=True)
class License:
    """A license.

    Attributes:
        id: As the Hub names it; "other" for one that it has no name for.
        name: What such a one is called.
        link: Where its text is.
    """

    id: str
    name: str | None = None
    link: str | None = None


def license_of(model: Path) -> License | None:
    """The license of a model folder or a .gguf; None where its files do not say, or say several.

    Args:
        model: Folder or file.
    """
    if model.is_file():
        return _license(read_value(model, "general.license"))
    readme = model / "README.md"
    if readme.is_file():
        with readme.open(encoding="utf-8", errors="replace") as stream:
            said = front_matter(stream.read(README_BYTES))
        if (found := _license(said.get("license"), said.get("license_name"), said.get("license_link"))) is not None:
            return found
    for file in (model / name for name in LICENSE_FILES):
        if file.is_file():
            with file.open(encoding="utf-8", errors="replace") as stream:
                beginning = stream.read(500)
            return next((License(name) for name, text in TEXTS.items() if text.match(beginning)), None)
    return None


def _license(said: Any, name: Any = None, link: Any = None) -> License | None:
    """A license as README.md or metadata name it."""
    if not isinstance(said, str) or not ID.fullmatch(said.lower()):
        return None
    return License(said.lower(), *(one if isinstance(one, str) and one.strip() else None for one in (name, link)))
