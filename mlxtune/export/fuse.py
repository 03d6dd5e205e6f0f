"""Folding a run's adapter into its base model, and proof that the fused model still says the same.

The proof is computed in float32 on all sides, at a number of positions of real prompts. Three things are measured: what the
adapter does, how far the fused model is from base + adapter, and how much of that rounding explains: the same distance of
base + adapter with its weights folded and rounded in memory, by other code than the one that fused. What is left of the
distance, between that model and the one that was written, is no rounding and should be nothing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.adapter import read_adapter
from mlxtune.backends.base import STORED, Backend, ConvertSpec, Model, WrittenModel
from mlxtune.data.examples import prompt_ids
from mlxtune.data.reading import read_recipe_rows
from mlxtune.data.rows import Row
from mlxtune.errors import DataError, ModelError, RunError
from mlxtune.export.source import ExportSource, open_source
from mlxtune.models.source import tensor_places, weight_files
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.models.writing import check_free, model_folder
from mlxtune.recipe.sections import PLACEHOLDER, Recipe, is_on_hub
from mlxtune.runs.folder import RunFolder

log = logging.getLogger(__name__)

CHECKED_PROMPTS = 4
CHECKED_POSITIONS = 64  # of a prompt, so that a long one takes no more memory: 39 MB of logits at Qwen's vocabulary
NOTHING = 1e-3  # a logit difference that is rounding of sums, whatever the adapter does
PACKED = "U32"
TYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Proof:
    """Largest absolute differences of any logit, at some positions of some prompts, computed in float32.

    Attributes:
        difference: Between base + adapter and the fused model as written.
        effect: Between base and base + adapter: what the adapter does at all.
        rounding: Between base + adapter and the same with its weights rounded as the written ones are.
        unexplained: Between the latter and the fused model as written; no rounding, and nothing unless it is wrong.
        rounded_to: What the adapted weights were rounded to: "bfloat16", or "4 bits" where they were packed again.
        prompts: Prompts checked.
        positions: Positions checked, of all prompts.
    """

    difference: float
    effect: float
    rounding: float
    unexplained: float
    rounded_to: str
    prompts: int
    positions: int

    def as_text(self) -> str:
        """A sentence."""
        return (
            f"on {self.prompts} prompts the logits of the fused model and of base + adapter differ by at most "
            f"{self.difference:.2g}, the adapter changes them by up to {self.effect:.2g}; rounding the weights to {self.rounded_to} explains {self.rounding:.2g} of the difference"
        )

    def problem(self, tolerance: float) -> str | None:
        """What speaks against the fused model, and what to do; None if nothing does."""
        is_rounding = self.unexplained <= max(NOTHING, self.rounding)
        if is_rounding and self.difference <= max(NOTHING, tolerance * self.effect):
            return None  # what is not a number is neither
        head = (
            f"the logits of the fused model and of base + adapter differ by up to {self.difference:.3g}, while the adapter "
            f"changes them by up to {self.effect:.3g}"
        )
        if not math.isfinite(self.difference + self.effect):
            return f"{head}: the base model or the adapter has NaN or infinite values; fuse the adapter of another run"
        if not is_rounding:
            return (
                f"{head}; up to {self.unexplained:.3g} of the difference is not due to rounding to {self.rounded_to}: the weights "
                "were written wrongly; fuse again, and if it happens again, report it"
            )
        return (
            f"{head}; the difference may be at most {tolerance:.0%} of the change. Rounding the weights to "
            f"{self.rounded_to} explains {self.rounding:.3g} of it: {self._advice()}"
        )

    def _advice(self) -> str:
        accept = "accept it with --tolerance"
        if self.rounded_to.endswith("bits"):
            return f"leave out --requantize, or {accept}"
        return accept if self.rounded_to == "float32" else f"choose --dtype float32, or {accept}"


@dataclass(frozen=True)
class Fused:
    """A fused model, and how close it is to base plus adapter."""

    written: WrittenModel
    proof: Proof


def fuse_run(
    run: RunFolder,
    backend: Backend,
    out: Path,
    *,
    requantize: bool = False,
    dtype: str | None = None,
    tolerance: float = 0.1,
    force: bool = False,
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

    Raises:
        RunError: The run has no adapter, or was trained whole.
        ModelError: Something lies at `out`, or the fused model says something else than base plus adapter.
    """
    if run.is_full:
        raise RunError(
            f"{run}: was trained whole (lora.type: full), so there is no adapter to fold in: its model is {run.model}, in float32; "
            "`mlxtune export RUN --to hf` or `--to mlx` writes it in other types"
        )
    check_free(out, force=force)
    source = open_source(run, backend)
    with model_folder(out, force=force) as new:
        fused = fuse_into(new, source, backend, out, requantize=requantize, dtype=dtype, tolerance=tolerance)
    written = replace(fused.written, folder=out)
    return Fused(written, fused.proof)


def fuse_into(
    folder: Path,
    source: ExportSource,
    backend: Backend,
    out: Path,
    *,
    requantize: bool = False,
    dtype: str | None = None,
    tolerance: float = 0.1,
) -> Fused:
    """Write a fused model, or one that was trained whole, into an empty folder, and prove it.

    Args:
        folder: Empty.
        source: The run, with an adapter or trained whole.
        backend: Computes.
        out: Name of the folder in messages, which it takes later.
        requantize: As `fuse_run`.
        dtype: As `fuse_run`.
        tolerance: As `fuse_run`.

    Raises:
        ModelError: The fused model says something else than base plus adapter.
    """
    prompts = checked_prompts(source.recipe, source.base)
    if source.trained_base is None:
        written = backend.fuse(source.base, source.run.adapter, folder, requantize, dtype)
        proof = prove(backend, source.base, source.run.adapter, folder, prompts)
    else:
        own = stored_type(source.trained_base)  # what the base is in is what its users expect
        written = backend.convert(source.base, folder, ConvertSpec(dtype=dtype or own))
        proof = prove(backend, source.trained_base, source.base, folder, prompts)
    if problem := proof.problem(tolerance):
        raise ModelError(f"{out}: not written: {problem}")
    return Fused(written, proof)


def stored_type(folder: Path) -> str:
    """Type of a model's weights, as `--dtype` names it: that of most of its tensors."""
    kinds = [place.dtype for file in weight_files(folder) for place in tensor_places(file).values()]
    return TYPE_NAMES[max((kind for kind in TYPE_NAMES), key=kinds.count)]


def prove(backend: Backend, base: Path, trained: Path, fused: Path, prompts: Sequence[Sequence[int]]) -> Proof:
    """Compare a fused model with its base and adapter. One model is in memory at a time, in the types of its files.

    Args:
        backend: Computes.
        base: Model folder.
        trained: Adapter folder, or the folder of the base model after it was trained whole.
        fused: Model folder.
        prompts: Token ids.
    """
    is_whole = (trained / "config.json").is_file()
    types = {name: place.dtype for file in weight_files(fused) for name, place in tensor_places(file).items()}
    model = backend.load(base, None, STORED)
    without = [checked_logits(model, prompt) for prompt in prompts]
    if is_whole:
        del model
        model = backend.load(trained, None, STORED)
        layers: Sequence[str] = tuple(model.architecture.linear_layers)
    else:
        found = read_adapter(trained)
        model.attach_lora(found.spec, found.weights)
        layers = found.spec.layers
    adapted = [checked_logits(model, prompt) for prompt in prompts]
    effect = _largest(adapted, without)
    del without
    model.fold(types)
    rounded = [checked_logits(model, prompt) for prompt in prompts]
    del model
    model = backend.load(fused, None, STORED)
    difference, unexplained = [], []
    for prompt, ours, folded in zip(prompts, adapted, rounded, strict=True):
        written = checked_logits(model, prompt)
        difference.append(largest_difference(written, ours))
        unexplained.append(largest_difference(written, folded))
    return Proof(
        difference=float(np.max(difference)),
        effect=effect,
        rounding=_largest(rounded, adapted),
        unexplained=float(np.max(unexplained)),
        rounded_to=_rounded_to(types, layers, model.config),
        prompts=len(prompts),
        positions=sum(map(len, adapted)),
    )


def checked_logits(model: Model, prompt: Sequence[int]) -> NDArray[np.float32]:
    """Logits at up to CHECKED_POSITIONS of a prompt's positions, spread evenly, its last among them."""
    places = np.linspace(len(prompt) - 1, 0, min(len(prompt), CHECKED_POSITIONS)).round().astype(int)
    return model.logits(prompt, places.tolist())


def _largest(some: Sequence[NDArray[np.float32]], others: Sequence[NDArray[np.float32]]) -> float:
    """Largest distance of any pair; NaN where any logit is."""
    return float(np.max([largest_difference(one, other) for one, other in zip(some, others, strict=True)]))


def largest_difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest absolute difference of two arrays of the same shape; NaN where any value is."""
    return float(np.abs(one - other).max())


def _rounded_to(types: Mapping[str, str], adapted: Sequence[str], config: Mapping[str, object]) -> str:
    """What the adapted weights were rounded to."""
    kinds = {types[f"{layer}.weight"] for layer in adapted}
    if PACKED in kinds:
        quantization = config.get("quantization")
        return f"{quantization['bits']} bits" if isinstance(quantization, Mapping) else "few bits"
    return " and ".join(sorted(TYPE_NAMES[kind] for kind in kinds))


def checked_prompts(recipe: Recipe, base: Path) -> list[list[int]]:
    """Token ids of the first rows' prompts, CHECKED_PROMPTS of them; of the recipe's data, test rows first."""
    tokenizer = load_tokenizer(base)
    for file in (recipe.data.test, recipe.data.valid, recipe.data.train):
        if file and (is_on_hub(file) or Path(file).is_file()):
            try:
                return prompt_ids(read_recipe_rows(Path(file), recipe)[:CHECKED_PROMPTS], recipe, tokenizer)
            except DataError:
                continue
    log.info("the recipe's data is not here; checking the fused model on a made-up prompt")
    columns = dict.fromkeys(PLACEHOLDER.findall(recipe.prompt.user), "Hello, what can you do?")
    return prompt_ids([Row(columns, "made up", 1)], recipe, tokenizer)
