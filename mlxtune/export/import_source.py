"""What a file or folder of another tool is, told by what it holds: an adapter, a training config, or rows. Reads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mlxtune.backends import adapter as mlx_lm_adapter
from mlxtune.errors import AdapterError, DataError, RecipeError
from mlxtune.export import peft_adapter
from mlxtune.recipe.yaml_text import Loader, YamlError, read_yaml
from mlxtune.runs.layout import RUN_FILE

AdapterFormat = Literal["mlx-lm", "peft", "gguf-lora"]
RecipeFormat = Literal["config", "rows"]
SPLITS = ("train", "valid", "test")  # mlx-lm's, as files: train.jsonl

# mlx-lm's defaults (mlx_lm/lora.py of 0.32), which count where a config is silent; and keys that it reads without one.
DEFAULTS: dict[str, Any] = {
    "model": "Qwen/Qwen3-0.6B", "train": False, "fine_tune_type": "lora", "optimizer": "adam", "optimizer_config": {},
    "data": "mlx-community/WikiSQL", "seed": 0, "num_layers": 16, "batch_size": 4, "iters": 1000, "val_batches": 25,
    "learning_rate": 1e-5, "steps_per_report": 10, "steps_per_eval": 200, "resume_adapter_file": None, "adapter_path": "adapters",
    "save_every": 100, "test": False, "test_batches": 500, "max_seq_length": 2048, "config": None, "grad_checkpoint": False,
    "grad_accumulation_steps": 1, "clear_cache_threshold": 0, "lr_schedule": None, "lora_parameters": {}, "mask_prompt": False,
    "report_to": None, "project_name": None, "trust_remote_code": False, "hf_dataset": None, "prompt_feature": "prompt",
    "completion_feature": "completion", "chat_feature": "messages", "text_feature": "text",
}  # fmt: skip
LORA_DEFAULTS: dict[str, Any] = {"rank": 8, "dropout": 0.0, "scale": 20.0, "keys": None}


@dataclass(frozen=True)
class AdapterSource:
    """An adapter: its format, the folder or file that it is read from, and its file of weights."""

    format: AdapterFormat
    path: Path
    weights: Path


@dataclass(frozen=True)
class RecipeSource:
    """What a recipe can be made of: a training config of mlx-lm, with what it says, or a folder of rows."""

    format: RecipeFormat
    path: Path
    config: dict[str, Any]


def find_source(path: Path) -> AdapterSource | RecipeSource:
    """What lies at a path.

    Raises:
        MlxtuneError: Nothing, or something that cannot be imported; says what can be.
    """
    if not path.exists():
        raise AdapterError(f"{path}: no such file or folder; {_KNOWN}")
    return _in_folder(path) if path.is_dir() else _in_file(path)


_KNOWN = (
    "expected an adapter folder of mlx-lm or PEFT, a LoRA in a .gguf file, mlx-lm's training config (.yaml), or a folder with "
    "train.jsonl"
)


def _in_folder(folder: Path) -> AdapterSource | RecipeSource:
    if (folder / mlx_lm_adapter.CONFIG_FILE).is_file():
        return _adapter(folder)
    if (folder / peft_adapter.PICKLE_FILE).is_file() or (folder / peft_adapter.WEIGHTS_FILE).is_file():
        raise AdapterError(f"{folder}: has no {peft_adapter.CONFIG_FILE}, which says rank and alpha; copy it, too")
    if (folder / mlx_lm_adapter.WEIGHTS_FILE).is_file():
        raise AdapterError(f"{folder}: has no {mlx_lm_adapter.CONFIG_FILE}, which says rank and scale; copy it, too")
    if any((folder / f"{split}.jsonl").is_file() for split in SPLITS):
        return RecipeSource("rows", folder, {})
    if (folder / RUN_FILE).is_file():
        raise AdapterError(f"{folder}: is a run of mlxtune already")
    raise AdapterError(f"{folder}: holds nothing that can be imported; {_KNOWN}")


def _in_file(file: Path) -> AdapterSource | RecipeSource:
    with file.open("rb") as stream:
        is_gguf = stream.read(4) == b"GGUF"
    if is_gguf:
        return AdapterSource("gguf-lora", file, file)
    if file.name in (peft_adapter.WEIGHTS_FILE, peft_adapter.PICKLE_FILE, mlx_lm_adapter.WEIGHTS_FILE):
        return _adapter(file.parent)
    if file.suffix == ".jsonl":
        raise DataError(f"{file}: is one file of rows; name its folder, {file.parent}, whose files are {_FILES}")
    return RecipeSource("config", file, _training_config(file))


_FILES = ", ".join(f"{split}.jsonl" for split in SPLITS)


def _adapter(folder: Path) -> AdapterSource:
    file = folder / mlx_lm_adapter.CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file}: cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{file}: expected keys with values, got a {type(config).__name__}")
    if "peft_type" in config:
        return AdapterSource("peft", folder, folder / peft_adapter.WEIGHTS_FILE)
    if "lora_parameters" in config or "fine_tune_type" in config:
        return AdapterSource("mlx-lm", folder, folder / mlx_lm_adapter.WEIGHTS_FILE)
    raise AdapterError(f"{file}: neither mlx-lm's (lora_parameters) nor PEFT's (peft_type) adapter configuration")


class _Loader(yaml.SafeLoader):
    """As mlx-lm reads its config: YAML 1.1, where `1e-5` is a number all the same."""


_Loader.yaml_implicit_resolvers = {
    first: list(rules) for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _first, _rules in Loader.yaml_implicit_resolvers.items():
    _floats = [rule for rule in _rules if rule[0].endswith(":float")]
    _Loader.yaml_implicit_resolvers.setdefault(_first, []).extend(_floats)


def _training_config(file: Path) -> dict[str, Any]:
    """What mlx-lm's config says, without keys that are null, which mlx-lm takes for silence."""
    try:
        content = read_yaml(file.read_text(encoding="utf-8"), _Loader)
    except (YamlError, UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{file}: cannot be read as YAML: {error}; {_KNOWN}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{file}: expected keys with values; {_KNOWN}")
    if "output" in content or "extends" in content:
        raise RecipeError(f"{file}: is a recipe of mlxtune already; train it with `mlxtune lora {file}`")
    if not DEFAULTS.keys() & content.keys():
        raise RecipeError(f"{file}: has no key of mlx-lm's training config, such as model, data, iters; {_KNOWN}")
    return {str(key): value for key, value in content.items() if value is not None}
