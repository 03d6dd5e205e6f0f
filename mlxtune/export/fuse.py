"""Folding a run's adapter into its base model, and proof that the fused model still says the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlxtune.backends.base import Backend, WrittenModel
from mlxtune.data.examples import prompt_ids
from mlxtune.data.rows import Row, read_rows
from mlxtune.errors import DataError, ModelError, RunError
from mlxtune.models.base_model import base_folder, require_base
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.models.writing import check_free, model_folder
from mlxtune.recipe import PLACEHOLDER, Recipe, is_on_hub
from mlxtune.runs import RunFolder

CHECKED_PROMPTS = 4
NOTHING = 1e-3  # a logit difference that is rounding, whatever the adapter does


@dataclass(frozen=True)
class Fused:
    """A fused model and how close it is to base plus adapter.

    Attributes:
        written: The model folder.
        difference: Largest absolute difference of any logit between adapter and fused model, at every token of the
            checked prompts.
        effect: The same between base and adapter: what the adapter does at all.
        prompts: Prompts checked.
    """

    written: WrittenModel
    difference: float
    effect: float
    prompts: int


def fuse_run(
    run: RunFolder,
    backend: Backend,
    out: Path,
    *,
    requantize: bool = False,
    dtype: str | None = None,
    tolerance: float = 0.1,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Fused:
    """Fold a run's adapter into its base model.

    Args:
        run: With an adapter.
        backend: Computes.
        out: Model folder to write; appears only when it passed the check.
        requantize: Quantize the result as a quantized base was; else it is written in 16 bits.
        dtype: Type of the fused weights; None keeps the base's.
        tolerance: Largest logit difference to accept, as a share of the adapter's own effect.
        force: Replace what lies at `out`.
        say: Called with sentences about what is going on.

    Raises:
        RunError: The run has no adapter.
        ModelError: Something lies at `out`, or the fused model says something else than base plus adapter.
    """
    if not run.adapter.is_dir():
        raise RunError(f"{run}: has no adapter yet; its training did not reach a checkpoint")
    check_free(out, force=force)
    recipe = run.recipe()
    base = base_folder(recipe.model, backend)
    require_base(base, run.info().get("base", {}).get("fingerprint"), str(run))
    prompts = _prompts(recipe, base, say)
    compute = recipe.model.dtype
    with model_folder(out, force=force) as new:
        written = backend.fuse(base, run.adapter, new, requantize, dtype)
        # One model in memory at a time.
        without = _logits(backend, base, None, prompts, compute)
        adapted = _logits(backend, base, run.adapter, prompts, compute)
        fused = _logits(backend, new, None, prompts, compute)
        difference, effect = _largest(fused, adapted), _largest(adapted, without)
        if not difference <= max(NOTHING, tolerance * effect):  # not "greater": NaN is no proof either
            advice = (
                "Quantizing again rounds the adapter away: leave out --requantize"
                if requantize
                else "Choose --dtype float32, or accept it with --tolerance"
            )
            raise ModelError(
                f"{out}: not written: fused and adapted model differ by up to {difference:.3g} in a logit, the adapter "
                f"itself changes them by up to {effect:.3g}; more than {tolerance:.0%} of that is lost. {advice}"
            )
    kept = WrittenModel(out, written.n_bytes, written.n_parameters, written.bits_per_weight, written.notes)
    return Fused(kept, difference, effect, len(prompts))


def _logits(
    backend: Backend, folder: Path, adapter: Path | None, prompts: Sequence[Sequence[int]], dtype: str | None
) -> list[np.ndarray]:
    model = backend.load(folder, adapter, dtype)
    return [model.logits(prompt) for prompt in prompts]


def _largest(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Over every token of every prompt; NaN where any logit is."""
    return float(np.max([np.abs(a - b).max() for a, b in zip(some, others, strict=True)]))


def _prompts(recipe: Recipe, base: Path, say: Callable[[str], None]) -> list[list[int]]:
    """Prompts of the first rows of the recipe's data, test rows first."""
    tokenizer = load_tokenizer(base)
    for file in (recipe.data.test, recipe.data.valid, recipe.data.train):
        if file and (is_on_hub(file) or Path(file).is_file()):
            try:
                return prompt_ids(read_rows(Path(file), recipe.data.columns)[:CHECKED_PROMPTS], recipe, tokenizer)
            except DataError:
                continue
    say("the recipe's data is not here; checking the fused model on a made-up prompt")
    columns = dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user), "Hello, what can you do?")
    return prompt_ids([Row(columns, "made up", 1)], recipe, tokenizer)
