"""mlx-lm's training config, or a folder of its rows, becomes a recipe, with a comment on all that means something else here.

written = import_recipe(find_source(Path("lora_config.yaml")), Path("lora.yaml"))
# written.notes: what each key could not carry over; they stand in the recipe, too
"""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlxtune.backends.adapter import KINDS
from mlxtune.backends.architecture import USUAL_ORDER
from mlxtune.errors import RecipeError
from mlxtune.export.exported import check_file_free, new_file
from mlxtune.export.import_source import LORA_DEFAULTS, RecipeSource
from mlxtune.export.mlx_lm_rows import MlxLmRows, read_mlx_lm_rows
from mlxtune.export.mlx_lm_settings import MlxLmSettings
from mlxtune.models.positions import max_positions
from mlxtune.models.source import read_config
from mlxtune.recipe.load import load_recipe

TRACKERS = ("wandb", "swanlab")
FEATURES = ("prompt_feature", "completion_feature", "chat_feature", "text_feature")
WIDTH = 110  # of comments


@dataclass(frozen=True)
class ImportedRecipe:
    """A recipe that was written.

    Attributes:
        recipe: The file.
        notes: (key of mlx-lm, what it means here or why it is left out).
    """

    recipe: Path
    notes: tuple[tuple[str, str], ...]

    @property
    def note_lines(self) -> list[str]:
        """A sentence for each note."""
        return [f"{key}: {text}" for key, text in self.notes]

    def to_json(self) -> dict[str, Any]:
        """What `import --json` prints."""
        return {
            "recipe": str(self.recipe),
            "notes": [list(one) for one in self.notes],
        }


def import_recipe(source: RecipeSource, out: Path | None = None, *, force: bool = False) -> ImportedRecipe:
    """Write the recipe that a training config of mlx-lm, or a folder of its rows, stands for.

    Args:
        source: The config or the folder.
        out: The recipe; None is one in the current folder, named after the source.
        force: Replace a recipe that lies there.

    Raises:
        DataError: The rows have a form that no recipe has.
        RecipeError: The config says something that no recipe can say, or something wrong.
        ExportError: Something lies at `out`, or it cannot be written.
    """
    out = _default_out(source.path) if out is None else out
    if out.exists() and source.path.is_file() and out.samefile(source.path):
        raise RecipeError(f"{out}: is the config itself; choose another --out")
    check_file_free(out, force=force)
    settings = MlxLmSettings(source)
    rows = read_mlx_lm_rows(_data_folder(source, settings), {name: str(settings.get(name)) for name in FEATURES})
    content = _content(settings, rows, out)
    settings.note_the_rest()
    text = _comments(source, settings.notes) + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=WIDTH)
    with new_file(out, force=force) as file:
        file.write_text(text, encoding="utf-8")
        try:
            load_recipe(file)  # what cannot be loaded is not left behind
        except RecipeError as error:
            raise RecipeError(f"{source.path}: no recipe can be made of it", error.problems) from error
    return ImportedRecipe(out, tuple(settings.notes))


def _content(settings: MlxLmSettings, rows: MlxLmRows, out: Path) -> dict[str, Any]:
    """The recipe, key by key, as it is written."""
    fine_tune = settings.get("fine_tune_type")
    if fine_tune not in KINDS:
        raise RecipeError(
            f"{settings.source.path}: fine_tune_type is {fine_tune!r}, which mlx-lm trains in the last num_layers blocks alone; set it to "
            f"{' or '.join(KINDS)}, and to train all weights write lora: {{type: full}} into the recipe that is made"
        )
    data: dict[str, Any] = {split: _relative(rows.folder / f"{split}.jsonl", out) for split in rows.splits}
    data["format"] = rows.format
    if rows.columns:
        data["columns"] = dict(rows.columns)
    if rows.n_trimmed:
        settings.note("completion", f"white space at the ends of {rows.n_trimmed} completions is not trained on")
    model = _model(settings)
    content: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", out.stem).strip("-._") or "imported",
        "model": {"path": model if not Path(model).is_dir() else _relative(Path(model), out)},
        "data": data,
    }
    if not settings.get("mask_prompt") and not rows.is_documents:
        settings.note(
            "mask_prompt", "mlx-lm trains on the prompt, too, unless this is true; here only replies are trained"
        )
    if settings.is_config:
        config = read_config(Path(model)) if (Path(model) / "config.json").is_file() else {}
        content["lora"] = _lora(settings, config)
        content["train"] = _train(settings, rows, config)
        if trackers := _trackers(settings):
            content["track"] = trackers
    if not rows.is_documents:
        content["evaluate"] = {"max_new_tokens": min(1024, max(64, 64 * math.ceil(rows.longest_reply / 128)))}
    return content


def _model(settings: MlxLmSettings) -> str:
    """The base model: a folder where mlx-lm finds one from the current folder, or beside the config; else as it is named."""
    model = str(settings.get("model"))
    if "model" not in settings.said:
        settings.note("model", f"not said; mlx-lm's default, {model}, stands there: correct model.path")
    beside = settings.source.path.parent / model
    if not Path(model).exists() and beside.is_dir():
        return str(beside)
    return model


def _data_folder(source: RecipeSource, settings: MlxLmSettings) -> Path:
    """The folder of rows, as mlx-lm finds it from the current folder, or beside the config."""
    if source.format == "rows":
        return source.path
    if settings.get("hf_dataset"):
        name, key = settings.get("hf_dataset"), "hf_dataset"
    else:
        name, key = settings.get("data"), "data"
        for folder in (Path(str(name)), source.path.parent / str(name)):
            if folder.is_dir():
                return folder
    raise RecipeError(
        f"{source.path}: {key}: {json.dumps(name)} is no folder here; rows on the Hub have to be seen to know their columns: "
        "download them as train.jsonl, valid.jsonl and test.jsonl into a folder, and name that under data"
    )


def _lora(settings: MlxLmSettings, config: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter; `scale` is alpha / rank."""
    parameters = settings.get("lora_parameters")
    if not isinstance(parameters, dict):
        raise RecipeError(
            f"{settings.source.path}: lora_parameters: expected rank, scale and dropout, got {parameters!r}"
        )
    for key in parameters.keys() - LORA_DEFAULTS.keys():
        settings.note(f"lora_parameters.{key}", "not carried over: mlx-lm does not read it")
    said = {**LORA_DEFAULTS, **{key: value for key, value in parameters.items() if value is not None}}
    rank = settings.checked("lora_parameters.rank", said["rank"], int, 1)
    scale = settings.checked("lora_parameters.scale", said["scale"], float, 0)
    dropout = settings.checked("lora_parameters.dropout", said["dropout"], float, 0)
    settings.note("lora_parameters.scale", f"{scale:g} at rank {rank} is alpha {scale * rank:g}")
    kind = settings.get("fine_tune_type")
    lora = {
        "type": kind,
        "rank": rank,
        "alpha": scale * rank,
        "dropout": dropout,
        "targets": _targets(settings, said["keys"]),
    }
    n_layers, n_blocks = settings.get("num_layers"), config.get("num_hidden_layers")
    n_layers = settings.checked("num_layers", n_layers, int, -1)
    if n_blocks is not None and n_layers > n_blocks:
        settings.note("num_layers", f"{n_layers} is more than the model's {n_blocks} blocks: all are adapted")
    is_all = n_layers <= 0 or (n_blocks is not None and n_layers >= n_blocks)
    return {**lora, "layers": "all" if is_all else n_layers}


def _targets(settings: MlxLmSettings, keys: Any) -> Any:
    """lora.targets that mean mlx-lm's keys, which name modules inside a block: self_attn.q_proj."""
    if keys is None:
        return "all"
    names = [str(key).rpartition(".")[2] for key in keys] if isinstance(keys, list) else []
    known = [name for name in USUAL_ORDER if name in names]
    others = (
        [str(key) for key in keys if str(key).rpartition(".")[2] not in known] if isinstance(keys, list) else [keys]
    )
    if not known:
        raise RecipeError(
            f"{settings.source.path}: lora_parameters.keys: expected linear layers of a block, such as self_attn.q_proj, "
            f"got {', '.join(map(str, others)) or 'none'}"
        )
    if others:
        settings.note(
            "lora_parameters.keys", f"not carried over: {', '.join(others)}; only linear layers of blocks are adapted"
        )
    return known


def _train(settings: MlxLmSettings, rows: MlxLmRows, config: Mapping[str, Any]) -> dict[str, Any]:
    """Training; mlx-lm counts forward passes where a recipe counts optimizer steps."""
    passes = settings.number("grad_accumulation_steps", int, 1)
    batch_size, iters = settings.number("batch_size", int, 1), settings.number("iters", int, 1)
    max_steps = max(1, iters // passes)
    per_epoch = math.ceil(rows.splits["train"] / (batch_size * passes))
    epochs = math.ceil(max_steps / per_epoch)
    if passes > 1:
        settings.note("iters", f"{iters} forward passes, {passes} to an optimizer step: train.max_steps is {max_steps}")
    train: dict[str, Any] = {
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "gradient_accumulation": passes,
        "gradient_checkpointing": bool(settings.get("grad_checkpoint")),
        **_schedule(settings, per_epoch * epochs),
        "weight_decay": _weight_decay(settings),
        "max_grad_norm": None,  # mlx-lm does not clip
        "max_tokens": _max_tokens(settings, rows, config),
        **({"pack_documents": False} if rows.is_documents else {"over_long": "drop"}),  # a row of a batch is one
        "seed": settings.number("seed", int, 0),
    }
    for key, ours in (("steps_per_eval", "evaluate_every"), ("save_every", "save_every")):
        every = settings.number(key, int, 1)
        if ours == "save_every" or "valid" in rows.splits:
            train[ours] = max(1, every // passes)
        if passes > 1:
            settings.note(key, f"{every} forward passes: train.{ours} is {max(1, every // passes)} optimizer steps")
    return train


def _max_tokens(settings: MlxLmSettings, rows: MlxLmRows, config: Mapping[str, Any]) -> int:
    """The longest row, within the model's positions."""
    said: int = settings.number("max_seq_length", int, 8)
    here = "they are split" if rows.is_documents else "they are left out, each by name (train.over_long: drop)"
    settings.note("max_seq_length", f"mlx-lm cuts longer rows; here {here}")
    return min(said, max_positions(config) or said)


def _weight_decay(settings: MlxLmSettings) -> float:
    """Of the optimizer; what else differs from AdamW here is noted."""
    name = str(settings.get("optimizer")).lower()
    options = settings.get("optimizer_config")
    own = options.get(name) if isinstance(options, dict) else None
    own = dict(own) if isinstance(own, dict) else {}
    decay = own.pop("weight_decay", 0.01 if name == "adamw" else 0.0)
    if name in ("adam", "adamw"):
        ours = {"betas": [0.9, 0.999], "eps": 1e-8, "bias_correction": True}
        if own.get("bias_correction") is not True:
            settings.note(
                "optimizer",
                f"{name} of MLX does not correct its bias unless told; AdamW here does, so the first steps are smaller",
            )
        for key, value in own.items():
            if key in ours and value != ours[key] and key != "bias_correction":
                settings.note(f"optimizer_config.{name}.{key}", f"not carried over: it is {ours[key]} here")
            elif key not in ours:
                settings.note(f"optimizer_config.{name}.{key}", "not carried over: AdamW here has no such option")
        return float(settings.checked(f"optimizer_config.{name}.weight_decay", decay, float, 0))
    settings.note(
        "optimizer",
        f"not carried over: {name}; a recipe trains with AdamW, for which another learning rate may be right",
    )
    return 0.0


def _schedule(settings: MlxLmSettings, planned: int) -> dict[str, Any]:
    """Learning rate, its schedule and warm-up.

    Args:
        settings: The config.
        planned: Optimizer steps that the recipe's schedule is laid out for.
    """
    rate = settings.number("learning_rate", float, 0)
    said = settings.get("lr_schedule")
    if not said:
        return {"learning_rate": rate, "schedule": "constant"}
    try:
        name, arguments, warmup = str(said["name"]), list(said["arguments"]), said.get("warmup", 0)
        peak = arguments[0]
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise RecipeError(
            f"{settings.source.path}: lr_schedule: expected a name and arguments, as in mlx-lm's example, got {said!r}"
        ) from error
    rate = settings.checked("lr_schedule.arguments", peak, float, 0)
    warmup = settings.checked("lr_schedule.warmup", warmup, int, 0)
    schedule = {"cosine_decay": "cosine", "linear_schedule": "linear"}.get(name, "constant")
    if schedule == "constant":
        settings.note("lr_schedule", f"not carried over: {name}; the learning rate stays at {rate:g}")
    elif name == "linear_schedule" and len(arguments) > 1 and arguments[1] >= rate:
        schedule = "constant"
        settings.note("lr_schedule", f"not carried over: a rate that rises to {arguments[1]:g}; it stays at {rate:g}")
    else:
        shown = ", ".join(map(str, arguments))
        settings.note(
            "lr_schedule",
            f"{name}({shown}): here the rate reaches zero at the end of all epochs, {planned} optimizer steps (train.epochs)",
        )
    if said.get("warmup_init"):
        settings.note("lr_schedule.warmup_init", "not carried over: the learning rate rises from zero")
    ratio = warmup / planned
    if ratio >= 1:
        settings.note(
            "lr_schedule.warmup", f"{warmup} steps are more than the {planned} of this training: half of it warms up"
        )
        ratio = 0.5
    return {"learning_rate": rate, "schedule": schedule, "warmup_ratio": ratio}


def _trackers(settings: MlxLmSettings) -> list[str]:
    """What report_to names."""
    said = settings.get("report_to") or ""
    names = [
        str(name).strip().lower()
        for name in (said if isinstance(said, list) else str(said).split(","))
        if str(name).strip()
    ]
    for name in names:
        if name not in TRACKERS:
            settings.note("report_to", f"not carried over: {name}")
    return [name for name in TRACKERS if name in names]


# Files -------------------------------------------------------------------------------------------------------------


def _default_out(path: Path) -> Path:
    """A recipe in the current folder that is called as the source is, lora_config.yaml without its _config."""
    stem = re.sub(r"[_-]?config$", "", path.resolve().stem) or path.resolve().stem
    out = Path(f"{stem}.yaml")
    return Path(f"{stem}-recipe.yaml") if out.exists() and path.is_file() and out.samefile(path) else out


def _relative(path: Path, out: Path) -> str:
    """A path as a recipe names it: from the recipe's folder where that is near, else whole."""
    relative = os.path.relpath(os.path.abspath(path), os.path.dirname(os.path.abspath(out)))
    return os.path.abspath(path) if relative.startswith("../..") else relative


def _comments(source: RecipeSource, notes: list[tuple[str, str]]) -> str:
    """The head of the recipe."""
    lines = [f"# Made by `mlxtune import` of mlx-lm's {source.path.resolve().name}."]
    if notes:
        lines.append("# What means something else here, or is not carried over:")
    for key, text in notes:
        lines += textwrap.wrap(f"{key}: {text}", WIDTH, initial_indent="# - ", subsequent_indent="#   ")
    return "\n".join(lines) + "\n\n"
