"""One training from recipe to run folder: data, base model, adapter, loop, and the facts of it in run.json."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mlxtune
from mlxtune.backends import Choice
from mlxtune.backends.adapter import initial_weights
from mlxtune.backends.base import LoraSpec
from mlxtune.data.cleaning import Account
from mlxtune.data.prepare import Split, training_split, validation_split
from mlxtune.models.architecture import linear_layers, lora_layers
from mlxtune.models.base_model import base_folder, config_and_tokenizer, fingerprint
from mlxtune.models.tokenizer import load_tokenizer
from mlxtune.recipe import Recipe
from mlxtune.runs import RunFolder, new_run
from mlxtune.training.loop import Event, Outcome, Steps, train


@dataclass(frozen=True)
class Tuned:
    """A training that ended: its run folder, how it ended, and run.json's content."""

    run: RunFolder
    outcome: Outcome
    info: dict[str, Any]


def tune(
    recipe: Recipe,
    choice: Choice,
    out: Path | None = None,
    force: bool = False,
    watch: Callable[[Event], None] = lambda event: None,
    say: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """Train a recipe's adapter.

    Args:
        recipe: What to train.
        choice: The backend.
        out: Run folder; None makes one under runs/.
        force: Replace a run that lies at `out`.
        watch: Called with each event of metrics.jsonl.
        say: Called with each sentence about what is going on.

    Returns:
        The run; its outcome says whether it was interrupted.

    Raises:
        MlxtuneError: Data, model or settings cannot be used; nothing was written unless training had begun.
    """
    backend = choice.backend
    config, tokenizer_folder = config_and_tokenizer(recipe.model)
    spec = lora_spec(recipe, config)
    tokenizer = load_tokenizer(tokenizer_folder)
    training = training_split(recipe, tokenizer)
    validation = validation_split(recipe, tokenizer)
    say(describe_data(training, validation))
    for line in [*training.left_out, *(validation.left_out if validation else [])]:
        say(f"left out, longer than train.max_tokens: {line}")

    folder = base_folder(recipe.model, backend)
    model = backend.load(folder, dtype=recipe.model.dtype)
    n_parameters = model.n_parameters
    weights = initial_weights(spec, linear_layers(config), recipe.train.seed)
    model.attach_lora(spec, weights)
    trainable = sum(value.size for value in weights.values())
    steps = Steps.of(len(training.examples), recipe)
    again = ", activations computed again in the backward pass" if recipe.train.gradient_checkpointing else ""
    say(
        f"training {trainable:,} of {n_parameters:,} parameters for {steps.total:,} steps, {steps.per_epoch:,} an epoch{again}"
    )

    run = new_run(recipe, out, force)
    with run.locked():
        run.update_info(
            status="training",
            created=_now(),
            mlxtune=mlxtune.__version__,
            python=platform.python_version(),
            platform=platform.platform(),
            backend=backend.name,
            device=asdict(backend.device()),
            reason=choice.reason,
            versions=backend.versions(),
            seed=recipe.train.seed,
            base={"path": recipe.model.path, "folder": str(folder), "fingerprint": fingerprint(folder)},
            data=_data_facts(recipe, training, validation),
            parameters=n_parameters,
            trainable_parameters=trainable,
            steps={"per_epoch": steps.per_epoch, "total": steps.total},
            command=["mlxtune", *sys.argv[1:]],
        )
        try:
            held_out = validation.examples if validation else []
            outcome = train(model, backend, recipe, spec, training.examples, held_out, run, watch)
        except BaseException as error:
            run.update_info(status="failed", finished=_now(), error=str(error) or type(error).__name__)
            raise
        run.update_info(
            status=outcome.status,
            finished=_now(),
            step=outcome.step,
            train_loss=outcome.train_loss,
            valid_loss=outcome.valid_loss,
            best=None if outcome.best is None else {"valid_loss": outcome.best[0], "checkpoint": outcome.best[1]},
            seconds=round(outcome.seconds, 3),
            tokens=outcome.tokens,
            tokens_per_second=round(outcome.tokens / outcome.seconds, 1),
            peak_memory_gb=round(backend.peak_memory_bytes() / 1e9, 4),
        )
    return Tuned(run, outcome, run.info())


def lora_spec(recipe: Recipe, config: dict[str, Any]) -> LoraSpec:
    """The adapter that a recipe asks for on a model."""
    lora = recipe.lora
    return LoraSpec(lora.rank, lora.scale, lora.dropout, lora_layers(config, lora.targets, lora.layers))


def describe_data(training: Split, validation: Split | None) -> str:
    """One line on the rows: how many, what cleaning did, how many to validate with."""
    account = training.account
    cleaned = (
        f" of {account.read:,} read; dropped {account.duplicates} duplicates, {account.near_duplicates} near-duplicates, "
        f"{account.low_quality} low-quality rows ({_reasons(account)})"
        if account and account.read != account.kept
        else ""
    )
    held_out = f", {len(validation.examples):,} to validate" if validation else ", none to validate"
    balanced = f"; balanced from {sum(training.balanced.before.values()):,}" if training.balanced else ""
    return f"{len(training.examples):,} rows to train{cleaned}{balanced}{held_out}"


def _reasons(account: Account) -> str:
    counted = [f"{count} {reason.replace('_', ' ')}" for reason, count in account.low_quality_reasons.items() if count]
    return ", ".join(counted) or "none"


def file_hash(file: str) -> str:
    """SHA-256 of a data file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _data_facts(recipe: Recipe, training: Split, validation: Split | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "train": {"file": recipe.data.train, "sha256": file_hash(recipe.data.train), "rows": len(training.examples)}
    }
    if account := training.account:
        facts["train"]["cleaning"] = {
            "read": account.read,
            "duplicates": account.duplicates,
            "near_duplicates": account.near_duplicates,
            "low_quality": account.low_quality,
            "low_quality_reasons": dict(account.low_quality_reasons),
            "kept": account.kept,
            "labels": {name: dict(counts) for name, counts in account.labels.items()},
            "dropped": [f"{drop.file}:{drop.line}: {drop.reason} {drop.detail}".rstrip() for drop in account.dropped],
            "conflicts": [f"{one.file}:{one.line}: as {one.conflicts_with}" for one in account.conflicts],
        }
    if balanced := training.balanced:
        facts["train"]["balance"] = {"before": dict(balanced.before), "after": dict(balanced.after)}
    if validation and recipe.data.valid is None:
        facts["valid"] = {"held_out_of": recipe.data.train, "rows": len(validation.examples)}
    elif validation and recipe.data.valid:
        rows = len(validation.examples)
        facts["valid"] = {"file": recipe.data.valid, "sha256": file_hash(recipe.data.valid), "rows": rows}
    return facts


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
