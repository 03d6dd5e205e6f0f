"""An adapter of another tool becomes a run: checked against its base model, and written whole or not at all.

imported = import_adapter(found, recipe, backend, Path("runs/x/theirs"))
# imported.run evaluates, compares, fuses and exports as a run that was trained here
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends.adapter import Adapter, check_fits, read_adapter, write_adapter
from mlxtune.backends.architecture import WORDS, Architecture, block_of, in_usual_order, last_part
from mlxtune.backends.base import Backend
from mlxtune.backends.experts import EXPERTS
from mlxtune.data.examples import within_positions
from mlxtune.data.rows import content_hash
from mlxtune.errors import AdapterError, DataError, ModelError, RunError
from mlxtune.export.exported import check_folder_free, new_folder
from mlxtune.export.gguf_adapter import read_gguf_lora
from mlxtune.export.import_source import AdapterSource
from mlxtune.export.lora_alpha import Alpha, alpha_of
from mlxtune.export.peft_adapter import ReadAdapter, read_peft
from mlxtune.files import write_text
from mlxtune.models.base_model import base_folder, fingerprint, is_nested
from mlxtune.models.source import read_config
from mlxtune.recipe.sections import LoraSection, Recipe
from mlxtune.runs.folder import RunFolder, free_run_path
from mlxtune.runs.layout import FINISHED, RUN_FILE
from mlxtune.version import __version__


@dataclass(frozen=True)
class ImportedRun:
    """A run that was made of an adapter.

    Attributes:
        run: The run.
        format: Of the adapter.
        recipe: As the run has it, with the adapter's own lora section.
        n_parameters: Of the adapter.
        notes: Sentences that its user should know.
    """

    run: RunFolder
    format: str
    recipe: Recipe
    n_parameters: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What `import --json` prints."""
        lora = self.recipe.lora
        return {
            "run": str(self.run),
            "format": self.format,
            "lora": lora.model_dump(mode="json"),
            "scale": lora.scale,
            "parameters": self.n_parameters,
            "notes": list(self.notes),
        }


def import_adapter(
    source: AdapterSource, recipe: Recipe, backend: Backend, out: Path | None = None, *, force: bool = False
) -> ImportedRun:
    """Make a run of an adapter.

    Args:
        source: The adapter.
        recipe: Its base model, prompt, output and rows; its lora section is replaced by what the adapter has.
        backend: Converts the base model, where it is not a folder that can be read as it is.
        out: The run folder; None is runs/NAME/UTC-TIME under the current folder.
        force: Replace a run that lies there.

    Raises:
        AdapterError: The adapter cannot be read, is neither LoRA nor DoRA, or does not fit the base model.
        ModelError: The base model cannot be found or read.
        ExportError, RunError: Something lies at `out`, or it cannot be written.
    """
    out = free_run_path(recipe.name) if out is None else out
    check_folder_free(out, RUN_FILE, force=force)
    if RunFolder(out).in_use():
        raise RunError(f"{out}: another process is writing to it; wait for it or choose another --out")
    folder = base_folder(recipe.model, backend)
    config = read_config(folder)
    architecture = backend.architecture(config)
    read = _read(source, architecture)
    adapter = _in_model_order(read.adapter, architecture, source, recipe.model.path)
    lora, notes = lora_section(adapter, architecture, recipe.lora)
    recipe = within_positions(recipe.model_copy(update={"lora": lora}), config)
    data, left_out = _data_facts(recipe)
    notes = [*read.notes, *notes, *_base_notes(read.adapter.base, recipe), *left_out]
    n_parameters = sum(value.size for value in adapter.weights.values())
    with new_folder(out, RUN_FILE, force=force) as new:
        run = RunFolder(new)
        write_text(run.recipe_file, recipe.to_yaml())
        write_adapter(
            run.adapter,
            replace(adapter, base=recipe.model.path, is_nested=is_nested(recipe.model)),
            architecture.n_blocks,
        )
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        run.update_info(
            created=now,
            status=FINISHED,
            finished=now,
            mlxtune=__version__,
            python=platform.python_version(),
            platform=platform.platform(),
            backend=source.format,  # what trained it, as far as is known
            imported={
                "from": str(source.path.resolve()),
                "format": source.format,
                "sha256": hashlib.sha256(source.weights.read_bytes()).hexdigest(),
                "base": read.adapter.base,
                "notes": notes,
            },
            base={"path": recipe.model.path, "folder": str(folder), "fingerprint": fingerprint(folder)},
            data=data,
            trainable_parameters=n_parameters,
            command=["mlxtune", *sys.argv[1:]],
        )
    return ImportedRun(RunFolder(out), source.format, recipe, n_parameters, tuple(notes))


def lora_section(adapter: Adapter, architecture: Architecture, own: LoraSection) -> tuple[LoraSection, list[str]]:
    """The lora section of a recipe that says what an adapter has, and what it cannot say.

    Args:
        adapter: The adapter; its layers are the base model's.
        architecture: Of the base model.
        own: The recipe's present section: what is right in it stays as it is written.
    """
    spec, notes = adapter.spec, []
    alpha = alpha_of(spec.scale, spec.rank, Alpha(own.alpha, own.rslora))
    if alpha.scale(spec.rank) != spec.scale:
        notes.append(
            f"no alpha gives the scale {spec.scale!r} at rank {spec.rank} exactly; lora.alpha is the nearest one"
        )
    section = own.model_copy(
        update={
            "type": spec.kind,
            "rank": spec.rank,
            "alpha": float(alpha.value),
            "rslora": alpha.rslora,
            "dropout": spec.dropout,
        }
    )
    fits = own.layers == "all" or own.layers <= architecture.n_blocks
    if fits and set(architecture.lora_layers(own.targets, own.layers)) == set(spec.layers):
        return section, notes
    names = in_usual_order(map(last_part, spec.layers))
    targets = _targets(names, spec.layers, architecture)
    n_blocks = architecture.n_blocks - min(map(block_of, spec.layers))
    layers: Any = "all" if n_blocks == architecture.n_blocks else n_blocks
    if more := len(architecture.lora_layers(targets, layers)) - len(spec.layers):
        notes.append(
            f"lora.targets and lora.layers of a recipe cannot name this adapter's {len(spec.layers)} layers alone: the run's "
            f"recipe names {more} more, which the adapter leaves as they are"
        )
    return section.model_copy(update={"targets": targets, "layers": layers}), notes


def _targets(names: list[str], layers: Collection[str], architecture: Architecture) -> Any:
    """What `lora.targets` calls some layers: words that mean just these in the blocks that they lie in, else what comes nearest."""
    n_blocks = architecture.n_blocks - min(map(block_of, layers))
    for words in ("all", "attention", "mlp", EXPERTS, ["attention", EXPERTS]):
        with contextlib.suppress(ModelError):  # the model has no such layers
            if set(architecture.lora_layers(words, n_blocks)) == set(layers):
                return words
    return next((word for word in WORDS if set(architecture.targets(word)) == set(names)), names)


def _read(source: AdapterSource, architecture: Architecture) -> ReadAdapter:
    """An adapter of any format."""
    if source.format == "peft":
        return read_peft(source.path)
    if source.format == "gguf-lora":
        return ReadAdapter(read_gguf_lora(source.path, architecture))
    return ReadAdapter(read_adapter(source.path))


def _in_model_order(adapter: Adapter, architecture: Architecture, source: AdapterSource, base: str) -> Adapter:
    """The adapter with its layers as the base model has them; AdapterError unless it fits and its values are numbers."""
    shapes = architecture.linear_layers
    check_fits(adapter, shapes, str(source.path), base)
    spec = adapter.spec
    if not (np.isfinite(spec.scale) and spec.scale > 0 and 0 <= spec.dropout < 1):
        raise AdapterError(
            f"{source.path}: expected a scale above 0 and a dropout of 0 to 1, got {spec.scale} and {spec.dropout}"
        )
    for name, value in adapter.weights.items():
        if not np.isfinite(value).all():
            raise AdapterError(
                f"{source.weights}: {name} holds values that are no finite numbers; its training broke down"
            )
    layers = tuple(layer for layer in shapes if layer in set(spec.layers))
    return replace(adapter, spec=replace(spec, layers=layers))


def _base_notes(named: str | None, recipe: Recipe) -> list[str]:
    """What to know where an adapter names another base model than the recipe does."""
    path = recipe.model.path
    if named is None or named == path or Path(named).resolve() == Path(path).resolve():
        return []
    return [
        f"the adapter was trained on {named}; the recipe's model is {path}: make sure that its weights are the same"
    ]


def _data_facts(recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Hashes of the recipe's rows, and a sentence on each file that cannot be read: an adapter needs none to exist."""
    facts: dict[str, Any] = {}
    missing = []
    for split in ("train", "valid"):
        file = getattr(recipe.data, split)
        if file is None:
            continue
        try:
            facts[split] = {"file": file, "sha256": content_hash(Path(file))}
        except (OSError, DataError):
            missing.append(f"data.{split} cannot be read ({file}), so run.json does not have its hash")
    return facts, missing
