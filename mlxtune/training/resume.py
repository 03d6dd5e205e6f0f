"""Checks before a training resumes, or starts from another run's adapter: the same recipe, data and base model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlxtune.backends.adapter import Weights, check_fits, read_adapter
from mlxtune.backends.base import LoraSpec
from mlxtune.errors import DataError, RunError
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder

# Keys that change when a training ends, what it measures, or what is done with it, and not what a step computes. More
# epochs also change the schedule's length from there on, as whoever asks for them wants.
FREE_TO_CHANGE = (
    "name", "data.test", "data.augment.endpoint", "train.epochs", "train.max_steps", "train.evaluate_every", "train.save_every", "train.best_metric",
    "train.metric_rows", "train.early_stopping", "train.load_best", "train.gradient_checkpointing", "train.fit", "evaluate", "track", "model.shard",
)  # fmt: skip


# Of these, those that change what a metric of replies is measured on, so that its values no longer compare.
MEASURED_BY = ("train.metric_rows", "evaluate.decoding", "evaluate.max_new_tokens")


def require_trained(run: RunFolder) -> None:
    """Raise RunError where a run's adapter was imported: it has no checkpoint to go on from."""
    if run.info().get("imported"):
        raise RunError(
            f"{run}: its adapter was imported, so it has no checkpoint to go on from; begin a new run from the adapter: "
            f"`{shlex.join(['mlxtune', 'lora', str(run.recipe_file), '--from', str(run)])}`"
        )


def measured_anew(changed: Sequence[str]) -> bool:
    """Whether the previous best no longer compares with what is measured from now on."""
    return any(key in MEASURED_BY for key in changed)


def check_recipe(recipe: Recipe, run: RunFolder) -> list[str]:
    """Keys that changed since a run started, all of them without effect on what a training step computes.

    `train.tokens_per_pass` has none but rounding where there is no dropout.

    Raises:
        RunError: A changed key has such an effect, or there are fewer epochs; all are named with both values.
    """
    before, now = run.recipe().flat(), recipe.flat()
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    free_to_change = FREE_TO_CHANGE if recipe.lora.dropout else (*FREE_TO_CHANGE, "train.tokens_per_pass")
    refused = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in free_to_change)]
    if before["train.epochs"] > now["train.epochs"]:
        refused.append("train.epochs")
    if refused:
        listed = "\n".join(
            f"  {key}: {_shown(before.get(key))} when the run started, {_shown(now.get(key))} now" for key in refused
        )
        raise RunError(
            f"{run}: cannot resume, because these recipe keys changed:\n{listed}\n"
            "Start a new run from its adapter with --from, or resume with the recipe in the run folder: "
            f"`{shlex.join(['mlxtune', 'lora', str(run), '--resume'])}`"
        )
    return changed


def check_data(run: RunFolder, facts: Mapping[str, Any]) -> None:
    """Refuse rows that changed since a run started.

    Args:
        run: With the hashes of its data in run.json.
        facts: The same of the data as it is now.

    Raises:
        DataError: Names the file.
    """
    began = run.info().get("data", {})
    for split in ("train", "valid"):
        before, now = began.get(split, {}), facts.get(split, {})
        if before.get("sha256") != now.get("sha256"):
            raise DataError(
                f"{now.get('file') or before.get('file')}: the file changed since {run} started (SHA-256 "
                f"{_shown(before.get('sha256'))} then, {_shown(now.get('sha256'))} now); restore the old rows, or start a new "
                f"run, from its adapter with --from {run} if you like"
            )
        rewritten = [facts_of.get("augment", {}).get("sha256") for facts_of in (before, now)]
        if rewritten[0] != rewritten[1]:
            raise DataError(
                f"data.augment: the rewritten rows changed since {run} started (SHA-256 {_shown(rewritten[0])} then, "
                f"{_shown(rewritten[1])} now): the cache lost them, or validation or test rows changed, to which rewritten rows "
                f"must not be similar; restore these rows, or start a new run, from its adapter with --from {run} if you like"
            )
        if before.get("rows") != now.get("rows"):
            raise DataError(
                f"data.{split}: {before.get('rows')} rows when {run} started, {now.get('rows')} now; another version of "
                "mlxtune may have started it"
                f"; start a new run, from its adapter with --from {run} if you like"
            )


def adapter_to_begin_from(run: RunFolder, spec: LoraSpec, shapes: Mapping[str, tuple[int, int]], base: str) -> Weights:
    """The adapter of another run, to start a new one from.

    Args:
        run: The other run.
        spec: The new run's adapter.
        shapes: Layer of the base model -> (in, out).
        base: What to call the base model.

    Raises:
        AdapterError: It cannot be read, or does not fit the base model.
        RunError: It is of other layers, another rank or another type.
    """
    _require_trained_as(run, "adapter")
    found = read_adapter(run.adapter)
    differences = []
    if found.spec.kind != spec.kind:
        differences.append(f"its lora.type is {found.spec.kind}, the recipe's {spec.kind}")
    if found.spec.rank != spec.rank:
        differences.append(f"its rank is {found.spec.rank}, the recipe's {spec.rank}")
    if set(found.spec.layers) != set(spec.layers):
        differences.append(f"it adapts {len(found.spec.layers)} layers, the recipe {len(spec.layers)}")
    if found.spec.scale != spec.scale:
        differences.append(f"its scale (alpha / rank) is {found.spec.scale:g}, the recipe's {spec.scale:g}")
    if differences:
        raise RunError(f"{run}: this training cannot start from its adapter: {'; '.join(differences)}")
    check_fits(found, shapes, f"the adapter of {run}", base)
    return {name: found.weights[name] for name in spec.names}


def model_to_begin_from(run: RunFolder) -> Path:
    """The model folder of another run that was trained whole, to train on from.

    Raises:
        RunError: It has none.
    """
    _require_trained_as(run, "model")
    return run.model


def _require_trained_as(run: RunFolder, wanted: Literal["adapter", "model"]) -> None:
    """Refuse a run that has nothing to start from, or the other of adapter and model."""
    if not run.is_trained:
        raise RunError(f"{run}: has no {wanted} to start from (status: {run.info().get('status')})")
    if run.is_full and wanted == "adapter":
        raise RunError(
            f"{run}: was trained whole (lora.type: full), so it has no adapter to start from; train one on its model: "
            f"--set model.path={shlex.quote(str(run.model))}"
        )
    if not run.is_full and wanted == "model":
        raise RunError(
            f"{run}: has an adapter, and this recipe trains all weights (lora.type: full); fuse it (`mlxtune fuse {run}`) and train on "
            f"the result: --set model.path={shlex.quote(str(run.fused))}"
        )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
