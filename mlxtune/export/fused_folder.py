"""Fused weights as a model folder: `hf`, which transformers loads, and `mlx`, which mlx-lm and LM Studio load."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mlxtune.backends.base import Backend, ConvertSpec
from mlxtune.errors import ModelError
from mlxtune.export.chat_template import exported_chat_template
from mlxtune.export.exported import Exported, check_folder_free, new_folder, size_on_disk
from mlxtune.export.fuse import Fused, fuse_into
from mlxtune.export.source import ExportSource
from mlxtune.files import temporary_folder, write_json, write_text
from mlxtune.models.source import read_config, weight_files
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe.sections import Recipe

CONFIG = "config.json"
CLASSES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")


def export_hf(
    source: ExportSource, backend: Backend, out: Path, *, dtype: str | None = None, force: bool = False
) -> Exported:
    """Write base plus adapter as a plain Hugging Face folder.

    Args:
        source: The run, with an adapter.
        backend: Computes.
        out: Folder to write.
        dtype: Type of the weights; None keeps the base's.
        force: Replace a model folder that lies there.

    Raises:
        ExportError: `out` is taken or cannot be written.
        ModelError: The fused model says something else than base plus adapter.
    """
    check_folder_free(out, CONFIG, force=force)
    with new_folder(out, CONFIG, force=force) as new:
        fused = fuse_into(new, source, backend, out, dtype=dtype)
        for file in weight_files(new):
            _say_format(file, "pt")
        finish_folder(new, source.recipe)
    return Exported("hf", out, size_on_disk(out), _transformers(out), (fused.proof.as_text(), *_notes(fused, source)))


def export_mlx(
    source: ExportSource,
    backend: Backend,
    out: Path,
    *,
    bits: int | None = None,
    group_size: int = 64,
    dtype: str | None = None,
    force: bool = False,
) -> Exported:
    """Write base plus adapter as an MLX model folder.

    Args:
        source: The run, with an adapter.
        backend: Computes.
        out: Folder to write.
        bits: 4 or 8 quantize the fused weights; None leaves them plain.
        group_size: Weights that share a scale.
        dtype: Type of the weights that are not quantized; None keeps the base's.
        force: Replace a model folder that lies there.

    Raises:
        ExportError: `out` is taken or cannot be written.
        ModelError: The fused model says something else than base plus adapter, or cannot be quantized in this way.
    """
    check_folder_free(out, CONFIG, force=force)
    notes: tuple[str, ...] = ()
    with new_folder(out, CONFIG, force=force) as new:
        if bits is None:
            fused = fuse_into(new, source, backend, out, dtype=dtype)
        else:
            with temporary_folder(new.parent, out.name) as plain:
                fused = fuse_into(plain, source, backend, out, dtype=dtype)
                backend.convert(plain, new, ConvertSpec(bits, group_size))
            notes = (
                f"quantized to {bits} bits after that; what it costs says: mlxtune verify {source.run} --artifacts q{bits}",
            )
        finish_folder(new, source.recipe)
    load = f'mlx_lm.generate --model {shlex.quote(str(out))} --prompt "..."'
    return Exported("mlx", out, size_on_disk(out), load, (fused.proof.as_text(), *notes, *_notes(fused, source)))


def finish_folder(folder: Path, recipe: Recipe) -> None:
    """Make a fused folder answer as the recipe evaluated it: greedy, with its stop tokens and its default for thinking.

    Args:
        folder: A model folder; its config.json, generation_config.json and chat template are rewritten.
        recipe: The run's.
    """
    tokenizer = load_tokenizer(folder)
    config = read_config(folder)
    if not config.get("architectures") and config["model_type"] in CLASSES:
        config["architectures"] = [CLASSES[config["model_type"]]]
    write_json(folder / CONFIG, config)
    generation = _read(folder / "generation_config.json")
    for name in SAMPLING:
        generation.pop(name, None)
    pad = generation.get("pad_token_id", tokenizer.hf.pad_token_id)
    stops = list(tokenizer.stop_tokens)
    generation |= {"do_sample": False, "eos_token_id": stops, "max_new_tokens": recipe.evaluate.max_new_tokens}
    generation["pad_token_id"] = stops[-1] if pad is None else pad
    write_json(folder / "generation_config.json", generation)
    _set_template(folder, recipe)


def _set_template(folder: Path, recipe: Recipe) -> None:
    """The recipe's default for thinking, in the file that has the chat template."""
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        write_text(alone, exported_chat_template(alone.read_text(encoding="utf-8"), recipe))
    file = folder / "tokenizer_config.json"
    settings = _read(file)
    if isinstance(template := settings.get("chat_template"), str):
        write_json(file, {**settings, "chat_template": exported_chat_template(template, recipe)})


def _read(file: Path) -> dict[str, Any]:
    """A JSON file of a model folder; empty where there is none."""
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{file}: cannot be read: {error}; get the base model from where it came from again"
        ) from error


def _say_format(file: Path, name: str) -> None:
    """Change "format" in a safetensors file's header, in place; whatever else the file holds keeps its bytes.

    Spaces after the header's JSON are part of the format, so a shorter header takes the same room.
    """
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = {**header.get("__metadata__", {}), "format": name}
        text = json.dumps(header, separators=(",", ":")).encode()
        if len(text) > length:
            raise ModelError(f"{file}: its header has no room for the format's name")
        stream.seek(8)
        stream.write(text.ljust(length))


def _transformers(out: Path) -> str:
    return f"AutoModelForCausalLM.from_pretrained({str(out)!r})  # from transformers; the tokenizer by AutoTokenizer likewise"


def _notes(fused: Fused, source: ExportSource) -> tuple[str, ...]:
    """What a user of the folder should know."""
    system = source.recipe.prompt.system
    asked = () if system is None else ("give it the recipe's system prompt: it was trained with it",)
    return (*fused.written.notes, *asked)
