"""Rows on the Hugging Face Hub: which files of a repository are a split, and those files, downloaded. Nothing is parsed here.

    hub_files("hub:owner/tickets:train")           # data/train-00000-of-00002.parquet and the next, one commit's
    hub_files("hub:owner/tickets/en@v1.0:test")    # a configuration, at a tag
    hub_files("hub:owner/tickets:all/rows.csv")    # one file, by its path

Files belong to splits as the repository's README.md says under `configs`, else as the Hub itself reads their names. The
`datasets` library is not used: it would run in memory-mapped Arrow what `rows.py` reads line by line, with places for
messages, and it brings pandas, pyarrow and multiprocess for the sake of a listing.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean here what they mean everywhere. One process sees one commit.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from mlxtune.data.globs import Glob
from mlxtune.data.suffixes import JSON, SUFFIXES
from mlxtune.errors import DataError, did_you_mean
from mlxtune.files import cache_folder, write_json
from mlxtune.models.hub import first_line, front_matter, is_of_http_library, progress_bars, refusal, why_unreachable
from mlxtune.recipe.sections import HUB_ROWS

# Split -> words in the name of a file or folder that mean it, as on the Hub.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SHARD = re.compile(r"(?:.*/)?(?P<split>\w[\w.-]*?)-\d{5}-of-(?P<shards>\d{5})[^/]*")
SHOWN = 8  # names in a message
MAX_PATTERNS = 1000  # of one configuration


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset repository, downloaded.

    Attributes:
        name: Where it is on the Hub: hub:OWNER/NAME:PATH, which a recipe can name.
        path: Where it is on this machine.
        commit: Of the repository.
    """

    name: str
    path: Path
    commit: str


@dataclass(frozen=True)
class _Listing:
    """A repository's files at a commit."""

    commit: str
    files: tuple[str, ...]


@cache
def hub_files(name: str) -> tuple[HubFile, ...]:
    """The files of a split, in order, downloaded as far as they are not cached; listed once a process.

    Args:
        name: hub:OWNER/NAME[/CONFIG][@REVISION]:SPLIT.

    Raises:
        DataError: The repository, configuration, split or file does not exist, is gated, or cannot be reached and is not
            (or not wholly) in the cache.
    """
    parts = HUB_ROWS.fullmatch(name)
    if parts is None:
        raise DataError(f"{name}: expected hub:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]")
    repository, revision = parts["repository"], parts["revision"]
    listing = _listing(repository, revision)
    files = _files_of(name, parts["config"], parts["split"] or "train", repository, listing)
    return tuple(
        HubFile(f"hub:{repository}:{file}", _download(repository, file, listing.commit), listing.commit)
        for file in files
    )


# Which files -------------------------------------------------------------------------------------------------------


def splits_of(files: Sequence[str]) -> dict[str, list[str]]:
    """Split -> its files, sorted, by the Hub's naming: the first of these rules that any file follows.

    1. shards, as data/SPLIT-00000-of-00002.parquet, of any split;
    2. a folder named after train, validation or test, as valid/part1.csv;
    3. a file named so, as my_test_rows.jsonl;
    4. all files are for training.

    Args:
        files: Paths in the repository; those that `rows.py` does not read count for nothing.

    >>> splits_of(["dev.jsonl", "train/1.csv", "train/2.csv"])
    {'train': ['train/1.csv', 'train/2.csv']}
    """
    readable = sorted(file for file in files if PurePosixPath(file).suffix.lower() in SUFFIXES)
    # What is called .json may be rows, or say something about them, as dataset_infos.json does.
    rows_alone = [file for file in readable if PurePosixPath(file).suffix.lower() != JSON]
    readable = rows_alone or [file for file in readable if not PurePosixPath(file).stem.startswith("dataset_info")]
    by_shard = [(shard["split"], file) for file in readable if (shard := SHARD.fullmatch(file))]
    by_folder = [(_meant(PurePosixPath(file).parts[:-1]), file) for file in readable]
    by_name = [(_meant([PurePosixPath(file).stem]), file) for file in readable]
    for rule in (by_shard, by_folder, by_name):
        found: dict[str, list[str]] = {}
        for split, file in rule:
            if split:
                found.setdefault(split, []).append(file)
        if found:
            return found
    return {"train": readable} if readable else {}


def _meant(names: Sequence[str]) -> str:
    """The split that a word in the innermost of these names means; '' where none does."""
    for name in reversed(names):
        words = re.split(r"[\W\d_]+", name.lower())
        for split, known in WORDS.items():
            if any(word in words for word in known):
                return split
    return ""


def _files_of(name: str, config: str | None, split: str, repository: str, listing: _Listing) -> list[str]:
    """The files of a split of a configuration.

    Raises:
        DataError: There is no such one; names those that there are.
    """
    if split in listing.files:
        if PurePosixPath(split).suffix.lower() not in SUFFIXES:
            raise DataError(f"{name}: expected a file of {', '.join(SUFFIXES)}, got {split!r}")
        return [split]
    splits = _splits(name, config, repository, listing)
    words = next((known for known in WORDS.values() if split in known), (split,))
    found = next((splits[word] for word in (split, *words) if word in splits), None)
    if found is None:
        if not splits:
            others = Counter(PurePosixPath(file).suffix or "no suffix" for file in listing.files)
            got = ", ".join(suffix for suffix, _ in others.most_common(SHOWN)) or "no files"
            raise DataError(f"{name}: expected files of {', '.join(SUFFIXES)}, the repository has {got}")
        raise DataError(
            f"{name}: no split {split!r}{did_you_mean(split, splits)}; it has {_some(splits)}, or give a file's path after "
            "the colon"
        )
    if not found:
        raise DataError(
            f"{name}: no file of {', '.join(SUFFIXES)} matches what README.md names for {split!r}; give a file's path after the colon"
        )
    suffixes = sorted({PurePosixPath(file).suffix.lower() for file in found})
    if len(suffixes) > 1:
        raise DataError(
            f"{name}: {split!r} has files of {' and '.join(suffixes)}, which may hold the same rows; name one after the "
            f"colon: {_some(found)}"
        )
    folders = sorted({str(PurePosixPath(file).parent) for file in found if SHARD.fullmatch(file)})
    if len(folders) > 1 and config is None:
        raise DataError(
            f"{name}: {split!r} has shards in several folders: {_some(folders)}; name one: "
            f"hub:{repository}/{PurePosixPath(folders[0]).name}"
        )
    shards = [int(shard["shards"]) for file in found if (shard := SHARD.fullmatch(file))]
    if len(folders) == 1 and len(shards) == len(found) != shards[0]:
        raise DataError(f"{name}: expected {shards[0]} shards of {split!r}, got {len(found)}: {_some(found)}")
    return found


def _splits(name: str, config: str | None, repository: str, listing: _Listing) -> dict[str, list[str]]:
    """Split -> files of a configuration, as README.md says, else by the names of files."""
    configs = _configs(repository, listing)
    if configs:
        chosen = _configuration(name, config, configs)
        folder = str(chosen.get("data_dir") or "").strip("./")
        inside = [file for file in listing.files if not folder or file.startswith(f"{folder}/")]
        patterns = _patterns(chosen.get("data_files"))
        if not patterns:
            return splits_of(inside)
        n_patterns = sum(map(len, patterns.values()))
        if n_patterns > MAX_PATTERNS:
            raise DataError(
                f"{name}: README.md has {n_patterns:,} patterns of files, at most {MAX_PATTERNS:,} are read; give a file's "
                "path after the colon"
            )
        readable = sorted(file for file in inside if PurePosixPath(file).suffix.lower() in SUFFIXES)
        return {split: _matching(readable, some, folder, name) for split, some in patterns.items()}
    if config is None:
        return splits_of(listing.files)
    inside = [file for file in listing.files if config in PurePosixPath(file).parts[:-1]]
    if not inside:
        folders = sorted({folder for file in listing.files for folder in PurePosixPath(file).parts[:-1]})
        raise DataError(
            f"{name}: no configuration {config!r}: README.md names none, and the folders are {_some(folders)}"
        )
    return splits_of(inside)


def _configs(repository: str, listing: _Listing) -> dict[str, Mapping[str, Any]]:
    """Configuration -> what the front matter of README.md says of it; empty where it says nothing that can be read."""
    if "README.md" not in listing.files:
        return {}
    text = _download(repository, "README.md", listing.commit).read_text(encoding="utf-8", errors="replace")
    said = front_matter(text)
    configs = said.get("configs")
    return {
        str(one.get("config_name", "default")): one
        for one in (configs if isinstance(configs, list) else [])
        if isinstance(one, dict)
    }


def _configuration(name: str, config: str | None, configs: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The configuration meant; without a name the only one, or the one that README.md calls the default."""
    if config is not None and config in configs:
        return configs[config]
    if config is not None:
        raise DataError(f"{name}: no configuration {config!r}{did_you_mean(config, configs)}; it has {_some(configs)}")
    default = [one for key, one in configs.items() if key == "default" or one.get("default") is True]
    if len(configs) > 1 and not default:
        first = next(iter(configs))
        raise DataError(f"{name}: has several configurations: {_some(configs)}; name one: hub:OWNER/NAME/{first}")
    return default[0] if default else next(iter(configs.values()))


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Split -> globs, from the forms in which README.md may write them."""
    if isinstance(data_files, str):
        return {"train": [data_files]}
    if isinstance(data_files, Mapping):
        data_files = [{"split": split, "path": path} for split, path in data_files.items()]
    found: dict[str, list[str]] = {}
    for one in data_files if isinstance(data_files, list) else []:
        entry = one if isinstance(one, Mapping) else {"split": "train", "path": one}
        paths = entry.get("path")
        found.setdefault(str(entry.get("split", "train")), []).extend(
            [str(path) for path in (paths if isinstance(paths, list) else [paths]) if path]
        )
    return found


def _matching(files: Sequence[str], patterns: Sequence[str], folder: str, name: str) -> list[str]:
    """The files that any of some patterns means, by their whole path or by that in a folder.

    Raises:
        DataError: A pattern is not one that is followed.
    """
    try:
        globs = [Glob(pattern.removeprefix("./")) for pattern in patterns]
    except ValueError as error:
        raise DataError(f"{name}: README.md has a pattern of {error}; give a file's path after the colon") from None
    paths = {file: dict.fromkeys((file, file.removeprefix(f"{folder}/"))) for file in files}
    return [file for file in files if any(glob.fits(path) for glob in globs for path in paths[file])]


def _some(names: Any) -> str:
    listed = [repr(name) for name in names]
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


# From the Hub ------------------------------------------------------------------------------------------------------


def _listing(repository: str, revision: str | None) -> _Listing:
    """The repository's files; where the Hub is out of reach, as it listed them last, else as far as they are cached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    kept = _kept_listing(repository, revision)
    try:
        with _refusals(repository, revision):
            info = HfApi().dataset_info(repository, revision=revision)
    except _Unreachable as error:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(kept.read_text(encoding="utf-8"))
            return _Listing(str(found["commit"]), tuple(map(str, found["files"])))
        try:
            folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise DataError(str(error)) from error
        cached = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file())
        return _Listing(folder.name, tuple(cached))
    listing = _Listing(str(info.sha), tuple(one.rfilename for one in info.siblings or ()))
    with suppress(OSError):  # it serves later runs without a connection only
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"commit": listing.commit, "files": list(listing.files)})
    return listing


def _kept_listing(repository: str, revision: str | None) -> Path:
    name = re.sub(r"[^\w.-]+", "--", f"{repository}@{revision}" if revision else repository)
    return cache_folder() / "datasets" / f"{name}.json"


def _download(repository: str, file: str, commit: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with progress_bars(True), _refusals(repository, commit):
            return Path(hf_hub_download(repository, file, repo_type="dataset", revision=commit))
    except _Unreachable as error:
        raise DataError(f"{error}; missing: {file}") from error


class _Unreachable(DataError):
    """The Hub cannot be asked."""


@contextmanager
def _refusals(repository: str, revision: str | None) -> Iterator[None]:
    """What the Hub's client raises, as one sentence each.

    Raises:
        DataError: It refused.
        _Unreachable: It was not asked at all.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

    name = f"hub:{repository}"
    try:
        yield
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _Unreachable(_unreachable(repository)) from error
    except Exception as error:
        missing = isinstance(error, EntryNotFoundError)
        sentence = f"{name}: a file that the repository lists is missing: {first_line(error)}" if missing else None
        if sentence := sentence or refusal(error, name, "dataset", revision):
            raise DataError(sentence) from error
        if is_of_http_library(error):
            raise _Unreachable(f"{_unreachable(repository)} ({first_line(error)})") from error
        if isinstance(error, OSError):
            raise DataError(f"{name}: the download failed: {first_line(error)}; run it again to resume") from error
        raise


def _unreachable(repository: str) -> str:
    return (
        f"hub:{repository}: not, or only partly, in the cache, and {why_unreachable()}; on a machine that reaches it run "
        f"`hf download --repo-type dataset {repository} --local-dir {repository.rpartition('/')[2]}`, copy the folder here "
        "and name its files in the recipe"
    )
