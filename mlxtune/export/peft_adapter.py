"""PEFT's adapter folder: adapter_config.json and adapter_model.safetensors, written and read. No torch, no peft.

    exported = export_peft(source, Path("peft"))     # PeftModel.from_pretrained(base, "peft") has the run's logits
    read = read_peft(Path("peft"))                   # the same adapter, bit for bit

PEFT's A is (r, in) and its B (out, r), as in memory here, and so are DoRA's magnitudes. Its config says alpha and rank where we have a scale, each of
which may differ by layer; ours is one rank and one scale for all. Read from PEFT 0.20's and 0.21's source.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.adapter import Adapter
from mlxtune.backends.architecture import GROUPS, USUAL_ORDER, in_usual_order
from mlxtune.backends.base import FACTORS, MAGNITUDE, LoraSpec
from mlxtune.backends.experts import is_expert
from mlxtune.errors import AdapterError, ExportError
from mlxtune.export.exported import Exported, new_folder, size_on_disk
from mlxtune.export.lora_alpha import Alpha, alpha_of
from mlxtune.export.peft_experts import is_of_experts, layers_of, parameter_of, parameter_updates
from mlxtune.export.source import ExportSource
from mlxtune.files import read_safetensors, write_json, write_safetensors
from mlxtune.models.text_part import IN_TRANSFORMERS, nested_name, text_name
from mlxtune.recipe.sections import is_local_model

FORMAT = "peft"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"

MAX_PATTERN = 10_000  # characters of a regular expression
MATCH_TIMEOUT_S = 1.0  # for one layer's name
PREFIX = "base_model.model."
# Tensors' names after "base_model.model." and the layer's name -> parts of an adapted layer.
PARTS = {"lora_A.weight": "lora_A", "lora_B.weight": "lora_B", "lora_magnitude_vector": MAGNITUDE}
# base_model.model.LAYER.lora_A.weight, as files have it, or with the adapter's name, as a model's state has it.
TENSOR = re.compile(
    r"(?:base_model\.model\.)?(?P<layer>.+)\."
    r"(?:(?P<factor>lora_[AB])(?:\.(?!weight$)[^.]+)?\.weight|lora_magnitude_vector(?:\.(?!weight$)[^.]+)?(?:\.weight)?)"
)

# What an adapter with one of these set computes is not base + scale x B A of its linear layers alone.
REFUSED_KEYS = {
    "modules_to_save": "whole modules that were trained beside the LoRA update",
    "lora_bias": "a bias beside B",
    "trainable_token_indices": "embeddings of tokens that were trained",
    "layer_replication": "blocks that stand in the model several times",
    "alora_invocation_tokens": "activated LoRA, which works after certain tokens only",
    "use_qalora": "QALoRA, which pools its inputs",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow, which routes between adapters",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
# Key -> what it may hold, and how that is called; None and a missing key are PEFT's defaults.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "target_modules": ((str, list), "a regular expression or a list of names"),
    "target_parameters": ((list,), "a list of names"),
    "exclude_modules": ((str, list), "a regular expression or a list of names"),
    "layers_to_transform": ((int, list), "a number of a block or a list of them"),
    "layers_pattern": ((str, list), "a regular expression or a list of them"),
    "lora_dropout": ((int, float), "a number"),
    "rank_pattern": ((dict,), "layers with numbers"),
    "alpha_pattern": ((dict,), "layers with numbers"),
}
# These begin with A and B alone. Others (pissa, olora, corda, loftq, lora_ga) change the base model's weights, too.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
REFUSED_TENSORS = {
    "lora_embedding": "a LoRA update of the embedding",
    "modules_to_save": "modules that were trained whole",
    "embed_tokens": "embeddings, resized or trained",
    "lm_head": "the head, resized or trained",
    "lora_B.bias": "a bias beside B",
    ".bias": "biases that were trained",
}


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter in another tool's form, read.

    Attributes:
        adapter: It, with one rank and one scale for all layers.
        notes: What its user should know, where it is not the same to the last bit.
    """

    adapter: Adapter
    notes: tuple[str, ...] = ()


# Out ---------------------------------------------------------------------------------------------------------------


def export_peft(source: ExportSource, out: Path, *, force: bool = False) -> Exported:
    """Write a run's adapter as PEFT's `PeftModel.from_pretrained` reads it, onto the base model as Hugging Face has it.

    Args:
        source: The run.
        out: The folder to write.
        force: Replace an adapter folder that lies there.

    Raises:
        ExportError: `source` has no adapter, or `out` is taken or cannot be written.
    """
    adapter, recipe = source.trained, source.recipe
    n_blocks = int(source.config["num_hidden_layers"])
    has_experts = source.architecture.experts_per_token > 0
    if source.is_nested and has_experts and any(map(_is_in_mlp, adapter.spec.layers)):
        raise ExportError(
            f"{source.run}: adapts the MLPs of a multimodal model with experts, which transformers keeps in another way than its text "
            "models; write --to hf, the text model with the adapter folded in"
        )
    if adapter.spec.has_magnitudes and has_experts and any(map(_is_in_mlp, adapter.spec.layers)):
        raise ExportError(
            f"{source.run}: adapts MLPs of a model with experts by DoRA, for which PEFT has LoRA alone; write --to hf, the model with the "
            "adapter folded in"
        )
    config = peft_config(adapter, n_blocks, Alpha(recipe.lora.alpha, recipe.lora.rslora), has_experts)
    if source.is_nested:
        config = _nested(config, adapter.spec.layers)
    base, notes = _base(source)
    if config["lora_dropout"] != adapter.spec.dropout:
        notes.append("lora_dropout is 0: PEFT has none for experts; only training further in PEFT would use it")
    if config.get("rank_pattern"):
        notes.append(
            "PEFT will warn that keys of rank_pattern and alpha_pattern matched no module and were ignored: they are of parameters of "
            "experts, which the warning does not look at; PEFT applies them"
        )
    alpha = Alpha(config["lora_alpha"], config["use_rslora"])
    if alpha.scale(adapter.spec.rank) != adapter.spec.scale:
        notes.append(
            f"no alpha gives the scale {adapter.spec.scale!r} at rank {adapter.spec.rank} exactly; that of lora_alpha is "
            f"{alpha.scale(adapter.spec.rank)!r}"
        )
    factors = {name: value for name, value in adapter.weights.items() if not is_expert(name)}
    for update in parameter_updates(adapter.weights):
        factors |= {f"{update.module}.lora_A": update.a, f"{update.module}.lora_B": update.b}
    tensors = {
        _tensor(_own_name(name, source.is_nested)): np.ascontiguousarray(value, np.float32)
        for name, value in factors.items()
    }
    with new_folder(out, CONFIG_FILE, force=force) as folder:
        write_json(folder / CONFIG_FILE, {**config, "base_model_name_or_path": base, "revision": recipe.model.revision})
        write_safetensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})
    revision = f", revision={recipe.model.revision!r}" if recipe.model.revision else ""
    network = network_of(source.is_nested)
    load = (
        f"from peft import PeftModel; from transformers import {network}; model = PeftModel.from_pretrained("
        f"{network}.from_pretrained({base or 'BASE'!r}{revision}), {str(out)!r})"
    )
    return Exported(FORMAT, out, size_on_disk(out), load, tuple(notes))


def network_of(is_nested: bool) -> str:
    """transformers' class that loads a base model for PEFT: whole, where it is multimodal, as the adapter names its layers."""
    return "AutoModelForImageTextToText" if is_nested else "AutoModelForCausalLM"


def peft_config(
    adapter: Adapter, n_blocks: int, first: Alpha | None = None, has_experts: bool = False
) -> dict[str, Any]:
    """adapter_config.json of an adapter, without its base model.

    Args:
        adapter: The adapter.
        n_blocks: Transformer blocks of the base model.
        first: Alpha to write if it gives the adapter's scale.
        has_experts: Whether blocks of the base model have experts.
    """
    spec = adapter.spec
    alpha = alpha_of(spec.scale, spec.rank, first)
    by_module = [layer for layer in spec.layers if not (has_experts and _is_in_mlp(layer))]
    parameters = _parameters(adapter, alpha) if has_experts else {}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": spec.rank,
        "lora_alpha": _written(alpha.value),
        "use_rslora": alpha.rslora,
        "use_dora": spec.has_magnitudes,
        "lora_dropout": 0.0 if parameters else spec.dropout,
        "bias": "none",
        "inference_mode": True,
        **(_targets(by_module, n_blocks) if by_module else {"target_modules": []}),
        **parameters,
    }


def _tensor(name: str) -> str:
    """PEFT's name of a value of an adapter."""
    layer, _, part = name.rpartition(".")
    return f"{PREFIX}{layer}.{next(own for own, ours in PARTS.items() if ours == part)}"


def _parameters(adapter: Adapter, alpha: Alpha) -> dict[str, Any]:
    """Keys that let PEFT adapt the MLPs of a model with experts; none where none is adapted.

    Those beside the experts are named as parameters as well: PEFT takes every module called gate_proj, up_proj or down_proj for
    the experts' in such a family, and would leave the others out.

    gate_up_proj has gate's and up's rank together, down_proj its own: one of the two differs from `r` and needs a pattern, of which PEFT
    warns wrongly. One rank for both would need none, by a down_proj twice as large, half of it zeros.
    """
    updates = parameter_updates(adapter.weights)
    beside = [layer for layer in adapter.spec.layers if _is_in_mlp(layer) and not is_expert(layer)]
    if not updates and not beside:
        return {}
    ranks = {update.parameter: update.rank for update in updates if update.rank != adapter.spec.rank}
    alphas = {name: _written(alpha.value * _growth(rank / adapter.spec.rank, alpha)) for name, rank in ranks.items()}
    return {
        "target_parameters": [*(f"{layer}.weight" for layer in beside), *(update.parameter for update in updates)],
        "rank_pattern": _patterns(ranks),
        "alpha_pattern": _patterns(alphas),
    }


def _growth(ratio: float, alpha: Alpha) -> float:
    """By what alpha grows with the rank where the scale stays."""
    return math.sqrt(ratio) if alpha.rslora else ratio


def _patterns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Regular expressions of parameters with values, names alone."""
    return {re.escape(name): value for name, value in values.items()}


def _is_in_mlp(layer: str) -> bool:
    return layer.split(".")[3] in GROUPS["mlp"]


def _written(alpha: float) -> float:
    return int(alpha) if float(alpha).is_integer() else alpha


def _own_name(name: str, is_nested: bool) -> str:
    """What the base model itself calls a layer or weight."""
    return nested_name(name, IN_TRANSFORMERS) if is_nested else name


def _nested(config: Mapping[str, Any], layers: Sequence[str]) -> dict[str, Any]:
    """The configuration for a multimodal base model: layers by their full names, as its vision part has some of the same last names."""
    names = [_own_name(layer, True) for layer in sorted(layers, key=_in_model_order)]
    kept = {key: value for key, value in config.items() if key not in ("layers_to_transform", "layers_pattern")}
    return {**kept, "target_modules": names}


def _targets(layers: Sequence[str], n_blocks: int) -> dict[str, Any]:
    """target_modules, and where needed layers_to_transform, that name these layers and no others.

    Where some blocks have the same layers each and others none, they are named by their numbers, as PEFT's users would; where
    blocks differ, every layer has its full name.
    """
    by_block: dict[int, list[str]] = {}
    for layer in layers:
        by_block.setdefault(int(layer.split(".")[2]), []).append(layer.rpartition(".")[2])
    kinds = {frozenset(parts) for parts in by_block.values()}
    if len(kinds) > 1:
        return {"target_modules": sorted(layers, key=_in_model_order)}
    targets = {"target_modules": in_usual_order(next(iter(kinds)))}
    if len(by_block) == n_blocks:
        return targets
    return {**targets, "layers_to_transform": sorted(by_block), "layers_pattern": "layers"}


def _base(source: ExportSource) -> tuple[str | None, list[str]]:
    """What PEFT should load as the base model, and what to know about it."""
    section, notes = source.recipe.model, []
    path: str | None = section.path
    if section.path.startswith("package:") or section.path.endswith(".gguf"):
        path = None
        notes.append(
            f"the base model is {section.path}, which PEFT does not load: give the Hugging Face model that it was made of "
            "yourself; base_model_name_or_path is left empty"
        )
    elif "quantization" in source.config and section.quantize is None:
        notes.append(
            f"the base model {section.path} is quantized by MLX, which PEFT does not load: give the Hugging Face model that "
            "it was made of; the logits then differ by what quantizing changed"
        )
    elif is_local_model(section.path):
        notes.append(f"base_model_name_or_path is a folder of this machine: {section.path}")
    if section.quantize is not None:
        notes.append(
            f"it was trained on the base model in {section.quantize.bits} bits; on the full weights the logits differ by "
            "what quantizing changed"
        )
    return path, notes


# In ----------------------------------------------------------------------------------------------------------------


def read_peft(folder: Path) -> ReadAdapter:
    """Read an adapter folder of PEFT.

    Layers of lower rank are padded with zeros to the highest one, which changes nothing. Where scales differ by layer, the
    most frequent one is taken, and the others' ratio to it is multiplied into their B: exactly where it is a power of two,
    else rounded once to float32, which a note says.

    Raises:
        AdapterError: A file is missing, corrupt or a pickle; the adapter is of another kind than LoRA or DoRA of linear layers,
            or has parts besides; or config and weights disagree.
    """
    config = _read_config(folder)
    kind: Literal["lora", "dora"] = "dora" if config.get("use_dora") else "lora"
    parts = _parts(folder, LoraSpec(0, 0.0, 0.0, (), kind).parts)
    modules = tuple(parts)
    for layer in sorted(parts, key=_in_model_order):
        if not (is_of_experts(layer) or _is_targeted(layer, config, folder)):
            raise AdapterError(
                f"{folder}: {WEIGHTS_FILE} has an update of {layer}, which target_modules and layers_to_transform of "
                f"{CONFIG_FILE} do not name, so PEFT would leave it out; correct {CONFIG_FILE}"
            )
    scales = {}
    for module, values in list(parts.items()):
        if not is_of_experts(module):
            scales[module] = _scale(module, values["lora_A"].shape[0], config, folder)
            continue
        if kind == "dora":
            raise AdapterError(
                f"{folder}: has DoRA of {module}, experts, for which no adapter has magnitudes here; {_MERGE}"
            )
        if text_name(module) != module:
            raise AdapterError(
                f"{folder}: has an update of {module}, experts of a multimodal model, which transformers keeps in another way than its "
                f"text models; {_MERGE}"
            )
        parameter = parameter_of(module, modules, config.get("target_parameters") or [])
        own_rank = _by_pattern(config.get("rank_pattern") or {}, parameter, config["r"], folder)
        own = layers_of(parameter, values["lora_A"], values["lora_B"], own_rank)
        scales |= dict.fromkeys(own, _scale(parameter, own_rank, config, folder))
        del parts[module]
        parts |= {layer: dict(zip(FACTORS, pair, strict=True)) for layer, pair in own.items()}
    layers = sorted(parts, key=_in_model_order)
    plain = {layer: _text_layer(layer, folder) for layer in layers}
    rank = max(own["lora_A"].shape[0] for own in parts.values())
    scale = Counter(scales.values()).most_common(1)[0][0]
    weights: dict[str, NDArray[np.float32]] = {}
    rounded = []
    for layer in layers:
        a, b = (parts[layer][factor] for factor in FACTORS)
        ratio = scales[layer] / scale
        folded = b if ratio == 1.0 else (b.astype(np.float64) * ratio).astype(np.float32)
        if ratio != 1.0 and not np.array_equal(folded.astype(np.float64) / ratio, b.astype(np.float64)):
            rounded.append(layer)
        missing = rank - a.shape[0]
        weights[f"{plain[layer]}.lora_A"] = np.ascontiguousarray(np.pad(a, ((0, missing), (0, 0))))
        weights[f"{plain[layer]}.lora_B"] = np.ascontiguousarray(np.pad(folded, ((0, 0), (0, missing))))
        if kind == "dora":
            weights[f"{plain[layer]}.{MAGNITUDE}"] = parts[layer][MAGNITUDE]
    notes = (
        f"{len(rounded)} of {len(layers)} layers have another scale than {scale:g}, which is multiplied into their B and "
        "rounded to float32 (relative error 6e-8 at most)",
    )
    spec = LoraSpec(rank, scale, float(config.get("lora_dropout") or 0.0), tuple(plain.values()), kind)
    base = config.get("base_model_name_or_path")
    return ReadAdapter(
        Adapter(spec, weights, base if isinstance(base, str) and base else None), notes if rounded else ()
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, of a kind that can be read."""
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("expected keys with values")
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{file}: not PEFT's adapter configuration: {error}") from error
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{file}: expected peft_type LORA, got {config.get('peft_type')!r}; only LoRA is read")
    for key, what in REFUSED_KEYS.items():
        if config.get(key):
            raise AdapterError(f"{file}: {key} is set: {what}, which no adapter has here; {_MERGE}")
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"{file}: bias is {config['bias']!r}: biases were trained, which no adapter has here; {_MERGE}"
        )
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        raise AdapterError(
            f"{file}: init_lora_weights is {config['init_lora_weights']!r}, which changes the base model's weights, too; save "
            "it in PEFT with path_initial_model_for_weight_conversion, which makes it a plain LoRA"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not _is_alpha(alpha):
        raise AdapterError(f"{file}: expected r and lora_alpha above zero, got {rank!r} and {alpha!r}")
    for key, (kinds, what) in KINDS.items():
        value = config.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise AdapterError(f"{file}: {key}: expected {what}, got {str(value)[:60]}")
    return config


def _is_alpha(value: object) -> bool:
    """Whether a value is a finite number above zero."""
    return isinstance(value, (int, float)) and 0 < value < math.inf


_MERGE = "merge it in PEFT (merge_and_unload) and train on the result"


def _parts(folder: Path, expected: tuple[str, ...]) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Layer -> A (r, in), B (out, r), and with DoRA the magnitudes (out,); each has the expected ones."""
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        if (folder / PICKLE_FILE).is_file():
            raise AdapterError(
                f"{folder / PICKLE_FILE}: a pickle, which can run any code when it is opened; save the adapter in PEFT "
                "with safe_serialization=True"
            )
        raise AdapterError(f"{folder}: not PEFT's adapter folder: {WEIGHTS_FILE} is missing")
    try:
        tensors = read_safetensors(file)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{file}: damaged, not readable as safetensors: {error}; copy it again") from error
    parts: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, value in tensors.items():
        found = TENSOR.fullmatch(name)
        wrong = next((what for part, what in REFUSED_TENSORS.items() if part in name), None)
        if found is None or wrong:
            raise AdapterError(
                f"{file}: {name}: {wrong or 'no factor of a LoRA update'}, which no adapter has here; {_MERGE}"
            )
        part = found["factor"] or MAGNITUDE
        if value.ndim != (1 if part == MAGNITUDE else 2):
            expects = "a vector" if part == MAGNITUDE else "a matrix"
            raise AdapterError(f"{file}: {name}: expected {expects}, got {value.ndim} dimensions")
        parts.setdefault(found["layer"], {})[part] = np.ascontiguousarray(value, np.float32)
    if not parts:
        raise AdapterError(f"{file}: holds no tensors; expected factors of LoRA updates")
    for layer, own in parts.items():
        if own.keys() != set(expected) or own["lora_A"].shape[0] != own["lora_B"].shape[1]:
            shapes = ", ".join(f"{name} {' x '.join(map(str, part.shape))}" for name, part in sorted(own.items()))
            also = " and magnitude (out), as use_dora says" if MAGNITUDE in expected else ""
            raise AdapterError(
                f"{file}: {layer}: expected lora_A (rank x in) and lora_B (out x rank){also}, got {shapes}"
            )
    return parts


def _text_layer(layer: str, folder: Path) -> str:
    """What a text model calls a layer, which may be of a multimodal model."""
    plain = text_name(layer)
    if plain is None:
        raise AdapterError(
            f"{folder / WEIGHTS_FILE}: has an update of {layer}, which is not of the text part of a multimodal model; only an "
            "adapter of the text part can be used here"
        )
    return plain


def _is_targeted(layer: str, config: Mapping[str, Any], folder: Path) -> bool:
    """Whether PEFT adapts a layer under a config."""
    if _names(config.get("target_parameters") or [], f"{layer}.weight", folder):
        return True
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _names(excluded, layer, folder):
        return False
    if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
        return True
    if not _names(targets, layer, folder):
        return False
    blocks = config.get("layers_to_transform")
    if blocks is None or blocks == [] or isinstance(targets, str) or layer in targets:
        return True
    patterns = config.get("layers_pattern") or r"[^.]*"
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := _match(rf"(?:^|.*?\.)(?:{pattern})\.(?P<block>\d+)\.", layer, folder, whole=False):
            return int(found["block"]) in ([blocks] if isinstance(blocks, int) else blocks)
    return False


def _names(targets: str | Iterable[str], layer: str, folder: Path) -> bool:
    """Whether a regular expression, or a list of names or last parts of names, is about a layer."""
    if isinstance(targets, str):
        return _match(targets, layer, folder) is not None
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def _scale(layer: str, rank: int, config: Mapping[str, Any], folder: Path) -> float:
    """The factor on B A of a layer, as PEFT computes it."""
    said = _by_pattern(config.get("rank_pattern") or {}, layer, config["r"], folder)
    if said != rank:
        raise AdapterError(
            f"{folder}: {layer}: {CONFIG_FILE} says rank {said}, {WEIGHTS_FILE} has {rank}; the two files belong to "
            "different adapters"
        )
    alpha = _by_pattern(config.get("alpha_pattern") or {}, layer, config["lora_alpha"], folder)
    if not _is_alpha(alpha):
        raise AdapterError(f"{folder / CONFIG_FILE}: alpha_pattern: expected a number above zero, got {alpha!r}")
    return Alpha(alpha, bool(config.get("use_rslora"))).scale(rank)


def _by_pattern(patterns: Mapping[str, Any], layer: str, default: Any, folder: Path) -> Any:
    """The value of the first key that is the layer's name, its end, or a regular expression of either."""
    for key, value in patterns.items():
        if _match(rf"(.*\.)?({key})", layer, folder):
            return value
    return default


def _match(pattern: str, layer: str, folder: Path, *, whole: bool = True) -> Any:
    """Match a regular expression of a config, which may come from anywhere: within a time."""
    import regex

    try:
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"it has {len(pattern):,} characters")
        match = regex.fullmatch if whole else regex.match
        return match(pattern, layer, timeout=MATCH_TIMEOUT_S)
    except (regex.error, ValueError, TimeoutError) as error:
        raise AdapterError(
            f"{folder / CONFIG_FILE}: {pattern[:60]!r} is no regular expression that is read here: {error}"
        ) from error


def _in_model_order(layer: str) -> tuple[int, int, str]:
    """Block by block; the layers of a block as a model has them."""
    parts, last = layer.split("."), layer.rpartition(".")[2]
    block = next((int(part) for part in parts if part.isdigit()), -1)
    return block, USUAL_ORDER.index(last) if last in USUAL_ORDER else len(USUAL_ORDER), layer
