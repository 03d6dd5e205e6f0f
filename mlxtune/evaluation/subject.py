"""What is evaluated or asked: the recipe and run that a path names, their model, and the test rows. No metrics."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxtune.backends.base import Backend, Model
from mlxtune.backends.group import in_turns, require_same
from mlxtune.backends.shared_model import shared_model
from mlxtune.data.examples import expected_values
from mlxtune.data.prepare import validation_rows
from mlxtune.data.reading import read_recipe_rows
from mlxtune.data.rows import Row
from mlxtune.errors import RecipeError, RunError
from mlxtune.models.base_model import base_folder, fingerprint, require_base
from mlxtune.models.tokenizer import Tokenizer, load_tokenizer
from mlxtune.recipe.load import load_recipe
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder, latest_run, named_run
from mlxtune.runs.layout import BASE, RUNS, TUNED
from mlxtune.version import __version__


@dataclass(frozen=True)
class Subject:
    """A recipe and its run, if there is one.

    Attributes:
        recipe: Overridden as asked.
        run: The run; None only for a base model whose recipe has no run that fits it.
        base: Leave the adapter off.
        other_model: The user named a model on the command line: an adapter may meet a base it was not trained on.
    """

    recipe: Recipe
    run: RunFolder | None
    base: bool
    other_model: bool = False

    @property
    def folder(self) -> Path:
        """The run folder; for a base model without one, the place kept for it among the recipe's runs."""
        return self.run.path if self.run else RUNS / self.recipe.name / BASE

    @property
    def adapter(self) -> Path | None:
        """The adapter folder; None for the base model, and for a model that was trained whole."""
        return None if self.base or self.run is None or self.run.is_full else self.run.adapter

    @property
    def whole_model(self) -> Path | None:
        """The folder of a model that was trained whole; None for a base model, with an adapter or without."""
        return self.run.model if self.run is not None and self.run.is_full and not self.base else None

    @property
    def trained_file(self) -> Path | None:
        """The weights that training made, None for the base model."""
        return None if self.base or self.run is None else self.run.trained_file

    def evaluation(self, limit: int | None = None) -> Path:
        """Folder of its evaluation; a trial on the first rows has its own."""
        name = BASE if self.base else TUNED
        return RunFolder(self.folder).evaluation(name if limit is None else f"{name}-first-{limit}")

    def counterparts(self, limit: int | None = None) -> list[Path]:
        """Where the evaluation of the other of base and tuned model may be: beside this one, or made before any run."""
        beside = Subject(self.recipe, self.run, not self.base).evaluation(limit)
        return [beside] if self.base else [beside, Subject(self.recipe, None, base=True).evaluation(limit)]


SHARD = "model.shard="  # how a model is held, not which one it is
FindRun = Callable[[Callable[[], RunFolder | None]], RunFolder | None]


def find_subject(
    path: Path, overrides: Sequence[str] = (), base: bool = False, find: FindRun = lambda look: look()
) -> Subject:
    """What a path to a recipe or a run folder means.

    A recipe stands for its newest run, on the model of that run. It must still ask and answer as that run was trained;
    what else it says, such as the test rows, counts as it now stands.

    Args:
        path: Of the recipe or the run folder.
        overrides: The command's `--set`s.
        base: Leave the adapter off.
        find: Calls what looks for a run; of several processes rank 0 does, for all.

    Raises:
        RunError: There is no trained run, and the base model was not asked for; or another model under one that was trained whole.
        RecipeError: The recipe cannot be read.
    """
    other_model = any(override.startswith("model.") and not override.startswith(SHARD) for override in overrides)
    named = find(lambda: named_run(path))
    if named is not None:
        run = named
        recipe = load_recipe(run.recipe_file, overrides)
    else:
        recipe = load_recipe(path, overrides)
        newest = find(lambda: latest_run(recipe.name))
        changed = _changed(load_recipe(path), newest) if newest else []
        if base and (newest is None or changed):
            return Subject(recipe, None, base, other_model)
        if newest is None:
            raise RunError(
                f"{path}: no run of {recipe.name!r} under {RUNS}/; train one with `mlxtune lora {path}`, "
                "or take the model before tuning with --base"
            )
        if changed:
            raise RunError(
                f"{path}: {' and '.join(changed)} differ from those that {newest} was trained with; "
                f"train again, or name the run: {newest}"
            )
        run = newest
        if not other_model:
            model = run.recipe().model.model_copy(update={"shard": recipe.model.shard})
            recipe = recipe.model_copy(update={"model": model})
    if not base and not run.is_trained:
        raise RunError(f"{run}: has no adapter (status: {run.info().get('status')}); train it to its first checkpoint")
    if not base and run.is_full and _weights_of(recipe) != _weights_of(run.recipe()):
        raise RunError(f"{run}: was trained whole, so no other model can be put under it; ask another one with --base")
    return Subject(recipe, run, base, other_model)


def read_test_rows(recipe: Recipe) -> list[Row]:
    """The recipe's test rows.

    Raises:
        RecipeError: It names none.
        DataError: They cannot be read.
    """
    if recipe.data.test is None:
        raise RecipeError(f"recipe {recipe.name!r} has no data.test; add it, or --set data.test=FILE.jsonl")
    return read_recipe_rows(Path(recipe.data.test), recipe)


def read_validation_rows(recipe: Recipe) -> list[Row] | None:
    """The recipe's validation rows: those of its file, or held out of its training rows; None if it has neither.

    Raises:
        DataError: They cannot be read, or hold a value that the recipe does not allow.
    """
    rows = validation_rows(recipe)
    if rows is None:
        return None
    expected_values(rows, recipe)
    return list(rows)


def load_subject(subject: Subject, backend: Backend, progress: bool | None = None) -> tuple[Model, Tokenizer]:
    """The subject's model, with its adapter or trained whole unless it is the base, and its tokenizer; several processes share its replies.

    Args:
        subject: What is loaded.
        backend: That computes.
        progress: Whether bars of a download are shown; None is on a terminal.

    Raises:
        ModelError: The base model cannot be found or read.
        AdapterError: The adapter does not fit it, or was trained on other weights.
    """
    section = subject.recipe.model
    if (whole := subject.whole_model) is not None:
        return shared_model(backend.load(whole, dtype=section.dtype, shard=section.shard)), load_tokenizer(whole)
    folder = base_folder(section, backend, progress=sys.stderr.isatty() if progress is None else progress)
    if subject.run and not subject.other_model and not subject.base:
        require_base(folder, subject.run.info().get("base", {}).get("fingerprint"), str(subject.run))
    model = backend.load(folder, adapter=subject.adapter, dtype=section.dtype, shard=section.shard)
    return shared_model(model), load_tokenizer(folder)


def require_same_base(recipe: Recipe, backend: Backend) -> None:
    """Have a recipe's base model on every machine of several processes; refuse another one, or other versions, than rank 0's.

    Raises:
        BackendError: Says what is different.
        ModelError: The base model cannot be found, read or converted.
    """
    group = backend.group()
    if group.size > 1:
        folder = in_turns(group, lambda: base_folder(recipe.model, backend))
        versions = {f"version of {name}": version for name, version in backend.versions().items()}
        require_same(
            group, {"weights of the base model": fingerprint(folder), "version of mlxtune": __version__, **versions}
        )


def _weights_of(recipe: Recipe) -> tuple[object, ...]:
    """What decides which weights a recipe's model has."""
    return recipe.model.path, recipe.model.revision, recipe.model.quantize


def _changed(recipe: Recipe, run: RunFolder) -> list[str]:
    """Sections that decide what is asked and answered, and are not those of the run."""
    trained = run.recipe()
    return [f"{name}:" for name in ("prompt", "output") if getattr(recipe, name) != getattr(trained, name)]
