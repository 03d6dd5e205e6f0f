"""What must hold before a training goes on, or begins from another's adapter: the same recipe, data and base model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mlxtune.backends.adapter import Weights, check_fits, read_adapter
from mlxtune.backends.base import LoraSpec
from mlxtune.errors import DataError, RunError
from mlxtune.recipe.sections import Recipe
from mlxtune.runs.folder import RunFolder

# Keys that change when a training ends, what it measures, or what is done with it, and not what a step computes. More
# epochs also change the schedule's length from there on, as whoever asks for them wants.
FREE_TO_CHANGE = (
    "name", "data.test", "data.augment.endpoint", "train.epochs", "train.max_steps", "train.evaluate_every", "train.save_every", "train.best_metric",
    "train.metric_rows", "train.early_stopping", "train.load_best", "train.gradient_checkpointing", "evaluate", "track",
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
    """Keys that differ from the recipe that a run was begun with, none of which changes what a step computes.

    Raises:
        RunError: Some do, or there are fewer epochs; all are named with both values.
    """
    before, now = run.recipe().flat(), recipe.flat()
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    refused = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)]
    if before["train.epochs"] > now["train.epochs"]:
        refused.append("train.epochs")
    if refused:
        listed = "\n".join(
            f"  {key}: {_shown(before.get(key))} when it began, {_shown(now.get(key))} now" for key in refused
        )
        raise RunError(
            f"{run}: cannot go on under a recipe that would compute something else:\n{listed}\n"
            "Train anew, with --from to begin from its adapter, or go on under the recipe that it keeps: "
            f"`{shlex.join(['mlxtune', 'lora', str(run), '--resume'])}`"
        )
    return changed


def check_data(run: RunFolder, facts: Mapping[str, Any]) -> None:
    """Refuse rows that changed since a run began.

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
                f"{now.get('file') or before.get('file')}: changed since {run} began ({_shown(before.get('sha256'))} then, "
                f"{_shown(now.get('sha256'))} now); put the old rows back, or train anew, with --from {run} if you like"
            )
        rewritten = [facts_of.get("augment", {}).get("sha256") for facts_of in (before, now)]
        if rewritten[0] != rewritten[1]:
            raise DataError(
                f"data.augment: other rewritten rows than {run} began with ({_shown(rewritten[0])} then, {_shown(rewritten[1])} "
                "now): the cache has lost them, or valid or test rows, which none may be near to, have changed; put these "
                f"back, or train anew, with --from {run} if you like"
            )
        if before.get("rows") != now.get("rows"):
            raise DataError(
                f"data.{split}: {before.get('rows')} rows when {run} began, {now.get('rows')} now; was it begun with another "
                "version of mlxtune?"
            )


def adapter_to_begin_from(run: RunFolder, spec: LoraSpec, shapes: Mapping[str, tuple[int, int]], base: str) -> Weights:
    """The adapter of another run as the beginning of a new one.

    Args:
        run: The other run.
        spec: The new run's adapter.
        shapes: Layer of the base model -> (in, out).
        base: What to call the base model.

    Raises:
        AdapterError: It cannot be read, or does not fit the base model.
        RunError: It is of other layers or another rank.
    """
    if not run.has_adapter:
        raise RunError(f"{run}: has no adapter to begin from (status: {run.info().get('status')})")
    found = read_adapter(run.adapter)
    differences = []
    if found.spec.rank != spec.rank:
        differences.append(f"its rank is {found.spec.rank}, the recipe's {spec.rank}")
    if set(found.spec.layers) != set(spec.layers):
        differences.append(f"it adapts {len(found.spec.layers)} layers, the recipe {len(spec.layers)}")
    if found.spec.scale != spec.scale:
        differences.append(f"its scale (alpha / rank) is {found.spec.scale:g}, the recipe's {spec.scale:g}")
    if differences:
        raise RunError(f"{run}: its adapter cannot begin this training: {'; '.join(differences)}")
    check_fits(found, shapes, f"the adapter of {run}", base)
    return {name: found.weights[name] for layer in spec.layers for name in (f"{layer}.lora_A", f"{layer}.lora_B")}


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
